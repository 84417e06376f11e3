//! Clients whose few bytes become many: what they may cost in one turn of their shard.

mod support;

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use pathcast::hub::command::Greeting;
use pathcast::hub::inbound::{Inbound, Who};
use pathcast::proto::close::{Cause, Close};
use pathcast::proto::frame::Kind;
use support::pod::{Pod, roomy};
use support::wait::until;
use support::wire;

const MIB: usize = 1 << 20;

/// How many send bombs, and how many each; all of them wait in kernels before the first is read.
const BOMBERS: usize = 40;
const BOMBS_EACH: usize = 50;

/// Whoever sends these without end is read in each turn, so they tell turns apart.
const TICK: &[u8] = &[b't'; 4000];

/// A turn has two chances to inflate: a mebibyte, then what one client more may have in one read, which
/// is a thousandfold of 4 KiB. Two ticks are at most a turn and a half apart.
const BETWEEN_TICKS_BYTES_MAX: usize = 3 * (1 + 4) * MIB;

/// Hears nothing while it is held, so that the shard stands still, and then notes what it hears.
#[derive(Default)]
struct Ears {
    hold: Mutex<()>,
    heard: Mutex<Vec<Heard>>,
    count: AtomicUsize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Bomb,
    Tick,
    Small,
}

impl Inbound for Ears {
    fn opened(&self, _: Who<'_>, _: Option<SocketAddr>, _: &Greeting) {}

    fn message(&self, _: Who<'_>, _: Kind, data: &[u8]) {
        let heard = match data.len() {
            MIB => Heard::Bomb,
            _ if data == TICK => Heard::Tick,
            _ => Heard::Small,
        };
        self.heard.lock().expect("nobody panicked").push(heard);
        self.count.fetch_add(1, Ordering::Release);
        drop(self.hold.lock().expect("nobody panicked"));
    }

    fn closed(&self, _: Who<'_>, _: Option<(&Close, Cause)>) {}
}

/// Lets others in beside those who send bombs, and has them `send` when the bombs lie there and none
/// was read; what is told then, up to where `is_enough`.
fn bombed(
    others: usize,
    others_deflate: bool,
    send: impl FnOnce(&mut [TcpStream]),
    is_enough: impl Fn(&[Heard]) -> bool,
) -> Vec<Heard> {
    let ears = Arc::<Ears>::default();
    let mut pod = Pod::start(roomy(1), ears.clone());
    pod.deflates = true;
    let mut bombers: Vec<_> = (0..BOMBERS).map(|_| pod.join(0).0).collect();
    pod.deflates = others_deflate;
    let mut others: Vec<_> = (0..others).map(|_| pod.join(1).0).collect();
    // Its place is behind theirs, so they are open when it is heard.
    let (mut last, _) = pod.join(2);
    let held = ears.hold.lock().expect("nobody panicked");
    last.write_all(&wire::frame(true, wire::TEXT, b"stand still")).expect("it is open");
    until("the shard stands still", || ears.count.load(Ordering::Acquire) == 1);
    let bomb = wire::deflate(&vec![0; MIB]);
    let bombs = wire::frame(true, wire::BINARY | wire::DEFLATED, &bomb).repeat(BOMBS_EACH);
    for bomber in &mut bombers {
        bomber.write_all(&bombs).expect("kernels take it");
    }
    send(&mut others);
    drop(held);
    let heard = || ears.heard.lock().expect("nobody panicked")[1..].to_vec();
    until("enough to judge", || is_enough(&heard()));
    heard()
}

#[test]
fn what_is_inflated_in_one_turn_is_bounded() {
    let mut ticks = 0;
    let tick_on = |clients: &mut [TcpStream]| {
        let client = &mut clients[0];
        client.set_nonblocking(true).expect("a socket can be non-blocking");
        let tick = wire::frame(true, wire::BINARY, TICK);
        let mut whole_bytes = 0;
        loop {
            match client.write(&tick.repeat(100)) {
                Ok(n) => whole_bytes += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        ticks = whole_bytes / tick.len();
    };
    let heard = bombed(1, false, tick_on, |heard| heard.len() > 300);
    let (mut bytes, mut most_bytes) = (0, 0);
    for one in &heard {
        match one {
            Heard::Bomb => bytes += MIB,
            Heard::Tick => (bytes, most_bytes) = (0, most_bytes.max(bytes)),
            Heard::Small => {}
        }
    }
    let told = heard.iter().filter(|heard| **heard == Heard::Tick).count();
    assert!(0 < told && told < ticks, "{told} of {ticks} ticks: there is one for each turn");
    assert!(most_bytes > 0, "bombs come between");
    assert!(most_bytes <= BETWEEN_TICKS_BYTES_MAX, "{} MiB", most_bytes / MIB);
}

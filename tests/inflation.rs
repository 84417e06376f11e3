//! Clients whose few bytes become many, or cost much: what they may do in one turn of their shard.

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

/// How many send bombs; all of them wait in kernels before the first is read.
const BOMBERS: usize = 40;

/// Whoever sends these without end is read in each turn, so they tell turns apart.
const TICK: &[u8] = &[b't'; 4000];

/// Ticks are at most a turn and a half apart, and a turn has two chances to inflate: a mebibyte, then
/// what one client more has in one read, which is a thousandfold of 4 KiB.
const BOMBS_MAX: usize = 3 * (1 + 4);

/// Each of these uses up a chance.
const EMPTY_BOMBS_MAX: usize = 3;

/// Hears nothing while it is held, so that the shard stands still, and then notes what it hears.
#[derive(Default)]
struct Ears {
    hold: Mutex<()>,
    heard: Mutex<Vec<Heard>>,
    count: AtomicUsize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// As large as a message may be.
    Bomb,
    Empty,
    Tick,
    Small,
}

impl Inbound for Ears {
    fn opened(&self, _: Who<'_>, _: Option<SocketAddr>, _: &Greeting) {}

    fn message(&self, _: Who<'_>, _: Kind, data: &[u8]) {
        let heard = match data.len() {
            MIB => Heard::Bomb,
            0 => Heard::Empty,
            _ if data == TICK => Heard::Tick,
            _ => Heard::Small,
        };
        self.heard.lock().expect("nobody panicked").push(heard);
        self.count.fetch_add(1, Ordering::Release);
        drop(self.hold.lock().expect("nobody panicked"));
    }

    fn closed(&self, _: Who<'_>, _: Option<(&Close, Cause)>) {}
}

/// Lets others in beside those who send `bombs`, and has them `send` when the bombs lie there and none
/// was read; what is told then, up to where `is_enough`.
fn bombed(
    bombs: &[u8],
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
    for bomber in &mut bombers {
        bomber.write_all(bombs).expect("kernels take it");
    }
    send(&mut others);
    drop(held);
    let heard = || ears.heard.lock().expect("nobody panicked")[1..].to_vec();
    until("enough to judge", || is_enough(&heard()));
    heard()
}

/// How many of `meant` are told in one turn, or a little more, while all send `bombs`.
fn most_in_a_turn(bombs: &[u8], meant: Heard, enough: usize) -> usize {
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
    let count = |heard: &[Heard], kind| heard.iter().filter(|heard| **heard == kind).count();
    let heard = bombed(bombs, 1, false, tick_on, |heard| count(heard, meant) >= enough);
    // When the ticks are over, turns cannot be told apart any more.
    let turns = heard.split(|heard| *heard == Heard::Tick).take(ticks);
    turns.map(|turn| count(turn, meant)).max().expect("split gives at least one")
}

/// A deflated binary message.
fn message(deflated: &[u8]) -> Vec<u8> {
    wire::frame(true, wire::BINARY | wire::DEFLATED, deflated)
}

#[test]
fn what_is_inflated_in_one_turn_is_bounded() {
    let bombs = message(&wire::deflate(&vec![0; MIB])).repeat(20);
    let most = most_in_a_turn(&bombs, Heard::Bomb, 10 * BOMBERS);
    assert!(0 < most && most <= BOMBS_MAX, "{most} of 1 MiB");
}

#[test]
fn what_is_inflated_to_nothing_is_bounded_as_well() {
    // Blocks without content, of which each takes its time all the same.
    let bomb = message(&[&[0, 0, 0, 0xff, 0xff].repeat(10_000)[..], &[0]].concat());
    let most = most_in_a_turn(&bomb, Heard::Empty, BOMBERS);
    assert!(0 < most && most <= EMPTY_BOMBS_MAX, "{most} of 50 kB that come to nothing");
}

#[test]
fn who_sends_little_does_not_wait_until_the_bombs_are_over() {
    const BOMBS_EACH: usize = 50;
    const QUIET: usize = 20;
    let say_hello = |clients: &mut [TcpStream]| {
        let hello = wire::frame(true, wire::TEXT | wire::DEFLATED, &wire::deflate(b"hello"));
        for client in clients {
            client.write_all(&hello).expect("it is open");
        }
    };
    let is_small = |heard: &&Heard| **heard == Heard::Small;
    let all = |heard: &[Heard]| heard.iter().filter(is_small).count() == QUIET;
    let bombs = message(&wire::deflate(&vec![0; MIB])).repeat(BOMBS_EACH);
    let heard = bombed(&bombs, QUIET, true, say_hello, all);
    let last = heard.iter().rposition(|heard| *heard == Heard::Small).expect("all were heard");
    let before = last + 1 - QUIET;
    // Of each bomber what one read takes, and once more when something of its comes in the meantime.
    let fair = 2 * 4 * (BOMBERS + 1);
    assert!(before <= fair, "{before} of {} bombs came first", BOMBERS * BOMBS_EACH);
}

//! A bug in the handling of one session ends that session, and nothing else.

mod support;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pathcast::hub::Config;
use pathcast::hub::command::Greeting;
use pathcast::hub::inbound::{Inbound, Who};
use pathcast::proto::close::{Cause, Close};
use pathcast::proto::frame::Kind;
use support::pod::{Pod, roomy};

/// Panics when a client says so.
#[derive(Default)]
struct Planted {
    ended: Mutex<Vec<(u16, Cause)>>,
}

impl Inbound for Planted {
    fn opened(&self, _: Who<'_>, _: Option<SocketAddr>, _: &Greeting) {}

    fn message(&self, _: Who<'_>, _: Kind, data: &[u8]) -> u8 {
        assert_ne!(data, b"boom", "the planted bug");
        0
    }

    fn closed(&self, _: Who<'_>, end: Option<(&Close, Cause)>) {
        let end = end.map(|(close, cause)| (close.code, cause));
        self.ended.lock().expect("nobody panics here").extend(end);
    }
}

fn masked(text: &[u8]) -> Vec<u8> {
    let len = u8::try_from(text.len()).expect("a short text");
    [&[0x81, 0x80 | len, 0, 0, 0, 0], text].concat()
}

#[test]
fn a_panic_in_one_session_closes_that_session_only() {
    let planted = Arc::new(Planted::default());
    let inbound: Arc<dyn Inbound> = planted.clone();
    let config = Config { close_timeout: Duration::from_millis(200), ..roomy(1) };
    let pod = Pod::start(config, inbound);
    let ((mut victim, _), (mut other, _)) = (pod.join(0), pod.join(0));

    victim.write_all(&masked(b"boom")).expect("it is open");
    let mut told = Vec::new();
    victim.read_to_end(&mut told).expect("it is closed in good order");
    assert_eq!(told[..4], [0x88, 16, 0x03, 0xf3], "close 1011: {told:?}");

    other.write_all(&masked(b"fine")).expect("it is open");
    assert!(pod.broadcast(0, "still here"));
    let mut heard = [0; 12];
    other.read_exact(&mut heard).expect("it is served");
    assert_eq!(&heard[2..], b"still here");
    assert_eq!(*planted.ended.lock().expect("nobody panics here"), [(1011, Cause::Server)]);
    assert_eq!(pod.metrics.panics.get(), 1);
    assert!(pod.hub.stuck().is_empty());
}

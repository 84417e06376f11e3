//! A bug in the handling of one session ends that session, and nothing else.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pathcast::hub::command::{Frames, Greeting};
use pathcast::hub::inbound::{Inbound, Who};
use pathcast::hub::socket::Socket;
use pathcast::hub::{Config, Hub};
use pathcast::metrics::Metrics;
use pathcast::proto::close::{Cause, Close};
use pathcast::proto::frame::{Kind, encode};
use pathcast::proto::path::Path;
use pathcast::proto::paths::{Configured, Pattern};
use pathcast::proto::session_id::PodId;

const DEADLINE: Duration = Duration::from_secs(20);

/// Panics when a client says so.
#[derive(Default)]
struct Planted {
    ended: Mutex<Vec<(u16, Cause)>>,
}

impl Inbound for Planted {
    fn opened(&self, _: Who<'_>, _: Option<SocketAddr>, _: &Greeting) {}

    fn message(&self, _: Who<'_>, _: Kind, data: &[u8]) {
        assert_ne!(data, b"boom", "the planted bug");
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
    let metrics = Arc::new(Metrics::new().expect("families have names of their own"));
    let config = Config {
        shards: 1,
        sessions_max: 10,
        message_bytes_max: 1 << 20,
        frame_bytes_max: 1 << 20,
        outbox_bytes_max: 1 << 20,
        outbox_total_bytes_max: 1 << 20,
        inbound_total_bytes_max: 1 << 20,
        mailbox_bytes_max: 1 << 20,
        slow_after: DEADLINE,
        close_timeout: Duration::from_millis(200),
    };
    let hub = Hub::start(PodId([1; 8]), config, &metrics, &inbound).expect("shards start");
    let path = Path::parse("/ws").expect("a good path");
    let configured = Pattern::parse("/ws").expect("a good pattern");
    let configured = Arc::new(Configured::new(configured));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let connect = || {
        let address = listener.local_addr().expect("it is bound");
        let client = TcpStream::connect(address).expect("it listens");
        client.set_read_timeout(Some(DEADLINE)).expect("a timeout can be set");
        let (server, _) = listener.accept().expect("it was connected to");
        server.set_nonblocking(true).expect("a socket can be non-blocking");
        let id = hub.place().expect("there is room");
        hub.reserve(id, path.clone(), configured.clone(), &metrics);
        hub.open(id, Socket::plain(server), Greeting::default());
        client
    };
    let (mut victim, mut other) = (connect(), connect());

    // An unfinished message makes the victim own something when the panic comes.
    victim.write_all(&masked(b"boom")).expect("it is open");
    let mut told = Vec::new();
    victim.read_to_end(&mut told).expect("it is closed in good order");
    assert_eq!(told[..4], [0x88, 16, 0x03, 0xf3], "close 1011: {told:?}");

    other.write_all(&masked(b"fine")).expect("it is open");
    let frames = Frames { payload: Some(encode(Kind::Text, b"still here")), whole: None };
    hub.broadcast(&path, &frames, &[0]);
    let mut heard = [0; 12];
    other.read_exact(&mut heard).expect("it is served");
    assert_eq!(&heard[2..], b"still here");
    assert_eq!(*planted.ended.lock().expect("nobody panics here"), [(1011, Cause::Server)]);
    assert_eq!(metrics.panics.get(), 1);
    assert!(hub.stuck().is_empty());
    hub.stop();
}

//! The clients' door with TLS: everything that works without, and what TLS adds to go wrong.

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use support::client::{Client, Heard, Request};
use support::gateway::{DOORS, Gateway, fail_to_start};
use support::tls::{Certificate, ask};
use support::wait::{eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{HandshakeKind, SupportedProtocolVersion};

struct Door {
    gateway: Gateway,
    certificate: Certificate,
    files: Files,
}

struct Files {
    _dir: tempfile::TempDir,
    cert: PathBuf,
    key: PathBuf,
}

impl Files {
    fn new() -> Files {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let (cert, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
        Files { _dir: dir, cert, key }
    }

    fn config(&self, more: &str) -> String {
        let (cert, key) = (self.cert.display(), self.key.display());
        let tls = format!("tls = {{ cert = \"{cert}\", key = \"{key}\" }}");
        let doors = DOORS.replacen("[api]", &format!("{tls}\n{more}\n[api]"), 1);
        format!(
            "{doors}[hub]\nshards = 1\n[[path]]\npath = \"/ws\"\n\
             [[path]]\npath = \"/ws/echo\"\necho = true\n\
             [[path]]\npath = \"/ws/drop-oldest\"\nslow = \"drop-oldest\"\n\
             [[path]]\npath = \"/ws/latest\"\nslow = \"latest\"\n"
        )
    }
}

impl Door {
    async fn open_with(more: &str) -> Door {
        let (files, certificate) = (Files::new(), Certificate::new());
        certificate.write(&files.cert, &files.key);
        let gateway = Gateway::start_whole(&files.config(more), &[]).await;
        Door { gateway, certificate, files }
    }

    async fn client(&self, path: &str, version: &'static SupportedProtocolVersion) -> Client {
        let stream = self.certificate.connect(self.gateway.clients, version).await;
        let stream = stream.expect("the certificate is right");
        ask(stream, &Request::upgrade(path)).await.expect("the path is open")
    }

    async fn broadcast(&self, payload: &str) {
        self.gateway.broadcast("/ws", json!({"payload": payload}).to_string()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_every_size_come_back() {
    let door = Door::open_with("").await;
    for version in [&TLS12, &TLS13] {
        let mut client = door.client("/ws/echo", version).await;
        for bytes in [0, 1, 125, 126, 16_383, 16_384, 16_385, 65_536, 1 << 20] {
            let text = "x".repeat(bytes);
            client.writer.text(&text).await;
            assert!(client.message().await == Heard::Text(text), "{bytes} bytes, {version:?}");
        }
        let many: Vec<u8> = (0..1000)
            .flat_map(|number: u32| {
                let text = number.to_string();
                support::wire::frame(true, support::wire::TEXT, text.as_bytes())
            })
            .collect();
        client.writer.raw(&many).await;
        for number in 0..1000 {
            client.expect_text(&number.to_string()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broadcasts_large_and_small_reach_everybody_in_order() {
    let door = Door::open_with("").await;
    let mut clients = [
        door.client("/ws", &TLS12).await,
        door.client("/ws", &TLS13).await,
        door.client("/ws", &TLS13).await,
    ];
    let large = "L".repeat(1 << 20);
    let publish = async {
        for number in 0..200 {
            door.broadcast(&number.to_string()).await;
            if number % 50 == 0 {
                door.broadcast(&large).await;
            }
        }
    };
    let hear = clients.iter_mut().map(async |client| {
        for number in 0..200 {
            client.expect_text(&number.to_string()).await;
            if number % 50 == 0 {
                assert!(client.message().await == Heard::Text(large.clone()), "after {number}");
            }
        }
    });
    futures_util::future::join(publish, futures_util::future::join_all(hear)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_catches_up_and_misses_nothing() {
    /// Together more than both kernels hold, less than that and an outbox.
    const COUNT: usize = 100;
    let door = Door::open_with("").await;
    let mut client = door.client("/ws", &TLS13).await;
    let payload = |number: usize| format!("{number:06}{}", "x".repeat(64 * 1024));
    for number in 0..COUNT {
        door.broadcast(&payload(number)).await;
    }
    for number in 0..COUNT {
        assert!(client.message().await == Heard::Text(payload(number)), "message {number}");
    }
    door.broadcast("in step again").await;
    client.expect_text("in step again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_for_a_slow_reader_are_whole_broadcasts() {
    const ENOUGH: u64 = 50;
    let door = Door::open_with("").await;
    let gateway = &door.gateway;
    for path in ["/ws/drop-oldest", "/ws/latest"] {
        let mut events = gateway.listen(path).await;
        let mut client = door.client(path, &TLS13).await;
        let session = events.session_from(client.local).await;
        let to = json!({"type": "websocket", "id": session});
        let series = format!("pathcast_undelivered_total{{path=\"{path}\",reason=\"dropped\"}}");
        let payload = |number: usize| format!("{number:06}{}", "x".repeat(32 * 1024));
        let (mut published, mut unicasts) = (0, 0);
        while gateway.counted(&series).await < ENOUGH {
            for _ in 0..20 {
                let msg = json!({"payload": payload(published)}).to_string();
                gateway.broadcast(path, msg).await;
                published += 1;
            }
            let msg = json!({"payload": format!("u{unicasts}"), "_session": to}).to_string();
            assert_eq!(gateway.publish(path, msg).await.status, 200);
            unicasts += 1;
            assert!(published < 3_000, "{path}: nothing is ever dropped");
        }
        let (mut next_unicast, mut next, mut heard) = (0, 0, 0);
        while next < published {
            let Heard::Text(text) = client.message().await else { panic!("{path}: it ended") };
            if let Some(number) = text.strip_prefix('u') {
                assert_eq!(number.parse(), Ok(next_unicast), "{path}: no unicast is lost");
                next_unicast += 1;
            } else {
                let number: usize = text[..6].parse().expect("digits");
                assert!(text == payload(number) && number >= next, "{path}: {number} is whole");
                (next, heard) = (number + 1, heard + 1);
            }
        }
        assert_eq!(heard + gateway.counted(&series).await, published as u64, "{path}");
        if next_unicast < unicasts {
            client.expect_text(&format!("u{next_unicast}")).await;
            next_unicast += 1;
        }
        assert_eq!(next_unicast, unicasts, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_is_answered_and_the_end_announced() {
    let door = Door::open_with("").await;
    for version in [&TLS12, &TLS13] {
        let mut events = door.gateway.listen("/ws").await;
        let mut client = door.client("/ws", version).await;
        let session = events.session_from(client.local).await;
        client.writer.close(Some(4321), "bye").await;
        assert_eq!(client.message().await.close_code(), Some(4321));
        client.reader.expect_orderly_end().await;
        let gone = events.disconnect_of(&session).await;
        assert_eq!((gone["code"].as_u64(), gone["cause"].as_str()), (Some(4321), Some("client")));

        let mut kicked = door.client("/ws", version).await;
        let session = events.session_from(kicked.local).await;
        let said = door.gateway.call("DELETE", &format!("/v1/sessions/{session}?code=4001"));
        assert_eq!(support::gateway::send(said).await.status, 200);
        assert_eq!(kicked.closing().await.close_code(), Some(4001));
        kicked.reader.expect_orderly_end().await;

        let mut wrong = door.client("/ws", version).await;
        wrong.writer.raw(&[0x83, 0x80, 0, 0, 0, 0]).await;
        assert_eq!(wrong.message().await.close_code(), Some(1002));
        wrong.reader.expect_orderly_end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_that_closes_still_gets_what_was_sent_before() {
    let door = Door::open_with("").await;
    let mut events = door.gateway.listen("/ws").await;
    let payload = |number: usize| format!("{number:06}{}", "x".repeat(64 * 1024));
    // Below and above what both kernels hold.
    for count in [1, 8, 100] {
        let mut client = door.client("/ws", &TLS13).await;
        let session = events.session_from(client.local).await;
        for number in 0..count {
            door.broadcast(&payload(number)).await;
        }
        client.writer.close(Some(1000), "").await;
        for number in 0..count {
            let heard = client.message().await;
            assert!(heard == Heard::Text(payload(number)), "message {number} of {count}");
        }
        assert_eq!(client.message().await.close_code(), Some(1000), "after {count}");
        client.reader.expect_orderly_end().await;
        assert_eq!(events.disconnect_of(&session).await["cause"], "client");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_certificate_is_taken_and_open_sessions_stay() {
    let door = Door::open_with("").await;
    let mut before = door.client("/ws", &TLS13).await;
    let clients = door.gateway.clients;

    // A certificate whose key is not there yet changes nothing.
    let next = Certificate::new();
    let stray = door.files.key.with_extension("stray");
    next.write(&door.files.cert, &stray);
    eventually("a word in the log", async || {
        door.gateway.log().contains("kept the old certificate").then_some(())
    })
    .await;
    assert!(door.certificate.connect(clients, &TLS13).await.is_ok());

    next.write(&door.files.cert, &door.files.key);
    let stream =
        eventually("the new certificate", async || next.connect(clients, &TLS13).await.ok()).await;
    let mut after = ask(stream, &Request::upgrade("/ws")).await.expect("the path is open");
    assert!(door.certificate.connect(clients, &TLS13).await.is_err(), "the old one is gone");
    door.broadcast("both").await;
    before.expect_text("both").await;
    after.expect_text("both").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_back_resumes_however_many_came_meanwhile() {
    /// More than a table of sessions would hold.
    const OTHERS: usize = 300;
    let door = Door::open_with("").await;
    for version in [&TLS12, &TLS13] {
        let visitor = door.certificate.visitor(version);
        let come = async || {
            let stream = visitor.connect(door.gateway.clients).await.expect("it is trusted");
            let kind = stream.get_ref().1.handshake_kind();
            // The ticket comes before the answer.
            ask(stream, &Request::upgrade("/ws")).await.expect("the path is open");
            kind
        };
        assert_eq!(come().await, Some(HandshakeKind::Full), "{version:?}");
        for _ in 0..OTHERS {
            door.client("/ws", version).await;
        }
        assert_eq!(come().await, Some(HandshakeKind::Resumed), "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_speaks_no_tls_is_turned_away() {
    let door = Door::open_with("").await;
    let mut open = door.client("/ws", &TLS13).await;
    for garbage in [&Request::upgrade("/ws").bytes()[..], b"\x16\x03\x01\x00\x05hello", b"\0"] {
        let mut socket = TcpStream::connect(door.gateway.clients).await.expect("it listens");
        socket.write_all(garbage).await.expect("a new connection takes bytes");
        socket.shutdown().await.expect("it can be half closed");
        let mut said = Vec::new();
        let _ = within("the end of the connection", socket.read_to_end(&mut said)).await;
        assert!(!said.starts_with(b"HTTP/1.1 101"), "{said:?}");
    }
    // Over TLS, HTTP's refusals are as ever.
    let stream = door.certificate.connect(door.gateway.clients, &TLS12).await;
    let answer = ask(stream.expect("the certificate is right"), &Request::upgrade("/none")).await;
    assert_eq!(answer.err().map(|answer| answer.status), Some(404));
    door.broadcast("undisturbed").await;
    open.expect_text("undisturbed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_handshake_that_does_not_end_is_ended() {
    let door = Door::open_with("handshake_timeout = \"1s\"").await;
    let mut open = door.client("/ws", &TLS13).await;
    let begun = Instant::now();
    let silent = TcpStream::connect(door.gateway.clients).await.expect("it listens");
    let mut half = TcpStream::connect(door.gateway.clients).await.expect("it listens");
    half.write_all(b"\x16\x03\x01\x02\x00\x01\x00").await.expect("it takes bytes");
    // TLS is done, HTTP never comes.
    let mute = door.certificate.connect(door.gateway.clients, &TLS13).await;
    let mut mute = mute.expect("the certificate is right");
    for mut socket in [silent, half] {
        let _ = within("the end", socket.read_to_end(&mut Vec::new())).await;
    }
    let _ = within("the end", mute.read_to_end(&mut Vec::new())).await;
    assert!(begun.elapsed() > Duration::from_millis(900), "too early: {:?}", begun.elapsed());
    door.broadcast("undisturbed").await;
    open.expect_text("undisturbed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_without_a_word_is_told() {
    let door = Door::open_with("").await;
    let mut events = door.gateway.listen("/ws").await;
    let client = door.client("/ws", &TLS13).await;
    let session = events.session_from(client.local).await;
    drop(client);
    let gone = events.disconnect_of(&session).await;
    assert_eq!((gone["code"].as_u64(), gone["cause"].as_str()), (Some(1006), Some("network")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_certificate_is_named_at_the_start() {
    let files = Files::new();
    let certificate = Certificate::new();
    let names = |said: &str, file: &PathBuf| said.contains(&file.display().to_string());

    let said = fail_to_start(&files.config("")).await;
    assert!(names(&said, &files.cert), "{said}");
    for garbage in
        ["", "garbage\n", "-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n"]
    {
        certificate.write(&files.cert, &files.key);
        std::fs::write(&files.cert, garbage).expect("a file can be written");
        let said = fail_to_start(&files.config("")).await;
        assert!(names(&said, &files.cert), "{garbage:?}: {said}");

        certificate.write(&files.cert, &files.key);
        std::fs::write(&files.key, garbage).expect("a file can be written");
        let said = fail_to_start(&files.config("")).await;
        assert!(names(&said, &files.key), "{garbage:?}: {said}");
    }
    certificate.write(&files.cert, &files.key);
    Certificate::new().write(&files.cert, &files.key.with_extension("other"));
    let said = fail_to_start(&files.config("")).await;
    assert!(names(&said, &files.cert) && names(&said, &files.key), "{said}");
}

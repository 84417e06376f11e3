//! Bad input of every kind, at both doors: whoever sent it is told what is wrong, memory stays
//! bounded, nobody else is disturbed.

mod support;

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::json;
use support::client::{Client, Heard, Request, ask};
use support::gateway::{Gateway, send};
use support::wait::within;
use support::wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATHS: &str = r#"
[limits]
message_bytes_max = "64KiB"
publish_bytes_max = "128KiB"
[[path]]
path = "/ws"
[[path]]
path = "/ws/other"
[[path]]
path = "/ws/echo"
echo = true
[[path]]
path = "/ws/rooms/{room}"
"#;
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
const PUBLISH_BYTES_MAX: usize = 128 * 1024;

async fn check_publish(gateway: &Gateway, target: &str, kind: &str, body: &str, status: u16) {
    let said = gateway.post(target, kind, body.to_owned()).await;
    let shown: String = body.chars().take(80).collect();
    assert_eq!(said.status, status, "{kind} {shown} to {target}: {}", said.text);
    if status >= 400 {
        let problem = said.headers.get("content-type").and_then(|kind| kind.to_str().ok());
        assert_eq!(problem, Some("application/problem+json"), "{shown} to {target}");
        let problem = said.json();
        assert_eq!(problem["status"], status, "{problem}");
        for member in ["type", "title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_is_told_what_is_wrong() {
    const JSON: &str = "application/json";
    let gateway = Gateway::start(PATHS).await;
    let gateway = &gateway;
    let mut events = gateway.listen("/ws/other").await;
    let (mut bystander, foreign) = gateway.open_known("/ws/other", &mut events).await;
    let own = "/v1/publish/ws";

    for not_json in ["", "x", "{", "{\"payload\":1}x", "{'payload':1}", "{\"payload\":NaN}"] {
        check_publish(gateway, own, JSON, not_json, 400).await;
    }
    for not_an_object in ["1", "null", "\"text\"", "[]"] {
        check_publish(gateway, own, JSON, not_an_object, 400).await;
    }
    for other_type in ["application/x-www-form-urlencoded", "image/png", "nonsense"] {
        check_publish(gateway, own, other_type, "{\"payload\":1}", 415).await;
    }
    for unknown in ["/ws/", "/WS", "/ws/none", "/ws/rooms/a/b", "/ws%2Fother", "/ws/rooms/"] {
        let target = format!("/v1/publish{unknown}");
        check_publish(gateway, &target, JSON, "{\"payload\":1}", 404).await;
    }

    let to = |session: serde_json::Value| json!({"payload": 1, "_session": session}).to_string();
    let unicast = |id: &str| to(json!({"type": "websocket", "id": id}));
    check_publish(gateway, own, JSON, &unicast(&foreign), 410).await;
    check_publish(gateway, own, JSON, &unicast(&"a".repeat(40)), 410).await;
    check_publish(gateway, own, JSON, &unicast("no id of ours"), 410).await;
    check_publish(gateway, own, JSON, &unicast(""), 410).await;
    check_publish(gateway, &format!("{own}?session={foreign}"), "text/plain", "x", 410).await;
    for malformed in [
        json!({}),
        json!(false),
        json!("text"),
        json!([]),
        json!({"type": "http", "id": foreign}),
        json!({"type": "websocket"}),
        json!({"type": "websocket", "id": null}),
        json!({"type": "websocket", "id": 7}),
    ] {
        check_publish(gateway, own, JSON, &to(malformed), 422).await;
    }
    let two = format!("{{\"payload\":1,\"_session\":null,\"_session\":{}}}", json!({}));
    check_publish(gateway, own, JSON, &two, 422).await;

    for nothing_to_send in ["{}", "{\"payload\":\"\"}", "{\"topic\":\"t\"}"] {
        check_publish(gateway, own, JSON, nothing_to_send, 422).await;
    }
    for bad_buffer in [json!([256]), json!([-1]), json!([1.5]), json!("%%%"), json!({})] {
        let msg = json!({"payload": {"type": "Buffer", "data": bad_buffer}}).to_string();
        check_publish(gateway, own, JSON, &msg, 422).await;
    }

    let around = "{\"payload\":\"\"}".len();
    let sized = |bytes: usize| json!({"payload": "x".repeat(bytes - around)}).to_string();
    assert_eq!(sized(PUBLISH_BYTES_MAX).len(), PUBLISH_BYTES_MAX);
    check_publish(gateway, own, JSON, &sized(PUBLISH_BYTES_MAX), 202).await;
    check_publish(gateway, own, JSON, &sized(PUBLISH_BYTES_MAX + 1), 413).await;
    let deep = format!("{{\"payload\":{}{}}}", "[".repeat(200), "]".repeat(200));
    check_publish(gateway, own, JSON, &deep, 400).await;

    gateway.broadcast("/ws/other", "{\"payload\":\"still there\"}").await;
    bystander.expect_text("still there").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_item_does_not_stop_the_batch() {
    let gateway = Gateway::start(PATHS).await;
    let mut client = gateway.open("/ws").await;
    let lines = [
        json!({"path": "/ws", "msg": {"payload": "first"}}).to_string(),
        "not json".into(),
        json!({"path": "/nowhere", "msg": {"payload": "x"}}).to_string(),
        json!({"path": "/ws", "msg": {"payload": ""}}).to_string(),
        json!({"path": "/ws"}).to_string(),
        json!({"path": "/ws", "msg": {"payload": "last"}}).to_string(),
    ];
    let said = gateway.post("/v1/publish", "application/x-ndjson", lines.join("\n")).await;
    assert_eq!(said.status, 200, "{}", said.text);
    let parse = |line| serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON");
    let results: Vec<_> = said.text.lines().map(parse).collect();
    let statuses: Vec<_> = results.iter().map(|result| result["status"].as_u64()).collect();
    assert_eq!(statuses[..4], [Some(202), Some(400), Some(404), Some(422)], "{}", said.text);
    assert!(statuses[4].is_some_and(|status| (400..500).contains(&status)), "{}", said.text);
    assert_eq!(statuses[5..], [Some(202)], "{}", said.text);
    client.expect_text("first").await;
    client.expect_text("last").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_cannot_publish_to_a_developers_machine() {
    let gateway = Gateway::start(PATHS).await;
    let publish = |name: &str, value: &str| {
        let url = format!("{}/v1/publish/ws", gateway.api);
        let request = gateway.http.post(url).header("content-type", "text/plain").body("x");
        send(request.header(name, value))
    };
    assert_eq!(publish("origin", "https://elsewhere.example").await.status, 403);
    assert_eq!(publish("origin", "null").await.status, 403);
    assert_eq!(publish("host", "elsewhere.example").await.status, 403);
    assert_eq!(publish("origin", &gateway.api).await.status, 202);
}

async fn check_refused(gateway: &Gateway, request: Request, status: u16) {
    match ask(gateway.clients, &request).await {
        Ok(_) => panic!("101 for {request:?}, not {status}"),
        Err(answer) => {
            assert_eq!(answer.status, status, "{answer:?} for {request:?}");
            assert_eq!(answer.body.trim_end().lines().count(), 1, "one line says why: {answer:?}");
            let version = (status == 426).then_some("13");
            assert_eq!(answer.header("sec-websocket-version"), version, "{answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_is_refused_with_its_status() {
    let gateway = Gateway::start(PATHS).await;
    let gateway = &gateway;
    let good = || Request::upgrade("/ws");
    let at = |target: &str| Request::upgrade(target);

    check_refused(gateway, good().without("Sec-WebSocket-Key"), 400).await;
    check_refused(gateway, good().header("Sec-WebSocket-Key", "c2hvcnQ="), 400).await;
    check_refused(gateway, good().header("Sec-WebSocket-Key", "not base64 at all!!!!!!!"), 400)
        .await;
    check_refused(gateway, good().body("hello"), 400).await;
    check_refused(gateway, good().header("Transfer-Encoding", "chunked"), 400).await;

    check_refused(gateway, good().header("Origin", "https://elsewhere.example"), 403).await;
    check_refused(gateway, good().header("Origin", "null"), 403).await;

    let unknown = ["/", "/WS", "/ws/", "//ws", "/w%73", "/ws/../ws", "/ws/rooms/", "/ws/rooms/a/b"];
    for target in unknown {
        check_refused(gateway, at(target), 404).await;
    }
    check_refused(gateway, at(&format!("/ws/rooms/{}", "x".repeat(129))), 404).await;
    check_refused(gateway, at("/ws/rooms/a+b"), 404).await;

    check_refused(gateway, good().method("POST"), 405).await;
    check_refused(gateway, good().method("PUT"), 405).await;

    check_refused(gateway, good().without("Upgrade").without("Connection"), 426).await;
    check_refused(gateway, good().header("Upgrade", "h2c"), 426).await;
    check_refused(gateway, good().header("Sec-WebSocket-Version", "8"), 426).await;

    for allowed in [
        good(),
        at("/ws?token=x&y"),
        at("/ws/rooms/a%2Fb"),
        good().header("Origin", "http://pathcast.test"),
        good().header("Origin", "https://pathcast.test:8443"),
        good().header("Upgrade", "WebSocket").header("Connection", "keep-alive, upgrade"),
    ] {
        assert!(ask(gateway.clients, &allowed).await.is_ok(), "{allowed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_at_all_is_answered_400() {
    let gateway = Gateway::start(PATHS).await;
    for garbage in ["hello\r\n\r\n", "GET /ws HTTP/1.1\r\nno colon\r\n\r\n", "\x16\x03\x01\0\0"] {
        let mut socket = TcpStream::connect(gateway.clients).await.expect("the door listens");
        socket.write_all(garbage.as_bytes()).await.expect("a new connection takes bytes");
        let mut said = Vec::new();
        let _ = within("the end of the connection", socket.read_to_end(&mut said)).await;
        let said = String::from_utf8_lossy(&said);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 400"), "{garbage:?}: {said}");
    }
    check_echo(&mut gateway.open("/ws/echo").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_does_not_end_is_ended() {
    let config = "[clients]\nlisten = \"127.0.0.1:0\"\nhandshake_timeout = \"1s\"\n\
                  [api]\nlisten = \"127.0.0.1:0\"\n[[path]]\npath = \"/ws/echo\"\necho = true\n";
    let gateway = Gateway::start_whole(config, &[]).await;
    let mut open = gateway.open("/ws/echo").await;
    let silent = TcpStream::connect(gateway.clients);
    let half = TcpStream::connect(gateway.clients);
    let dripping = TcpStream::connect(gateway.clients);
    let (silent, half, dripping) =
        futures_util::future::try_join3(silent, half, dripping).await.expect("the door listens");

    let begun = Instant::now();
    let silent = end_of(silent, None);
    let half = end_of(half, Some(("GET /ws/echo HTTP/1.1\r\nHost: a\r\n", false)));
    let dripping = end_of(dripping, Some(("GET /ws/echo HTTP/1.1\r\n", true)));
    let said = futures_util::future::join3(silent, half, dripping);
    let said = within("the end of three handshakes", said).await;
    assert!(begun.elapsed() > Duration::from_millis(900), "too early: {:?}", begun.elapsed());
    for said in [said.0, said.1, said.2] {
        assert!(!said.starts_with("HTTP/1.1 101"), "{said}");
    }
    check_echo(&mut open).await;
}

/// Sends the beginning of a request, and goes on with a byte now and then if it is to drip; what
/// came back before the connection ended.
async fn end_of(mut socket: TcpStream, begin: Option<(&str, bool)>) -> String {
    let (text, drips) = begin.unwrap_or(("", false));
    socket.write_all(text.as_bytes()).await.expect("a new connection takes bytes");
    let mut said = Vec::new();
    loop {
        let pause = Duration::from_millis(if drips { 50 } else { 60_000 });
        match tokio::time::timeout(pause, socket.read_buf(&mut said)).await {
            Ok(Ok(0) | Err(_)) => return String::from_utf8_lossy(&said).into_owned(),
            Ok(Ok(_)) => {}
            Err(_) => {
                let _ = socket.write_all(b"X").await;
            }
        }
    }
}

async fn check_echo(client: &mut Client) {
    client.writer.text("are you there?").await;
    client.expect_text("are you there?").await;
}

async fn check_closed(gateway: &Gateway, bytes: &[u8], code: u16) {
    let mut client = gateway.open("/ws/echo").await;
    client.writer.raw(bytes).await;
    let shown = &bytes[..bytes.len().min(40)];
    assert_eq!(client.closing().await.close_code(), Some(code), "after {shown:02x?}");
    assert_eq!(client.reader.next().await, Heard::End);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_breaks_the_protocol_is_closed_with_the_reason() {
    use wire::{BINARY, CLOSE, PING, TEXT, frame, head};
    let gateway = Gateway::start(PATHS).await;
    let gateway = &gateway;
    let mut bystander = gateway.open("/ws/echo").await;

    check_closed(gateway, &[0x81, 0x01, b'a'], 1002).await;
    check_closed(gateway, &[frame(true, TEXT, b"x")[0] | 0x40, 0x81, 0, 0, 0, 0, b'x'], 1002).await;
    for reserved in [3, 7, 11, 15] {
        check_closed(gateway, &frame(true, reserved, b""), 1002).await;
    }
    check_closed(gateway, &frame(false, PING, b""), 1002).await;
    check_closed(gateway, &frame(true, PING, &[0; 126]), 1002).await;
    check_closed(gateway, &frame(true, 0, b"of nothing"), 1002).await;
    let inside = [frame(false, TEXT, b"a"), frame(true, TEXT, b"b")].concat();
    check_closed(gateway, &inside, 1002).await;
    let long_form = [&[0x82, 0xfe, 0, 5, 0, 0, 0, 0][..], b"12345"].concat();
    check_closed(gateway, &long_form, 1002).await;
    check_closed(gateway, &frame(true, CLOSE, &[3]), 1002).await;
    check_closed(gateway, &frame(true, CLOSE, &1005u16.to_be_bytes()), 1002).await;

    check_closed(gateway, &frame(true, TEXT, b"\xc3\x28"), 1007).await;
    check_closed(gateway, &frame(true, TEXT, b"half \xe2\x82"), 1007).await;
    let halves = [frame(false, TEXT, b"a\xe2"), frame(true, 0, b"b")].concat();
    check_closed(gateway, &halves, 1007).await;
    check_closed(gateway, &frame(true, CLOSE, b"\x03\xe8\xff\xff"), 1007).await;

    let over = MESSAGE_BYTES_MAX as u64 + 1;
    check_closed(gateway, &head(true, BINARY, over), 1009).await;
    check_closed(gateway, &head(true, BINARY, u64::MAX >> 1), 1009).await;
    let half = vec![b'x'; MESSAGE_BYTES_MAX / 2];
    let parts = [frame(false, TEXT, &half), frame(false, 0, &half), frame(true, 0, b"x")];
    check_closed(gateway, &parts.concat(), 1009).await;

    check_echo(&mut bystander).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_exactly_the_limit_passes() {
    let gateway = Gateway::start(PATHS).await;
    let mut client = gateway.open("/ws/echo").await;
    let message = vec![b'x'; MESSAGE_BYTES_MAX];
    client.writer.binary(&message).await;
    assert_eq!(client.message().await, Heard::Binary(message.clone().into()));
    let parts: Vec<Vec<u8>> = message.chunks(1000).map(<[u8]>::to_vec).collect();
    client.writer.fragments(wire::TEXT, &parts).await;
    let text = String::from_utf8(message).expect("it is ASCII");
    assert_eq!(client.message().await, Heard::Text(text));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_announcements_of_large_messages_hold_no_memory() {
    const SOCKETS: usize = 10_000;
    /// For each socket a little more than what it really sent; not the mebibyte it announced.
    const GROWTH_BYTES_MAX: u64 = 64 << 20;
    let gateway =
        Gateway::start("[[path]]\npath = \"/ws\"\n[[path]]\npath = \"/ws/echo\"\necho = true\n");
    let gateway = gateway.await;
    let mut open = gateway.open("/ws/echo").await;
    check_echo(&mut open).await;
    let before = gateway.rss_bytes();

    let announcing = futures_util::stream::iter(0..SOCKETS).map(|_| async {
        let mut client = gateway.open("/ws").await;
        let begin = wire::head(true, wire::BINARY, 1 << 20);
        client.writer.raw(&[begin, vec![b'x'; 200]].concat()).await;
        client
    });
    let clients: Vec<Client> = announcing.buffer_unordered(64).collect().await;

    let mut most = 0;
    for _ in 0..50 {
        check_echo(&mut open).await;
        most = most.max(gateway.rss_bytes());
    }
    let growth = most.saturating_sub(before);
    assert!(growth < GROWTH_BYTES_MAX, "{growth} bytes for {SOCKETS} sockets");
    let mut late = gateway.open("/ws").await;
    gateway.broadcast("/ws", "{\"payload\":\"served\"}").await;
    late.expect_text("served").await;
    assert_eq!(clients.len(), SOCKETS);
    println!("{SOCKETS} announcements: {} KiB", growth / 1024);
}

//! What listeners hear: who came, what was said, how it ended; in order, with every member.

mod support;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::client::{Request, ask};
use support::events::Events;
use support::gateway::{Gateway, send};
use support::wait::within;
use support::wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATHS: &str = r#"
[limits]
message_bytes_max = "2MiB"
[[path]]
path = "/ws"
subprotocols = ["v1"]
[[path]]
path = "/ws/whole"
wholemsg = true
[[path]]
path = "/ws/rooms/{room}"
[[path]]
path = "/ws/beat"
heartbeat = "200ms"
[[path]]
path = "/ws/echo"
echo = true
"#;

async fn start() -> Gateway {
    Gateway::start(PATHS).await
}

#[track_caller]
fn check_members(event: &Value, expected: &[&str]) {
    let members: Vec<_> = event.as_object().expect("an object").keys().collect();
    assert_eq!(members, expected, "{event}");
    let time = event["time"].as_str().expect("a text");
    let shape: String =
        time.chars().map(|char| if char.is_ascii_digit() { '0' } else { char }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z", "RFC 3339 with milliseconds: {time}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_told_from_its_first_to_its_last() {
    let gateway = start().await;
    let mut events = gateway.listen("/ws").await;
    let request = Request::upgrade("/ws?token=a%20b&x")
        .header("Origin", "http://pathcast.test")
        .header("Sec-WebSocket-Protocol", "v1");
    let mut client = ask(gateway.clients, &request).await.expect("the path is open");

    let first = events.next().await;
    let connect = first.json();
    let session = first.text("session");
    check_members(
        &connect,
        &[
            "id",
            "type",
            "path",
            "session",
            "seq",
            "time",
            "pod",
            "remote",
            "subprotocol",
            "origin",
            "query",
        ],
    );
    assert_eq!((first.kind.as_str(), &first.id), ("connect", &format!("{session}-0")));
    assert_eq!(connect["id"], json!(first.id));
    assert_eq!((&connect["type"], &connect["seq"]), (&json!("connect"), &json!(0)));
    assert_eq!((&connect["path"], &connect["subprotocol"]), (&json!("/ws"), &json!("v1")));
    assert_eq!(connect["remote"], json!(client.local.to_string()));
    assert_eq!(connect["origin"], json!("http://pathcast.test"));
    assert_eq!(connect["query"], json!("token=a%20b&x"));

    client.writer.text("one").await;
    client.writer.ping(b"no event").await;
    client.writer.fragments(wire::TEXT, &[b"t".to_vec(), b"wo".to_vec()]).await;
    client.writer.binary(&[0, 255]).await;
    let buffer = json!({"type": "Buffer", "data": "AP8="});
    for (seq, payload) in [(1, json!("one")), (2, json!("two")), (3, buffer)] {
        let event = events.next().await;
        let message = event.json();
        check_members(&message, &["id", "type", "path", "session", "seq", "time", "pod", "msg"]);
        assert_eq!((event.kind.as_str(), &event.id), ("message", &format!("{session}-{seq}")));
        assert_eq!((&message["seq"], &message["id"]), (&json!(seq), &json!(event.id)));
        assert_eq!((&message["type"], &message["pod"]), (&json!("message"), &connect["pod"]));
        let own = json!({"type": "websocket", "id": session});
        assert_eq!(message["msg"], json!({"payload": payload, "_session": own}));
        assert!(message["time"].as_str() >= connect["time"].as_str());
    }

    client.writer.close(Some(4321), "well \"bye\"").await;
    let last = events.next().await;
    let gone = last.json();
    check_members(
        &gone,
        &["id", "type", "path", "session", "seq", "time", "pod", "code", "reason", "cause"],
    );
    assert_eq!((last.kind.as_str(), &last.id), ("disconnect", &format!("{session}-end")));
    assert_eq!((&gone["id"], &gone["seq"]), (&json!(last.id), &json!(4)));
    assert_eq!((&gone["code"], &gone["cause"]), (&json!(4321), &json!("client")));
    assert_eq!(gone["reason"], json!("well \"bye\""));

    let _bare = gateway.open("/ws").await;
    let connect = events.next().await.json();
    check_members(&connect, &["id", "type", "path", "session", "seq", "time", "pod", "remote"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wholemsg_client_says_msgs() {
    let gateway = start().await;
    let mut events = gateway.listen("/ws/whole").await;
    let (mut client, session) = gateway.open_known("/ws/whole", &mut events).await;
    let own = json!({"type": "websocket", "id": session});
    for (said, mut expected) in [
        (r#"{"payload":1,"topic":"t"}"#, json!({"payload": 1, "topic": "t"})),
        (r#" {"a":{"b":[]}} "#, json!({"a": {"b": []}})),
        (r#"{"payload":1,"_session":{"type":"websocket","id":"forged"}}"#, json!({"payload": 1})),
        ("{}", json!({})),
        ("[1,2]", json!({"payload": [1, 2]})),
        ("null", json!({"payload": null})),
        ("7", json!({"payload": 7})),
        (r#""text""#, json!({"payload": "text"})),
        ("not json", json!({"payload": "not json"})),
        ("", json!({"payload": ""})),
    ] {
        expected["_session"] = own.clone();
        client.writer.text(said).await;
        assert_eq!(events.next().await.json()["msg"], expected, "{said}");
        if !said.is_empty() {
            let not_json = said == "not json";
            client.writer.binary(said.as_bytes()).await;
            if not_json {
                expected["payload"] = json!({"type": "Buffer", "data": "bm90IGpzb24="});
            }
            assert_eq!(events.next().await.json()["msg"], expected, "binary {said}");
        }
    }
    client.writer.text(r#"{"payload":1.50e3,"big":12345678901234567890123}"#).await;
    let event = events.next().await;
    assert!(event.data.contains("1.50e3"), "{}", event.data);
    assert!(event.data.contains("12345678901234567890123"), "{}", event.data);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_listener_gets_everything_of_its_topic() {
    let gateway = start().await;
    let encoded = "/ws/rooms/%7Broom%7D";
    let mut all = [gateway.listen("/ws/rooms/{room}").await, gateway.listen(encoded).await];
    let mut one = [gateway.listen("/ws/rooms/1").await, gateway.listen("/ws/rooms/1").await];
    let mut nobody = gateway.listen("/ws/rooms/3").await;
    let (mut first, mut second) =
        (gateway.open("/ws/rooms/1").await, gateway.open("/ws/rooms/2").await);
    for number in 0..50 {
        first.writer.text(&number.to_string()).await;
        second.writer.text(&number.to_string()).await;
    }
    let heard = async |events: &mut Events, path: &str| {
        let mut payloads = Vec::new();
        while payloads.len() < 50 {
            let event = events.until(|event| event.text("path") == path).await;
            if event.kind == "message" {
                payloads.push(event.json()["msg"]["payload"].clone());
            }
        }
        payloads
    };
    let expected: Vec<_> = (0..50).map(|number| json!(number.to_string())).collect();
    for events in &mut one {
        assert_eq!(heard(events, "/ws/rooms/1").await, expected);
    }
    // Both rooms come mixed, each in its order.
    for events in &mut all {
        let mut rooms = [0, 0];
        while rooms != [51, 51] {
            let event = events.next().await;
            let at = usize::from(event.text("path") == "/ws/rooms/2");
            assert_eq!(event.json()["seq"], rooms[at]);
            rooms[at] += 1;
        }
    }
    let mut third = gateway.open("/ws/rooms/3").await;
    assert_eq!(nobody.next().await.text("path"), "/ws/rooms/3");
    // A listener that leaves is no matter to the others.
    drop(all);
    third.writer.text("x").await;
    assert_eq!(nobody.next().await.kind, "message");
    for (target, status) in [
        ("/v1/events/ws/none", 404),
        ("/v1/events/ws/rooms/a+b", 404),
        ("/v1/events/ws/rooms", 404),
        ("/v1/events/ws?from=0", 400),
    ] {
        assert_eq!(gateway.fetch(target).await.status, status, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_echo_path_tells_who_comes_and_goes_but_no_messages() {
    let gateway = start().await;
    let mut events = gateway.listen("/ws/echo").await;
    let (mut client, session) = gateway.open_known("/ws/echo", &mut events).await;
    client.writer.text("back").await;
    client.expect_text("back").await;
    client.writer.close(None, "").await;
    let gone = events.next().await;
    assert_eq!((gone.kind.as_str(), gone.id), ("disconnect", format!("{session}-end")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_begins_with_a_comment_at_once() {
    let gateway = start().await;
    let address = gateway.api.strip_prefix("http://").expect("a URL").to_owned();
    let mut socket = TcpStream::connect(address).await.expect("the door listens");
    let request = "GET /v1/events/ws HTTP/1.1\r\nHost: localhost\r\n\r\n";
    socket.write_all(request.as_bytes()).await.expect("a new connection takes bytes");
    let mut said = Vec::new();
    while !said.windows(3).any(|bytes| bytes == b":\n\n") {
        let read = within("a comment", socket.read_buf(&mut said)).await;
        assert!(read.is_ok_and(|read| read > 0), "{}", String::from_utf8_lossy(&said));
    }
    let said = String::from_utf8_lossy(&said).to_lowercase();
    assert!(said.starts_with("http/1.1 200") && said.contains("text/event-stream"), "{said}");
    assert!(said.contains("cache-control: no-store"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_has_its_cause() {
    let mut gateway = start().await;
    let mut events = gateway.listen("/ws").await;
    let mut told = async |session: &str, code: u16, cause: &str| {
        let gone = events.disconnect_of(session).await;
        assert_eq!((&gone["code"], &gone["cause"]), (&json!(code), &json!(cause)), "{gone}");
    };
    let open = async || {
        let mut events = gateway.listen("/ws").await;
        gateway.open_known("/ws", &mut events).await
    };

    let (mut client, session) = open().await;
    client.writer.close(None, "").await;
    told(&session, 1005, "client").await;
    let (mut client, session) = open().await;
    client.writer.hang_up().await;
    told(&session, 1006, "network").await;
    let (client, session) = open().await;
    drop(client);
    told(&session, 1006, "network").await;
    for (bytes, code, cause) in [
        (wire::frame(true, 3, b""), 1002, "protocol"),
        (wire::frame(true, wire::TEXT, b"\xff"), 1007, "protocol"),
        (wire::head(true, wire::TEXT, (2 << 20) + 1), 1009, "too_big"),
    ] {
        let (mut client, session) = open().await;
        client.writer.raw(&bytes).await;
        told(&session, code, cause).await;
        assert_eq!(client.message().await.close_code(), Some(code));
    }
    let (mut client, session) = open().await;
    let kick = gateway.call("DELETE", &format!("/v1/sessions/{session}?code=4002"));
    assert_eq!(send(kick).await.status, 200);
    told(&session, 4002, "kick").await;
    assert_eq!(client.closing().await.close_code(), Some(4002));

    let mut beats = gateway.listen("/ws/beat").await;
    let (mut silent, session) = gateway.open_known("/ws/beat", &mut beats).await;
    let gone = beats.disconnect_of(&session).await;
    assert_eq!(gone["cause"], "heartbeat", "{gone}");
    let close = silent.closing().await.close_code().map(u64::from);
    assert_eq!(gone["code"].as_u64(), close);

    let (mut client, session) = open().await;
    gateway.signal(Signal::TERM);
    told(&session, 1012, "drain").await;
    assert_eq!(client.closing().await.close_code(), Some(1012));
    assert_eq!(gateway.exit().await.code(), Some(0), "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_listener_is_told_what_it_missed() {
    /// More than a listener's queue and all buffers on the way hold, with a mebibyte each.
    const MESSAGES: u64 = 32;
    let gateway = start().await;
    let mut slow = gateway.listen("/ws").await;
    let mut quick = gateway.listen("/ws").await;
    let (mut client, _) = gateway.open_known("/ws", &mut quick).await;
    let payload = "x".repeat(1 << 20);
    for number in 1..=MESSAGES {
        client.writer.text(&payload).await;
        assert_eq!(quick.next().await.json()["seq"], number, "who listens misses nothing");
    }
    // Nothing happens any more: what was missed last is told all the same.
    let (mut next, mut gaps) = (0, 0u32);
    while next <= MESSAGES {
        let event = slow.next().await;
        match event.kind.as_str() {
            "gap" => {
                let missed = event.json()["missed"].as_u64().expect("a number");
                assert!(missed > 0);
                next += missed;
                gaps += 1;
            }
            _ => {
                assert_eq!(event.json()["seq"], next, "what is missing is told in its place");
                next += 1;
            }
        }
    }
    assert!(gaps > 0, "nothing was missed: this test has to send more");
    client.writer.close(Some(1000), "").await;
    assert_eq!(slow.next().await.json()["seq"], MESSAGES + 1);
}

//! "Connect to": pathcast as the client of a remote server, which may be there or not.

mod support;

use serde_json::{Value, json};
use support::client::Heard;
use support::events::Events;
use support::gateway::{DOORS, Gateway, Said, fail_to_start};
use support::redis::{Redis, free_port};
use support::remote::{Manner, Remote, What};
use support::tls::Certificate;
use support::wait::{eventually, poll_pause, within};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

/// Two paths, and one upstream at that URL.
fn config(url: &str, settings: &str) -> String {
    format!(
        "[[path]]\npath = \"/ws\"\n[[path]]\npath = \"/ws/whole/{{room}}\"\nwholemsg = true\n\
         [[upstream]]\nname = \"feed\"\nurl = \"{url}\"\nreconnect_min = \"20ms\"\n\
         reconnect_max = \"100ms\"\n{settings}"
    )
}

async fn start(remote: &Remote, settings: &str) -> Gateway {
    Gateway::start(&config(&remote.url(), settings)).await
}

/// As [`start`], and waits until it is connected.
async fn connect(remote: &Remote, settings: &str) -> Gateway {
    let gateway = start(remote, settings).await;
    is(&gateway, "connected").await;
    gateway
}

/// What is known of the upstream.
async fn state(gateway: &Gateway) -> Value {
    gateway.fetch("/v1/upstreams").await.json()["upstreams"][0].take()
}

/// Waits for that state.
async fn is(gateway: &Gateway, word: &str) -> Value {
    eventually(&format!("an upstream that is {word}"), async || {
        Some(state(gateway).await).filter(|state| state["state"] == word)
    })
    .await
}

/// Waits until it is not connected for that reason.
async fn is_away(gateway: &Gateway, why: &str) {
    eventually(&format!("an upstream that is away: {why}"), async || {
        let state = state(gateway).await;
        state["why"].as_str().is_some_and(|text| text.contains(why)).then_some(())
    })
    .await;
}

async fn send(gateway: &Gateway, msg: impl Into<String>) -> Said {
    gateway.post("/v1/upstreams/feed", "application/json", msg.into()).await
}

#[track_caller]
fn verdict(said: &Said) -> (u16, String) {
    let json = said.json();
    let word = json["result"].as_str().or(json["type"].as_str()).unwrap_or_default();
    (said.status, word.to_owned())
}

async fn listen(gateway: &Gateway) -> Events {
    let request = gateway.call("GET", "/v1/upstreams/feed/events");
    let response = within("a stream of events", request.send()).await.expect("an answer");
    assert_eq!(response.status(), 200);
    Events::new(response)
}

fn text(text: &str) -> Message {
    Message::text(text)
}

#[tokio::test]
async fn payloads_go_out_as_frames_and_frames_come_in_as_events() {
    let remote = Remote::start(Manner::Refuse(503)).await;
    let gateway = start(&remote, "").await;
    let mut events = listen(&gateway).await;
    remote.behave(Manner::Open);
    is(&gateway, "connected").await;
    let connect = events.next().await;
    assert_eq!(connect.kind, "connect");
    assert_eq!(connect.json()["remote"], remote.addr.to_string());
    assert_eq!(verdict(&send(&gateway, r#"{"payload":"hello"}"#).await), (200, "sent".into()));
    assert_eq!(verdict(&send(&gateway, r#"{"payload":[1.50, 2]}"#).await).0, 200);
    let buffer = r#"{"payload":{"type":"Buffer","data":[0,255]}}"#;
    assert_eq!(verdict(&send(&gateway, buffer).await).0, 200);
    let raw = gateway.post("/v1/upstreams/feed", "application/octet-stream", vec![7]).await;
    assert_eq!(raw.status, 200);
    let said = remote.wait_said(4).await;
    let binary = |bytes: &[u8]| Message::binary(bytes.to_vec());
    assert_eq!(said, [text("hello"), text("[1.50,2]"), binary(&[0, 255]), binary(&[7])]);

    remote.say("word");
    remote.say(vec![1, 2]);
    let word = events.until(|event| event.kind == "message").await;
    let json = word.json();
    assert_eq!((&json["upstream"], &json["msg"]), (&json!("feed"), &json!({"payload": "word"})));
    assert_eq!(json["session"], Value::Null);
    assert_eq!(word.id, format!("feed-{}-{}", word.text("pod"), json["seq"]));
    let binary = events.next().await.json();
    assert_eq!(binary["msg"]["payload"], json!({"type": "Buffer", "data": "AQI="}));
    let state = state(&gateway).await;
    assert_eq!((&state["counts"]["received"], &state["counts"]["sent"]), (&json!(2), &json!(4)));
    assert_eq!(gateway.counted("pathcast_upstream_connected{name=\"feed\"}").await, 1);
}

#[tokio::test]
async fn whole_msgs_go_both_ways_and_nobody_slips_in_a_session() {
    let remote = Remote::start(Manner::Open).await;
    let gateway = connect(&remote, "wholemsg = true\nto = \"/ws/whole/1\"\n").await;
    let mut events = listen(&gateway).await;
    let mut client = gateway.open("/ws/whole/1").await;
    assert_eq!(send(&gateway, r#"{"topic":"a","payload":1.0}"#).await.status, 200);
    assert_eq!(remote.wait_said(1).await, [text(r#"{"topic":"a","payload":1.0}"#)]);
    remote.say(r#"{"topic":"b","_session":{"type":"websocket","id":"x"},"payload":2.0}"#);
    client.expect_text(r#"{"topic":"b","payload":2.0}"#).await;
    remote.say("[1, 2]");
    client.expect_text(r#"{"payload":[1,2]}"#).await;
    remote.say("no json");
    client.expect_text(r#"{"payload":"no json"}"#).await;
    let msg = events.next().await.json()["msg"].take();
    assert_eq!(msg, json!({"topic": "b", "payload": 2.0}));
}

#[tokio::test]
async fn what_the_remote_sends_is_broadcast_in_its_order() {
    let remote = Remote::start(Manner::Open).await;
    let gateway = connect(&remote, "to = \"/ws\"\n").await;
    let mut client = gateway.open("/ws").await;
    for number in 0..5_000 {
        remote.say(number.to_string());
    }
    for number in 0..5_000 {
        client.expect_text(&number.to_string()).await;
    }
    remote.say(vec![3]);
    assert_eq!(client.message().await, Heard::Binary(vec![3].into()));
    let counted = "pathcast_published_total{path=\"/ws\",source=\"upstream\"}";
    assert_eq!(gateway.counted(counted).await, 5_001);
}

#[tokio::test]
async fn the_handshake_says_what_the_settings_say() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let token = dir.path().join("token");
    std::fs::write(&token, "first\n").expect("a temporary file can be written");
    let remote = Remote::start(Manner::Open).await;
    let settings = format!(
        "headers = [\"X-Api-Key: 12: 3\"]\nsubprotocols = [\"v2\", \"v1\"]\ntoken_file = {token:?}\n"
    );
    let gateway = start(&remote, &settings).await;
    let mut events = listen(&gateway).await;
    let check = |seen: support::remote::Seen, expected_token: &str| {
        let What::Opened(target, headers) = seen.what else { panic!("{seen:?}") };
        let of = |name: &str| {
            let found = headers.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        assert_eq!(target, "/feed?key=a%20b");
        assert_eq!(of("host"), format!("localhost:{}", remote.addr.port()));
        assert_eq!(of("x-api-key"), "12: 3");
        assert_eq!(of("authorization"), format!("Bearer {expected_token}"));
        assert_eq!(of("sec-websocket-protocol"), "v2, v1");
        assert_eq!(of("pathcast-upstream-epoch"), "1");
    };
    check(remote.wait_opened(1).await, "first");
    std::fs::write(&token, "second").expect("a temporary file can be written");
    remote.say(Message::Close(None));
    check(remote.wait_opened(2).await, "second");
    // The listener may have come after the first connection.
    let connect = events.until(|event| event.kind == "connect").await;
    assert_eq!(connect.json()["subprotocol"], "v1");
}

#[tokio::test]
async fn without_a_token_that_can_be_sent_nobody_is_asked() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let token = dir.path().join("token");
    let write = |text: &str| {
        std::fs::write(&token, text).expect("a temporary file can be written");
    };
    let remote = Remote::start(Manner::Open).await;
    write("\n");
    let gateway = start(&remote, &format!("token_file = {token:?}\n")).await;
    is_away(&gateway, "cannot be used: it is empty").await;
    write(&"x".repeat((8 << 10) + 1));
    is_away(&gateway, "cannot be used: it is larger than 8192 bytes").await;
    std::fs::remove_file(&token).expect("it is there");
    is_away(&gateway, "cannot be used: No such file").await;
    assert_eq!(remote.opened(), 0);
    let whole = "x".repeat(8 << 10);
    write(&whole);
    let What::Opened(_, headers) = remote.wait_opened(1).await.what else { panic!("no handshake") };
    assert!(headers.contains(&("authorization".to_owned(), format!("Bearer {whole}"))));
}

#[tokio::test]
async fn what_cannot_be_sent_yet_waits_in_order_up_to_its_bound() {
    let port = free_port();
    let url = format!("ws://127.0.0.1:{port}/");
    let gateway = Gateway::start(&config(&url, "queue_bytes_max = \"10kB\"\n")).await;
    is_away(&gateway, "cannot connect").await;
    let payload = |number: usize| format!("{number} {}", "x".repeat(900));
    let mut queued = Vec::new();
    let refused = loop {
        let body = json!({"payload": payload(queued.len())}).to_string();
        match verdict(&send(&gateway, body).await) {
            (202, word) if word == "queued" => queued.push(text(&payload(queued.len()))),
            other => break other,
        }
    };
    assert_eq!(refused, (503, "/problems/unavailable".into()));
    assert_eq!(queued.len(), 10);
    let state = state(&gateway).await;
    assert_eq!((&state["counts"]["waiting"], &state["state"]), (&json!(10), &json!("connecting")));
    let refused = "pathcast_upstream_messages_total{name=\"feed\",result=\"refused\"}";
    assert_eq!(gateway.counted(refused).await, 1);

    let remote = Remote::start_at(&format!("127.0.0.1:{port}"), Manner::Open, None).await;
    assert_eq!(remote.wait_said(10).await, queued);
    eventually("a queue that is empty", async || {
        let bytes = "pathcast_upstream_waiting_bytes{name=\"feed\"}";
        (gateway.counted(bytes).await == 0).then_some(())
    })
    .await;
    assert_eq!(verdict(&send(&gateway, r#"{"payload":1}"#).await).0, 200);
}

#[tokio::test]
async fn a_remote_that_refuses_is_asked_again_and_it_is_told_why() {
    let remote = Remote::start(Manner::Refuse(401)).await;
    let gateway = start(&remote, "").await;
    is_away(&gateway, "answered 401").await;
    remote.behave(Manner::Garbage);
    is_away(&gateway, "handshake failed").await;
    remote.behave(Manner::Close(4_001));
    is_away(&gateway, "closed with 4001: go away").await;
    assert_eq!(verdict(&send(&gateway, r#"{"payload":1}"#).await).0 / 100, 2);
    remote.behave(Manner::Open);
    is(&gateway, "connected").await;
    let count = gateway.log().matches("not connected: the handshake was answered 401").count();
    assert_eq!(count, 1, "it is told once");
    let failed = "pathcast_upstream_dials_total{name=\"feed\",result=\"failed\"}";
    assert!(gateway.counted(failed).await >= 2);
}

#[tokio::test]
async fn a_remote_that_closes_at_once_is_not_asked_in_a_tight_loop() {
    let remote = Remote::start(Manner::Close(1_000)).await;
    let settings =
        "[[upstream]]\nname = \"slow\"\nreconnect_min = \"10s\"\nreconnect_max = \"1h\"\n";
    let settings = format!("{settings}url = \"{}\"\n", remote.url());
    let gateway = start(&remote, &settings).await;
    // The first one's waits are 100 ms at most, so ten of them are many of the second one's.
    remote.wait_opened(12).await;
    let opened = "pathcast_upstream_dials_total{name=\"slow\",result=\"opened\"}";
    let opened = gateway.counted(opened).await;
    assert!((1..=6).contains(&opened), "{opened}");
}

#[tokio::test]
async fn a_remote_that_closes_and_does_not_hang_up_is_left_and_what_is_published_waits() {
    let violation = (1002, "Protocol violation", "protocol");
    for (code, (told, reason, cause)) in
        [(1_000, (1_000, "bye", "client")), (1_005, violation), (999, violation)]
    {
        let remote = Remote::start(Manner::Refuse(503)).await;
        let gateway = start(&remote, "heartbeat = \"off\"\n").await;
        let mut events = listen(&gateway).await;
        remote.behave(Manner::Linger(code));
        remote.wait_opened(1).await;
        remote.behave(Manner::Refuse(503));
        let end = events.until(|event| event.kind == "disconnect").await.json();
        assert_eq!((&end["code"], &end["cause"]), (&json!(told), &json!(cause)), "{code}: {end}");
        assert_eq!(end["reason"], reason, "{code}");
        assert_eq!(gateway.counted("pathcast_upstream_connected{name=\"feed\"}").await, 0);
        let queued = (202, "queued".into());
        assert_eq!(verdict(&send(&gateway, r#"{"payload":"late"}"#).await), queued, "{code}");
        eventually("the end of the first connection", async || {
            let seen = remote.seen();
            seen.iter().any(|seen| seen.what == What::Ended).then_some(())
        })
        .await;
        remote.behave(Manner::Open);
        assert_eq!(remote.wait_said(1).await, [text("late")], "{code}");
        assert!(gateway.log().contains("not connected: it closed"), "{}", gateway.log());
    }
}

#[tokio::test]
async fn what_is_too_big_ends_the_connection_and_another_one_follows() {
    let remote = Remote::start(Manner::Open).await;
    let config = config(&remote.url(), "");
    let config = format!("[limits]\nmessage_bytes_max = \"1000B\"\n{config}");
    let gateway = Gateway::start(&config).await;
    is(&gateway, "connected").await;
    let mut events = listen(&gateway).await;
    remote.say("x".repeat(1_000));
    let first = events.next().await.json();
    assert_eq!(first["msg"]["payload"].as_str().map(str::len), Some(1_000));
    remote.say("x".repeat(1_001));
    let end = events.next().await.json();
    assert_eq!((&end["type"], &end["code"]), (&json!("disconnect"), &json!(1009)));
    assert_eq!(end["cause"], "too_big");
    remote.wait_opened(2).await;
    let close = remote.said().into_iter().find_map(|message| match message {
        Message::Close(Some(frame)) => Some(u16::from(frame.code)),
        _ => None,
    });
    assert_eq!(close, Some(1009));
    assert_eq!(events.next().await.kind, "connect");
}

#[tokio::test]
async fn pings_are_answered_and_silence_ends_a_connection() {
    let remote = Remote::start(Manner::Open).await;
    let gateway = connect(&remote, "heartbeat = \"300ms\"\nto = \"/ws\"\n").await;
    let mut client = gateway.open("/ws").await;
    let part = |text: &'static str, kind, is_last| {
        Message::Frame(Frame::message(text, OpCode::Data(kind), is_last))
    };
    remote.say(part("one ", Data::Text, false));
    remote.say(Message::Ping(vec![7].into()));
    remote.say(part("mess", Data::Continue, false));
    remote.say(part("age", Data::Continue, true));
    client.expect_text("one message").await;
    client.leave().await;
    remote.say(Message::Ping(vec![1, 2].into()));
    let pong = Message::Pong(vec![1, 2].into());
    eventually("a pong", async || remote.said().contains(&pong).then_some(())).await;
    // It answers pings, so it lives.
    eventually("three pings", async || {
        let pings = remote.said().into_iter().filter(|message| message.is_ping());
        (pings.count() >= 3).then_some(())
    })
    .await;
    assert_eq!(remote.opened(), 1);
    remote.behave(Manner::Deaf);
    remote.say(Message::Close(None));
    remote.wait_opened(2).await;
    is_away(&gateway, "two heartbeats").await;
}

#[tokio::test]
async fn a_remote_that_reads_nothing_makes_msgs_wait_and_then_refused() {
    let remote = Remote::start(Manner::Deaf).await;
    let gateway = connect(&remote, "heartbeat = \"off\"\nqueue_bytes_max = \"1MiB\"\n").await;
    let payload = "x".repeat(500_000);
    let mut statuses = Vec::new();
    while statuses.last() != Some(&503) {
        let body = json!({"payload": payload}).to_string();
        statuses.push(send(&gateway, body).await.status);
        assert!(statuses.len() < 200, "{statuses:?}");
    }
    assert!(statuses.contains(&200) && statuses.contains(&202), "{statuses:?}");
    remote.behave(Manner::Open);
    let taken = statuses.iter().filter(|&&status| status != 503).count();
    // What was taken arrives, or all that was written before the remote was given up.
    eventually("what was taken", async || {
        let state = state(&gateway).await;
        let count = |name: &str| state["counts"][name].as_u64().unwrap_or(0);
        (count("sent") + count("lost") >= taken as u64).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_server_with_tls_is_believed_by_its_authority_alone() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let file = |name: &str| dir.path().join(name);
    Certificate::new().write(&file("tls.crt"), &file("tls.key"));
    Certificate::new().write(&file("other.crt"), &file("other.key"));
    let remote = Remote::start_secured(&file("tls.crt"), &file("tls.key")).await;
    let ca = format!("ca = {:?}\n", file("tls.crt"));
    let gateway = connect(&remote, &ca).await;
    assert_eq!(send(&gateway, r#"{"payload":"hello"}"#).await.status, 200);
    assert_eq!(remote.wait_said(1).await, [text("hello")]);
    let gateway = connect(&remote, "verify = false\n").await;
    assert_eq!(send(&gateway, r#"{"payload":"hello"}"#).await.status, 200);
    for settings in [format!("ca = {:?}\n", file("other.crt")), String::new()] {
        let gateway = start(&remote, &settings).await;
        is_away(&gateway, "TLS failed").await;
    }
}

#[tokio::test]
async fn settings_that_cannot_work_are_told() {
    for (settings, expected) in [
        ("url = \"http://a/\"", "begins with ws:// or wss://"),
        ("url = \"ws://user@a/\"", "no user and no password"),
        ("url = \"ws://a:99999/\"", ":9:7: a port is a number from 1 to 65535"),
        ("url = \"ws://a:0/\"", ":9:7: a port is"),
        ("url = \"ws://a:/\"", ":9:7: a port is"),
        ("url = \"ws://a/#b\"", ":9:7: a fragment is never sent"),
        ("url = \"ws://a/\"\nverify = false", "says nothing without TLS"),
        ("url = \"ws://a/\"\nca = \"x.pem\"", "says nothing without TLS"),
        ("url = \"wss://a/\"\nca = \"missing.pem\"", "cannot be read"),
        ("url = \"ws://a/\"\nto = \"/none\"", "no path that clients can open"),
        ("url = \"ws://a/\"\nheaders = [\"x\"]", "is not a header"),
        ("url = \"ws://a/\"\nheaders = [\"Host: b\"]", "belongs to the handshake"),
        ("url = \"ws://a/\"\nheaders = [\"Content-Length: 5\"]", "belongs to the handshake"),
        ("url = \"ws://a/\"\nheaders = [\"transfer-encoding: chunked\"]", "belongs to the handsh"),
        ("url = \"ws://a/\"\nheaders = [\"Sec-WebSocket-Key: a\"]", "belongs to the handshake"),
        (
            "url = \"ws://a/\"\ntoken_file = \"x\"\nheaders = [\"Authorization: Basic eA==\"]",
            "`token_file` makes this header",
        ),
        ("url = \"ws://a/\"\nbackend = { stream = true }", "streams are kept in Redis"),
        ("url = \"ws://a/\"\nreconnect_min = \"1m\"", "longer than reconnect_max"),
        ("url = \"ws://a/\"\n[[upstream]]\nname = \"a\"\nurl = \"ws://b/\"", "another upstream"),
    ] {
        let config =
            format!("{DOORS}[[path]]\npath = \"/ws\"\n[[upstream]]\nname = \"a\"\n{settings}\n");
        let said = fail_to_start(&config).await;
        assert!(said.contains(expected), "{settings}: {said}");
    }
    let config = "[[path]]\npath = \"/ws\"\n[[upstream]]\nname = \"a/b\"\nurl = \"ws://a/\"\n";
    let said = fail_to_start(&format!("{DOORS}{config}")).await;
    assert!(said.contains("cannot name an upstream"), "{said}");
}

#[tokio::test]
async fn a_pod_that_leaves_writes_what_waits_and_says_good_bye() {
    let remote = Remote::start(Manner::Open).await;
    let mut gateway = connect(&remote, "").await;
    assert_eq!(send(&gateway, r#"{"payload":"last"}"#).await.status, 200);
    gateway.signal(rustix::process::Signal::TERM);
    assert!(gateway.exit().await.success());
    let said = remote.wait_said(2).await;
    assert_eq!(said[0], text("last"));
    let Message::Close(Some(frame)) = &said[1] else { panic!("{said:?}") };
    assert_eq!(u16::from(frame.code), 1001);
}

#[tokio::test]
async fn with_redis_any_pod_sends_and_hears_and_streams_have_it_all() {
    let server = Redis::start();
    let remote = Remote::start(Manner::Open).await;
    let settings = "to = \"/ws\"\nbackend = { stream = true }\n";
    let config =
        format!("[broker]\nurl = \"{}\"\n{}", server.url(), config(&remote.url(), settings));
    let pods = [Gateway::start(&config).await, Gateway::start(&config).await];
    for pod in &pods {
        pod.ready().await;
        is(pod, "connected").await;
    }
    let mut clients = Vec::new();
    let mut listeners = Vec::new();
    for pod in &pods {
        clients.push(pod.open("/ws").await);
        listeners.push(listen(pod).await);
    }
    let mut expected = Vec::new();
    for number in 0..20 {
        let pod = &pods[number % 2];
        let body = json!({"payload": format!("http {number}")}).to_string();
        assert_eq!(verdict(&send(pod, body).await), (200, "sent".into()));
        expected.push(text(&format!("http {number}")));
    }
    assert_eq!(server.publish("pathcast:up:feed", br#"{"payload":"redis"}"#), 1);
    expected.push(text("redis"));
    assert_eq!(remote.wait_said(21).await, expected);
    server
        .publish("pathcast:up:feed", br#"{"payload":1,"_session":{"type":"websocket","id":"x"}}"#);
    server.publish("pathcast:up:feed", b"nonsense");
    eventually("two messages that are none", async || {
        let mut count = 0;
        for pod in &pods {
            count += pod.counted("pathcast_broker_malformed_total").await;
        }
        (count == 2).then_some(())
    })
    .await;

    for number in 0..50 {
        remote.say(number.to_string());
    }
    for (client, events) in clients.iter_mut().zip(&mut listeners) {
        for number in 0..50 {
            client.expect_text(&number.to_string()).await;
            let event = events.next().await.json();
            assert_eq!(event["msg"]["payload"], number.to_string());
        }
    }
    let streams = server.command(&["--raw", "KEYS", "pathcast:in:feed:*"]);
    assert_eq!(streams.lines().count(), 1, "one upstream is one partition: {streams}");
    eventually("all events in a stream", async || {
        let length: u64 = server.command(&["XLEN", &streams]).parse().expect("a number");
        (length == 51).then_some(())
    })
    .await;
    let (first, second) = (state(&pods[0]).await, state(&pods[1]).await);
    assert_eq!(first, second);
    assert_eq!(remote.opened(), 1);
    // The holder leaves: its disconnect, then the next one's connect.
    let holder = pods.iter().find(|pod| pod.log().contains("this pod holds the upstream"));
    holder.expect("one holds it").signal(rustix::process::Signal::TERM);
    remote.wait_opened(2).await;
    eventually("all events in a stream", async || {
        let length: u64 = server.command(&["XLEN", &streams]).parse().expect("a number");
        (length == 53).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_remote_that_floods_is_read_no_faster_than_redis_takes_it() {
    let server = Redis::start();
    let remote = Remote::start(Manner::Open).await;
    let config = format!(
        "[limits]\noutbox_bytes_max = \"64MiB\"\n[broker]\nurl = \"{}\"\n{}",
        server.url(),
        config(&remote.url(), "to = \"/ws\"\n")
    );
    let gateway = Gateway::start(&config).await;
    gateway.ready().await;
    is(&gateway, "connected").await;
    let mut client = gateway.open("/ws").await;
    // For less than a lease, which would be lost.
    server.signal(rustix::process::Signal::STOP);
    let payload = "x".repeat(100_000);
    for number in 0..300 {
        remote.say(format!("{number} {payload}"));
    }
    let received = "pathcast_upstream_messages_total{name=\"feed\",result=\"received\"}";
    eventually("a window that is full", async || {
        (gateway.counted(received).await >= 11).then_some(())
    })
    .await;
    for _ in 0..50 {
        poll_pause().await;
        let received = gateway.counted(received).await;
        assert!(received < 50, "{received} are read though Redis takes nothing");
    }
    server.signal(rustix::process::Signal::CONT);
    assert!(gateway.rss_bytes() < 100 << 20, "{}", gateway.rss_bytes());
    for number in 0..300 {
        let Heard::Text(text) = client.message().await else { panic!("no text") };
        assert!(text.starts_with(&format!("{number} ")), "{number}: {:.20}", text);
    }
}

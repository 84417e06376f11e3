//! Node-RED's own websocket nodes: in "Connect to" mode they are clients like any other; in "Listen on" mode
//! they are a server that pathcast connects to.

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::client::{Client, Heard};
use support::events::Events;
use support::gateway::Gateway;
use support::node_red::NodeRed;
use support::proxy::Proxy;
use support::redis::free_port;
use support::wait::{eventually, poll_pause, within};

const PATHS: &str = r#"
[[path]]
path = "/ws/plain"
subprotocols = ["feed.v1"]
heartbeat = "1s"
[[path]]
path = "/ws/whole"
wholemsg = true
[[path]]
path = "/ws/heard"
"#;

/// What Node-RED told of what it heard.
async fn heard(ear: &mut Client) -> Value {
    match ear.message().await {
        Heard::Text(text) => serde_json::from_str(&text).expect("JSON"),
        heard => panic!("{heard:?} instead of a text"),
    }
}

/// The msg of the next message that Node-RED sent, without its session, which is checked.
async fn sent(events: &mut Events, session: &str) -> Value {
    let mut event = events.until(|event| event.kind == "message").await.json();
    assert_eq!(event["session"], session);
    let msg = event["msg"].as_object_mut().expect("a msg");
    let own = json!({"type": "websocket", "id": session});
    assert_eq!(msg.remove("_session"), Some(own));
    event["msg"].take()
}

#[tokio::test]
async fn node_red_hears_and_is_heard_on_a_plain_path() {
    let gateway = Gateway::start(PATHS).await;
    let mut events = gateway.listen("/ws/plain").await;
    let mut ear = gateway.open("/ws/heard").await;
    let red = NodeRed::start("connect-to.json", &gateway, &gateway.clients.to_string()).await;

    // What its node is set to, it came with: a header, subprotocols, a query.
    let connect = events.until(|event| event.kind == "connect").await;
    let session = connect.text("session");
    assert_eq!(
        connect.text("traceparent"),
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    );
    assert_eq!(connect.text("subprotocol"), "feed.v1");
    assert_eq!(connect.text("query"), "from=node-red");

    let unicast = json!({
        "payload": "for you alone",
        "_session": {"type": "websocket", "id": session},
    });
    let buffer = r#"{"type":"Buffer","data":[0,127,128,255]}"#;
    let cases = [
        (json!({"payload": "a text"}).to_string(), json!("a text")),
        (json!({"payload": {"a": [1, null]}}).to_string(), json!(r#"{"a":[1,null]}"#)),
        (
            format!(r#"{{"payload":{buffer}}}"#),
            serde_json::from_str(buffer).expect("a Buffer as Node-RED writes it"),
        ),
        (unicast.to_string(), json!("for you alone")),
    ];
    for (msg, payload) in cases {
        let said = gateway.publish("/ws/plain", msg.clone()).await;
        assert!(matches!(said.status, 200 | 202), "{msg}: {}", said.text);
        let told = heard(&mut ear).await;
        assert_eq!(told["from"], "plain");
        assert_eq!(told["heard"]["payload"], payload, "{msg}");
        assert_eq!(told["heard"]["_session"]["type"], "websocket", "{told}");
    }

    assert_eq!(red.post("/plain", "text/plain", "ä text").await.status, 204);
    assert_eq!(sent(&mut events, &session).await, json!({"payload": "ä text"}));
    assert_eq!(red.post("/plain", "application/json", r#"{"b":[2]}"#).await.status, 204);
    assert_eq!(sent(&mut events, &session).await, json!({"payload": r#"{"b":[2]}"#}));
    let binary = red.post("/plain", "application/octet-stream", [0, 127, 128, 255]).await;
    assert_eq!(binary.status, 204);
    let buffer = json!({"payload": {"type": "Buffer", "data": "AH+A/w=="}});
    assert_eq!(sent(&mut events, &session).await, buffer);
}

#[tokio::test]
async fn node_red_hears_and_is_heard_in_whole_msgs() {
    let gateway = Gateway::start(PATHS).await;
    let mut events = gateway.listen("/ws/whole").await;
    let mut ear = gateway.open("/ws/heard").await;
    let red = NodeRed::start("connect-to.json", &gateway, &gateway.clients.to_string()).await;
    let connect = events.until(|event| event.kind == "connect").await;
    let session = connect.text("session");

    let msg = json!({"topic": "t", "payload": {"type": "Buffer", "data": "AH8="}, "n": 1});
    gateway.broadcast("/ws/whole", msg.to_string()).await;
    let mut told = heard(&mut ear).await;
    assert_eq!(told["from"], "whole");
    let its_own = told["heard"].as_object_mut().expect("a msg").remove("_session");
    assert_ne!(its_own.expect("Node-RED sets it")["id"], session.as_str());
    assert_eq!(told["heard"], msg);

    let msg = json!({"topic": "up", "payload": {"x": 1}, "_session": null});
    assert_eq!(red.post("/whole", "application/json", msg.to_string()).await.status, 204);
    let mut msg = sent(&mut events, &session).await;
    // Node-RED gives each msg an id of its own.
    msg.as_object_mut().expect("a msg").remove("_msgid").expect("it is sent too");
    assert_eq!(msg, json!({"topic": "up", "payload": {"x": 1}}));
}

#[tokio::test]
async fn heartbeats_of_both_ends_keep_node_red_connected_and_find_a_dead_way() {
    let gateway = Gateway::start(PATHS).await;
    let mut events = gateway.listen("/ws/plain").await;
    let mut ear = gateway.open("/ws/heard").await;
    let way = Proxy::start(gateway.clients.port()).await;
    let clients = way.url().replace("redis://", "");
    let _red = NodeRed::start("connect-to.json", &gateway, &clients).await;
    let connect = events.until(|event| event.kind == "connect").await;
    let first = connect.text("session");

    // Node-RED says nothing by itself for twice as long as a silent session may live, and is there.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        gateway.broadcast("/ws/plain", r#"{"payload":"still there?"}"#).await;
        assert_eq!(heard(&mut ear).await["heard"]["payload"], "still there?");
        poll_pause().await;
    }
    assert_eq!(gateway.fetch(&format!("/v1/sessions/{first}")).await.status, 200);

    // Nothing gets through any more on this connection, and nobody is told: each end finds out by
    // itself, in whichever order.
    let remote: SocketAddr = connect.text("remote").parse().expect("an address");
    way.half_open_from(remote.port());
    let (mut cause, mut again) = (None, None);
    while cause.is_none() || again.is_none() {
        let event = events.next().await;
        match event.kind.as_str() {
            "disconnect" => cause = Some(event.text("cause")),
            "connect" => again = Some(event.text("session")),
            kind => panic!("Node-RED sent something: {kind}"),
        }
    }
    assert_eq!(cause.as_deref(), Some("heartbeat"));
    assert_ne!(again, Some(first));
    gateway.broadcast("/ws/plain", r#"{"payload":"welcome back"}"#).await;
    assert_eq!(heard(&mut ear).await["heard"]["payload"], "welcome back");
}

/// Two upstreams, the doors of a Node-RED at that port; what comes from the plain one is broadcast.
fn doors(port: u16) -> String {
    format!(
        r#"
[[path]]
path = "/ws/plain"
[[path]]
path = "/ws/heard"
[[upstream]]
name = "plain"
url = "ws://127.0.0.1:{port}/ws/feed?from=pathcast"
heartbeat = "1s"
reconnect_max = "500ms"
to = "/ws/plain"
[[upstream]]
name = "whole"
url = "ws://127.0.0.1:{port}/ws/whole-feed"
wholemsg = true
reconnect_max = "500ms"
"#
    )
}

async fn listen_to_upstream(gateway: &Gateway, name: &str) -> Events {
    let request = gateway.call("GET", &format!("/v1/upstreams/{name}/events"));
    let response = within("a stream of events", request.send()).await.expect("an answer");
    assert_eq!(response.status(), 200);
    Events::new(response)
}

/// Sends to an upstream: the status, and the word for it.
async fn send(gateway: &Gateway, name: &str, msg: &Value) -> (u16, String) {
    let path = format!("/v1/upstreams/{name}");
    let said = gateway.post(&path, "application/json", msg.to_string()).await;
    let word = said.json()["result"].as_str().unwrap_or_default().to_owned();
    (said.status, word)
}

/// Waits until both upstreams are connected, or not.
async fn are(gateway: &Gateway, word: &str) {
    eventually(&format!("upstreams that are {word}"), async || {
        let list = gateway.fetch("/v1/upstreams").await.json();
        let mut upstreams = list["upstreams"].as_array().expect("a list").iter();
        upstreams.all(|one| one["state"] == word).then_some(())
    })
    .await;
}

#[tokio::test]
async fn pathcast_hears_and_is_heard_by_a_listening_node_red() {
    let port = free_port();
    let gateway = Gateway::start(&doors(port)).await;
    let mut ear = gateway.open("/ws/heard").await;
    let mut client = gateway.open("/ws/plain").await;
    let mut plain = listen_to_upstream(&gateway, "plain").await;
    let mut whole = listen_to_upstream(&gateway, "whole").await;
    let clients = gateway.clients.to_string();
    let red = NodeRed::start_at(port, "listen-on.json", &gateway, &clients, &[]).await;
    are(&gateway, "connected").await;

    // Out: what is sent to an upstream arrives in the flow.
    let buffer = json!({"type": "Buffer", "data": [0, 127, 128, 255]});
    for (payload, arrives) in [
        (json!("ä text"), json!("ä text")),
        (json!({"a": [1, null]}), json!(r#"{"a":[1,null]}"#)),
        (buffer.clone(), buffer),
    ] {
        let sent = send(&gateway, "plain", &json!({"payload": payload})).await;
        assert_eq!(sent, (200, "sent".into()));
        let told = heard(&mut ear).await;
        assert_eq!((&told["from"], &told["heard"]["payload"]), (&json!("plain"), &arrives));
        assert_eq!(told["heard"]["_session"]["type"], "websocket", "{told}");
    }
    let msg = json!({"topic": "t", "payload": {"type": "Buffer", "data": "AH8="}, "n": 1});
    assert_eq!(send(&gateway, "whole", &msg).await, (200, "sent".into()));
    let mut told = heard(&mut ear).await;
    assert_eq!(told["from"], "whole");
    told["heard"].as_object_mut().expect("a msg").remove("_session").expect("Node-RED sets it");
    assert_eq!(told["heard"], msg);

    // In: what Node-RED broadcasts becomes events, and reaches the clients of `to`.
    let bytes = [0, 127, 128, 255];
    assert_eq!(red.post("/plain", "text/plain", "ä text").await.status, 204);
    client.expect_text("ä text").await;
    assert_eq!(red.post("/plain", "application/json", r#"{"b":[2]}"#).await.status, 204);
    client.expect_text(r#"{"b":[2]}"#).await;
    assert_eq!(red.post("/plain", "application/octet-stream", bytes).await.status, 204);
    assert_eq!(client.message().await, Heard::Binary(bytes.to_vec().into()));
    for payload in
        [json!("ä text"), json!(r#"{"b":[2]}"#), json!({"type": "Buffer", "data": "AH+A/w=="})]
    {
        let event = plain.until(|event| event.kind == "message").await.json();
        assert_eq!(event["upstream"], "plain");
        assert_eq!(event["msg"], json!({"payload": payload}));
    }
    let msg = json!({"topic": "up", "payload": {"x": 1}, "_session": null});
    assert_eq!(red.post("/whole", "application/json", msg.to_string()).await.status, 204);
    let mut event = whole.until(|event| event.kind == "message").await.json();
    // Node-RED gives each msg an id of its own.
    let msg = event["msg"].as_object_mut().expect("a msg");
    msg.remove("_msgid").expect("it is sent too");
    assert_eq!(event["msg"], json!({"topic": "up", "payload": {"x": 1}}));
}

#[tokio::test]
async fn what_is_sent_while_a_listening_node_red_is_away_arrives_when_it_is_back() {
    let port = free_port();
    let gateway = Gateway::start(&doors(port)).await;
    let mut ear = gateway.open("/ws/heard").await;
    let mut client = gateway.open("/ws/plain").await;
    let clients = gateway.clients.to_string();
    for name in ["first", "second"] {
        // Before its first start, and between two.
        are(&gateway, "connecting").await;
        for upstream in ["plain", "whole"] {
            let sent = send(&gateway, upstream, &json!({"payload": name})).await;
            assert_eq!(sent, (202, "queued".into()));
        }
        let red = NodeRed::start_at(port, "listen-on.json", &gateway, &clients, &[]).await;
        are(&gateway, "connected").await;
        let mut from = Vec::new();
        for _ in 0..2 {
            let told = heard(&mut ear).await;
            assert_eq!(told["heard"]["payload"], name);
            from.push(told["from"].as_str().expect("a name").to_owned());
        }
        from.sort();
        assert_eq!(from, ["plain", "whole"]);
        assert_eq!(red.post("/plain", "text/plain", name).await.status, 204);
        client.expect_text(name).await;
    }
}

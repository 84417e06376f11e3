//! A flow of Node-RED's stock nodes is a backend like any other: asked by webhook, and speaking by
//! itself over HTTP.

mod support;

use bytes::Bytes;
use serde_json::{Value, json};
use support::client::{self, Client, Heard, Request};
use support::gateway::Gateway;
use support::node_red::NodeRed;
use support::redis::free_port;
use support::wait::within;

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDQSm37a1nGGo=";

/// A gateway, and the flow that its paths name, which believes what is signed with [`SECRET`].
async fn start(secret: &str) -> (Gateway, NodeRed) {
    let port = free_port();
    let gateway = Gateway::start(&format!(
        r#"
[[webhook.secret]]
key = "{secret}"
[[path]]
path = "/ws/api"
backend = {{ webhook = "http://127.0.0.1:{port}/pathcast" }}
[[path]]
path = "/ws/whole/{{room}}"
wholemsg = true
backend = {{ webhook = "http://127.0.0.1:{port}/pathcast" }}
[[path]]
path = "/ws/clock"
"#
    ))
    .await;
    let clients = gateway.clients.to_string();
    let secret = [("WEBHOOK_SECRET", SECRET)];
    let red = NodeRed::start_at(port, "backend.json", &gateway, &clients, &secret).await;
    (gateway, red)
}

/// The next message, as JSON.
async fn next(client: &mut Client) -> Value {
    match client.message().await {
        Heard::Text(text) => serde_json::from_str(&text).expect("JSON"),
        heard => panic!("{heard:?} instead of a text"),
    }
}

#[tokio::test]
async fn what_a_flow_answers_goes_to_the_asker_alone() {
    let (gateway, _red) = start(SECRET).await;
    let mut events = gateway.listen("/ws/api").await;
    let mut asker = gateway.open("/ws/api?user=ada").await;
    let connect = events.until(|event| event.kind == "connect").await;
    assert_eq!(connect.text("user"), "ada");
    let mut other = gateway.open("/ws/api?user=bob").await;

    // What has no answer, between what has one: the order shows that nothing came for it.
    for text in ["not JSON", "", "[1]", "null"] {
        asker.writer.text(text).await;
    }
    asker.writer.text(r#"{"action":"get_status"}"#).await;
    let status = next(&mut asker).await;
    assert_eq!(status["status"], "online");
    assert!(status["since"].is_string(), "{status}");
    asker.writer.binary(&[0, 10, 200, 255]).await;
    assert_eq!(asker.message().await, Heard::Binary(Bytes::from_static(&[255, 200, 10, 0])));
    // What is text, sent as binary, is bytes all the same.
    asker.writer.binary(b"ab").await;
    assert_eq!(asker.message().await, Heard::Binary(Bytes::from_static(b"ba")));

    other.writer.binary(&[1, 2]).await;
    assert_eq!(other.message().await, Heard::Binary(Bytes::from_static(&[2, 1])));
}

#[tokio::test]
async fn a_flow_answers_whole_msgs_with_whole_msgs() {
    let (gateway, _red) = start(SECRET).await;
    let mut asker = gateway.open("/ws/whole/7?user=ada").await;
    let mut other = gateway.open("/ws/whole/7?user=bob").await;
    // What a client says of itself takes nobody's place.
    let ask = json!({
        "topic": "t", "payload": {"action": "get_status"},
        "_session": "mine", "req": 1, "res": null, "path": "/ws/clock", "statusCode": 500,
    });
    asker.writer.text(&ask.to_string()).await;
    let told = next(&mut asker).await;
    assert_eq!([&told["topic"], &told["payload"]["status"]], ["t", "online"]);
    assert_eq!(told.as_object().expect("a msg").len(), 2, "{told}");

    asker.writer.text("not JSON").await;
    asker.writer.binary(&[0, 200, 255]).await;
    // As Node-RED writes a Buffer.
    let buffer = json!({"payload": {"type": "Buffer", "data": [255, 200, 0]}});
    assert_eq!(next(&mut asker).await, buffer);
    other.writer.text(r#"{"payload":{"type":"Buffer","data":[1,2]}}"#).await;
    assert_eq!(next(&mut other).await["payload"], json!({"type": "Buffer", "data": [2, 1]}));
}

#[tokio::test]
async fn a_flow_says_who_may_come_in_and_believes_only_what_is_signed() {
    let (gateway, red) = start(SECRET).await;
    let nobody = client::ask(gateway.clients, &Request::upgrade("/ws/api")).await;
    let refused = nobody.err().expect("a veto");
    assert_eq!(refused.status, 403);
    assert!(refused.body.starts_with("say who you are: ?user=NAME"), "{}", refused.body);

    let said = red.post("/pathcast", "text/plain", r#"{"action":"remind_me"}"#).await;
    assert_eq!((said.status, said.text.as_str()), (401, "not signed with my secret"));
}

#[tokio::test]
async fn a_flow_answers_later_who_asked_and_tells_everybody_by_a_timer() {
    let (gateway, _red) = start(SECRET).await;
    let mut asker = gateway.open("/ws/api?user=ada").await;
    let mut other = gateway.open("/ws/api?user=bob").await;
    let mut room = gateway.open("/ws/whole/7?user=eve").await;
    let mut clocks = [gateway.open("/ws/clock").await, gateway.open("/ws/clock").await];
    asker.writer.text(r#"{"action":"remind_me"}"#).await;
    room.writer.text(r#"{"payload":{"action":"remind_me"}}"#).await;
    let reminder = json!({"reminder": "you asked for it"});
    assert_eq!(next(&mut asker).await, reminder);
    assert_eq!(next(&mut room).await["payload"], reminder);

    let hour = async |clock: &mut Client| match clock.message().await {
        Heard::Text(text) => text,
        heard => panic!("{heard:?} instead of a text"),
    };
    let [first, second] = &mut clocks;
    let (mut one, same) = (hour(first).await, hour(second).await);
    let same_tick = async {
        while one != same {
            // The second one came a tick later.
            one = hour(first).await;
        }
    };
    within("one tick for both", same_tick).await;
    // Nothing of all that was for the one who did not ask.
    other.writer.binary(&[1, 2]).await;
    assert_eq!(other.message().await, Heard::Binary(Bytes::from_static(&[2, 1])));
}

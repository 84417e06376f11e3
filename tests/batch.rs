//! Publishing many at once: lines answered while they come, in order with everything else, and no
//! bad one in the way of a good one.

mod support;

use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};
use support::client::Heard;
use support::gateway::{Gateway, send};
use support::wait::within;
use tokio::sync::mpsc;

const PATHS: &str = r#"
[limits]
publish_bytes_max = "64KiB"
[[path]]
path = "/ws"
[[path]]
path = "/ws/whole"
wholemsg = true
[[path]]
path = "/ws/rooms/{room}"
"#;

const NDJSON: &str = "application/x-ndjson";

fn item(path: &str, payload: impl Into<Value>) -> Value {
    json!({"path": path, "msg": {"payload": payload.into()}})
}

fn unicast(path: &str, payload: &str, session: &str) -> Value {
    let session = json!({"type": "websocket", "id": session});
    json!({"path": path, "msg": {"payload": payload, "_session": session}})
}

/// A request whose body is sent line by line, and its answer, line by line.
struct Batch {
    lines: mpsc::Sender<Bytes>,
    answer: reqwest::Response,
    buffer: String,
}

impl Batch {
    async fn begin(gateway: &Gateway) -> Batch {
        let (lines, waiting) = mpsc::channel(16);
        let body = futures_util::stream::unfold(waiting, |mut waiting| async {
            let line: Bytes = waiting.recv().await?;
            Some((Ok::<_, std::io::Error>(line), waiting))
        });
        let request = gateway.call("POST", "/v1/publish").header("content-type", NDJSON);
        let answer = request.body(reqwest::Body::wrap_stream(body)).send();
        // A stranger's client may see the head only with the first line.
        lines.send(Bytes::from("\n")).await.expect("the body is read");
        let answer = within("the answer's head", answer).await.expect("the door answers");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], NDJSON);
        Batch { lines, answer, buffer: String::new() }
    }

    async fn send(&self, text: impl Into<String>) {
        self.lines.send(Bytes::from(text.into())).await.expect("the body is read");
    }

    async fn next(&mut self) -> Value {
        loop {
            if let Some((line, rest)) = self.buffer.split_once('\n') {
                let value = serde_json::from_str(line).expect("a line of JSON");
                self.buffer = rest.to_owned();
                return value;
            }
            let chunk = within("a line of the answer", self.answer.chunk()).await;
            let chunk = chunk.expect("the answer goes on").expect("a line is owed");
            self.buffer += std::str::from_utf8(&chunk).expect("JSON is UTF-8");
        }
    }

    async fn end(self) {
        drop(self.lines);
        assert_eq!(self.buffer, "");
        let mut rest = self.answer.bytes_stream();
        assert!(within("the answer's end", rest.next()).await.is_none(), "nothing more is owed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_is_answered_before_the_body_ends() {
    let gateway = Gateway::start(PATHS).await;
    let mut client = gateway.open("/ws").await;
    let mut batch = Batch::begin(&gateway).await;
    for number in 0..3 {
        batch.send(format!("{}\n", item("/ws", number))).await;
        let answer = batch.next().await;
        assert_eq!(answer["status"], 202, "{answer}");
        assert_eq!(answer["receivers"], 1, "{answer}");
        assert!(answer["id"].as_str().is_some_and(|id| !id.is_empty()), "{answer}");
        client.expect_text(&number.to_string()).await;
    }
    // A line is a line wherever the packets end; the last one needs no line break.
    let whole = item("/ws", "in parts").to_string();
    let (head, tail) = whole.split_at(10);
    batch.send(head).await;
    batch.send(format!("{tail}\r\n\r\n\n{}\n", item("/ws", "and another"))).await;
    assert_eq!(batch.next().await["status"], 202);
    assert_eq!(batch.next().await["status"], 202);
    batch.send("not json\n").await;
    let answer = batch.next().await;
    assert_eq!((&answer["status"], &answer["problem"]["status"]), (&json!(400), &json!(400)));
    batch.end().await;
    client.expect_text("in parts").await;
    client.expect_text("and another").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broadcasts_and_unicasts_of_a_batch_keep_their_order() {
    let gateway = Gateway::start(PATHS).await;
    let mut events = gateway.listen("/ws").await;
    let (mut one, its) = gateway.open_known("/ws", &mut events).await;
    let mut other = gateway.open("/ws").await;
    let mut lines = String::new();
    for number in 0..600 {
        let number_text = number.to_string();
        let line = match number % 3 {
            0 => unicast("/ws", &number_text, &its),
            _ => item("/ws", number_text),
        };
        lines += &format!("{line}\n");
    }
    let said = gateway.post("/v1/publish", NDJSON, lines).await;
    assert_eq!(said.status, 200, "{}", said.text);
    let statuses = said.text.lines().map(|line| {
        let line: Value = serde_json::from_str(line).expect("a line of JSON");
        if line["status"] == 200 {
            assert_eq!(line["result"], "delivered");
        }
        line["status"].as_u64().expect("a number")
    });
    let expected = (0..600).map(|number| if number % 3 == 0 { 200 } else { 202 });
    assert_eq!(statuses.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    for number in 0..600 {
        one.expect_text(&number.to_string()).await;
        if number % 3 != 0 {
            other.expect_text(&number.to_string()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_is_answered_by_an_array_and_bad_items_stop_nothing() {
    let gateway = Gateway::start(PATHS).await;
    let mut events = gateway.listen("/ws").await;
    let (mut client, session) = gateway.open_known("/ws", &mut events).await;
    let mut whole = gateway.open("/ws/whole").await;
    let cases = [
        (item("/ws", "first"), 202),
        (item("/nowhere", 1), 404),
        (item("/ws", ""), 422),
        (json!({"path": "/ws", "msg": {"payload": 1, "_session": {}}}), 422),
        (json!({"path": "/ws", "msg": {"payload": {"type": "Buffer", "data": [256]}}}), 422),
        (json!({"path": "/ws", "msg": 7}), 400),
        (json!({"path": 7, "msg": {}}), 400),
        (json!({"msg": {"payload": 1}}), 400),
        (json!("text"), 400),
        (json!(null), 400),
        (unicast("/ws", "x", "nobody"), 410),
        (unicast("/ws/whole", "x", &session), 410),
        (unicast("/ws", "you", &session), 200),
        (item("/ws", "x".repeat(70_000)), 413),
        (item("/ws/rooms/empty", 1), 202),
        (json!({"path": "/ws/whole", "msg": {"topic": "t"}}), 202),
        (item("/ws", "last"), 202),
    ];
    let (items, expected): (Vec<_>, Vec<u16>) = cases.into_iter().unzip();
    let check = |outcomes: Vec<Value>| {
        let statuses: Vec<_> = outcomes.iter().map(|one| one["status"].clone()).collect();
        assert_eq!(json!(statuses), json!(expected), "{outcomes:#?}");
        for outcome in &outcomes {
            let problem = &outcome["problem"];
            match outcome["status"].as_u64() {
                Some(200) => assert_eq!(outcome["result"], "delivered", "{outcome}"),
                Some(202) => assert!(outcome["receivers"].is_u64(), "{outcome}"),
                _ => {
                    assert_eq!(problem["status"], outcome["status"], "{outcome}");
                    assert!(problem["detail"].is_string() && problem["type"].is_string());
                }
            }
        }
    };
    let array = gateway.post("/v1/publish", "application/json", json!(items).to_string()).await;
    assert_eq!(array.status, 200, "{}", array.text);
    assert_eq!(array.headers["content-type"], "application/json");
    check(array.json().as_array().expect("an array").clone());
    let lines: Vec<_> = items.iter().map(Value::to_string).collect();
    let lines = gateway.post("/v1/publish", NDJSON, lines.join("\n")).await;
    check(lines.text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect());
    for _ in 0..2 {
        client.expect_text("first").await;
        client.expect_text("you").await;
        client.expect_text("last").await;
        whole.expect_text(r#"{"topic":"t"}"#).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_batch_is_refused_and_nothing_of_it_sent() {
    let gateway = Gateway::start(PATHS).await;
    let mut client = gateway.open("/ws").await;
    let good = item("/ws", "x").to_string();
    for (kind, body, status) in [
        ("application/json", good.clone(), 400),
        ("application/json", format!("[{good},"), 400),
        ("application/json", format!("[{good}]]"), 400),
        ("application/json", String::new(), 400),
        ("text/plain", good.clone(), 415),
        ("application/octet-stream", good.clone(), 415),
    ] {
        let said = gateway.post("/v1/publish", kind, body.clone()).await;
        assert_eq!(said.status, status, "{kind} {body}: {}", said.text);
    }
    assert_eq!(gateway.post("/v1/publish", "application/json", "[]").await.text, "[]");
    assert_eq!(gateway.post("/v1/publish", NDJSON, "\n\n").await.text, "");
    assert_eq!(send(gateway.call("GET", "/v1/publish")).await.status, 405);
    gateway.broadcast("/ws", r#"{"payload":"sentinel"}"#).await;
    assert_eq!(client.message().await, Heard::Text("sentinel".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_cut_off_has_sent_its_whole_lines() {
    let gateway = Gateway::start(PATHS).await;
    let mut client = gateway.open("/ws").await;
    let mut batch = Batch::begin(&gateway).await;
    batch.send(format!("{}\n{{\"path\":\"/ws\",", item("/ws", "whole"))).await;
    assert_eq!(batch.next().await["status"], 202);
    drop(batch);
    client.expect_text("whole").await;
    gateway.broadcast("/ws", r#"{"payload":"after"}"#).await;
    client.expect_text("after").await;
}

//! Eight publishers at once, in every form, to 300 clients of five paths on three shards: once to
//! everybody, in one order; and a thousand unicasts among them, each to one.

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::client::{Client, Heard};
use support::gateway::{Gateway, send};

const PATHS: usize = 5;
const CLIENTS_PER_PATH: usize = 60;
const PUBLISHERS: usize = 8;
const BROADCASTS_PER_PUBLISHER: usize = 2_500;
const UNICASTS_PER_PUBLISHER: usize = 125;

/// Published to every path when all is done.
const END: &str = "end";

/// One thing a publisher sends: `number` counts up over all it sends, to whichever path.
#[derive(Debug, Clone)]
struct Item {
    publisher: usize,
    number: usize,
    path: usize,
    /// Session and client index of a unicast.
    to: Option<(String, usize)>,
}

impl Item {
    fn payload(&self) -> String {
        let kind = if self.to.is_some() { 'u' } else { 'b' };
        format!("{kind}-{}-{}", self.publisher, self.number)
    }

    fn path(&self) -> String {
        path_of(self.path)
    }

    fn msg(&self, payload: Value) -> Value {
        match &self.to {
            Some((session, _)) => {
                json!({"payload": payload, "_session": {"type": "websocket", "id": session}})
            }
            None => json!({"payload": payload}),
        }
    }

    fn status(&self) -> u64 {
        if self.to.is_some() { 200 } else { 202 }
    }
}

/// What a client remembers of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Noted {
    unicast: bool,
    publisher: usize,
    number: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_gets_everything_once_in_one_order() {
    let paths: String =
        (0..PATHS).map(|path| format!("[[path]]\npath = \"{}\"\n", path_of(path))).collect();
    let gateway = Arc::new(Gateway::start(&format!("[hub]\nshards = 3\n{paths}")).await);

    let (mut readers, mut sessions) = (Vec::new(), Vec::new());
    for path in 0..PATHS {
        let (clients, ids) = connect(&gateway, &path_of(path)).await;
        readers.extend(clients.into_iter().map(|client| (path, tokio::spawn(transcript(client)))));
        sessions.push(ids);
    }

    let publishing: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            tokio::spawn(publish_all(Arc::clone(&gateway), plan(publisher, &sessions)))
        })
        .collect();
    let mut sent = Vec::new();
    for publisher in publishing {
        sent.extend(publisher.await.expect("a publisher gets the answers it must"));
    }
    for path in 0..PATHS {
        gateway.broadcast(&path_of(path), json!({"payload": END}).to_string()).await;
    }
    let mut transcripts: Vec<Vec<Vec<Noted>>> = vec![Vec::new(); PATHS];
    for (path, reader) in readers {
        transcripts[path].push(reader.await.expect("a client reads up to the end"));
    }

    assert_eq!(sent.len(), PUBLISHERS * (BROADCASTS_PER_PUBLISHER + UNICASTS_PER_PUBLISHER));
    for (path, transcripts) in transcripts.iter().enumerate() {
        check_broadcasts(path, transcripts, &sent);
    }
    check_unicasts(&transcripts, &sent);
    transcripts.iter().flatten().for_each(|transcript| check_order(transcript));
}

fn path_of(path: usize) -> String {
    format!("/ws/p{path}")
}

/// The clients of a path and their session ids, in the same order.
async fn connect(gateway: &Gateway, path: &str) -> (Vec<Client>, Vec<String>) {
    let mut events = gateway.listen(path).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS_PER_PATH {
        clients.push(gateway.open(path).await);
    }
    let mut by_remote = HashMap::new();
    while by_remote.len() < CLIENTS_PER_PATH {
        let connect = events.until(|event| event.kind == "connect").await;
        by_remote.insert(connect.text("remote"), connect.text("session"));
    }
    let ids = clients.iter().map(|client| by_remote[&client.local.to_string()].clone()).collect();
    (clients, ids)
}

/// All that one publisher sends, unicasts strewn among the broadcasts.
fn plan(publisher: usize, sessions: &[Vec<String>]) -> Vec<Item> {
    let broadcasts_per_unicast = BROADCASTS_PER_PUBLISHER / UNICASTS_PER_PUBLISHER;
    let each = broadcasts_per_unicast + 1;
    (0..BROADCASTS_PER_PUBLISHER + UNICASTS_PER_PUBLISHER)
        .map(|number| {
            let path = (number + publisher) % PATHS;
            let client = (number / each * 7 + publisher * 11) % CLIENTS_PER_PATH;
            let unicast = number % each == broadcasts_per_unicast / 2;
            let to = unicast.then(|| (sessions[path][client].clone(), client));
            Item { publisher, number, path, to }
        })
        .collect()
}

/// Sends them in order on one connection, in changing forms; gives them back.
async fn publish_all(gateway: Arc<Gateway>, items: Vec<Item>) -> Vec<Item> {
    let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(1);
    let http = http.build().expect("a plain client is built");
    let (mut rest, mut round) = (&items[..], 0);
    while !rest.is_empty() {
        let take = [1, 1, 1, 20, 25, 1, 1, 1, 40, 35][round % 10].min(rest.len());
        let (now, later) = rest.split_at(take);
        match now {
            [item] => publish_one(&gateway, &http, item, round).await,
            many => publish_many(&gateway, &http, many, round).await,
        }
        (rest, round) = (later, round + 1);
    }
    items
}

async fn publish_one(gateway: &Gateway, http: &reqwest::Client, item: &Item, round: usize) {
    let query = item.to.as_ref().map(|(session, _)| format!("?session={session}"));
    let url = format!("{}/v1/publish{}", gateway.api, item.path());
    let raw = format!("{url}{}", query.unwrap_or_default());
    let payload = item.payload();
    let request = match round % 3 {
        0 => {
            let msg = item.msg(json!(payload)).to_string();
            http.post(url).header("content-type", "application/json").body(msg)
        }
        1 => http.post(raw).header("content-type", "text/plain").body(payload),
        _ => http.post(raw).header("content-type", "application/octet-stream").body(payload),
    };
    let said = send(request).await;
    assert_eq!(u64::from(said.status), item.status(), "{item:?}: {}", said.text);
}

async fn publish_many(gateway: &Gateway, http: &reqwest::Client, items: &[Item], round: usize) {
    let lines = items.iter().enumerate().map(|(index, item)| {
        let payload = item.payload();
        let payload = match index % 2 {
            0 => json!(payload),
            _ => json!({"type": "Buffer", "data": STANDARD.encode(payload)}),
        };
        json!({"path": item.path(), "msg": item.msg(payload)})
    });
    let request = http.post(format!("{}/v1/publish", gateway.api));
    let results: Vec<Value> = if round.is_multiple_of(2) {
        let body: String = lines.map(|line| format!("{line}\n")).collect();
        let said = send(request.header("content-type", "application/x-ndjson").body(body)).await;
        assert_eq!(said.status, 200, "{}", said.text);
        let parse = |line| serde_json::from_str(line).expect("a line of JSON");
        said.text.lines().map(parse).collect()
    } else {
        let body = Value::Array(lines.collect()).to_string();
        let said = send(request.header("content-type", "application/json").body(body)).await;
        assert_eq!(said.status, 200, "{}", said.text);
        said.json().as_array().expect("an array back for an array").clone()
    };
    assert_eq!(results.len(), items.len(), "an answer for each");
    for (item, result) in items.iter().zip(results) {
        assert_eq!(result["status"].as_u64(), Some(item.status()), "{item:?}: {result}");
    }
}

/// Reads up to the end.
async fn transcript(mut client: Client) -> Vec<Noted> {
    let mut noted = Vec::new();
    loop {
        let payload = match client.message().await {
            Heard::Text(text) if text == END => return noted,
            Heard::Text(text) => text,
            Heard::Binary(bytes) => String::from_utf8(bytes.into()).expect("payloads are ASCII"),
            other => panic!("{other:?} after {} messages", noted.len()),
        };
        let parts: Vec<&str> = payload.split('-').collect();
        let [kind, publisher, number] = parts[..] else { panic!("{payload:?} was never sent") };
        noted.push(Noted {
            unicast: kind == "u",
            publisher: publisher.parse().expect("a number"),
            number: number.parse().expect("a number"),
        });
    }
}

/// Each client has every broadcast of its path once, all in the same order.
fn check_broadcasts(path: usize, transcripts: &[Vec<Noted>], sent: &[Item]) {
    let broadcasts = |transcript: &[Noted]| -> Vec<Noted> {
        transcript.iter().filter(|noted| !noted.unicast).copied().collect()
    };
    let first = broadcasts(&transcripts[0]);
    let once: BTreeSet<(usize, usize)> =
        first.iter().map(|noted| (noted.publisher, noted.number)).collect();
    assert_eq!(once.len(), first.len(), "a client of path {path} has a broadcast twice");
    let meant = sent.iter().filter(|item| item.path == path && item.to.is_none());
    let meant: BTreeSet<(usize, usize)> = meant.map(|item| (item.publisher, item.number)).collect();
    assert!(once == meant, "path {path}: {} broadcasts, not {}", once.len(), meant.len());
    for (client, transcript) in transcripts.iter().enumerate() {
        let same = broadcasts(transcript) == first;
        assert!(same, "clients 0 and {client} of path {path} have different transcripts");
    }
}

/// Each unicast is with the client it was for, once, and with nobody else.
fn check_unicasts(transcripts: &[Vec<Vec<Noted>>], sent: &[Item]) {
    let mut got: BTreeMap<(usize, usize), Vec<(usize, usize)>> = BTreeMap::new();
    for (path, transcripts) in transcripts.iter().enumerate() {
        for (client, transcript) in transcripts.iter().enumerate() {
            for noted in transcript.iter().filter(|noted| noted.unicast) {
                got.entry((noted.publisher, noted.number)).or_default().push((path, client));
            }
        }
    }
    let meant: BTreeMap<(usize, usize), Vec<(usize, usize)>> = sent
        .iter()
        .filter_map(|item| {
            let (_, client) = item.to.as_ref()?;
            Some(((item.publisher, item.number), vec![(item.path, *client)]))
        })
        .collect();
    assert_eq!(meant.len(), 1_000);
    assert!(got == meant, "unicasts went astray: {} arrived of {}", got.len(), meant.len());
}

/// What one publisher sent arrives in its order, unicasts and broadcasts together.
fn check_order(transcript: &[Noted]) {
    let mut last = [None; PUBLISHERS];
    for noted in transcript {
        let before = last[noted.publisher].replace(noted.number);
        assert!(before < Some(noted.number), "{noted:?} after number {before:?}");
    }
}

//! Eight publishers at once, in every form, to 300 clients of five paths: once to everybody, in one
//! order; and a thousand unicasts among them, each to one. On one pod of three shards, and on three
//! pods of two, where publishers go from pod to pod and past them to Redis.

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::client::{Client, Heard};
use support::gateway::{Gateway, send};
use support::redis::Redis;
use support::resp::{Connection, Reply};

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

/// A thing that was sent, and answered.
#[derive(Debug, Clone)]
struct Sent {
    item: Item,
    begun: Instant,
    answered: Instant,
}

/// Where publishers go.
struct Doors {
    pods: Vec<Gateway>,
    redis: Option<Redis>,
}

/// A publisher's connections.
struct Publisher {
    doors: Arc<Doors>,
    http: reqwest::Client,
    redis: Option<Connection>,
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
    let pod = Gateway::start(&format!("[hub]\nshards = 3\n{}", paths())).await;
    play(Doors { pods: vec![pod], redis: None }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_on_every_pod_gets_everything_once_in_one_order() {
    let redis = Redis::start();
    let url = redis.url();
    let config = format!("[hub]\nshards = 2\n[broker]\nurl = \"{url}\"\n{}", paths());
    let mut pods = Vec::new();
    for _ in 0..3 {
        let pod = Gateway::start(&config).await;
        pod.ready().await;
        pods.push(pod);
    }
    play(Doors { pods, redis: Some(redis) }).await;
}

fn paths() -> String {
    (0..PATHS).map(|path| format!("[[path]]\npath = \"{}\"\n", path_of(path))).collect()
}

async fn play(doors: Doors) {
    let doors = Arc::new(doors);
    let (mut readers, mut sessions) = (Vec::new(), Vec::new());
    for path in 0..PATHS {
        let (clients, ids) = connect(&doors.pods, &path_of(path)).await;
        readers.extend(clients.into_iter().map(|client| (path, tokio::spawn(transcript(client)))));
        sessions.push(ids);
    }

    let publishing: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| tokio::spawn(publish_all(Arc::clone(&doors), plan(publisher, &sessions))))
        .collect();
    let mut sent = Vec::new();
    for publisher in publishing {
        sent.extend(publisher.await.expect("a publisher gets the answers it must"));
    }
    for path in 0..PATHS {
        doors.pods[0].broadcast(&path_of(path), json!({"payload": END}).to_string()).await;
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
    let times: HashMap<_, _> =
        sent.iter().map(|sent| ((sent.item.publisher, sent.item.number), sent)).collect();
    for transcript in transcripts.iter().flatten() {
        check_order(transcript);
        check_times(transcript, &times);
    }
}

fn path_of(path: usize) -> String {
    format!("/ws/p{path}")
}

/// The clients of a path, spread over the pods, and their session ids, in the same order.
async fn connect(pods: &[Gateway], path: &str) -> (Vec<Client>, Vec<String>) {
    let (mut clients, mut ids) = (Vec::new(), Vec::new());
    for pod in pods {
        let mut events = pod.listen(path).await;
        let mut here = Vec::new();
        for _ in 0..CLIENTS_PER_PATH / pods.len() {
            here.push(pod.open(path).await);
        }
        let mut by_remote = HashMap::new();
        while by_remote.len() < here.len() {
            let connect = events.until(|event| event.kind == "connect").await;
            by_remote.insert(connect.text("remote"), connect.text("session"));
        }
        ids.extend(here.iter().map(|client| by_remote[&client.local.to_string()].clone()));
        clients.extend(here);
    }
    assert_eq!(clients.len(), CLIENTS_PER_PATH);
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

/// Sends them in order, each when the one before it was answered, in changing forms and by changing
/// ways; gives them back.
async fn publish_all(doors: Arc<Doors>, items: Vec<Item>) -> Vec<Sent> {
    let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(1);
    let http = http.build().expect("a plain client is built");
    let redis = match &doors.redis {
        Some(redis) => Some(redis.connect().await),
        None => None,
    };
    let mut publisher = Publisher { doors, http, redis };
    let (mut rest, mut round, mut sent) = (&items[..], 0, Vec::new());
    while !rest.is_empty() {
        let take = [1, 1, 1, 20, 25, 1, 1, 1, 40, 35][round % 10].min(rest.len());
        let (now, later) = rest.split_at(take);
        let begun = Instant::now();
        publisher.publish(now, round + items[0].publisher, round).await;
        let answered = Instant::now();
        sent.extend(now.iter().map(|item| Sent { item: item.clone(), begun, answered }));
        (rest, round) = (later, round + 1);
    }
    sent
}

impl Publisher {
    /// `way` picks the door, `round` the form.
    async fn publish(&mut self, items: &[Item], way: usize, round: usize) {
        let pods = &self.doors.pods;
        let ways = pods.len() + usize::from(self.redis.is_some());
        match (pods.get(way % ways), items, &mut self.redis) {
            (None, items, Some(redis)) => publish_past_pods(redis, items, pods.len()).await,
            (Some(pod), [item], _) => publish_one(pod, &self.http, item, round).await,
            (Some(pod), many, _) => publish_many(pod, &self.http, many, round).await,
            (None, _, None) => unreachable!("there are as many ways as pods"),
        }
    }
}

/// Publishes through Redis, without waiting in between; every pod has somebody on every path.
async fn publish_past_pods(redis: &mut Connection, items: &[Item], pods: usize) {
    for item in items {
        let channel = format!("pathcast:out:{}", item.path());
        let msg = item.msg(json!(item.payload())).to_string();
        redis.send(&[b"PUBLISH", channel.as_bytes(), msg.as_bytes()]).await;
    }
    for item in items {
        assert_eq!(redis.next().await, Reply::Number(pods as i64), "{item:?}");
    }
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
fn check_broadcasts(path: usize, transcripts: &[Vec<Noted>], sent: &[Sent]) {
    let broadcasts = |transcript: &[Noted]| -> Vec<Noted> {
        transcript.iter().filter(|noted| !noted.unicast).copied().collect()
    };
    let first = broadcasts(&transcripts[0]);
    let once: BTreeSet<(usize, usize)> =
        first.iter().map(|noted| (noted.publisher, noted.number)).collect();
    assert_eq!(once.len(), first.len(), "a client of path {path} has a broadcast twice");
    let sent = sent.iter().map(|sent| &sent.item);
    let meant = sent.filter(|item| item.path == path && item.to.is_none());
    let meant: BTreeSet<(usize, usize)> = meant.map(|item| (item.publisher, item.number)).collect();
    assert!(once == meant, "path {path}: {} broadcasts, not {}", once.len(), meant.len());
    for (client, transcript) in transcripts.iter().enumerate() {
        let same = broadcasts(transcript) == first;
        assert!(same, "clients 0 and {client} of path {path} have different transcripts");
    }
}

/// Each unicast is with the client it was for, once, and with nobody else.
fn check_unicasts(transcripts: &[Vec<Vec<Noted>>], sent: &[Sent]) {
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
        .filter_map(|Sent { item, .. }| {
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

/// Whatever was begun when something had been answered comes behind it, whoever sent the two.
fn check_times(transcript: &[Noted], times: &HashMap<(usize, usize), &Sent>) {
    let mut latest: Option<&Sent> = None;
    for noted in transcript {
        let sent = times[&(noted.publisher, noted.number)];
        let is_behind = latest.is_none_or(|latest| latest.begun <= sent.answered);
        assert!(is_behind, "{sent:?} comes behind {latest:?}, which was begun later");
        if latest.is_none_or(|latest| latest.begun < sent.begun) {
            latest = Some(sent);
        }
    }
}

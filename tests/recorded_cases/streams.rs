//! A consumer of streams, as a backend might have it: the events of a path, of all its parts.

use crate::json::{self, Json};
use crate::stage::Told;
use crate::support::redis::Redis;
use crate::support::resp::{Connection, Reply};

/// As many as a gateway makes that is told nothing else.
const PARTITIONS: usize = 8;

/// How long Redis waits for an entry before it says that there is none.
const BLOCK_MS: &str = "5000";

pub struct Streams {
    connection: Connection,
    keys: Vec<String>,
    /// Of each, the last entry that was read.
    last: Vec<String>,
}

impl Streams {
    /// From their beginning.
    pub async fn open(redis: &Redis, prefix: &str, configured: &str) -> Streams {
        let key = |partition| format!("{prefix}:in:{configured}:{partition}");
        Streams {
            connection: redis.connect().await,
            keys: (0..PARTITIONS).map(key).collect(),
            last: vec!["0".to_owned(); PARTITIONS],
        }
    }

    /// What has come since, none left out; possibly nothing.
    pub async fn next(&mut self) -> Vec<Told> {
        let read = ["XREAD", "BLOCK", BLOCK_MS, "STREAMS"].map(str::to_owned);
        let read = read.iter().chain(&self.keys).chain(&self.last);
        let read: Vec<&[u8]> = read.map(String::as_bytes).collect();
        let streams = match self.connection.call(&read).await {
            Reply::Nothing => return Vec::new(),
            streams => list(streams),
        };
        let mut told = Vec::new();
        for stream in streams {
            let [key, entries] = pair(stream);
            let key = text(key);
            let at = self.keys.iter().position(|known| *known == key).expect("one of those asked");
            for entry in list(entries) {
                let [id, fields] = pair(entry);
                self.last[at] = text(id);
                told.push(event(list(fields)));
            }
        }
        told
    }
}

/// Its members are flat, all of them texts.
fn event(fields: Vec<Reply>) -> Told {
    let texts: Vec<String> = fields.into_iter().map(text).collect();
    let member = |pair: &[String]| {
        let [name, value] = pair else { panic!("a name without a value: {texts:?}") };
        let value = match name.as_str() {
            "seq" | "code" => Json::Number(value.clone()),
            "msg" => json::parse(value).unwrap_or(Json::Null),
            _ => Json::text(value),
        };
        (name.as_str().into(), value)
    };
    let json = Json::Object(texts.chunks(2).map(member).collect());
    let kind = json.member("type").and_then(Json::as_text).unwrap_or_default();
    Told::new(kind, json)
}

fn pair(reply: Reply) -> [Reply; 2] {
    list(reply).try_into().expect("two of them")
}

fn list(reply: Reply) -> Vec<Reply> {
    match reply {
        Reply::List(items) => items,
        other => panic!("no list: {other:?}"),
    }
}

fn text(reply: Reply) -> String {
    match reply {
        Reply::Bytes(bytes) => String::from_utf8(bytes).expect("events are UTF-8"),
        other => panic!("no text: {other:?}"),
    }
}

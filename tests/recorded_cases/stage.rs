//! Where a case is played: clients and listeners that note all they hear, and ways to wait for it.
//!
//! Clients connect to one pod. Whoever publishes, and whoever hears events, does so at that one, at
//! another one, or at Redis past all pods; the case is the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::json::{self, Json};
use crate::streams::Streams;
use crate::support::client::{Heard, Writer};
use crate::support::events::Events;
use crate::support::gateway::{Gateway, Said};
use crate::support::redis::Redis;
use crate::support::resp::Connection;
use crate::value::Sessions;

/// How long anything that has to come may take; what never comes is then a difference.
const PATIENCE: Duration = Duration::from_secs(10);

/// A data message at a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Text(String),
    Binary(Vec<u8>),
}

/// An event, at a listener or in a stream.
#[derive(Debug, Clone)]
pub struct Told {
    pub kind: String,
    pub session: String,
    pub json: Json,
}

impl Told {
    pub fn new(kind: String, json: Json) -> Told {
        let session = json.member("session").and_then(Json::as_text).unwrap_or_default();
        Told { kind, session, json }
    }
}

/// All that was heard so far, by the clients' names.
#[derive(Debug, Default)]
pub struct Notes {
    pub frames: BTreeMap<String, Vec<Frame>>,
    pub pongs: BTreeMap<String, Vec<Vec<u8>>>,
    /// The code of the close frame that a client saw.
    pub closes: BTreeMap<String, u16>,
    pub ended: BTreeSet<String>,
    pub told: Vec<Told>,
}

impl Notes {
    pub fn messages_from(&self, session: &str) -> usize {
        let from = |told: &&Told| told.kind == "message" && told.session == session;
        self.told.iter().filter(from).count()
    }

    pub fn disconnect_of(&self, session: &str) -> Option<&Told> {
        self.told.iter().find(|told| told.kind == "disconnect" && told.session == session)
    }

    /// How much there is of everything.
    fn size(&self) -> usize {
        let frames: usize = self.frames.values().map(Vec::len).sum();
        let pongs: usize = self.pongs.values().map(Vec::len).sum();
        frames + pongs + self.closes.len() + self.ended.len() + self.told.len()
    }
}

#[derive(Default)]
struct Board {
    notes: Mutex<Notes>,
    changed: Notify,
}

impl Board {
    fn note(&self, write: impl FnOnce(&mut Notes)) {
        write(&mut self.notes.lock().expect("no writer of notes panics"));
        self.changed.notify_waiters();
    }
}

pub struct Actor {
    pub path: String,
    pub writer: Arc<tokio::sync::Mutex<Writer>>,
    reading: JoinHandle<()>,
}

/// By which way a case is published, and its events are heard.
#[derive(Debug, Clone)]
pub enum Way {
    /// Over HTTP, at the one pod there is.
    OnePod,
    /// With the clients at one of the pods of this Redis.
    Many { redis: Arc<Redis>, published: Door, heard: Door },
}

/// Where those come in who are no clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Over HTTP, at another pod than the clients'.
    OtherPod,
    /// At Redis itself: msgs on channels, events in streams.
    Redis,
}

impl Way {
    /// Whether events have to be in streams.
    pub fn has_streams(&self) -> bool {
        matches!(self, Way::Many { heard: Door::Redis, .. })
    }
}

pub struct Stage {
    /// The clients' pod.
    pub gateway: Gateway,
    /// Where HTTP goes, if not to the clients' pod.
    other: Option<Gateway>,
    /// What is published through Redis goes here.
    publishing: Option<tokio::sync::Mutex<Connection>>,
    /// Where streams are read.
    streams: Option<Arc<Redis>>,
    /// What the names in Redis begin with.
    prefix: String,
    pub actors: BTreeMap<String, Actor>,
    pub sessions: Sessions,
    board: Arc<Board>,
    listening: Vec<JoinHandle<()>>,
}

impl Stage {
    /// Pods of this stage's own, with these paths.
    pub async fn build(way: &Way, paths: &str) -> Stage {
        // Many stages share a Redis, each under a name of its own.
        let prefix = format!("stage-{}", uuid::Uuid::new_v4());
        let mut config = format!("[hub]\nshards = 2\n{paths}");
        let (mut other, mut publishing, mut streams) = (None, None, None);
        if let Way::Many { redis, published, heard } = way {
            let url = redis.url();
            config += &format!("[broker]\nurl = \"{url}\"\nprefix = \"{prefix}\"\n");
            if [published, heard].contains(&&Door::OtherPod) {
                other = Some(Gateway::start(&config).await);
            }
            if *published == Door::Redis {
                publishing = Some(redis.connect().await.into());
            }
            streams = (*heard == Door::Redis).then(|| redis.clone());
        }
        let gateway = Gateway::start(&config).await;
        for pod in other.iter().chain([&gateway]) {
            pod.ready().await;
        }
        Stage {
            gateway,
            other,
            publishing,
            streams,
            prefix,
            actors: BTreeMap::new(),
            sessions: Sessions::new(),
            board: Arc::default(),
            listening: Vec::new(),
        }
    }

    /// The pod that is called over HTTP.
    fn called(&self) -> &Gateway {
        self.other.as_ref().unwrap_or(&self.gateway)
    }

    /// Notes the events of a path from now on.
    pub async fn listen(&mut self, path: &str) {
        let board = Arc::clone(&self.board);
        self.listening.push(match &self.streams {
            Some(redis) => {
                let mut streams = Streams::open(redis, &self.prefix, path).await;
                tokio::spawn(async move {
                    loop {
                        let told = streams.next().await;
                        board.note(|notes| notes.told.extend(told));
                    }
                })
            }
            None => {
                let mut events: Events = self.called().listen(path).await;
                tokio::spawn(async move {
                    while let Some(event) = events.next_whenever().await {
                        let json = json::parse(&event.data).unwrap_or(Json::Null);
                        board.note(|notes| notes.told.push(Told::new(event.kind, json)));
                    }
                })
            }
        });
    }

    /// Publishes a msg; what the publisher is told, if anything.
    pub async fn publish(&self, path: &str, msg: String) -> Option<Said> {
        let Some(connection) = &self.publishing else {
            return Some(self.called().publish(path, msg).await);
        };
        let channel = format!("{}:out:{path}", self.prefix);
        connection.lock().await.publish(&channel, msg.as_bytes()).await;
        None
    }

    /// Connects a client and learns its session from its `connect` event.
    pub async fn connect(&mut self, name: &str, path: &str) -> Result<(), String> {
        let client = self.gateway.open(path).await;
        let (mut reader, writer) = (client.reader, client.writer);
        let writer = Arc::new(tokio::sync::Mutex::new(writer));
        let (board, answering) = (Arc::clone(&self.board), Arc::clone(&writer));
        board.note(|notes| drop(notes.frames.insert(name.into(), Vec::new())));
        let own = name.to_owned();
        let reading = tokio::spawn(async move {
            loop {
                let heard = reader.next_whenever().await;
                match &heard {
                    Heard::Ping(payload) => answering.lock().await.pong(payload).await,
                    Heard::Close(_) => {
                        let code = heard.close_code().filter(|&code| code != 1005);
                        answering.lock().await.close(code, "").await;
                    }
                    _ => {}
                }
                let ended = heard == Heard::End;
                board.note(|notes| note(notes, &own, heard));
                if ended {
                    return;
                }
            }
        });
        self.actors.insert(name.into(), Actor { path: path.into(), writer, reading });

        let remote = client.local.to_string();
        let find = |notes: &Notes| {
            let from_here = |told: &&Told| {
                let from = told.json.member("remote").and_then(Json::as_text);
                told.kind == "connect" && from.as_deref() == Some(&remote)
            };
            notes.told.iter().find(from_here).map(|told| told.session.clone())
        };
        if !self.wait_for(|notes| find(notes).is_some()).await {
            return Err(format!("no connect event of {name}"));
        }
        let session = self.read(|notes| find(notes).unwrap_or_default());
        self.sessions.insert(name.into(), session);
        Ok(())
    }

    /// Cuts a client's connection without a word.
    pub async fn terminate(&mut self, name: &str) {
        if let Some(actor) = self.actors.remove(name) {
            actor.reading.abort();
            let _ = actor.reading.await;
            self.board.note(|notes| {
                notes.ended.insert(name.into());
            });
        }
    }

    pub fn read<T>(&self, look: impl FnOnce(&Notes) -> T) -> T {
        look(&self.board.notes.lock().expect("no writer of notes panics"))
    }

    /// Whether it came to be so, within the patience.
    pub async fn wait_for(&self, so: impl Fn(&Notes) -> bool) -> bool {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let changed = self.board.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.read(&so) {
                return true;
            }
            if tokio::time::timeout_at(until, changed).await.is_err() {
                return false;
            }
        }
    }

    /// Waits until nothing has been heard for so long.
    pub async fn wait_for_quiet(&self, quiet: Duration) {
        let until = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < until {
            let before = self.read(Notes::size);
            let changed = self.board.changed.notified();
            if tokio::time::timeout(quiet, changed).await.is_err()
                && self.read(Notes::size) == before
            {
                return;
            }
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.listening.iter().for_each(JoinHandle::abort);
        self.actors.values().for_each(|actor| actor.reading.abort());
    }
}

fn note(notes: &mut Notes, name: &str, heard: Heard) {
    let name = name.to_owned();
    if let Some(code) = heard.close_code() {
        notes.closes.insert(name, code);
        return;
    }
    match heard {
        Heard::Text(text) => notes.frames.entry(name).or_default().push(Frame::Text(text)),
        Heard::Binary(bytes) => {
            notes.frames.entry(name).or_default().push(Frame::Binary(bytes.into()));
        }
        Heard::Pong(payload) => notes.pongs.entry(name).or_default().push(payload.into()),
        Heard::End => {
            notes.ended.insert(name);
        }
        Heard::Ping(_) | Heard::Close(_) => {}
    }
}

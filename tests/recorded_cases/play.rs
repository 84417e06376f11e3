//! One case: its steps at the gateway's doors, then what was heard against what it expects.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::json::{self, Json};
use crate::stage::{Frame, Notes, Stage, Way};
use crate::support::wire;
use crate::value::{self, Buffers, base64, count, matches, numbered, resolve, text, with_ids};

/// Proves that nothing else came: published after all steps, and sent by every client.
const SENTINEL: &str = "the end of the case";

/// `wait` is for quiet; longer silences than this tell nothing more on one machine.
const QUIET_MAX: Duration = Duration::from_millis(60);

pub struct Outcome {
    pub id: String,
    /// What differed; nothing when the case passed.
    pub differences: Vec<String>,
    /// What the gateway logged, for a case that failed.
    pub log: String,
}

/// Plays one line of a cases file with pods of its own.
pub async fn play(line: &str, way: &Way) -> Result<Outcome, String> {
    let case = json::parse(line)?;
    let id = text(&case, "id")?;
    let paths = case.member("paths").ok_or("no paths")?;
    let mut config = String::new();
    let backend = if way.has_streams() { "backend = { stream = true }\n" } else { "" };
    for path in paths.items() {
        let wholemsg = path.member("wholemsg") == Some(&Json::Bool(true));
        let path = text(path, "path")?;
        write!(config, "[[path]]\npath = \"{path}\"\nwholemsg = {wholemsg}\n{backend}")
            .map_err(|error| error.to_string())?;
    }
    let mut play = Play {
        stage: Stage::build(way, &config).await,
        case: &case,
        statuses: Vec::new(),
        differences: Vec::new(),
    };
    for path in paths.items() {
        play.stage.listen(&text(path, "path")?).await;
    }
    for client in case.member("clients").map(Json::items).unwrap_or_default() {
        play.stage.connect(&text(client, "name")?, &text(client, "path")?).await?;
    }
    for step in case.member("steps").map(Json::items).unwrap_or_default() {
        play.step(step).await.map_err(|error| format!("{}: {error}", step.stringify()))?;
    }
    play.finish().await?;
    play.compare()?;
    play.compare_refusals().await;
    let log = if play.differences.is_empty() { String::new() } else { play.stage.gateway.log() };
    Ok(Outcome { id, differences: play.differences, log })
}

struct Play<'a> {
    stage: Stage,
    case: &'a Json,
    /// Of every publish step that was answered.
    statuses: Vec<u16>,
    differences: Vec<String>,
}

impl Play<'_> {
    async fn step(&mut self, step: &Json) -> Result<(), String> {
        let op = text(step, "op")?;
        let client = step.member("client").and_then(Json::as_text).unwrap_or_default();
        match op.as_str() {
            "publish" => match step.member("times") {
                Some(_) => self.publish_numbered(step, count(step, "times")?).await,
                None => self.publish(step, step.member("msg").ok_or("no msg")?).await,
            },
            "publishMany" => self.publish_numbered(step, count(step, "n")?).await,
            "connect" => self.stage.connect(&client, &text(step, "path")?).await,
            "send" => self.send(&client, message_of(step)?).await,
            "burst" => {
                let one =
                    |index: usize| wire::frame(true, wire::TEXT, index.to_string().as_bytes());
                let frames: Vec<Vec<u8>> = (0..count(step, "n")?).map(one).collect();
                self.send(&client, frames).await
            }
            "raw" => self.write(&client, &unhex(&text(step, "hex")?)?).await,
            "ping" => {
                let data = step.member("data").and_then(Json::as_text).unwrap_or_default();
                self.write(&client, &wire::frame(true, wire::PING, data.as_bytes())).await?;
                self.wait_for(&format!("a pong at {client}"), |notes| {
                    let pongs = notes.pongs.get(&client);
                    pongs.is_some_and(|pongs| pongs.iter().any(|pong| pong == data.as_bytes()))
                })
                .await;
                Ok(())
            }
            "close" => {
                let code = count(step, "code").ok().and_then(|code| u16::try_from(code).ok());
                let reason = step.member("reason").and_then(Json::as_text).unwrap_or_default();
                let payload = wire::close_payload(code, &reason);
                self.write(&client, &wire::frame(true, wire::CLOSE, &payload)).await?;
                self.wait_for(&format!("the end of {client}"), |notes| {
                    notes.ended.contains(&client)
                })
                .await;
                self.wait_for_disconnect(&client).await
            }
            "terminate" => {
                self.stage.terminate(&client).await;
                self.wait_for_disconnect(&client).await
            }
            "wait" => self.wait(count(step, "ms").unwrap_or(0)).await,
            "waitFrames" => self.wait_frames(step, &client).await,
            other => Err(format!("unknown op {other:?}")),
        }
    }

    async fn publish(&mut self, step: &Json, msg: &Json) -> Result<(), String> {
        let path = text(step, "path")?;
        // The short form where the payload itself is the Buffer and becomes a binary frame; where
        // its text is compared, the form that Node writes.
        let alone =
            matches!(msg.member("payload"), Some(payload) if payload.member("$t").is_some());
        let buffers =
            if alone && !self.is_wholemsg(&path) { Buffers::Base64 } else { Buffers::Numbers };
        let msg = resolve(msg, &self.stage.sessions, buffers)?;
        let Some(said) = self.stage.publish(&path, msg.stringify()).await else { return Ok(()) };
        self.statuses.push(said.status);
        if !(200..500).contains(&said.status) {
            self.differences.push(format!("publish: {} {}", said.status, said.text));
        }
        Ok(())
    }

    async fn publish_numbered(&mut self, step: &Json, times: usize) -> Result<(), String> {
        let msg = step.member("msg").ok_or("no msg")?;
        for index in 0..times {
            self.publish(step, &numbered(msg, index)).await?;
        }
        Ok(())
    }

    /// Sends whole messages and waits until each was told, so that the order of what several
    /// clients send is the order of the steps.
    async fn send(&mut self, client: &str, messages: Vec<Vec<u8>>) -> Result<(), String> {
        let session = self.session(client)?;
        let told = self.stage.read(|notes| notes.messages_from(&session)) + messages.len();
        self.write(client, &messages.concat()).await?;
        self.wait_for(&format!("the message events of {client}"), |notes| {
            notes.messages_from(&session) >= told || notes.disconnect_of(&session).is_some()
        })
        .await;
        Ok(())
    }

    async fn write(&mut self, client: &str, bytes: &[u8]) -> Result<(), String> {
        let actor = self.stage.actors.get(client).ok_or_else(|| format!("no client {client:?}"))?;
        actor.writer.lock().await.raw(bytes).await;
        Ok(())
    }

    async fn wait(&mut self, ms: usize) -> Result<(), String> {
        for client in self.closed_by_expectation() {
            // Only raw bytes have effects that their own step does not wait for.
            if self.has_raw(&client) {
                self.wait_for_disconnect(&client).await?;
            }
        }
        let asked = Duration::from_millis(ms as u64);
        self.stage.wait_for_quiet(asked.min(QUIET_MAX)).await;
        Ok(())
    }

    async fn wait_frames(&mut self, step: &Json, client: &str) -> Result<(), String> {
        let wanted = count(step, "n").or_else(|_| count(step, "count"));
        let names: Vec<String> = match client {
            "" => self.stage.actors.keys().cloned().collect(),
            one => vec![one.to_owned()],
        };
        let Ok(wanted) = wanted else {
            self.stage.wait_for_quiet(QUIET_MAX).await;
            return Ok(());
        };
        self.wait_for(&format!("{wanted} frames"), |notes| {
            let enough = |name| notes.frames.get(name).is_some_and(|got| got.len() >= wanted);
            names.iter().all(enough)
        })
        .await;
        Ok(())
    }

    /// Waits; what does not come is a difference.
    async fn wait_for(&mut self, what: &str, so: impl Fn(&Notes) -> bool) {
        if !self.stage.wait_for(so).await {
            self.differences.push(format!("{what} never came"));
        }
    }

    async fn wait_for_disconnect(&mut self, client: &str) -> Result<(), String> {
        let session = self.session(client)?;
        self.wait_for(&format!("the disconnect event of {client}"), |notes| {
            notes.disconnect_of(&session).is_some()
        })
        .await;
        Ok(())
    }

    /// Lets every connection say that it has nothing more: those that end, by ending; the others,
    /// by the sentinels.
    async fn finish(&mut self) -> Result<(), String> {
        for client in self.closed_by_expectation() {
            self.wait_for_disconnect(&client).await?;
            self.wait_for(&format!("the end of {client}"), |notes| notes.ended.contains(&client))
                .await;
        }
        let open: BTreeMap<String, String> = self.stage.read(|notes| {
            let open = self.stage.actors.iter().filter(|(name, _)| !notes.ended.contains(*name));
            open.map(|(name, actor)| (name.clone(), actor.path.clone())).collect()
        });
        let mut paths: Vec<&String> = open.values().collect();
        paths.sort_unstable();
        paths.dedup();
        for path in paths {
            let msg = Json::object([("payload", Json::text(SENTINEL))]).stringify();
            if let Some(said) = self.stage.publish(path, msg).await
                && said.status != 202
            {
                self.differences.push(format!("sentinel to {path}: {} {}", said.status, said.text));
            }
        }
        for client in open.keys() {
            self.wait_for(&format!("the sentinel at {client}"), |notes| {
                notes.frames[client].last().is_some_and(is_sentinel)
            })
            .await;
            let session = self.session(client)?;
            self.write(client, &wire::frame(true, wire::TEXT, SENTINEL.as_bytes())).await?;
            self.wait_for(&format!("the sentinel of {client}"), |notes| {
                let own = |told: &&crate::stage::Told| told.session == session;
                notes.told.iter().filter(own).any(|told| is_sentinel_msg(told.json.member("msg")))
            })
            .await;
        }
        Ok(())
    }

    fn compare(&mut self) -> Result<(), String> {
        let expect = self.case.member("expect").ok_or("no expect")?;
        let mut differences = std::mem::take(&mut self.differences);
        self.stage.read(|notes| -> Result<(), String> {
            if let Some(Json::Object(clients)) = expect.member("frames") {
                for (name, wanted) in clients {
                    let name = name.to_string();
                    let got = notes.frames.get(&name).ok_or_else(|| format!("no client {name}"))?;
                    let got: Vec<&Frame> = got.iter().filter(|frame| !is_sentinel(frame)).collect();
                    if let Err(why) = self.compare_frames(wanted, &got) {
                        differences.push(format!("frames of {name}: {why}"));
                    }
                }
            }
            if let Some(wanted) = expect.member("msgs") {
                let heard = notes.told.iter().filter(|told| told.kind == "message");
                let heard = heard.filter_map(|told| told.json.member("msg"));
                let heard: Vec<&Json> = heard.filter(|msg| !is_sentinel_msg(Some(msg))).collect();
                if let Err(why) = self.compare_msgs(wanted, &heard) {
                    differences.push(format!("msgs: {why}"));
                }
            }
            if let Some(Json::Object(clients)) = expect.member("pongs") {
                for (name, wanted) in clients {
                    let got = notes.pongs.get(&name.to_string()).cloned().unwrap_or_default();
                    if !compare_pongs(wanted, &got) {
                        let wanted = wanted.stringify();
                        differences.push(format!("pongs of {name}: {wanted}, got {got:?}"));
                    }
                }
            }
            self.compare_closes(notes, &mut differences)
        })?;
        self.differences = differences;
        Ok(())
    }

    /// A publish that has to be refused is answered so; where nobody answers, the clients' pod has
    /// counted it instead.
    async fn compare_refusals(&mut self) {
        let expect = self.case.member("expect");
        let refused = expect.and_then(|expect| expect.member("refused"));
        if refused != Some(&Json::Bool(true)) {
            return;
        }
        let malformed = self.stage.gateway.counted("pathcast_broker_malformed_total").await;
        if malformed == 0 && !self.statuses.iter().any(|status| (400..500).contains(status)) {
            self.differences.push(format!("not refused: {:?}", self.statuses));
        }
    }

    fn compare_frames(&self, wanted: &Json, got: &[&Frame]) -> Result<(), String> {
        if let Json::Array(items) = wanted {
            let same = items.len() == got.len()
                && items.iter().zip(got).all(|(item, got)| self.is_frame(item, got));
            return if same { Ok(()) } else { Err(differ(wanted, &got)) };
        }
        let payloads = got.iter().map(|frame| match frame {
            Frame::Text(text) => json::parse(text)
                .ok()
                .and_then(|msg| msg.member("payload").cloned())
                .unwrap_or_else(|| Json::text(text)),
            Frame::Binary(bytes) => Json::text(&String::from_utf8_lossy(bytes)),
        });
        compare_run(wanted, got, &payloads.collect::<Vec<_>>(), |wanted, got| {
            self.is_frame(wanted, got)
        })
    }

    fn compare_msgs(&self, wanted: &Json, heard: &[&Json]) -> Result<(), String> {
        let sessions = &self.stage.sessions;
        if let Json::Array(items) = wanted {
            let same = items.len() == heard.len()
                && items.iter().zip(heard).all(|(item, msg)| matches(item, msg, sessions));
            let heard: Vec<String> = heard.iter().map(|msg| msg.stringify()).collect();
            return if same { Ok(()) } else { Err(differ(wanted, &heard)) };
        }
        let payloads = heard.iter().map(|msg| msg.member("payload").cloned().unwrap_or(Json::Null));
        compare_run(wanted, heard, &payloads.collect::<Vec<_>>(), |wanted, msg| {
            matches(wanted, msg, sessions)
        })
    }

    fn is_frame(&self, wanted: &Json, got: &Frame) -> bool {
        if let Some(text) = wanted.as_text() {
            return *got == Frame::Text(text);
        }
        let (kind, bytes) = match got {
            Frame::Text(text) => ("text", text.as_bytes()),
            Frame::Binary(bytes) => ("binary", &bytes[..]),
        };
        let data = text(wanted, "data").map(|data| with_ids(&data, &self.stage.sessions));
        wanted.member("kind") == Some(&Json::text(kind))
            && data.is_ok_and(|data| data.as_bytes() == bytes)
                | base64(wanted).is_ok_and(|wanted| wanted == bytes)
                | is_long_frame(wanted, bytes)
    }

    fn compare_closes(&self, notes: &Notes, differences: &mut Vec<String>) -> Result<(), String> {
        let expected = self.case.member("expect").and_then(|expect| expect.member("closed"));
        for name in self.closed_by_expectation() {
            let Some(wanted) = expected.and_then(|closed| closed.member(&name)) else { continue };
            let code = wanted.as_count().map_or_else(|| count(wanted, "code"), Ok)?;
            let told = notes.disconnect_of(&self.session(&name)?).map(|told| &told.json);
            let told = told.and_then(|event| event.member("code")).and_then(Json::as_count);
            if told != Some(code) {
                differences.push(format!("{name} closed {code}: the disconnect says {told:?}"));
            }
            // Nobody sees a frame for an aborted connection.
            let seen = notes.closes.get(&name).map(|&code| usize::from(code));
            if code != 1006 && seen != Some(code) {
                differences.push(format!("{name} closed {code}: the client saw {seen:?}"));
            }
        }
        let leaves = |step: &&Json| {
            let op = step.member("op").and_then(Json::as_text);
            matches!(op.as_deref(), Some("close" | "terminate"))
        };
        let left: Vec<String> = self
            .steps()
            .iter()
            .filter(leaves)
            .filter_map(|step| text(step, "client").ok())
            .collect();
        for name in &notes.ended {
            if !self.closed_by_expectation().contains(name) && !left.contains(name) {
                let seen = notes.closes.get(name);
                differences.push(format!("{name} was closed ({seen:?}), which nothing expects"));
            }
        }
        Ok(())
    }

    fn steps(&self) -> &[Json] {
        self.case.member("steps").map(Json::items).unwrap_or_default()
    }

    fn has_raw(&self, client: &str) -> bool {
        self.steps().iter().any(|step| {
            step.member("op") == Some(&Json::text("raw"))
                && step.member("client") == Some(&Json::text(client))
        })
    }

    fn closed_by_expectation(&self) -> Vec<String> {
        let closed = self.case.member("expect").and_then(|expect| expect.member("closed"));
        match closed {
            Some(Json::Object(clients)) => {
                clients.iter().map(|(name, _)| name.to_string()).collect()
            }
            _ => Vec::new(),
        }
    }

    fn is_wholemsg(&self, path: &str) -> bool {
        self.case.member("paths").map(Json::items).unwrap_or_default().iter().any(|known| {
            known.member("path") == Some(&Json::text(path))
                && known.member("wholemsg") == Some(&Json::Bool(true))
        })
    }

    fn session(&self, client: &str) -> Result<String, String> {
        let session = self.stage.sessions.get(client).cloned();
        session.ok_or_else(|| format!("no client {client:?}"))
    }
}

/// The frames of one message, as bytes.
fn message_of(step: &Json) -> Result<Vec<Vec<u8>>, String> {
    let binary = step.member("bin") == Some(&Json::Bool(true)) || step.member("b64").is_some();
    let opcode = if binary { wire::BINARY } else { wire::TEXT };
    let parts: Vec<Vec<u8>> = if let Some(parts) = step.member("frags") {
        let part = |part: &Json| part.as_text().map(String::into_bytes).ok_or("a frag is a text");
        parts.items().iter().map(part).collect::<Result<_, _>>()?
    } else if let Some(parts) = step.member("fragsb64") {
        let wrapped = parts.items().iter().map(|part| Json::object([("b64", part.clone())]));
        wrapped.map(|part| base64(&part)).collect::<Result<_, _>>()?
    } else if step.member("b64").is_some() {
        vec![base64(step)?]
    } else if step.member("repeat").is_some() {
        vec![text(step, "repeat")?.repeat(count(step, "n")?).into_bytes()]
    } else {
        vec![text(step, "text")?.into_bytes()]
    };
    let frames = parts.iter().enumerate().flat_map(|(index, part)| {
        wire::frame(index + 1 == parts.len(), if index == 0 { opcode } else { 0 }, part)
    });
    Ok(vec![frames.collect()])
}

fn is_sentinel(frame: &Frame) -> bool {
    matches!(frame, Frame::Text(text) if text.contains(SENTINEL))
}

fn is_sentinel_msg(msg: Option<&Json>) -> bool {
    msg.and_then(|msg| msg.member("payload")) == Some(&Json::text(SENTINEL))
}

/// `{kind, bytes, sha256, tail?}`: a long frame by length, hash and last bytes (one character for
/// each).
fn is_long_frame(wanted: &Json, bytes: &[u8]) -> bool {
    let tail: String =
        bytes[bytes.len().saturating_sub(8)..].iter().map(|&b| char::from(b)).collect();
    count(wanted, "bytes") == Ok(bytes.len())
        && text(wanted, "sha256") == Ok(value::sha256(bytes))
        && text(wanted, "tail").is_ok_and(|wanted| wanted == tail) | wanted.member("tail").is_none()
}

/// `{count, in_order, first, last}`.
fn compare_run<T: std::fmt::Debug>(
    wanted: &Json,
    got: &[T],
    payloads: &[Json],
    is: impl Fn(&Json, &T) -> bool,
) -> Result<(), String> {
    let number = |payload: &Json| {
        let text = payload.as_text().unwrap_or_else(|| payload.stringify());
        let digits = text.len() - text.trim_end_matches(|char: char| char.is_ascii_digit()).len();
        text[text.len() - digits..].parse::<u64>().ok()
    };
    let in_order = payloads.windows(2).all(
        |pair| matches!((number(&pair[0]), number(&pair[1])), (Some(a), Some(b)) if b == a + 1),
    );
    let end = |member: &str, got: Option<&T>| match (wanted.member(member), got) {
        (None, _) | (Some(Json::Null), None) => true,
        (Some(wanted), Some(got)) => is(wanted, got),
        _ => false,
    };
    let in_order_wanted = wanted.member("in_order").is_none_or(|it| *it == Json::Bool(in_order));
    if count(wanted, "count")? == got.len()
        && in_order_wanted
        && end("first", got.first())
        && end("last", got.last())
    {
        return Ok(());
    }
    let ends = (got.first(), got.last());
    Err(differ(wanted, &format!("{} of them, in order: {in_order}, {ends:?}", got.len())))
}

fn compare_pongs(wanted: &Json, got: &[Vec<u8>]) -> bool {
    match wanted {
        Json::Array(items) => {
            let is = |item: &Json, pong: &Vec<u8>| {
                let data = item.as_text().or_else(|| text(item, "data").ok());
                data.is_some_and(|data| data.as_bytes() == pong)
                    || base64(item).is_ok_and(|data| data == *pong)
            };
            items.len() == got.len() && items.iter().zip(got).all(|(item, pong)| is(item, pong))
        }
        other => other.as_count() == Some(got.len()),
    }
}

fn unhex(hex: &str) -> Result<Vec<u8>, String> {
    let byte = |at| hex.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes = (0..hex.len()).step_by(2).map(byte).collect::<Option<_>>();
    bytes.ok_or_else(|| format!("{hex:?} is no hexadecimal"))
}

/// Both sides, cut to what a person reads.
fn differ(wanted: &Json, got: &impl std::fmt::Debug) -> String {
    let cut = |text: String| text.chars().take(400).collect::<String>();
    format!("\n    wanted {}\n    got    {}", cut(wanted.stringify()), cut(format!("{got:?}")))
}

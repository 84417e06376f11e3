//! The envelope: what pods send each other through Redis (docs/decisions/envelope.md).
//!
//! Version 1 is the byte 0x01, which no JSON begins with, then kind, message id, time, an optional
//! trace context, and the body, in the spelling of `proto::wire`. A payload is carried as it is in
//! memory, with the place of its parts, so that no pod parses it a second time. Pods of two releases
//! run together: the bytes of a version never change, and a version is written only when the
//! previous release reads it.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use uuid::Uuid;

use crate::proto::ask::{Answer, Ask, PathCount, Reach, SessionInfo};
use crate::proto::close::{Close, REASON_BYTES_MAX};
use crate::proto::event::Kind;
use crate::proto::grant::{Glob, Grant};
use crate::proto::msg::Content;
use crate::proto::path::Path;
use crate::proto::session_id::{PodId, SessionId};
use crate::proto::telling::{Place, Told, What};
use crate::proto::traceparent::Traceparent;
use crate::proto::upstream::{Dispatch, Name, State};
use crate::proto::wire::{Malformed, Reader, Writer};

/// The first byte of every envelope of this version.
pub const VERSION: u8 = 0x01;

/// Into this fits all but contents and lists.
const USUAL_BYTES: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    pub id: Uuid,
    /// When it was published, Unix time in milliseconds by the publisher's clock.
    pub published_ms: u64,
    pub traceparent: Option<Traceparent>,
    pub body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// To everybody on the path that the channel names.
    Broadcast(Content),
    Ask {
        /// Whom to answer.
        from: PodId,
        /// What the answer names.
        correlation: u64,
        /// When it was asked, Unix time in milliseconds by Redis' clock.
        sent_ms: u64,
        /// How old it may be when its turn comes, in milliseconds.
        age_limit_ms: u64,
        ask: Ask,
    },
    Answer {
        correlation: u64,
        answer: Answer,
    },
    /// From a pod to itself: is the way there and back open?
    Ping {
        nonce: u64,
    },
    /// Events of the pod's sessions on the configured path that the channel names.
    Told(Told),
}

impl Envelope {
    pub fn encode(&self) -> Vec<u8> {
        let content_bytes = match &self.body {
            Body::Broadcast(content) => content.bytes(),
            Body::Ask {
                ask: Ask::Unicast { content, .. } | Ask::Upstream { content, .. }, ..
            } => content.bytes(),
            Body::Told(Told { what: What::Event { json, .. }, .. }) => json.len(),
            _ => 0,
        };
        let mut out = Writer::with_capacity(USUAL_BYTES + content_bytes);
        out.byte(VERSION);
        out.byte(match self.body {
            Body::Broadcast(_) => 1,
            Body::Ask { .. } => 2,
            Body::Answer { .. } => 3,
            Body::Ping { .. } => 4,
            Body::Told(_) => 5,
        });
        out.raw(self.id.as_bytes()).u64(self.published_ms);
        out.optional(self.traceparent, |out, traceparent| {
            out.text(traceparent.as_str());
        });
        match &self.body {
            Body::Broadcast(content) => content.write(&mut out),
            Body::Ask { from, correlation, sent_ms, age_limit_ms, ask } => {
                out.raw(&from.0).u64(*correlation).u64(*sent_ms).u64(*age_limit_ms);
                write_ask(&mut out, ask);
            }
            Body::Answer { correlation, answer } => {
                out.u64(*correlation);
                write_answer(&mut out, answer);
            }
            Body::Ping { nonce } => {
                out.u64(*nonce);
            }
            Body::Told(told) => write_told(&mut out, told),
        }
        out.into_bytes()
    }

    /// What it holds shares the memory of `bytes`.
    ///
    /// # Errors
    /// For every input that `encode` of this version cannot have made.
    pub fn decode(bytes: Bytes) -> Result<Envelope, Malformed> {
        let mut from = Reader::new(bytes);
        if from.byte()? != VERSION {
            return Err(Malformed("no such version"));
        }
        let kind = from.byte()?;
        let id = Uuid::from_bytes(from.array()?);
        let published_ms = from.u64()?;
        let traceparent = from.optional(read_traceparent)?;
        let body = match kind {
            1 => Body::Broadcast(Content::read(&mut from)?),
            2 => Body::Ask {
                from: PodId(from.array()?),
                correlation: from.u64()?,
                sent_ms: from.u64()?,
                age_limit_ms: from.u64()?,
                ask: read_ask(&mut from)?,
            },
            3 => Body::Answer { correlation: from.u64()?, answer: read_answer(&mut from)? },
            4 => Body::Ping { nonce: from.u64()? },
            5 => Body::Told(read_told(&mut from)?),
            _ => return Err(Malformed("no such kind")),
        };
        from.end()?;
        Ok(Envelope { id, published_ms, traceparent, body })
    }
}

fn write_ask(out: &mut Writer, ask: &Ask) {
    match ask {
        Ask::Unicast { to, reach, content } => {
            out.byte(1).raw(&to.bytes());
            match reach {
                Reach::Path(path) => {
                    out.byte(0).text(path.as_str());
                }
                Reach::Granted(grant) => write_grant(out.byte(1), grant),
            }
            content.write(out);
        }
        Ask::LookUp { id, grant } => write_grant(out.byte(2).raw(&id.bytes()), grant),
        Ask::Close { id, grant, close } => {
            write_grant(out.byte(3).raw(&id.bytes()), grant);
            out.u16(close.code).text(&close.reason);
        }
        Ask::List { filter, after, limit, grant } => {
            out.byte(4).optional(filter.as_deref(), |out, text| {
                out.text(text);
            });
            write_id(out, after.as_ref());
            write_grant(out.length(*limit), grant);
        }
        Ask::Census => {
            out.byte(5);
        }
        Ask::Tap { configured } => {
            out.byte(6).text(configured);
        }
        Ask::Upstream { name, content } => content.write(out.byte(20).text(name)),
        Ask::UpstreamState { name } => {
            out.byte(21).text(name);
        }
    }
}

fn read_ask(from: &mut Reader) -> Result<Ask, Malformed> {
    Ok(match from.byte()? {
        1 => Ask::Unicast {
            to: read_id(from)?,
            reach: match from.byte()? {
                0 => Reach::Path(read_path(from)?),
                1 => Reach::Granted(read_grant(from)?),
                _ => return Err(Malformed("no such reach")),
            },
            content: Content::read(from)?,
        },
        2 => Ask::LookUp { id: read_id(from)?, grant: read_grant(from)? },
        3 => {
            let (id, grant) = (read_id(from)?, read_grant(from)?);
            let (code, reason) = (from.u16()?, from.string()?);
            if reason.len() > REASON_BYTES_MAX {
                return Err(Malformed("a close reason that is too long"));
            }
            Ask::Close { id, grant, close: Close { code, reason } }
        }
        4 => Ask::List {
            filter: from.optional(Reader::string)?,
            after: from.optional(read_id)?,
            limit: from.length()?,
            grant: read_grant(from)?,
        },
        5 => Ask::Census,
        6 => Ask::Tap { configured: from.string()?.into() },
        20 => Ask::Upstream { name: from.string()?.into(), content: Content::read(from)? },
        21 => Ask::UpstreamState { name: from.string()?.into() },
        _ => return Err(Malformed("no such question")),
    })
}

fn write_answer(out: &mut Writer, answer: &Answer) {
    match answer {
        Answer::Delivered => out.byte(1),
        Answer::Gone => out.byte(2),
        Answer::OutboxFull => out.byte(3),
        Answer::Overloaded => out.byte(4),
        Answer::Nothing => out.byte(5),
        Answer::TooBig(limit) => out.byte(6).u64(*limit as u64),
        Answer::Closed => out.byte(7),
        Answer::Info(info) => {
            write_info(out.byte(8), info);
            out
        }
        Answer::Sessions { sessions, after } => {
            out.byte(9).length(sessions.len());
            for info in sessions {
                write_info(out, info);
            }
            write_id(out, after.as_ref());
            out
        }
        Answer::Census(counts) => {
            out.byte(10).length(counts.len());
            for PathCount { path, configured, sessions } in counts {
                out.text(path.as_str()).text(configured).u64(*sessions);
            }
            out
        }
        Answer::Tapped(place) => out.byte(11).u64(place.stretch).u64(place.number),
        Answer::Dispatched(Dispatch::Sent) => out.byte(20),
        Answer::Dispatched(Dispatch::Queued) => out.byte(21),
        Answer::UpstreamState(state) => {
            out.byte(22).u64(state.epoch).byte(u8::from(state.is_connected));
            out.optional(state.why.as_deref(), |out, text| {
                out.text(text);
            });
            let State { received, sent, lost, waiting, waiting_bytes, .. } = *state;
            out.u64(received).u64(sent).u64(lost).u64(waiting).u64(waiting_bytes)
        }
    };
}

fn read_answer(from: &mut Reader) -> Result<Answer, Malformed> {
    Ok(match from.byte()? {
        1 => Answer::Delivered,
        2 => Answer::Gone,
        3 => Answer::OutboxFull,
        4 => Answer::Overloaded,
        5 => Answer::Nothing,
        6 => {
            let limit = usize::try_from(from.u64()?);
            Answer::TooBig(limit.map_err(|_| Malformed("longer than memory"))?)
        }
        7 => Answer::Closed,
        8 => Answer::Info(read_info(from)?),
        9 => Answer::Sessions { sessions: from.many(read_info)?, after: from.optional(read_id)? },
        10 => Answer::Census(from.many(|from| {
            let (path, configured) = (read_path(from)?, from.string()?.into());
            Ok(PathCount { path, configured, sessions: from.u64()? })
        })?),
        11 => Answer::Tapped(read_place(from)?),
        20 => Answer::Dispatched(Dispatch::Sent),
        21 => Answer::Dispatched(Dispatch::Queued),
        22 => Answer::UpstreamState(State {
            epoch: from.u64()?,
            is_connected: match from.byte()? {
                0 => false,
                1 => true,
                _ => return Err(Malformed("neither yes nor no")),
            },
            why: from.optional(Reader::string)?,
            received: from.u64()?,
            sent: from.u64()?,
            lost: from.u64()?,
            waiting: from.u64()?,
            waiting_bytes: from.u64()?,
        }),
        _ => return Err(Malformed("no such answer")),
    })
}

fn write_told(out: &mut Writer, Told { from, place, what }: &Told) {
    out.raw(&from.0).u64(place.stretch).u64(place.number);
    match what {
        What::Event { id, kind, path, json } => {
            out.byte(match kind {
                Kind::Connect => 1,
                Kind::Message => 2,
                Kind::Disconnect => 3,
            });
            out.text(id).text(path.as_str()).bytes(json)
        }
        What::Beat => out.byte(4),
        What::Last => out.byte(5),
    };
}

fn read_told(from: &mut Reader) -> Result<Told, Malformed> {
    let (pod, place) = (PodId(from.array()?), read_place(from)?);
    let what = match from.byte()? {
        1 => read_event(from, Kind::Connect)?,
        2 => read_event(from, Kind::Message)?,
        3 => read_event(from, Kind::Disconnect)?,
        4 => What::Beat,
        5 => What::Last,
        _ => return Err(Malformed("no such thing to tell")),
    };
    Ok(Told { from: pod, place, what })
}

fn read_event(from: &mut Reader, kind: Kind) -> Result<What, Malformed> {
    let (id, path, json) = (from.string()?, read_place_of_event(from)?, from.text()?);
    // They go to listeners as they are, on one line each.
    if id.bytes().chain(json.iter().copied()).any(|byte| byte < 0x20) {
        return Err(Malformed("an event of more than one line"));
    }
    Ok(What::Event { id, kind, path, json })
}

fn read_place(from: &mut Reader) -> Result<Place, Malformed> {
    Ok(Place { stretch: from.u64()?, number: from.u64()? })
}

fn write_grant(out: &mut Writer, grant: &Grant) {
    match grant {
        Grant::All => {
            out.byte(0);
        }
        Grant::Globs(globs) => {
            out.byte(1).length(globs.len());
            for glob in globs.iter() {
                out.text(glob.text());
            }
        }
    }
}

fn read_grant(from: &mut Reader) -> Result<Grant, Malformed> {
    match from.byte()? {
        0 => Ok(Grant::All),
        1 => {
            let globs = from.many(|from| {
                let text = from.string()?;
                let glob = Glob::parse(&text).ok().filter(|glob| glob.text() == text);
                glob.ok_or(Malformed("no such glob"))
            })?;
            Ok(Grant::Globs(globs.into()))
        }
        _ => Err(Malformed("no such grant")),
    }
}

fn write_id(out: &mut Writer, id: Option<&SessionId>) {
    out.optional(id, |out, id| {
        out.raw(&id.bytes());
    });
}

fn read_id(from: &mut Reader) -> Result<SessionId, Malformed> {
    Ok(SessionId::of_bytes(from.array()?))
}

fn read_traceparent(from: &mut Reader) -> Result<Traceparent, Malformed> {
    let text = from.string()?;
    let traceparent = Traceparent::parse(&text).filter(|parsed| parsed.as_str() == text);
    traceparent.ok_or(Malformed("a trace context that is none"))
}

fn read_path(from: &mut Reader) -> Result<Path, Malformed> {
    Path::parse(&from.string()?).map_err(|_| Malformed("a path that is none"))
}

/// A path, or the name of an upstream.
fn read_place_of_event(from: &mut Reader) -> Result<Path, Malformed> {
    let text = from.string()?;
    let path = Path::parse(&text).ok();
    let path = path.or_else(|| Name::parse(&text).ok().map(|name| Path::of_upstream(&name)));
    path.ok_or(Malformed("a path that is none"))
}

fn write_info(out: &mut Writer, info: &SessionInfo) {
    out.raw(&info.id.bytes()).text(info.path.as_str()).u64(info.opened_ms);
    match info.remote {
        None => out.byte(0),
        Some(SocketAddr::V4(remote)) => out.byte(4).raw(&remote.ip().octets()).u16(remote.port()),
        Some(SocketAddr::V6(remote)) => out.byte(6).raw(&remote.ip().octets()).u16(remote.port()),
    };
    out.optional(info.subprotocol.as_deref(), |out, text| {
        out.text(text);
    });
}

fn read_info(from: &mut Reader) -> Result<SessionInfo, Malformed> {
    let (id, path, opened_ms) = (read_id(from)?, read_path(from)?, from.u64()?);
    let ip = match from.byte()? {
        0 => None,
        4 => Some(IpAddr::from(from.array::<4>()?)),
        6 => Some(IpAddr::from(from.array::<16>()?)),
        _ => return Err(Malformed("no such address")),
    };
    let remote = match ip {
        Some(ip) => Some(SocketAddr::new(ip, from.u16()?)),
        None => None,
    };
    let subprotocol = from.optional(Reader::string)?;
    Ok(SessionInfo { id, path, opened_ms, remote, subprotocol })
}

#[cfg(test)]
mod tests;

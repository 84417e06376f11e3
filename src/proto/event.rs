//! Events: what backends hear of a session's life, as JSON on one line.
//!
//! One shape everywhere: server-sent events, streams, webhooks. Members may be added, those that
//! are there never change their meaning. An event's id is the same however often it is told, so
//! that whoever hears it twice can know.

use std::fmt::Write;

use bytes::Bytes;
use time::OffsetDateTime;

use crate::proto::close::{Cause, Close};
use crate::proto::json_string;
use crate::proto::session_id::{PodId, SessionId};

/// The last millisecond that RFC 3339 has a text for: the end of the year 9999.
const TIME_MS_MAX: u64 = 253_402_300_799_999;

/// What every event tells.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    pub session: &'a SessionId,
    /// The concrete path.
    pub path: &'a str,
    pub pod: &'a PodId,
    /// Counts the session's events from 0, which is its `connect`.
    pub seq: u64,
    /// When it happened: Unix time in milliseconds.
    pub time_ms: u64,
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    Connect {
        /// The client's address and port.
        remote: &'a str,
        subprotocol: Option<&'a str>,
        user: Option<&'a str>,
        origin: Option<&'a str>,
        /// Of the URL, without its `?`, not decoded.
        query: Option<&'a str>,
    },
    Message {
        /// As `proto::msg::from_client` made it: compact JSON, with `_session`.
        msg: &'a str,
    },
    Disconnect {
        close: &'a Close,
        cause: Cause,
    },
}

/// The event's id: `<session>-<seq>`, for the last one `<session>-end`, which whoever tells it can
/// know without having counted.
pub fn id(head: &Head<'_>, event: &Event<'_>) -> String {
    let mut id = String::with_capacity(64);
    push_id(&mut id, head, event);
    id
}

/// The event's type.
pub fn kind(event: &Event<'_>) -> &'static str {
    match event {
        Event::Connect { .. } => "connect",
        Event::Message { .. } => "message",
        Event::Disconnect { .. } => "disconnect",
    }
}

/// The event as JSON without any raw control character.
pub fn json(head: &Head<'_>, event: &Event<'_>) -> Bytes {
    let size = match event {
        Event::Message { msg } => msg.len(),
        _ => 256,
    };
    let mut out = String::with_capacity(size + head.path.len() + 256);
    out.push_str(r#"{"id":""#);
    push_id(&mut out, head, event);
    out.push('"');
    text(&mut out, "type", kind(event));
    text(&mut out, "path", head.path);
    text(&mut out, "session", head.session.text().as_str());
    number(&mut out, "seq", head.seq);
    member(&mut out, "time");
    push_time(&mut out, head.time_ms);
    text(&mut out, "pod", &head.pod.text());
    match *event {
        Event::Connect { remote, subprotocol, user, origin, query } => {
            text(&mut out, "remote", remote);
            let optional = [
                ("subprotocol", subprotocol),
                ("user", user),
                ("origin", origin),
                ("query", query),
            ];
            for (name, value) in optional {
                if let Some(value) = value {
                    text(&mut out, name, value);
                }
            }
        }
        Event::Message { msg } => {
            member(&mut out, "msg");
            out.push_str(msg);
        }
        Event::Disconnect { close, cause } => {
            number(&mut out, "code", close.code.into());
            text(&mut out, "reason", &close.reason);
            text(&mut out, "cause", cause.as_str());
        }
    }
    out.push('}');
    out.into()
}

fn push_id(out: &mut String, head: &Head<'_>, event: &Event<'_>) {
    out.push_str(head.session.text().as_str());
    match event {
        Event::Disconnect { .. } => out.push_str("-end"),
        _ => {
            out.push('-');
            push_number(out, head.seq);
        }
    }
}

/// RFC 3339, in UTC, with milliseconds, as a JSON string.
fn push_time(out: &mut String, time_ms: u64) {
    let nanoseconds = i128::from(time_ms.min(TIME_MS_MAX)) * 1_000_000;
    let time = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds)
        .expect("no later than the year 9999, no earlier than 1970");
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second, milli) = time.to_hms_milli();
    let month = u8::from(month);
    write!(out, "\"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z\"")
        .expect("a String takes everything");
}

fn push_number(out: &mut String, number: u64) {
    write!(out, "{number}").expect("a String takes everything");
}

fn member(out: &mut String, name: &str) {
    out.push_str(",\"");
    out.push_str(name);
    out.push_str("\":");
}

fn text(out: &mut String, name: &str, value: &str) {
    member(out, name);
    json_string::quote(value, out);
}

fn number(out: &mut String, name: &str, value: u64) {
    member(out, name);
    push_number(out, value);
}

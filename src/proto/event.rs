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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    const POD: PodId = PodId([1; 8]);
    const SESSION: SessionId = SessionId { pod: POD, shard: 2, random: [3; 16] };
    const HEAD: Head<'_> = Head {
        session: &SESSION,
        path: "/ws/rooms/a",
        pod: &POD,
        seq: 7,
        time_ms: 1_793_836_799_042,
    };

    /// `<session>` and `<pod>` stand for the texts of ours.
    #[track_caller]
    fn check(head: &Head<'_>, event: &Event<'_>, expected: &str) {
        let json = json(head, event);
        let text = std::str::from_utf8(&json).expect("text");
        let short = text
            .replace(&SESSION.to_string(), "<session>")
            .replace(&format!("\"{POD}\""), "\"<pod>\"");
        assert_eq!(short, expected);
        let read: Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(read["id"], id(head, event));
        assert_eq!(read["type"], kind(event));
    }

    #[test]
    fn a_connect_tells_who_came() {
        let connect = Event::Connect {
            remote: "192.0.2.7:54321",
            subprotocol: None,
            user: None,
            origin: None,
            query: None,
        };
        check(
            &Head { seq: 0, ..HEAD },
            &connect,
            r#"{"id":"<session>-0","type":"connect","path":"/ws/rooms/a","session":"<session>","seq":0,"time":"2026-11-04T23:59:59.042Z","pod":"<pod>","remote":"192.0.2.7:54321"}"#,
        );
        let connect = Event::Connect {
            remote: "[2001:db8::1]:1",
            subprotocol: Some("v1.chat"),
            user: Some("Jana \"J\" Nováková"),
            origin: Some("https://example.com"),
            query: Some(""),
        };
        check(
            &Head { seq: 0, ..HEAD },
            &connect,
            r#"{"id":"<session>-0","type":"connect","path":"/ws/rooms/a","session":"<session>","seq":0,"time":"2026-11-04T23:59:59.042Z","pod":"<pod>","remote":"[2001:db8::1]:1","subprotocol":"v1.chat","user":"Jana \"J\" Nováková","origin":"https://example.com","query":""}"#,
        );
    }

    #[test]
    fn a_message_carries_its_msg_as_it_is() {
        let msg = r#"{"payload":1.50,"_session":{"type":"websocket","id":"x"}}"#;
        check(
            &HEAD,
            &Event::Message { msg },
            r#"{"id":"<session>-7","type":"message","path":"/ws/rooms/a","session":"<session>","seq":7,"time":"2026-11-04T23:59:59.042Z","pod":"<pod>","msg":{"payload":1.50,"_session":{"type":"websocket","id":"x"}}}"#,
        );
    }

    #[test]
    fn a_disconnect_tells_how_it_ended() {
        check(
            &HEAD,
            &Event::Disconnect { close: &Close::new(4001, "by\ne"), cause: Cause::TooBig },
            r#"{"id":"<session>-end","type":"disconnect","path":"/ws/rooms/a","session":"<session>","seq":7,"time":"2026-11-04T23:59:59.042Z","pod":"<pod>","code":4001,"reason":"by\ne","cause":"too_big"}"#,
        );
    }

    #[track_caller]
    fn time(time_ms: u64, expected: &str) {
        let mut out = String::new();
        push_time(&mut out, time_ms);
        assert_eq!(out, format!("\"{expected}\""));
    }

    #[test]
    fn times_are_utc_with_milliseconds() {
        time(0, "1970-01-01T00:00:00.000Z");
        time(1, "1970-01-01T00:00:00.001Z");
        time(951_782_400_000, "2000-02-29T00:00:00.000Z");
        time(1_709_251_199_999, "2024-02-29T23:59:59.999Z");
        time(1_709_251_200_000, "2024-03-01T00:00:00.000Z");
        time(4_107_542_399_100, "2100-02-28T23:59:59.100Z");
        time(TIME_MS_MAX, "9999-12-31T23:59:59.999Z");
        time(u64::MAX, "9999-12-31T23:59:59.999Z");
    }

    proptest! {
        #[test]
        fn an_event_is_one_line_whatever_is_in_it(
            path: String,
            reason: String,
            user: String,
            query in prop::option::of(any::<String>()),
            seq: u64,
            time_ms: u64,
        ) {
            let head = Head { path: &path, seq, time_ms, ..HEAD };
            let close = Close::new(1000, reason);
            let connect = Event::Connect {
                remote: &user,
                subprotocol: query.as_deref(),
                user: Some(&user),
                origin: None,
                query: query.as_deref(),
            };
            for event in [connect, Event::Disconnect { close: &close, cause: Cause::Client }] {
                let json = json(&head, &event);
                prop_assert!(json.iter().all(|&byte| byte >= 0x20));
                let read: Value = serde_json::from_slice(&json)?;
                prop_assert_eq!(&read["path"], &path);
                prop_assert_eq!(read["seq"].as_u64(), Some(seq));
                if let Event::Connect { .. } = event {
                    prop_assert_eq!(&read["user"], &user);
                    prop_assert_eq!(read["query"].as_str(), query.as_deref());
                } else {
                    prop_assert_eq!(&read["reason"], &close.reason);
                }
            }
        }
    }
}

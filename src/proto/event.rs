//! Events: what backends hear of a session's life, as JSON on one line or as fields.
//!
//! One shape everywhere: server-sent events, streams, webhooks; so there is one list of members.
//! Members may be added, those that are there never change their meaning. An event's id is the same
//! however often it is told, so that whoever hears it twice can know.

use std::fmt::Write;

use bytes::Bytes;
use time::OffsetDateTime;

use crate::proto::close::{Cause, Close};
use crate::proto::json_string;
use crate::proto::session_id::{PodId, SessionId};
use crate::proto::traceparent::Traceparent;

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
    /// Of the request that it came with.
    pub traceparent: Option<&'a Traceparent>,
}

/// What every event of an upstream tells, which has no session and no path.
#[derive(Debug, Clone, Copy)]
pub struct Feed<'a> {
    pub upstream: &'a str,
    /// The pod that holds it.
    pub pod: &'a PodId,
    /// Counts the events that this pod tells of it, from 0.
    pub seq: u64,
    /// When it happened: Unix time in milliseconds.
    pub time_ms: u64,
}

/// Whom an event is about.
#[derive(Debug, Clone, Copy)]
pub enum About<'a> {
    Session(&'a Head<'a>),
    Upstream(&'a Feed<'a>),
}

impl<'a> From<&'a Head<'a>> for About<'a> {
    fn from(head: &'a Head<'a>) -> About<'a> {
        About::Session(head)
    }
}

impl<'a> From<&'a Feed<'a>> for About<'a> {
    fn from(feed: &'a Feed<'a>) -> About<'a> {
        About::Upstream(feed)
    }
}

/// An event's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Connect,
    Message,
    Disconnect,
}

/// A member's value.
enum Value<'a> {
    Text(&'a str),
    Number(u64),
    Json(&'a str),
}

impl Kind {
    /// As it stands in `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Connect => "connect",
            Kind::Message => "message",
            Kind::Disconnect => "disconnect",
        }
    }
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
/// know without having counted. Of an upstream always `<upstream>-<pod>-<seq>`, since connections
/// come and go there.
pub fn id<'a>(about: impl Into<About<'a>>, event: &Event<'_>) -> String {
    match about.into() {
        About::Session(head) => id_of(head.session, head.seq, kind(event)),
        About::Upstream(feed) => id_in(feed),
    }
}

/// The same, of whatever event of an upstream.
pub fn id_in(Feed { upstream, pod, seq, .. }: &Feed<'_>) -> String {
    format!("{upstream}-{pod}-{seq}")
}

/// The same, of a session's event that is not at hand.
pub fn id_of(session: &SessionId, seq: u64, kind: Kind) -> String {
    let mut id = String::with_capacity(64);
    id.push_str(session.text().as_str());
    match kind {
        Kind::Disconnect => id.push_str("-end"),
        Kind::Connect | Kind::Message => {
            id.push('-');
            push_number(&mut id, seq);
        }
    }
    id
}

/// The event's type.
pub fn kind(event: &Event<'_>) -> Kind {
    match event {
        Event::Connect { .. } => Kind::Connect,
        Event::Message { .. } => Kind::Message,
        Event::Disconnect { .. } => Kind::Disconnect,
    }
}

/// The event as JSON without any raw control character.
pub fn json<'a>(about: impl Into<About<'a>>, event: &Event<'_>) -> Bytes {
    let about = about.into();
    let place_bytes = match about {
        About::Session(head) => head.path.len(),
        About::Upstream(feed) => feed.upstream.len(),
    };
    let size = match event {
        Event::Message { msg } => msg.len(),
        _ => 256,
    };
    let mut out = String::with_capacity(size + place_bytes + 256);
    let mut before = '{';
    members(about, event, &mut |name, value| {
        out.push(before);
        before = ',';
        out.push('"');
        out.push_str(name);
        out.push_str("\":");
        match value {
            Value::Text(text) => json_string::quote(text, &mut out),
            Value::Number(number) => push_number(&mut out, number),
            Value::Json(json) => out.push_str(json),
        }
    });
    out.push('}');
    out.into()
}

/// The event as fields of the members' names: texts as they are, numbers in digits, `msg` as JSON.
pub fn fields<'a>(about: impl Into<About<'a>>, event: &Event<'_>) -> Vec<(&'static str, String)> {
    let mut fields = Vec::with_capacity(12);
    members(about.into(), event, &mut |name, value| {
        let text = match value {
            Value::Text(text) | Value::Json(text) => text.to_owned(),
            Value::Number(number) => number.to_string(),
        };
        fields.push((name, text));
    });
    fields
}

/// Every member, in the order of its writing.
fn members(about: About<'_>, event: &Event<'_>, member: &mut dyn FnMut(&'static str, Value<'_>)) {
    use Value::{Json, Number, Text};
    member("id", Text(&id(about, event)));
    member("type", Text(kind(event).as_str()));
    let (seq, time_ms, pod, traceparent) = match about {
        About::Session(head) => {
            member("path", Text(head.path));
            member("session", Text(head.session.text().as_str()));
            (head.seq, head.time_ms, head.pod, head.traceparent)
        }
        About::Upstream(feed) => {
            member("upstream", Text(feed.upstream));
            (feed.seq, feed.time_ms, feed.pod, None)
        }
    };
    member("seq", Number(seq));
    member("time", Text(&time(time_ms)));
    member("pod", Text(&pod.text()));
    if let Some(traceparent) = traceparent {
        member("traceparent", Text(traceparent.as_str()));
    }
    match *event {
        Event::Connect { remote, subprotocol, user, origin, query } => {
            member("remote", Text(remote));
            let optional = [
                ("subprotocol", subprotocol),
                ("user", user),
                ("origin", origin),
                ("query", query),
            ];
            for (name, value) in optional {
                if let Some(value) = value {
                    member(name, Text(value));
                }
            }
        }
        Event::Message { msg } => member("msg", Json(msg)),
        Event::Disconnect { close, cause } => {
            member("code", Number(close.code.into()));
            member("reason", Text(&close.reason));
            member("cause", Text(cause.as_str()));
        }
    }
}

/// RFC 3339, in UTC, with milliseconds.
pub fn time(time_ms: u64) -> String {
    let nanoseconds = i128::from(time_ms.min(TIME_MS_MAX)) * 1_000_000;
    let time = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds)
        .expect("no later than the year 9999, no earlier than 1970");
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second, milli) = time.to_hms_milli();
    let month = u8::from(month);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

fn push_number(out: &mut String, number: u64) {
    write!(out, "{number}").expect("a String takes everything");
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
        traceparent: None,
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
        assert_eq!(read["type"], kind(event).as_str());
        // The fields are the same members, in the same order.
        let members = read.as_object().expect("an object");
        let fields = fields(head, event);
        let names = fields.iter().map(|(name, _)| *name);
        assert!(names.eq(members.keys()), "{fields:?}");
        for (name, value) in &fields {
            match (*name, &members[*name]) {
                ("msg", msg) => assert_eq!(serde_json::from_str(value).ok().as_ref(), Some(msg)),
                (_, Value::String(text)) => assert_eq!(value, text),
                (_, other) => assert_eq!(value, &other.to_string()),
            }
        }
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
        let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let traceparent = Traceparent::parse(traceparent);
        check(
            &Head { seq: 0, traceparent: traceparent.as_ref(), ..HEAD },
            &connect,
            r#"{"id":"<session>-0","type":"connect","path":"/ws/rooms/a","session":"<session>","seq":0,"time":"2026-11-04T23:59:59.042Z","pod":"<pod>","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","remote":"192.0.2.7:54321"}"#,
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

    #[test]
    fn an_upstream_stands_in_the_place_of_a_session() {
        let feed = Feed { upstream: "feed", pod: &POD, seq: 4, time_ms: 1_793_836_799_042 };
        let event = Event::Message { msg: r#"{"payload":1.50}"# };
        let text = std::str::from_utf8(&json(&feed, &event)).expect("text").to_owned();
        assert_eq!(
            text.replace(&POD.to_string(), "<pod>"),
            r#"{"id":"feed-<pod>-4","type":"message","upstream":"feed","seq":4,"time":"2026-11-04T23:59:59.042Z","pod":"<pod>","msg":{"payload":1.50}}"#
        );
        let close = Close::new(1006, "");
        let event = Event::Disconnect { close: &close, cause: Cause::Network };
        assert_eq!(id(&feed, &event), format!("feed-{POD}-4"));
        let names: Vec<_> = fields(&feed, &event).into_iter().map(|(name, _)| name).collect();
        let all = ["id", "type", "upstream", "seq", "time", "pod", "code", "reason", "cause"];
        assert_eq!(names, all);
    }

    #[track_caller]
    fn time(time_ms: u64, expected: &str) {
        assert_eq!(super::time(time_ms), expected);
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

//! An event as CloudEvents 1.0 in binary mode: its attributes as HTTP headers.
//!
//! Sources: CloudEvents 1.0.2, and its HTTP protocol binding, section 3.1. The extensions are named as
//! that specification wants them, in lower case without separators: `sessionid`, `path`, `seq`, `pod`,
//! `upstream`.

use std::fmt::Write;

use crate::proto::event::{self, About, Kind};

/// The attributes as headers, in the order of their names, values as they go over the line.
pub fn headers<'a>(
    id: &str,
    kind: Kind,
    about: impl Into<About<'a>>,
) -> Vec<(&'static str, String)> {
    let (version, kind) = ("1.0".to_owned(), format!("pathcast.{}", kind.as_str()));
    match about.into() {
        About::Session(head) => {
            let session = head.session.text();
            vec![
                ("ce-id", encode(id)),
                ("ce-path", encode(head.path)),
                ("ce-pod", encode(&head.pod.text())),
                ("ce-seq", head.seq.to_string()),
                ("ce-sessionid", encode(session.as_str())),
                ("ce-source", encode(&format!("/pathcast{}", head.path))),
                ("ce-specversion", version),
                ("ce-subject", encode(session.as_str())),
                ("ce-time", event::time(head.time_ms)),
                ("ce-type", kind),
            ]
        }
        About::Upstream(feed) => vec![
            ("ce-id", encode(id)),
            ("ce-pod", encode(&feed.pod.text())),
            ("ce-seq", feed.seq.to_string()),
            // No path can be that: what follows `/pathcast` there begins with a slash.
            ("ce-source", encode(&format!("/pathcast-upstream/{}", feed.upstream))),
            ("ce-specversion", version),
            ("ce-subject", encode(feed.upstream)),
            ("ce-time", event::time(feed.time_ms)),
            ("ce-type", kind),
            ("ce-upstream", encode(feed.upstream)),
        ],
    }
}

/// Percent-encoding of a header's value (HTTP protocol binding, 3.1.3.2): space, quote, percent sign,
/// and everything that is not printable ASCII.
fn encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for char in value.chars() {
        if matches!(char, '!'..='~') && !matches!(char, '"' | '%') {
            out.push(char);
            continue;
        }
        for byte in char.encode_utf8(&mut [0; 4]).bytes() {
            write!(out, "%{byte:02X}").expect("a String takes everything");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::event::{Feed, Head};
    use crate::proto::session_id::{PodId, SessionId};

    #[track_caller]
    fn check(value: &str, expected: &str) {
        assert_eq!(encode(value), expected);
    }

    #[test]
    fn values_are_encoded_as_the_binding_says() {
        check("/ws/rooms/a", "/ws/rooms/a");
        check("/ws/a%20b", "/ws/a%2520b");
        // The binding's own example.
        check("Euro € 😀", "Euro%20%E2%82%AC%20%F0%9F%98%80");
        check("a\"b\r\n\u{7f}", "a%22b%0D%0A%7F");
        check("", "");
    }

    #[test]
    fn the_headers_are_sorted_and_tell_all_of_an_event() {
        let pod = PodId([1; 8]);
        let session = SessionId { pod, shard: 2, random: [3; 16] };
        let time_ms = 1_793_836_799_042;
        let head = Head {
            session: &session,
            path: "/ws/a",
            pod: &pod,
            seq: 7,
            time_ms,
            traceparent: None,
        };
        let id = format!("{session}-7");
        let headers = headers(&id, Kind::Message, &head);
        assert!(headers.is_sorted_by_key(|(name, _)| *name));
        let value = |wanted: &str| {
            let found = headers.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        assert_eq!(value("ce-id"), id);
        assert_eq!(value("ce-type"), "pathcast.message");
        assert_eq!(value("ce-source"), "/pathcast/ws/a");
        assert_eq!(value("ce-subject"), session.to_string());
        assert_eq!(value("ce-sessionid"), session.to_string());
        assert_eq!(value("ce-time"), "2026-11-04T23:59:59.042Z");
        assert_eq!((value("ce-seq"), value("ce-path")), ("7".to_owned(), "/ws/a".to_owned()));
        assert_eq!((value("ce-pod"), value("ce-specversion")), (pod.to_string(), "1.0".to_owned()));
    }

    #[test]
    fn an_upstream_is_the_subject_and_no_path_is_its_source() {
        let pod = PodId([1; 8]);
        let feed = Feed { upstream: "feed", pod: &pod, seq: 7, time_ms: 0 };
        let headers = headers("feed-x-7", Kind::Connect, &feed);
        assert!(headers.is_sorted_by_key(|(name, _)| *name));
        let pod = pod.to_string();
        let expected = [
            ("ce-id", "feed-x-7"),
            ("ce-pod", &pod),
            ("ce-seq", "7"),
            ("ce-source", "/pathcast-upstream/feed"),
            ("ce-specversion", "1.0"),
            ("ce-subject", "feed"),
            ("ce-time", "1970-01-01T00:00:00.000Z"),
            ("ce-type", "pathcast.connect"),
            ("ce-upstream", "feed"),
        ];
        assert!(headers.iter().map(|(name, value)| (*name, value.as_str())).eq(expected));
    }
}

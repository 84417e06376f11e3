//! What the body of an answer becomes for the client whose message was answered.

use bytes::Bytes;

use crate::proto::msg::{self, Content};
use crate::proto::webhook::label::{Form, Label, Unreadable};

/// Why a body cannot become a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("{0}")]
    Unreadable(#[from] Unreadable),
    #[error("it calls itself text, and is not UTF-8")]
    NotText,
    #[error("it calls itself JSON, and {0}")]
    NotAMsg(msg::Invalid),
}

/// `None`: there is nothing to send. On plain paths text and JSON become a text frame, everything else
/// a binary one; on those with `wholemsg` an object of JSON is the msg, any other value, text and octets are
/// the payload of one. For whom it is is known: a `_session` in it is removed, whatever it says.
pub fn content(wholemsg: bool, label: &Label<'_>, body: Bytes) -> Result<Option<Content>, Invalid> {
    if body.is_empty() {
        return Ok(None);
    }
    let content = match (label.form()?, wholemsg) {
        (Form::Octets, _) => Content::binary(body),
        (Form::Text, _) | (Form::Json, false) => {
            Content::text(String::from_utf8(body.into()).map_err(|_| Invalid::NotText)?)
        }
        (Form::Json, true) => match Content::parse(&body) {
            Ok(content) => content,
            Err(msg::Invalid::NotAnObject) => {
                let wrapped = [b"{\"payload\":", &*body, b"}"].concat();
                Content::parse(&wrapped).map_err(Invalid::NotAMsg)?
            }
            Err(invalid) => return Err(Invalid::NotAMsg(invalid)),
        },
    };
    Ok((!content.is_nothing(wholemsg)).then_some(content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::frame::Kind;

    #[track_caller]
    fn check(wholemsg: bool, content_type: &str, body: &[u8], expected: Option<(Kind, &str)>) {
        let body = Bytes::copy_from_slice(body);
        let content_type = (!content_type.is_empty()).then_some(content_type);
        let label = Label { content_type, ..Label::default() };
        let content = content(wholemsg, &label, body).expect("a good body");
        let frame = content.and_then(|content| content.frame(wholemsg));
        let frame = frame.map(|(kind, bytes)| (kind, String::from_utf8_lossy(&bytes).into_owned()));
        assert_eq!(frame, expected.map(|(kind, text)| (kind, text.to_owned())));
    }

    #[test]
    fn on_a_plain_path_the_content_type_picks_text_or_binary() {
        let (text, binary) = (Kind::Text, Kind::Binary);
        check(false, "text/plain", b"hi", Some((text, "hi")));
        check(false, "text/html; charset=utf-8", b"hi", Some((text, "hi")));
        check(false, "Application/JSON", b" {\"a\": 1.50 }", Some((text, " {\"a\": 1.50 }")));
        check(false, "application/problem+json", b"{}", Some((text, "{}")));
        check(false, "application/json", b"no json", Some((text, "no json")));
        check(false, "application/octet-stream", b"\x01\x02", Some((binary, "\x01\x02")));
        check(false, "image/png", b"x", Some((binary, "x")));
        check(false, "", b"x", Some((binary, "x")));
        check(false, "text/plain", b"", None);
        check(false, "application/octet-stream", b"", None);
    }

    #[test]
    fn on_a_wholemsg_path_it_becomes_a_msg() {
        let text = Kind::Text;
        check(
            true,
            "application/json",
            br#" {"payload":1.50,"_session":{"type":"websocket","id":"x"},"topic":"t"} "#,
            Some((text, r#"{"payload":1.50,"topic":"t"}"#)),
        );
        for session in ["7", "null", "\"x\"", "{}", r#"{"type":"websocket"}"#] {
            let body = format!(r#"{{"_session":{session},"payload":1}}"#);
            check(true, "application/json", body.as_bytes(), Some((text, r#"{"payload":1}"#)));
        }
        check(true, "application/json", b"[1]", Some((text, r#"{"payload":[1]}"#)));
        check(true, "application/json", b" 7 ", Some((text, r#"{"payload":7}"#)));
        check(true, "text/plain", b"{}", Some((text, r#"{"payload":"{}"}"#)));
        check(
            true,
            "application/octet-stream",
            b"\x00\xff",
            Some((text, r#"{"payload":{"type":"Buffer","data":"AP8="}}"#)),
        );
        check(true, "application/json", b"", None);
    }

    #[test]
    fn what_is_not_what_it_says_is_no_reply() {
        let of = |wholemsg, content_type, body: &'static [u8]| {
            let label = Label { content_type: Some(content_type), ..Label::default() };
            content(wholemsg, &label, Bytes::from_static(body)).err()
        };
        let latin = of(false, "text/plain; charset=latin1", b"x");
        assert_eq!(latin, Some(Unreadable::Charset("latin1".to_owned()).into()));
        assert_eq!(of(false, "text/plain", b"\xff"), Some(Invalid::NotText));
        assert_eq!(of(false, "application/json", b"\xff"), Some(Invalid::NotText));
        assert_eq!(of(true, "text/plain", b"\xff"), Some(Invalid::NotText));
        for body in [b"{".as_slice(), b"<html>", b"\xff"] {
            assert!(matches!(of(true, "application/json", body), Some(Invalid::NotAMsg(_))));
        }
    }
}

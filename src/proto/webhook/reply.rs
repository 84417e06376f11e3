//! What the body of an answer becomes for the client whose message was answered.

use bytes::Bytes;

use crate::proto::msg::{self, Content, Msg};

/// Why a body cannot become a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("it calls itself text, and is not UTF-8")]
    NotText,
    #[error("it calls itself JSON, and {0}")]
    NotAMsg(msg::Invalid),
}

/// How a content type is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Json,
    Octets,
}

/// `None`: there is nothing to send. On plain paths text and JSON become a text frame, everything else
/// a binary one; on those with `wholemsg` an object of JSON is the msg, any other value, text and octets are
/// the payload of one.
pub fn content(
    wholemsg: bool,
    content_type: Option<&str>,
    body: Bytes,
) -> Result<Option<Content>, Invalid> {
    if body.is_empty() {
        return Ok(None);
    }
    let content = match (form(content_type), wholemsg) {
        (Form::Octets, _) => Content::binary(body),
        (Form::Text, _) | (Form::Json, false) => {
            Content::text(String::from_utf8(body.into()).map_err(|_| Invalid::NotText)?)
        }
        (Form::Json, true) => match Msg::parse(&body) {
            Ok(msg) => msg.content,
            Err(msg::Invalid::NotAnObject) => {
                let wrapped = [b"{\"payload\":", &*body, b"}"].concat();
                Msg::parse(&wrapped).map_err(Invalid::NotAMsg)?.content
            }
            Err(invalid) => return Err(Invalid::NotAMsg(invalid)),
        },
    };
    Ok((!content.is_nothing(wholemsg)).then_some(content))
}

/// Parameters, such as a charset, say nothing here: frames are UTF-8.
fn form(content_type: Option<&str>) -> Form {
    let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default();
    let essence = essence.trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" => Form::Json,
        _ if essence.starts_with("application/") && essence.ends_with("+json") => Form::Json,
        _ if essence.starts_with("text/") => Form::Text,
        _ => Form::Octets,
    }
}

/// Whether a content type is one of JSON.
pub fn is_json(content_type: Option<&str>) -> bool {
    form(content_type) == Form::Json
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::frame::Kind;

    #[track_caller]
    fn check(wholemsg: bool, content_type: &str, body: &[u8], expected: Option<(Kind, &str)>) {
        let body = Bytes::copy_from_slice(body);
        let content_type = (!content_type.is_empty()).then_some(content_type);
        let content = content(wholemsg, content_type, body).expect("a good body");
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
            content(wholemsg, Some(content_type), Bytes::from_static(body)).err()
        };
        assert_eq!(of(false, "text/plain", b"\xff"), Some(Invalid::NotText));
        assert_eq!(of(false, "application/json", b"\xff"), Some(Invalid::NotText));
        assert_eq!(of(true, "text/plain", b"\xff"), Some(Invalid::NotText));
        for body in [b"{".as_slice(), b"<html>", b"\xff", br#"{"payload":1,"_session":7}"#] {
            assert!(matches!(of(true, "application/json", body), Some(Invalid::NotAMsg(_))));
        }
    }
}

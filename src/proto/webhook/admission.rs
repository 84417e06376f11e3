//! What the answer to a `connect` says of the client that waits: who it is, or that it may not come.

use serde_json::Value;

use crate::proto::webhook::label::{Form, Label, Unreadable};

/// The longest name of a user: it is in events, so it has to have a bound.
const USER_BYTES_MAX: usize = 1024;

/// The longest line that a client is told.
const LINE_CHARS_MAX: usize = 200;

/// What a client is told whose backend gives no reason.
const NO_REASON: &str = "the backend of this path refuses you";

/// What a backend may say of a client that it lets in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    pub user: Option<String>,
    pub subprotocol: Option<String>,
}

/// Why an answer that lets a client in makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("its answer to a connect is not a JSON object")]
    NotAnObject,
    #[error("its answer to a connect is larger than it may be")]
    TooLarge,
    #[error("its answer to a connect cannot be read: {0}")]
    Unreadable(#[from] Unreadable),
    #[error("{0} in its answer to a connect is not a text of 1 to {USER_BYTES_MAX} bytes")]
    NotAText(&'static str),
}

/// Of an answer's body: whatever is not JSON is only politeness, and says nothing, however it is labelled
/// and however large. `None`: it was too large to be read.
pub fn named(label: &Label<'_>, body: Option<&[u8]>) -> Result<Named, Invalid> {
    if label.kind() != Form::Json || body.is_some_and(|body| body.trim_ascii().is_empty()) {
        return Ok(Named::default());
    }
    label.form()?;
    let body = body.ok_or(Invalid::TooLarge)?;
    let answer: Value = serde_json::from_slice(body).map_err(|_| Invalid::NotAnObject)?;
    let Value::Object(members) = answer else { return Err(Invalid::NotAnObject) };
    let text = |name: &'static str| match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if (1..=USER_BYTES_MAX).contains(&text.len()) => {
            Ok(Some(text.clone()))
        }
        Some(_) => Err(Invalid::NotAText(name)),
    };
    Ok(Named { user: text("user")?, subprotocol: text("subprotocol")? })
}

/// The status that a refused client gets, of the one that its backend answered. Those which say
/// something about this request, not about the backend's, would mislead: they become 403.
pub fn status(status: u16) -> u16 {
    match status {
        400..=404 | 406 | 409 | 410 | 422 | 423 | 429 | 451 => status,
        _ => 403,
    }
}

/// The line that a refused client gets: the first one of the body, as far as it can be shown.
pub fn line(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let first = text.trim_start().chars().take_while(|char| !char.is_control());
    let line: String = first.take(LINE_CHARS_MAX).collect();
    match line.trim_end() {
        "" => NO_REASON.to_owned(),
        line => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, expected: Result<(Option<&str>, Option<&str>), Invalid>) {
        let expected = expected.map(|(user, subprotocol)| Named {
            user: user.map(str::to_owned),
            subprotocol: subprotocol.map(str::to_owned),
        });
        let (body, label) = (Some(body.as_bytes()), label("application/json"));
        assert_eq!(named(&label, body), expected, "{body:?}");
    }

    fn label(content_type: &str) -> Label<'_> {
        Label { content_type: Some(content_type), ..Label::default() }
    }

    #[test]
    fn an_answer_may_name_user_and_subprotocol() {
        check("", Ok((None, None)));
        check(" \n", Ok((None, None)));
        check("{}", Ok((None, None)));
        check(r#"{"user":"jana","more":1}"#, Ok((Some("jana"), None)));
        check(r#"{"user":null,"subprotocol":"v2"}"#, Ok((None, Some("v2"))));
        check("[]", Err(Invalid::NotAnObject));
        check("{", Err(Invalid::NotAnObject));
        check(r#"{"user":7}"#, Err(Invalid::NotAText("user")));
        check(r#"{"user":""}"#, Err(Invalid::NotAText("user")));
        check(r#"{"subprotocol":["v2"]}"#, Err(Invalid::NotAText("subprotocol")));
        let long = format!(r#"{{"user":"{}"}}"#, "x".repeat(USER_BYTES_MAX + 1));
        check(&long, Err(Invalid::NotAText("user")));
    }

    #[test]
    fn what_is_no_json_says_nothing_and_json_has_to_be_read() {
        let gzipped = |label| Label { encodings: vec!["gzip"], ..label };
        for body in [Some(&b"OK"[..]), Some(b"\xff"), None] {
            for label in [label("text/plain"), label("text/plain; charset=x"), Label::default()] {
                assert_eq!(named(&label, body), Ok(Named::default()));
                assert_eq!(named(&gzipped(label), body), Ok(Named::default()));
            }
        }
        let json = label("application/json");
        assert_eq!(named(&json, None), Err(Invalid::TooLarge));
        let encoded = Unreadable::Encoded("gzip".to_owned());
        assert_eq!(named(&gzipped(json), Some(b"{}")), Err(encoded.into()));
    }

    #[test]
    fn a_reason_is_one_line_that_can_be_shown() {
        for (body, expected) in [
            ("no seats left", "no seats left"),
            ("\n no seats \r\nSet-Cookie: x", "no seats"),
            ("a\u{1b}[31mb", "a"),
            ("čtyři", "čtyři"),
            ("", NO_REASON),
            ("\0", NO_REASON),
        ] {
            assert_eq!(line(body.as_bytes()), expected);
        }
        assert_eq!(line(&[b'x'; 5_000]).len(), LINE_CHARS_MAX);
        assert_eq!(line(b"\xffx"), "\u{fffd}x");
    }

    #[test]
    fn a_status_that_would_mislead_becomes_403() {
        for same in [400, 401, 402, 403, 404, 409, 410, 422, 429, 451] {
            assert_eq!(status(same), same);
        }
        for odd in [405, 407, 411, 413, 415, 417, 418, 421, 426, 431, 499] {
            assert_eq!(status(odd), 403);
        }
    }
}

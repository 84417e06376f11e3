//! What the head of an answer says of its body: how it is to be read, or why it cannot be.
//!
//! No request asks for an encoding or a charset, so only bodies as they are, and UTF-8, are read.

use crate::proto::content_type::{charsets, is_utf8};

/// What is told of an encoding or a charset: their names are short.
const NAME_CHARS_MAX: usize = 40;

/// The headers that speak of a body.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Label<'a> {
    pub content_type: Option<&'a str>,
    /// The values of `Content-Encoding`.
    pub encodings: Vec<&'a str>,
}

/// How a content type is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Text,
    Json,
    Octets,
}

/// Why a body cannot be read, whatever is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("it has the Content-Encoding {0:?}: bodies are taken only as they are")]
    Encoded(String),
    #[error("its Content-Type has the charset {0:?}: texts and JSON are taken only as UTF-8")]
    Charset(String),
}

impl Label<'_> {
    /// # Errors
    /// Where a body so labelled cannot be read.
    pub fn form(&self) -> Result<Form, Unreadable> {
        if let Some(encoding) = self.encoding() {
            return Err(Unreadable::Encoded(shown(encoding)));
        }
        let form = self.kind();
        match self.charset() {
            Some(charset) if form != Form::Octets => {
                // The latter is no registered name, and one that backends use.
                match is_utf8(charset) || charset.eq_ignore_ascii_case("ascii") {
                    true => Ok(form),
                    false => Err(Unreadable::Charset(shown(charset))),
                }
            }
            _ => Ok(form),
        }
    }

    /// By the content type alone.
    pub fn kind(&self) -> Form {
        let essence = self.content_type.unwrap_or_default().split(';').next().unwrap_or_default();
        let essence = essence.trim().to_ascii_lowercase();
        match essence.as_str() {
            "application/json" => Form::Json,
            _ if essence.starts_with("application/") && essence.ends_with("+json") => Form::Json,
            _ if essence.starts_with("text/") => Form::Text,
            _ => Form::Octets,
        }
    }

    /// The first encoding that changes anything (RFC 9110, 8.4).
    pub fn encoding(&self) -> Option<&str> {
        let encodings = self.encodings.iter().flat_map(|one| one.split(',')).map(str::trim);
        let mut encodings = encodings.filter(|one| !one.is_empty());
        encodings.find(|one| !one.eq_ignore_ascii_case("identity"))
    }

    fn charset(&self) -> Option<&str> {
        charsets(self.content_type?).next()
    }
}

fn shown(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(content_type: &str, expected: Result<Form, &str>) {
        let label = Label { content_type: Some(content_type), encodings: Vec::new() };
        let expected = expected.map_err(|charset| Unreadable::Charset(charset.to_owned()));
        assert_eq!(label.form(), expected, "{content_type}");
    }

    #[test]
    fn a_charset_other_than_utf8_is_refused_where_there_are_characters() {
        check("text/plain", Ok(Form::Text));
        check("text/html; charset=utf-8", Ok(Form::Text));
        check("text/plain; format=flowed; Charset=\"UTF-8\"", Ok(Form::Text));
        check("text/plain;charset=us-ascii", Ok(Form::Text));
        check("application/problem+json ; charset=utf8", Ok(Form::Json));
        check("text/plain; charset=iso-8859-1", Err("iso-8859-1"));
        check("application/json; charset=\"UTF-16\"", Err("UTF-16"));
        check("text/plain; charset=", Err(""));
        check("image/svg; charset=latin1", Ok(Form::Octets));
        check(&format!("text/x; charset={}", "x".repeat(99)), Err(&"x".repeat(NAME_CHARS_MAX)));
    }

    #[test]
    fn an_encoded_body_is_refused_whatever_it_is() {
        let form = |encodings: &[&'static str]| {
            Label { content_type: None, encodings: encodings.to_vec() }.form()
        };
        for nothing in [&[][..], &["identity"], &["", " Identity , "]] {
            assert_eq!(form(nothing), Ok(Form::Octets));
        }
        for encoded in [&["gzip"][..], &["identity, gzip"], &["identity", "gzip"]] {
            assert_eq!(form(encoded), Err(Unreadable::Encoded("gzip".to_owned())));
        }
    }
}

//! Stub of the msg: what publishers send and backends hear (DESIGN section 2).

use bytes::Bytes;
use serde_json::Value;

use crate::proto::frame::Kind;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Msg {
    pub content: Content,
    pub session: Address,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    All,
    One(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("not JSON: {detail}")]
    NotJson { detail: String },
    #[error("a msg is a JSON object")]
    NotAnObject,
    #[error("malformed _session")]
    Session,
    #[error("malformed Buffer: {0}")]
    Buffer(&'static str),
}

/// What is to be sent, without to whom. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content(Option<(Kind, Bytes)>);

impl Content {
    pub fn text(text: String) -> Content {
        Content((!text.is_empty()).then(|| (Kind::Text, text.into())))
    }

    pub fn binary(bytes: Bytes) -> Content {
        Content(Some((Kind::Binary, bytes)))
    }

    /// What goes on the wire on a path with this `wholemsg`; `None`: nothing to send.
    pub fn frame(&self, wholemsg: bool) -> Option<(Kind, Bytes)> {
        let _ = wholemsg;
        self.0.clone()
    }
}

impl Msg {
    pub fn parse(bytes: &[u8]) -> Result<Msg, Invalid> {
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|error| Invalid::NotJson { detail: error.to_string() })?;
        let Value::Object(object) = value else { return Err(Invalid::NotAnObject) };
        let session = match object.get("_session") {
            None | Some(Value::Null) => Address::All,
            Some(given) if given["type"] == "websocket" => {
                Address::One(given["id"].as_str().ok_or(Invalid::Session)?.to_owned())
            }
            Some(_) => return Err(Invalid::Session),
        };
        let content = match object.get("payload") {
            None => Content(None),
            Some(Value::String(text)) => Content::text(text.clone()),
            Some(buffer) if buffer["type"] == "Buffer" => match &buffer["data"] {
                Value::Array(_) => Content::binary(Bytes::from_static(b"stub")),
                _ => return Err(Invalid::Buffer("data")),
            },
            Some(other) => Content(Some((Kind::Text, other.to_string().into()))),
        };
        Ok(Msg { content, session })
    }
}

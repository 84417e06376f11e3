//! The msg: what publishers send and backends hear.
//!
//! A publisher's msg is scanned once, at the door; one compact copy of it travels on. What goes to
//! clients, its payload or the whole of it, is cut from that copy when it is known which of the two
//! a path wants. `_session` is for the gateway alone: it never goes to a client, and a client's own
//! never comes to a backend.

use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::proto::frame::Kind;
use crate::proto::json;
use crate::proto::json_string;
use crate::proto::session_id::SessionId;

/// What a publisher asks for: send this, to these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Msg {
    pub content: Content,
    pub session: Address,
}

/// To whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// No `_session`: everybody on the path.
    All,
    /// The session with this id: the text as it came, which may be no id of ours at all.
    One(String),
}

/// Why bytes are no msg that can be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("the msg is not JSON: {0}")]
    NotJson(#[from] json::Invalid),
    #[error("a msg is a JSON object: send {{\"payload\":…}} with your value as the payload")]
    NotAnObject,
    /// Present, but of another shape. Refused, lest a private reply go to everybody.
    #[error(
        "_session names one session as {{\"type\":\"websocket\",\"id\":\"…\"}}, as its events do: \
         pass theirs on unchanged, or leave it out to reach everybody on the path"
    )]
    Session,
    #[error(
        "a payload of type \"Buffer\" holds its bytes in data, as an array of integers from 0 to \
         255 or as padded standard base64: here {0}"
    )]
    Buffer(&'static str),
}

/// What is to be sent, without to whom. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content(Form);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    /// Nothing but a payload: this text, UTF-8.
    Text(Bytes),
    /// Nothing but a payload: a Buffer of these bytes.
    Binary(Bytes),
    /// `whole` is the compact msg without its `_session`, UTF-8.
    Msg { whole: Bytes, payload: Payload },
}

/// A msg's payload; ranges are those of `whole`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Payload {
    /// None, or the empty string.
    Nothing,
    /// A string without escapes, between its quotes.
    Plain(Range<usize>),
    /// A string with escapes, between its quotes.
    Escaped(Range<usize>),
    /// A Buffer's bytes: decoded at the door, since only that proves them good.
    Buffer(Bytes),
    /// Any other value.
    Json(Range<usize>),
}

impl Msg {
    /// Takes a msg as it was published: one JSON object.
    ///
    /// # Errors
    /// `NotJson` and `NotAnObject` are about the text (400), the others about its meaning (422).
    pub fn parse(json: &[u8]) -> Result<Msg, Invalid> {
        let compact = json::compact(json)?;
        if !compact.is_object() {
            return Err(Invalid::NotAnObject);
        }
        let session = named(&compact, "_session");
        let address = match &session {
            Some(session) => address(&compact.text()[session.value.clone()])?,
            None => Address::All,
        };
        let mut payload = match named(&compact, "payload") {
            Some(payload) => read_payload(compact.text(), payload.value)?,
            None => Payload::Nothing,
        };
        let gone = session.map(|session| with_its_comma(compact.text(), session.whole));
        let mut whole = compact.into_text();
        if let Some(gone) = gone {
            whole.drain(gone.clone());
            payload.left_by(gone);
        }
        Ok(Msg { content: Content(Form::Msg { whole: whole.into(), payload }), session: address })
    }
}

impl Content {
    /// A text payload and nothing else.
    pub fn text(text: String) -> Content {
        Content(Form::Text(text.into()))
    }

    /// A binary payload and nothing else: a Buffer.
    pub fn binary(bytes: Bytes) -> Content {
        Content(Form::Binary(bytes))
    }

    /// What it holds, in bytes.
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::Text(bytes) | Form::Binary(bytes) => bytes.len(),
            Form::Msg { whole, payload: Payload::Buffer(buffer) } => whole.len() + buffer.len(),
            Form::Msg { whole, .. } => whole.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What goes on the wire on a path with this `wholemsg`; `None`: nothing to send, which happens
    /// on payload paths only, where there is no payload or an empty string. (An empty Buffer is an
    /// empty frame.)
    ///
    /// A text frame is UTF-8. Only payload strings with escapes and whole msgs of a lone payload are
    /// made anew; all else shares the memory of the content.
    pub fn frame(&self, wholemsg: bool) -> Option<(Kind, Bytes)> {
        let frame = match (&self.0, wholemsg) {
            (Form::Text(text), false) if text.is_empty() => return None,
            (Form::Text(text), false) => (Kind::Text, text.clone()),
            (Form::Binary(bytes), false) => (Kind::Binary, bytes.clone()),
            (Form::Text(text), true) => (Kind::Text, text_msg(utf8(text)).into()),
            (Form::Binary(bytes), true) => (Kind::Text, binary_msg(bytes).into()),
            (Form::Msg { whole, .. }, true) => (Kind::Text, whole.clone()),
            (Form::Msg { whole, payload }, false) => match payload {
                Payload::Nothing => return None,
                Payload::Plain(range) | Payload::Json(range) => {
                    (Kind::Text, whole.slice(range.clone()))
                }
                Payload::Escaped(range) => {
                    let text = json_string::unescape(utf8(&whole[range.clone()]));
                    (Kind::Text, text.into_owned().into())
                }
                Payload::Buffer(bytes) => (Kind::Binary, bytes.clone()),
            },
        };
        Some(frame)
    }
}

/// The msg, as compact JSON, that a backend hears of a client's message. Its last member is always
/// `_session`, naming the session it came from.
///
/// Without `wholemsg` the message is the payload. With it, text and binary alike are read as JSON:
/// an object is the msg itself, any other value its payload; what is no JSON is the payload as it is.
pub fn from_client(wholemsg: bool, kind: Kind, data: &[u8], session: &SessionId) -> String {
    let read = if wholemsg { json::compact(data).ok() } else { None };
    let mut msg = match read {
        Some(compact) if compact.is_object() => {
            let theirs = named(&compact, "_session")
                .map(|theirs| with_its_comma(compact.text(), theirs.whole));
            let mut msg = compact.into_text();
            msg.drain(theirs.unwrap_or(0..0));
            msg
        }
        Some(value) => format!(r#"{{"payload":{}}}"#, value.text()),
        None => match kind {
            Kind::Text => text_msg(&String::from_utf8_lossy(data)),
            Kind::Binary => binary_msg(data),
        },
    };
    // Instead of the closing brace: one more member.
    msg.pop();
    if msg.len() > 1 {
        msg.push(',');
    }
    msg.push_str(r#""_session":{"type":"websocket","id":""#);
    msg.push_str(session.text().as_str());
    msg.push_str(r#""}}"#);
    msg
}

impl Payload {
    /// Moves to where it stands after this, which was outside of it, has gone from `whole`.
    fn left_by(&mut self, gone: Range<usize>) {
        if let Payload::Plain(range) | Payload::Escaped(range) | Payload::Json(range) = self
            && range.start > gone.start
        {
            *range = range.start - gone.len()..range.end - gone.len();
        }
    }
}

/// The one top-level member of this name.
fn named<'a>(compact: &'a json::Compact, name: &str) -> Option<json::Member<'a>> {
    compact.members().find(|member| json_string::is(member.name, name))
}

/// What has to go so that a member goes: itself and the comma that it leaves over.
fn with_its_comma(object: &str, member: Range<usize>) -> Range<usize> {
    let bytes = object.as_bytes();
    if bytes[member.end] == b',' {
        member.start..member.end + 1
    } else if bytes[member.start - 1] == b',' {
        member.start - 1..member.end
    } else {
        member
    }
}

fn address(session: &str) -> Result<Address, Invalid> {
    if session == "null" {
        return Ok(Address::All);
    }
    let (mut is_websocket, mut id) = (false, None);
    for (name, value) in json::parts(session) {
        match name {
            Some(name) if json_string::is(name, "type") => {
                is_websocket = string(value).is_some_and(|text| json_string::is(text, "websocket"));
            }
            Some(name) if json_string::is(name, "id") => id = string(value),
            _ => {}
        }
    }
    match id {
        Some(id) if is_websocket => Ok(Address::One(json_string::unescape(id).into_owned())),
        _ => Err(Invalid::Session),
    }
}

fn read_payload(text: &str, range: Range<usize>) -> Result<Payload, Invalid> {
    let value = &text[range.clone()];
    let inner = range.start + 1..range.end - 1;
    match string(value) {
        Some("") => return Ok(Payload::Nothing),
        Some(text) if text.contains('\\') => return Ok(Payload::Escaped(inner)),
        Some(_) => return Ok(Payload::Plain(inner)),
        None => {}
    }
    match buffer_data(value) {
        Some(data) => Ok(Payload::Buffer(octets(data).map_err(Invalid::Buffer)?.into())),
        None => Ok(Payload::Json(range)),
    }
}

/// The data of a value shaped like a Buffer: an object of exactly `type`, "Buffer", and `data`.
fn buffer_data(value: &str) -> Option<&str> {
    if !value.starts_with('{') {
        return None;
    }
    let (mut is_buffer, mut data) = (false, None);
    for (name, value) in json::parts(value) {
        let name = name?;
        if json_string::is(name, "type") && json_string::is(string(value)?, "Buffer") {
            is_buffer = true;
        } else if json_string::is(name, "data") {
            data = Some(value);
        } else {
            return None;
        }
    }
    data.filter(|_| is_buffer)
}

/// A Buffer's bytes from its data; else what is wrong with it.
fn octets(data: &str) -> Result<Vec<u8>, &'static str> {
    if let Some(base64) = string(data) {
        let base64 = json_string::unescape(base64);
        return STANDARD.decode(&*base64).map_err(|_| "the base64 is malformed");
    }
    match data.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        None => Err("it is neither"),
        Some("") => Ok(Vec::new()),
        // Whatever else holds a comma does not read as a number either.
        Some(elements) => elements
            .split(',')
            .map(|element| element.parse().map_err(|_| "an element is something else"))
            .collect(),
    }
}

/// What stands between the quotes, if the value is a string.
fn string(value: &str) -> Option<&str> {
    value.strip_prefix('"')?.strip_suffix('"')
}

fn text_msg(text: &str) -> String {
    let mut msg = String::with_capacity(text.len() + 128);
    msg.push_str(r#"{"payload":"#);
    json_string::quote(text, &mut msg);
    msg.push('}');
    msg
}

fn binary_msg(bytes: &[u8]) -> String {
    let mut msg = String::with_capacity(bytes.len() / 3 * 4 + 128);
    msg.push_str(r#"{"payload":{"type":"Buffer","data":""#);
    STANDARD.encode_string(bytes, &mut msg);
    msg.push_str(r#""}}"#);
    msg
}

fn utf8(text: &[u8]) -> &str {
    std::str::from_utf8(text).expect("it was cut from a String, at quotes")
}

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
use crate::proto::wire::{Malformed, Reader, Writer};

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
    /// A string with escapes, between its quotes; and what it says, read once at the door.
    Escaped(Range<usize>, Bytes),
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
        Msg::read(json, address)
    }

    fn read(
        json: &[u8],
        address: impl FnOnce(&str) -> Result<Address, Invalid>,
    ) -> Result<Msg, Invalid> {
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
    /// Takes a msg that is for somebody who is known without it, as `Msg::parse` does otherwise: whatever
    /// its `_session` is, it is removed.
    ///
    /// # Errors
    /// As of `Msg::parse`, without `Session`.
    pub fn parse(json: &[u8]) -> Result<Content, Invalid> {
        Msg::read(json, |_| Ok(Address::All)).map(|msg| msg.content)
    }

    /// A text payload and nothing else.
    pub fn text(text: String) -> Content {
        Content(Form::Text(text.into()))
    }

    /// A binary payload and nothing else: a Buffer.
    pub fn binary(bytes: Bytes) -> Content {
        Content(Form::Binary(bytes))
    }

    /// What it holds, in bytes.
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Form::Text(bytes) | Form::Binary(bytes) => bytes.len(),
            Form::Msg { whole, payload: Payload::Buffer(more) | Payload::Escaped(_, more) } => {
                whole.len() + more.len()
            }
            Form::Msg { whole, .. } => whole.len(),
        }
    }

    /// Whether there is nothing to send on a path with this `wholemsg`: `frame` would say `None`.
    pub fn is_nothing(&self, wholemsg: bool) -> bool {
        !wholemsg
            && match &self.0 {
                Form::Text(text) => text.is_empty(),
                Form::Binary(_) => false,
                Form::Msg { payload, .. } => *payload == Payload::Nothing,
            }
    }

    /// Writes it as it is in memory, so that whoever reads it need not parse it again.
    pub fn write(&self, out: &mut Writer) {
        match &self.0 {
            Form::Text(text) => out.byte(0).bytes(text),
            Form::Binary(bytes) => out.byte(1).bytes(bytes),
            Form::Msg { whole, payload } => {
                out.byte(2).bytes(whole);
                match payload {
                    Payload::Nothing => out.byte(0),
                    Payload::Plain(range) => out.byte(1).range(range),
                    Payload::Escaped(range, _) => out.byte(2).range(range),
                    Payload::Buffer(bytes) => out.byte(3).bytes(bytes),
                    Payload::Json(range) => out.byte(4).range(range),
                }
            }
        };
    }

    /// Reads what `write` wrote, sharing its memory. That texts are UTF-8 and a payload lies within
    /// its msg, at characters' edges, is made sure of; that the msg is JSON is not.
    pub fn read(from: &mut Reader) -> Result<Content, Malformed> {
        let form = match from.byte()? {
            0 => Form::Text(from.text()?),
            1 => Form::Binary(from.bytes()?),
            2 => {
                let whole = from.text()?;
                let payload = match from.byte()? {
                    0 => Payload::Nothing,
                    1 => Payload::Plain(from.range(&whole)?),
                    2 => {
                        let range = from.range(&whole)?;
                        let text = utf8(&whole[range.clone()]);
                        Payload::escaped(range, text)
                    }
                    3 => Payload::Buffer(from.bytes()?),
                    4 => Payload::Json(from.range(&whole)?),
                    _ => return Err(Malformed("no such payload")),
                };
                Form::Msg { whole, payload }
            }
            _ => return Err(Malformed("no such content")),
        };
        Ok(Content(form))
    }

    /// What goes on the wire on a path with this `wholemsg`; `None`: nothing to send, which happens
    /// on payload paths only, where there is no payload or an empty string. (An empty Buffer is an
    /// empty frame.)
    ///
    /// A text frame is UTF-8. Only whole msgs of a lone payload are made anew; all else shares the
    /// memory of the content.
    pub fn frame(&self, wholemsg: bool) -> Option<(Kind, Bytes)> {
        if self.is_nothing(wholemsg) {
            return None;
        }
        let frame = match (&self.0, wholemsg) {
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
                Payload::Escaped(_, text) => (Kind::Text, text.clone()),
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
    let mut msg = from_upstream(wholemsg, kind, data);
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

/// The same of what came from an upstream: without any `_session`, since there is none.
pub fn from_upstream(wholemsg: bool, kind: Kind, data: &[u8]) -> String {
    let read = if wholemsg { json::compact(data).ok() } else { None };
    match read {
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
    }
}

impl Payload {
    /// `text` is what stands at `range`.
    fn escaped(range: Range<usize>, text: &str) -> Payload {
        Payload::Escaped(range, json_string::unescape(text).into_owned().into())
    }

    /// Moves to where it stands after this, which was outside of it, has gone from `whole`.
    fn left_by(&mut self, gone: Range<usize>) {
        if let Payload::Plain(range) | Payload::Escaped(range, _) | Payload::Json(range) = self
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
        Some(text) if text.contains('\\') => return Ok(Payload::escaped(inner, text)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::session_id::PodId;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn text(text: &str) -> Option<(Kind, Bytes)> {
        Some((Kind::Text, Bytes::copy_from_slice(text.as_bytes())))
    }

    fn binary(bytes: &[u8]) -> Option<(Kind, Bytes)> {
        Some((Kind::Binary, Bytes::copy_from_slice(bytes)))
    }

    #[track_caller]
    fn parse(msg: &str) -> Msg {
        Msg::parse(msg.as_bytes()).expect("a good msg")
    }

    /// What a payload becomes, wherever in its msg it stands, and that it stays as it is in the msg.
    #[track_caller]
    fn payload(value: &str, expected: Option<(Kind, Bytes)>) {
        let compact = json::compact(value.as_bytes()).expect("good JSON").into_text();
        for (before, after) in [
            ("", ""),
            (r#""_msgid":"m1","#, r#","topic":"payload""#),
            (r#""_session":null,"#, ""),
            ("", r#","_session":{"type":"websocket","id":"x"}"#),
            (r#""a":1,"_session":{"type":"websocket","id":"x"},"#, r#","b":2"#),
        ] {
            let msg = parse(&format!(r#"{{{before}"payload":{value}{after}}}"#));
            assert_eq!(msg.content.frame(false), expected, "{before} {value} {after}");
            let (kind, whole) = msg.content.frame(true).expect("a msg is never nothing");
            let whole = std::str::from_utf8(&whole).expect("text");
            assert_eq!(kind, Kind::Text);
            assert!(whole.contains(&format!(r#""payload":{compact}"#)), "{whole}");
            assert!(!whole.contains("_session"), "{whole}");
            assert_eq!(json::compact(whole.as_bytes()).expect("JSON").text(), whole);
        }
    }

    #[test]
    fn a_string_goes_out_as_its_text() {
        payload(r#""hello""#, text("hello"));
        payload(r#""""#, None);
        payload(r#"" ""#, text(" "));
        payload(r#""\u0000""#, text("\0"));
        payload(r#""a\u0000b""#, text("a\0b"));
        payload(r#""a\r\nb\n""#, text("a\r\nb\n"));
        payload(r#""žluťoučký kůň – 日本語""#, text("žluťoučký kůň – 日本語"));
        payload(r#""👩‍👩‍👧‍👦🚀""#, text("👩‍👩‍👧‍👦🚀"));
        payload(r#""\ud83d\ude80""#, text("🚀"));
        payload("\"\u{feff}abc\"", text("\u{feff}abc"));
        payload(r#""{\"a\":1,\"b\":[2]}""#, text(r#"{"a":1,"b":[2]}"#));
        payload(r#""\"q\"""#, text(r#""q""#));
        payload(r#""{\"a\":""#, text(r#"{"a":"#));
        payload(r#""null""#, text("null"));
        payload(r#""\\u0041""#, text(r"\u0041"));
        payload(r#""x\ud800y""#, text("x\u{fffd}y"));
        payload(r#""\udc00\ud800""#, text("\u{fffd}\u{fffd}"));
        for length in [125, 126, 65_535, 65_536, 1 << 20] {
            let long = "y".repeat(length);
            payload(&format!("\"{long}\""), text(&long));
        }
    }

    #[test]
    fn other_values_go_out_as_their_json() {
        for value in ["42", "0", "-0", "-1.5", "1e+21", "1.50", "1E5", "12345678901234567890.0"] {
            payload(value, text(value));
        }
        for value in ["true", "false", "null", "{}", "[]", "[[]]", r#"[1,"two",null,true]"#] {
            payload(value, text(value));
        }
        payload(
            r#"{"a":{"b":[{"c":[1,[2]]}],"d":null}}"#,
            text(r#"{"a":{"b":[{"c":[1,[2]]}],"d":null}}"#),
        );
        payload(r#"{"k":"é\"\\ /</script>"}"#, text(r#"{"k":"é\"\\ /</script>"}"#));
        payload(
            r#"{"2":"two","10":"ten","z":1,"a":2}"#,
            text(r#"{"2":"two","10":"ten","z":1,"a":2}"#),
        );
        payload("[ 1 ,\n\t2 , {\"a\" : \" x \"} ]", text(r#"[1,2,{"a":" x "}]"#));
        payload(r#"["\ud800","\u0041"]"#, text(r#"["\ud800","\u0041"]"#));
        payload(r#"{"a":1,"a":2}"#, text(r#"{"a":2}"#));
        payload(r#"{"payload":"inner"}"#, text(r#"{"payload":"inner"}"#));
    }

    #[test]
    fn a_buffer_goes_out_as_its_bytes() {
        payload(r#"{"type":"Buffer","data":[0,1,2,254,255]}"#, binary(&[0, 1, 2, 254, 255]));
        payload(r#"{"type":"Buffer","data":"AAEC/v8="}"#, binary(&[0, 1, 2, 254, 255]));
        payload(r#"{"data":"aGVsbG8=","type":"Buffer"}"#, binary(b"hello"));
        payload(r#"{"data":[104,105],"type":"Buffer"}"#, binary(b"hi"));
        payload(r#"{"type":"Buffer","data":[]}"#, binary(b""));
        payload(r#"{"type":"Buffer","data":""}"#, binary(b""));
        payload(r#"{ "type" : "Buffer" , "data" : [ 1 , 2 ] }"#, binary(&[1, 2]));
        payload(r#"{"type":"Buffer","data":"AAEC\/v8\u003d"}"#, binary(&[0, 1, 2, 254, 255]));
        payload(r#"{"\u0074ype":"Bu\u0066fer","d\u0061ta":[7]}"#, binary(&[7]));
        payload(r#"{"type":"x","data":[300],"type":"Buffer","data":[7]}"#, binary(&[7]));
        let all: Vec<u8> = (0..=255).collect();
        payload(&json!({"type": "Buffer", "data": all}).to_string(), binary(&all));
        payload(
            &json!({"type": "Buffer", "data": STANDARD.encode(&all)}).to_string(),
            binary(&all),
        );
    }

    #[test]
    fn what_is_only_like_a_buffer_is_an_object() {
        for object in [
            r#"{"type":"Buffer"}"#,
            r#"{"data":[1]}"#,
            r#"{"type":"Buffer","data":[1],"x":1}"#,
            r#"{"x":1,"type":"Buffer","data":[1]}"#,
            r#"{"type":"buffer","data":[1]}"#,
            r#"{"type":"Buffer ","data":[1]}"#,
            r#"{"type":["Buffer"],"data":[1]}"#,
            r#"{"type":null,"data":[1]}"#,
            r#"{"Type":"Buffer","data":[1]}"#,
            r#"{"type":"Buffer","Data":[300]}"#,
            r#"{"type":"Uint8Array","data":[300]}"#,
            r#"{"type":"sensor_update","data":{"temperature":1.50}}"#,
            r#"{"inner":{"type":"Buffer","data":[300]}}"#,
            r#"[{"type":"Buffer","data":[1]}]"#,
        ] {
            payload(object, text(object));
        }
        let message = r#"{"type":"Buffer","data":[1],"data":[2],"type":"no"}"#;
        payload(message, text(r#"{"type":"no","data":[2]}"#));
    }

    #[test]
    fn a_buffer_with_bad_data_is_refused() {
        for data in [
            "[256]",
            "[-1]",
            "[-0]",
            "[1.0]",
            "[1.5]",
            "[1e2]",
            "[1E0]",
            "[null]",
            "[true]",
            r#"["1"]"#,
            "[[1]]",
            "[[]]",
            "[[1,2]]",
            "[{}]",
            r#"["1,2"]"#,
            r#"["a","b"]"#,
            "[1,2,256]",
            "[99999999999999999999]",
            "null",
            "7",
            "true",
            "{}",
            r#"{"0":1}"#,
            r#"{"a":1,"b":2}"#,
            // Not padded, padded too much, in the middle, the other alphabet, spaces, spare bits.
            r#""AAE""#,
            r#""AA""#,
            r#""A""#,
            r#""AAEC====""#,
            r#""AA==AA==""#,
            r#""=""#,
            r#""_-8=""#,
            r#""AAEC ""#,
            r#""AA\nEC""#,
            r#""AB==""#,
            r#""AAF=""#,
            r#""é===""#,
            r#""\ud800""#,
        ] {
            for buffer in [
                format!(r#"{{"payload":{{"type":"Buffer","data":{data}}}}}"#),
                format!(r#"{{"a":1,"payload":{{"data":{data},"type":"Buffer"}},"_session":null}}"#),
            ] {
                let refused = Msg::parse(buffer.as_bytes());
                assert!(matches!(refused, Err(Invalid::Buffer(_))), "{buffer} {refused:?}");
            }
        }
    }

    #[test]
    fn without_a_payload_there_is_nothing_to_send_but_the_msg() {
        for msg in
            ["{}", r#"{"topic":"t"}"#, r#"{"_msgid":"m1","Payload":1}"#, r#"{"a":{"payload":1}}"#]
        {
            let content = parse(msg).content;
            assert_eq!(content.frame(false), None, "{msg}");
            assert_eq!(content.frame(true), text(msg));
        }
        assert_eq!(parse(r#"{"payload":""}"#).content.frame(true), text(r#"{"payload":""}"#));
    }

    /// The whole msg that goes out.
    #[track_caller]
    fn whole(msg: &str, expected: &str) {
        assert_eq!(parse(msg).content.frame(true), text(expected), "{msg}");
    }

    #[test]
    fn the_whole_msg_goes_without_its_session_wherever_that_stood() {
        let session = r#""_session":{"type":"websocket","id":"x"}"#;
        whole(r#"{"payload":"x"}"#, r#"{"payload":"x"}"#);
        whole(&format!("{{{session}}}"), "{}");
        whole(&format!(r#"{{{session},"payload":"x"}}"#), r#"{"payload":"x"}"#);
        whole(&format!(r#"{{"payload":"x",{session}}}"#), r#"{"payload":"x"}"#);
        whole(&format!(r#"{{"a":1,{session},"payload":"x"}}"#), r#"{"a":1,"payload":"x"}"#);
        whole(
            &format!(r#"{{"a":1, {session} ,"payload":"x", {session} }}"#),
            r#"{"a":1,"payload":"x"}"#,
        );
        whole(&format!(r#"{{{session},{session},{session}}}"#), "{}");
        whole(r#"{"_session":null,"payload":"x"}"#, r#"{"payload":"x"}"#);
        whole(r#"{"payload":"x","\u005fsession":null}"#, r#"{"payload":"x"}"#);
        whole(r#"{"_\u0073ession":7,"a":1,"_session":null}"#, r#"{"a":1}"#);
        // Only the top level's, and only that name.
        whole(
            r#"{"payload":{"_session":7},"_sessions":1,"_Session":2}"#,
            r#"{"payload":{"_session":7},"_sessions":1,"_Session":2}"#,
        );
        whole(r#"{"payload":"\"_session\":7,"}"#, r#"{"payload":"\"_session\":7,"}"#);
    }

    #[test]
    fn of_repeated_members_the_last_counts() {
        whole(r#"{"payload":1,"a":2,"payload":3}"#, r#"{"payload":3,"a":2}"#);
        let frame = |msg: &str| parse(msg).content.frame(false);
        assert_eq!(frame(r#"{"payload":1,"a":2,"payload":"x"}"#), text("x"));
        assert_eq!(frame(r#"{"payload":"x","p\u0061yload":""}"#), None);
        assert_eq!(frame(r#"{"p\u0061yload":"x\n","_session":null}"#), text("x\n"));
        assert_eq!(frame(r#"{"payload":{"type":"Buffer","data":[300]},"payload":"x"}"#), text("x"));
        addressed(
            r#"{"type":"websocket","id":"a"},"x":1,"_session":{"type":"websocket","id":"b"}"#,
            "b",
        );
        addressed(r#"7,"_session":{"type":"websocket","id":"b"}"#, "b");
        addressed(r#"{"type":"http","id":7,"type":"websocket","id":"b"}"#, "b");
        malformed(r#"{"type":"websocket","id":"b"},"_session":7"#);
        malformed(r#"{"type":"websocket","id":"b","type":"http"}"#);
    }

    #[track_caller]
    fn addressed(session: &str, expected: &str) {
        let msg = parse(&format!(r#"{{"payload":"p","_session":{session}}}"#));
        assert_eq!(msg.session, Address::One(expected.to_owned()), "{session}");
        assert_eq!(msg.content.frame(false), text("p"));
    }

    #[track_caller]
    fn malformed(session: &str) {
        let refused = Msg::parse(format!(r#"{{"payload":"p","_session":{session}}}"#).as_bytes());
        assert_eq!(refused, Err(Invalid::Session), "{session}");
    }

    #[test]
    fn a_session_is_one_websocket_by_its_id() {
        addressed(r#"{"type":"websocket","id":"deadbeef"}"#, "deadbeef");
        addressed(r#"{"id":"deadbeef","type":"websocket"}"#, "deadbeef");
        addressed(r#"{"type":"websocket","id":"x","extra":1,"list":[1],"o":{"id":2}}"#, "x");
        addressed(r#"{"list":[{"type":7}],"type":"websocket","id":"x"}"#, "x");
        addressed(r#"{ "\u0074ype" : "web\u0073ocket" , "i\u0064" : "\u0078" }"#, "x");
        for id in ["", " deadbeef", "DEADBEEF", "__proto__", "toString", "constructor", "é🚀", "0"]
        {
            addressed(&json!({"type": "websocket", "id": id}).to_string(), id);
        }
        addressed(r#"{"type":"websocket","id":"a\"b\n"}"#, "a\"b\n");
        assert_eq!(parse(r#"{"payload":1}"#).session, Address::All);
        assert_eq!(parse(r#"{"payload":1,"_session":null}"#).session, Address::All);
        assert_eq!(parse(r#"{"payload":{"_session":7}}"#).session, Address::All);
    }

    #[test]
    fn a_session_of_any_other_shape_is_refused() {
        for session in [
            "false",
            "true",
            "0",
            "7",
            "-1.5",
            r#""""#,
            r#""abc""#,
            "[]",
            "{}",
            "[null]",
            r#"[{"type":"websocket","id":"x"}]"#,
            r#"[{"type":"websocket","id":"x"},{"type":"websocket","id":"y"}]"#,
            r#""{\"type\":\"websocket\",\"id\":\"x\"}""#,
            r#"{"id":"x"}"#,
            r#"{"type":"websocket"}"#,
            r#"{"type":"http","id":"x"}"#,
            r#"{"type":"tcp","id":"x"}"#,
            r#"{"type":"WebSocket","id":"x"}"#,
            r#"{"type":" websocket","id":"x"}"#,
            r#"{"type":null,"id":"x"}"#,
            r#"{"type":["websocket"],"id":"x"}"#,
            r#"{"Type":"websocket","id":"x"}"#,
            r#"{"type":"websocket","ID":"x"}"#,
            r#"{"type":"websocket","id":null}"#,
            r#"{"type":"websocket","id":{}}"#,
            r#"{"type":"websocket","id":["x"]}"#,
            r#"{"type":"websocket","id":7}"#,
            r#"{"type":"websocket","id":true}"#,
            r#"{"o":{"type":"websocket","id":"x"}}"#,
        ] {
            malformed(session);
        }
    }

    #[test]
    fn what_is_no_msg_says_so() {
        for other in ["[]", "null", "1", r#""x""#, "true", r#"[{"payload":1}]"#, " 7 "] {
            assert_eq!(Msg::parse(other.as_bytes()), Err(Invalid::NotAnObject), "{other}");
        }
        let message = |msg: &[u8]| Msg::parse(msg).expect_err("no msg").to_string();
        assert_eq!(message(b"{\"a\":1 x"), "the msg is not JSON: expected ',' or '}' at byte 7");
        assert_eq!(message(b""), "the msg is not JSON: expected a value at byte 0");
        assert_eq!(message(b"{\"a\":\"\xff\"}"), "the msg is not JSON: not UTF-8 at byte 6");
        assert!(message(b"[]").contains(r#"send {"payload":…}"#));
        assert!(message(br#"{"_session":7}"#).contains(r#"{"type":"websocket","id":"…"}"#));
        assert!(
            message(br#"{"payload":{"type":"Buffer","data":7}}"#).ends_with("here it is neither")
        );
        let deep =
            |depth: usize| format!(r#"{{"payload":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert!(Msg::parse(deep(127).as_bytes()).is_ok());
        assert!(matches!(Msg::parse(deep(128).as_bytes()), Err(Invalid::NotJson(_))));
    }

    #[test]
    fn a_raw_payload_is_a_msg_of_its_own() {
        let of = |text: &str| Content::text(text.to_owned());
        assert_eq!(of("hi").frame(false), text("hi"));
        assert_eq!(of("").frame(false), None);
        assert_eq!(of(r#"{"a":1}"#).frame(false), text(r#"{"a":1}"#));
        assert_eq!(of("").frame(true), text(r#"{"payload":""}"#));
        assert_eq!(of("a\"\n\u{1}é").frame(true), text(r#"{"payload":"a\"\n\u0001é"}"#));
        let of = |bytes: &'static [u8]| Content::binary(Bytes::from_static(bytes));
        assert_eq!(of(b"").frame(false), binary(b""));
        assert_eq!(of(&[0, 255]).frame(false), binary(&[0, 255]));
        assert_eq!(of(b"").frame(true), text(r#"{"payload":{"type":"Buffer","data":""}}"#));
        assert_eq!(
            of(&[0, 255]).frame(true),
            text(r#"{"payload":{"type":"Buffer","data":"AP8="}}"#)
        );
    }

    #[test]
    fn a_payload_without_escapes_is_not_copied() {
        let content = parse(r#"{"_session":null,"payload":"hello","a":1}"#).content;
        let (whole, payload) = (content.frame(true), content.frame(false));
        let (Some((_, whole)), Some((_, payload))) = (whole, payload) else { panic!("two frames") };
        assert_eq!(whole[12..].as_ptr(), payload.as_ptr());
    }

    const SESSION: SessionId = SessionId { pod: PodId([1; 8]), shard: 2, random: [3; 16] };

    /// What a backend hears, without the end that is always the same.
    #[track_caller]
    fn heard(wholemsg: bool, kind: Kind, data: &[u8]) -> String {
        let msg = from_client(wholemsg, kind, data, &SESSION);
        let ours = format!(r#""_session":{{"type":"websocket","id":"{SESSION}"}}}}"#);
        let read = Msg::parse(msg.as_bytes());
        if let Ok(read) = &read {
            assert_eq!(read.session, Address::One(SESSION.to_string()));
        }
        assert!(!msg.contains(|char: char| char < ' '), "{msg:?}");
        msg.strip_suffix(&ours).expect("ours comes last").to_owned()
    }

    #[track_caller]
    fn payload_in(text: &str, expected: &str) {
        assert_eq!(heard(false, Kind::Text, text.as_bytes()), expected);
    }

    #[track_caller]
    fn whole_in(text: &str, expected: &str) {
        assert_eq!(heard(true, Kind::Text, text.as_bytes()), expected);
        if !expected.starts_with("{\"payload\":\"") || text.starts_with(['"', '{']) {
            assert_eq!(heard(true, Kind::Binary, text.as_bytes()), expected, "binary");
        }
    }

    #[test]
    fn on_a_payload_path_nothing_is_read() {
        payload_in("hello", r#"{"payload":"hello","#);
        payload_in("", r#"{"payload":"","#);
        payload_in(r#"{"a":1}"#, r#"{"payload":"{\"a\":1}","#);
        payload_in("  {\"a\":1}\n", r#"{"payload":"  {\"a\":1}\n","#);
        payload_in(
            r#"{"payload":1,"payload":2}"#,
            r#"{"payload":"{\"payload\":1,\"payload\":2}","#,
        );
        payload_in("[1,2]", r#"{"payload":"[1,2]","#);
        payload_in("0", r#"{"payload":"0","#);
        payload_in("null", r#"{"payload":"null","#);
        payload_in(r#""""#, r#"{"payload":"\"\"","#);
        payload_in("a\0b", r#"{"payload":"a\u0000b","#);
        payload_in("\u{feff}{}", "{\"payload\":\"\u{feff}{}\",");
        payload_in("žluť 日本 👩‍👩‍👧‍👦", "{\"payload\":\"žluť 日本 👩‍👩‍👧‍👦\",");
        let binary = |data| heard(false, Kind::Binary, data);
        assert_eq!(binary(b"hello"), r#"{"payload":{"type":"Buffer","data":"aGVsbG8="},"#);
        assert_eq!(binary(b"5"), r#"{"payload":{"type":"Buffer","data":"NQ=="},"#);
        assert_eq!(binary(b""), r#"{"payload":{"type":"Buffer","data":""},"#);
        assert_eq!(binary(b"\xff\0"), r#"{"payload":{"type":"Buffer","data":"/wA="},"#);
    }

    #[test]
    fn on_a_wholemsg_path_an_object_is_the_msg() {
        whole_in(r#"{"payload":"p","topic":"t"}"#, r#"{"payload":"p","topic":"t","#);
        whole_in(r#"{"a":1}"#, r#"{"a":1,"#);
        whole_in("{}", "{");
        whole_in(" { } ", "{");
        whole_in(r#"{"payload":"p","_msgid":"mine"}"#, r#"{"payload":"p","_msgid":"mine","#);
        whole_in(r#"{"payload":{"a":[1,{"b":null}]}}"#, r#"{"payload":{"a":[1,{"b":null}]},"#);
        whole_in("{\n \"payload\" : 1.50 ,\t\"b\": 1e+2 }\r\n", r#"{"payload":1.50,"b":1e+2,"#);
        whole_in(r#"{"payload":1,"payload":2}"#, r#"{"payload":2,"#);
        whole_in(
            r#"{"payload":{"type":"Buffer","data":[300]}}"#,
            r#"{"payload":{"type":"Buffer","data":[300]},"#,
        );
        whole_in(r#"{"payload":"\ud800"}"#, r#"{"payload":"\ud800","#);
    }

    #[test]
    fn a_client_cannot_claim_a_session() {
        let evil = r#"{"type":"websocket","id":"evil"}"#;
        whole_in(&format!(r#"{{"payload":"p","_session":{evil}}}"#), r#"{"payload":"p","#);
        whole_in(&format!(r#"{{"_session":{evil},"payload":"p"}}"#), r#"{"payload":"p","#);
        whole_in(
            &format!(r#"{{"a":1,"_session":{evil},"payload":"p","_session":7}}"#),
            r#"{"a":1,"payload":"p","#,
        );
        whole_in(&format!(r#"{{"\u005f\u0073ession":{evil}}}"#), "{");
        whole_in(&format!(r#"{{"_session":{evil},"_session":{evil}}}"#), "{");
        whole_in(r#"{"payload":{"_session":7}}"#, r#"{"payload":{"_session":7},"#);
    }

    #[test]
    fn on_a_wholemsg_path_another_value_is_the_payload() {
        whole_in("[1,2]", r#"{"payload":[1,2],"#);
        whole_in("[]", r#"{"payload":[],"#);
        whole_in(
            r#"[ {"payload":1}, {"_session":2} ]"#,
            r#"{"payload":[{"payload":1},{"_session":2}],"#,
        );
        whole_in("1.50", r#"{"payload":1.50,"#);
        whole_in("123", r#"{"payload":123,"#);
        whole_in("-0", r#"{"payload":-0,"#);
        whole_in("12345678901234567890", r#"{"payload":12345678901234567890,"#);
        whole_in("true", r#"{"payload":true,"#);
        whole_in("false", r#"{"payload":false,"#);
        whole_in("null", r#"{"payload":null,"#);
        whole_in(r#""hi""#, r#"{"payload":"hi","#);
        whole_in(r#""""#, r#"{"payload":"","#);
        whole_in(" 5\n", r#"{"payload":5,"#);
    }

    #[test]
    fn on_a_wholemsg_path_what_is_no_json_is_the_payload_as_it_is() {
        let as_text = |text: &str| {
            assert_eq!(
                heard(true, Kind::Text, text.as_bytes()),
                heard(false, Kind::Text, text.as_bytes())
            );
            assert_eq!(
                heard(true, Kind::Binary, text.as_bytes()),
                heard(false, Kind::Binary, text.as_bytes())
            );
        };
        for text in [
            "",
            " ",
            "hello",
            r#"{"a":"#,
            r#"{"a":1} x"#,
            "NaN",
            "01",
            "{a:1}",
            "'a'",
            "\u{feff}{\"a\":1}",
            "a\0b",
            "[1,]",
            "é",
        ] {
            as_text(text);
        }
        as_text(&format!("{}{}", "[".repeat(129), "]".repeat(129)));
        let deep = format!("{}{}", "[".repeat(128), "]".repeat(128));
        let msg = from_client(true, Kind::Text, deep.as_bytes(), &SESSION);
        assert!(msg.starts_with(&format!(r#"{{"payload":{deep},"_session""#)));
        let bytes = b"{\"a\":\"\xff\"}";
        assert_eq!(heard(true, Kind::Binary, bytes), heard(false, Kind::Binary, bytes));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(bytes: Vec<u8>, wholemsg: bool, is_text: bool) {
            let _ = Msg::parse(&bytes);
            let kind = if is_text { Kind::Text } else { Kind::Binary };
            let msg = from_client(wholemsg, kind, &bytes, &SESSION);
            prop_assert!(serde_json::from_str::<Value>(&msg).is_ok());
        }

        #[test]
        fn a_payload_that_came_in_goes_out_again(text: String, bytes: Vec<u8>) {
            let msg = Msg::parse(from_client(false, Kind::Text, text.as_bytes(), &SESSION).as_bytes())?;
            let expected = (!text.is_empty()).then(|| (Kind::Text, Bytes::from(text)));
            prop_assert_eq!(msg.content.frame(false), expected);
            let msg = Msg::parse(from_client(false, Kind::Binary, &bytes, &SESSION).as_bytes())?;
            prop_assert_eq!(msg.content.frame(false), Some((Kind::Binary, Bytes::from(bytes))));
        }

        #[test]
        fn a_raw_payload_is_what_its_msg_says(text: String, bytes: Vec<u8>) {
            for content in [Content::text(text), Content::binary(bytes.into())] {
                let (_, whole) = content.frame(true).expect("a msg is never nothing");
                prop_assert_eq!(Msg::parse(&whole)?.content.frame(false), content.frame(false));
            }
        }

        #[test]
        fn a_msg_goes_out_like_serdes(names in prop::collection::vec("[a-c]|payload|_session", 0..8)) {
            let members: Vec<_> = names.iter().enumerate().map(|(at, name)| match name.as_str() {
                "_session" => format!(r#""{name}":{{"type":"websocket","id":"{at}"}}"#),
                _ => format!(r#""{name}":"{at}""#),
            }).collect();
            let text = format!("{{{}}}", members.join(", "));
            let mut model: serde_json::Map<String, Value> = serde_json::from_str(&text)?;
            let session = model.shift_remove("_session").map(|session| session["id"].as_str().map(str::to_owned));
            let msg = Msg::parse(text.as_bytes())?;
            let whole = serde_json::to_string(&model)?;
            prop_assert_eq!(msg.content.frame(true), Some((Kind::Text, Bytes::from(whole))));
            let payload = model.get("payload").and_then(Value::as_str).map(str::to_owned);
            prop_assert_eq!(msg.content.frame(false), payload.map(|text| (Kind::Text, Bytes::from(text))));
            let address = session.flatten().map_or(Address::All, Address::One);
            prop_assert_eq!(msg.session, address);
        }
    }
}

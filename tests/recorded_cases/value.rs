//! The cases' short-hands (`$session`, `$t` …): turned into what is published, and compared with
//! what is heard.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::json::{Json, Text, js_number};

/// Session ids by the clients' names.
pub type Sessions = BTreeMap<String, String>;

/// How a Buffer is written where it is published.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Buffers {
    /// As Node writes it: where the text is compared.
    Numbers,
    Base64,
}

/// What to publish for a value of a case.
pub fn resolve(value: &Json, sessions: &Sessions, buffers: Buffers) -> Result<Json, String> {
    match value {
        Json::Number(token) => Ok(Json::Number(js_number(token))),
        Json::Array(items) => {
            let items = items.iter().map(|item| resolve(item, sessions, buffers));
            Ok(Json::Array(items.collect::<Result<_, _>>()?))
        }
        Json::Object(members) => {
            if let Some(meant) = short_hand(value, sessions, buffers)? {
                return Ok(meant);
            }
            let members = members.iter().map(|(name, value)| {
                resolve(value, sessions, buffers).map(|value| (name.clone(), value))
            });
            Ok(Json::Object(members.collect::<Result<_, _>>()?))
        }
        other => Ok(other.clone()),
    }
}

fn short_hand(value: &Json, sessions: &Sessions, buffers: Buffers) -> Result<Option<Json>, String> {
    let id_of = |client: &Json| {
        let name = client.as_text().unwrap_or_default();
        sessions.get(&name).cloned().ok_or_else(|| format!("no client {name:?} was connected yet"))
    };
    if let Some(client) = value.member("$session") {
        let id = Json::text(&id_of(client)?);
        return Ok(Some(Json::object([("type", Json::text("websocket")), ("id", id)])));
    }
    if let Some(client) = value.member("$sid") {
        let mut id = id_of(client)?;
        if value.member("up") == Some(&Json::Bool(true)) {
            id = id.to_uppercase();
        }
        if value.member("pad") == Some(&Json::Bool(true)) {
            id.insert(0, ' ');
        }
        return Ok(Some(Json::text(&id)));
    }
    let Some(kind) = value.member("$t").and_then(Json::as_text) else { return Ok(None) };
    Ok(Some(match kind.as_str() {
        "digits" => Json::Number(text(value, "v")?),
        "repeat" => Json::text(&text(value, "s")?.repeat(count(value, "n")?)),
        "buffer" => buffer(&base64(value)?, buffers),
        "bufrepeat" => {
            let byte = u8::try_from(count(value, "byte")?).map_err(|error| error.to_string())?;
            buffer(&vec![byte; count(value, "n")?], buffers)
        }
        other => return Err(format!("{other:?} is no value to publish")),
    }))
}

fn buffer(bytes: &[u8], buffers: Buffers) -> Json {
    let data = match buffers {
        Buffers::Numbers => {
            Json::Array(bytes.iter().map(|byte| Json::Number(byte.to_string())).collect())
        }
        Buffers::Base64 => Json::text(&STANDARD.encode(bytes)),
    };
    Json::object([("type", Json::text("Buffer")), ("data", data)])
}

/// A member that is a text.
pub fn text(of: &Json, member: &str) -> Result<String, String> {
    let text = of.member(member).and_then(Json::as_text);
    text.ok_or_else(|| format!("no text {member:?} in {}", of.stringify()))
}

/// A member that is a whole number.
pub fn count(of: &Json, member: &str) -> Result<usize, String> {
    let count = of.member(member).and_then(Json::as_count);
    count.ok_or_else(|| format!("no number {member:?} in {}", of.stringify()))
}

/// The bytes of a member `b64`.
pub fn base64(of: &Json) -> Result<Vec<u8>, String> {
    STANDARD.decode(text(of, "b64")?).map_err(|error| format!("{error}: {}", of.stringify()))
}

/// The payload with an index after it, as `times` and `publishMany` want it.
pub fn numbered(msg: &Json, index: usize) -> Json {
    let index = index.to_string();
    let append = |payload: &Json| match payload {
        Json::Text(Text(bytes)) => Json::Text(Text([bytes, index.as_bytes()].concat())),
        other => Json::text(&(other.stringify() + &index)),
    };
    let Json::Object(members) = msg else { return msg.clone() };
    let members = members.iter().map(|(name, value)| match name == "payload" {
        true => (name.clone(), append(value)),
        false => (name.clone(), value.clone()),
    });
    Json::Object(members.collect())
}

/// Puts ids where an expectation says `<session:NAME>`.
pub fn with_ids(text: &str, sessions: &Sessions) -> String {
    sessions
        .iter()
        .fold(text.to_owned(), |text, (name, id)| text.replace(&format!("<session:{name}>"), id))
}

/// Whether what was heard is what a case expects: members in any order, numbers by value, Buffers
/// by bytes, `$t` by what it says.
pub fn matches(expected: &Json, heard: &Json, sessions: &Sessions) -> bool {
    match (expected, heard) {
        (Json::Object(_), _) if expected.member("$t").is_some() => {
            matches_kind(expected, heard, sessions).unwrap_or(false)
        }
        (Json::Object(_), _) if is_session(expected) => {
            resolve(expected, sessions, Buffers::Base64).is_ok_and(|expected| expected == *heard)
        }
        (Json::Object(wanted), Json::Object(got)) => {
            wanted.len() == got.len()
                && wanted.iter().all(|(name, value)| {
                    heard.member(&name.to_string()).is_some_and(|it| matches(value, it, sessions))
                })
        }
        (Json::Array(wanted), Json::Array(got)) => {
            wanted.len() == got.len()
                && wanted.iter().zip(got).all(|(value, it)| matches(value, it, sessions))
        }
        (Json::Number(wanted), Json::Number(got)) => js_number(wanted) == js_number(got),
        (Json::Text(wanted), Json::Text(got)) => {
            wanted == got || with_ids(&wanted.to_string(), sessions).as_bytes() == got.0
        }
        _ => expected == heard,
    }
}

fn is_session(value: &Json) -> bool {
    value.member("$session").is_some() || value.member("$sid").is_some()
}

fn matches_kind(expected: &Json, heard: &Json, sessions: &Sessions) -> Result<bool, String> {
    let text_bytes = match heard {
        Json::Text(Text(bytes)) => Some(bytes.clone()),
        _ => None,
    };
    Ok(match text(expected, "$t")?.as_str() {
        "digits" => *heard == Json::Number(text(expected, "v")?),
        "buffer" => buffer_bytes(heard) == Some(base64(expected)?),
        "bigstring" => match text_bytes {
            Some(bytes) => {
                count(expected, "utf8_bytes")? == bytes.len()
                    && count(expected, "chars")?
                        == String::from_utf8_lossy(&bytes).encode_utf16().count()
                    && text(expected, "sha256")? == sha256(&bytes)
            }
            None => false,
        },
        "bigbuffer" => match buffer_bytes(heard) {
            Some(bytes) => {
                count(expected, "bytes")? == bytes.len()
                    && text(expected, "sha256")? == sha256(&bytes)
            }
            None => false,
        },
        "bufrepeat" => {
            let meant = resolve(expected, sessions, Buffers::Base64)?;
            buffer_bytes(heard).is_some() && buffer_bytes(heard) == buffer_bytes(&meant)
        }
        _ => resolve(expected, sessions, Buffers::Base64)? == *heard,
    })
}

/// The bytes of a Buffer in either of its JSON forms.
fn buffer_bytes(value: &Json) -> Option<Vec<u8>> {
    if value.member("type") != Some(&Json::text("Buffer")) {
        return None;
    }
    match value.member("data")? {
        Json::Text(text) => STANDARD.decode(&text.0).ok(),
        Json::Array(items) => {
            let byte = |item: &Json| item.as_count().and_then(|count| u8::try_from(count).ok());
            items.iter().map(byte).collect()
        }
        _ => None,
    }
}

/// In hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

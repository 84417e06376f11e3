//! A pod's roster: the sessions whose end has to be told to backends, by whichever pod.
//!
//! An entry holds what their `disconnect` event needs when the pod that held them can tell nothing any
//! more. Members may be added to its text; those that are there never change their meaning, since pods of
//! two releases read each other's.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::proto::path::Path;

/// One session's entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The text of the configured path that the session came with.
    pub configured: Arc<str>,
    /// The concrete path.
    pub path: Path,
    /// To whom the end is owed.
    pub backends: Backends,
}

/// Which backends hear of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backends {
    pub stream: bool,
    pub webhook: bool,
}

impl Backends {
    pub fn count(self) -> u8 {
        u8::from(self.stream) + u8::from(self.webhook)
    }
}

impl Member {
    /// As it stands in Redis.
    pub fn text(&self) -> String {
        let Backends { stream, webhook } = self.backends;
        let named = [(stream, "stream"), (webhook, "webhook")];
        let backends: Vec<&str> = named.iter().filter(|one| one.0).map(|one| one.1).collect();
        let (configured, path) = (&*self.configured, self.path.as_str());
        json!({"configured": configured, "path": path, "backends": backends}).to_string()
    }

    /// What `text` made; `None` for what is no entry.
    pub fn parse(text: &[u8]) -> Option<Member> {
        let entry: Value = serde_json::from_slice(text).ok()?;
        let configured = entry.get("configured")?.as_str()?.into();
        let path = Path::parse(entry.get("path")?.as_str()?).ok()?;
        let named = entry.get("backends").and_then(Value::as_array);
        let is_owed = |name| named.is_some_and(|named| named.iter().any(|one| *one == name));
        let backends = match named {
            Some(_) => Backends { stream: is_owed("stream"), webhook: is_owed("webhook") },
            // Of a pod that knew streams only.
            None => Backends { stream: true, webhook: false },
        };
        Some(Member { configured, path, backends })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_it_was_written_and_by_releases_to_come() {
        let path = Path::parse("/ws/a%20\"b").expect("a path");
        let owed = |stream, webhook| Member {
            configured: "/ws/{room}".into(),
            path: path.clone(),
            backends: Backends { stream, webhook },
        };
        for member in [owed(true, false), owed(false, true), owed(true, true)] {
            assert_eq!(Member::parse(member.text().as_bytes()), Some(member));
        }
        let later = br#"{"seq":7,"path":"/ws/a%20\"b","configured":"/ws/{room}",
            "backends":["pigeon","webhook"]}"#;
        assert_eq!(Member::parse(later), Some(owed(false, true)));
        let silent = br#"{"path":"/ws/a%20\"b","configured":"/ws/{room}"}"#;
        assert_eq!(Member::parse(silent), Some(owed(true, false)));
        for other in ["", "1", "{}", r#"{"configured":"/ws","path":"ws"}"#, r#"{"path":"/ws"}"#] {
            assert_eq!(Member::parse(other.as_bytes()), None, "{other}");
        }
    }
}

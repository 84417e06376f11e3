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
}

impl Member {
    /// As it stands in Redis.
    pub fn text(&self) -> String {
        json!({"configured": &*self.configured, "path": self.path.as_str()}).to_string()
    }

    /// What `text` made; `None` for what is no entry.
    pub fn parse(text: &[u8]) -> Option<Member> {
        let entry: Value = serde_json::from_slice(text).ok()?;
        let configured = entry.get("configured")?.as_str()?.into();
        let path = Path::parse(entry.get("path")?.as_str()?).ok()?;
        Some(Member { configured, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_it_was_written_and_by_releases_to_come() {
        let path = Path::parse("/ws/a%20\"b").expect("a path");
        let member = Member { configured: "/ws/{room}".into(), path };
        assert_eq!(Member::parse(member.text().as_bytes()), Some(member.clone()));
        let later = br#"{"seq":7,"path":"/ws/a%20\"b","configured":"/ws/{room}"}"#;
        assert_eq!(Member::parse(later), Some(member));
        for other in ["", "1", "{}", r#"{"configured":"/ws","path":"ws"}"#, r#"{"path":"/ws"}"#] {
            assert_eq!(Member::parse(other.as_bytes()), None, "{other}");
        }
    }
}

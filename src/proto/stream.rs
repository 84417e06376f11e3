//! One entry of a stream: an event as flat fields, and where it goes.

use std::sync::Arc;

use crate::proto::event::Kind;
use crate::proto::session_id::SessionId;

/// What an entry costs beside its texts, roughly.
const ENTRY_BYTES: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The text of the configured path.
    pub configured: Arc<str>,
    /// Which of the path's streams (`proto::partition`).
    pub partition: u32,
    /// As `proto::event::fields` made them.
    pub fields: Vec<(&'static str, String)>,
}

/// What became of an entry that was to be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Taken,
    /// Its stream will never take it.
    Refused,
    /// It was not appended, for no reason of its own.
    Left,
}

impl Entry {
    /// The session whose end it tells, if it does.
    pub fn ended(&self) -> Option<SessionId> {
        let of = |name| self.fields.iter().find(|(field, _)| *field == name);
        let (_, kind) = of("type")?;
        if kind != Kind::Disconnect.as_str() {
            return None;
        }
        SessionId::parse(&of("session")?.1)
    }

    /// What it holds while it waits, in bytes.
    pub fn bytes(&self) -> usize {
        ENTRY_BYTES + self.fields.iter().map(|(name, text)| name.len() + text.len()).sum::<usize>()
    }
}

//! Upstreams: their names, what became of what was sent to one, and what its holder tells of it.

use std::fmt;
use std::sync::Arc;

/// What an upstream is called: in URLs, in the names of channels and keys, in metrics.
pub const NAME_BYTES_MAX: usize = 64;

/// A good name: 1–64 characters of `A–Z a–z 0–9 . _ ~ -`, so never one that a path could be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to {NAME_BYTES_MAX} letters, digits and any of \"._~-\"")]
pub struct Invalid;

impl Name {
    pub fn parse(text: &str) -> Result<Name, Invalid> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte);
        match (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_plain) {
            true => Ok(Name(text.into())),
            false => Err(Invalid),
        }
    }

    pub fn text(&self) -> &Arc<str> {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What became of a msg for an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dispatch {
    /// Its holder has written it to the connection.
    Sent,
    /// It waits at its holder.
    Queued,
}

/// What the pod that holds an upstream tells of it. Counts are those of that pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub epoch: u64,
    pub is_connected: bool,
    /// Why the last attempt to connect failed, or the last connection ended.
    pub why: Option<String>,
    pub received: u64,
    pub sent: u64,
    /// Received or queued, and come to nothing.
    pub lost: u64,
    /// What waits to be sent.
    pub waiting: u64,
    pub waiting_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_stand_anywhere_and_is_no_path() {
        for good in ["feed", "a", "A.b_c~d-9", &"x".repeat(64)] {
            assert_eq!(Name::parse(good).as_ref().map(|name| &**name.text()), Ok(good));
        }
        for bad in ["", "/feed", "a b", "a:b", "ä", "a/b", "{a}", &"x".repeat(65)] {
            assert_eq!(Name::parse(bad), Err(Invalid), "{bad}");
        }
    }
}

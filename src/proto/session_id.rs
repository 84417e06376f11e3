//! Session ids: constant length, opaque to users, naming the pod and the shard that own them.
//!
//! 25 bytes (pod 8, shard 1, random 16) are exactly 40 characters of lower-case base32 (RFC 4648,
//! section 6, without padding), so a text has one id and an id one text: comparing bytes is
//! comparing ids. An id routes; it is not an authority (docs/decisions/session-ids.md).

use std::fmt;

/// Characters of every session id.
pub const SESSION_ID_CHARS: usize = 40;

/// Characters of every pod id.
const POD_ID_CHARS: usize = 13;

/// What a session id's characters stand for.
pub const SESSION_ID_BYTES: usize = 25;

/// One running gateway; new at every start.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodId(pub [u8; 8]);

/// One client's open connection. Ordered by pod, shard, then at random: the order of listings.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId {
    pub pod: PodId,
    pub shard: u8,
    pub random: [u8; 16],
}

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

impl SessionId {
    /// The smallest id, for the start of a walk over all of them.
    pub const MIN: SessionId = SessionId { pod: PodId([0; 8]), shard: 0, random: [0; 16] };

    /// `None` for every text that no pathcast can have made: other lengths, upper case, padding.
    pub fn parse(text: &str) -> Option<SessionId> {
        if text.len() != SESSION_ID_CHARS {
            return None;
        }
        let mut bytes = [0; SESSION_ID_BYTES];
        for (group, out) in text.as_bytes().chunks_exact(8).zip(bytes.chunks_exact_mut(5)) {
            let mut bits = 0u64;
            for &char in group {
                let value = match char {
                    b'a'..=b'z' => char - b'a',
                    b'2'..=b'7' => char - b'2' + 26,
                    _ => return None,
                };
                bits = bits << 5 | u64::from(value);
            }
            out.copy_from_slice(&bits.to_be_bytes()[3..]);
        }
        Some(SessionId::of_bytes(bytes))
    }

    /// The 40 characters.
    pub fn text(&self) -> Text {
        let mut text = [0; SESSION_ID_CHARS];
        encode(&self.bytes(), &mut text);
        Text(text)
    }

    /// Pod, shard, random: every 25 bytes are an id, and an id has no others.
    pub fn bytes(&self) -> [u8; SESSION_ID_BYTES] {
        let mut bytes = [0; SESSION_ID_BYTES];
        bytes[..8].copy_from_slice(&self.pod.0);
        bytes[8] = self.shard;
        bytes[9..].copy_from_slice(&self.random);
        bytes
    }

    pub fn of_bytes(bytes: [u8; SESSION_ID_BYTES]) -> SessionId {
        let [pod @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = bytes;
        let [_, _, _, _, _, _, _, _, shard, random @ ..] = bytes;
        SessionId { pod: PodId(pod), shard, random }
    }

    /// What a log shows: enough to find a session again, too little to speak to it.
    pub fn prefix(&self) -> impl fmt::Display {
        Prefix(self.text())
    }
}

impl PodId {
    /// What `text` makes; `None` for anything else.
    pub fn parse(text: &str) -> Option<PodId> {
        if text.len() != POD_ID_CHARS {
            return None;
        }
        // As the beginning of a session id: what follows it there is nought.
        let id = SessionId::parse(&format!("{text:a<SESSION_ID_CHARS$}"))?;
        (id.pod.text() == text).then_some(id.pod)
    }

    /// 13 characters: 8 bytes and a bit to spare.
    pub fn text(&self) -> String {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&self.0);
        let mut text = [0; 16];
        encode(&bytes, &mut text);
        text[..POD_ID_CHARS].iter().map(|&byte| char::from(byte)).collect()
    }
}

/// `from.len()` is a multiple of 5, `to.len()` 8 for each 5.
fn encode(from: &[u8], to: &mut [u8]) {
    for (group, out) in from.chunks_exact(5).zip(to.chunks_exact_mut(8)) {
        let mut bits = group.iter().fold(0u64, |bits, &byte| bits << 8 | u64::from(byte));
        for char in out.iter_mut().rev() {
            *char = ALPHABET[(bits & 31) as usize];
            bits >>= 5;
        }
    }
}

/// The text of a session id, without an allocation.
#[derive(Clone, Copy)]
pub struct Text([u8; SESSION_ID_CHARS]);

impl Text {
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("base32 is ASCII")
    }
}

struct Prefix(Text);

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", &self.0.as_str()[..20])
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.prefix())
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl fmt::Debug for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_is_its_text_and_a_text_its_id(pod: [u8; 8], shard: u8, random: [u8; 16]) {
            let id = SessionId { pod: PodId(pod), shard, random };
            let text = id.to_string();
            prop_assert_eq!(SessionId::parse(&text), Some(id));
            prop_assert!(text.starts_with(&pod_prefix(&id)));
            prop_assert_eq!(PodId::parse(&id.pod.text()), Some(id.pod));
        }

        #[test]
        fn a_text_that_parses_is_canonical(text in "[a-z2-7]{40}") {
            prop_assert_eq!(SessionId::parse(&text).map(|id| id.to_string()), Some(text));
        }
    }

    fn pod_prefix(id: &SessionId) -> String {
        id.pod.text()[..12].to_owned()
    }

    #[test]
    fn nothing_else_is_an_id() {
        let good = SessionId::MIN.to_string();
        assert_eq!(good, "a".repeat(40));
        for bad in
            ["", "deadbeef", "__proto__", &good.to_uppercase(), &format!(" {good}"), &good[1..]]
        {
            assert_eq!(SessionId::parse(bad), None, "{bad:?}");
        }
        assert_eq!(SessionId::parse(&"é".repeat(20)), None);
        assert_eq!(SessionId::parse(&"1".repeat(40)), None);
        for bad in ["", "aaaaaaaaaaaa", "aaaaaaaaaaaa1", "aaaaaaaaaaaab", "ééééééa"] {
            assert_eq!(PodId::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_log_shows_a_prefix_only() {
        let id = SessionId::MIN;
        assert!(format!("{id:?}").chars().count() < 22);
    }
}

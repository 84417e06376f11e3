//! Close codes (RFC 6455 section 7.4) and what a session ended of.

use std::fmt;

/// The longest close reason, in bytes: 125 of a control frame less the code (RFC 6455, 5.5).
pub const REASON_BYTES_MAX: usize = 123;

/// A close frame's content: code and reason. 1005 stands for a frame without a code, 1006 for no
/// frame at all; neither is ever written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    pub code: u16,
    pub reason: String,
}

/// Why a session ended, as its `disconnect` event tells (docs/events.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    Client,
    Network,
    Idle,
    Heartbeat,
    Protocol,
    TooBig,
    Slow,
    Kick,
    Auth,
    Drain,
    Gap,
    Server,
    PodLost,
}

impl Close {
    pub const NO_CODE: u16 = 1005;
    pub const NO_FRAME: u16 = 1006;

    /// Cuts the reason to what a frame holds, on a character's edge.
    pub fn new(code: u16, reason: impl Into<String>) -> Close {
        let mut reason = reason.into();
        let mut end = reason.len().min(REASON_BYTES_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        reason.truncate(end);
        Close { code, reason }
    }

    /// 1012, and how long to wait before coming back (docs/clients.md).
    pub fn retry_after(ms: u64) -> Close {
        Close::new(1012, format!("retry_after_ms={ms}"))
    }
}

/// Whether a client may put this code into its close frame (RFC 6455, 7.4.1 and 7.4.2, and the
/// codes that IANA added: 1012, 1013, 1014).
pub fn is_receivable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Whether a publisher may end a session with this code (docs/api.md).
pub fn is_kickable(code: u16) -> bool {
    matches!(code, 1000 | 1008 | 4000..=4999)
}

impl Cause {
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Client => "client",
            Cause::Network => "network",
            Cause::Idle => "idle",
            Cause::Heartbeat => "heartbeat",
            Cause::Protocol => "protocol",
            Cause::TooBig => "too_big",
            Cause::Slow => "slow",
            Cause::Kick => "kick",
            Cause::Auth => "auth",
            Cause::Drain => "drain",
            Cause::Gap => "gap",
            Cause::Server => "server",
            Cause::PodLost => "pod_lost",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_on_a_characters_edge() {
        assert_eq!(Close::new(1000, "x".repeat(200)).reason.len(), 123);
        assert_eq!(Close::new(1000, "é".repeat(100)).reason.len(), 122);
        assert_eq!(Close::new(1000, "bye").reason, "bye");
    }

    #[test]
    fn a_client_that_is_to_come_back_is_told_when() {
        assert_eq!(Close::retry_after(100), Close::new(1012, "retry_after_ms=100"));
        let longest = format!("retry_after_ms={}", u64::MAX);
        assert_eq!(Close::retry_after(u64::MAX).reason, longest);
    }

    #[test]
    fn reserved_codes_are_neither_received_nor_kicked_with() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
            assert!(!is_receivable(code), "{code}");
            assert!(!is_kickable(code), "{code}");
        }
        assert!(is_receivable(1000) && is_receivable(1014) && is_receivable(4999));
        assert!(is_kickable(4000) && !is_kickable(1001) && !is_kickable(3000));
    }
}

//! What every message of a run begins with: its number on its path, and when it was sent.
//!
//! Binary, because a client reads one for every frame it gets.

/// A stamp's length; no message of a run is shorter.
pub const STAMP_BYTES: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Of this path's messages, from 0.
    pub seq: u64,
    /// By the clock of the run.
    pub sent_ns: u64,
}

impl Stamp {
    /// Reads the beginning of a message; `None` when it is too short.
    pub fn read(message: &[u8]) -> Option<Stamp> {
        let (seq, rest) = message.split_first_chunk()?;
        let sent_ns = rest.first_chunk()?;
        Some(Stamp { seq: u64::from_le_bytes(*seq), sent_ns: u64::from_le_bytes(*sent_ns) })
    }

    /// Puts it before what `message` says, which is long enough.
    pub fn put(self, message: &mut [u8]) {
        message[..8].copy_from_slice(&self.seq.to_le_bytes());
        message[8..STAMP_BYTES].copy_from_slice(&self.sent_ns.to_le_bytes());
    }

    /// Makes `message` a message of `bytes`, stamped. What it held before is lost.
    pub fn write(self, message: &mut Vec<u8>, bytes: usize) {
        message.clear();
        message.extend_from_slice(&self.seq.to_le_bytes());
        message.extend_from_slice(&self.sent_ns.to_le_bytes());
        message.resize(bytes.max(STAMP_BYTES), b'x');
    }
}

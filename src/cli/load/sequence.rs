//! One client's view of the numbers it was sent: what is missing, what came twice, what came late.

/// How far back a late number can be told from a repeated one.
const MEMORY: u64 = 64;

/// The numbers up to `expected`, and which of the last few of them came.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sequence {
    expected: u64,
    /// Bit `n` is for `expected - 1 - n`.
    seen: u64,
}

/// What a number says about those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    InOrder,
    /// So many before it are missing; they may still come late.
    AfterGap(u64),
    /// It was missing until now.
    Late,
    /// It had come before, or is older than what is remembered.
    Again,
}

impl Sequence {
    pub fn take(&mut self, seq: u64) -> Arrival {
        if seq == self.expected {
            self.expected += 1;
            self.seen = self.seen << 1 | 1;
            return Arrival::InOrder;
        }
        if seq > self.expected {
            let missing = seq - self.expected;
            self.expected = seq + 1;
            self.seen = if missing < MEMORY - 1 { self.seen << (missing + 1) | 1 } else { 1 };
            return Arrival::AfterGap(missing);
        }
        let back = self.expected - 1 - seq;
        if back >= MEMORY || self.seen >> back & 1 == 1 {
            return Arrival::Again;
        }
        self.seen |= 1 << back;
        Arrival::Late
    }
}

//! When bytes of a connection came last, whatever they are part of.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use crate::proto::millis::millis;

/// In milliseconds since it was made.
#[derive(Debug)]
pub struct Ear {
    begun: Instant,
    heard_ms: AtomicU64,
}

impl Ear {
    pub fn begin() -> Ear {
        Ear { begun: Instant::now(), heard_ms: AtomicU64::new(0) }
    }

    pub fn now_ms(&self) -> u64 {
        millis(self.begun.elapsed())
    }

    pub fn heard_ms(&self) -> u64 {
        self.heard_ms.load(Ordering::Relaxed)
    }

    /// These have come; none is the end.
    pub fn hear(&self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.heard_ms.store(self.now_ms(), Ordering::Relaxed);
        }
    }
}

//! What goes wrong once for each message is logged once a second at most.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::proto::millis::millis;
use crate::proto::pacing::Bucket;

pub struct Complaints {
    begun: Instant,
    pace: Mutex<Bucket>,
}

impl Complaints {
    /// Whether one may be logged now.
    pub fn are_due(&self) -> bool {
        let now_ms = millis(self.begun.elapsed());
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).take(now_ms)
    }
}

impl Default for Complaints {
    fn default() -> Complaints {
        Complaints { begun: Instant::now(), pace: Mutex::new(Bucket::new(1, 0)) }
    }
}

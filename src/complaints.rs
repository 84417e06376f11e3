//! What goes wrong once for each message is logged a few times a second at most: clients cause it, and
//! what is counted tells the rest.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::proto::millis::millis;
use crate::proto::pacing::Bucket;

pub struct Complaints {
    begun: Instant,
    pace: Mutex<Bucket>,
}

impl Complaints {
    /// `per_second` ≥ 1.
    pub fn new(per_second: u32) -> Complaints {
        Complaints { begun: Instant::now(), pace: Mutex::new(Bucket::new(per_second, 0)) }
    }

    /// Whether one may be logged now.
    pub fn are_due(&self) -> bool {
        let now_ms = millis(self.begun.elapsed());
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).take(now_ms)
    }
}

/// One a second.
impl Default for Complaints {
    fn default() -> Complaints {
        Complaints::new(1)
    }
}

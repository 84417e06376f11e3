//! What goes wrong once for each message is logged a few times a second at most: clients cause it, and
//! what is counted tells the rest. What goes wrong again and again until somebody mends it is logged now and
//! then.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

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

/// How often the same is logged: an operator who looks finds it, and finds everything else.
const SAME_AGAIN: Duration = Duration::from_secs(60);

/// Subjects in that time. Where so many things are wrong one more tells nothing.
const SUBJECTS_MAX: usize = 100;

/// Complaints that are made again for the same reason: of each subject one a minute, of all one a second.
#[derive(Default)]
pub struct Recurring {
    pace: Complaints,
    told: Mutex<HashMap<String, Instant>>,
}

impl Recurring {
    /// Whether one about this may be logged now.
    pub fn is_due(&self, subject: &str) -> bool {
        self.is_due_at(subject, Instant::now())
    }

    fn is_due_at(&self, subject: &str, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < SAME_AGAIN;
        if told.get(subject).is_some_and(is_recent) {
            return false;
        }
        told.retain(|_, at| is_recent(at));
        let is_due = told.len() < SUBJECTS_MAX && self.pace.are_due();
        if is_due {
            told.insert(subject.to_owned(), now);
        }
        is_due
    }
}

/// One a second.
impl Default for Complaints {
    fn default() -> Complaints {
        Complaints::new(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_told_once_a_minute_and_something_else_at_once() {
        let recurring = Recurring { pace: Complaints::new(1_000), ..Recurring::default() };
        let start = Instant::now();
        let is_due =
            |subject: &str, s| recurring.is_due_at(subject, start + Duration::from_secs(s));
        assert!(is_due("one", 0) && !is_due("one", 59));
        assert!(is_due("two", 59) && is_due("one", 60) && !is_due("two", 60));
        for number in 2..SUBJECTS_MAX {
            assert!(is_due(&number.to_string(), 61));
        }
        assert!(!is_due("one too many", 62));
        assert!(is_due("one too many", 121));
    }
}

//! This pod's lease: until when others have to believe that it lives.
//!
//! It counts from the moment at which the last confirmed renewal *began*: Redis lets the key expire
//! later than that, never earlier, as long as it loses nothing (a Redis that was emptied is one that
//! comes back, and is noticed as such). So while it is held here, nobody else has seen it gone. All by the clock since boot, since a suspended machine's lease runs out too.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::BootTime;

#[derive(Debug)]
pub struct Lease {
    pub ttl: Duration,
    renewed: Mutex<Renewed>,
}

#[derive(Debug, Default)]
struct Renewed {
    /// When the last confirmed renewal began.
    last: Option<BootTime>,
    /// Whether one has failed since.
    is_overdue: bool,
}

impl Lease {
    pub fn new(ttl: Duration) -> Lease {
        Lease { ttl, renewed: Mutex::default() }
    }

    /// Whether an event may leave this pod: nobody can have taken it for dead yet.
    pub fn is_held(&self, now: BootTime) -> bool {
        self.renewed().last.is_some_and(|last| now.since(last) < self.ttl)
    }

    /// Until when one may.
    pub fn held_until(&self) -> Option<BootTime> {
        self.renewed().last.map(|last| last + self.ttl)
    }

    /// Whether it is held, and the last renewal did not fail: where this pod's cannot be renewed,
    /// others' cannot be either, and say nothing about them.
    pub fn is_renewed(&self, now: BootTime) -> bool {
        self.is_held(now) && !self.renewed().is_overdue
    }

    /// Redis has confirmed the renewal that was begun at this moment. If the lease had lapsed
    /// before it: since when.
    pub fn confirm(&self, begun: BootTime) -> Option<BootTime> {
        let mut renewed = self.renewed();
        renewed.is_overdue = false;
        let expired = renewed.last.replace(begun)? + self.ttl;
        (begun >= expired).then_some(expired)
    }

    /// A renewal was not confirmed. Whether that is news: the one before it was.
    pub fn miss(&self) -> bool {
        !std::mem::replace(&mut self.renewed().is_overdue, true)
    }

    fn renewed(&self) -> MutexGuard<'_, Renewed> {
        self.renewed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_held_from_the_beginning_of_its_renewal_for_its_time() {
        let lease = Lease::new(Duration::from_secs(15));
        let start = BootTime::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert!(!lease.is_held(start));
        assert_eq!(lease.confirm(start), None);
        assert!(lease.is_held(at(14_999)));
        assert!(!lease.is_held(at(15_000)));
        // In time: nobody saw it gone.
        assert_eq!(lease.confirm(at(14_999)), None);
        assert!(lease.is_held(at(29_998)));
        assert_eq!(lease.confirm(at(40_000)), Some(at(29_999)));
        assert!(lease.is_held(at(40_001)));
    }

    #[test]
    fn renewals_that_fail_are_news_once() {
        let lease = Lease::new(Duration::from_secs(15));
        let now = BootTime::now();
        assert!(!lease.is_renewed(now));
        assert!(lease.miss());
        assert!(!lease.miss());
        lease.confirm(now);
        assert!(lease.is_renewed(now));
        assert!(lease.miss());
        assert!(lease.is_held(now) && !lease.is_renewed(now));
    }
}

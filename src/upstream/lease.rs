//! This pod's hold on one upstream, as the one who writes to it has to know it.
//!
//! Held for a time that counts from the moment at which the last confirmed renewal began, by the
//! clock since boot. Asked before every write, so that a pod that stood still, or was cut off, does
//! not go on as if nothing had happened.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::BootTime;
use crate::proto::tenure::HELD_FOR;

#[derive(Debug)]
pub struct Lease {
    /// When the last confirmed renewal began; `None`: it does not expire.
    renewed: Mutex<Option<BootTime>>,
    lost: CancellationToken,
}

impl Lease {
    /// Taken by what began at that moment.
    pub fn new(begun: BootTime, expires: bool) -> Lease {
        Lease { renewed: Mutex::new(expires.then_some(begun)), lost: CancellationToken::new() }
    }

    pub fn is_held(&self, now: BootTime) -> bool {
        !self.lost.is_cancelled() && !self.left(now).is_some_and(|left| left.is_zero())
    }

    /// How long it is held yet; `None`: for good.
    pub fn left(&self, now: BootTime) -> Option<Duration> {
        let renewed = (*self.renewed())?;
        Some(HELD_FOR.saturating_sub(now.since(renewed)))
    }

    /// The renewal that began at this moment has been confirmed.
    pub fn confirm(&self, begun: BootTime) {
        *self.renewed() = Some(begun);
    }

    /// It is another's, or may be: it is never held again.
    pub fn lose(&self) {
        self.lost.cancel();
    }

    /// Cancelled when it is lost.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    fn renewed(&self) -> MutexGuard<'_, Option<BootTime>> {
        self.renewed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_held_from_the_beginning_of_its_renewal_and_once_lost_never_again() {
        let start = BootTime::now();
        let at = |ms| start + Duration::from_millis(ms);
        let lease = Lease::new(start, true);
        assert!(lease.is_held(at(5_999)) && !lease.is_held(at(6_000)));
        lease.confirm(at(2_000));
        assert!(lease.is_held(at(7_999)) && !lease.is_held(at(8_000)));
        assert_eq!(lease.left(at(7_000)), Some(Duration::from_secs(1)));
        lease.lose();
        lease.confirm(at(7_000));
        assert!(!lease.is_held(at(7_001)));
        assert!(Lease::new(start, false).is_held(at(u64::from(u32::MAX))));
    }
}

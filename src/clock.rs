//! The clocks: the wall clock, for what people and other pods are told, and the clock since boot,
//! for what a pod may believe of itself and of others.
//!
//! A lease runs out while the machine that holds it is suspended, and `Instant` stands still then.
//! Waits are measured by `Instant` all the same: who sleeps does not wait.

use std::ops::Add;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::proto::millis::millis;

/// Unix time in milliseconds; 0 before 1970.
pub fn unix_ms() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// A moment since the machine was started, times of suspension included (`CLOCK_BOOTTIME`). Never
/// goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(Duration);

impl BootTime {
    pub fn now() -> BootTime {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let nanos = u32::try_from(now.tv_nsec).unwrap_or_default();
        BootTime(Duration::new(seconds, nanos))
    }

    /// How long after `earlier` this is; nothing, if it is not.
    pub fn since(self, earlier: BootTime) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for BootTime {
    type Output = BootTime;

    fn add(self, duration: Duration) -> BootTime {
        BootTime(self.0.saturating_add(duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_goes_on_and_is_counted_from_one_moment_to_another() {
        let start = BootTime::now();
        let later = start + Duration::from_millis(1_500);
        assert_eq!(later.since(start), Duration::from_millis(1_500));
        assert_eq!(start.since(later), Duration::ZERO);
        assert!(BootTime::now() >= start);
    }
}

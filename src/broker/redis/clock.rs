//! Redis' clock as this pod estimates it: the one clock that all pods share.
//!
//! The age of a question is measured with it, so that pods whose own clocks differ agree. It is
//! wrong by at most half of the round trip it was asked in, and goes on while the machine is
//! suspended.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::BootTime;
use crate::proto::millis::millis;

/// An answer that took longer says too little, once there is a better one.
const TRIP_MAX: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub struct Clock(Mutex<Option<Reading>>);

#[derive(Debug, Clone, Copy)]
struct Reading {
    /// Unix time in milliseconds.
    redis_ms: u64,
    at: BootTime,
}

impl Clock {
    /// Another server may be behind the link than before: what was known does not count any more.
    pub fn restart(&self, redis_ms: u64, asked: BootTime, answered: BootTime) {
        let at = asked + answered.since(asked) / 2;
        *self.reading() = Some(Reading { redis_ms, at });
    }

    /// The same server told its time again.
    pub fn note(&self, redis_ms: u64, asked: BootTime, answered: BootTime) {
        if answered.since(asked) <= TRIP_MAX {
            self.restart(redis_ms, asked, answered);
        }
    }

    /// Unix time in milliseconds; `None` as long as Redis has never answered.
    pub fn now_ms(&self, now: BootTime) -> Option<u64> {
        let Reading { redis_ms, at } = (*self.reading())?;
        Some(redis_ms.saturating_add(millis(now.since(at))))
    }

    fn reading(&self) -> std::sync::MutexGuard<'_, Option<Reading>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_from_the_middle_of_the_round_trip() {
        let clock = Clock::default();
        let start = BootTime::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(clock.now_ms(start), None);
        clock.restart(5_000, at(0), at(400));
        assert_eq!(clock.now_ms(at(200)), Some(5_000));
        assert_eq!(clock.now_ms(at(20_200)), Some(25_000));
        // A slow answer is no better than what is known; a quick one is.
        clock.note(99_000, at(1_000), at(1_200));
        assert_eq!(clock.now_ms(at(1_200)), Some(6_000));
        clock.note(7_000, at(2_000), at(2_010));
        assert_eq!(clock.now_ms(at(2_005)), Some(7_000));
    }
}

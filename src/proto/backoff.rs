//! How long to wait before something that failed is tried again: longer each time, up to a bound, and
//! at random, so that those who failed together do not come back together.

use std::time::Duration;

/// Full jitter: any time up to a bound that doubles with each attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The bound after the first failure.
    pub first: Duration,
    /// And after many.
    pub most: Duration,
}

impl Backoff {
    /// After so many failures, the first of which is number 0. `random`: any number, evenly chosen.
    pub fn wait(&self, failures: u32, random: u64) -> Duration {
        let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
        let bound = self.first.saturating_mul(factor).min(self.most);
        let bound_us = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(random % bound_us.saturating_add(1).max(1))
    }
}

/// Attempts at one thing, one after the other.
#[derive(Debug, Clone)]
pub struct Attempts {
    backoff: Backoff,
    failures: u32,
}

impl Attempts {
    pub fn new(backoff: Backoff) -> Attempts {
        Attempts { backoff, failures: 0 }
    }

    /// An attempt has failed, or what it led to has ended after so long: how long to wait. What lasted
    /// as long as the longest wait begins anew. `random`: any number, evenly chosen.
    pub fn failed(&mut self, lasted: Duration, random: u64) -> Duration {
        if lasted >= self.backoff.most {
            self.failures = 0;
        }
        let wait = self.backoff.wait(self.failures, random);
        self.failures = self.failures.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BACKOFF: Backoff =
        Backoff { first: Duration::from_millis(100), most: Duration::from_secs(30) };

    #[test]
    fn the_bound_doubles_until_it_is_the_most() {
        let most = |failures, random_ms: u64| BACKOFF.wait(failures, random_ms * 1000);
        assert_eq!(most(0, 100), Duration::from_millis(100));
        assert_eq!(most(1, 200), Duration::from_millis(200));
        assert_eq!(most(4, 1_600), Duration::from_millis(1_600));
        assert_eq!(most(9, 30_000), Duration::from_secs(30));
        assert_eq!(most(u32::MAX, 30_000), Duration::from_secs(30));
        assert_eq!(most(0, 0), Duration::ZERO);
    }

    #[test]
    fn waits_double_up_to_their_bound_and_begin_anew_after_what_lasted() {
        let (ms, us) = (Duration::from_millis, |ms: u64| ms * 1000);
        let mut attempts = Attempts::new(Backoff { first: ms(250), most: ms(30_000) });
        let bounds = [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000];
        for bound in bounds {
            assert_eq!(attempts.clone().failed(ms(0), us(bound)), ms(bound));
            assert_eq!(attempts.clone().failed(ms(0), us(bound) + 1), ms(0));
            attempts.failed(ms(29_999), 7);
        }
        for _ in 0..100 {
            assert!(attempts.failed(ms(0), u64::MAX) <= ms(30_000));
        }
        assert_eq!(attempts.failed(ms(30_000), us(250) + 1), ms(0));
        assert_eq!(attempts.failed(ms(0), us(500)), ms(500));
    }

    proptest! {
        #[test]
        fn nobody_waits_longer_than_the_bound(failures: u32, random: u64) {
            prop_assert!(BACKOFF.wait(failures, random) <= BACKOFF.most);
            prop_assert!(BACKOFF.wait(0, random) <= BACKOFF.first);
        }
    }
}

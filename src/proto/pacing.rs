//! Pacing: how often something may happen, and how soon it is tried again.

/// A token bucket: `per_second` on average, a second's worth at once. The time is handed in.
#[derive(Debug, Clone)]
pub struct Bucket {
    per_second: u64,
    /// What is left, in thousandths: a millisecond refills `per_second` of them.
    left: u64,
    at_ms: u64,
}

impl Bucket {
    /// Full at the start. `per_second` ≥ 1.
    pub fn new(per_second: u32, now_ms: u64) -> Bucket {
        let per_second = u64::from(per_second);
        Bucket { per_second, left: per_second * 1000, at_ms: now_ms }
    }

    /// Takes one, if there is one. A clock that goes back refills nothing.
    pub fn take(&mut self, now_ms: u64) -> bool {
        let passed_ms = now_ms.saturating_sub(self.at_ms).min(1000);
        self.at_ms = self.at_ms.max(now_ms);
        self.left = (self.left + passed_ms * self.per_second).min(self.per_second * 1000);
        if self.left < 1000 {
            return false;
        }
        self.left -= 1000;
        true
    }
}

/// Attempts that fail one after the other: the wait before the next is anything between nothing and
/// a bound that doubles each time (full jitter), so that many who lost the same server come back
/// spread out.
#[derive(Debug, Clone)]
pub struct Backoff {
    min_ms: u64,
    max_ms: u64,
    attempts: u32,
}

impl Backoff {
    pub fn new(min_ms: u64, max_ms: u64) -> Backoff {
        Backoff { min_ms, max_ms, attempts: 0 }
    }

    /// An attempt has failed, or what it led to has ended after `lasted_ms`: how long to wait, in
    /// milliseconds. `random` is any number. What lasted as long as the longest wait begins anew.
    pub fn failed(&mut self, lasted_ms: u64, random: u64) -> u64 {
        if lasted_ms >= self.max_ms {
            self.attempts = 0;
        }
        let doubled = self.min_ms.saturating_mul(1 << self.attempts.min(32));
        self.attempts = self.attempts.saturating_add(1);
        random % doubled.min(self.max_ms).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holds_what_it_says_and_no_more() {
        let mut bucket = Bucket::new(10, 0);
        assert_eq!((0..100).filter(|_| bucket.take(0)).count(), 10);
        assert!(!bucket.take(99));
        assert!(bucket.take(100));
        assert_eq!((0..100).filter(|_| bucket.take(60_000)).count(), 10);
        assert!(!bucket.take(0));
    }

    #[test]
    fn waits_double_up_to_their_bound_and_begin_anew_after_what_lasted() {
        let mut backoff = Backoff::new(250, 30_000);
        let bounds = [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000];
        for bound in bounds {
            assert_eq!(backoff.clone().failed(0, bound), bound);
            assert_eq!(backoff.clone().failed(0, bound + 1), 0);
            backoff.failed(29_999, 7);
        }
        for _ in 0..100 {
            assert!(backoff.failed(0, u64::MAX) <= 30_000);
        }
        assert_eq!(backoff.failed(30_000, 251), 0);
        assert_eq!(backoff.failed(0, 500), 500);
    }
}

//! Pacing: how often something may happen.

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
}

//! Pacing: how often something may happen, and how much of it by now.

use std::time::Duration;

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

/// How many of `all` are due once `passed` of a `whole` time is over, when they are to be spread
/// evenly: the first at once, the last just before the end.
pub fn due(all: usize, passed: Duration, whole: Duration) -> usize {
    let (passed, whole) = (passed.as_micros(), whole.as_micros());
    match u128::try_from(all) {
        Ok(wide) if passed < whole => {
            usize::try_from(wide * passed / whole + 1).unwrap_or(all).min(all)
        }
        _ => all,
    }
}

/// Takes `count` from what is `left` of several parts, one at a time where most is: so parts of one size take
/// turns. How many of each; fewer where no more are left.
pub fn share(count: usize, left: &mut [usize]) -> Vec<usize> {
    let mut taken = vec![0; left.len()];
    for _ in 0..count {
        let most = left.iter_mut().zip(&mut taken).max_by_key(|(left, _)| **left);
        let Some((left, taken)) = most.filter(|(left, _)| **left > 0) else { break };
        *left -= 1;
        *taken += 1;
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_grows_evenly_from_one_to_all() {
        let (ms, whole) = (Duration::from_millis, Duration::from_secs(10));
        let due_at = |at_ms| due(1000, ms(at_ms), whole);
        assert_eq!([0, 10, 5_000, 9_999].map(due_at), [1, 2, 501, 1000]);
        assert_eq!(due_at(10_000), 1000);
        assert_eq!(due_at(20_000), 1000);
        assert_eq!(due(0, ms(0), whole), 0);
        assert_eq!(due(7, ms(0), ms(0)), 7);
        assert_eq!(due(usize::MAX, Duration::MAX, Duration::MAX), usize::MAX);
    }

    #[test]
    fn parts_of_one_size_take_turns_and_a_large_one_comes_first() {
        let mut left = [2, 2, 5];
        assert_eq!(share(3, &mut left), [0, 0, 3]);
        assert_eq!(share(3, &mut left), [1, 1, 1]);
        assert_eq!((share(9, &mut left), left), (vec![1, 1, 1], [0, 0, 0]));
        assert!(share(1, &mut []).is_empty());
    }

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

//! Tenure: which pod holds an upstream, and when the next one may take it.
//!
//! The holder counts from the moment at which its last confirmed renewal *began*, the key's life from
//! when Redis had it, which is later; the holder stops two seconds before the end, and a taker waits
//! two more after it. So clocks that run a little apart, and whatever is still on its way, have four
//! seconds between the last write of one and the first of the next.
//!
//! All of it rests on what Redis remembers. Whoever has seen an epoch there notices that it was emptied, and
//! waits for the whole term; whoever looks for the first time afterwards cannot know, and does not
//! wait, since every first start would.

use std::time::Duration;

use crate::proto::session_id::PodId;

/// How long the key lives that nobody renews.
pub const TTL: Duration = Duration::from_secs(8);

/// How often it is renewed: three renewals may be lost.
pub const RENEW_EVERY: Duration = Duration::from_secs(2);

/// How soon after one that failed.
pub const RENEW_AGAIN: Duration = Duration::from_millis(500);

/// Before its end the holder writes no more, and after it nobody else does.
const MARGIN: Duration = Duration::from_secs(2);

/// How often those look who do not hold it: what was given back is found within that.
pub const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long after the beginning of the last confirmed renewal the holder may write.
pub const HELD_FOR: Duration = TTL.saturating_sub(MARGIN);

/// What is there of an upstream's tenure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenure {
    pub holder: Option<PodId>,
    /// Of the last holder; `None`: there has never been one.
    pub epoch: Option<u64>,
    /// The last holder gave it back.
    pub is_released: bool,
}

/// Somebody who would take an upstream. The time is handed in, in milliseconds of a clock that goes
/// on while the machine is suspended.
#[derive(Debug, Clone, Default)]
pub struct Taker {
    absent_since_ms: Option<u64>,
    /// The highest epoch that was ever seen here.
    pub epoch: u64,
}

impl Taker {
    /// Whether it may be taken, after this look. To be asked of each look, in their order.
    pub fn may_take(&mut self, seen: &Tenure, now_ms: u64) -> bool {
        let is_forgotten = seen.epoch.unwrap_or(0) < self.epoch;
        self.epoch = self.epoch.max(seen.epoch.unwrap_or(0));
        if seen.holder.is_some() {
            self.absent_since_ms = None;
            return false;
        }
        let absent_ms = now_ms.saturating_sub(*self.absent_since_ms.get_or_insert(now_ms));
        let wait = match seen.epoch {
            // A Redis that was emptied says nothing of who held it just before.
            _ if is_forgotten => TTL,
            None => Duration::ZERO,
            Some(_) if seen.is_released => Duration::ZERO,
            Some(_) => MARGIN,
        };
        u128::from(absent_ms) >= wait.as_millis()
    }

    /// What was seen no longer counts: the broker was away.
    pub fn forget(&mut self) {
        self.absent_since_ms = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: Tenure = Tenure { holder: Some(PodId([1; 8])), epoch: Some(3), is_released: false };
    const GONE: Tenure = Tenure { holder: None, ..HELD };
    const RELEASED: Tenure = Tenure { is_released: true, ..GONE };
    const NEVER: Tenure = Tenure { epoch: None, ..GONE };

    #[track_caller]
    fn check(looks: &[(u64, Tenure, bool)]) {
        let mut taker = Taker::default();
        for (at_ms, seen, expected) in looks {
            assert_eq!(taker.may_take(seen, *at_ms), *expected, "{at_ms} {seen:?}");
        }
    }

    #[test]
    fn what_was_given_back_is_taken_at_once_and_what_expired_after_a_margin() {
        check(&[(0, NEVER, true)]);
        check(&[(0, HELD, false), (250, RELEASED, true)]);
        check(&[(0, HELD, false), (250, GONE, false), (2_249, GONE, false), (2_250, GONE, true)]);
        check(&[(0, GONE, false), (1_000, HELD, false), (2_000, GONE, false), (4_000, GONE, true)]);
    }

    #[test]
    fn a_redis_that_forgot_the_holder_proves_nothing() {
        let first = Tenure { epoch: Some(1), ..GONE };
        check(&[
            (0, HELD, false),
            (250, NEVER, false),
            (8_249, NEVER, false),
            (8_250, NEVER, true),
        ]);
        check(&[
            (0, HELD, false),
            (250, first, false),
            (8_249, first, false),
            (8_250, first, true),
        ]);
    }

    #[test]
    fn the_last_write_of_one_and_the_first_of_the_next_are_far_apart() {
        assert_eq!(HELD_FOR + 2 * MARGIN, TTL + MARGIN);
        assert!(RENEW_EVERY + RENEW_AGAIN < HELD_FOR);
    }
}

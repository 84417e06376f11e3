//! This pod's pings to itself through Redis: whether it hears, and since when without a break.
//!
//! Whoever stood still, or was deaf for a while, has not seen what became of others meanwhile. The
//! pongs tell: from the first of an unbroken row on, everything that was said was heard.

use std::time::{Duration, Instant};

use crate::clock::BootTime;

/// Between two pongs of an unbroken row: three pings, as long as a pod may be deaf before it is
/// noticed.
const PAUSE_MAX: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub struct Pulse {
    nonce: u64,
    sent: Option<Instant>,
    missed: u32,
    seen: Option<Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    since: BootTime,
    last: BootTime,
}

impl Pulse {
    /// The next ping: its nonce, or how many were missed if those are too many.
    pub fn ping(&mut self, missed_max: u32, now: Instant) -> Result<u64, u32> {
        if self.missed >= missed_max {
            return Err(self.missed);
        }
        self.missed += 1;
        self.nonce += 1;
        self.sent = Some(now);
        Ok(self.nonce)
    }

    /// A pong has come: how long it was on its way, if it is the awaited one.
    pub fn pong(&mut self, nonce: u64, now: BootTime) -> Option<Duration> {
        let sent = (nonce == self.nonce).then(|| self.sent.take())??;
        self.missed = 0;
        let since = self.unbroken_since(now).unwrap_or(now);
        self.seen = Some(Seen { since, last: now });
        Some(sent.elapsed())
    }

    /// Since when this pod has heard without a break; `None` if it may have missed something just
    /// now.
    pub fn unbroken_since(&self, now: BootTime) -> Option<BootTime> {
        let Seen { since, last } = self.seen?;
        (now.since(last) < PAUSE_MAX).then_some(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_that_are_not_answered_are_counted_until_one_is() {
        let (mut pulse, now, boot) = (Pulse::default(), Instant::now(), BootTime::now());
        assert_eq!(pulse.ping(3, now), Ok(1));
        assert_eq!(pulse.ping(3, now), Ok(2));
        assert_eq!(pulse.pong(1, boot), None, "too late");
        assert!(pulse.pong(2, boot).is_some());
        assert_eq!(pulse.pong(2, boot), None, "it came before");
        assert_eq!(
            [pulse.ping(3, now), pulse.ping(3, now), pulse.ping(3, now)],
            [Ok(3), Ok(4), Ok(5)]
        );
        assert_eq!(pulse.ping(3, now), Err(3));
    }

    #[test]
    fn a_row_of_pongs_breaks_when_one_is_late() {
        let (mut pulse, start) = (Pulse::default(), BootTime::now());
        let at = |ms| start + Duration::from_millis(ms);
        let mut pong = |ms| {
            let nonce = pulse.ping(3, Instant::now()).expect("few were missed");
            pulse.pong(nonce, at(ms));
            pulse.unbroken_since(at(ms))
        };
        assert_eq!(pong(0), Some(start));
        assert_eq!(pong(1_000), Some(start));
        assert_eq!(pong(3_999), Some(start));
        assert_eq!(pong(7_000), Some(at(7_000)), "it stood still");
        assert_eq!(pulse.unbroken_since(at(9_999)), Some(at(7_000)));
        assert_eq!(pulse.unbroken_since(at(10_000)), None);
    }
}

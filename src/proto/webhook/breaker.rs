//! A circuit breaker: a backend that fails again and again is asked less often, by one at a time.
//!
//! Closed, everybody may ask. After some failures in a row it opens, for a time that doubles each
//! time, up to a bound. Then one may ask, the probe: its success closes the breaker, its failure opens it
//! again. A probe that never tells is replaced. The time is handed in, in milliseconds of any clock
//! that does not go back.

/// So many failures in a row are more than bad luck.
const FAILURES_MAX: u32 = 5;

/// How long it is open the first time.
const OPEN_MS: u64 = 100;

/// And at most: one request every two seconds harms nobody, and a backend that is back is found soon.
const OPEN_MS_MAX: u64 = 2_000;

/// How often those look again who wait for somebody else's probe.
const LOOK_MS: u64 = 50;

#[derive(Debug, Clone)]
pub struct Breaker {
    state: State,
    /// In a row.
    failures: u32,
    /// How long it opens the next time.
    open_ms: u64,
    /// After which a probe that told nothing is taken for lost.
    probe_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        until_ms: u64,
    },
    /// One is asking.
    HalfOpen {
        until_ms: u64,
    },
}

/// Whether one may ask now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Whoever is told so asks, and tells what came of it.
    Go,
    /// Not before so many milliseconds have passed.
    Wait(u64),
}

impl Breaker {
    /// `probe_ms`: how long one who asks may take.
    pub fn new(probe_ms: u64) -> Breaker {
        Breaker { state: State::Closed, failures: 0, open_ms: OPEN_MS, probe_ms }
    }

    pub fn gate(&mut self, now_ms: u64) -> Gate {
        match self.state {
            State::Closed => Gate::Go,
            State::Open { until_ms } if now_ms < until_ms => Gate::Wait(until_ms - now_ms),
            State::HalfOpen { until_ms } if now_ms < until_ms => {
                Gate::Wait(LOOK_MS.min(until_ms - now_ms))
            }
            State::Open { .. } | State::HalfOpen { .. } => {
                self.state = State::HalfOpen { until_ms: now_ms + self.probe_ms };
                Gate::Go
            }
        }
    }

    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether one who came now would have to wait; asks for nothing.
    pub fn is_shut(&self, now_ms: u64) -> bool {
        match self.state {
            State::Closed => false,
            State::Open { until_ms } | State::HalfOpen { until_ms } => now_ms < until_ms,
        }
    }

    /// The backend answered. Whether that closes the breaker.
    pub fn succeed(&mut self) -> bool {
        self.failures = 0;
        self.open_ms = OPEN_MS;
        !self.is_closed_after()
    }

    fn is_closed_after(&mut self) -> bool {
        std::mem::replace(&mut self.state, State::Closed) == State::Closed
    }

    /// It did not. Whether that opens the breaker that was closed.
    pub fn fail(&mut self, now_ms: u64) -> bool {
        self.failures = self.failures.saturating_add(1);
        let was_closed = self.is_closed();
        match self.state {
            State::Closed if self.failures < FAILURES_MAX => return false,
            // Somebody who had begun before it opened.
            State::Open { .. } => return false,
            State::Closed | State::HalfOpen { .. } => {}
        }
        self.state = State::Open { until_ms: now_ms + self.open_ms };
        self.open_ms = (2 * self.open_ms).min(OPEN_MS_MAX);
        was_closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> Breaker {
        let mut breaker = Breaker::new(1_000);
        for _ in 1..FAILURES_MAX {
            assert!(!breaker.fail(0));
            assert_eq!(breaker.gate(0), Gate::Go);
        }
        assert!(breaker.fail(0));
        breaker
    }

    #[test]
    fn some_failures_in_a_row_open_it_and_a_success_between_does_not_let_it_come_to_that() {
        let mut breaker = Breaker::new(1_000);
        for _ in 0..3 {
            for _ in 1..FAILURES_MAX {
                assert!(!breaker.fail(0));
            }
            assert!(!breaker.succeed());
        }
        assert!(breaker.is_closed());
        let mut breaker = opened();
        assert_eq!(breaker.gate(0), Gate::Wait(OPEN_MS));
        assert_eq!(breaker.gate(OPEN_MS - 1), Gate::Wait(1));
    }

    #[test]
    fn half_open_one_may_ask_at_a_time() {
        let mut breaker = opened();
        assert_eq!(breaker.gate(OPEN_MS), Gate::Go);
        assert_eq!(breaker.gate(OPEN_MS), Gate::Wait(LOOK_MS));
        assert!(breaker.is_shut(OPEN_MS));
        assert!(breaker.succeed());
        assert_eq!(breaker.gate(OPEN_MS), Gate::Go);
        assert_eq!(breaker.gate(OPEN_MS), Gate::Go);
        // A probe that tells nothing does not shut it for ever.
        let mut breaker = opened();
        assert_eq!(breaker.gate(OPEN_MS), Gate::Go);
        assert_eq!(breaker.gate(OPEN_MS + 1_000), Gate::Go);
    }

    #[test]
    fn it_stays_open_longer_each_time_up_to_a_bound() {
        let mut breaker = opened();
        let (mut now_ms, mut open_ms) = (OPEN_MS, OPEN_MS);
        for _ in 0..20 {
            assert_eq!(breaker.gate(now_ms), Gate::Go);
            assert!(!breaker.fail(now_ms));
            // Others, who had begun before.
            assert!(!breaker.fail(now_ms + 1));
            open_ms = (2 * open_ms).min(OPEN_MS_MAX);
            assert_eq!(breaker.gate(now_ms), Gate::Wait(open_ms));
            now_ms += open_ms;
        }
        assert_eq!(open_ms, OPEN_MS_MAX);
        breaker.succeed();
        assert!(!breaker.fail(now_ms), "it begins anew");
    }
}

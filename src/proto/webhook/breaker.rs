//! A circuit breaker: a backend that is down is asked less often, by one at a time.
//!
//! Closed, everybody may ask. After some failures in a row it opens, for a time that doubles each
//! time, up to a bound. Then one may ask, the probe: an answer closes the breaker, none opens it
//! again. A probe that never tells is replaced. The time is handed in, in milliseconds of any clock
//! that does not go back.
//!
//! A failure says something of the backend, or of the event alone: one that makes the backend hang hangs
//! it each time. So an event that failed before counts no more once others were answered meanwhile; and
//! where events wait to be the probe, those that never failed come first. Else a few that can never
//! succeed would keep all others out.

/// So many failures in a row are more than bad luck.
const FAILURES_MAX: u32 = 5;

/// How long it is open the first time.
const OPEN_MS: u64 = 100;

/// And at most: one request every two seconds harms nobody, and a backend that is back is found soon.
const OPEN_MS_MAX: u64 = 2_000;

/// How often those look again who wait for somebody else's probe.
const LOOK_MS: u64 = 50;

/// How much later than others an event that failed may be the probe: long enough for those to look.
const YIELD_MS: u64 = 2 * LOOK_MS;

#[derive(Debug, Clone)]
pub struct Breaker {
    state: State,
    /// In a row.
    failures: u32,
    /// How often the backend has answered.
    answers: u64,
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
        has_failed: bool,
    },
}

/// What one event has been through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Past {
    /// How often the backend had answered when this one failed last; `None`: it never did.
    failed_at: Option<u64>,
    /// The backend answered others meanwhile: the fault is its own.
    is_at_fault: bool,
}

impl Past {
    /// Whether an attempt has failed.
    pub fn has_failed(&self) -> bool {
        self.failed_at.is_some()
    }

    /// Whether it is the event that is at fault, and not the backend.
    pub fn is_at_fault(&self) -> bool {
        self.is_at_fault
    }
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
        Breaker { state: State::Closed, failures: 0, answers: 0, open_ms: OPEN_MS, probe_ms }
    }

    pub fn gate(&mut self, now_ms: u64, past: &Past) -> Gate {
        let has_failed = past.has_failed();
        let probe_ms = match self.state {
            State::Closed => return Gate::Go,
            State::Open { until_ms } if has_failed => until_ms + YIELD_MS,
            State::Open { until_ms } => until_ms,
            // The one that asks may hang for its own sake.
            State::HalfOpen { has_failed: true, .. } if !has_failed => now_ms,
            State::HalfOpen { until_ms, .. } => until_ms,
        };
        match (probe_ms.saturating_sub(now_ms), self.state) {
            (0, _) => {
                self.state = State::HalfOpen { until_ms: now_ms + self.probe_ms, has_failed };
                Gate::Go
            }
            (wait_ms, State::HalfOpen { .. }) => Gate::Wait(wait_ms.min(LOOK_MS)),
            (wait_ms, _) => Gate::Wait(wait_ms),
        }
    }

    fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// The backend answered. Whether that closes the breaker.
    pub fn succeed(&mut self) -> bool {
        self.answers = self.answers.wrapping_add(1);
        self.failures = 0;
        self.open_ms = OPEN_MS;
        std::mem::replace(&mut self.state, State::Closed) != State::Closed
    }

    /// It did not answer this event. Whether that opens the breaker that was closed.
    pub fn fail(&mut self, now_ms: u64, past: &mut Past) -> bool {
        let before = past.failed_at.replace(self.answers);
        past.is_at_fault |= before.is_some_and(|before| before != self.answers);
        if !past.is_at_fault {
            self.failures = self.failures.saturating_add(1);
        }
        match self.state {
            State::Closed if past.is_at_fault || self.failures < FAILURES_MAX => return false,
            // Somebody who had begun before it opened.
            State::Open { .. } => return false,
            State::Closed | State::HalfOpen { .. } => {}
        }
        let was_closed = self.is_closed();
        self.state = State::Open { until_ms: now_ms + self.open_ms };
        if !past.is_at_fault {
            self.open_ms = (2 * self.open_ms).min(OPEN_MS_MAX);
        }
        was_closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that never failed.
    const FRESH: Past = Past { failed_at: None, is_at_fault: false };

    fn fail(breaker: &mut Breaker, now_ms: u64) -> bool {
        breaker.fail(now_ms, &mut FRESH.clone())
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::new(1_000);
        for _ in 1..FAILURES_MAX {
            assert!(!fail(&mut breaker, 0));
            assert_eq!(breaker.gate(0, &FRESH), Gate::Go);
        }
        assert!(fail(&mut breaker, 0));
        breaker
    }

    #[test]
    fn some_failures_in_a_row_open_it_and_a_success_between_does_not_let_it_come_to_that() {
        let mut breaker = Breaker::new(1_000);
        for _ in 0..3 {
            for _ in 1..FAILURES_MAX {
                assert!(!fail(&mut breaker, 0));
            }
            assert!(!breaker.succeed());
        }
        assert!(breaker.is_closed());
        let mut breaker = opened();
        assert_eq!(breaker.gate(0, &FRESH), Gate::Wait(OPEN_MS));
        assert_eq!(breaker.gate(OPEN_MS - 1, &FRESH), Gate::Wait(1));
    }

    #[test]
    fn one_event_alone_opens_it_too_while_nothing_is_answered() {
        let (mut breaker, mut past) = (Breaker::new(1_000), FRESH);
        let opens: Vec<bool> = (0..FAILURES_MAX).map(|_| breaker.fail(0, &mut past)).collect();
        assert_eq!(opens, [false, false, false, false, true]);
        assert_eq!(breaker.gate(OPEN_MS + YIELD_MS, &past), Gate::Go);
        assert!(!past.is_at_fault());
    }

    #[test]
    fn half_open_one_may_ask_at_a_time() {
        let mut breaker = opened();
        assert_eq!(breaker.gate(OPEN_MS, &FRESH), Gate::Go);
        assert_eq!(breaker.gate(OPEN_MS, &FRESH), Gate::Wait(LOOK_MS));
        assert!(breaker.succeed());
        assert_eq!(breaker.gate(OPEN_MS, &FRESH), Gate::Go);
        assert_eq!(breaker.gate(OPEN_MS, &FRESH), Gate::Go);
        // A probe that tells nothing does not shut it for ever.
        let mut breaker = opened();
        assert_eq!(breaker.gate(OPEN_MS, &FRESH), Gate::Go);
        assert_eq!(breaker.gate(OPEN_MS + 1_000, &FRESH), Gate::Go);
    }

    #[test]
    fn it_stays_open_longer_each_time_up_to_a_bound() {
        let mut breaker = opened();
        let (mut now_ms, mut open_ms) = (OPEN_MS, OPEN_MS);
        for _ in 0..20 {
            assert_eq!(breaker.gate(now_ms, &FRESH), Gate::Go);
            assert!(!fail(&mut breaker, now_ms));
            // Others, who had begun before.
            assert!(!fail(&mut breaker, now_ms + 1));
            open_ms = (2 * open_ms).min(OPEN_MS_MAX);
            assert_eq!(breaker.gate(now_ms, &FRESH), Gate::Wait(open_ms));
            now_ms += open_ms;
        }
        assert_eq!(open_ms, OPEN_MS_MAX);
        breaker.succeed();
        assert!(!fail(&mut breaker, now_ms), "it begins anew");
    }

    #[test]
    fn events_that_fail_while_others_are_answered_do_not_open_it() {
        let mut breaker = Breaker::new(1_000);
        let mut poison = [FRESH; 20];
        for _ in 0..10 {
            breaker.succeed();
            for past in &mut poison {
                breaker.fail(0, past);
            }
            if !breaker.is_closed() {
                // Twenty that came at once, once.
                assert_eq!(breaker.gate(OPEN_MS, &FRESH), Gate::Go);
                assert!(breaker.succeed());
                assert!(!poison[0].is_at_fault());
            }
        }
        assert!(breaker.is_closed());
        assert!(poison.iter().all(Past::is_at_fault));
    }

    #[test]
    fn what_never_failed_asks_before_what_did() {
        let mut breaker = opened();
        let mut poison = FRESH;
        breaker.fail(0, &mut poison);
        assert_eq!(breaker.gate(OPEN_MS, &poison), Gate::Wait(YIELD_MS));
        assert_eq!(breaker.gate(OPEN_MS + YIELD_MS, &poison), Gate::Go);
        // While that hangs, one more may try, and no third.
        assert_eq!(breaker.gate(OPEN_MS + YIELD_MS, &poison), Gate::Wait(LOOK_MS));
        assert_eq!(breaker.gate(OPEN_MS + YIELD_MS, &FRESH), Gate::Go);
        assert_eq!(breaker.gate(OPEN_MS + YIELD_MS, &FRESH), Gate::Wait(LOOK_MS));
    }
}

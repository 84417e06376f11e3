//! A target: one URL that events are posted to, with its budgets and its patience.
//!
//! Connects, messages and disconnects have budgets of their own, so that a flood of one kind does not
//! keep the others waiting. An event is offered until the backend takes it, refuses it for good, or its
//! path's patience ends; between attempts its place in the budget is free. No event leaves while
//! `may_leave` says no.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OnceCell, Semaphore};

use crate::backend::webhook::Config;
use crate::backend::webhook::exchange::{Answer, Client, Failure};
use crate::backend::webhook::lanes::Job;
use crate::backend::webhook::leave::MayLeave;
use crate::backend::webhook::request;
use crate::clock::unix_ms;
use crate::metrics::Metrics;
use crate::proto::backoff::Backoff;
use crate::proto::event::Kind;
use crate::proto::millis::millis;
use crate::proto::webhook::admission::{self, Named};
use crate::proto::webhook::breaker::{Breaker, Gate, Past};
use crate::proto::webhook::url::Url;
use crate::proto::webhook::verdict::{Verdict, verdict};
use crate::proto::webhook::{OnError, Webhook};

/// Between attempts of one event. A backend that is back is found by the breaker's probe, not by this.
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(200), most: Duration::from_secs(30) };

/// Between attempts of a connect, while its client waits.
const CONNECT_BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), most: Duration::from_secs(1) };

/// After so many an operator is told of an event that is still not taken.
const FAILURES_TOLD: u32 = 8;

/// How often it is looked whether events may leave again.
const LEASE_POLL: Duration = Duration::from_millis(100);

/// Of an answer that has nothing for the client: enough for a reason, and for keeping the connection.
const REASON_BYTES_MAX: usize = 16 << 10;

/// Connects that may be under way or wait for it, for each that may be under way: the others are
/// refused at once, so that a slow backend does not fill the places of all handshakes.
const CONNECTS_WAITING: usize = 4;

pub struct Target {
    url: Url,
    connects: Semaphore,
    connects_waiting: Semaphore,
    messages: Semaphore,
    disconnects: Semaphore,
    breaker: Mutex<Breaker>,
    /// The breaker closed: whoever waits for his next attempt need not.
    recovered: Notify,
    /// Set once the target has said that it wants events.
    validated: OnceCell<()>,
    started: Instant,
}

/// What became of an event in the end.
#[derive(Debug)]
pub enum Delivery {
    Taken(Answer),
    /// It will not be offered again.
    Dead(String),
}

/// What became of a connect.
#[derive(Debug)]
pub enum Admission {
    Accepted(Named),
    Vetoed {
        status: u16,
        line: String,
        retry_after: Option<String>,
    },
    /// Too much waits for backends: whoever came in would only add to it.
    Full,
    /// The backend did not say. `is_known`: it may have heard of the session.
    Unanswered {
        is_known: bool,
        why: String,
    },
}

/// What became of one attempt.
enum Attempt {
    Answered(Answer),
    /// To be made again, at the earliest after that.
    Failed {
        why: String,
        after: Option<Duration>,
        is_known: bool,
    },
    Refused(String),
}

impl Target {
    pub fn new(url: Url, config: &Config) -> Target {
        let probe_ms = millis(config.timeout) + 1_000;
        Target {
            url,
            connects: Semaphore::new(config.connects_in_flight),
            connects_waiting: Semaphore::new(CONNECTS_WAITING * config.connects_in_flight),
            messages: Semaphore::new(config.in_flight),
            disconnects: Semaphore::new(config.disconnects_in_flight),
            breaker: Mutex::new(Breaker::new(probe_ms)),
            recovered: Notify::new(),
            validated: OnceCell::new(),
            started: Instant::now(),
        }
    }

    /// Offers an event until something final became of it. What it died of in the end is what came of its
    /// last attempt, also if it had to wait for another one in vain.
    pub async fn deliver(
        &self,
        client: &Client,
        config: &Config,
        metrics: &Metrics,
        webhook: &Webhook,
        job: &Job,
        may_leave: &MayLeave,
    ) -> Delivery {
        let mut deadline = match webhook.on_error {
            OnError::Retry => None,
            OnError::Drop | OnError::Close => Some(Instant::now() + webhook.retry_for),
        };
        let budget = match job.event.kind {
            Kind::Connect => &self.connects,
            Kind::Message => &self.messages,
            Kind::Disconnect => &self.disconnects,
        };
        let metrics = &metrics.webhooked;
        let (mut failures, mut past, mut last) = (0, Past::default(), None);
        loop {
            // What no event may do is not for the backend to answer for.
            let waited = Instant::now();
            while !may_leave() {
                tokio::time::sleep(LEASE_POLL).await;
            }
            deadline = deadline.map(|deadline| deadline + waited.elapsed());
            // Recovery after this moment ends the wait below, however early it comes.
            let recovered = self.recovered.notified();
            let (is_its_turn, place) = match past.has_failed() {
                // Those that never failed do not wait for its place.
                true => {
                    (self.wait_for_turn(may_leave, deadline, &past).await, budget.acquire().await)
                }
                false => {
                    let place = budget.acquire().await;
                    (self.wait_for_turn(may_leave, deadline, &past).await, place)
                }
            };
            let attempt = match is_its_turn {
                true => self.attempt(client, config, job, config.timeout, &mut past).await,
                false => {
                    let none = || "the backend does not answer".to_owned();
                    let why = last.clone().unwrap_or_else(none);
                    Attempt::Failed { why, after: None, is_known: false }
                }
            };
            drop(place);
            let (why, after) = match attempt {
                Attempt::Answered(answer) => {
                    metrics.taken.inc();
                    metrics.seconds.observe(job.event.at.elapsed().as_secs_f64());
                    return Delivery::Taken(answer);
                }
                Attempt::Refused(why) => {
                    metrics.refused.inc();
                    return Delivery::Dead(why);
                }
                Attempt::Failed { why, after, .. } => (why, after),
            };
            let wait = BACKOFF.wait(failures, random()) + after.unwrap_or_default();
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero() || after.is_some_and(|after| after > left)) {
                metrics.dropped.inc();
                return Delivery::Dead(why);
            }
            // The last attempt is made at the end of its time.
            let wait = left.map_or(wait, |left| wait.min(left));
            failures = failures.saturating_add(1);
            if failures == FAILURES_TOLD {
                tracing::warn!(url = %self.url, id = job.event.id, why, "an event is not taken, again and again");
            }
            tracing::debug!(url = %self.url, id = job.event.id, failures, why, "an event was not taken");
            last = Some(why);
            match after {
                // The backend named the time.
                Some(_) => tokio::time::sleep(wait).await,
                // That others are answered again is not news for it.
                None if past.is_at_fault() => tokio::time::sleep(wait).await,
                None => tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = recovered => {}
                },
            }
            metrics.repeated.inc();
        }
    }

    /// Offers a connect while its client waits, within the limit for that.
    pub async fn admit(
        &self,
        client: &Client,
        config: &Config,
        metrics: &Metrics,
        job: &Job,
        may_leave: &MayLeave,
    ) -> Admission {
        let begun = Instant::now();
        let deadline = begun + config.connect_limit;
        let left = || deadline.saturating_duration_since(Instant::now());
        let unanswered = |is_known, why: String| Admission::Unanswered { is_known, why };
        let Ok(_waiting) = self.connects_waiting.try_acquire() else {
            return unanswered(false, "too many clients wait for it".to_owned());
        };
        let Ok(Ok(_place)) = tokio::time::timeout(left(), self.connects.acquire()).await else {
            return unanswered(false, "too many clients wait for it".to_owned());
        };
        let (mut failures, mut was_known, mut past, mut last) = (0, false, Past::default(), None);
        loop {
            if !self.wait_for_turn(may_leave, Some(deadline), &past).await {
                let none = || "it has failed too often just now".to_owned();
                return unanswered(was_known, last.unwrap_or_else(none));
            }
            let attempt = self.attempt(client, config, job, left(), &mut past);
            let (why, wait) = match attempt.await {
                Attempt::Answered(answer) => {
                    metrics.webhooked.taken.inc();
                    metrics.webhooked.seconds.observe(begun.elapsed().as_secs_f64());
                    return self.admission(&answer);
                }
                Attempt::Refused(why) => {
                    metrics.webhooked.refused.inc();
                    return unanswered(true, why);
                }
                Attempt::Failed { why, after, is_known } => {
                    was_known |= is_known;
                    let wait = CONNECT_BACKOFF.wait(failures, random());
                    (why, wait + after.unwrap_or_default())
                }
            };
            if wait >= left() {
                return unanswered(was_known, why);
            }
            failures += 1;
            last = Some(why);
            tokio::time::sleep(wait).await;
            metrics.webhooked.repeated.inc();
        }
    }

    fn admission(&self, answer: &Answer) -> Admission {
        if (400..500).contains(&answer.status) {
            return Admission::Vetoed {
                status: admission::status(answer.status),
                line: admission::line(&answer.said()),
                retry_after: answer.retry_after().map(str::to_owned),
            };
        }
        match admission::named(&answer.label(), answer.body.as_deref()) {
            Ok(named) => Admission::Accepted(named),
            Err(invalid) => Admission::Unanswered { is_known: true, why: invalid.to_string() },
        }
    }

    /// Whether as much is under way as may be.
    pub fn is_busy(&self) -> bool {
        self.messages.available_permits() == 0
    }

    /// Waits until the breaker lets one ask, and events may leave; whether that was in time.
    async fn wait_for_turn(
        &self,
        may_leave: &MayLeave,
        deadline: Option<Instant>,
        past: &Past,
    ) -> bool {
        loop {
            let wait = match may_leave() {
                false => LEASE_POLL,
                true => match self.breaker().gate(self.now_ms(), past) {
                    Gate::Go => return true,
                    Gate::Wait(ms) => Duration::from_millis(ms),
                },
            };
            let now = Instant::now();
            match deadline {
                Some(deadline) if now + wait >= deadline => {
                    tokio::time::sleep(deadline.saturating_duration_since(now)).await;
                    return false;
                }
                _ => tokio::time::sleep(wait).await,
            }
        }
    }

    async fn attempt(
        &self,
        client: &Client,
        config: &Config,
        job: &Job,
        limit: Duration,
        past: &mut Past,
    ) -> Attempt {
        let mut failed = |why: String, after, is_known| {
            if self.breaker().fail(self.now_ms(), past) {
                tracing::warn!(url = %self.url, why, "a webhook fails: it is asked less often");
            }
            Attempt::Failed { why, after, is_known }
        };
        if config.validate {
            let validation =
                self.validated.get_or_try_init(|| self.validate(client, config, limit));
            if let Err(why) = validation.await {
                return failed(why, None, false);
            }
        }
        let (is_message, is_connect) = match job.event.kind {
            Kind::Connect => (false, true),
            Kind::Message => (true, false),
            Kind::Disconnect => (false, false),
        };
        let body_bytes_max = if is_message { config.answer_bytes_max } else { REASON_BYTES_MAX };
        let request = request::post(&self.url, job, &config.secrets, unix_ms() / 1000);
        let answer = match client.exchange(request, body_bytes_max, limit).await {
            Ok(answer) => answer,
            Err(failure @ Failure::Unreachable(_)) => {
                return failed(failure.to_string(), None, false);
            }
            Err(failure) => return failed(failure.to_string(), None, true),
        };
        let status = answer.status;
        let verdict = verdict(status, answer.retry_after(), unix_ms());
        let is_veto = is_connect && (400..500).contains(&status) && !matches!(status, 408 | 425);
        match verdict {
            // Not its own word: something before it could not reach it, or it takes nothing now.
            Verdict::Again { after } if matches!(status, 502..=504) => {
                failed(format!("it answered {status}"), after, true)
            }
            _ => {
                // Whatever else it says, it lives.
                if self.breaker().succeed() {
                    tracing::info!(url = %self.url, "a webhook answers again");
                    self.recovered.notify_waiters();
                }
                match verdict {
                    _ if is_veto => Attempt::Answered(answer),
                    Verdict::Taken => Attempt::Answered(answer),
                    Verdict::Again { after } => {
                        let why = format!("it answered {status}");
                        Attempt::Failed { why, after, is_known: true }
                    }
                    Verdict::Refused => Attempt::Refused(format!("it answered {status}")),
                }
            }
        }
    }

    /// Asks once whether events are wanted (CloudEvents, HTTP 1.1 Web Hooks, section 4).
    async fn validate(
        &self,
        client: &Client,
        config: &Config,
        limit: Duration,
    ) -> Result<(), String> {
        let request = request::options(&self.url, &config.origin);
        let answer = client.exchange(request, REASON_BYTES_MAX, limit).await;
        let answer = answer.map_err(|failure| failure.to_string())?;
        let allowed = answer.text(request::ALLOWED_ORIGIN).unwrap_or_default();
        let is_allowed = allowed.split(',').any(|one| {
            let one = one.trim();
            one == "*" || one.eq_ignore_ascii_case(&config.origin)
        });
        match is_allowed && (200..300).contains(&answer.status) {
            true => Ok(()),
            false => Err(format!(
                "it did not agree to events from {:?}: it answered OPTIONS with {} and \
                 WebHook-Allowed-Origin {allowed:?}",
                config.origin, answer.status
            )),
        }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        // Each of its changes is whole.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        millis(self.started.elapsed())
    }
}

/// For jitter alone: without randomness there is none.
fn random() -> u64 {
    let mut bytes = [0; 8];
    let _ = getrandom::fill(&mut bytes);
    u64::from_be_bytes(bytes)
}

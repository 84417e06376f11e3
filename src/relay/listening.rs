//! Listening to a path on all pods, in the one order that loses nothing.
//!
//! The listener first, then the confirmed subscription to what others tell, then every living pod is
//! asked to tell: an event that happens after [`Listening::begin`] has returned is heard, wherever it
//! happens. A listener that leaves keeps its seat for a minute, so that it, or another one, can come back and
//! go on behind the last event it had.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::backend::sse::heard::{Heard, Topic};
use crate::backend::sse::{Keep, Listener};
use crate::broker::{Failure, Letter, Outage};
use crate::proto::ask::{Answer, Ask};
use crate::proto::telling::{BEAT_MS, Missed};
use crate::relay::{Refusal, Relay, SUBSCRIBE_TIMEOUT};

/// How long after a failed attempt pods are asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// How often it is looked whether events may leave again.
const LEASE_POLL: Duration = Duration::from_millis(100);

/// Hears the events of a path, of this pod's sessions and all others'.
pub struct Listening {
    listener: Listener,
    /// What was heard while it may not leave this pod.
    heard: Option<Heard>,
    /// Whether a pod that may live did not say that it tells.
    is_incomplete: bool,
    /// Until it is dropped.
    seat: Option<Seat>,
}

/// What a listener has taken, given back when it goes.
pub struct Seat {
    relay: Arc<Relay>,
    configured: Arc<str>,
    is_settled: bool,
    _keep: Keep,
}

/// Seats of listeners that have left, kept a while for those who come back: one for each configured
/// path.
#[derive(Default)]
pub struct Vacant(Mutex<HashMap<Arc<str>, (Instant, Seat)>>);

/// How long one is.
const VACANT: Duration = Duration::from_secs(60);

impl Vacant {
    /// What nobody came back for is given back. After the pod closed: all.
    fn clear(&self, now: Option<Instant>) {
        let has_gone = |since: Instant| now.is_none_or(|now| now.duration_since(since) >= VACANT);
        let gone: Vec<_> = self.lock().extract_if(|_, (since, _)| has_gone(*since)).collect();
        drop(gone);
    }

    fn keep(&self, seat: Seat) {
        let before = self.lock().insert(seat.configured.clone(), (Instant::now(), seat));
        drop(before);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, (Instant, Seat)>> {
        // Each change is one call; a panic leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether everybody who was asked has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    Complete,
    Incomplete,
}

impl Listening {
    /// `configured`: the text of the configured path that the topic is of. `last`: the id of the last
    /// event that the listener had, if it comes back.
    ///
    /// # Errors
    /// When other pods cannot be heard now.
    pub async fn begin(
        relay: &Arc<Relay>,
        topic: Topic,
        configured: Arc<str>,
        last: Option<&str>,
    ) -> Result<Listening, Failure> {
        relay.hearsay.enter(&configured);
        let tapped = relay.broker.tap(&configured);
        let _keep = relay.events.keep(&configured);
        let mut seat = Seat { relay: relay.clone(), configured, is_settled: false, _keep };
        let listener = match last {
            Some(last) => relay.events.listen_behind(topic, &seat.configured, last),
            None => relay.events.listen(topic),
        };
        let tapped = tokio::time::timeout(SUBSCRIBE_TIMEOUT, tapped).await;
        tapped.unwrap_or(Err(Failure::Unknown))?;
        let answers = relay.ask_to_tell(&seat.configured).await?;
        seat.settle();
        let is_incomplete = answers == Answers::Incomplete;
        Ok(Listening { listener, heard: None, is_incomplete, seat: Some(seat) })
    }

    /// The next one, which waits while this pod may have been taken for dead; `None` when it leaves.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Heard> {
        if std::mem::take(&mut self.is_incomplete) {
            return Some(Heard::Gap(Missed::Uncounted));
        }
        if self.heard.is_none() {
            self.heard = self.listener.next().await;
        }
        let holds_lease = |seat: &Seat| seat.relay.broker.holds_lease();
        while !self.seat.as_ref().is_none_or(holds_lease) {
            tokio::time::sleep(LEASE_POLL).await;
        }
        self.heard.take()
    }
}

impl Seat {
    fn settle(&mut self) {
        if !std::mem::replace(&mut self.is_settled, true) {
            self.relay.hearsay.settle(&self.configured);
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(seat) = self.seat.take()
            && !seat.relay.is_leaving()
        {
            seat.relay.clone().vacant.keep(seat);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.settle();
        self.relay.hearsay.leave(&self.configured);
        self.relay.broker.untap(&self.configured);
    }
}

impl Relay {
    /// Asks every other pod alive to tell the events of a configured path from now on.
    async fn ask_to_tell(&self, configured: &Arc<str>) -> Result<Answers, Failure> {
        let pods = self.broker.pods().await?;
        let others = pods.into_iter().map(|peer| peer.pod).filter(|&pod| pod != self.hub.pod());
        let asked = others.map(|pod| {
            let answer = self.ask(Letter::new(pod, Ask::Tap { configured: configured.clone() }));
            async move { (pod, answer.await) }
        });
        let mut answers = Answers::Complete;
        for (pod, answer) in join_all(asked).await {
            match answer {
                Ok(Answer::Tapped(place)) => self.hearsay.answered(configured, pod, place),
                // It has no such path, or lives no more.
                Ok(Answer::Gone) => {}
                Err(Refusal::Unavailable(why)) => return Err(Failure::Unavailable(why)),
                Ok(_) | Err(_) => answers = Answers::Incomplete,
            }
        }
        Ok(answers)
    }

    /// Takes care of what is heard from other pods until the pod closes: asks again after the broker
    /// was away, and notices who has become silent.
    pub async fn keep_hearing(self: Arc<Self>, closing: CancellationToken) {
        let mut beat = tokio::time::interval(Duration::from_millis(BEAT_MS));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.hearsay.torn() => {}
                _ = beat.tick() => self.vacant.clear(Some(Instant::now())),
                () = closing.cancelled() => break,
            }
            tokio::select! {
                () = self.mend() => {}
                () = closing.cancelled() => break,
            }
            // While the broker is away nobody is heard, and that is told when it is back.
            if self.broker.outage() == Outage::None {
                self.hearsay.miss_silent();
            }
        }
        self.vacant.clear(None);
    }

    /// Until nothing is torn.
    async fn mend(&self) {
        loop {
            let torn = self.hearsay.tears();
            if torn.is_empty() {
                return;
            }
            for (configured, tears) in torn {
                match self.ask_to_tell(&configured).await {
                    Ok(_) => self.hearsay.mend(&configured, tears),
                    Err(_) => tokio::time::sleep(ASK_AGAIN).await,
                }
            }
        }
    }
}

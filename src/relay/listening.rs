//! Listening to a path on all pods, in the one order that loses nothing.
//!
//! The listener first, then the confirmed subscription to what others tell, then every living pod is
//! asked to tell: an event that happens after [`Listening::begin`] has returned is heard, wherever it
//! happens.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::backend::sse::{Heard, Listener, Topic};
use crate::broker::{Failure, Letter, Outage};
use crate::proto::ask::{Answer, Ask};
use crate::proto::telling::{BEAT_MS, Missed};
use crate::relay::{Refusal, Relay, SUBSCRIBE_TIMEOUT};

/// How long after a failed attempt pods are asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Hears the events of a path, of this pod's sessions and all others'.
pub struct Listening {
    listener: Listener,
    /// Whether a pod that may live did not say that it tells.
    is_incomplete: bool,
    _seat: Seat,
}

/// What a listener has taken, given back when it goes.
struct Seat {
    relay: Arc<Relay>,
    configured: Arc<str>,
    is_settled: bool,
}

/// Whether everybody who was asked has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    Complete,
    Incomplete,
}

impl Listening {
    /// `configured`: the text of the configured path that the topic is of.
    ///
    /// # Errors
    /// When other pods cannot be heard now.
    pub async fn begin(
        relay: &Arc<Relay>,
        topic: Topic,
        configured: Arc<str>,
    ) -> Result<Listening, Failure> {
        relay.hearsay.enter(&configured);
        let tapped = relay.broker.tap(&configured);
        let mut seat = Seat { relay: relay.clone(), configured, is_settled: false };
        let listener = relay.events.listen(topic);
        let tapped = tokio::time::timeout(SUBSCRIBE_TIMEOUT, tapped).await;
        tapped.unwrap_or(Err(Failure::Unknown))?;
        let answers = relay.ask_to_tell(&seat.configured).await?;
        seat.settle();
        Ok(Listening { listener, is_incomplete: answers == Answers::Incomplete, _seat: seat })
    }

    /// The next one; `None` when this pod leaves. Cancel-safe.
    pub async fn next(&mut self) -> Option<Heard> {
        if std::mem::take(&mut self.is_incomplete) {
            return Some(Heard::Gap(Missed::Uncounted));
        }
        self.listener.next().await
    }
}

impl Seat {
    fn settle(&mut self) {
        if !std::mem::replace(&mut self.is_settled, true) {
            self.relay.hearsay.settle(&self.configured);
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
                _ = beat.tick() => {}
                () = closing.cancelled() => return,
            }
            tokio::select! {
                () = self.mend() => {}
                () = closing.cancelled() => return,
            }
            // While the broker is away nobody is heard, and that is told when it is back.
            if self.broker.outage() == Outage::None {
                self.hearsay.miss_silent();
            }
        }
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

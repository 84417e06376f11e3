//! The desk of an upstream: what is to be sent to it, in order, between those who publish and the one
//! who writes.
//!
//! Open while this pod holds the upstream. What waits is bounded in bytes, and waits also while
//! there is no connection. Whoever brings something is told what became of it as soon as that is
//! certain: written, or still waiting; what certainly will not be sent from here he is told too.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use crate::broker::{Failure, Pending};
use crate::metrics::UpstreamMetrics;
use crate::proto::ask::Answer;
use crate::proto::frame::Kind;
use crate::proto::msg::Content;
use crate::proto::paths::OnFull;
use crate::proto::upstream::{Dispatch, Name, State};
use crate::proto::webhook::Webhook;

/// What one waiting message costs beside its payload, roughly.
const WAITING_BYTES: usize = 64;

/// What is known of an upstream wherever it is spoken of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub name: Name,
    pub wholemsg: bool,
    /// What may wait to be sent.
    pub queue_bytes_max: usize,
    /// What a msg may become.
    pub frame_bytes_max: usize,
    /// Whether its events are appended to a stream.
    pub stream: bool,
    /// What becomes of its messages when that can take no more.
    pub on_full: OnFull,
    /// Where its events are posted.
    pub webhook: Option<Arc<Webhook>>,
    /// How long whoever brings something waits for its being written before he is told that it
    /// waits.
    pub patience: Duration,
}

pub struct Desk {
    pub config: Config,
    pub metrics: UpstreamMetrics,
    queue: Mutex<Queue>,
    /// Something waits.
    changed: Notify,
    /// How many events were told of it here, also by the desk before this one.
    seq: Arc<AtomicU64>,
    /// From before it was opened until it was given back.
    is_in_use: AtomicBool,
}

#[derive(Default)]
struct Queue {
    /// `None`: another pod holds it, or none.
    epoch: Option<u64>,
    is_connected: bool,
    why: Option<String>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
}

struct Waiting {
    kind: Kind,
    payload: Bytes,
    told: oneshot::Sender<Answer>,
}

/// One message on its way out. Dropped before it was told to be written, nothing is known of it.
pub struct Outgoing {
    pub kind: Kind,
    pub payload: Bytes,
    told: oneshot::Sender<Answer>,
}

impl Desk {
    /// `seq`: what its events are counted with, for as long as this pod lives.
    pub fn new(config: Config, metrics: UpstreamMetrics, seq: Arc<AtomicU64>) -> Desk {
        Desk {
            config,
            metrics,
            queue: Mutex::default(),
            changed: Notify::new(),
            seq,
            is_in_use: AtomicBool::new(false),
        }
    }

    /// Takes its place when this is called. `Gone`: this pod does not hold the upstream (any more),
    /// and it was not sent. `OutboxFull`: too much waits.
    pub fn bring(&self, content: &Content) -> Pending<Answer> {
        let settled = |answer| -> Pending<Answer> { Box::pin(std::future::ready(Ok(answer))) };
        let Some((kind, payload)) = content.frame(self.config.wholemsg) else {
            self.metrics.refused.inc();
            return settled(Answer::Nothing);
        };
        if payload.len() > self.config.frame_bytes_max {
            self.metrics.refused.inc();
            return settled(Answer::TooBig(self.config.frame_bytes_max));
        }
        let mut queue = self.queue();
        if queue.epoch.is_none() {
            return settled(Answer::Gone);
        }
        let bytes = WAITING_BYTES + payload.len();
        // One always may, where nothing waits.
        if !queue.waiting.is_empty() && queue.waiting_bytes + bytes > self.config.queue_bytes_max {
            self.metrics.refused.inc();
            return settled(Answer::OutboxFull);
        }
        let (told, answer) = oneshot::channel();
        queue.waiting.push_back(Waiting { kind, payload, told });
        queue.waiting_bytes += bytes;
        self.note_bytes(&queue);
        let is_connected = queue.is_connected;
        drop(queue);
        self.changed.notify_one();
        if !is_connected {
            self.metrics.queued.inc();
            return settled(Answer::Dispatched(Dispatch::Queued));
        }
        let (patience, queued) = (self.config.patience, self.metrics.queued.clone());
        Box::pin(async move {
            match tokio::time::timeout(patience, answer).await {
                Ok(answer) => answer.map_err(|_| Failure::Unknown),
                Err(_) => {
                    queued.inc();
                    Ok(Answer::Dispatched(Dispatch::Queued))
                }
            }
        })
    }

    /// The oldest that waits, which then waits no more. Cancel-safe.
    pub async fn next(&self) -> Outgoing {
        loop {
            if let Some(outgoing) = self.take() {
                return outgoing;
            }
            self.changed.notified().await;
        }
    }

    /// As `next`, if there is one.
    pub fn take(&self) -> Option<Outgoing> {
        let mut queue = self.queue();
        let Waiting { kind, payload, told } = queue.waiting.pop_front()?;
        queue.waiting_bytes -= WAITING_BYTES + payload.len();
        self.note_bytes(&queue);
        Some(Outgoing { kind, payload, told })
    }

    /// It was written.
    pub fn settle(&self, outgoing: Outgoing) {
        self.metrics.sent.inc();
        // He may have been told that it waits.
        let _ = outgoing.told.send(Answer::Dispatched(Dispatch::Sent));
    }

    /// It was taken, and nobody knows what became of it.
    pub fn lose(&self, outgoing: Outgoing) {
        self.metrics.lost.inc();
        drop(outgoing);
    }

    /// From now on this pod holds the upstream.
    pub fn open(&self, epoch: u64) {
        self.is_in_use.store(true, Ordering::SeqCst);
        let mut queue = self.queue();
        queue.epoch = Some(epoch);
        queue.why = None;
    }

    /// It is about to give it back: what waits may still be taken, and nothing more is brought.
    pub fn shut(&self) {
        self.queue().epoch = None;
    }

    /// It holds it no more. Those who wait are told so; what nobody waits for is lost.
    pub fn close(&self) {
        let mut queue = self.queue();
        queue.epoch = None;
        queue.is_connected = false;
        queue.waiting_bytes = 0;
        for waiting in std::mem::take(&mut queue.waiting) {
            if waiting.told.send(Answer::Gone).is_err() {
                self.metrics.lost.inc();
            }
        }
        self.note_bytes(&queue);
        self.metrics.connected.set(0);
    }

    /// What was held has been given back, or lost.
    pub fn give_back(&self) {
        self.is_in_use.store(false, Ordering::SeqCst);
    }

    /// Whether a pod that leaves has to wait for it.
    pub fn is_in_use(&self) -> bool {
        self.is_in_use.load(Ordering::SeqCst)
    }

    pub fn connected(&self) {
        let mut queue = self.queue();
        queue.is_connected = true;
        queue.why = None;
        self.metrics.connected.set(1);
    }

    /// There is no connection, for that reason. Whether that is another one than before.
    pub fn disconnected(&self, why: &str) -> bool {
        let mut queue = self.queue();
        queue.is_connected = false;
        self.metrics.connected.set(0);
        let is_news = queue.why.as_deref() != Some(why);
        queue.why = Some(why.to_owned());
        is_news
    }

    /// `None`: this pod does not hold it.
    pub fn state(&self) -> Option<State> {
        let queue = self.queue();
        Some(State {
            epoch: queue.epoch?,
            is_connected: queue.is_connected,
            why: queue.why.clone(),
            received: self.metrics.received.get(),
            sent: self.metrics.sent.get(),
            lost: self.metrics.lost.get(),
            waiting: queue.waiting.len() as u64,
            waiting_bytes: queue.waiting_bytes as u64,
        })
    }

    /// The number of the next event.
    pub fn count_event(&self) -> u64 {
        self.seq.fetch_add(1, Ordering::Relaxed)
    }

    fn note_bytes(&self, queue: &Queue) {
        let bytes = i64::try_from(queue.waiting_bytes).unwrap_or(i64::MAX);
        self.metrics.waiting_bytes.set(bytes);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing under it can panic halfway through a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    const QUEUED: Answer = Answer::Dispatched(Dispatch::Queued);
    const SENT: Answer = Answer::Dispatched(Dispatch::Sent);

    fn desk() -> Desk {
        let name = Name::parse("feed").expect("a name");
        let metrics = Metrics::new().expect("families have names of their own");
        let metrics = metrics.upstream(name.text());
        let config = Config {
            name,
            wholemsg: false,
            queue_bytes_max: 1_000,
            frame_bytes_max: 2_000,
            stream: false,
            on_full: OnFull::Backpressure,
            webhook: None,
            patience: Duration::from_millis(10),
        };
        Desk::new(config, metrics, Arc::default())
    }

    fn text(bytes: usize) -> Content {
        Content::text("x".repeat(bytes))
    }

    #[tokio::test]
    async fn what_waits_is_bounded_and_told_to_wait() {
        let desk = desk();
        assert_eq!(desk.bring(&text(1)).await, Ok(Answer::Gone));
        desk.open(1);
        assert_eq!(desk.bring(&text(0)).await, Ok(Answer::Nothing));
        assert_eq!(desk.bring(&text(2_001)).await, Ok(Answer::TooBig(2_000)));
        assert_eq!(desk.bring(&text(2_000)).await, Ok(QUEUED), "one always may");
        assert_eq!(desk.bring(&text(1)).await, Ok(Answer::OutboxFull));
        desk.settle(desk.take().expect("it waits"));
        for _ in 0..10 {
            assert_eq!(desk.bring(&text(36)).await, Ok(QUEUED));
        }
        assert_eq!(desk.bring(&text(1)).await, Ok(Answer::OutboxFull));
        let state = desk.state().expect("it is held");
        assert_eq!((state.waiting, state.waiting_bytes, state.sent), (10, 1_000, 1));
        desk.close();
        assert_eq!((desk.state(), desk.metrics.lost.get()), (None, 10));
        assert_eq!(desk.metrics.waiting_bytes.get(), 0);
    }

    #[tokio::test]
    async fn whoever_waits_is_told_what_became_of_it() {
        let desk = desk();
        desk.open(1);
        desk.connected();
        let (sent, lost, held) = (desk.bring(&text(1)), desk.bring(&text(2)), desk.bring(&text(3)));
        desk.settle(desk.next().await);
        desk.lose(desk.next().await);
        assert_eq!((sent.await, lost.await), (Ok(SENT), Err(Failure::Unknown)));
        assert_eq!(held.await, Ok(QUEUED), "its patience is at its end");
        let gone = desk.bring(&text(4));
        desk.close();
        assert_eq!(gone.await, Ok(Answer::Gone));
        assert_eq!(desk.metrics.lost.get(), 2);
    }

    #[test]
    fn a_reason_is_news_once() {
        let desk = desk();
        desk.open(1);
        assert!(desk.disconnected("refused"));
        assert!(!desk.disconnected("refused"));
        assert!(desk.disconnected("401"));
        desk.connected();
        assert!(desk.disconnected("401"));
    }
}

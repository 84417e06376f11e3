//! Server-sent events: whoever listens hears every event of his topic, from now on.
//!
//! Shards offer events and never wait: an event goes into one queue, bounded in bytes, and a task
//! hands it to the listeners, each with a bounded queue of its own. What does not fit is dropped
//! and counted, and the listener is told how many it missed ([`Heard::Gap`]). Events of other pods'
//! sessions come here like those of this pod's own; how they come is not known here.
//!
//! While a path is kept ([`Sse::keep`]), what is handed on is kept for a while too, so that a listener that
//! was cut off goes on where it was.

pub mod heard;
pub mod outlet;
pub mod ring;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use crate::backend::sse::heard::{Event, Heard, Origin, Topic};
use crate::backend::sse::outlet::{Inlet, Outlet};
use crate::backend::sse::ring::{Kept, Ring};
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::proto::path::Path;
use crate::proto::telling::Missed;

/// Events that wait for the task, in bytes: some seconds of a busy pod.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What another pod may claim to be missing at once: no sum of it overflows.
const COUNT_MAX: u64 = 1 << 48;

pub struct Sse {
    waiting: mpsc::UnboundedSender<Waiting>,
    shared: Arc<Shared>,
}

/// What waits for the task.
struct Waiting {
    number: u64,
    /// Whether something before it found no room at all.
    is_after_loss: bool,
    offered: Offered,
}

/// What goes to the task.
enum Offered {
    Event(Arc<Event>),
    /// An event of this path that found no room.
    Lost {
        path: Path,
        configured: Arc<str>,
        origin: Origin,
    },
    /// Events of this configured path did not come from another pod.
    Hole {
        configured: Arc<str>,
        missed: Missed,
    },
}

struct Shared {
    waiting_bytes: AtomicUsize,
    /// Counts what was offered: a listener hears what came after it, not what still waited.
    offered: AtomicU64,
    /// Something found no room at all, and whatever comes next has to say so.
    has_lost: AtomicBool,
    /// The paths somebody listens to, configured and concrete ones: what shards look at.
    heard: ArcSwap<HashSet<Arc<str>>>,
    audience: Mutex<Audience>,
    metrics: Arc<Metrics>,
}

/// Whoever hears something.
#[derive(Default)]
struct Audience {
    hearers: Vec<Hearer>,
    /// Of the configured paths that are kept, by their texts.
    kept: HashMap<Arc<str>, Window>,
}

/// What is kept of a configured path.
#[derive(Default)]
struct Window {
    keeps: usize,
    ring: Ring,
}

/// Keeps what is heard of a configured path, until it is dropped.
pub struct Keep {
    configured: Arc<str>,
    shared: Arc<Shared>,
}

/// The task's side of a listener.
struct Hearer {
    topic: Topic,
    /// The number of the first event that is for it.
    from: u64,
    outlet: Outlet,
}

/// Hears events. Dropping it ends the listening.
pub struct Listener {
    inlet: Inlet,
    shared: Arc<Shared>,
}

impl Sse {
    /// Starts the task that hands events on; it ends when the pod closes.
    pub fn start(lifecycle: &Lifecycle, metrics: Arc<Metrics>) -> Sse {
        let (waiting, events) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            waiting_bytes: AtomicUsize::new(0),
            offered: AtomicU64::new(0),
            has_lost: AtomicBool::new(false),
            heard: ArcSwap::default(),
            audience: Mutex::default(),
            metrics,
        });
        let closing = lifecycle.closing().clone();
        let task = hand_on(events, shared.clone());
        lifecycle.spawn(async move {
            tokio::select! {
                () = task => {}
                () = closing.cancelled() => {}
            }
        });
        Sse { waiting, shared }
    }

    /// Whether an event of this path would reach anybody. Cheap: to be asked before an event is
    /// made.
    pub fn is_heard(&self, path: &Path, configured: &Arc<str>) -> bool {
        let heard = self.shared.heard.load();
        !heard.is_empty() && (heard.contains(configured) || heard.contains(path.as_str()))
    }

    /// Whether something that was offered has not been handed to its listeners yet, or not been
    /// told to the other pods.
    pub fn has_waiting(&self) -> bool {
        let is_untold = |hearer: &Hearer| hearer.topic.is_own() && hearer.outlet.is_behind();
        // In this order: an event is with its listeners before it waits no more.
        self.shared.waiting_bytes.load(Ordering::SeqCst) > 0
            || self.shared.lock().hearers.iter().any(is_untold)
    }

    /// Never waits. Events offered by one thread are heard in that order.
    pub fn offer(&self, event: Event) {
        let before = self.shared.waiting_bytes.load(Ordering::Relaxed);
        self.push(if before + event.json.len() > WAITING_BYTES_MAX {
            let Event { path, configured, origin, .. } = event;
            Offered::Lost { path, configured, origin }
        } else {
            Offered::Event(Arc::new(event))
        });
    }

    /// Tells the listeners of a configured path, in its place, that events of other pods are
    /// missing.
    pub fn miss(&self, configured: &Arc<str>, missed: Missed) {
        let missed = match missed {
            Missed::Counted(count) => Missed::Counted(count.min(COUNT_MAX)),
            Missed::Uncounted => Missed::Uncounted,
        };
        self.push(Offered::Hole { configured: configured.clone(), missed });
    }

    fn push(&self, offered: Offered) {
        let before = self.shared.waiting_bytes.load(Ordering::Relaxed);
        let bytes = offered.bytes();
        // Losses are small, but a flood of them is bounded too.
        if before + bytes > 2 * WAITING_BYTES_MAX {
            self.shared.has_lost.store(true, Ordering::SeqCst);
            return self.shared.metrics.events_missed.inc();
        }
        self.shared.waiting_bytes.fetch_add(bytes, Ordering::SeqCst);
        let number = self.shared.offered.fetch_add(1, Ordering::Relaxed);
        let is_after_loss = self.shared.take_lost();
        if self.waiting.send(Waiting { number, is_after_loss, offered }).is_err() {
            self.shared.waiting_bytes.fetch_sub(bytes, Ordering::SeqCst);
        }
    }

    /// Hears what is offered from now on.
    pub fn listen(&self, topic: Topic) -> Listener {
        let from = |_: &Audience, _: &Hearer| self.shared.offered.load(Ordering::Relaxed);
        self.enter(topic, from)
    }

    /// Hears what came behind the event of that id, and what comes from now on. If that one is not kept
    /// (any more), a gap comes first, and then what is offered from now on. `configured`: what the topic
    /// is of.
    pub fn listen_behind(&self, topic: Topic, configured: &Arc<str>, id: &str) -> Listener {
        self.enter(topic, |audience, hearer| {
            let window = audience.kept.get(configured);
            let Some(behind) = window.and_then(|window| window.ring.behind(id)) else {
                hearer.outlet.miss(Missed::Uncounted);
                return self.shared.offered.load(Ordering::Relaxed);
            };
            for kept in behind {
                hearer.again(configured, kept);
            }
            // What was handed on is kept, and nothing is handed on just now: it has the rest before it.
            0
        })
    }

    fn enter(&self, topic: Topic, from: impl FnOnce(&Audience, &Hearer) -> u64) -> Listener {
        let (outlet, inlet) = outlet::pair();
        let mut hearer = Hearer { topic, from: 0, outlet };
        let mut audience = self.shared.lock();
        hearer.from = from(&audience, &hearer);
        audience.hearers.push(hearer);
        self.shared.publish_heard(&audience);
        Listener { inlet, shared: self.shared.clone() }
    }

    /// From now on what is heard of a configured path, by its text, is kept, within bounds.
    pub fn keep(&self, configured: &Arc<str>) -> Keep {
        let mut audience = self.shared.lock();
        audience.kept.entry(configured.clone()).or_default().keeps += 1;
        self.shared.publish_heard(&audience);
        Keep { configured: configured.clone(), shared: self.shared.clone() }
    }
}

impl Offered {
    /// What it holds while it waits, in bytes.
    fn bytes(&self) -> usize {
        match self {
            Offered::Event(event) => size_of::<Offered>() + event.json.len(),
            Offered::Lost { .. } | Offered::Hole { .. } => size_of::<Offered>(),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Audience> {
        // Each change is one call; a panic leaves it whole.
        self.audience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_lost(&self) -> bool {
        // Looked at first: it is written very seldom, and read for each event.
        self.has_lost.load(Ordering::SeqCst) && self.has_lost.swap(false, Ordering::SeqCst)
    }

    fn publish_heard(&self, Audience { hearers, kept }: &Audience) {
        let topics = hearers.iter().map(|hearer| hearer.topic.text());
        let heard = topics.chain(kept.keys().cloned()).collect();
        self.heard.store(Arc::new(heard));
        let taps = hearers.iter().filter(|hearer| hearer.topic.is_own()).count();
        let count = |number| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.event_listeners.set(count(hearers.len() - taps));
        self.metrics.event_taps.set(count(taps));
    }
}

impl Listener {
    /// The next one; `None` when this pod leaves. Cancel-safe.
    pub async fn next(&mut self) -> Option<Heard> {
        let heard = self.take().await?;
        if let Heard::Event(event) = &heard {
            self.release(event.json.len());
        }
        Some(heard)
    }

    /// As `next`, but the event goes on counting as waiting until it is released. Cancel-safe.
    pub async fn take(&mut self) -> Option<Heard> {
        self.inlet.take().await
    }

    /// An event that was taken waits no more. `bytes`: of its JSON.
    pub fn release(&self, bytes: usize) {
        self.inlet.release(bytes);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.inlet.close();
        let mut audience = self.shared.lock();
        audience.hearers.retain(|hearer| !hearer.outlet.is_closed());
        self.shared.publish_heard(&audience);
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        let mut audience = self.shared.lock();
        if let Some(window) = audience.kept.get_mut(&self.configured) {
            window.keeps -= 1;
            if window.keeps == 0 {
                audience.kept.remove(&self.configured);
            }
        }
        self.shared.publish_heard(&audience);
    }
}

impl Audience {
    fn keep(&mut self, offered: &Offered) {
        match offered {
            Offered::Event(event) => {
                if let Some(window) = self.kept.get_mut(&event.configured) {
                    window.ring.push(event);
                }
            }
            Offered::Lost { configured, .. } => self.keep_hole(configured, Missed::Counted(1)),
            Offered::Hole { configured, missed } => self.keep_hole(configured, *missed),
        }
    }

    fn keep_hole(&mut self, configured: &Arc<str>, missed: Missed) {
        if let Some(window) = self.kept.get_mut(configured) {
            window.ring.miss(missed);
        }
    }

    /// Something of which nothing is known is missing for everybody.
    fn miss_all(&mut self, number: u64) {
        for hearer in self.hearers.iter().filter(|hearer| number >= hearer.from) {
            hearer.outlet.miss(Missed::Uncounted);
        }
        for window in self.kept.values_mut() {
            window.ring.miss(Missed::Uncounted);
        }
    }
}

async fn hand_on(mut waiting: mpsc::UnboundedReceiver<Waiting>, shared: Arc<Shared>) {
    while let Some(Waiting { number, is_after_loss, offered }) = waiting.recv().await {
        let bytes = offered.bytes();
        {
            let mut audience = shared.lock();
            if is_after_loss {
                audience.miss_all(number);
            }
            for hearer in audience.hearers.iter().filter(|hearer| number >= hearer.from) {
                if let Some(missed) = hearer.hand(&offered) {
                    hearer.outlet.miss(missed);
                    if let Missed::Counted(count) = missed {
                        shared.metrics.events_missed.inc_by(count);
                    }
                }
            }
            audience.keep(&offered);
        }
        shared.waiting_bytes.fetch_sub(bytes, Ordering::SeqCst);
        // Nothing may come any more that could say so.
        if waiting.is_empty() && shared.take_lost() {
            shared.lock().miss_all(u64::MAX);
        }
        // The task shares its thread with handshakes and requests: be brief.
        tokio::task::consume_budget().await;
    }
}

impl Hearer {
    /// Hands it on, if it is for this listener; what of it the listener misses.
    fn hand(&self, offered: &Offered) -> Option<Missed> {
        match offered {
            Offered::Event(event) => self.put(event),
            Offered::Lost { path, configured, origin } => {
                let is_meant = self.topic.is_of(path, configured, *origin);
                is_meant.then_some(Missed::Counted(1))
            }
            Offered::Hole { configured, missed } => self.topic.missed(configured, *missed),
        }
    }

    /// What was kept, if it is for this listener.
    fn again(&self, configured: &Arc<str>, kept: &Kept) {
        let missed = match kept {
            Kept::Event(event) => self.put(event),
            Kept::Hole(missed) => self.topic.missed(configured, *missed),
        };
        if let Some(missed) = missed {
            self.outlet.miss(missed);
        }
    }

    fn put(&self, event: &Arc<Event>) -> Option<Missed> {
        let is_meant = self.topic.is_of(&event.path, &event.configured, event.origin);
        (is_meant && !self.outlet.put(event)).then_some(Missed::Counted(1))
    }
}

#[cfg(test)]
mod tests;

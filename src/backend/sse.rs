//! Server-sent events: whoever listens hears every event of his topic, from now on.
//!
//! Shards offer events and never wait: an event goes into one queue, bounded in bytes, and a task
//! hands it to the listeners, each with a bounded queue of its own. What does not fit is dropped
//! and counted, and the listener is told how many it missed ([`Heard::Gap`]). Events of other pods'
//! sessions come here like those of this pod's own; how they come is not known here.
//!
//! While a path is kept ([`Sse::keep`]), what is handed on is kept for a while too, so that a listener that
//! was cut off goes on where it was.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::backend::ring::{Kept, Ring};
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::proto::event::Kind;
use crate::proto::path::Path;
use crate::proto::paths::Pattern;
use crate::proto::telling::Missed;

/// Events that wait for the task, in bytes: some seconds of a busy pod.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Events that wait for one listener.
const LISTENER_EVENTS_MAX: usize = 8 * 1024;

/// The same in bytes.
const LISTENER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a listener wants to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topic {
    /// Of a configured path, by its text, only what this pod's own sessions do: for telling others.
    Own(Arc<str>),
    /// Every session of a configured path, by its text.
    Configured(Arc<str>),
    /// The sessions of one concrete path, whatever configures it.
    Concrete(Path),
}

/// One event, ready to be sent.
#[derive(Debug, Clone)]
pub struct Event {
    pub id: String,
    pub kind: Kind,
    /// JSON on one line.
    pub json: Bytes,
    pub path: Path,
    pub configured: Arc<str>,
    pub origin: Origin,
}

/// Whose session it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Own,
    /// Another pod's, which told this one.
    Far,
}

/// What a listener hears.
#[derive(Debug, Clone)]
pub enum Heard {
    Event(Arc<Event>),
    /// Events are missing here: the listener was too slow, or they did not come from another pod.
    Gap(Missed),
}

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
    hearers: Mutex<Hearers>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Hearers {
    outlets: Vec<Outlet>,
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
struct Outlet {
    topic: Topic,
    /// The number of the first event that is for it.
    from: u64,
    events: mpsc::Sender<Heard>,
    arrears: Arc<Arrears>,
}

/// Hears events. Dropping it ends the listening.
pub struct Listener {
    events: mpsc::Receiver<Heard>,
    arrears: Arc<Arrears>,
    shared: Arc<Shared>,
}

/// How far a listener is behind.
#[derive(Default)]
struct Arrears {
    /// Of the events that wait for it, and of those it has not released.
    bytes: AtomicUsize,
    /// Events missing behind those that wait, which it has not been told. Held while an event is
    /// put behind them, and while the listener sees that nothing waits before them.
    missed: Mutex<Option<Missed>>,
}

/// What another pod may claim to be missing at once: no sum of it overflows.
const COUNT_MAX: u64 = 1 << 48;

impl Topic {
    fn text(&self) -> Arc<str> {
        match self {
            Topic::Own(text) | Topic::Configured(text) => text.clone(),
            Topic::Concrete(path) => path.as_str().into(),
        }
    }

    fn is_of(&self, of: &Path, configured: &Arc<str>, origin: Origin) -> bool {
        match self {
            Topic::Own(text) => text == configured && origin == Origin::Own,
            Topic::Configured(text) => text == configured,
            Topic::Concrete(path) => path == of,
        }
    }

    fn is_own(&self) -> bool {
        matches!(self, Topic::Own(_))
    }

    /// What a hole in what others tell of a configured path is to this topic.
    fn missed(&self, of: &Arc<str>, missed: Missed) -> Option<Missed> {
        match self {
            Topic::Configured(text) => (text == of).then_some(missed),
            // The path itself, or one of a pattern's: who knows whether it was among them.
            Topic::Concrete(path) if path.as_str() == &**of => Some(missed),
            Topic::Concrete(path) => {
                let is_of = Pattern::parse(of).is_ok_and(|pattern| pattern.matches(path.as_str()));
                is_of.then_some(Missed::Uncounted)
            }
            Topic::Own(_) => None,
        }
    }
}

impl Arrears {
    fn missed(&self) -> MutexGuard<'_, Option<Missed>> {
        // Each change is one assignment; a panic leaves it whole.
        self.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
            hearers: Mutex::default(),
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
        let is_untold = |outlet: &Outlet| {
            outlet.topic.is_own() && outlet.arrears.bytes.load(Ordering::SeqCst) > 0
        };
        // In this order: an event is with its listeners before it waits no more.
        self.shared.waiting_bytes.load(Ordering::SeqCst) > 0
            || self.shared.lock().outlets.iter().any(is_untold)
    }

    /// Never waits. Events offered by one thread are heard in that order.
    pub fn offer(&self, event: Event) {
        let offered = Offered::Event(Arc::new(event));
        let before = self.shared.waiting_bytes.load(Ordering::Relaxed);
        self.push(match offered {
            Offered::Event(event) if before + event.json.len() > WAITING_BYTES_MAX => {
                let Event { path, configured, origin, .. } = &*event;
                let (path, configured) = (path.clone(), configured.clone());
                Offered::Lost { path, configured, origin: *origin }
            }
            offered => offered,
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
        let from = |_: &Hearers, _: &Outlet| self.shared.offered.load(Ordering::Relaxed);
        self.enter(topic, from)
    }

    /// Hears what came behind the event of that id, and what comes from now on. If that one is not kept
    /// (any more), a gap comes first, and then what is offered from now on. `configured`: what the topic
    /// is of.
    pub fn listen_behind(&self, topic: Topic, configured: &Arc<str>, id: &str) -> Listener {
        self.enter(topic, |hearers, outlet| {
            let window = hearers.kept.get(configured);
            let Some(behind) = window.and_then(|window| window.ring.behind(id)) else {
                outlet.miss(Missed::Uncounted);
                return self.shared.offered.load(Ordering::Relaxed);
            };
            for kept in behind {
                outlet.again(configured, kept);
            }
            // What was handed on is kept, and nothing is handed on just now: it has the rest before it.
            0
        })
    }

    fn enter(&self, topic: Topic, from: impl FnOnce(&Hearers, &Outlet) -> u64) -> Listener {
        let (events, receiver) = mpsc::channel(LISTENER_EVENTS_MAX);
        let arrears = Arc::<Arrears>::default();
        let mut outlet = Outlet { topic, from: 0, events, arrears: arrears.clone() };
        let mut hearers = self.shared.lock();
        outlet.from = from(&hearers, &outlet);
        hearers.outlets.push(outlet);
        self.shared.publish_heard(&hearers);
        Listener { events: receiver, arrears, shared: self.shared.clone() }
    }

    /// From now on what is heard of a configured path, by its text, is kept, within bounds.
    pub fn keep(&self, configured: &Arc<str>) -> Keep {
        let mut hearers = self.shared.lock();
        hearers.kept.entry(configured.clone()).or_default().keeps += 1;
        self.shared.publish_heard(&hearers);
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
    fn lock(&self) -> MutexGuard<'_, Hearers> {
        // Each change is one call; a panic leaves it whole.
        self.hearers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_lost(&self) -> bool {
        // Looked at first: it is written very seldom, and read for each event.
        self.has_lost.load(Ordering::SeqCst) && self.has_lost.swap(false, Ordering::SeqCst)
    }

    fn publish_heard(&self, Hearers { outlets, kept }: &Hearers) {
        let topics = outlets.iter().map(|outlet| outlet.topic.text());
        let heard = topics.chain(kept.keys().cloned()).collect();
        self.heard.store(Arc::new(heard));
        let taps = outlets.iter().filter(|outlet| outlet.topic.is_own()).count();
        let count = |number| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.event_listeners.set(count(outlets.len() - taps));
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
        // What was missed last is told when everything before it was heard, not only when another
        // event comes.
        if let Some(missed) = self.take_missed() {
            return Some(Heard::Gap(missed));
        }
        self.events.recv().await
    }

    fn take_missed(&self) -> Option<Missed> {
        let mut missed = self.arrears.missed();
        missed.take_if(|_| self.events.is_empty())
    }

    /// An event that was taken waits no more. `bytes`: of its JSON.
    pub fn release(&self, bytes: usize) {
        self.arrears.bytes.fetch_sub(bytes, Ordering::SeqCst);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.events.close();
        let mut hearers = self.shared.lock();
        hearers.outlets.retain(|outlet| !outlet.events.is_closed());
        self.shared.publish_heard(&hearers);
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        let mut hearers = self.shared.lock();
        if let Some(window) = hearers.kept.get_mut(&self.configured) {
            window.keeps -= 1;
            if window.keeps == 0 {
                hearers.kept.remove(&self.configured);
            }
        }
        self.shared.publish_heard(&hearers);
    }
}

impl Hearers {
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
        for outlet in self.outlets.iter().filter(|outlet| number >= outlet.from) {
            outlet.miss(Missed::Uncounted);
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
            let mut hearers = shared.lock();
            if is_after_loss {
                hearers.miss_all(number);
            }
            for outlet in hearers.outlets.iter().filter(|outlet| number >= outlet.from) {
                if let Some(missed) = outlet.hand(&offered) {
                    outlet.miss(missed);
                    if let Missed::Counted(count) = missed {
                        shared.metrics.events_missed.inc_by(count);
                    }
                }
            }
            hearers.keep(&offered);
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

impl Outlet {
    /// Hands it on, if it is for this listener; what of it the listener misses.
    fn hand(&self, offered: &Offered) -> Option<Missed> {
        match offered {
            Offered::Event(event) => {
                let Event { path, configured, origin, .. } = &**event;
                let is_missed = self.topic.is_of(path, configured, *origin) && !self.put(event);
                is_missed.then_some(Missed::Counted(1))
            }
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
            Kept::Event(event) => {
                let is_meant = self.topic.is_of(&event.path, &event.configured, event.origin);
                (is_meant && !self.put(event)).then_some(Missed::Counted(1))
            }
            Kept::Hole(missed) => self.topic.missed(configured, *missed),
        };
        if let Some(missed) = missed {
            self.miss(missed);
        }
    }

    fn put(&self, event: &Arc<Event>) -> bool {
        let bytes = event.json.len();
        let before = self.arrears.bytes.load(Ordering::SeqCst);
        if before > 0 && before + bytes > LISTENER_BYTES_MAX {
            return false;
        }
        let mut missed = self.arrears.missed();
        // Only when there is room for the event behind it: one gap tells all that are missing.
        if missed.is_some() {
            if self.events.capacity() < 2 {
                return false;
            }
            self.tell(&mut missed);
        }
        self.arrears.bytes.fetch_add(bytes, Ordering::SeqCst);
        let is_sent = self.events.try_send(Heard::Event(event.clone())).is_ok();
        if !is_sent {
            self.arrears.bytes.fetch_sub(bytes, Ordering::SeqCst);
        }
        is_sent
    }

    fn miss(&self, more: Missed) {
        let mut missed = self.arrears.missed();
        *missed = Some(missed.map_or(more, |before| before.and(more)));
        // The listener may have taken the last event meanwhile, and wait.
        if self.events.capacity() == self.events.max_capacity() {
            self.tell(&mut missed);
        }
    }

    fn tell(&self, missed: &mut Option<Missed>) {
        if let Some(gap) = *missed
            && self.events.try_send(Heard::Gap(gap)).is_ok()
        {
            *missed = None;
        }
    }
}

#[cfg(test)]
mod tests;

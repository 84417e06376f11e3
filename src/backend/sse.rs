//! Server-sent events: whoever listens hears every event of his topic, from now on.
//!
//! Shards offer events and never wait: an event goes into one queue, bounded in bytes, and a task
//! hands it to the listeners, each with a bounded queue of its own. What does not fit is dropped
//! and counted, and the listener is told how many it missed ([`Heard::Gap`]).

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::proto::path::Path;

/// Events that wait for the task, in bytes: some seconds of a busy pod.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Events that wait for one listener.
const LISTENER_EVENTS_MAX: usize = 8 * 1024;

/// The same in bytes.
const LISTENER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a listener wants to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topic {
    /// Every session of a configured path, by its text.
    Configured(Arc<str>),
    /// The sessions of one concrete path, whatever configures it.
    Concrete(Path),
}

/// One event, ready to be sent.
#[derive(Debug, Clone)]
pub struct Event {
    pub id: String,
    /// `connect`, `message` or `disconnect`.
    pub kind: &'static str,
    /// JSON on one line.
    pub json: Bytes,
    pub path: Path,
    pub configured: Arc<str>,
}

/// What a listener hears.
#[derive(Debug, Clone)]
pub enum Heard {
    Event(Arc<Event>),
    /// The listener was too slow: this many events are missing here.
    Gap(u64),
}

pub struct Sse {
    waiting: mpsc::UnboundedSender<(u64, Offered)>,
    shared: Arc<Shared>,
}

/// What goes to the task.
enum Offered {
    Event(Event),
    /// An event of this path that found no room.
    Lost {
        path: Path,
        configured: Arc<str>,
    },
}

struct Shared {
    waiting_bytes: AtomicUsize,
    /// Counts what was offered: a listener hears what came after it, not what still waited.
    offered: AtomicU64,
    /// The paths somebody listens to, configured and concrete ones: what shards look at.
    heard: ArcSwap<HashSet<Arc<str>>>,
    outlets: Mutex<Vec<Outlet>>,
    metrics: Arc<Metrics>,
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

/// How far a listener is behind. Both sides look at both numbers, sequentially consistent: either
/// the listener that took the last event sees what was missed, or the task sees that it did.
#[derive(Default)]
struct Arrears {
    /// Of the events that wait for it.
    bytes: AtomicUsize,
    /// Events missing behind those that wait, which it has not been told.
    missed: AtomicU64,
}

impl Topic {
    fn text(&self) -> Arc<str> {
        match self {
            Topic::Configured(text) => text.clone(),
            Topic::Concrete(path) => path.as_str().into(),
        }
    }

    fn is_of(&self, of: &Path, configured: &Arc<str>) -> bool {
        match self {
            Topic::Configured(text) => text == configured,
            Topic::Concrete(path) => path == of,
        }
    }
}

impl Sse {
    /// Starts the task that hands events on; it ends when the pod closes.
    pub fn start(lifecycle: &Lifecycle, metrics: Arc<Metrics>) -> Sse {
        let (waiting, events) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            waiting_bytes: AtomicUsize::new(0),
            offered: AtomicU64::new(0),
            heard: ArcSwap::default(),
            outlets: Mutex::default(),
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

    /// Whether something that was offered has not been handed to its listeners yet.
    pub fn has_waiting(&self) -> bool {
        self.shared.waiting_bytes.load(Ordering::Relaxed) > 0
    }

    /// Never waits. Events offered by one thread are heard in that order.
    pub fn offer(&self, event: Event) {
        let mut offered = Offered::Event(event);
        let before = self.shared.waiting_bytes.load(Ordering::Relaxed);
        if before + offered.bytes() > WAITING_BYTES_MAX
            && let Offered::Event(Event { path, configured, .. }) = offered
        {
            offered = Offered::Lost { path, configured };
        }
        let bytes = offered.bytes();
        // Losses are small, but a flood of them is bounded too.
        if before + bytes > 2 * WAITING_BYTES_MAX {
            return self.shared.metrics.events_missed.inc();
        }
        self.shared.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let number = self.shared.offered.fetch_add(1, Ordering::Relaxed);
        if self.waiting.send((number, offered)).is_err() {
            self.shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Hears what is offered from now on.
    pub fn listen(&self, topic: Topic) -> Listener {
        let (events, receiver) = mpsc::channel(LISTENER_EVENTS_MAX);
        let arrears = Arc::<Arrears>::default();
        let mut outlets = self.shared.lock();
        let from = self.shared.offered.load(Ordering::Relaxed);
        outlets.push(Outlet { topic, from, events, arrears: arrears.clone() });
        self.shared.publish_heard(&outlets);
        Listener { events: receiver, arrears, shared: self.shared.clone() }
    }
}

impl Offered {
    /// What it holds while it waits, in bytes.
    fn bytes(&self) -> usize {
        match self {
            Offered::Event(event) => size_of::<Offered>() + event.json.len(),
            Offered::Lost { .. } => size_of::<Offered>(),
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Outlet>> {
        // Each change of the list is one call; a panic leaves it whole.
        self.outlets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish_heard(&self, outlets: &[Outlet]) {
        let heard = outlets.iter().map(|outlet| outlet.topic.text()).collect();
        self.heard.store(Arc::new(heard));
        self.metrics.event_listeners.set(i64::try_from(outlets.len()).unwrap_or(i64::MAX));
    }
}

impl Listener {
    /// The next one; `None` when this pod leaves. Cancel-safe.
    pub async fn next(&mut self) -> Option<Heard> {
        // What was missed last is told when everything before it was heard, not only when another
        // event comes.
        if self.events.is_empty() {
            let missed = self.arrears.missed.swap(0, Ordering::SeqCst);
            if missed > 0 {
                return Some(Heard::Gap(missed));
            }
        }
        let heard = self.events.recv().await?;
        if let Heard::Event(event) = &heard {
            self.arrears.bytes.fetch_sub(event.json.len(), Ordering::SeqCst);
        }
        Some(heard)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.events.close();
        let mut outlets = self.shared.lock();
        outlets.retain(|outlet| !outlet.events.is_closed());
        self.shared.publish_heard(&outlets);
    }
}

async fn hand_on(mut waiting: mpsc::UnboundedReceiver<(u64, Offered)>, shared: Arc<Shared>) {
    while let Some((number, offered)) = waiting.recv().await {
        let bytes = offered.bytes();
        let (path, configured, event) = match offered {
            Offered::Event(event) => {
                (event.path.clone(), event.configured.clone(), Some(Arc::new(event)))
            }
            Offered::Lost { path, configured } => (path, configured, None),
        };
        for outlet in shared.lock().iter() {
            let is_missed = || !event.as_ref().is_some_and(|event| outlet.put(event));
            let is_meant = number >= outlet.from && outlet.topic.is_of(&path, &configured);
            if is_meant && is_missed() {
                outlet.miss();
                shared.metrics.events_missed.inc();
            }
        }
        shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        // The task shares its thread with handshakes and requests: be brief.
        tokio::task::consume_budget().await;
    }
}

impl Outlet {
    fn put(&self, event: &Arc<Event>) -> bool {
        let bytes = event.json.len();
        let before = self.arrears.bytes.load(Ordering::SeqCst);
        if before > 0 && before + bytes > LISTENER_BYTES_MAX {
            return false;
        }
        // Only when there is room for the event behind it: one gap tells all that are missing.
        if self.arrears.missed.load(Ordering::SeqCst) > 0 {
            if self.events.capacity() < 2 {
                return false;
            }
            self.tell_missed();
        }
        self.arrears.bytes.fetch_add(bytes, Ordering::SeqCst);
        let is_sent = self.events.try_send(Heard::Event(event.clone())).is_ok();
        if !is_sent {
            self.arrears.bytes.fetch_sub(bytes, Ordering::SeqCst);
        }
        is_sent
    }

    fn miss(&self) {
        self.arrears.missed.fetch_add(1, Ordering::SeqCst);
        // The listener may have taken the last event meanwhile, and wait.
        if self.arrears.bytes.load(Ordering::SeqCst) == 0 {
            self.tell_missed();
        }
    }

    fn tell_missed(&self) {
        let missed = self.arrears.missed.swap(0, Ordering::SeqCst);
        if missed > 0 && self.events.try_send(Heard::Gap(missed)).is_err() {
            self.arrears.missed.fetch_add(missed, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(path: &str, bytes: usize) -> Event {
        Event {
            id: "id".to_owned(),
            kind: "message",
            json: vec![b'x'; bytes].into(),
            path: Path::parse(path).expect("a good path"),
            configured: "/ws/rooms/{room}".into(),
        }
    }

    fn sse() -> (Sse, Lifecycle) {
        let lifecycle = Lifecycle::default();
        let metrics = Arc::new(Metrics::new().expect("families have names of their own"));
        (Sse::start(&lifecycle, metrics), lifecycle)
    }

    #[tokio::test]
    async fn a_listener_hears_its_topic_and_nobody_is_heard_after_it_left() {
        let (sse, _lifecycle) = sse();
        let configured: Arc<str> = "/ws/rooms/{room}".into();
        let path = Path::parse("/ws/rooms/a").expect("a good path");
        assert!(!sse.is_heard(&path, &configured));
        let mut one = sse.listen(Topic::Concrete(path.clone()));
        let mut all = sse.listen(Topic::Configured(configured.clone()));
        assert!(sse.is_heard(&path, &configured));
        sse.offer(event("/ws/rooms/b", 1));
        sse.offer(event("/ws/rooms/a", 2));
        let lengths = |heard| match heard {
            Some(Heard::Event(event)) => event.json.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!(lengths(one.next().await), 2);
        assert_eq!(lengths(all.next().await), 1);
        assert_eq!(lengths(all.next().await), 2);
        drop((one, all));
        assert!(!sse.is_heard(&path, &configured));
    }

    #[tokio::test]
    async fn a_slow_listener_is_told_what_it_missed() {
        let (sse, _lifecycle) = sse();
        let mut slow = sse.listen(Topic::Configured("/ws/rooms/{room}".into()));
        for _ in 0..20 {
            sse.offer(event("/ws/rooms/a", 1024 * 1024));
        }
        while sse.shared.metrics.events_missed.get() < 4 {
            tokio::task::yield_now().await;
        }
        for _ in 0..16 {
            assert!(matches!(slow.next().await, Some(Heard::Event(_))));
        }
        let gap = slow.next().await;
        assert!(matches!(gap, Some(Heard::Gap(4))), "told though nothing follows: {gap:?}");
        for _ in 0..20 {
            sse.offer(event("/ws/rooms/a", 1024 * 1024));
        }
        while sse.shared.metrics.events_missed.get() < 8 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(slow.next().await, Some(Heard::Event(_))));
        sse.offer(event("/ws/rooms/a", 1));
        for _ in 0..15 {
            assert!(matches!(slow.next().await, Some(Heard::Event(_))));
        }
        let gap = slow.next().await;
        assert!(matches!(gap, Some(Heard::Gap(4))), "told in its place: {gap:?}");
        assert!(matches!(slow.next().await, Some(Heard::Event(_))));
    }
}

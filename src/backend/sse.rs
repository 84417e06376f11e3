//! Server-sent events: whoever listens hears every event of his topic, from now on.
//!
//! Shards offer events and never wait: an event goes into one queue, bounded in bytes, and a task
//! hands it to the listeners, each with a bounded queue of its own. What does not fit is dropped
//! and counted, and the listener is told how many it missed ([`Heard::Gap`]). Events of other pods'
//! sessions come here like those of this pod's own; how they come is not known here.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::mpsc;

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

    /// Whether something that was offered has not been handed to its listeners yet, or not been
    /// told to the other pods.
    pub fn has_waiting(&self) -> bool {
        let is_untold = |outlet: &Outlet| {
            outlet.topic.is_own() && outlet.arrears.bytes.load(Ordering::SeqCst) > 0
        };
        // In this order: an event is with its listeners before it waits no more.
        self.shared.waiting_bytes.load(Ordering::SeqCst) > 0
            || self.shared.lock().iter().any(is_untold)
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
            Offered::Lost { .. } | Offered::Hole { .. } => size_of::<Offered>(),
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Outlet>> {
        // Each change of the list is one call; a panic leaves it whole.
        self.outlets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_lost(&self) -> bool {
        // Looked at first: it is written very seldom, and read for each event.
        self.has_lost.load(Ordering::SeqCst) && self.has_lost.swap(false, Ordering::SeqCst)
    }

    fn publish_heard(&self, outlets: &[Outlet]) {
        let heard = outlets.iter().map(|outlet| outlet.topic.text()).collect();
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
        let mut outlets = self.shared.lock();
        outlets.retain(|outlet| !outlet.events.is_closed());
        self.shared.publish_heard(&outlets);
    }
}

async fn hand_on(mut waiting: mpsc::UnboundedReceiver<Waiting>, shared: Arc<Shared>) {
    while let Some(Waiting { number, is_after_loss, offered }) = waiting.recv().await {
        let bytes = offered.bytes();
        for outlet in shared.lock().iter().filter(|outlet| number >= outlet.from) {
            if is_after_loss {
                outlet.miss(Missed::Uncounted);
            }
            if let Some(missed) = outlet.hand(&offered) {
                outlet.miss(missed);
                if let Missed::Counted(count) = missed {
                    shared.metrics.events_missed.inc_by(count);
                }
            }
        }
        shared.waiting_bytes.fetch_sub(bytes, Ordering::SeqCst);
        // Nothing may come any more that could say so.
        if waiting.is_empty() && shared.take_lost() {
            for outlet in shared.lock().iter() {
                outlet.miss(Missed::Uncounted);
            }
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
mod tests {
    use super::*;

    fn event(path: &str, bytes: usize) -> Event {
        Event {
            id: "id".to_owned(),
            kind: Kind::Message,
            json: vec![b'x'; bytes].into(),
            path: Path::parse(path).expect("a good path"),
            configured: "/ws/rooms/{room}".into(),
            origin: Origin::Own,
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
        assert!(
            matches!(gap, Some(Heard::Gap(Missed::Counted(4)))),
            "told though nothing follows: {gap:?}"
        );
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
        assert!(matches!(gap, Some(Heard::Gap(Missed::Counted(4)))), "told in its place: {gap:?}");
        assert!(matches!(slow.next().await, Some(Heard::Event(_))));
    }

    #[tokio::test]
    async fn what_is_told_to_other_pods_is_this_pods_own_and_waits_until_it_is_told() {
        let (sse, _lifecycle) = sse();
        let configured: Arc<str> = "/ws/rooms/{room}".into();
        let mut all = sse.listen(Topic::Configured(configured.clone()));
        let mut own = sse.listen(Topic::Own(configured));
        sse.offer(Event { origin: Origin::Far, ..event("/ws/rooms/a", 1) });
        sse.offer(event("/ws/rooms/a", 2));
        let Some(Heard::Event(taken)) = own.take().await else { panic!("an event") };
        assert_eq!(taken.json.len(), 2);
        for bytes in [1, 2] {
            let Some(Heard::Event(event)) = all.next().await else { panic!("an event") };
            assert_eq!(event.json.len(), bytes);
        }
        assert!(sse.has_waiting());
        own.release(2);
        while sse.has_waiting() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_hole_is_told_in_its_place_to_those_it_concerns() {
        let (sse, _lifecycle) = sse();
        let configured: Arc<str> = "/ws/rooms/{room}".into();
        let mut all = sse.listen(Topic::Configured(configured.clone()));
        let path = |text| Path::parse(text).expect("a good path");
        let mut one = sse.listen(Topic::Concrete(path("/ws/rooms/a")));
        let mut other = sse.listen(Topic::Concrete(path("/ws/other")));
        sse.miss(&configured, Missed::Counted(3));
        sse.offer(event("/ws/rooms/a", 1));
        sse.offer(Event { path: path("/ws/other"), ..event("/ws/rooms/a", 2) });
        assert!(matches!(all.next().await, Some(Heard::Gap(Missed::Counted(3)))));
        assert!(matches!(all.next().await, Some(Heard::Event(_))));
        // Nobody knows whether its path was among them.
        assert!(matches!(one.next().await, Some(Heard::Gap(Missed::Uncounted))));
        assert!(matches!(one.next().await, Some(Heard::Event(_))));
        assert!(matches!(other.next().await, Some(Heard::Event(_))));
        // Counted and uncounted together are uncounted.
        sse.miss(&"/ws/other".into(), Missed::Counted(u64::MAX));
        let gap = other.next().await;
        assert!(matches!(gap, Some(Heard::Gap(Missed::Counted(COUNT_MAX)))), "{gap:?}");
        assert_eq!(sse.shared.metrics.events_missed.get(), 3 + COUNT_MAX);
    }

    #[tokio::test]
    async fn losses_that_find_no_room_themselves_are_told_to_all() {
        let (sse, _lifecycle) = sse();
        let configured: Arc<str> = "/ws/rooms/{room}".into();
        let mut other = sse.listen(Topic::Configured("/ws/other".into()));
        let mut own = sse.listen(Topic::Own(configured.clone()));
        // The task has no turn until this one waits.
        let megabyte = event("/ws/rooms/a", 1 << 20);
        for _ in 0..WAITING_BYTES_MAX >> 20 {
            sse.offer(megabyte.clone());
        }
        while sse.shared.metrics.events_missed.get() == 0 {
            sse.miss(&configured, Missed::Counted(1));
        }
        let lost = Event { configured: "/ws/other".into(), ..megabyte };
        sse.offer(lost);
        let gap = other.next().await;
        assert!(matches!(gap, Some(Heard::Gap(Missed::Uncounted))), "{gap:?}");
        while let Some(Heard::Event(_)) = own.next().await {}
        // Once, and what comes next is heard again.
        let late = Event { configured: "/ws/other".into(), ..event("/ws/other", 1) };
        sse.offer(late);
        assert!(matches!(other.next().await, Some(Heard::Event(_))));
    }
}

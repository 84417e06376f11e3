//! Lanes: the events of a session, or of an upstream, that wait for its webhook, in their order, one under way
//! at a time.
//!
//! A lane exists while its teller has something to tell, or waits for its client; at rest there is none. It
//! begins with the session's place, before the connect is offered, so that an end finds it or keeps the connect
//! from being offered at all: of a session that never comes either both are told, or neither is.
//! Whoever works a lane takes its first event, and settles it before the next. What
//! waits in a lane is bounded: beyond that its teller is held, and read on when there is room again, once for
//! each hold. Lanes stand in as many parts as shards, so that shards do not wait for each other.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::metrics::Metrics;
use crate::proto::event::Kind;
use crate::proto::path::Path;
use crate::proto::paths::Configured;
use crate::proto::session_id::{PodId, SessionId};
use crate::proto::traceparent::Traceparent;
use crate::proto::webhook::Webhook;
use crate::proto::webhook::url::Url;

/// What may wait of one teller before it is not read any more; what was read with it is still taken.
const LANE_BYTES_MAX: usize = 64 << 10;
const LANE_EVENTS_MAX: usize = 64;

/// What an event costs beside its body, roughly.
const EVENT_BYTES: usize = 256;

/// An event on its way to a webhook.
#[derive(Debug)]
pub struct Event {
    pub id: String,
    pub kind: Kind,
    pub seq: u64,
    /// When it happened: Unix time in milliseconds.
    pub time_ms: u64,
    pub traceparent: Option<Traceparent>,
    pub content_type: &'static str,
    pub body: Bytes,
    /// When it was offered.
    pub at: Instant,
}

/// The session whose event it is.
#[derive(Debug, Clone)]
pub struct Whose {
    pub session: SessionId,
    pub path: Path,
    pub configured: Arc<Configured>,
}

/// The upstream whose event it is.
#[derive(Debug, Clone)]
pub struct Source {
    pub upstream: Arc<str>,
    /// The pod that held it.
    pub pod: PodId,
    pub wholemsg: bool,
    pub webhook: Arc<Webhook>,
}

/// Who tells an event.
#[derive(Debug, Clone)]
pub enum Teller {
    Session(Whose),
    Upstream(Source),
}

/// What a lane is found by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    Session(SessionId),
    /// By its target, too: what waits for one that is no more keeps nothing from the one that is.
    Upstream(Arc<str>, Url),
}

/// An event that is under way. To be settled.
#[derive(Debug)]
pub struct Job {
    pub teller: Teller,
    pub event: Event,
}

pub struct Lanes {
    parts: Vec<Mutex<HashMap<Key, Lane>>>,
    waiting_bytes: AtomicUsize,
    waiting_bytes_max: usize,
    /// Lanes that somebody has to work now. Bounded by their number.
    ready: mpsc::UnboundedSender<Key>,
    metrics: Arc<Metrics>,
}

struct Lane {
    teller: Teller,
    waiting: VecDeque<Event>,
    /// Of what waits, and of what is under way.
    bytes: usize,
    /// Somebody works it, or its connect is under way.
    is_busy: bool,
    /// Its client has not come yet.
    awaits_client: bool,
    /// Its connect was offered, or is about to be.
    is_begun: bool,
    /// Its teller is not read.
    is_held: bool,
}

impl Source {
    pub fn key(&self) -> Key {
        Key::Upstream(self.upstream.clone(), self.webhook.url.clone())
    }
}

impl Teller {
    pub fn key(&self) -> Key {
        match self {
            Teller::Session(whose) => Key::Session(whose.session),
            Teller::Upstream(source) => source.key(),
        }
    }

    /// Where its events go. `None`: its path has no webhook.
    pub fn webhook(&self) -> Option<&Webhook> {
        match self {
            Teller::Session(whose) => whose.configured.webhook.as_ref(),
            Teller::Upstream(source) => Some(&source.webhook),
        }
    }

    /// The configured path, or the name of the upstream.
    pub fn configured(&self) -> &Arc<str> {
        match self {
            Teller::Session(whose) => whose.configured.pattern.text(),
            Teller::Upstream(source) => &source.upstream,
        }
    }

    pub fn wholemsg(&self) -> bool {
        match self {
            Teller::Session(whose) => whose.configured.wholemsg,
            Teller::Upstream(source) => source.wholemsg,
        }
    }
}

impl Event {
    /// What it holds while it waits, in bytes.
    pub fn bytes(&self) -> usize {
        EVENT_BYTES + self.body.len()
    }
}

impl Lanes {
    /// Lanes, and those that are to be worked.
    pub fn new(
        parts: usize,
        waiting_bytes_max: usize,
        metrics: Arc<Metrics>,
    ) -> (Lanes, mpsc::UnboundedReceiver<Key>) {
        let (ready, receiver) = mpsc::unbounded_channel();
        let parts = (0..parts.max(1)).map(|_| Mutex::default()).collect();
        let waiting_bytes = AtomicUsize::new(0);
        (Lanes { parts, waiting_bytes, waiting_bytes_max, ready, metrics }, receiver)
    }

    /// Puts an event behind those of its teller. Never waits. Whether the teller is to be held.
    #[must_use]
    pub fn push(&self, teller: Teller, event: Event) -> bool {
        let total = self.add(event.bytes());
        let key = teller.key();
        let mut lanes = self.part(&key);
        let lane = lanes.entry(key).or_insert_with(|| Lane::new(teller));
        lane.bytes += event.bytes();
        let is_message = event.kind == Kind::Message;
        if event.kind == Kind::Disconnect {
            // Of a session that has gone nothing is to be read on.
            self.release(lane);
        }
        lane.waiting.push_back(event);
        let is_full = lane.bytes > LANE_BYTES_MAX
            || lane.waiting.len() > LANE_EVENTS_MAX
            || total > self.waiting_bytes_max;
        let is_news = is_message && is_full && !lane.is_held;
        if is_news {
            lane.is_held = true;
            self.metrics.webhooked.held.inc();
        }
        self.start(lane);
        is_news
    }

    /// The last event of a session that never came. Whether the backend may know of the session, and so is
    /// told: its connect was offered, and not vetoed.
    #[must_use]
    pub fn end_unopened(&self, session: &SessionId, event: impl FnOnce() -> Event) -> bool {
        let key = Key::Session(*session);
        let mut lanes = self.part(&key);
        let Some(lane) = lanes.get_mut(&key) else { return false };
        if !lane.is_begun {
            lanes.remove(&key);
            return false;
        }
        let event = event();
        self.add(event.bytes());
        lane.bytes += event.bytes();
        lane.waiting.push_back(event);
        lane.awaits_client = false;
        self.start(lane);
        true
    }

    /// A session is about to have its place. It ends with `end_unopened`, or is `opened`.
    pub fn reserve(&self, whose: Whose) {
        let teller = Teller::Session(whose);
        let key = teller.key();
        let lane = Lane { awaits_client: true, ..Lane::new(teller) };
        self.part(&key).insert(key, lane);
    }

    /// The connect of a session with a place is about to be offered; whatever comes waits for `connected` or
    /// `forget`. Whether it may be: the session has not ended.
    #[must_use]
    pub fn begin(&self, session: &SessionId) -> bool {
        let key = Key::Session(*session);
        let mut lanes = self.part(&key);
        let Some(lane) = lanes.get_mut(&key) else { return false };
        lane.is_begun = true;
        lane.is_busy = true;
        true
    }

    /// The backend may know of the session: it will be told of its end. `first`: the connect, if it is to be
    /// offered again.
    pub fn connected(&self, session: &SessionId, first: Option<Event>) {
        let key = Key::Session(*session);
        let mut lanes = self.part(&key);
        let Some(lane) = lanes.get_mut(&key) else { return };
        if let Some(event) = first {
            self.add(event.bytes());
            lane.bytes += event.bytes();
            lane.waiting.push_front(event);
        }
        lane.is_busy = false;
        if !lane.waiting.is_empty() {
            self.start(lane);
        } else if lane.is_over() {
            lanes.remove(&key);
        }
    }

    /// The backend does not know of the session, or does not want it. Whether its end waited, and is not told.
    #[must_use]
    pub fn forget(&self, session: &SessionId) -> bool {
        let key = Key::Session(*session);
        let Some(mut lane) = self.part(&key).remove(&key) else { return false };
        self.remove(lane.bytes);
        self.release(&mut lane);
        !lane.waiting.is_empty()
    }

    /// The client has come.
    pub fn opened(&self, session: &SessionId) {
        let key = Key::Session(*session);
        let mut lanes = self.part(&key);
        if let Some(lane) = lanes.get_mut(&key) {
            lane.awaits_client = false;
            if lane.is_over() {
                lanes.remove(&key);
            }
        }
    }

    /// The first event of a lane, for whoever works it; `None`: its work is done.
    pub fn take(&self, key: &Key) -> Option<Job> {
        let mut lanes = self.part(key);
        let lane = lanes.get_mut(key)?;
        if let Some(event) = lane.waiting.pop_front() {
            return Some(Job { teller: lane.teller.clone(), event });
        }
        lane.is_busy = false;
        if lane.is_over() {
            lanes.remove(key);
        }
        give_back(&mut lanes);
        None
    }

    /// The event that was taken is no more. Whether the teller is to be read on.
    #[must_use]
    pub fn settle(&self, key: &Key, bytes: usize) -> bool {
        let total = self.remove(bytes);
        let mut lanes = self.part(key);
        let Some(lane) = lanes.get_mut(key) else { return false };
        lane.bytes -= bytes;
        let has_room = lane.bytes <= LANE_BYTES_MAX / 2
            && lane.waiting.len() <= LANE_EVENTS_MAX / 2
            && total <= self.waiting_bytes_max;
        // An empty one is read on whatever waits in others: nobody waits for somebody else's backend.
        (has_room || lane.waiting.is_empty()) && self.release(lane)
    }

    /// Whether it was held and not read on since: for tellers that look, and are not told.
    pub fn is_held(&self, key: &Key) -> bool {
        self.part(key).get(key).is_some_and(|lane| lane.is_held)
    }

    pub fn has_waiting(&self) -> bool {
        self.waiting_bytes.load(Ordering::SeqCst) > 0
    }

    /// Whether more waits than may: nobody new is let in then.
    pub fn is_full(&self) -> bool {
        self.waiting_bytes.load(Ordering::SeqCst) > self.waiting_bytes_max
    }

    /// Its session is not held any more. Whether it was.
    fn release(&self, lane: &mut Lane) -> bool {
        let was_held = std::mem::take(&mut lane.is_held);
        if was_held {
            self.metrics.webhooked.held.dec();
        }
        was_held
    }

    fn start(&self, lane: &mut Lane) {
        if !std::mem::replace(&mut lane.is_busy, true) {
            // Nobody works lanes any more when the pod has ended.
            let _ = self.ready.send(lane.teller.key());
        }
    }

    fn add(&self, bytes: usize) -> usize {
        self.metrics.webhook_waiting_bytes.add(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.waiting_bytes.fetch_add(bytes, Ordering::SeqCst) + bytes
    }

    fn remove(&self, bytes: usize) -> usize {
        self.metrics.webhook_waiting_bytes.sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.waiting_bytes.fetch_sub(bytes, Ordering::SeqCst) - bytes
    }

    fn part(&self, key: &Key) -> MutexGuard<'_, HashMap<Key, Lane>> {
        let part = match key {
            Key::Session(session) => usize::from(session.shard) % self.parts.len(),
            // There are few of them.
            Key::Upstream(..) => 0,
        };
        // Each change is whole before anything that could panic.
        self.parts[part].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    fn new(teller: Teller) -> Lane {
        Lane {
            teller,
            waiting: VecDeque::new(),
            bytes: 0,
            is_busy: false,
            awaits_client: false,
            is_begun: false,
            is_held: false,
        }
    }

    fn is_over(&self) -> bool {
        self.waiting.is_empty() && !self.is_busy && !self.awaits_client
    }
}

/// After a storm the table is given back.
fn give_back(lanes: &mut HashMap<Key, Lane>) {
    if lanes.capacity() > 256 && lanes.len() < lanes.capacity() / 8 {
        lanes.shrink_to(2 * lanes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::proto::paths::Pattern;
    use crate::proto::webhook::{OnConnectError, OnError};

    fn lanes() -> (Lanes, mpsc::UnboundedReceiver<Key>) {
        let metrics = Metrics::new().expect("families have names of their own");
        Lanes::new(2, 1 << 20, Arc::new(metrics))
    }

    fn whose(number: u8) -> Whose {
        let session = SessionId { pod: PodId([1; 8]), shard: number, random: [number; 16] };
        let pattern = Pattern::parse("/ws").expect("a good pattern");
        let path = Path::parse("/ws").expect("a good path");
        Whose { session, path, configured: Arc::new(Configured::new(pattern)) }
    }

    fn event(seq: u64, kind: Kind, bytes: usize) -> Event {
        Event {
            id: seq.to_string(),
            kind,
            seq,
            time_ms: 0,
            traceparent: None,
            content_type: "text/plain",
            body: vec![0; bytes].into(),
            at: Instant::now(),
        }
    }

    fn message(seq: u64) -> Event {
        event(seq, Kind::Message, 1)
    }

    #[track_caller]
    fn work(lanes: &Lanes, session: &SessionId) -> (u64, bool) {
        let key = Key::Session(*session);
        let job = lanes.take(&key).expect("something waits");
        (job.event.seq, lanes.settle(&key, job.event.bytes()))
    }

    #[test]
    fn a_lane_is_worked_by_one_in_its_order_and_is_no_more_when_it_is_empty() {
        let (lanes, mut ready) = lanes();
        let one = whose(1);
        assert!(!lanes.push(Teller::Session(one.clone()), message(0)));
        assert!(!lanes.push(Teller::Session(one.clone()), message(1)));
        assert_eq!(ready.try_recv().ok(), Some(Key::Session(one.session)));
        let first = lanes.take(&Key::Session(one.session)).expect("the first");
        assert!(!lanes.push(Teller::Session(one.clone()), message(2)));
        assert!(ready.try_recv().is_err(), "somebody works it already");
        assert_eq!(first.event.seq, 0);
        assert!(!lanes.settle(&Key::Session(one.session), first.event.bytes()));
        assert_eq!(work(&lanes, &one.session), (1, false));
        assert_eq!(work(&lanes, &one.session), (2, false));
        assert!(lanes.take(&Key::Session(one.session)).is_none());
        assert!(lanes.part(&Key::Session(one.session)).is_empty() && !lanes.has_waiting());
        assert!(!lanes.push(Teller::Session(one.clone()), message(3)));
        assert_eq!(ready.try_recv().ok(), Some(Key::Session(one.session)));
    }

    #[test]
    fn a_full_lane_holds_its_session_once_and_reads_it_on_once() {
        let (lanes, _ready) = lanes();
        let one = whose(1);
        let held =
            (0..100).filter(|&seq| lanes.push(Teller::Session(one.clone()), message(seq))).count();
        assert_eq!((held, lanes.metrics.webhooked.held.get()), (1, 1));
        let read_on: Vec<_> = (1..=100).filter(|_| work(&lanes, &one.session).1).collect();
        assert_eq!(read_on, [100 - LANE_EVENTS_MAX / 2]);
        let two = whose(2);
        assert!(lanes.push(Teller::Session(two.clone()), event(0, Kind::Message, LANE_BYTES_MAX)));
        assert!(work(&lanes, &two.session).1);
        assert_eq!(lanes.metrics.webhooked.held.get(), 0);
    }

    #[test]
    fn a_session_that_has_gone_is_held_no_longer() {
        let (lanes, _ready) = lanes();
        let (one, two) = (whose(1), whose(2));
        assert!(lanes.push(Teller::Session(one.clone()), event(0, Kind::Message, LANE_BYTES_MAX)));
        assert!(lanes.push(Teller::Session(two.clone()), event(0, Kind::Message, LANE_BYTES_MAX)));
        assert!(!lanes.push(Teller::Session(one.clone()), event(1, Kind::Disconnect, 1)));
        assert_eq!(lanes.metrics.webhooked.held.get(), 1);
        assert!(!work(&lanes, &one.session).1 && !work(&lanes, &one.session).1);
        let _ = lanes.forget(&two.session);
        assert_eq!(lanes.metrics.webhooked.held.get(), 0);
    }

    #[test]
    fn what_waits_of_all_holds_each_who_sends_and_none_for_ever() {
        let (lanes, _ready) = lanes();
        let sessions: Vec<Whose> = (0..40).map(whose).collect();
        let held = sessions.iter().filter(|one| {
            lanes.push(Teller::Session((*one).clone()), event(0, Kind::Message, 40_000))
        });
        assert_eq!(held.count(), 40 - (1 << 20) / (40_000 + EVENT_BYTES));
        assert!(lanes.is_full());
        let read_on = sessions.iter().filter(|one| work(&lanes, &one.session).1).count();
        assert_eq!(read_on, 14);
        assert!(!lanes.is_full() && !lanes.has_waiting());
        assert_eq!(lanes.metrics.webhook_waiting_bytes.get(), 0);
    }

    #[test]
    fn an_end_waits_for_its_connect_and_goes_with_it() {
        let (lanes, mut ready) = lanes();
        let one = whose(1);
        let end = || event(1, Kind::Disconnect, 1);
        let begin = || {
            lanes.reserve(one.clone());
            assert!(lanes.begin(&one.session));
        };
        begin();
        assert!(lanes.end_unopened(&one.session, end));
        assert!(ready.try_recv().is_err(), "its connect is under way");
        lanes.connected(&one.session, None);
        assert_eq!(ready.try_recv().ok(), Some(Key::Session(one.session)));
        assert_eq!(work(&lanes, &one.session), (1, false));
        assert!(lanes.take(&Key::Session(one.session)).is_none());

        // Vetoed: it was no session, whether it is still there or not.
        begin();
        assert!(lanes.end_unopened(&one.session, end));
        assert!(lanes.forget(&one.session), "an end that is not told");
        assert!(!lanes.has_waiting());
        begin();
        assert!(!lanes.forget(&one.session));
        assert!(!lanes.end_unopened(&one.session, || panic!("nobody knows of it")));

        // It was let in, and never came.
        begin();
        lanes.connected(&one.session, None);
        assert!(ready.try_recv().is_err());
        assert!(lanes.end_unopened(&one.session, end));
        assert_eq!(work(&lanes, &one.session), (1, false));
        assert!(lanes.take(&Key::Session(one.session)).is_none());
        assert_eq!(ready.try_recv().ok(), Some(Key::Session(one.session)));

        // It came; its connect is offered again, and before everything else.
        begin();
        lanes.opened(&one.session);
        assert!(!lanes.push(Teller::Session(one.clone()), message(1)));
        lanes.connected(&one.session, Some(event(0, Kind::Connect, 1)));
        assert_eq!(ready.try_recv().ok(), Some(Key::Session(one.session)));
        assert_eq!(work(&lanes, &one.session), (0, false));
        assert_eq!(work(&lanes, &one.session), (1, false));
        assert!(lanes.take(&Key::Session(one.session)).is_none());
        assert!(lanes.part(&Key::Session(one.session)).is_empty());
    }

    #[test]
    fn an_upstream_is_held_as_a_session_is_in_a_lane_of_its_own() {
        let (lanes, mut ready) = lanes();
        let url = |text| Url::parse(text).expect("a good URL");
        let webhook = Webhook {
            url: url("http://127.0.0.1/"),
            on_error: OnError::Retry,
            on_connect_error: OnConnectError::Accept,
            retry_for: Duration::from_secs(1),
        };
        let source = Source {
            upstream: "feed".into(),
            pod: PodId([1; 8]),
            wholemsg: false,
            webhook: Arc::new(webhook),
        };
        let feed = Teller::Upstream(source);
        let key = feed.key();
        let other = Key::Upstream("feed".into(), url("http://127.0.0.2/"));
        let held = (0..=64).find(|&seq| lanes.push(feed.clone(), message(seq)));
        assert_eq!(held, Some(LANE_EVENTS_MAX as u64));
        assert!(lanes.is_held(&key) && !lanes.is_held(&other));
        assert_eq!((ready.try_recv().ok(), ready.try_recv().ok()), (Some(key.clone()), None));
        let mut taken = 0;
        while lanes.is_held(&key) {
            let job = lanes.take(&key).expect("something waits");
            assert_eq!(job.event.seq, taken);
            let _ = lanes.settle(&key, job.event.bytes());
            taken += 1;
        }
        assert_eq!(taken as usize, 65 - LANE_EVENTS_MAX / 2);
    }

    #[test]
    fn the_connect_of_a_session_that_has_ended_is_not_offered() {
        let (lanes, _ready) = lanes();
        let one = whose(1);
        lanes.reserve(one.clone());
        assert!(!lanes.end_unopened(&one.session, || panic!("nobody knows of it")));
        assert!(!lanes.begin(&one.session));
        assert!(lanes.part(&Key::Session(one.session)).is_empty() && !lanes.has_waiting());
    }
}

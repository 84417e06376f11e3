//! Streams: every event of a path with `stream = true`, in order and at least once, for whoever reads
//! the stream in Redis.
//!
//! Shards offer entries and never wait for more than a lock that nobody holds for long. Who writes
//! takes a batch from the front, and the batch stays there until it is known what became of it; so
//! the order of a session's entries survives every failure.
//!
//! When too much waits, or too much of a stream is unread, nothing is dropped unless its path says
//! so: the sessions that more would come from are *held*, which is to say not read, and named to
//! whoever asks for `freed` once there is room again. Who would be read while too much waits is held
//! before that; so above that bound comes only the last message of each shard, and connects and
//! disconnects, of which there are no more than sessions.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::backend::lanes::Lanes;
use crate::backend::parts::{Look, Parts, Scope};
use crate::metrics::Metrics;
use crate::proto::paths::OnFull;
use crate::proto::session_id::SessionId;
use crate::proto::stream::{Backlog, Entry, Fate, Part};

/// What may wait before sessions are held, and below what they are freed: a busy pod's events while
/// Redis changes its primary.
const HOLD_BYTES: usize = 32 << 20;
const FREE_BYTES: usize = 16 << 20;

/// What one read of a freed session may become, so that those who are freed at once fill no more
/// than the room there is.
const READ_BYTES: usize = 32 << 10;

/// What may wait while an upstream is still read: an eighth of what may in all, since one message may
/// be as large as many of sessions.
const UPSTREAM_BYTES_MAX: usize = 8 << 20;

/// What may wait at all. Whoever offers without asking `hold` first gets that far: its messages are
/// dropped, since memory has a bound.
const REFUSE_BYTES: usize = 256 << 20;

/// A batch holds up to so many entries, or bytes: a broadcast that comes meanwhile waits a few
/// milliseconds for it.
const BATCH_ENTRIES_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 256 << 10;

/// Where shards put entries.
pub struct Stream {
    backlog_max: u64,
    shared: Arc<Shared>,
}

/// The other end, for the one who writes.
pub struct Queue {
    /// Taken and not settled.
    batch: Vec<Entry>,
    /// When those were offered.
    offered: Vec<Instant>,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Something waits.
    offered: Notify,
    /// A stream is full that was not.
    pressed: Notify,
    /// Since somebody asked.
    dropped: AtomicU64,
    /// As in the state, for a look without the lock.
    is_crowded: AtomicBool,
    metrics: Arc<Metrics>,
}

/// An upstream that is not read while this exists.
pub struct Unread<'a>(&'a Shared);

struct State {
    lanes: Lanes,
    parts: Parts,
    /// Upstreams that are not read.
    upstreams_held: usize,
    /// Entries in the batch.
    taken: usize,
    /// Too much waited, and not little enough has since.
    is_crowded: bool,
}

impl Stream {
    /// `backlog_max`: how many entries of one stream may be unread before it counts as full.
    pub fn new(backlog_max: u64, metrics: Arc<Metrics>) -> (Stream, Queue) {
        let (lanes, parts) = (Lanes::default(), Parts::new(backlog_max));
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                lanes,
                parts,
                upstreams_held: 0,
                taken: 0,
                is_crowded: false,
            }),
            offered: Notify::new(),
            pressed: Notify::new(),
            dropped: AtomicU64::new(0),
            is_crowded: AtomicBool::new(false),
            metrics,
        });
        let queue = Queue { batch: Vec::new(), offered: Vec::new(), shared: shared.clone() };
        (Stream { backlog_max, shared }, queue)
    }

    /// Offers what is never dropped for want of room. Entries offered by one thread are written in
    /// that order, messages included.
    pub fn offer(&self, entry: Entry) {
        let mut state = self.shared.state();
        let is_newly_full = state.parts.offered(&entry.part());
        state.lanes.push_firm(entry);
        drop(state);
        self.shared.tell(is_newly_full);
    }

    /// Offers a message. Whether its session is held from now on, and was not before: it is not to
    /// be read until `freed` names it, or it has ended and `forget` was called.
    #[must_use]
    pub fn offer_message(&self, entry: Entry, session: SessionId, on_full: OnFull) -> bool {
        let part = entry.part();
        let mut state = self.shared.state();
        let State { lanes, parts, is_crowded, .. } = &mut *state;
        let is_newly_full = parts.offered(&part);
        let (mut dropped, mut is_held) = (Vec::new(), false);
        match on_full {
            OnFull::DropOldest => dropped = lanes.push_loose(entry),
            OnFull::Backpressure => {
                match lanes.firm_bytes() < REFUSE_BYTES {
                    true => lanes.push_firm(entry),
                    false => dropped.push(entry),
                }
                if lanes.firm_bytes() > HOLD_BYTES {
                    *is_crowded = true;
                    self.shared.is_crowded.store(true, Ordering::Relaxed);
                }
                is_held = (*is_crowded || parts.is_full(&part)) && parts.hold(&part, session);
            }
        }
        self.shared.let_go(state, &dropped, is_newly_full);
        is_held
    }

    /// Offers a message of an upstream, which is not read while there is no room.
    pub fn offer_of_upstream(&self, entry: Entry, on_full: OnFull) {
        if on_full == OnFull::Backpressure {
            return self.offer(entry);
        }
        let mut state = self.shared.state();
        let is_newly_full = state.parts.offered(&entry.part());
        let dropped = state.lanes.push_loose(entry);
        self.shared.let_go(state, &dropped, is_newly_full);
    }

    /// Whether an upstream may be read that fills this stream: whoever asks is not told when that
    /// changes.
    pub fn has_room(&self, part: &Part) -> bool {
        let state = self.shared.state();
        state.lanes.firm_bytes() <= UPSTREAM_BYTES_MAX && !state.parts.is_full(part)
    }

    /// Counts an upstream as held.
    pub fn hold_upstream(&self) -> Unread<'_> {
        self.shared.hold_upstreams(|held| held + 1);
        Unread(&self.shared)
    }

    /// Whether too much waits: to be asked before a session is read, and then `hold`.
    pub fn is_crowded(&self) -> bool {
        self.shared.is_crowded.load(Ordering::Relaxed)
    }

    /// As `offer_message` of nothing: whether the session is held from now on, and was not before, since
    /// too much waits.
    #[must_use]
    pub fn hold(&self, part: &Part, session: SessionId) -> bool {
        let mut state = self.shared.state();
        let State { parts, is_crowded, .. } = &mut *state;
        let is_held = *is_crowded && parts.hold(part, session);
        self.shared.count_held(&state);
        is_held
    }

    /// A session of that stream has ended.
    pub fn forget(&self, part: &Part, session: &SessionId) {
        let mut state = self.shared.state();
        state.parts.forget(part, session);
        self.shared.count_held(&state);
    }

    /// Sessions that are held no more, for there is room: each was held once. To be asked whenever
    /// something was settled or looked at.
    #[must_use]
    pub fn freed(&self) -> Vec<SessionId> {
        let mut state = self.shared.state();
        if state.lanes.firm_bytes() <= FREE_BYTES {
            state.is_crowded = false;
            self.shared.is_crowded.store(false, Ordering::Relaxed);
        }
        if state.is_crowded || state.parts.held() == 0 {
            return Vec::new();
        }
        let room = HOLD_BYTES.saturating_sub(state.lanes.firm_bytes()) / READ_BYTES;
        let freed = state.parts.free(room.max(1));
        self.shared.count_held(&state);
        freed
    }

    /// Whether something that was offered has not been settled yet.
    pub fn has_waiting(&self) -> bool {
        let state = self.shared.state();
        state.taken > 0 || !state.lanes.is_empty()
    }

    /// How many found no room since this was last asked.
    pub fn take_dropped(&self) -> u64 {
        self.shared.dropped.swap(0, Ordering::Relaxed)
    }

    /// How many entries of one stream may be unread.
    pub fn backlog_max(&self) -> u64 {
        self.backlog_max
    }

    /// A stream that may hold something from before.
    pub fn watch(&self, part: Part) {
        self.shared.state().parts.watch(part);
    }

    /// A stream of which this pod does not know how full it is: it has no room until it was looked at.
    pub fn suspect(&self, part: Part) {
        self.shared.state().parts.suspect(part);
        self.shared.pressed.notify_one();
    }

    /// Waits until a stream is full that was not. Cancel-safe.
    pub async fn pressed(&self) {
        self.shared.pressed.notified().await;
    }

    /// Whether a look at a stream may free somebody.
    pub fn is_pressed(&self) -> bool {
        self.shared.state().parts.is_pressed()
    }

    /// The streams that are to be looked at, each to be answered by `looked`, if it was.
    pub fn looks(&self, scope: Scope) -> Vec<Look> {
        self.shared.state().parts.looks(scope)
    }

    /// What a look has found.
    pub fn looked(&self, look: &Look, found: Backlog) {
        self.shared.state().parts.looked(look, found);
        self.shared.drop_some(usize::try_from(found.dropped).unwrap_or(usize::MAX));
    }

    /// Shows what was found last.
    pub fn show(&self) {
        let backlogs = self.shared.state().parts.backlogs();
        for (configured, backlog) in backlogs {
            let gauge = self.shared.metrics.stream_backlog(&configured);
            gauge.set(i64::try_from(backlog).unwrap_or(i64::MAX));
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, and each change of it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, is_newly_full: bool) {
        self.offered.notify_one();
        if is_newly_full {
            self.pressed.notify_one();
        }
    }

    /// Ends an offer for which these found no room.
    fn let_go(&self, mut state: MutexGuard<'_, State>, dropped: &[Entry], is_newly_full: bool) {
        for entry in dropped {
            state.parts.settled(&entry.part(), Fate::Refused);
        }
        self.count_held(&state);
        drop(state);
        self.drop_some(dropped.len());
        self.tell(is_newly_full);
    }

    fn drop_some(&self, count: usize) {
        if count > 0 {
            let count = u64::try_from(count).unwrap_or(u64::MAX);
            self.dropped.fetch_add(count, Ordering::Relaxed);
            self.metrics.streamed.dropped.inc_by(count);
        }
    }

    fn count_held(&self, state: &State) {
        let held = state.parts.held() + state.upstreams_held;
        self.metrics.streamed.held.set(i64::try_from(held).unwrap_or(i64::MAX));
    }

    fn hold_upstreams(&self, change: impl FnOnce(usize) -> usize) {
        let mut state = self.state();
        state.upstreams_held = change(state.upstreams_held);
        self.count_held(&state);
    }
}

impl Drop for Unread<'_> {
    fn drop(&mut self) {
        self.0.hold_upstreams(|held| held.saturating_sub(1));
    }
}

impl Queue {
    /// The oldest entries, at least one: the same ones until they are settled. Cancel-safe.
    pub async fn batch(&mut self) -> &[Entry] {
        while self.batch.is_empty() && !self.take() {
            self.shared.offered.notified().await;
        }
        &self.batch
    }

    /// Makes a batch of what waits, if something does.
    fn take(&mut self) -> bool {
        let mut state = self.shared.state();
        let mut bytes = 0;
        while self.batch.len() < BATCH_ENTRIES_MAX && bytes < BATCH_BYTES_MAX {
            let Some(waiting) = state.lanes.pop() else { break };
            bytes += waiting.entry.bytes();
            self.offered.push(waiting.at);
            self.batch.push(waiting.entry);
        }
        state.taken = self.batch.len();
        !self.batch.is_empty()
    }

    /// What became of each entry of the batch: those that are left stay in front.
    pub fn settle(&mut self, fates: &[Fate]) {
        let metrics = &self.shared.metrics.streamed;
        let (batch, offered) = (std::mem::take(&mut self.batch), std::mem::take(&mut self.offered));
        let mut state = self.shared.state();
        for ((entry, at), &fate) in batch.into_iter().zip(offered).zip(fates) {
            match fate {
                Fate::Taken => metrics.taken.inc(),
                Fate::Refused => metrics.refused.inc(),
                Fate::Left => {
                    self.batch.push(entry);
                    self.offered.push(at);
                    continue;
                }
            }
            metrics.seconds.observe(at.elapsed().as_secs_f64());
            state.parts.settled(&entry.part(), fate);
        }
        state.taken = self.batch.len();
    }

    /// The batch will be written again, though it may have been.
    pub fn repeat(&self) {
        let count = u64::try_from(self.batch.len()).unwrap_or(u64::MAX);
        self.shared.metrics.streamed.repeated.inc_by(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: u32 = 3;

    fn stream(backlog_max: u64) -> (Stream, Queue) {
        let metrics = Metrics::new().expect("families have names of their own");
        Stream::new(backlog_max, Arc::new(metrics))
    }

    fn entry(id: usize, bytes: usize) -> Entry {
        let fields = vec![("id", id.to_string()), ("msg", "x".repeat(bytes))];
        Entry { configured: "/ws".into(), partition: PART, fields }
    }

    fn session(number: u8) -> SessionId {
        SessionId { random: [number; 16], ..SessionId::MIN }
    }

    async fn ids(queue: &mut Queue) -> Vec<usize> {
        let batch = queue.batch().await;
        batch.iter().map(|entry| entry.fields[0].1.parse().expect("a number")).collect()
    }

    #[tokio::test]
    async fn a_batch_stays_in_front_until_it_is_settled() {
        let (stream, mut queue) = stream(1_000);
        for id in 0..BATCH_ENTRIES_MAX + 2 {
            stream.offer(entry(id, 1));
        }
        let first: Vec<_> = (0..BATCH_ENTRIES_MAX).collect();
        assert_eq!(ids(&mut queue).await, first);
        queue.repeat();
        stream.offer(entry(1_000, 1));
        assert_eq!(ids(&mut queue).await, first);
        let mut fates = vec![Fate::Taken; BATCH_ENTRIES_MAX];
        fates[3..6].copy_from_slice(&[Fate::Refused, Fate::Left, Fate::Left]);
        queue.settle(&fates);
        // What was left is still in front of what came later.
        assert_eq!(ids(&mut queue).await, [4, 5]);
        queue.settle(&[Fate::Refused, Fate::Taken]);
        assert_eq!(ids(&mut queue).await, [BATCH_ENTRIES_MAX, BATCH_ENTRIES_MAX + 1, 1_000]);
        assert!(stream.has_waiting());
        queue.settle(&[Fate::Taken; 3]);
        assert!(!stream.has_waiting());
        let metrics = &queue.shared.metrics.streamed;
        assert_eq!((metrics.taken.get(), metrics.refused.get()), (257, 2));
        assert_eq!((metrics.repeated.get(), metrics.dropped.get()), (256, 0));
    }

    #[tokio::test]
    async fn sessions_are_held_while_too_much_waits_and_each_is_freed_once() {
        let (stream, mut queue) = stream(1_000);
        let offer = |number: u8| {
            let entry = entry(number.into(), 1 << 20);
            stream.offer_message(entry, session(number % 10), OnFull::Backpressure)
        };
        let held: Vec<u8> = (0..45).filter(|&number| offer(number)).collect();
        assert_eq!(held, [31, 32, 33, 34, 35, 36, 37, 38, 39, 40]);
        let metrics = queue.shared.metrics.clone();
        assert_eq!((metrics.streamed.held.get(), metrics.streamed.dropped.get()), (10, 0));
        stream.forget(&entry(0, 0).part(), &session(2));
        assert_eq!(stream.freed(), []);
        let mut written = 0;
        let freed = loop {
            written += ids(&mut queue).await.len();
            queue.settle(&vec![Fate::Taken; queue.batch.len()]);
            let freed = stream.freed();
            if !freed.is_empty() {
                break freed;
            }
        };
        assert_eq!(written, 30, "half of the bound is left");
        assert_eq!(freed, [1, 3, 4, 5, 6, 7, 8, 9, 0].map(session));
        assert_eq!((stream.freed(), metrics.streamed.held.get()), (vec![], 0));
    }

    #[tokio::test]
    async fn memory_has_a_bound_and_connects_find_room_beyond() {
        let (stream, queue) = stream(10_000);
        for id in 0..258 {
            let is_held =
                stream.offer_message(entry(id, 1 << 20), session(1), OnFull::Backpressure);
            assert_eq!(is_held, id == 31, "{id}");
        }
        assert_eq!(stream.take_dropped(), 2);
        assert_eq!(stream.take_dropped(), 0);
        stream.offer(entry(1_000, 1));
        assert_eq!(queue.shared.metrics.streamed.dropped.get(), 2);
    }

    #[tokio::test]
    async fn the_oldest_messages_go_where_the_path_says_so() {
        let (stream, mut queue) = stream(10_000);
        for id in 0..40 {
            match id % 2 {
                0 => stream.offer(entry(id, 1 << 20)),
                _ => assert!(!stream.offer_message(
                    entry(id, 2 << 20),
                    session(1),
                    OnFull::DropOldest
                )),
            }
        }
        assert_eq!(stream.take_dropped(), 5);
        let mut left = Vec::new();
        while stream.has_waiting() {
            left.extend(ids(&mut queue).await);
            queue.settle(&vec![Fate::Taken; queue.batch.len()]);
        }
        let expected = (0..40).filter(|id| id % 2 == 0 || *id > 10);
        assert_eq!(left, expected.collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn an_upstream_has_room_until_its_stream_is_full_or_drops_the_oldest() {
        let (stream, mut queue) = stream(4);
        let part = entry(0, 0).part();
        stream.suspect(part.clone());
        assert!(!stream.has_room(&part), "nobody has looked");
        let looked = |unread| {
            let [look] = &stream.looks(Scope::Pressed)[..] else { panic!("one is full") };
            stream.looked(look, Backlog { unread, length: unread, dropped: 0 });
        };
        looked(0);
        let read = (0..9).take_while(|_| stream.has_room(&part)).inspect(|&id| {
            stream.offer_of_upstream(entry(id, 1), OnFull::Backpressure);
        });
        assert_eq!(read.count(), 5);
        let held = &queue.shared.metrics.streamed.held;
        let unread = stream.hold_upstream();
        assert_eq!(held.get(), 1);
        drop(unread);
        assert_eq!(held.get(), 0);
        assert_eq!(ids(&mut queue).await.len(), 5);
        queue.settle(&[Fate::Taken; 5]);
        looked(3);
        assert!(stream.has_room(&part));
        for id in 0..3 {
            stream.offer_of_upstream(entry(id, 20 << 20), OnFull::DropOldest);
        }
        assert_eq!((stream.take_dropped(), ids(&mut queue).await), (2, vec![2]));
    }

    #[tokio::test]
    async fn sessions_of_a_full_stream_are_held_until_it_was_read() {
        let (stream, mut queue) = stream(4);
        let offer = |id| stream.offer_message(entry(id, 1), session(1), OnFull::Backpressure);
        let held: Vec<_> = (0..8).filter(|&id| offer(id)).collect();
        assert_eq!(held, [4]);
        stream.pressed().await;
        assert_eq!(ids(&mut queue).await.len(), 8);
        queue.settle(&[Fate::Taken; 8]);
        assert_eq!(stream.freed(), []);
        let looked = |unread| {
            let [look] = &stream.looks(Scope::Pressed)[..] else { panic!("one is full") };
            stream.looked(look, Backlog { unread, length: 9, dropped: 0 });
            stream.show();
        };
        looked(8);
        assert_eq!(stream.freed(), []);
        let gauge = queue.shared.metrics.stream_backlog("/ws");
        assert_eq!(gauge.get(), 8);
        looked(3);
        assert_eq!(stream.freed(), [session(1)]);
        assert_eq!(gauge.get(), 3);
    }
}

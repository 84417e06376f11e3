//! Rooms: a shard's sessions on one concrete path, and the rounds that bring them its broadcasts.
//!
//! A room's broadcasts are one stream of bytes with a position. What waits is joined into one
//! buffer (a *round*), and each session in turn is handed that buffer with one write, in the order
//! of arrival, a slice at a time. Where a session stands in the stream follows from two numbers:
//! the round's cursor has passed its place or not, and `start`, the position when it came.
//!
//! Those who agreed to deflated messages have rooms of their own. The positions of their stream count the
//! bytes before they are deflated, so a broadcast has its place in it before it is made smaller, which is
//! when its round begins. What takes long is made elsewhere, and the room *stalls* until it is there.
//!
//! A unicast to a session that has not got everything queued before it becomes a *splice*: it
//! waits at its position in the stream and goes out when that session's turn comes. So every
//! session sees broadcasts and unicasts in the one order of the mailbox, and nobody else's round
//! is split.
//!
//! A room whose path has a `flush_interval` *rests* after it began a round: what comes in the
//! meantime waits to be joined, unless it fills a round or too much of the shard waits already.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use slab::Slab;

use crate::hub::backroom::Counter;
use crate::hub::command::{Frames, Reply};
use crate::hub::outbox::Class;
use crate::hub::press;
use crate::hub::press::{Deflated, Press};
use crate::hub::sessions::{Sent, Session, Sessions};
use crate::metrics::{Metrics, PathMetrics};
use crate::proto::ask::Answer;
use crate::proto::close::{Cause, Close};
use crate::proto::frame;
use crate::proto::path::Path;

/// A joined buffer is at most this, or one frame: past it a write costs by the byte, not the call.
const JOIN_BYTES_MAX: usize = 128 * 1024;

/// Sockets of one slice; after that the shard serves everybody else.
const SLICE_SOCKETS: usize = 256;

/// The longest slice.
const SLICE: Duration = Duration::from_millis(1);

/// The place of one who has left; slots never get that high.
const NOBODY: u32 = u32::MAX;

/// How often a slice looks at the clock, in sockets.
const CLOCK_SOCKETS: usize = 16;

pub struct Rooms {
    slab: Slab<Room>,
    index: HashMap<(Path, Variant), usize>,
    /// Rooms of those who agreed to deflated messages.
    deflating: usize,
    /// Rooms with something to send, each once; they take turns.
    busy: VecDeque<usize>,
    /// Rooms that wait for the back room.
    stalled: Vec<usize>,
    backroom: Counter,
    /// Rooms with something to send that rest, and until when.
    resting: BTreeSet<(Instant, usize)>,
    /// When more waits in all rooms, none rests.
    rest_bytes_max: usize,
    /// Whether the round that began last joined several frames.
    joins: bool,
    /// What waits for a round, in all rooms.
    held_bytes: usize,
    metrics: Arc<Metrics>,
}

/// What the sessions of a room are sent. After a reload a path may have sessions of every kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Variant {
    wholemsg: bool,
    deflates: bool,
}

struct Room {
    path: Path,
    variant: Variant,
    /// From what size on, if at all.
    deflates_from: Option<usize>,
    metrics: Arc<PathMetrics>,
    /// Slots in the order of arrival; `NOBODY` where one has left.
    places: Vec<u32>,
    live: usize,
    /// Frames that wait for a round.
    pending: VecDeque<Waiting>,
    /// Before they are deflated, as everything that is a position or a difference of two.
    pending_bytes: usize,
    /// The position behind everything that was ever queued.
    tail: u64,
    round: Option<Round>,
    /// Unicasts that wait for their session's turn, each list in order.
    splices: HashMap<usize, VecDeque<Splice>>,
    /// Whether it waits for a turn, for the end of its rest, or for the back room.
    is_busy: bool,
    /// As the session that came last has it.
    flush_interval: Option<Duration>,
    /// When a round may begin again.
    rested_at: Option<Instant>,
    /// Under which time it stands among those that rest.
    rests_until: Option<Instant>,
}

struct Waiting {
    plain: Bytes,
    /// Where it is to be deflated: what it becomes.
    deflated: Option<Arc<Deflated>>,
    /// When it came to this pod.
    since: Instant,
}

struct Round {
    frames: Bytes,
    count: u64,
    /// The positions of its first byte and behind its last.
    base: u64,
    end: u64,
    /// Where positions are not offsets: both, of each frame but the first.
    edges: Vec<(u64, usize)>,
    cursor: usize,
    since: Instant,
}

/// What is for one session only, and where in the stream.
struct Splice {
    at: u64,
    part: Part,
    reply: Option<Reply>,
}

/// What one session alone is sent.
pub enum Part {
    Frame(Bytes),
    /// The last thing: so a farewell does not overtake what was queued before it.
    Farewell(Close, Cause),
    /// The answer to the client's own close frame: what was queued before it came is still its.
    Echo,
}

impl Rooms {
    /// Rooms rest while at most `rest_bytes_max` wait in all of them.
    pub fn new(rest_bytes_max: usize, metrics: Arc<Metrics>, backroom: Counter) -> Rooms {
        Rooms {
            slab: Slab::new(),
            index: HashMap::new(),
            deflating: 0,
            busy: VecDeque::new(),
            stalled: Vec::new(),
            backroom,
            resting: BTreeSet::new(),
            rest_bytes_max,
            joins: false,
            held_bytes: 0,
            metrics,
        }
    }

    /// A session comes: it gets what is queued from now on.
    pub fn join(&mut self, sessions: &mut Sessions, slot: usize) {
        let Some(session) = sessions.at_mut(slot) else { return };
        let variant = Variant { wholemsg: session.configured.wholemsg, deflates: session.deflates };
        let key = (session.path.clone(), variant);
        let at = match self.index.get(&key) {
            Some(&at) => at,
            None => {
                let room = Room::new(key.0.clone(), variant, session.metrics.clone());
                self.deflating += usize::from(variant.deflates);
                let at = self.slab.insert(room);
                self.index.insert(key, at);
                at
            }
        };
        let room = &mut self.slab[at];
        // Whoever came last came with the newest settings.
        room.deflates_from = session.deflates_from();
        room.flush_interval = session.configured.flush_interval;
        session.room = at;
        session.path = room.path.clone();
        session.place = u32::try_from(room.places.len()).unwrap_or(NOBODY);
        session.start = room.tail;
        room.places.push(u32::try_from(slot).unwrap_or(NOBODY));
        room.live += 1;
    }

    /// Sessions that have ended leave their rooms; their splices are answered, empty rooms vanish.
    pub fn leave_ended(&mut self, sessions: &mut Sessions) {
        while let Some(slot) = sessions.left.pop() {
            let Some(session) = sessions.at(slot) else { continue };
            let at = session.room;
            let Some(room) = self.slab.get_mut(at) else { continue };
            if let Some(place) = room.places.get_mut(session.place as usize) {
                *place = NOBODY;
            }
            room.live -= 1;
            let waiting = room.splices.remove(&slot);
            for splice in waiting.into_iter().flatten() {
                self.held_bytes -= splice.part.bytes();
                splice.part.send(sessions, slot, splice.reply, &self.metrics);
            }
            if room.live == 0 {
                let room = self.slab.remove(at);
                self.held_bytes -= room.pending_bytes;
                self.index.remove(&(room.path, room.variant));
                self.deflating -= usize::from(room.variant.deflates);
                self.busy.retain(|&busy| busy != at);
                self.stalled.retain(|&stalled| stalled != at);
                if let Some(until) = room.rests_until {
                    self.resting.remove(&(until, at));
                }
            } else if room.round.is_none() {
                room.compact(sessions);
            }
        }
    }

    /// The slots of those on a path, in the order of arrival.
    pub fn members(&self, path: &Path) -> impl Iterator<Item = usize> {
        let variants = [false, true]
            .into_iter()
            .flat_map(|wholemsg| [false, true].map(|deflates| Variant { wholemsg, deflates }));
        let rooms = variants.filter_map(|variant| self.index.get(&(path.clone(), variant)));
        let places = rooms.flat_map(|&at| &self.slab[at].places);
        places.filter(|&&slot| slot != NOBODY).map(|&slot| slot as usize)
    }

    /// Queues a broadcast in the form that each room of the path needs.
    pub fn broadcast(&mut self, path: &Path, frames: Frames, since: Instant) {
        let mut key = (path.clone(), Variant { wholemsg: false, deflates: false });
        for (wholemsg, form) in [(false, frames.payload), (true, frames.whole)] {
            key.1.wholemsg = wholemsg;
            let Some(form) = form else { continue };
            if self.deflating > 0 {
                key.1.deflates = true;
                self.queue(&key, form.clone(), frames.deflated.as_ref(), since);
                key.1.deflates = false;
            }
            self.queue(&key, form, None, since);
        }
    }

    fn queue(
        &mut self,
        key: &(Path, Variant),
        plain: Bytes,
        deflated: Option<&Arc<Deflated>>,
        since: Instant,
    ) {
        let Some(&at) = self.index.get(key) else { return };
        let room = &mut self.slab[at];
        let payload_bytes = || frame::message(&plain).1.len();
        let pays = room.deflates_from.is_some_and(|from_bytes| payload_bytes() >= from_bytes);
        let deflated = deflated.filter(|_| pays).cloned();
        if let Some(deflated) = &deflated
            && plain.len() > press::LOOP_BYTES_MAX
        {
            self.backroom.order(&plain, deflated, key.1.wholemsg);
        }
        room.tail += plain.len() as u64;
        room.pending_bytes += plain.len();
        self.held_bytes += plain.len();
        room.pending.push_back(Waiting { plain, deflated, since });
        if !std::mem::replace(&mut room.is_busy, true) {
            self.busy.push_back(at);
        } else if room.pending_bytes >= JOIN_BYTES_MAX
            && let Some(until) = room.rests_until.take()
        {
            self.resting.remove(&(until, at));
            self.busy.push_back(at);
        }
    }

    /// Something was made that rooms may wait for.
    pub fn resume(&mut self) {
        self.busy.extend(self.stalled.drain(..));
    }

    /// Sends one session its part, behind everything that was queued for it before.
    pub fn unicast(
        &mut self,
        sessions: &mut Sessions,
        slot: usize,
        part: Part,
        answer: Option<Reply>,
    ) {
        let Some(session) = sessions.at_mut(slot) else { return reply(answer, Answer::Gone) };
        let room = self.slab.get_mut(session.room).filter(|_| session.is_alive());
        let Some(room) = room else {
            // It has left its room: nothing is queued for it there.
            return part.send(sessions, slot, answer, &self.metrics);
        };
        let in_round = room.round.as_ref().is_some_and(|round| {
            session.place as usize >= round.cursor && session.start < round.end
        });
        let in_pending = room.pending_bytes > 0 && session.start < room.tail;
        if session.splices > 0 || in_round || in_pending {
            session.splices += 1;
            self.held_bytes += part.bytes();
            let splice = Splice { at: room.tail, part, reply: answer };
            room.splices.entry(slot).or_default().push_back(splice);
        } else {
            part.send(sessions, slot, answer, &self.metrics);
        }
    }

    /// What waits for a round, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    pub fn is_busy(&self) -> bool {
        !self.busy.is_empty()
    }

    /// When the first rest ends.
    pub fn rested_at(&self) -> Option<Instant> {
        self.resting.first().map(|&(until, _)| until)
    }

    /// Whether frames come so densely that the round that began last had several.
    pub fn joins(&self) -> bool {
        self.joins
    }

    /// Slices of rounds, room by room, until a slice's worth of sockets or of time is used up.
    pub fn slice(&mut self, sessions: &mut Sessions) {
        let now = Instant::now();
        self.wake_rested(now);
        let mut budget = Budget { until: now + SLICE, sockets: SLICE_SOCKETS };
        // Each room at most once: whoever is not done waits for its next turn.
        for _ in 0..self.busy.len() {
            let Some(at) = self.busy.pop_front() else { return };
            let room = &mut self.slab[at];
            if room.round.is_none() {
                let rest = room.rest(now).filter(|_| self.held_bytes <= self.rest_bytes_max);
                if let Some(until) = rest {
                    room.rests_until = Some(until);
                    self.resting.insert((until, at));
                    continue;
                }
                self.held_bytes -= room.begin_round(now, &mut sessions.press);
                if room.round.is_none() && !room.pending.is_empty() {
                    self.stalled.push(at);
                    continue;
                }
                self.joins = room.round.as_ref().is_some_and(|round| round.count > 1);
                if room.variant.deflates {
                    budget.look();
                }
            }
            self.held_bytes -= room.slice(sessions, &mut budget, &self.metrics);
            if room.round.is_none() {
                room.compact(sessions);
            }
            if room.round.is_some() || !room.pending.is_empty() {
                self.busy.push_back(at);
            } else {
                room.is_busy = false;
            }
            if budget.is_spent() {
                return;
            }
        }
    }

    /// Ends the rests whose time is over, and, from the oldest, as many as have to end for what waits
    /// to be within its bound.
    fn wake_rested(&mut self, now: Instant) {
        let mut over_bytes = self.held_bytes.saturating_sub(self.rest_bytes_max);
        while let Some(&(until, at)) = self.resting.first()
            && (until <= now || over_bytes > 0)
        {
            self.resting.pop_first();
            let room = &mut self.slab[at];
            room.rests_until = None;
            over_bytes = over_bytes.saturating_sub(room.pending_bytes);
            // Before those that may still have to begin their rest.
            self.busy.push_front(at);
        }
    }
}

/// What is left of one turn's time for sending.
struct Budget {
    until: Instant,
    sockets: usize,
}

impl Budget {
    /// Takes one socket's worth; whether there was one.
    #[inline]
    fn take(&mut self) -> bool {
        if self.sockets == 0 {
            return false;
        }
        self.sockets -= 1;
        if self.sockets.is_multiple_of(CLOCK_SOCKETS) {
            self.look();
        }
        true
    }

    /// Something else than sending may have taken its time.
    fn look(&mut self) {
        if Instant::now() >= self.until {
            self.sockets = 0;
        }
    }

    fn is_spent(&self) -> bool {
        self.sockets == 0
    }
}

impl Part {
    /// What it holds, in bytes.
    fn bytes(&self) -> usize {
        match self {
            Part::Frame(frame) => frame.len(),
            Part::Farewell(..) | Part::Echo => 0,
        }
    }

    fn send(self, sessions: &mut Sessions, slot: usize, answer: Option<Reply>, metrics: &Metrics) {
        match self {
            // Nobody waits for the verdict any more: it was told as unknown, and a frame after
            // that could come twice.
            Part::Frame(_) if answer.as_ref().is_some_and(Reply::is_closed) => {
                metrics.unicasts.late.inc();
            }
            Part::Frame(frame) => {
                let answer_is = match sessions.send(slot, &frame, Class::Single) {
                    Sent::Written | Sent::Queued => Answer::Delivered,
                    Sent::Full => Answer::OutboxFull,
                    Sent::Gone => Answer::Gone,
                };
                reply(answer, answer_is);
            }
            Part::Farewell(close, cause) => {
                let is_alive = sessions.at(slot).is_some_and(Session::is_alive);
                sessions.close(slot, close, cause);
                reply(answer, if is_alive { Answer::Closed } else { Answer::Gone });
            }
            Part::Echo => sessions.closed_by_client(slot),
        }
    }
}

impl Room {
    fn new(path: Path, variant: Variant, metrics: Arc<PathMetrics>) -> Room {
        Room {
            path,
            variant,
            deflates_from: None,
            metrics,
            places: Vec::new(),
            live: 0,
            pending: VecDeque::new(),
            pending_bytes: 0,
            tail: 0,
            round: None,
            splices: HashMap::new(),
            is_busy: false,
            flush_interval: None,
            rested_at: None,
            rests_until: None,
        }
    }

    /// Until when it has to rest. What fills a round gains nothing by waiting.
    fn rest(&self, now: Instant) -> Option<Instant> {
        self.rested_at.filter(|&at| now < at && self.pending_bytes < JOIN_BYTES_MAX)
    }

    /// Joins what waits, up to the bound, and up to what is still being deflated elsewhere; how
    /// many bytes that are.
    fn begin_round(&mut self, now: Instant, press: &mut Press) -> usize {
        let wholemsg = self.variant.wholemsg;
        let base = self.tail - self.pending_bytes as u64;
        let Some(first) = self.pending.front() else { return 0 };
        let Some(frame) = first.frame(wholemsg, press) else { return 0 };
        let (since, mut bytes, mut count) = (first.since, first.plain.len(), 1);
        self.pending.pop_front();
        self.rested_at = self.flush_interval.map(|interval| now + interval);
        let fits = |bytes: usize, next: &Waiting| bytes + next.plain.len() <= JOIN_BYTES_MAX;
        let mut edges = Vec::new();
        let frames = if self.pending.front().is_some_and(|next| fits(bytes, next)) {
            let mut joined = BytesMut::with_capacity(self.pending_bytes.min(JOIN_BYTES_MAX));
            joined.extend_from_slice(&frame);
            while let Some(next) = self.pending.front().filter(|next| fits(bytes, next)) {
                let Some(frame) = next.frame(wholemsg, press) else { break };
                if self.variant.deflates {
                    edges.push((base + bytes as u64, joined.len()));
                }
                joined.extend_from_slice(&frame);
                bytes += next.plain.len();
                count += 1;
                self.pending.pop_front();
            }
            joined.freeze()
        } else {
            frame
        };
        self.pending_bytes -= bytes;
        let end = base + bytes as u64;
        self.round = Some(Round { frames, count, base, end, edges, cursor: 0, since });
        bytes
    }

    /// Goes on with the round, if there is one, as far as the budget goes; how many bytes of
    /// splices it sent.
    fn slice(&mut self, sessions: &mut Sessions, budget: &mut Budget, metrics: &Metrics) -> usize {
        let Some(round) = &mut self.round else { return 0 };
        let end = round.end;
        let mut whole = 0;
        let mut parts = 0;
        let mut bytes = 0;
        let mut spliced_bytes = 0;
        while round.cursor < self.places.len() && budget.take() {
            let slot = self.places[round.cursor];
            round.cursor += 1;
            if slot == NOBODY {
                continue;
            }
            let slot = slot as usize;
            let Some(session) = sessions.at_mut(slot) else { continue };
            if session.splices == 0 && session.start <= round.base {
                if deliver(sessions, slot, &round.frames, round.count, &self.metrics) {
                    whole += 1;
                }
                continue;
            }
            // The rare way: it came in mid-round, or something of its own splits the round for it.
            let mut position = round.base.max(session.start);
            let mut waiting = self.splices.remove(&slot).unwrap_or_default();
            while position < end || waiting.front().is_some_and(|splice| splice.at <= end) {
                let splice = waiting.pop_front_if(|splice| splice.at <= end);
                let until = splice.as_ref().map_or(end, |splice| splice.at);
                if position < until {
                    let part = round.frames.slice(round.offset(position)..round.offset(until));
                    let count = frame::count(&part);
                    if deliver(sessions, slot, &part, count, &self.metrics) {
                        parts += count;
                        bytes += part.len() as u64;
                    }
                    position = until;
                }
                if let Some(Splice { part, reply, .. }) = splice {
                    spliced_bytes += part.bytes();
                    part.send(sessions, slot, reply, metrics);
                }
            }
            if let Some(session) = sessions.at_mut(slot) {
                session.splices = u32::try_from(waiting.len()).unwrap_or(u32::MAX);
            }
            if !waiting.is_empty() {
                self.splices.insert(slot, waiting);
            }
        }
        self.metrics.deliveries.inc_by(whole * round.count + parts);
        metrics.delivery_bytes.inc_by(whole * round.frames.len() as u64 + bytes);
        if round.cursor == self.places.len() {
            metrics.fanout_seconds.observe(round.since.elapsed().as_secs_f64());
            self.round = None;
        }
        spliced_bytes
    }

    /// Closes the gaps that leavers made, once they are half of the places.
    fn compact(&mut self, sessions: &mut Sessions) {
        if self.places.len() < 2 * self.live + 16 {
            return;
        }
        self.places.retain(|&slot| slot != NOBODY);
        for (place, &slot) in (0..).zip(&self.places) {
            if let Some(session) = sessions.at_mut(slot as usize) {
                session.place = place;
            }
        }
    }
}

impl Waiting {
    /// What is sent of it; `None` while that is being made elsewhere.
    #[inline]
    fn frame(&self, wholemsg: bool, press: &mut Press) -> Option<Bytes> {
        let Some(deflated) = &self.deflated else { return Some(self.plain.clone()) };
        let form = deflated.form(wholemsg);
        if form.frame().is_none() && self.plain.len() <= press::LOOP_BYTES_MAX {
            form.settle(press.deflate(&self.plain));
        }
        form.frame().cloned()
    }
}

impl Round {
    /// Where a position lies in the buffer. Sessions come, and splices stand, between two frames.
    fn offset(&self, position: u64) -> usize {
        if position == self.end {
            return self.frames.len();
        }
        match self.edges.binary_search_by_key(&position, |&(position, _)| position) {
            Ok(at) => self.edges[at].1,
            Err(_) => (position - self.base) as usize,
        }
    }
}

/// Hands a session part of a broadcast; an outbox that is full, and can make no room, ends it.
#[inline]
fn deliver(
    sessions: &mut Sessions,
    slot: usize,
    frames: &Bytes,
    count: u64,
    metrics: &PathMetrics,
) -> bool {
    match sessions.send(slot, frames, Class::Broadcast) {
        Sent::Written | Sent::Queued => true,
        Sent::Full => {
            metrics.undelivered_slow.inc_by(count);
            sessions.close(slot, Close::new(1013, "too slow"), Cause::Slow);
            false
        }
        Sent::Gone => {
            metrics.undelivered_closed.inc_by(count);
            false
        }
    }
}

/// Nobody may be waiting for it any more.
fn reply(to: Option<Reply>, answer: Answer) {
    if let Some(to) = to {
        let _ = to.send(answer);
    }
}

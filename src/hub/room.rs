//! A room: a shard's sessions on one concrete path, and the round that brings them its broadcasts.
//!
//! A room's broadcasts are one stream of bytes with a position, and each session stands somewhere in it:
//! it has everything before. What waits joins the round ([`crate::hub::round`]) at the beginning of a
//! slice, and each session, when its turn comes, is handed all it has not got, with one write.
//!
//! The positions of the stream count the bytes before they are deflated, so a broadcast has its place in
//! it before it is made smaller, which is when it joins the round. What takes long is made elsewhere, and
//! waits, with all that is behind it, until it is there.
//!
//! A unicast to a session that has not got everything queued before it becomes a *splice*: it waits
//! at its position in the stream and goes out when that session's turn comes. So every session sees
//! broadcasts and unicasts in the one order of the mailbox, and nobody else's round is split.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::hub::backroom::Counter;
use crate::hub::command::Reply;
use crate::hub::outbox::Class;
use crate::hub::part::Part;
use crate::hub::press;
use crate::hub::press::{Deflated, Press};
use crate::hub::round::{JOIN_BYTES_MAX, Round};
use crate::hub::sessions::{Sent, Sessions};
use crate::metrics::{Metrics, PathMetrics};
use crate::proto::close::{Cause, Close};
use crate::proto::frame;
use crate::proto::path::Path;
use crate::trace::span::Span;

/// The place of one who has left; slots never get that high.
const NOBODY: u32 = u32::MAX;

/// How often a slice looks at the clock, in sockets.
const CLOCK_SOCKETS: usize = 16;

/// What the sessions of a room are sent. After a reload a path may have sessions of every kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Variant {
    pub wholemsg: bool,
    pub deflates: bool,
}

pub struct Room {
    pub path: Path,
    pub variant: Variant,
    metrics: Arc<PathMetrics>,
    /// From what size on messages are deflated, if at all; as the session that came last has it.
    deflates_from: Option<usize>,
    /// As the session that came last has it.
    flush_interval: Option<Duration>,
    /// Slots in the order of arrival; `NOBODY` where one has left.
    places: Vec<u32>,
    live: usize,
    /// Broadcasts that have not joined the round.
    pending: VecDeque<Waiting>,
    /// Before they are deflated, as everything that is a position or a difference of two.
    pending_bytes: usize,
    /// The position behind everything that was ever queued.
    tail: u64,
    round: Option<Round>,
    /// Unicasts that wait for their session's turn, each list in order.
    splices: HashMap<usize, VecDeque<Splice>>,
    /// When what waits may join a round again.
    rested_at: Option<Instant>,
}

struct Waiting {
    plain: Bytes,
    /// Where it is to be deflated: what it becomes.
    deflated: Option<Arc<Deflated>>,
    /// When it came to this pod.
    since: Instant,
    span: Option<Arc<Span>>,
}

/// What is for one session only, and where in the stream.
struct Splice {
    at: u64,
    part: Part,
    reply: Option<Reply>,
}

/// What is left of one turn's time for sending.
pub struct Budget {
    until: Instant,
    sockets: usize,
}

/// What a slice sent.
#[derive(Default)]
struct Tally {
    frames: u64,
    bytes: u64,
    writes: u64,
    spliced_bytes: usize,
}

impl Room {
    pub fn new(path: Path, variant: Variant, metrics: Arc<PathMetrics>) -> Room {
        Room {
            path,
            variant,
            metrics,
            deflates_from: None,
            flush_interval: None,
            places: Vec::new(),
            live: 0,
            pending: VecDeque::new(),
            pending_bytes: 0,
            tail: 0,
            round: None,
            splices: HashMap::new(),
            rested_at: None,
        }
    }

    /// A session comes: it gets what is queued from now on.
    pub fn admit(&mut self, sessions: &mut Sessions, slot: usize) {
        let Some(session) = sessions.at_mut(slot) else { return };
        // Whoever came last came with the newest settings.
        self.deflates_from = session.deflates_from();
        self.flush_interval = session.configured.flush_interval;
        session.path = self.path.clone();
        session.place = u32::try_from(self.places.len()).unwrap_or(NOBODY);
        session.position = self.tail;
        self.places.push(u32::try_from(slot).unwrap_or(NOBODY));
        self.live += 1;
    }

    /// A session that ended goes, and what waited for it is answered; how many bytes that were.
    pub fn dismiss(&mut self, sessions: &mut Sessions, slot: usize, metrics: &Metrics) -> usize {
        if let Some(place) = sessions.at(slot).map(|session| session.place as usize)
            && let Some(place) = self.places.get_mut(place)
        {
            *place = NOBODY;
        }
        self.live -= 1;
        let mut bytes = 0;
        for splice in self.splices.remove(&slot).into_iter().flatten() {
            bytes += splice.part.bytes();
            splice.part.send(sessions, slot, splice.reply, metrics);
        }
        if self.round.is_none() {
            self.move_up(sessions);
        }
        bytes
    }

    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// The slots of its sessions, in the order of arrival.
    pub fn members(&self) -> impl Iterator<Item = usize> {
        self.places.iter().filter(|&&slot| slot != NOBODY).map(|&slot| slot as usize)
    }

    /// What has not joined the round, in bytes.
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Whether there is anything that somebody has not got.
    pub fn has_something(&self) -> bool {
        self.round.is_some() || !self.pending.is_empty()
    }

    pub fn is_under_way(&self) -> bool {
        self.round.is_some()
    }

    /// Whether the round has more than one frame.
    pub fn joins(&self) -> bool {
        self.round.as_ref().is_some_and(Round::joins)
    }

    /// Until when it has to rest. What fills a round gains nothing by waiting.
    pub fn rest(&self, now: Instant) -> Option<Instant> {
        self.rested_at.filter(|&at| now < at && self.pending_bytes < JOIN_BYTES_MAX)
    }

    /// Queues a broadcast.
    pub fn queue(
        &mut self,
        plain: Bytes,
        deflated: Option<&Arc<Deflated>>,
        since: Instant,
        span: Option<Arc<Span>>,
        backroom: &Counter,
    ) {
        let payload_bytes = || frame::message(&plain).1.len();
        let pays = self.deflates_from.is_some_and(|from_bytes| payload_bytes() >= from_bytes);
        let deflated = deflated.filter(|_| pays).cloned();
        if let Some(deflated) = &deflated
            && plain.len() > press::LOOP_BYTES_MAX
        {
            backroom.order(&plain, deflated, self.variant.wholemsg);
        }
        self.tail += plain.len() as u64;
        self.pending_bytes += plain.len();
        self.pending.push_back(Waiting { plain, deflated, since, span });
    }

    /// Sends a session its part, behind everything that was queued for it before; how many bytes
    /// have to wait for its turn.
    pub fn unicast(
        &mut self,
        sessions: &mut Sessions,
        slot: usize,
        part: Part,
        reply: Option<Reply>,
        metrics: &Metrics,
    ) -> usize {
        match sessions.at_mut(slot) {
            Some(session) if session.splices > 0 || session.position < self.tail => {
                session.splices += 1;
                let bytes = part.bytes();
                let splice = Splice { at: self.tail, part, reply };
                self.splices.entry(slot).or_default().push_back(splice);
                bytes
            }
            _ => {
                part.send(sessions, slot, reply, metrics);
                0
            }
        }
    }

    /// Lets what waits join the round, up to its bound, and up to what is still being deflated
    /// elsewhere; how many bytes that are.
    pub fn join(&mut self, now: Instant, press: &mut Press) -> usize {
        let Some(since) = self.pending.front().map(|first| first.since) else { return 0 };
        let begin = self.tail - self.pending_bytes as u64;
        let (mut frames, mut spans, mut joined_bytes) = (Vec::new(), Vec::new(), 0);
        let spare_bytes = self.round.as_ref().map_or(JOIN_BYTES_MAX, Round::spare_bytes);
        let is_first = self.round.is_none();
        while let Some(next) = self.pending.front() {
            let bytes = next.plain.len();
            let fits = joined_bytes + bytes <= spare_bytes || is_first && frames.is_empty();
            let Some(frame) = Some(next)
                .filter(|_| fits)
                .and_then(|next| next.frame(self.variant.wholemsg, press))
            else {
                break;
            };
            frames.push((frame, bytes));
            joined_bytes += bytes;
            spans.extend(self.pending.pop_front().and_then(|next| next.span));
        }
        if !frames.is_empty() {
            self.rested_at = self.flush_interval.map(|interval| now + interval);
            self.round.get_or_insert_with(|| Round::new(begin)).join(&frames, since, spans);
            self.pending_bytes -= joined_bytes;
        }
        joined_bytes
    }

    /// Goes on with the round, if there is one, as far as the budget goes; how many bytes of
    /// splices it sent.
    pub fn slice(
        &mut self,
        sessions: &mut Sessions,
        budget: &mut Budget,
        metrics: &Metrics,
    ) -> usize {
        let mut sent = Tally::default();
        while let Some(round) = &mut self.round {
            let end = round.end();
            let until = round.stretch(self.places.len());
            // Most come from the same position, so it is looked up once for all of them.
            let mut stand = round.stand(0);
            while round.place < until && budget.take() {
                let slot = self.places[round.place];
                round.place += 1;
                let slot = slot as usize;
                let Some(session) = sessions.at_mut(slot).filter(|_| slot != NOBODY as usize)
                else {
                    continue;
                };
                if session.splices > 0 {
                    let waiting = self.splices.remove(&slot).unwrap_or_default();
                    let waiting = sent.parts(
                        sessions,
                        slot,
                        round,
                        waiting,
                        budget,
                        (&self.metrics, metrics),
                    );
                    let has_all = sessions.at(slot).is_none_or(|one| one.position >= end)
                        && waiting.front().is_none_or(|splice| splice.at > end);
                    if !has_all {
                        // The budget ended it: it is visited again before anybody else is.
                        round.place -= 1;
                    }
                    if !waiting.is_empty() {
                        self.splices.insert(slot, waiting);
                    }
                    continue;
                }
                // Came after all that is in the round.
                if session.position >= end {
                    continue;
                }
                if session.position != stand.position {
                    stand = round.stand(session.position);
                }
                session.position = end;
                let frames = &round.frames;
                if deliver(sessions, slot, frames, stand.offset, stand.count, &self.metrics) {
                    sent.frames += stand.count;
                    sent.bytes += (frames.len() - stand.offset) as u64;
                    sent.writes += 1;
                }
            }
            if round.place < until {
                break;
            }
            while let Some(since) = round.arrive(self.places.len()) {
                metrics.fanout_seconds.observe(since.elapsed().as_secs_f64());
            }
            if round.is_over() {
                self.round = None;
                self.move_up(sessions);
            } else if round.place == 0 {
                self.move_up(sessions);
            }
        }
        self.metrics.deliveries.inc_by(sent.frames);
        metrics.delivery_bytes.inc_by(sent.bytes);
        metrics.delivery_writes.inc_by(sent.writes);
        sent.spliced_bytes
    }

    /// Closes the gaps that leavers made, once they are half of the places. Only between two laps.
    fn move_up(&mut self, sessions: &mut Sessions) {
        if self.places.len() < 2 * self.live + 16 {
            return;
        }
        self.places.retain(|&slot| slot != NOBODY);
        if self.places.capacity() > 4 * self.live {
            self.places.shrink_to_fit();
        }
        for (place, &slot) in (0..).zip(&self.places) {
            if let Some(session) = sessions.at_mut(slot as usize) {
                session.place = place;
            }
        }
        if let Some(round) = &mut self.round {
            round.moved_up(self.places.len());
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

impl Tally {
    /// The rare way: something of its own splits the round for this session. What still waits then
    /// stands behind frames that have not joined the round, or behind more than one slice may send.
    fn parts(
        &mut self,
        sessions: &mut Sessions,
        slot: usize,
        round: &Round,
        mut waiting: VecDeque<Splice>,
        budget: &mut Budget,
        (path_metrics, metrics): (&PathMetrics, &Metrics),
    ) -> VecDeque<Splice> {
        let Some(session) = sessions.at_mut(slot) else { return waiting };
        let end = round.end();
        let mut stand = round.stand(session.position);
        while stand.position < end || waiting.front().is_some_and(|splice| splice.at <= end) {
            let splice = waiting.pop_front_if(|splice| splice.at <= end);
            let until = splice.as_ref().map_or(end, |splice| splice.at);
            if stand.position < until {
                let behind = round.stand(until);
                let frames = round.frames.slice(stand.offset..behind.offset);
                let count = stand.count - behind.count;
                if deliver(sessions, slot, &frames, 0, count, path_metrics) {
                    self.frames += count;
                    self.bytes += frames.len() as u64;
                    self.writes += 1;
                }
                stand = behind;
            }
            if let Some(Splice { part, reply, .. }) = splice {
                self.spliced_bytes += part.bytes();
                part.send(sessions, slot, reply, metrics);
                if !budget.take() {
                    break;
                }
            }
        }
        if let Some(session) = sessions.at_mut(slot) {
            session.position = session.position.max(stand.position);
            session.splices = u32::try_from(waiting.len()).unwrap_or(u32::MAX);
        }
        waiting
    }
}

impl Budget {
    pub fn new(until: Instant, sockets: usize) -> Budget {
        Budget { until, sockets }
    }

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
    pub fn look(&mut self) {
        if Instant::now() >= self.until {
            self.sockets = 0;
        }
    }

    pub fn is_spent(&self) -> bool {
        self.sockets == 0
    }
}

/// Hands a session part of a broadcast, from `offset` on; an outbox that is full, and can make no
/// room, ends it.
#[inline]
fn deliver(
    sessions: &mut Sessions,
    slot: usize,
    frames: &Bytes,
    offset: usize,
    count: u64,
    metrics: &PathMetrics,
) -> bool {
    match sessions.send(slot, frames, offset, Class::Broadcast) {
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

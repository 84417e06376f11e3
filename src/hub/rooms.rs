//! All rooms of a shard: which there are, and whose turn it is.
//!
//! Rooms with something to send take turns of a slice each. One whose path has a `flush_interval` *rests*
//! after something joined its round: what comes meanwhile waits to be joined, unless it fills a round or
//! too much of the shard waits already. One that waits for the back room *stalls*.
//!
//! Those who agreed to deflated messages have rooms of their own.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use slab::Slab;

use crate::hub::backroom::Counter;
use crate::hub::command::{Frames, Reply};
use crate::hub::part;
use crate::hub::part::Part;
use crate::hub::press::Deflated;
use crate::hub::room::{Budget, Room, Variant};
use crate::hub::round::JOIN_BYTES_MAX;
use crate::hub::sessions::Sessions;
use crate::metrics::Metrics;
use crate::proto::ask::Answer;
use crate::proto::path::Path;
use crate::trace::span::Span;

/// Sockets of one slice; after that the shard serves everybody else.
const SLICE_SOCKETS: usize = 256;

/// The longest slice.
const SLICE: Duration = Duration::from_millis(1);

/// What is kept whatever there is: a small pod never moves its rooms about.
const SPARE: usize = 256;

pub struct Rooms {
    slab: Slab<Entry>,
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
    /// Whether the round that something joined last has several frames.
    joins: bool,
    /// What waits for a round, in all rooms.
    held_bytes: usize,
    metrics: Arc<Metrics>,
}

struct Entry {
    room: Room,
    /// Whether it waits for a turn, for the end of its rest, or for the back room.
    is_busy: bool,
    /// Under which time it stands among those that rest.
    rests_until: Option<Instant>,
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

    /// A session comes to the room of its path: it gets what is queued from now on.
    pub fn admit(&mut self, sessions: &mut Sessions, slot: usize) {
        let Some(session) = sessions.at_mut(slot) else { return };
        let variant = Variant { wholemsg: session.configured.wholemsg, deflates: session.deflates };
        let key = (session.path.clone(), variant);
        let at = match self.index.get(&key) {
            Some(&at) => at,
            None => {
                let room = Room::new(key.0.clone(), variant, session.metrics.clone());
                self.deflating += usize::from(variant.deflates);
                let at = self.slab.insert(Entry { room, is_busy: false, rests_until: None });
                self.index.insert(key, at);
                at
            }
        };
        session.room = at;
        self.slab[at].room.admit(sessions, slot);
    }

    /// Sessions that have ended leave their rooms, and empty rooms vanish.
    pub fn dismiss_ended(&mut self, sessions: &mut Sessions) {
        while let Some(slot) = sessions.left.pop() {
            let Some(at) = sessions.at(slot).map(|session| session.room) else { continue };
            let Some(Entry { room, .. }) = self.slab.get_mut(at) else { continue };
            self.held_bytes -= room.dismiss(sessions, slot, &self.metrics);
            if room.is_empty() {
                self.vanish(at);
            }
        }
    }

    fn vanish(&mut self, at: usize) {
        let Entry { room, is_busy, rests_until } = self.slab.remove(at);
        self.held_bytes -= room.pending_bytes();
        self.deflating -= usize::from(room.variant.deflates);
        self.index.remove(&(room.path, room.variant));
        if is_busy {
            self.busy.retain(|&busy| busy != at);
            self.stalled.retain(|&stalled| stalled != at);
        }
        if let Some(until) = rests_until {
            self.resting.remove(&(until, at));
        }
        // After a storm; now and then, for looking for empty slots takes its time.
        let live = self.slab.len();
        if (live == 0 || live.is_power_of_two()) && self.slab.capacity() > 4 * live + SPARE {
            self.slab.shrink_to_fit();
            self.index.shrink_to(2 * live);
            self.busy.shrink_to(SPARE);
        }
    }

    /// The slots of those on a path.
    pub fn members(&self, path: &Path) -> impl Iterator<Item = usize> {
        let variants = [false, true]
            .into_iter()
            .flat_map(|wholemsg| [false, true].map(|deflates| Variant { wholemsg, deflates }));
        let rooms = variants.filter_map(|variant| self.index.get(&(path.clone(), variant)));
        rooms.flat_map(|&at| self.slab[at].room.members())
    }

    /// Queues a broadcast in the form that each room of the path needs.
    pub fn broadcast(&mut self, path: &Path, frames: Frames, since: Instant) {
        let mut key = (path.clone(), Variant { wholemsg: false, deflates: false });
        let Frames { payload, whole, deflated, span } = frames;
        for (wholemsg, form) in [(false, payload), (true, whole)] {
            key.1.wholemsg = wholemsg;
            let Some(form) = form else { continue };
            if self.deflating > 0 {
                key.1.deflates = true;
                self.queue(&key, form.clone(), deflated.as_ref(), since, &span);
                key.1.deflates = false;
            }
            self.queue(&key, form, None, since, &span);
        }
    }

    fn queue(
        &mut self,
        key: &(Path, Variant),
        plain: Bytes,
        deflated: Option<&Arc<Deflated>>,
        since: Instant,
        span: &Option<Arc<Span>>,
    ) {
        let Some(&at) = self.index.get(key) else { return };
        let Entry { room, is_busy, rests_until } = &mut self.slab[at];
        self.held_bytes += plain.len();
        room.queue(plain, deflated, since, span.clone(), &self.backroom);
        if !std::mem::replace(is_busy, true) {
            self.busy.push_back(at);
        } else if room.pending_bytes() >= JOIN_BYTES_MAX
            && let Some(until) = rests_until.take()
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
        reply: Option<Reply>,
    ) {
        let Some(session) = sessions.at(slot) else { return part::reply(reply, Answer::Gone) };
        let entry = self.slab.get_mut(session.room).filter(|_| session.is_alive());
        match entry {
            Some(Entry { room, .. }) => {
                self.held_bytes += room.unicast(sessions, slot, part, reply, &self.metrics);
            }
            // It has left its room: nothing is queued for it there.
            None => part.send(sessions, slot, reply, &self.metrics),
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

    /// Whether frames come so densely that the round that was joined last has several.
    pub fn joins(&self) -> bool {
        self.joins
    }

    /// Slices of rounds, room by room, until a slice's worth of sockets or of time is used up.
    pub fn slice(&mut self, sessions: &mut Sessions) {
        let now = Instant::now();
        self.wake_rested(now);
        let mut budget = Budget::new(now + SLICE, SLICE_SOCKETS);
        // Each room at most once: whoever is not done waits for its next turn.
        for _ in 0..self.busy.len() {
            let Some(at) = self.busy.pop_front() else { return };
            let Entry { room, is_busy, rests_until } = &mut self.slab[at];
            match room.rest(now).filter(|_| self.held_bytes <= self.rest_bytes_max) {
                Some(until) if !room.is_under_way() => {
                    *rests_until = Some(until);
                    self.resting.insert((until, at));
                    continue;
                }
                Some(_) => {}
                None => {
                    let joined_bytes = room.join(now, &mut sessions.press);
                    self.held_bytes -= joined_bytes;
                    if joined_bytes > 0 {
                        self.joins = room.joins();
                        if room.variant.deflates {
                            budget.look();
                        }
                    }
                }
            }
            if !room.is_under_way() && room.has_something() {
                self.stalled.push(at);
                continue;
            }
            self.held_bytes -= room.slice(sessions, &mut budget, &self.metrics);
            *is_busy = room.has_something();
            if *is_busy {
                self.busy.push_back(at);
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
            let entry = &mut self.slab[at];
            entry.rests_until = None;
            over_bytes = over_bytes.saturating_sub(entry.room.pending_bytes());
            // Before those that may still have to begin their rest.
            self.busy.push_front(at);
        }
    }
}

//! The sessions of one shard, and what can be done to a single one: open, send, close, free.
//!
//! A session is reserved before its 101, open from its socket's arrival, and *ended* once, with a
//! cause; what is left of it then lingers for the close handshake and holds nothing but its
//! socket. Whoever learns that it ended (rooms, backends, metrics) learns it at that moment.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::ErrorKind;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use mio::{Registry, Token};
use slab::Slab;

use crate::clock::unix_ms;
use crate::hub::Config;
use crate::hub::command::{Greeting, Newcomer};
use crate::hub::inbound::{Inbound, Who};
use crate::hub::outbox::{Bounds, Class, Full, Outbox};
use crate::hub::press;
use crate::hub::press::Press;
use crate::hub::session::{After, Phase, Session, is_behind};
use crate::hub::socket::Socket;
use crate::metrics::{Metrics, PathMetrics};
use crate::proto::ask::SessionInfo;
use crate::proto::close::{Cause, Close};
use crate::proto::frame;
use crate::proto::frame::Kind;
use crate::proto::inflater::Inflater;
use crate::proto::millis::millis;
use crate::proto::pulse::{Pulse, Sign, lifetime_ms};
use crate::proto::session_id::{PodId, SessionId};

/// Read at once of a client whose messages are deflated: a thousand times as much may come of it.
const DEFLATED_READ_BYTES: usize = 4096;

/// So much is inflated in one turn, by what it costs, and then of one client more: about a millisecond.
/// The other clients with deflated messages wait for the next turn.
const INFLATION_MAX: u64 = 1 << 20;

/// Timers of one turn.
const TIMERS_MAX: usize = 256;

/// A session has one timer of each kind at most; more are of sessions that are no more.
const TIMERS_EACH_MAX: usize = 4;

/// What is kept whatever there is: a small pod never moves its sessions about.
const SPARE: usize = 256;

pub struct Sessions {
    pub pod: PodId,
    pub shard: u8,
    pub config: Config,
    pub metrics: Arc<Metrics>,
    pub inbound: Arc<dyn Inbound>,
    /// For what single sessions are sent, and for rounds.
    pub press: Press,
    /// For all sessions of the shard; made when it is first needed.
    pub inflater: Option<Box<Inflater>>,
    /// What it cost since this was last set to 0, in bytes made.
    pub inflation: u64,
    slab: Slab<Session>,
    index: BTreeMap<[u8; 16], usize>,
    timers: BinaryHeap<Reverse<(u64, usize, u32, Timer)>>,
    /// Sessions that may have unread bytes though no event will say so.
    pub ready: Vec<usize>,
    /// Those whose turn others used up, each once: the next turn begins with them.
    held: Vec<usize>,
    /// Clients that closed and were not answered yet: their rooms may have something for them.
    pub parting: Vec<usize>,
    /// Sessions that have lasted long enough.
    pub aged: Vec<usize>,
    /// Sessions that ended since the rooms were last told.
    pub left: Vec<usize>,
    /// Lingering sessions whose end was reached; their slots may still be named in `left`.
    done: Vec<usize>,
    generation: u32,
    started: Instant,
    pub now_ms: u64,
    /// Waiting in all outboxes.
    outbox_bytes: usize,
    /// Held by unfinished messages.
    inbound_bytes: usize,
    occupied: Arc<AtomicUsize>,
    registry: Registry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Beat,
    Age,
    Slow,
    Linger,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    Written,
    /// It waits, unless the policy for slow clients dropped it.
    Queued,
    /// The outbox had no room, and could make none.
    Full,
    /// The session had ended, or ended of it.
    Gone,
}

impl Sessions {
    pub fn new(
        pod: PodId,
        shard: u8,
        config: Config,
        metrics: Arc<Metrics>,
        inbound: Arc<dyn Inbound>,
        occupied: Arc<AtomicUsize>,
        registry: Registry,
    ) -> Sessions {
        Sessions {
            pod,
            shard,
            config,
            press: Press::new(metrics.clone()),
            metrics,
            inbound,
            inflater: None,
            inflation: 0,
            slab: Slab::new(),
            index: BTreeMap::new(),
            timers: BinaryHeap::new(),
            ready: Vec::new(),
            held: Vec::new(),
            parting: Vec::new(),
            aged: Vec::new(),
            left: Vec::new(),
            done: Vec::new(),
            generation: 0,
            started: Instant::now(),
            now_ms: 0,
            outbox_bytes: 0,
            inbound_bytes: 0,
            occupied,
            registry,
        }
    }

    /// Sets the shard's clock.
    pub fn tick(&mut self) {
        self.now_ms = millis(self.started.elapsed());
        self.inflation = 0;
    }

    /// The slot of a session that has not ended.
    pub fn find(&self, random: &[u8; 16]) -> Option<usize> {
        self.index.get(random).copied().filter(|&slot| self.slab[slot].is_alive())
    }

    /// Whether there is one that has not ended.
    pub fn is_alive(&self, slot: usize) -> bool {
        self.slab.get(slot).is_some_and(Session::is_alive)
    }

    /// As it is, ended or not.
    pub fn at(&self, slot: usize) -> Option<&Session> {
        self.slab.get(slot)
    }

    pub fn at_mut(&mut self, slot: usize) -> Option<&mut Session> {
        self.slab.get_mut(slot)
    }

    /// The slots of all that live, in the order of their ids, from behind `after`.
    pub fn walk(&self, after: Option<[u8; 16]>) -> impl Iterator<Item = usize> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        let alive = |&slot: &usize| self.slab[slot].is_alive();
        self.index.range((from, Unbounded)).map(|(_, &slot)| slot).filter(alive)
    }

    pub fn id(&self, session: &Session) -> SessionId {
        SessionId { pod: self.pod, shard: self.shard, random: session.random }
    }

    pub fn info(&self, slot: usize) -> SessionInfo {
        let session = &self.slab[slot];
        let protocols = &session.configured.subprotocols;
        SessionInfo {
            id: self.id(session),
            path: session.path.clone(),
            opened_ms: session.opened_ms,
            remote: session.socket.as_ref().and_then(Socket::remote),
            subprotocol: session.subprotocol.map(|at| protocols[usize::from(at)].clone()),
        }
    }

    /// A session to be; its room is set by the caller.
    pub fn reserve(
        &mut self,
        random: [u8; 16],
        newcomer: Newcomer,
        metrics: Arc<PathMetrics>,
    ) -> usize {
        self.generation = self.generation.wrapping_add(1);
        let session = Session::reserved(random, self.generation, newcomer, metrics, self.now_ms);
        let slot = self.slab.insert(session);
        self.index.insert(random, slot);
        slot
    }

    /// The socket of a reserved session. One that ended meanwhile gets its farewell on it.
    pub fn open(
        &mut self,
        random: &[u8; 16],
        mut socket: Socket,
        greeting: &Greeting,
    ) -> Option<usize> {
        let slot = *self.index.get(random)?;
        let session = &mut self.slab[slot];
        if session.socket.is_some() || session.phase == Phase::Done {
            return None;
        }
        if let Err(error) = socket.register(&self.registry, Token(slot)) {
            tracing::warn!(%error, "cannot watch a socket");
            self.end(slot, None, Close::new(Close::NO_FRAME, ""), Cause::Server);
            return None;
        }
        let remote = socket.remote();
        session.socket = Some(socket);
        if session.phase == Phase::Lingering {
            self.flush(slot);
            return None;
        }
        session.phase = Phase::Open;
        session.opened_ms = unix_ms();
        session.pulse = Pulse::new(self.now_ms);
        let taken =
            |name: &String| session.configured.subprotocols.iter().position(|one| one == name);
        session.subprotocol =
            greeting.subprotocol.as_ref().and_then(taken).and_then(|at| u8::try_from(at).ok());
        session.metrics.opened.inc();
        session.metrics.sessions.inc();
        let inbound = self.inbound.clone();
        inbound.opened(self.who(slot), remote, greeting);
        self.arm_beat(slot);
        self.arm_age(slot);
        self.flush(slot);
        self.slab[slot].is_alive().then_some(slot)
    }

    /// A reserved session that will get no socket.
    pub fn abandon(&mut self, random: &[u8; 16]) {
        let Some(&slot) = self.index.get(random) else { return };
        if self.slab[slot].socket.is_none() {
            self.end(slot, None, Close::new(Close::NO_FRAME, ""), Cause::Network);
            self.finish(slot);
        }
    }

    /// Puts whole frames, from `offset` on, on the socket or into the outbox. Order is the caller's affair.
    pub fn send(&mut self, slot: usize, frames: &Bytes, offset: usize, class: Class) -> Sent {
        let session = &mut self.slab[slot];
        if !session.is_alive() {
            return Sent::Gone;
        }
        session.pulse.used(self.now_ms);
        self.put(slot, frames, offset, class)
    }

    /// A message for one session as a frame, deflated where that was agreed on, pays, and does not
    /// take long: a large one goes as it is, for only its receiver would gain by the wait.
    pub fn frame(&mut self, slot: usize, kind: Kind, payload: &[u8]) -> Bytes {
        let from_bytes = self.slab.get(slot).and_then(Session::deflates_from);
        let deflates = from_bytes.is_some_and(|from_bytes| payload.len() >= from_bytes);
        if deflates && payload.len() <= press::LOOP_BYTES_MAX {
            self.press.frame(kind, payload)
        } else {
            frame::encode(kind, payload)
        }
    }

    /// Answers a control frame: no sign that the session is in use.
    pub fn control(&mut self, slot: usize, frame: &Bytes) -> Sent {
        match self.slab[slot].is_alive() {
            true => self.put(slot, frame, 0, Class::Single),
            false => Sent::Gone,
        }
    }

    /// `send`, also to a session that has ended and is being told so.
    #[inline]
    fn put(&mut self, slot: usize, frames: &Bytes, offset: usize, class: Class) -> Sent {
        let session = &mut self.slab[slot];
        let mut written = offset..offset;
        if session.outbox.is_none()
            && let Some(socket) = &mut session.socket
        {
            match socket.write(&frames[offset..]) {
                Ok(n) if n == frames.len() - offset => return Sent::Written,
                Ok(n) => written.end += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => {
                    self.lost(slot);
                    return Sent::Gone;
                }
            }
        }
        self.queue(slot, frames.clone(), written, class)
    }

    /// Out of the way of those whose sockets take everything.
    #[cold]
    fn queue(&mut self, slot: usize, frames: Bytes, written: Range<usize>, class: Class) -> Sent {
        let share = self.config.outbox_total_bytes_max / self.config.shards;
        let shard_bytes_max = share.max(self.config.frame_bytes_max);
        let session = &mut self.slab[slot];
        let is_new = session.outbox.is_none();
        let outbox = session.outbox.get_or_insert_with(|| Box::new(Outbox::new(self.now_ms)));
        let others = self.outbox_bytes - outbox.bytes();
        let bounds = match session.phase {
            // A farewell is small and comes once.
            Phase::Lingering => Bounds::NONE,
            _ => Bounds {
                bytes_max: self.config.outbox_bytes_max,
                share_bytes_max: shard_bytes_max.saturating_sub(others),
            },
        };
        let taken = outbox.take(frames, written, class, session.configured.slow, bounds);
        self.outbox_bytes = others + outbox.bytes();
        if is_new && outbox.is_empty() {
            session.outbox = None;
        } else if !std::mem::replace(&mut session.slow_armed, true) {
            let due = self.now_ms + millis(self.config.slow_after);
            self.timers.push(Reverse((due, slot, session.generation, Timer::Slow)));
        }
        match taken {
            Ok(dropped) => {
                session.metrics.undelivered_dropped.inc_by(dropped);
                Sent::Queued
            }
            Err(Full) => Sent::Full,
        }
    }

    /// Writes what waits for a socket that may take more.
    pub fn flush(&mut self, slot: usize) {
        let Some(session) = self.slab.get_mut(slot) else { return };
        let Some(socket) = &mut session.socket else { return };
        let mut flushed = Ok(());
        if let Some(outbox) = &mut session.outbox {
            let before = outbox.bytes();
            flushed = outbox.flush(socket, self.now_ms);
            self.outbox_bytes -= before - outbox.bytes();
            let waiting = outbox.bytes();
            let is_behind = is_behind(outbox, session.configured.slow);
            if waiting == 0 {
                session.outbox = None;
            }
            if !is_behind && std::mem::take(&mut session.read_held) {
                session.pulse.read_again(self.now_ms);
                self.ready.push(slot);
            }
            if waiting > 0 && flushed.is_ok() {
                return;
            }
        }
        // TLS may hold what the outbox gave it.
        match flushed.and_then(|()| socket.flush()) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(_) => return self.lost(slot),
        }
        if session.phase == Phase::Lingering {
            self.farewell_sent(slot);
        }
    }

    fn farewell_sent(&mut self, slot: usize) {
        let session = &mut self.slab[slot];
        match session.after {
            After::ClientsClose => {}
            After::Fin => {
                if let Some(socket) = &mut session.socket {
                    socket.finish();
                }
            }
            After::Free => {
                if let Some(socket) = &mut session.socket {
                    socket.finish();
                }
                self.finish(slot);
            }
        }
    }

    /// Reads once into `buffer`; `None` when there is nothing to read now.
    pub fn read(&mut self, slot: usize, buffer: &mut [u8]) -> Option<usize> {
        let session = self.slab.get_mut(slot)?;
        if session.parted.is_some() {
            return None;
        }
        let slow = session.configured.slow;
        if session.outbox.as_ref().is_some_and(|outbox| is_behind(outbox, slow)) {
            session.read_held = true;
            return None;
        }
        if session.is_open() && session.configured.has_backend() {
            if session.holds == 0 {
                let (pod, shard, random) = (self.pod, self.shard, session.random);
                let id = SessionId { pod, shard, random };
                session.holds = self.inbound.holds(&id, &session.configured);
            }
            if session.holds > 0 {
                return None;
            }
        }
        let mut buffer = buffer;
        if session.deflates && self.inflation >= INFLATION_MAX {
            if !std::mem::replace(&mut session.is_held, true) {
                self.held.push(slot);
            }
            return None;
        }
        if let Some(unread) = session.unread.take() {
            // Behind it comes what the socket has.
            self.ready.push(slot);
            buffer[..unread.len()].copy_from_slice(&unread);
            return Some(unread.len());
        }
        if session.deflates {
            let most = buffer.len().min(DEFLATED_READ_BYTES);
            buffer = &mut buffer[..most];
        }
        let socket = session.socket.as_mut()?;
        match socket.read(buffer) {
            Ok(0) => self.lost(slot),
            Ok(n) => {
                session.pulse.heard(self.now_ms);
                if session.read_to_end || !socket.is_drained(n, buffer.len()) {
                    self.ready.push(slot);
                }
                return Some(n);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // TLS may have read much that says nothing.
                if !socket.is_drained(0, buffer.len()) {
                    self.ready.push(slot);
                }
            }
            Err(_) => self.lost(slot),
        }
        None
    }

    /// Those that are to be read in this turn whatever the events say, in their order.
    pub fn take_ready(&mut self) -> Vec<usize> {
        let mut ready = std::mem::take(&mut self.held);
        for &slot in &ready {
            if let Some(session) = self.slab.get_mut(slot) {
                session.is_held = false;
            }
        }
        ready.append(&mut self.ready);
        ready
    }

    /// Whether a turn has something to read whatever the events say.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty() || !self.held.is_empty()
    }

    /// The peer has sent its last byte.
    pub fn read_to_end(&mut self, slot: usize) {
        if let Some(session) = self.slab.get_mut(slot) {
            session.read_to_end = true;
        }
    }

    /// The session is not read until so many have said `read_on`; then it goes on with this.
    pub fn hold_unread(&mut self, slot: usize, holds: u8, unread: &[u8]) {
        if let Some(session) = self.slab.get_mut(slot) {
            session.holds += holds;
            session.unread = (!unread.is_empty()).then(|| unread.into());
        }
    }

    /// One of those who could take no more of it can.
    pub fn read_on(&mut self, random: &[u8; 16]) {
        let Some(slot) = self.find(random) else { return };
        let session = &mut self.slab[slot];
        session.holds = session.holds.saturating_sub(1);
        if session.holds == 0 {
            session.pulse.read_again(self.now_ms);
            self.ready.push(slot);
        }
    }

    /// A data message came or went: the session is not idle.
    pub fn used(&mut self, slot: usize) {
        self.slab[slot].pulse.used(self.now_ms);
    }

    /// Accounts for what an unfinished message holds, in bytes; whether all of them together still
    /// fit. One alone does, however small this shard's share is: it has a limit of its own.
    pub fn hold(&mut self, bytes: usize) -> bool {
        let share_bytes = self.config.inbound_total_bytes_max / self.config.shards;
        self.inbound_bytes += bytes;
        bytes == 0 || self.inbound_bytes == bytes || self.inbound_bytes <= share_bytes
    }

    /// Takes back what `hold` was told.
    pub fn release(&mut self, bytes: usize) {
        self.inbound_bytes -= bytes;
    }

    /// Who an event is about; takes the next sequence number.
    pub fn who(&mut self, slot: usize) -> Who<'_> {
        let session = &mut self.slab[slot];
        let seq = u64::from(session.seq);
        session.seq = session.seq.wrapping_add(1);
        Who {
            id: SessionId { pod: self.pod, shard: self.shard, random: session.random },
            path: &session.path,
            configured: &session.configured,
            trace: session.trace.as_deref(),
            seq,
        }
    }

    /// The connection broke: nothing can be said to the client any more.
    fn lost(&mut self, slot: usize) {
        let (told, cause) = match self.slab[slot].parted.take() {
            Some(close) => (*close, Cause::Client),
            None => (Close::new(Close::NO_FRAME, ""), Cause::Network),
        };
        self.end(slot, None, told, cause);
        self.finish(slot);
    }

    /// The server closes: tells the client, and waits for its close frame.
    pub fn close(&mut self, slot: usize, close: Close, cause: Cause) {
        // After a breach or a bug its bytes cannot be told apart any more, its close frame neither.
        let after = match (cause, close.code) {
            (Cause::Protocol | Cause::TooBig, _) | (_, 1011) => After::Fin,
            _ => After::ClientsClose,
        };
        self.end(slot, Some((&close, after)), close.clone(), cause);
    }

    /// The client closed. Nothing of it is read any more; `closed_by_client` follows when its room
    /// has nothing left for it.
    pub fn part(&mut self, slot: usize, close: Close) {
        if let Some(session) = self.slab.get_mut(slot) {
            session.parted = Some(Box::new(close));
            self.parting.push(slot);
        }
    }

    /// Answers the client's close frame, unless that was the answer.
    pub fn closed_by_client(&mut self, slot: usize) {
        let session = &mut self.slab[slot];
        let Some(close) = session.parted.take() else { return };
        if session.is_alive() {
            self.end(slot, Some((&close, After::Free)), (*close).clone(), Cause::Client);
        } else if session.after == After::ClientsClose {
            self.slab[slot].after = After::Free;
            self.flush(slot);
        }
    }

    fn end(&mut self, slot: usize, farewell: Option<(&Close, After)>, told: Close, cause: Cause) {
        let session = &mut self.slab[slot];
        if !session.is_alive() {
            return;
        }
        let was_open = session.phase == Phase::Open;
        session.phase = Phase::Lingering;
        if session.holds > 0 {
            // Its close frame may lie there unread.
            self.ready.push(slot);
        }
        let held = session.protocol.held_bytes();
        session.protocol.begin_close();
        self.inbound_bytes -= held - session.protocol.held_bytes();
        self.left.push(slot);
        let linger = match cause {
            // A client that reads again within that time learns why it was closed.
            Cause::Slow => self.config.slow_after,
            _ => self.config.close_timeout,
        };
        let due = self.now_ms + millis(linger);
        self.timers.push(Reverse((due, slot, session.generation, Timer::Linger)));
        if was_open {
            session.metrics.ended(told.code, cause);
        }
        let inbound = self.inbound.clone();
        inbound.closed(self.who(slot), was_open.then_some((&told, cause)));
        if let Some((close, after)) = farewell {
            if cause == Cause::Slow
                && let Some(outbox) = &mut self.slab[slot].outbox
            {
                self.outbox_bytes -= outbox.cut();
                if outbox.is_empty() {
                    self.slab[slot].outbox = None;
                }
            }
            self.slab[slot].after = after;
            match self.put(slot, &frame::encode_close(close), 0, Class::Single) {
                Sent::Written | Sent::Queued | Sent::Full => self.flush(slot),
                Sent::Gone => {}
            }
        }
    }

    /// Nothing is left to wait for.
    fn finish(&mut self, slot: usize) {
        let session = &mut self.slab[slot];
        if session.phase != Phase::Done {
            session.phase = Phase::Done;
            self.done.push(slot);
        }
    }

    /// Frees what is done. To be called when nobody holds a slot: rooms told, events served.
    pub fn free_done(&mut self) {
        debug_assert!(self.left.is_empty(), "rooms are told before slots are used again");
        while let Some(slot) = self.done.pop() {
            let session = self.slab.remove(slot);
            self.index.remove(&session.random);
            self.outbox_bytes -= session.outbox.as_ref().map_or(0, |outbox| outbox.bytes());
            self.inbound_bytes -= session.protocol.held_bytes();
            self.occupied.fetch_sub(1, Ordering::Relaxed);
            // Dropping the socket closes it, and a closed socket leaves the poll by itself.
            self.give_back();
        }
    }

    /// After a storm, what its sessions took is given back: timers of sessions that are no more
    /// when they are the most, and empty slots now and then, for looking for them takes its time.
    fn give_back(&mut self) {
        let live = self.slab.len();
        if self.timers.len() > TIMERS_EACH_MAX * live + SPARE {
            let slab = &self.slab;
            self.timers.retain(|&Reverse((_, slot, generation, _))| {
                slab.get(slot).is_some_and(|session| session.generation == generation)
            });
            self.timers.shrink_to(TIMERS_EACH_MAX * live);
        }
        if (live == 0 || live.is_power_of_two()) && self.slab.capacity() > 4 * live + SPARE {
            self.slab.shrink_to_fit();
            self.done.shrink_to(SPARE);
            self.left.shrink_to(SPARE);
        }
    }

    /// When the clock will next say something.
    pub fn due_ms(&self) -> Option<u64> {
        self.timers.peek().map(|&Reverse((due, ..))| due)
    }

    /// Pings, closes and drops what the clock says: so many at a time, for sessions that came
    /// together are often due together.
    pub fn run_timers(&mut self) {
        for _ in 0..TIMERS_MAX {
            let Some(&Reverse((due, slot, generation, timer))) = self.timers.peek() else { return };
            if due > self.now_ms {
                return;
            }
            self.timers.pop();
            let current = self.slab.get(slot).is_some_and(|one| one.generation == generation);
            if current {
                match timer {
                    Timer::Beat => self.beat(slot),
                    Timer::Age => self.aged.push(slot),
                    Timer::Slow => self.check_slow(slot),
                    Timer::Linger => self.check_linger(slot),
                }
            }
        }
    }

    /// A client that still takes what waits for it is given the time.
    fn check_linger(&mut self, slot: usize) {
        let session = &self.slab[slot];
        let moved_ms = session.outbox.as_ref().map_or(0, |outbox| outbox.moved_ms);
        let due = moved_ms + millis(self.config.close_timeout);
        if session.outbox.is_some() && due > self.now_ms {
            self.timers.push(Reverse((due, slot, session.generation, Timer::Linger)));
        } else {
            self.finish(slot);
        }
    }

    fn check_slow(&mut self, slot: usize) {
        let session = &mut self.slab[slot];
        let Some(outbox) = &session.outbox else {
            session.slow_armed = false;
            return;
        };
        let due = outbox.moved_ms + millis(self.config.slow_after);
        if due <= self.now_ms {
            self.close(slot, Close::new(1013, "too slow"), Cause::Slow);
        } else {
            self.timers.push(Reverse((due, slot, session.generation, Timer::Slow)));
        }
    }

    fn beat(&mut self, slot: usize) {
        let session = &mut self.slab[slot];
        if session.phase != Phase::Open {
            return;
        }
        let rule = session.rule();
        match session.pulse.check(self.now_ms, rule) {
            Sign::Quiet => {}
            Sign::Ping => {
                self.control(slot, &frame::encode_ping(&[]));
            }
            Sign::Dead => self.close(slot, Close::new(1008, "no sign of life"), Cause::Heartbeat),
            Sign::Idle => self.close(slot, Close::new(1001, "idle"), Cause::Idle),
        }
        self.arm_beat(slot);
    }

    /// Sets the timer for the next moment at which silence would mean something.
    fn arm_beat(&mut self, slot: usize) {
        let session = &self.slab[slot];
        if session.phase == Phase::Open
            && let Some(due) = session.pulse.due_ms(self.now_ms, session.rule())
        {
            self.timers.push(Reverse((due, slot, session.generation, Timer::Beat)));
        }
    }

    /// Sessions that came together do not leave together.
    fn arm_age(&mut self, slot: usize) {
        let Some(age_max) = self.config.session_age_max else { return };
        let session = &self.slab[slot];
        let due = self.now_ms + lifetime_ms(age_max, session.lot());
        self.timers.push(Reverse((due, slot, session.generation, Timer::Age)));
    }

    /// What waits in all outboxes, in bytes.
    pub fn outbox_bytes(&self) -> usize {
        self.outbox_bytes
    }
}

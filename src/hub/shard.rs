//! A shard: one thread that owns its sessions, and the loop it turns.
//!
//! A turn waits for events (not at all while something is left to do), takes the whole mailbox,
//! serves sockets and timers, and then goes on with the rooms' rounds for a slice. So a fan-out to many
//! thousand sockets leaves nobody else waiting longer than a slice.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use crate::hub::command::{Command, Farewell, Reply, Sweep, Whom};
use crate::hub::mailbox::Post;
use crate::hub::part::Part;
use crate::hub::reading;
use crate::hub::rooms::Rooms;
use crate::hub::sessions::Sessions;
use crate::proto::ask::{Answer, Reach};
use crate::proto::close::Cause;
use crate::proto::grant::Grant;
use crate::proto::msg::Content;
use crate::proto::session_id::SessionId;

/// The token of the mailbox's waker; slots of sessions never get that high.
pub const WAKER: Token = Token(usize::MAX);

/// The longest sleep: the watchdog hears from a shard at least this often.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// How long one turn takes commands, so that a flood of them does not starve the sockets.
const COMMANDS: Duration = Duration::from_millis(1);

/// How often it looks at the clock meanwhile, in commands: one may be a message to deflate.
const CLOCK_COMMANDS: usize = 8;

/// Events taken from the kernel in one turn: each may be a read of a full buffer.
const EVENTS_MAX: usize = 256;

/// Read in one call: what a busy client sends between two turns, and no more than the events and
/// answers of one turn should come of.
const READ_BUFFER_BYTES: usize = 16 * 1024;

/// Sessions that one turn of a sweep ends, and that one listing looks at per turn.
const SWEEP_SESSIONS: usize = 256;

/// Sessions that one listing looks at before it says how far it came.
const LIST_SESSIONS: usize = 4096;

pub struct Shard {
    poll: Poll,
    post: Post,
    sessions: Sessions,
    rooms: Rooms,
    sweeps: VecDeque<(Sweep, VecDeque<usize>)>,
    /// The last one that `Whom::Next` has met.
    swept: Option<[u8; 16]>,
    /// Set at every turn, in milliseconds of the shard's clock: for the watchdog.
    turned_ms: Arc<AtomicU64>,
    frame_bytes_max: usize,
}

impl Shard {
    pub fn new(
        poll: Poll,
        post: Post,
        sessions: Sessions,
        rooms: Rooms,
        turned_ms: Arc<AtomicU64>,
    ) -> Shard {
        let frame_bytes_max = sessions.config.frame_bytes_max;
        let (sweeps, swept) = (VecDeque::new(), None);
        Shard { poll, post, sessions, rooms, sweeps, swept, turned_ms, frame_bytes_max }
    }

    /// Turns until it is told to stop.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut buffer = vec![0; READ_BUFFER_BYTES].into_boxed_slice();
        let mut outbox_bytes = 0;
        loop {
            let first = self.wait(&mut events)?;
            self.pause(first.as_ref(), &events);
            self.sessions.tick();
            self.turned_ms.store(self.sessions.now_ms, Ordering::Relaxed);

            let begun = Instant::now();
            let mut next = first.or_else(|| self.post.take());
            for taken in 1.. {
                match next {
                    Some(Command::Stop) => return Ok(()),
                    Some(command) => self.obey(command, &mut buffer),
                    None => break,
                }
                if taken % CLOCK_COMMANDS == 0 && begun.elapsed() >= COMMANDS {
                    break;
                }
                next = self.post.take();
            }

            for event in &events {
                if event.token() == WAKER {
                    continue;
                }
                let slot = event.token().0;
                if event.is_writable() {
                    self.sessions.flush(slot);
                }
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    if event.is_read_closed() || event.is_error() {
                        self.sessions.read_to_end(slot);
                    }
                    reading::turn(&mut self.sessions, slot, &mut buffer);
                }
            }
            // What was held back gets as much as what has just come.
            self.sessions.inflation = 0;
            for slot in self.sessions.take_ready() {
                reading::turn(&mut self.sessions, slot, &mut buffer);
            }
            for slot in std::mem::take(&mut self.sessions.parting) {
                self.rooms.unicast(&mut self.sessions, slot, Part::Echo, None);
            }
            self.sessions.run_timers();
            for slot in std::mem::take(&mut self.sessions.aged) {
                let Some(session) = self.sessions.at(slot) else { continue };
                let close = Farewell::moved().close(session.lot());
                let farewell = Part::Farewell(close, Cause::Drain);
                self.rooms.unicast(&mut self.sessions, slot, farewell, None);
            }
            self.sweep();
            self.rooms.dismiss_ended(&mut self.sessions);
            self.rooms.slice(&mut self.sessions);
            self.rooms.dismiss_ended(&mut self.sessions);
            self.sessions.free_done();
            self.post.settle(self.rooms.held_bytes());
            if self.rooms.is_busy() {
                // On a processor of its own this costs nothing; on a shared one it lets requests
                // and handshakes in between two slices, not between two of the system's.
                std::thread::yield_now();
            }

            let now = self.sessions.outbox_bytes();
            if now != outbox_bytes {
                self.sessions.metrics.outbox_bytes.add(now as i64 - outbox_bytes as i64);
                outbox_bytes = now;
            }
        }
    }

    /// Sleeps until there is something to do; a command that came at the last moment.
    fn wait(&mut self, events: &mut Events) -> io::Result<Option<Command>> {
        let is_busy = self.rooms.is_busy() || self.sessions.has_ready() || !self.sweeps.is_empty();
        let command = if is_busy { None } else { self.post.before_sleep() };
        let timeout = if is_busy || command.is_some() {
            Duration::ZERO
        } else {
            self.sessions.tick();
            let due_ms = self.sessions.due_ms().unwrap_or(u64::MAX);
            let due = Duration::from_millis(due_ms.saturating_sub(self.sessions.now_ms));
            let rested = self.rooms.rested_at();
            let rested = rested.map(|at| at.saturating_duration_since(Instant::now()));
            due.min(rested.unwrap_or(SLEEP_MAX)).min(SLEEP_MAX)
        };
        let polled = self.poll.poll(events, Some(timeout));
        self.post.after_sleep();
        match polled {
            Err(error) if error.kind() == ErrorKind::Interrupted => events.clear(),
            polled => polled?,
        }
        Ok(command)
    }

    /// Lets more commands come before the mailbox is taken: where the last round joined frames, the
    /// next of them are on their way, and each that comes in time saves a write to every session.
    fn pause(&self, first: Option<&Command>, events: &Events) {
        if let Some(pause) = self.sessions.config.join_pause
            && self.rooms.joins()
            && !self.rooms.is_busy()
            && (first.is_some() || events.iter().any(|event| event.token() == WAKER))
        {
            std::thread::sleep(pause);
        }
    }

    fn obey(&mut self, command: Command, buffer: &mut [u8]) {
        match command {
            Command::Broadcast { path, frames, at } => self.rooms.broadcast(&path, frames, at),
            Command::Unicast { to, reach, content, reply } => {
                self.unicast(&to, &reach, &content, reply);
            }
            Command::Reserve { id, newcomer, metrics } => {
                let slot = self.sessions.reserve(id.random, newcomer, metrics);
                self.rooms.admit(&mut self.sessions, slot);
            }
            Command::Open { id, socket, greeting } => {
                if let Some(slot) = self.sessions.open(&id.random, socket, &greeting) {
                    let early = greeting.read.len().min(buffer.len());
                    buffer[..early].copy_from_slice(&greeting.read[..early]);
                    reading::take(&mut self.sessions, slot, &mut buffer[..early]);
                    self.sessions.ready.push(slot);
                }
            }
            Command::Abandon { id } => self.sessions.abandon(&id.random),
            Command::LookUp { id, grant, reply } => {
                let known = self.granted(&id, &grant);
                let answer =
                    known.map_or(Answer::Gone, |slot| Answer::Info(self.sessions.info(slot)));
                let _ = reply.send(answer);
            }
            Command::Close { id, grant, close, reply } => {
                let farewell = Part::Farewell(close, Cause::Kick);
                match self.granted(&id, &grant) {
                    Some(slot) => {
                        self.rooms.unicast(&mut self.sessions, slot, farewell, Some(reply));
                    }
                    None => {
                        let _ = reply.send(Answer::Gone);
                    }
                }
            }
            Command::End { id, close, cause } => {
                if let Some(slot) = self.sessions.find(&id.random) {
                    let farewell = Part::Farewell(close, cause);
                    self.rooms.unicast(&mut self.sessions, slot, farewell, None);
                }
            }
            Command::List { filter, after, limit, grant, reply } => {
                let _ = reply.send(self.list(filter.as_deref(), after, limit, &grant));
            }
            Command::ReadOn { id } => self.sessions.read_on(&id.random),
            Command::Pressed => self.rooms.resume(),
            Command::Sweep(sweep) => self.begin_sweep(sweep),
            Command::Stop => {}
        }
    }

    fn unicast(&mut self, to: &SessionId, reach: &Reach, content: &Content, reply: Reply) {
        let refusal = match self.reachable(to, reach) {
            None => Answer::Gone,
            Some((slot, wholemsg)) => match content.frame(wholemsg) {
                None => Answer::Nothing,
                Some((_, payload)) if payload.len() > self.frame_bytes_max => {
                    Answer::TooBig(self.frame_bytes_max)
                }
                Some((kind, payload)) => {
                    let part = Part::Frame(self.sessions.frame(slot, kind, &payload));
                    return self.rooms.unicast(&mut self.sessions, slot, part, Some(reply));
                }
            },
        };
        // The asker may have given up; there is nobody else to tell.
        let _ = reply.send(refusal);
    }

    fn reachable(&self, id: &SessionId, reach: &Reach) -> Option<(usize, bool)> {
        let slot = self.sessions.find(&id.random)?;
        let session = self.sessions.at(slot)?;
        reach.allows(&session.path).then_some((slot, session.configured.wholemsg))
    }

    fn granted(&self, id: &SessionId, grant: &Grant) -> Option<usize> {
        let slot = self.sessions.find(&id.random)?;
        grant.allows(self.sessions.at(slot)?.path.as_str()).then_some(slot)
    }

    fn list(
        &self,
        filter: Option<&str>,
        after: Option<[u8; 16]>,
        limit: usize,
        grant: &Grant,
    ) -> Answer {
        let mut found = Vec::new();
        let mut last = None;
        for (looked_at, slot) in self.sessions.walk(after).enumerate() {
            if looked_at == LIST_SESSIONS || found.len() == limit {
                return Answer::Sessions { sessions: found, after: last };
            }
            let Some(session) = self.sessions.at(slot) else { continue };
            last = Some(self.sessions.id(session));
            let meant = filter.is_none_or(|filter| {
                session.path.as_str() == filter || **session.configured.pattern.text() == *filter
            });
            if meant && session.is_open() && grant.allows(session.path.as_str()) {
                found.push(self.sessions.info(slot));
            }
        }
        Answer::Sessions { sessions: found, after: None }
    }

    fn begin_sweep(&mut self, sweep: Sweep) {
        let meant = |slot: &usize| {
            let session = self.sessions.at(*slot);
            session.is_some_and(|session| sweep.whom.means(&session.path, &session.configured))
        };
        let slots = match &sweep.whom {
            // A lively path may be swept again and again: the others need not be looked at.
            Whom::GapOn(path) => self.rooms.members(path).filter(meant).collect(),
            Whom::Next(count) => {
                let slots: VecDeque<_> = self.sessions.walk(self.swept).take(*count).collect();
                let last = slots.back().and_then(|&slot| self.sessions.at(slot));
                self.swept = last.map(|session| session.random).or(self.swept);
                slots
            }
            _ => self.sessions.walk(None).filter(meant).collect(),
        };
        self.sweeps.push_back((sweep, slots));
    }

    /// Ends the next few sessions of a sweep. A slot may have a new owner by now; if that one is
    /// not meant it was told nothing about this path, so it is asked again.
    fn sweep(&mut self) {
        let Some((sweep, slots)) = self.sweeps.front_mut() else { return };
        for _ in 0..SWEEP_SESSIONS {
            let Some(slot) = slots.pop_front() else {
                self.sweeps.pop_front();
                return;
            };
            let Some(session) = self.sessions.at(slot) else { continue };
            if sweep.whom.means(&session.path, &session.configured) {
                let farewell = Part::Farewell(sweep.farewell.close(session.lot()), sweep.cause);
                self.rooms.unicast(&mut self.sessions, slot, farewell, None);
            }
        }
    }
}

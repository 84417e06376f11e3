//! This pod's sessions: shards, the rooms and outboxes in them, and the fan-out.
//!
//! The hub knows sockets and the [`Inbound`] it is given; it knows no broker and no backend. Each
//! session belongs to one shard, a thread that owns it without a lock; everything asked of the
//! session goes through that shard's mailbox, and its id names the shard.

pub mod backroom;
pub mod command;
pub mod inbound;
pub mod mailbox;
pub mod outbox;
pub mod part;
pub mod presence;
pub mod press;
pub mod reading;
pub mod records;
pub mod room;
pub mod rooms;
pub mod round;
pub mod session;
pub mod sessions;
pub mod shard;
pub mod socket;

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mio::{Poll, Waker};

use crate::hub::command::{Command, Frames, Greeting, Newcomer, Sweep};
use crate::hub::inbound::Inbound;
use crate::hub::mailbox::{Full, Mailbox};
use crate::hub::press::Press;
use crate::hub::rooms::Rooms;
use crate::hub::sessions::Sessions;
use crate::hub::shard::Shard;
use crate::hub::socket::Socket;
use crate::metrics::Metrics;
use crate::proto::close::{Cause, Close};
use crate::proto::path::Path;
use crate::proto::session_id::{PodId, SessionId};
use crate::trace::lines;

/// A shard that has not turned for this long is stuck: it turns once a second with nothing to do.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// The part of a mailbox's bound that may rest in rooms for their `flush_interval`. Above it nothing
/// rests, so that what comes is not refused for the sake of joins.
const REST_PART: usize = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Threads that own sessions, 1–256.
    pub shards: usize,
    /// Sessions at once on this pod, handshakes that were given one included.
    pub sessions_max: usize,
    /// How long a session may last, give or take 15 %.
    pub session_age_max: Option<Duration>,
    /// The largest message a client may send, fragments together.
    pub message_bytes_max: usize,
    /// The largest payload that goes out as one frame.
    pub frame_bytes_max: usize,
    /// What may wait for one socket, not counting the message that found it empty.
    pub outbox_bytes_max: usize,
    /// What may wait for all sockets of this pod.
    pub outbox_total_bytes_max: usize,
    /// What clients' unfinished messages may hold, all together.
    pub inbound_total_bytes_max: usize,
    /// What may wait in front of one shard.
    pub mailbox_bytes_max: usize,
    /// How long a socket may take nothing of a waiting outbox.
    pub slow_after: Duration,
    /// How long a closed session may take for its part of the close handshake.
    pub close_timeout: Duration,
    /// How long a shard waits for more before it takes its mailbox, while rounds join frames.
    pub join_pause: Option<Duration>,
}

pub struct Hub {
    pod: PodId,
    sessions_max: usize,
    started: Instant,
    shards: Vec<Handle>,
    /// Held while a session is placed, so that two never see the same room.
    placing: Mutex<()>,
}

struct Handle {
    mailbox: Mailbox,
    /// Sessions it has or is about to have, lingering ones included.
    occupied: Arc<AtomicUsize>,
    turned_ms: Arc<AtomicU64>,
}

/// This pod holds as many sessions as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this pod is full")]
pub struct AtCapacity;

impl Hub {
    /// Starts the shards. A shard that panics ends the process: its sessions are lost, and a pod
    /// that seems well without them would be worse than one that starts again.
    pub fn start(
        pod: PodId,
        config: Config,
        metrics: &Arc<Metrics>,
        inbound: &Arc<dyn Inbound>,
    ) -> io::Result<Hub> {
        let mut shards = Vec::new();
        let (counter, backroom) = backroom::backroom();
        for at in 0..config.shards {
            let number = u8::try_from(at).map_err(io::Error::other)?;
            let poll = Poll::new()?;
            let waker = Waker::new(poll.registry(), shard::WAKER)?;
            let (mailbox, post) = mailbox::mailbox(config.mailbox_bytes_max, waker);
            let occupied = Arc::new(AtomicUsize::new(0));
            let turned_ms = Arc::new(AtomicU64::new(0));
            let sessions = Sessions::new(
                pod,
                number,
                config.clone(),
                metrics.clone(),
                inbound.clone(),
                occupied.clone(),
                poll.registry().try_clone()?,
            );
            let rest_bytes_max = config.mailbox_bytes_max / REST_PART;
            let rooms = Rooms::new(rest_bytes_max, metrics.clone(), counter.clone());
            let shard = Shard::new(poll, post, sessions, rooms, turned_ms.clone());
            indispensable(format!("shard-{at}"), move || shard.run())?;
            shards.push(Handle { mailbox, occupied, turned_ms });
        }
        let mailboxes: Vec<_> = shards.iter().map(|shard| shard.mailbox.clone()).collect();
        let press = Press::new(metrics.clone());
        indispensable("backroom".to_owned(), move || {
            backroom.run(press, &mailboxes);
            Ok(())
        })?;
        let started = Instant::now();
        Ok(Hub {
            pod,
            sessions_max: config.sessions_max,
            started,
            shards,
            placing: Mutex::default(),
        })
    }

    /// Where the next session goes, and its id: the shard with the fewest. It is counted from now
    /// on; the caller follows with `reserve` or `give_back`.
    pub fn place(&self) -> Result<SessionId, AtCapacity> {
        let mut random = [0; 16];
        // Fails only on systems without randomness, where nothing else would work either.
        getrandom::fill(&mut random).map_err(|_| AtCapacity)?;
        // A panic in there leaves nothing half done.
        let _one_at_a_time = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |shard: &Handle| shard.occupied.load(Ordering::Relaxed);
        let (mut total, mut fewest, mut at) = (0, usize::MAX, 0);
        for (number, shard) in self.shards.iter().enumerate() {
            let sessions = count(shard);
            total += sessions;
            if sessions < fewest {
                (fewest, at) = (sessions, number);
            }
        }
        if total >= self.sessions_max {
            return Err(AtCapacity);
        }
        let shard = u8::try_from(at).map_err(|_| AtCapacity)?;
        self.shards[at].occupied.fetch_add(1, Ordering::Relaxed);
        Ok(SessionId { pod: self.pod, shard, random })
    }

    /// A session that was placed comes to nothing before it was reserved.
    pub fn give_back(&self, id: SessionId) {
        if let Some(shard) = self.shard(&id) {
            shard.occupied.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The session takes its place among the broadcasts: every one pushed from now on is for it.
    /// The caller follows with `open` or `abandon`.
    pub fn reserve(&self, id: SessionId, newcomer: Newcomer, metrics: &Metrics) {
        let metrics = metrics.path(newcomer.configured.pattern.text());
        if let Some(shard) = self.shard(&id) {
            // Without bytes, so it always fits.
            let _ = shard.mailbox.push(Command::Reserve { id, newcomer, metrics });
        }
    }

    /// The socket of a reserved session, its 101 sent.
    pub fn open(&self, id: SessionId, socket: Socket, greeting: Greeting) {
        let greeting = Box::new(greeting);
        let _ = self.tell(&id, Command::Open { id, socket, greeting });
    }

    /// One of those who hear the session, and could take no more of it, can now.
    pub fn read_on(&self, id: SessionId) {
        // Without bytes, so it always fits.
        let _ = self.tell(&id, Command::ReadOn { id });
    }

    /// Ends a session, if it has not ended.
    pub fn end(&self, id: SessionId, close: Close, cause: Cause) {
        // Without bytes, so it always fits.
        let _ = self.tell(&id, Command::End { id, close, cause });
    }

    /// A reserved session that gets no socket.
    pub fn abandon(&self, id: SessionId) {
        let _ = self.tell(&id, Command::Abandon { id });
    }

    /// Hands frames to the shards named; those of them that had no room for it.
    pub fn broadcast(&self, path: &Path, frames: &Frames, shards: &[usize]) -> Vec<usize> {
        let at = Instant::now();
        let refused = |&number: &usize| {
            let frames = frames.clone();
            let command = Command::Broadcast { path: path.clone(), frames, at };
            self.shards[number].mailbox.push(command).is_err()
        };
        shards.iter().copied().filter(refused).collect()
    }

    /// Puts a command about one session before its shard. An id of a shard that does not exist is
    /// dropped, its reply with it.
    pub fn tell(&self, id: &SessionId, command: Command) -> Result<(), Full> {
        match self.shard(id) {
            Some(shard) => shard.mailbox.push(command),
            None => Ok(()),
        }
    }

    /// As `tell`, by the shard's number.
    pub fn tell_shard(&self, number: usize, command: Command) -> Result<(), Full> {
        match self.shards.get(number) {
            Some(shard) => shard.mailbox.push(command),
            None => Ok(()),
        }
    }

    /// Ends sessions on all shards, a slice at a time.
    pub fn sweep(&self, sweep: &Sweep) {
        for shard in &self.shards {
            let _ = shard.mailbox.push(Command::Sweep(sweep.clone()));
        }
    }

    /// Ends sessions on one shard. `number` < [`Hub::shards`].
    pub fn sweep_shard(&self, number: usize, sweep: Sweep) {
        let _ = self.tell_shard(number, Command::Sweep(sweep));
    }

    /// Whether publishers should hold back.
    pub fn is_crowded(&self) -> bool {
        self.shards.iter().any(|shard| shard.mailbox.is_crowded())
    }

    /// Whose sessions these are.
    pub fn pod(&self) -> PodId {
        self.pod
    }

    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Sessions on this pod, those included that still linger for their close handshake.
    pub fn occupied(&self) -> usize {
        self.populations().sum()
    }

    /// The same for each shard.
    pub fn populations(&self) -> impl Iterator<Item = usize> {
        self.shards.iter().map(|shard| shard.occupied.load(Ordering::Relaxed))
    }

    /// Sessions of the fullest shard less those of the emptiest.
    pub fn imbalance(&self) -> usize {
        let counts = self.shards.iter().map(|shard| shard.occupied.load(Ordering::Relaxed));
        let (mut fewest, mut most) = (usize::MAX, 0);
        for count in counts {
            fewest = fewest.min(count);
            most = most.max(count);
        }
        most.saturating_sub(fewest)
    }

    /// The shards that do not turn.
    pub fn stuck(&self) -> Vec<usize> {
        let now = self.started.elapsed();
        let turned =
            |shard: &Handle| Duration::from_millis(shard.turned_ms.load(Ordering::Relaxed));
        let is_stuck = |shard: &Handle| now > turned(shard) + STUCK_AFTER;
        let numbered = self.shards.iter().enumerate();
        numbered.filter(|(_, shard)| is_stuck(shard)).map(|(number, _)| number).collect()
    }

    /// Ends the shards and whatever sockets they still have.
    pub fn stop(&self) {
        for shard in &self.shards {
            let _ = shard.mailbox.push(Command::Stop);
        }
    }

    fn shard(&self, id: &SessionId) -> Option<&Handle> {
        self.shards.get(usize::from(id.shard))
    }
}

/// Starts a thread whose failure ends the process.
fn indispensable(
    name: String,
    run: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    std::thread::Builder::new().name(name.clone()).spawn(move || {
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::error!(name, %error, "a thread cannot go on"),
            Err(_) => tracing::error!(name, "a bug ended a thread"),
        }
        lines::flush();
        std::process::exit(70);
    })?;
    Ok(())
}

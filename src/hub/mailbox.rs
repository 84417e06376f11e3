//! What waits in front of one shard: a FIFO, bounded in bytes, that wakes its reader.
//!
//! The bound covers what waits in the shard's rooms too: bytes count from the push until the shard
//! has begun to send them.
//!
//! Writers are the sequencer, the gateway and the API; the reader is the shard. No side ever waits
//! for the other: a full mailbox refuses broadcasts, and a push to a shard that is awake costs no
//! system call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use crate::hub::command::Command;

/// The writers' end.
#[derive(Clone)]
pub struct Mailbox {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

/// The shard's end.
pub struct Post {
    commands: mpsc::Receiver<Command>,
    /// Taken since the account was last settled.
    taken_bytes: usize,
    /// What the shard held then.
    held_bytes: usize,
    shared: Arc<Shared>,
}

struct Shared {
    bytes: AtomicUsize,
    bytes_max: usize,
    asleep: AtomicBool,
    waker: mio::Waker,
}

/// The shard has more waiting than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// A mailbox whose reader polls `waker`'s registry.
pub fn mailbox(bytes_max: usize, waker: mio::Waker) -> (Mailbox, Post) {
    let (sender, receiver) = mpsc::channel();
    let shared =
        Shared { bytes: AtomicUsize::new(0), bytes_max, asleep: AtomicBool::new(false), waker };
    let shared = Arc::new(shared);
    (
        Mailbox { commands: sender, shared: shared.clone() },
        Post { commands: receiver, taken_bytes: 0, held_bytes: 0, shared },
    )
}

impl Mailbox {
    /// Refuses when the bytes do not fit. Commands without bytes always fit: there are never more
    /// of them than sessions and callers that wait.
    pub fn push(&self, command: Command) -> Result<(), Full> {
        let bytes = command.bytes();
        if bytes > 0 {
            let before = self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
            if before > 0 && before + bytes > self.shared.bytes_max {
                self.shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
                return Err(Full);
            }
        }
        if self.commands.send(command).is_err() {
            // The shard has ended: the process is leaving, and nobody is left to be told.
            return Ok(());
        }
        // Sequentially consistent on both sides: either the reader sees the command before it
        // sleeps, or this sees that it sleeps.
        if self.shared.asleep.swap(false, Ordering::SeqCst)
            && let Err(error) = self.shared.waker.wake()
        {
            tracing::error!(%error, "cannot wake a shard");
        }
        Ok(())
    }

    /// Whether a publisher should hold back: the mailbox is more than half full.
    pub fn is_crowded(&self) -> bool {
        self.shared.bytes.load(Ordering::Relaxed) > self.shared.bytes_max / 2
    }
}

impl Post {
    /// The next command, if one waits. Its bytes count until they are settled: what the shard has
    /// taken but not sent still waits.
    pub fn take(&mut self) -> Option<Command> {
        let command = self.commands.try_recv().ok()?;
        self.taken_bytes += command.bytes();
        Some(command)
    }

    /// Tells what the shard holds now, in bytes, of all that was ever taken.
    pub fn settle(&mut self, held_bytes: usize) {
        let counted = self.held_bytes + std::mem::take(&mut self.taken_bytes);
        match counted.checked_sub(held_bytes) {
            Some(0) => {}
            Some(gone) => {
                self.shared.bytes.fetch_sub(gone, Ordering::Relaxed);
            }
            // A frame may be larger than the content it was made of.
            None => {
                self.shared.bytes.fetch_add(held_bytes - counted, Ordering::Relaxed);
            }
        }
        self.held_bytes = held_bytes;
    }

    /// Announces that the reader will sleep. A command that this returns came in between; the
    /// reader stays awake.
    pub fn before_sleep(&mut self) -> Option<Command> {
        self.shared.asleep.store(true, Ordering::SeqCst);
        let command = self.take();
        if command.is_some() {
            self.after_sleep();
        }
        command
    }

    pub fn after_sleep(&self) {
        self.shared.asleep.store(false, Ordering::SeqCst);
    }
}

//! The commands that wait for the publishing connection, in the order in which they were called.
//!
//! One batch is under way at a time: all that waited when the one before it was answered. So the
//! order of calls is the order of commands, whatever the connection's own queue does with several
//! at once; and when the link breaks it is known which commands may have been done (the batch) and
//! which certainly have not (the rest).

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use redis::aio::MultiplexedConnection;
use redis::{Arg, Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value};
use tokio::sync::{Notify, oneshot};

use crate::broker::redis::complaints::Complaints;
use crate::broker::{Failure, Outage};
use crate::clock::BootTime;

/// What may wait: as much as in front of a shard.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// A batch ends with the command that fills it; many small ones cost one write.
const BATCH_BYTES: usize = 1 << 20;

/// So that a batch of tiny commands stays a matter of milliseconds.
const BATCH_COMMANDS_MAX: usize = 1_000;

/// What a command costs beside its arguments, roughly, so that empty ones are bounded too.
const COMMAND_BYTES: usize = 128;

/// Redis refused it for the command's own sake: asking again would be in vain.
pub const NOT_TAKEN: Failure = Failure::Unavailable("Redis does not take it");

type Reply = oneshot::Sender<Result<Value, Failure>>;
type Answer = oneshot::Receiver<Result<Value, Failure>>;

#[derive(Default)]
pub struct Commands {
    waiting: Mutex<Waiting>,
    /// Something waits, or everything is done.
    changed: Notify,
    complaints: Complaints,
}

#[derive(Default)]
struct Waiting {
    /// Since when commands are taken without a break.
    up_since: Option<BootTime>,
    /// When they were last taken, if they are not.
    down_since: Option<Instant>,
    commands: VecDeque<Waiter>,
    bytes: usize,
    is_under_way: bool,
}

struct Waiter {
    command: Cmd,
    bytes: usize,
    reply: Reply,
}

impl Commands {
    /// The command takes its place when this is called; the future only waits for the answer.
    ///
    /// # Errors
    /// `Unavailable`: it has not been sent, or Redis refused it. `Unknown`: it may have been done.
    pub fn send(
        &self,
        command: Cmd,
    ) -> impl Future<Output = Result<Value, Failure>> + Send + use<> {
        let answers = self.send_all(vec![command]);
        async move { answers.await.pop().expect("an answer for each command") }
    }

    /// The same for several, which take places next to each other: an answer for each. They go as
    /// one transaction if they say so.
    pub fn send_all(
        &self,
        commands: Vec<Cmd>,
    ) -> impl Future<Output = Vec<Result<Value, Failure>>> + Send + use<> {
        let count = commands.len();
        let begun = self.begin(commands);
        async move {
            let waiting = match begun {
                Ok(waiting) => waiting,
                Err(failure) => return vec![Err(failure); count],
            };
            let mut answers = Vec::with_capacity(count);
            for answer in waiting {
                // The writer drops what was under way when the link broke.
                answers.push(answer.await.unwrap_or(Err(Failure::Unknown)));
            }
            answers
        }
    }

    fn begin(&self, commands: Vec<Cmd>) -> Result<Vec<Answer>, Failure> {
        let waiters = commands.into_iter().map(|command| {
            let (reply, answer) = oneshot::channel();
            (Waiter { bytes: COMMAND_BYTES + arguments_bytes(&command), command, reply }, answer)
        });
        let (waiters, answers): (Vec<_>, Vec<_>) = waiters.unzip();
        let bytes: usize = waiters.iter().map(|waiter| waiter.bytes).sum();
        let mut waiting = self.waiting();
        if waiting.up_since.is_none() {
            return Err(Failure::Unavailable("Redis is away"));
        }
        if !waiting.commands.is_empty() && waiting.bytes + bytes > WAITING_BYTES_MAX {
            return Err(Failure::Unavailable("too much waits for Redis"));
        }
        waiting.bytes += bytes;
        waiting.commands.extend(waiters);
        drop(waiting);
        self.changed.notify_one();
        Ok(answers)
    }

    /// Since when commands are taken without a break; `None` while none are.
    pub fn up_since(&self) -> Option<BootTime> {
        self.waiting().up_since
    }

    pub fn outage(&self) -> Outage {
        let waiting = self.waiting();
        match (waiting.up_since, waiting.down_since) {
            (Some(_), _) => Outage::None,
            (None, Some(since)) => Outage::Since(since),
            (None, None) => Outage::Never,
        }
    }

    /// From now on commands are taken.
    pub fn open(&self, now: BootTime) {
        self.waiting().up_since = Some(now);
    }

    /// From now on none are. Those that wait have not been sent, and are told so.
    pub fn close(&self, now: Instant) {
        let mut waiting = self.waiting();
        waiting.up_since = None;
        waiting.down_since = Some(now);
        waiting.is_under_way = false;
        waiting.bytes = 0;
        for waiter in waiting.commands.drain(..) {
            // Whoever asked may not wait any more.
            let _ = waiter.reply.send(Err(Failure::Unavailable("Redis is away")));
        }
    }

    /// Whether no command waits or is under way.
    pub fn is_idle(&self) -> bool {
        let waiting = self.waiting();
        waiting.commands.is_empty() && !waiting.is_under_way
    }

    /// Writes what waits until the connection fails, which includes an answer that does not come
    /// within the connection's response timeout, and one that only a replica gives.
    pub async fn write(&self, mut connection: MultiplexedConnection) -> RedisError {
        loop {
            let Some((batch, replies)) = self.next_batch() else {
                self.changed.notified().await;
                continue;
            };
            // Dropped with an error, the replies say that nothing is known.
            match connection.send_packed_commands(&batch, 0, replies.len()).await {
                Ok(values) => {
                    if let Some(error) = self.answer(replies, values) {
                        return error;
                    }
                }
                Err(error) => return error,
            }
            self.waiting().is_under_way = false;
        }
    }

    fn next_batch(&self) -> Option<(Pipeline, Vec<Reply>)> {
        let mut waiting = self.waiting();
        let (mut batch, mut replies, mut bytes) = (Pipeline::new(), Vec::new(), 0);
        while bytes < BATCH_BYTES && replies.len() < BATCH_COMMANDS_MAX {
            let Some(waiter) = waiting.commands.pop_front() else { break };
            bytes += waiter.bytes;
            batch.add_command(waiter.command);
            replies.push(waiter.reply);
        }
        waiting.bytes -= bytes;
        waiting.is_under_way = !replies.is_empty();
        waiting.is_under_way.then_some((batch, replies))
    }

    /// Hands out the answers. An error among them after which nothing more is to be asked of that
    /// server.
    fn answer(&self, replies: Vec<Reply>, values: Vec<Value>) -> Option<RedisError> {
        let mut fatal = None;
        for (reply, value) in replies.into_iter().zip(values) {
            // What is refused within a transaction is within its answer.
            let answer = match value {
                Value::ServerError(error) => {
                    let error = RedisError::from(error);
                    let failure = match is_in_vain(&error) {
                        true => NOT_TAKEN,
                        false => Failure::Unavailable("Redis refused it"),
                    };
                    if is_of_no_master(&error) {
                        fatal = Some(error);
                    } else if self.complaints.are_due() {
                        tracing::error!("Redis refused a command: {error}");
                    }
                    Err(failure)
                }
                value => Ok(value),
            };
            // Whoever asked may not wait any more.
            let _ = reply.send(answer);
        }
        fatal
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether whoever answers so is a replica, or no server yet.
fn is_of_no_master(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, MasterDown, ReadOnly};
    matches!(error.kind(), ErrorKind::Server(ReadOnly | MasterDown | BusyLoading))
}

/// Whether a right is missing, or the key holds something else.
fn is_in_vain(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) || error.code() == Some("WRONGTYPE")
}

fn arguments_bytes(command: &Cmd) -> usize {
    let bytes = |argument| match argument {
        Arg::Simple(bytes) => <[u8]>::len(bytes),
        _ => 0,
    };
    command.args_iter().map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(payload: &[u8]) -> Cmd {
        redis::cmd("PUBLISH").arg("channel").arg(payload).to_owned()
    }

    #[tokio::test]
    async fn what_was_not_sent_is_told_apart_from_what_may_have_been() {
        let commands = Commands::default();
        let away = Err(Failure::Unavailable("Redis is away"));
        assert_eq!(commands.send(publish(b"1")).await, away);
        assert_eq!(commands.outage(), Outage::Never);

        commands.open(BootTime::now());
        let under_way = commands.send(publish(b"2"));
        let batch = commands.next_batch().expect("a batch");
        assert!(commands.next_batch().is_none());
        let waiting = commands.send(publish(b"3"));
        drop(batch);
        let closed = Instant::now();
        assert_eq!(commands.outage(), Outage::None);
        commands.close(closed);
        assert_eq!(commands.outage(), Outage::Since(closed));
        assert_eq!(under_way.await, Err(Failure::Unknown));
        assert_eq!(waiting.await, away);
        assert_eq!(commands.send(publish(b"4")).await, away);
    }

    #[tokio::test]
    async fn what_waits_is_bounded_in_bytes_but_one_always_may() {
        let commands = Commands::default();
        commands.open(BootTime::now());
        let large = publish(&vec![0; WAITING_BYTES_MAX]);
        let first = commands.send(large.clone());
        let full = Err(Failure::Unavailable("too much waits for Redis"));
        assert_eq!(commands.send(publish(b"")).await, full);
        let (_, replies) = commands.next_batch().expect("a batch");
        assert!(commands.answer(replies, vec![Value::Int(3)]).is_none());
        assert_eq!(first.await, Ok(Value::Int(3)));
        drop(commands.send(large));
        assert_eq!(commands.waiting().commands.len(), 1);
    }

    #[test]
    fn a_batch_holds_what_waits_in_order_up_to_its_size() {
        let commands = Commands::default();
        commands.open(BootTime::now());
        for _ in 0..BATCH_COMMANDS_MAX + 1 {
            drop(commands.send(publish(b"x")));
        }
        assert_eq!(commands.next_batch().expect("a batch").1.len(), BATCH_COMMANDS_MAX);
        assert_eq!(commands.next_batch().expect("a batch").1.len(), 1);
        for _ in 0..3 {
            drop(commands.send(publish(&vec![0; BATCH_BYTES / 2])));
        }
        assert_eq!(commands.next_batch().expect("a batch").1.len(), 2);
        assert_eq!(commands.next_batch().expect("a batch").1.len(), 1);
        assert_eq!(commands.waiting().bytes, 0);
    }
}

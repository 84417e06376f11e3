//! The commands that wait for the publishing connection, in the order in which they were called.
//!
//! One batch is under way at a time: all that waited when the one before it was answered. So the
//! order of calls is the order of commands, whatever the connection's own queue does with several
//! at once; and when the link breaks it is known which commands may have been done (the batch) and
//! which certainly have not (the rest).
//!
//! What keeps the pod alive (leases, pings, answers to other pods) does not wait behind what is
//! published: it goes in the next batch, before everything else. Whatever else waits too long is
//! not sent any more.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Arg, Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value};
use tokio::sync::{Notify, oneshot};

use crate::broker::{Failure, Outage};
use crate::clock::BootTime;
use crate::complaints::Recurring;

/// What may wait: as much as in front of a shard.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// How long a command waits for its turn: whoever called is told that it was not sent.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// A batch ends with the command that fills it; many small ones cost one write.
const BATCH_BYTES: usize = 1 << 20;

/// So that a batch of tiny commands stays a matter of milliseconds.
const BATCH_COMMANDS_MAX: usize = 1_000;

/// What a command costs beside its arguments, roughly, so that empty ones are bounded too.
const COMMAND_BYTES: usize = 128;

/// This pod's user has no right to it: asking again would be in vain.
pub const NOT_PERMITTED: Failure = Failure::Unavailable("Redis does not permit it");

/// The key holds something else: the same.
pub const WRONG_TYPE: Failure = Failure::Unavailable("its key in Redis holds something else");

/// What is logged of a command, at most: the names of keys may be long.
const SUBJECT_CHARS_MAX: usize = 200;

type Reply = oneshot::Sender<Result<Value, Failure>>;
type Answer = oneshot::Receiver<Result<Value, Failure>>;

#[derive(Default)]
pub struct Commands {
    waiting: Mutex<Waiting>,
    /// Something waits, or everything is done.
    changed: Notify,
    complaints: Recurring,
}

#[derive(Default)]
struct Waiting {
    is_up: bool,
    /// When they were last taken, if they are not.
    down_since: Option<Instant>,
    vital: Lane,
    ordinary: Lane,
    is_under_way: bool,
}

/// Those that wait for each other.
#[derive(Default)]
struct Lane {
    groups: VecDeque<Group>,
    bytes: usize,
}

/// Commands that go together, or not at all.
struct Group {
    commands: Vec<Cmd>,
    bytes: usize,
    replies: Vec<Reply>,
    /// Not to be written later than this.
    until: BootTime,
}

impl Lane {
    fn push(&mut self, group: Group) -> Result<(), Failure> {
        if !self.groups.is_empty() && self.bytes + group.bytes > WAITING_BYTES_MAX {
            return Err(Failure::Unavailable("too much waits for Redis"));
        }
        self.bytes += group.bytes;
        self.groups.push_back(group);
        Ok(())
    }

    fn pop(&mut self) -> Option<Group> {
        let group = self.groups.pop_front()?;
        self.bytes -= group.bytes;
        Some(group)
    }
}

impl Group {
    /// None of it was sent.
    fn refuse(self, why: &'static str) {
        for reply in self.replies {
            // Whoever asked may not wait any more.
            let _ = reply.send(Err(Failure::Unavailable(why)));
        }
    }
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
        single(self.send_until(vec![command], BootTime::now() + WAIT_MAX))
    }

    /// The same for what the life of pods hangs on: it waits only for others of its kind.
    pub fn send_vital(
        &self,
        command: Cmd,
    ) -> impl Future<Output = Result<Value, Failure>> + Send + use<> {
        let until = BootTime::now() + WAIT_MAX;
        single(self.answers(|waiting| &mut waiting.vital, vec![command], until))
    }

    /// Several vital ones, next to each other: an answer for each.
    pub fn send_vital_together(
        &self,
        commands: Vec<Cmd>,
    ) -> impl Future<Output = Vec<Result<Value, Failure>>> + Send + use<> {
        let until = BootTime::now() + WAIT_MAX;
        self.answers(|waiting| &mut waiting.vital, commands, until)
    }

    /// The same for several, which go next to each other, as one transaction if they say so: an
    /// answer for each. What is not written at `until` is not written any more.
    pub fn send_until(
        &self,
        commands: Vec<Cmd>,
        until: BootTime,
    ) -> impl Future<Output = Vec<Result<Value, Failure>>> + Send + use<> {
        self.answers(|waiting| &mut waiting.ordinary, commands, until)
    }

    fn answers(
        &self,
        lane: fn(&mut Waiting) -> &mut Lane,
        commands: Vec<Cmd>,
        until: BootTime,
    ) -> impl Future<Output = Vec<Result<Value, Failure>>> + Send + use<> {
        let count = commands.len();
        let begun = self.begin(lane, commands, until);
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

    fn begin(
        &self,
        lane: fn(&mut Waiting) -> &mut Lane,
        commands: Vec<Cmd>,
        until: BootTime,
    ) -> Result<Vec<Answer>, Failure> {
        let bytes = |command: &Cmd| COMMAND_BYTES + arguments_bytes(command);
        let bytes = commands.iter().map(bytes).sum();
        let (replies, answers) = commands.iter().map(|_| oneshot::channel()).unzip();
        let mut waiting = self.waiting();
        if !waiting.is_up {
            return Err(Failure::Unavailable("Redis is away"));
        }
        lane(&mut waiting).push(Group { commands, bytes, replies, until })?;
        drop(waiting);
        self.changed.notify_one();
        Ok(answers)
    }

    pub fn outage(&self) -> Outage {
        let waiting = self.waiting();
        match (waiting.is_up, waiting.down_since) {
            (true, _) => Outage::None,
            (false, Some(since)) => Outage::Since(since),
            (false, None) => Outage::Never,
        }
    }

    /// From now on commands are taken.
    pub fn open(&self) {
        self.waiting().is_up = true;
    }

    /// From now on none are. Those that wait have not been sent, and are told so.
    pub fn close(&self, now: Instant) {
        let mut waiting = self.waiting();
        waiting.is_up = false;
        waiting.down_since = Some(now);
        waiting.is_under_way = false;
        while let Some(group) = waiting.vital.pop().or_else(|| waiting.ordinary.pop()) {
            group.refuse("Redis is away");
        }
    }

    /// Whether no command waits or is under way.
    pub fn is_idle(&self) -> bool {
        let waiting = self.waiting();
        let Waiting { vital, ordinary, is_under_way, .. } = &*waiting;
        vital.groups.is_empty() && ordinary.groups.is_empty() && !is_under_way
    }

    /// Writes what waits until the connection fails, which includes an answer that does not come
    /// within the connection's response timeout, and one that only a replica gives.
    pub async fn write(&self, mut connection: MultiplexedConnection) -> RedisError {
        loop {
            let Some((batch, replies)) = self.next_batch(BootTime::now()) else {
                self.changed.notified().await;
                continue;
            };
            // Dropped with an error, the replies say that nothing is known.
            match connection.send_packed_commands(&batch, 0, replies.len()).await {
                Ok(values) => {
                    if let Some(error) = self.answer(&batch, replies, values) {
                        return error;
                    }
                }
                Err(error) => return error,
            }
            self.waiting().is_under_way = false;
        }
    }

    fn next_batch(&self, now: BootTime) -> Option<(Pipeline, Vec<Reply>)> {
        let mut waiting = self.waiting();
        let (mut batch, mut replies, mut bytes) = (Pipeline::new(), Vec::new(), 0);
        while bytes < BATCH_BYTES && replies.len() < BATCH_COMMANDS_MAX {
            let Some(group) = waiting.vital.pop().or_else(|| waiting.ordinary.pop()) else { break };
            if group.until < now {
                group.refuse("Redis is too slow: it waited too long for its turn");
                continue;
            }
            bytes += group.bytes;
            for command in group.commands {
                batch.add_command(command);
            }
            replies.extend(group.replies);
        }
        waiting.is_under_way = !replies.is_empty();
        waiting.is_under_way.then_some((batch, replies))
    }

    /// Hands out the answers. An error among them after which nothing more is to be asked of that
    /// server.
    fn answer(
        &self,
        batch: &Pipeline,
        replies: Vec<Reply>,
        values: Vec<Value>,
    ) -> Option<RedisError> {
        let mut fatal = None;
        for ((reply, value), command) in replies.into_iter().zip(values).zip(batch.cmd_iter()) {
            // What is refused within a transaction is within its answer.
            let answer = match value {
                Value::ServerError(error) => {
                    let error = RedisError::from(error);
                    let failure = failure(&error);
                    match is_of_no_master(&error) {
                        true => fatal = Some(error),
                        false => self.complain(command, &error),
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

    /// Tells an operator what Redis refused, each thing now and then.
    pub fn complain(&self, command: &Cmd, error: &RedisError) {
        let subject = subject(command);
        if self.complaints.is_due(&format!("{subject} {:?}", error.code())) {
            tracing::error!("Redis refused {subject}: {error}");
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The only answer.
async fn single(
    answers: impl Future<Output = Vec<Result<Value, Failure>>>,
) -> Result<Value, Failure> {
    answers.await.pop().expect("an answer for each command")
}

/// Whether whoever answers so is a replica, or no server yet.
pub fn is_of_no_master(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, MasterDown, ReadOnly};
    matches!(error.kind(), ErrorKind::Server(ReadOnly | MasterDown | BusyLoading))
}

fn failure(error: &RedisError) -> Failure {
    match (error.kind(), error.code()) {
        (ErrorKind::Server(ServerErrorKind::NoPerm), _) => NOT_PERMITTED,
        (_, Some("WRONGTYPE")) => WRONG_TYPE,
        _ => Failure::Unavailable("Redis refused it"),
    }
}

/// A command by its name and its first key or channel, for those who have to mend what it is refused for.
fn subject(command: &Cmd) -> String {
    let arguments: Vec<_> = command
        .args_iter()
        .map(|argument| match argument {
            Arg::Simple(bytes) => String::from_utf8_lossy(bytes),
            _ => "".into(),
        })
        .take(4)
        .collect();
    let name = arguments.first().map_or("", |name| name);
    let key = match name {
        // The script, and how many keys.
        "EVAL" => 3,
        "XINFO" => 2,
        _ => 1,
    };
    let subject = arguments.get(key).map_or_else(|| name.to_owned(), |key| format!("{name} {key}"));
    subject.chars().take(SUBJECT_CHARS_MAX).collect()
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

        commands.open();
        let under_way = commands.send(publish(b"2"));
        let batch = commands.next_batch(BootTime::now()).expect("a batch");
        assert!(commands.next_batch(BootTime::now()).is_none());
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
        commands.open();
        let large = publish(&vec![0; WAITING_BYTES_MAX]);
        let first = commands.send(large.clone());
        let full = Err(Failure::Unavailable("too much waits for Redis"));
        assert_eq!(commands.send(publish(b"")).await, full);
        let (batch, replies) = commands.next_batch(BootTime::now()).expect("a batch");
        assert!(commands.answer(&batch, replies, vec![Value::Int(3)]).is_none());
        assert_eq!(first.await, Ok(Value::Int(3)));
        drop(commands.send(large));
        assert_eq!(commands.waiting().ordinary.groups.len(), 1);
    }

    #[test]
    fn a_batch_holds_what_waits_in_order_up_to_its_size() {
        let commands = Commands::default();
        commands.open();
        for _ in 0..BATCH_COMMANDS_MAX + 1 {
            drop(commands.send(publish(b"x")));
        }
        assert_eq!(
            commands.next_batch(BootTime::now()).expect("a batch").1.len(),
            BATCH_COMMANDS_MAX
        );
        assert_eq!(commands.next_batch(BootTime::now()).expect("a batch").1.len(), 1);
        for _ in 0..3 {
            drop(commands.send(publish(&vec![0; BATCH_BYTES / 2])));
        }
        assert_eq!(commands.next_batch(BootTime::now()).expect("a batch").1.len(), 2);
        assert_eq!(commands.next_batch(BootTime::now()).expect("a batch").1.len(), 1);
        assert_eq!(commands.waiting().ordinary.bytes, 0);
    }

    #[tokio::test]
    async fn what_pods_live_of_goes_first_and_what_waited_too_long_not_at_all() {
        let commands = Commands::default();
        commands.open();
        let start = BootTime::now();
        let full = commands.send(publish(&vec![0; WAITING_BYTES_MAX]));
        let until = |ms| start + Duration::from_millis(ms);
        let transaction = || vec![redis::cmd("MULTI"), publish(b"x"), redis::cmd("EXEC")];
        let late = commands.send_until(transaction(), until(10));
        let late_too = Err(Failure::Unavailable("too much waits for Redis"));
        assert_eq!(late.await, vec![late_too; 3]);
        let vital = commands.send_vital(redis::cmd("TIME"));
        let (batch, replies) = commands.next_batch(start).expect("a batch");
        commands.answer(&batch, replies, vec![Value::Int(1), Value::Int(2)]);
        assert_eq!((vital.await, full.await), (Ok(Value::Int(1)), Ok(Value::Int(2))));

        let late = commands.send_until(transaction(), until(10));
        let in_time = commands.send_until(transaction(), until(20));
        let (batch, replies) = commands.next_batch(until(11)).expect("a batch");
        assert_eq!((batch.len(), replies.len()), (3, 3));
        commands.answer(&batch, replies, vec![Value::Int(1), Value::Int(2), Value::Int(3)]);
        assert!(late.await.iter().all(|answer| matches!(answer, Err(Failure::Unavailable(_)))));
        assert_eq!(in_time.await.pop(), Some(Ok(Value::Int(3))));
    }

    #[test]
    fn a_command_is_named_with_its_first_key() {
        for (command, expected) in [
            ("XLEN pathcast:in:/ws:0", "XLEN pathcast:in:/ws:0"),
            ("PUBLISH channel message", "PUBLISH channel"),
            ("EVAL script 1 key argument", "EVAL key"),
            ("XINFO GROUPS key", "XINFO key"),
            ("EXEC", "EXEC"),
        ] {
            let mut parts = command.split(' ');
            let mut command = redis::cmd(parts.next().expect("a name"));
            for part in parts {
                command.arg(part);
            }
            assert_eq!(subject(&command), expected);
        }
        let long = redis::cmd("GET").arg("é".repeat(500)).to_owned();
        assert_eq!(subject(&long).chars().count(), SUBJECT_CHARS_MAX);
    }
}

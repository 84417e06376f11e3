//! The roster: which ends this pod owes to backends, kept in Redis as they are known here.
//!
//! What is known here is what holds; a task makes Redis the same, many at a time, again and again until
//! it is known to be. So nothing of it needs an order but that of one session, and each write can be
//! made twice. When the link was down everything is written anew, since Redis may come back empty; and when a
//! renewal of the lease finds that it was emptied meanwhile.
//!
//! Of pods that this one has claimed it keeps which ends are on their way to backends, so that an entry
//! of theirs goes when its end has been taken, as own ones do.

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::sync::{Notify, oneshot};

use crate::broker::redis::fence::{behind_fence, fenced};
use crate::broker::redis::inbox::Inbox;
use crate::broker::{Failure, Pending};
use crate::clock::BootTime;
use crate::proto::roster::Member;
use crate::proto::session_id::{PodId, SessionId};

/// Entries of one write: a storm of connects costs few of them, and a broadcast waits a millisecond.
const BATCH_MAX: usize = 500;

/// How long a write may wait for its turn.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// How long after a failed write it is tried again.
const WRITE_AGAIN: Duration = Duration::from_millis(100);

const AWAY: Failure = Failure::Unavailable("Redis is away");

type Reply = oneshot::Sender<Result<(), Failure>>;

pub struct Roster {
    inbox: Arc<Inbox>,
    state: Mutex<State>,
    /// Something is to be written.
    changed: Notify,
}

#[derive(Default)]
struct State {
    is_up: bool,
    members: HashMap<SessionId, Own>,
    orphans: HashMap<SessionId, Orphan>,
    /// What may be otherwise in Redis than here. May name some twice.
    unwritten: VecDeque<SessionId>,
    /// Of those, what is being written.
    under_way: Vec<SessionId>,
}

/// A session of this pod.
struct Own {
    member: Member,
    /// To how many backends its end is owed.
    owed: u8,
    /// Who waits for its being written.
    waiting: Option<Reply>,
}

/// One of a claimed pod; nothing owed: its entry is to go.
struct Orphan {
    owed: u8,
    /// Who waits for that.
    waiting: Option<Reply>,
}

impl Roster {
    pub fn new(inbox: Arc<Inbox>) -> Roster {
        Roster { inbox, state: Mutex::default(), changed: Notify::new() }
    }

    /// The session has its place when this is called; the future resolves when Redis has it.
    pub fn enlist(&self, id: SessionId, member: Member) -> Pending<()> {
        let (reply, written) = oneshot::channel();
        let owed = member.backends.count();
        let mut state = self.state();
        let own = Own { member, owed, waiting: Some(reply) };
        state.members.insert(id, own);
        state.unwritten.push_back(id);
        if !state.is_up {
            return Box::pin(std::future::ready(Err(AWAY)));
        }
        drop(state);
        self.changed.notify_one();
        Box::pin(async move { written.await.unwrap_or(Err(AWAY)) })
    }

    /// A session of a claimed pod: the future resolves when its end has been taken as often as it is
    /// owed, and its entry is gone. `None` when that is under way: no backend loses what it was told.
    pub fn adopt(&self, id: SessionId, owed: u8) -> Option<Pending<()>> {
        let (reply, gone) = oneshot::channel();
        let mut state = self.state();
        if state.orphans.contains_key(&id) {
            return None;
        }
        state.orphans.insert(id, Orphan { owed, waiting: Some(reply) });
        if owed == 0 {
            state.unwritten.push_back(id);
        }
        drop(state);
        self.changed.notify_one();
        Some(Box::pin(async move { gone.await.unwrap_or(Err(AWAY)) }))
    }

    /// A backend has taken the end of a session, own or adopted, or does not know of it.
    pub fn settle(&self, id: &SessionId) {
        let mut state = self.state();
        let State { members, orphans, unwritten, .. } = &mut *state;
        if let Some(own) = members.get_mut(id) {
            own.owed = own.owed.saturating_sub(1);
            if own.owed == 0 {
                members.remove(id);
                unwritten.push_back(*id);
            }
        } else if let Some(orphan) = orphans.get_mut(id).filter(|orphan| orphan.owed > 0) {
            orphan.owed -= 1;
            if orphan.owed == 0 {
                unwritten.push_back(*id);
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// A new link, or a Redis that was emptied: whatever was written before may be lost.
    pub fn restart(&self) {
        let mut state = self.state();
        let State { members, unwritten, under_way, .. } = &mut *state;
        unwritten.extend(under_way.drain(..));
        // Of those that are no members the entries are to go.
        unwritten.retain(|id| !members.contains_key(id));
        unwritten.extend(members.keys());
        drop(state);
        self.changed.notify_one();
    }

    /// From now on what is to be written will be.
    pub fn open(&self) {
        self.state().is_up = true;
    }

    /// From now on nothing is, and whoever waits for it is told so.
    pub fn close(&self) {
        let mut state = self.state();
        state.is_up = false;
        for own in state.members.values_mut() {
            // A client may have gone meanwhile.
            own.waiting.take().map(|waiting| waiting.send(Err(AWAY)));
        }
    }

    /// Writes what is to be written, as long as it is polled.
    pub async fn keep(&self) -> Infallible {
        loop {
            let batch = self.next();
            if batch.is_empty() {
                self.changed.notified().await;
                continue;
            }
            match self.write(&batch).await {
                Ok(()) => self.confirm(batch),
                Err(failure) => {
                    self.put_back(&batch, failure);
                    tokio::time::sleep(WRITE_AGAIN).await;
                }
            }
        }
    }

    /// Whether Redis has all that is known here.
    pub fn is_written(&self) -> bool {
        let state = self.state();
        state.unwritten.is_empty() && state.under_way.is_empty()
    }

    /// Whether no end is owed to anybody.
    pub fn is_empty(&self) -> bool {
        self.state().members.is_empty()
    }

    fn next(&self) -> HashSet<SessionId> {
        let mut state = self.state();
        let count = state.unwritten.len().min(BATCH_MAX);
        let batch: HashSet<SessionId> = state.unwritten.drain(..count).collect();
        state.under_way = batch.iter().copied().collect();
        batch
    }

    async fn write(&self, batch: &HashSet<SessionId>) -> Result<(), Failure> {
        let Inbox { names, pod, commands, .. } = &*self.inbox;
        let transaction = transaction(&self.state(), batch, |pod| names.roster(pod));
        let until = BootTime::now() + WAIT_MAX;
        let answers = commands.send_until(fenced(names, *pod, transaction), until).await;
        let Some(mut answers) = behind_fence(answers) else {
            self.inbox.lifecycle.claimed().cancel();
            return Err(Failure::Unavailable("this pod was claimed"));
        };
        match answers.pop() {
            // What was refused while it was executed is within.
            Some(Ok(Value::Array(executed))) => match executed.iter().any(is_error) {
                true => Err(Failure::Unavailable("Redis does not take it")),
                false => Ok(()),
            },
            Some(Err(failure)) => Err(failure),
            _ => Err(Failure::Unknown),
        }
    }

    fn confirm(&self, batch: HashSet<SessionId>) {
        let mut state = self.state();
        let State { members, orphans, unwritten, under_way, .. } = &mut *state;
        under_way.clear();
        for id in batch {
            if let Some(own) = members.get_mut(&id) {
                own.waiting.take().map(|waiting| waiting.send(Ok(())));
            } else if orphans.get(&id).is_some_and(|orphan| orphan.owed == 0) {
                let orphan = orphans.remove(&id);
                orphan.and_then(|orphan| orphan.waiting).map(|waiting| waiting.send(Ok(())));
            }
        }
        if unwritten.is_empty() {
            // After a storm its memory goes too.
            members.shrink_to(2 * members.len());
            unwritten.shrink_to(BATCH_MAX);
        }
    }

    fn put_back(&self, batch: &HashSet<SessionId>, failure: Failure) {
        let mut state = self.state();
        let State { members, unwritten, under_way, .. } = &mut *state;
        unwritten.extend(under_way.drain(..));
        for id in batch {
            if let Some(own) = members.get_mut(id) {
                own.waiting.take().map(|waiting| waiting.send(Err(failure)));
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is whole before the next line can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes Redis what is known here, of these.
fn transaction(
    state: &State,
    batch: &HashSet<SessionId>,
    roster: impl Fn(PodId) -> String,
) -> Vec<Cmd> {
    let mut written: HashMap<PodId, Cmd> = HashMap::new();
    let mut gone: HashMap<PodId, Cmd> = HashMap::new();
    let command = |name, pod| {
        let mut command = redis::cmd(name);
        command.arg(roster(pod));
        command
    };
    for id in batch {
        let text = id.text();
        if let Some(own) = state.members.get(id) {
            let set = written.entry(id.pod).or_insert_with(|| command("HSET", id.pod));
            set.arg(text.as_str()).arg(own.member.text());
        } else if state.orphans.get(id).is_none_or(|orphan| orphan.owed == 0) {
            let delete = gone.entry(id.pod).or_insert_with(|| command("HDEL", id.pod));
            delete.arg(text.as_str());
        }
    }
    let commands = written.into_values().chain(gone.into_values());
    let begin = std::iter::once(redis::cmd("MULTI"));
    begin.chain(commands).chain([redis::cmd("EXEC")]).collect()
}

fn is_error(value: &Value) -> bool {
    matches!(value, Value::ServerError(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::path::Path;
    use crate::proto::roster::Backends;

    const POD: PodId = PodId([1; 8]);
    const DEAD: PodId = PodId([2; 8]);

    fn id(pod: PodId, number: u8) -> SessionId {
        SessionId { pod, shard: 0, random: [number; 16] }
    }

    fn own(owed: u8) -> Own {
        let path = Path::parse("/ws").expect("a path");
        let backends = Backends { stream: true, webhook: false };
        let member = Member { configured: "/ws".into(), path, backends };
        Own { member, owed, waiting: None }
    }

    /// The commands, without ids' random parts.
    fn commands(state: &State, batch: &[SessionId]) -> Vec<String> {
        let batch = batch.iter().copied().collect();
        let roster = |pod: PodId| format!("roster:{}", pod.0[0]);
        let text = |command: &Cmd| String::from_utf8(command.get_packed_command()).expect("text");
        let all = transaction(state, &batch, roster);
        let line = |command: &Cmd| {
            let packed = text(command);
            let parts: Vec<&str> = packed.split("\r\n").skip(2).step_by(2).take(2).collect();
            format!("{} × {}", parts.join(" "), command.args_iter().count())
        };
        all.iter().map(line).collect()
    }

    #[test]
    fn what_is_known_here_is_written_and_what_is_not_goes() {
        let mut state = State::default();
        state.members.insert(id(POD, 1), own(1));
        state.members.insert(id(POD, 2), own(1));
        let told = Orphan { owed: 0, waiting: None };
        state.orphans.insert(id(DEAD, 1), told);
        // Its end is still on its way.
        state.orphans.insert(id(DEAD, 2), Orphan { owed: 1, waiting: None });
        let batch = [id(POD, 1), id(POD, 2), id(POD, 3), id(DEAD, 1), id(DEAD, 2)];
        let mut lines = commands(&state, &batch);
        assert_eq!((lines.remove(0), lines.pop()), ("MULTI × 1".into(), Some("EXEC × 1".into())));
        lines.sort();
        assert_eq!(lines, ["HDEL roster:1 × 3", "HDEL roster:2 × 3", "HSET roster:1 × 6"]);
    }
}

//! The renewal of this pod's lease: it says that the pod lives, what it holds, and where it is listed.
//!
//! Behind the fence: a pod that was claimed meanwhile renews nothing. Each answer also tells what Redis
//! still has of this pod, so that what was lost is written again.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError, Value};
use tokio::time::MissedTickBehavior;

use crate::broker::Failure;
use crate::broker::redis::commands::is_of_no_master;
use crate::broker::redis::fence::{CLAIM_TTL, behind_fence, fenced};
use crate::broker::redis::inbox::Inbox;
use crate::broker::redis::interest::Interest;
use crate::broker::redis::roster::Roster;
use crate::clock::BootTime;
use crate::proto::millis::millis;
use crate::proto::path::Path;

/// So often in the time of a lease that one renewal may be lost, and one be late: every 4 s of 15 s.
const RENEWALS: f64 = 3.75;

/// For the last words to Redis, the roster first: one that lives takes them in milliseconds, and from one that
/// does not the others learn the same when the lease lapses.
const TAKE_BACK_TIMEOUT: Duration = Duration::from_secs(2);

/// How often leaving looks whether everything has been written.
const IDLE_POLL: Duration = Duration::from_millis(10);

pub struct Renewal {
    inbox: Arc<Inbox>,
    interest: Arc<Interest<Path>>,
    roster: Arc<Roster>,
}

/// Others have taken this pod for dead.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("another pod has told the ends of this one's sessions")]
pub struct Claimed;

/// Why the link cannot come up.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    Redis(#[from] RedisError),
    #[error("{0}")]
    Claimed(#[from] Claimed),
}

/// What Redis still has of this pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    All,
    /// Which is as it should be while no end is owed.
    NoRoster,
    Nothing,
}

impl Renewal {
    pub fn new(inbox: Arc<Inbox>, interest: Arc<Interest<Path>>, roster: Arc<Roster>) -> Renewal {
        Renewal { inbox, interest, roster }
    }

    /// Before the link counts as up.
    pub async fn first(&self, publishing: &mut MultiplexedConnection) -> Result<(), Refusal> {
        let begun = BootTime::now();
        let mut batch = redis::Pipeline::new();
        for command in self.commands() {
            batch.add_command(command);
        }
        let mut answers = Vec::new();
        let told = publishing.send_packed_commands(&batch, 0, batch.len()).await?;
        for (answer, command) in told.into_iter().zip(batch.cmd_iter()) {
            answers.push(match answer.extract_error() {
                Ok(answer) => Ok(answer),
                Err(error) if is_of_no_master(&error) => return Err(error.into()),
                // It is full, or cannot save: what is published it carries all the same.
                Err(error) => {
                    self.inbox.commands.complain(command, &error);
                    Err(Failure::Unavailable("Redis refused it"))
                }
            });
        }
        // All that it may have lost is written anew with the link.
        self.note(begun, answers)?;
        Ok(())
    }

    /// Renews the lease until the pod closes, and takes it back then.
    pub async fn keep(&self) -> Result<(), Claimed> {
        let mut interval = tokio::time::interval(self.inbox.lease.ttl.div_f64(RENEWALS));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval.tick().await;
        let closing = self.inbox.lifecycle.closing();
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = closing.cancelled() => break,
            }
            let begun = BootTime::now();
            let is_kept = self.roster.is_written() && !self.roster.is_empty();
            let answers = self.inbox.commands.send_vital_together(self.commands()).await;
            match self.note(begun, answers)? {
                Kept::All => {}
                Kept::NoRoster if !is_kept || self.roster.is_empty() => {}
                Kept::NoRoster | Kept::Nothing => {
                    tracing::warn!("Redis has lost what this pod kept there: it is written again");
                    self.roster.restart();
                }
            }
        }
        if tokio::time::timeout(TAKE_BACK_TIMEOUT, self.take_back()).await.is_err() {
            tracing::warn!("Redis did not take this pod's last words in time");
        }
        Ok(())
    }

    async fn take_back(&self) {
        while !self.roster.is_written() {
            tokio::time::sleep(IDLE_POLL).await;
        }
        let Inbox { names, commands, pod, .. } = &*self.inbox;
        drop(commands.send_vital(Cmd::del(names.lease(*pod))));
        // Ends that could not be told are left to the others, who look for them in what is left.
        if self.roster.is_empty() {
            drop(commands.send_vital(Cmd::srem(names.pods(), pod.text())));
        }
        while !commands.is_idle() {
            tokio::time::sleep(IDLE_POLL).await;
        }
    }

    /// Of the answers to one.
    fn note(&self, begun: BootTime, answers: Vec<Result<Value, Failure>>) -> Result<Kept, Claimed> {
        let lease = &self.inbox.lease;
        let lapsed = lease.held_until().map_or(Duration::ZERO, |until| begun.since(until));
        let renewed = match behind_fence(answers) {
            Some(answers) if lapsed < CLAIM_TTL => executed(answers),
            _ => {
                self.inbox.lifecycle.claimed().cancel();
                return Err(Claimed);
            }
        };
        match renewed {
            Ok(done) => {
                if lease.confirm(begun).is_some() {
                    tracing::warn!(
                        "this pod's lease had lapsed {lapsed:.1?} ago, and nobody minded"
                    );
                }
                Ok(kept(&done))
            }
            Err(why) => {
                if lease.miss() {
                    tracing::warn!("this pod's lease could not be renewed: {why}");
                }
                Ok(Kept::All)
            }
        }
    }

    /// The lease with what the pod holds, and its place among the pods, unless it is claimed; and whether
    /// its roster is there.
    fn commands(&self) -> Vec<Cmd> {
        let Inbox { names, pod, .. } = &*self.inbox;
        let (sessions, paths) = self.interest.counts();
        let ttl_ms = millis(self.inbox.lease.ttl);
        let counts = format!(r#"{{"sessions":{sessions},"paths":{paths}}}"#);
        let mut lease = redis::cmd("SET");
        lease.arg(names.lease(*pod)).arg(counts).arg("PX").arg(ttl_ms);
        let place = Cmd::sadd(names.pods(), pod.text());
        let roster = Cmd::exists(names.roster(*pod));
        let transaction = vec![redis::cmd("MULTI"), lease, place, roster, redis::cmd("EXEC")];
        fenced(names, *pod, transaction)
    }
}

/// The answers within a transaction, if all of it was done.
fn executed(mut answers: Vec<Result<Value, Failure>>) -> Result<Vec<Value>, Failure> {
    match answers.pop().unwrap_or(Err(Failure::Unknown))? {
        Value::Array(done) if !done.iter().any(|one| matches!(one, Value::ServerError(_))) => {
            Ok(done)
        }
        _ => Err(Failure::Unavailable("Redis refused it")),
    }
}

/// What a renewal found of the one before: a Redis may be emptied while the link is up.
fn kept(done: &[Value]) -> Kept {
    match done {
        // It was no member of the set of pods.
        [_, Value::Int(1), _] => Kept::Nothing,
        [_, _, Value::Int(0)] => Kept::NoRoster,
        _ => Kept::All,
    }
}

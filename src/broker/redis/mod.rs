//! Many pods, through one Redis.
//!
//! Everything goes through Redis, also what a pod sends itself: Redis is the sequencer, and a short
//! cut would be a second order. One connection publishes, in the order of calls; one subscribes, and
//! hands on what comes at once. Both are kept up by the supervisor in [`link`]. Only this module
//! names the `redis` crate.

pub mod clock;
pub mod commands;
pub mod complaints;
pub mod inbox;
pub mod interest;
pub mod link;
pub mod names;
pub mod taps;

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, ConnectionInfo, IntoConnectionInfo, RedisError, Value};
use uuid::Uuid;

use crate::broker::redis::clock::Clock;
use crate::broker::redis::commands::Commands;
use crate::broker::redis::inbox::{Inbox, Parts, Question};
use crate::broker::redis::interest::Interest;
use crate::broker::redis::link::Link;
use crate::broker::redis::names::Names;
use crate::broker::redis::taps::Taps;
use crate::broker::{Broker, Failure, Outage, Pending, Receiver};
use crate::clock::unix_ms;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::proto::ask::{Answer, Ask};
use crate::proto::envelope::{Body, Envelope};
use crate::proto::millis::millis;
use crate::proto::msg::Content;
use crate::proto::path::Path;
use crate::proto::session_id::PodId;
use crate::proto::stream::Entry;
use crate::proto::telling::{Place, Told, What};

/// How long a pod that lives, but does not listen at the moment, is given before it is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Where a Redis is, and how to enter.
#[derive(Debug, Clone)]
pub struct Address(ConnectionInfo);

#[derive(Debug, Clone)]
pub struct Config {
    pub address: Address,
    /// What the names of channels and keys begin with.
    pub prefix: String,
    /// How long a pod is believed to live after it was last heard of.
    pub lease_ttl: Duration,
    /// About how many entries one stream keeps.
    pub stream_backlog_max: u64,
    /// How long an answer may take; a question that is older when its turn comes is dropped.
    pub ask_timeout: Duration,
}

pub struct Redis {
    inbox: Arc<Inbox>,
    interest: Arc<Interest<Path>>,
    taps: Arc<Taps>,
    lease_ttl: Duration,
    stream_backlog_max: u64,
    ask_timeout: Duration,
}

/// Why there can be no link to a Redis, now or later.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(RedisError);

impl Address {
    /// `redis://[user][:password@]host[:port][/database]`, or `redis+unix:///path`.
    pub fn parse(url: &str) -> Result<Address, String> {
        url.into_connection_info().map(Address).map_err(|error| error.to_string())
    }
}

impl Redis {
    /// Begins to connect, and keeps the link up until the pod closes.
    pub fn start(
        config: Config,
        pod: PodId,
        receiver: impl Receiver,
        metrics: Arc<Metrics>,
        lifecycle: &Lifecycle,
    ) -> Result<Redis, Unusable> {
        let Config { address, prefix, lease_ttl, stream_backlog_max, ask_timeout } = config;
        let parts = Parts {
            pod,
            names: Names::new(prefix),
            commands: Arc::new(Commands::default()),
            clock: Arc::new(Clock::default()),
            metrics,
            lifecycle: lifecycle.clone(),
        };
        let inbox = Arc::new(Inbox::new(parts, Box::new(receiver)));
        let interest = Arc::new(Interest::default());
        let taps = Arc::new(Taps::new(inbox.clone()));
        let link = Link::new(address, lease_ttl, inbox.clone(), interest.clone(), taps.clone());
        let link = link.map_err(Unusable)?;
        lifecycle.spawn(link.keep());
        Ok(Redis { inbox, interest, taps, lease_ttl, stream_backlog_max, ask_timeout })
    }

    /// The one way by which events leave this pod, to streams and to other pods' listeners: the
    /// place to ask whether the pod still has its lease.
    fn send_events(
        &self,
        commands: Vec<Cmd>,
    ) -> impl Future<Output = Vec<Result<Value, Failure>>> + Send + use<> {
        self.inbox.commands.send_all(commands)
    }

    fn addition(&self, entry: &Entry) -> Cmd {
        let mut addition = redis::cmd("XADD");
        addition.arg(self.inbox.names.stream(&entry.configured, entry.partition));
        addition.arg("MAXLEN").arg("~").arg(self.stream_backlog_max).arg("*");
        for (name, text) in &entry.fields {
            addition.arg(*name).arg(text);
        }
        addition
    }

    /// What proves that a pod has gone: there is no lease of it, and this pod would have seen it
    /// renewed, since it saw Redis without a break for a whole lease time.
    async fn is_gone(inbox: &Inbox, pod: PodId, lease_ttl: Duration) -> Result<bool, Failure> {
        let leased = inbox.commands.send(Cmd::exists(inbox.names.lease(pod))).await?;
        let up_since = inbox.commands.up_since();
        Ok(leased == Value::Int(0) && up_since.is_some_and(|since| since.elapsed() >= lease_ttl))
    }
}

impl Broker for Redis {
    fn subscribe(&self, path: &Path) -> Pending<()> {
        Box::pin(self.interest.arrive(path))
    }

    fn unsubscribe(&self, path: &Path) {
        self.interest.depart(path, Instant::now());
    }

    fn publish(&self, id: Uuid, path: Path, content: Content) -> Pending<u64> {
        let message = envelope(id, Body::Broadcast(content));
        let sent = self.inbox.commands.send(Cmd::publish(self.inbox.names.out(&path), message));
        Box::pin(async move { receivers(sent.await?) })
    }

    fn ask(&self, pod: PodId, ask: Ask) -> Pending<Answer> {
        let (inbox, lease_ttl, limit) = (self.inbox.clone(), self.lease_ttl, self.ask_timeout);
        let Some(sent_ms) = inbox.clock.now_ms(Instant::now()) else {
            return Box::pin(std::future::ready(Err(Failure::Unavailable("Redis is away"))));
        };
        let mut question = inbox.question();
        let body = Body::Ask {
            from: inbox.pod,
            correlation: question.correlation,
            sent_ms,
            age_limit_ms: millis(limit),
            ask,
        };
        let letter = Cmd::publish(inbox.names.pod(pod), envelope(Uuid::now_v7(), body));
        let mut sent = Box::pin(inbox.commands.send(letter.clone()));
        let answered = async move {
            loop {
                if receivers(sent.await?)? > 0 {
                    let Question { answer, .. } = &mut question;
                    return answer.await.map_err(|_| Failure::Unknown);
                }
                if Redis::is_gone(&inbox, pod, lease_ttl).await? {
                    return Ok(Answer::Gone);
                }
                // It lives, or may: it comes back within the time, or is asked in vain.
                tokio::time::sleep(ASK_AGAIN).await;
                sent = Box::pin(inbox.commands.send(letter.clone()));
            }
        };
        Box::pin(async move {
            tokio::time::timeout(limit, answered).await.unwrap_or(Err(Failure::Unknown))
        })
    }

    fn pods(&self) -> Pending<Vec<PodId>> {
        let inbox = self.inbox.clone();
        Box::pin(async move {
            let known = inbox.commands.send(Cmd::smembers(inbox.names.pods())).await?;
            let known: Vec<String> = redis::from_redis_value(known).unwrap_or_default();
            let known: Vec<PodId> = known.iter().filter_map(|text| PodId::parse(text)).collect();
            // Asked together, answered in order.
            let leases: Vec<_> = known
                .iter()
                .map(|&pod| inbox.commands.send(Cmd::exists(inbox.names.lease(pod))))
                .collect();
            let mut living = Vec::new();
            for (&pod, leased) in known.iter().zip(leases) {
                match leased.await? {
                    Value::Int(0) => {
                        let forget = Cmd::srem(inbox.names.pods(), pod.text());
                        drop(inbox.commands.send(forget));
                    }
                    _ => living.push(pod),
                }
            }
            Ok(living)
        })
    }

    fn tap(&self, configured: &Arc<str>) -> Pending<()> {
        let confirmed = self.taps.interest.arrive(configured);
        let (inbox, renewal) = (self.inbox.clone(), self.taps.renewal(configured));
        Box::pin(async move {
            confirmed.await?;
            inbox.commands.send(renewal).await.map(drop)
        })
    }

    fn untap(&self, configured: &Arc<str>) {
        // The key stays until its time has passed: others may listen too.
        self.taps.interest.depart(configured, Instant::now());
    }

    fn tell(&self, configured: &str, place: Place, what: What) -> Pending<()> {
        let told = Told { from: self.inbox.pod, place, what };
        let message = envelope(Uuid::now_v7(), Body::Told(told));
        let channel = self.inbox.names.events(configured);
        let sent = self.send_events(vec![Cmd::publish(channel, message)]);
        Box::pin(async move { sent.await.into_iter().try_for_each(|answer| answer.map(drop)) })
    }

    fn append(&self, entries: &[Entry]) -> Pending<Vec<usize>> {
        let mut commands = vec![redis::cmd("MULTI")];
        commands.extend(entries.iter().map(|entry| self.addition(entry)));
        commands.push(redis::cmd("EXEC"));
        let sent = self.send_events(commands);
        Box::pin(async move { appended(sent.await) })
    }

    fn outage(&self) -> Outage {
        self.inbox.commands.outage()
    }
}

/// What a transaction that appends came to, of the answers to all of its commands.
fn appended(mut answers: Vec<Result<Value, Failure>>) -> Result<Vec<usize>, Failure> {
    let refused = |is_refused: &dyn Fn(usize) -> bool, count| {
        (0..count).filter(|&at| is_refused(at)).collect()
    };
    let failure = match answers.pop() {
        Some(Ok(Value::Array(added))) => {
            let is_refused = |at: usize| matches!(added[at], Value::ServerError(_));
            return Ok(refused(&is_refused, added.len()));
        }
        Some(Err(failure)) => failure,
        _ => Failure::Unknown,
    };
    // Without the right to MULTI each was on its own, and repeating them would be for ever.
    let is_added = |answer: &Result<Value, Failure>| matches!(answer, Ok(Value::BulkString(_)));
    let answers = &answers[1..];
    match answers.iter().any(is_added) {
        true => Ok(refused(&|at| !is_added(&answers[at]), answers.len())),
        false => Err(failure),
    }
}

/// What `PUBLISH` answers.
fn receivers(answer: Value) -> Result<u64, Failure> {
    // Redis has it, so whatever else it says, the message is on its way.
    redis::from_redis_value(answer).map_err(|_| Failure::Unknown)
}

fn envelope(id: Uuid, body: Body) -> Vec<u8> {
    Envelope { id, published_ms: unix_ms(), traceparent: None, body }.encode()
}

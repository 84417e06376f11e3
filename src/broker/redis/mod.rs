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
use crate::broker::{Broker, Failure, Letter, Outage, Peer, Pending, Publication, Receiver};
use crate::clock::unix_ms;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::proto::ask::Answer;
use crate::proto::envelope::{Body, Envelope};
use crate::proto::millis::millis;
use crate::proto::path::Path;
use crate::proto::session_id::PodId;
use crate::proto::traceparent::Traceparent;

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
    /// How long an answer may take; a question that is older when its turn comes is dropped.
    pub ask_timeout: Duration,
}

pub struct Redis {
    inbox: Arc<Inbox>,
    interest: Arc<Interest>,
    lease_ttl: Duration,
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
        let Config { address, prefix, lease_ttl, ask_timeout } = config;
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
        let link = Link::new(address, lease_ttl, inbox.clone(), interest.clone());
        let link = link.map_err(Unusable)?;
        lifecycle.spawn(link.keep());
        Ok(Redis { inbox, interest, lease_ttl, ask_timeout })
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

    fn publish(&self, publication: Publication) -> Pending<u64> {
        let Publication { id, path, content, traceparent } = publication;
        let message = traced(id, traceparent, Body::Broadcast(content));
        let sent = self.inbox.commands.send(Cmd::publish(self.inbox.names.out(&path), message));
        Box::pin(async move { receivers(sent.await?) })
    }

    fn ask(&self, letter: Letter) -> Pending<Answer> {
        let Letter { to, ask, traceparent } = letter;
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
        let message = traced(Uuid::now_v7(), traceparent, body);
        let letter = Cmd::publish(inbox.names.pod(to), message);
        let mut sent = Box::pin(inbox.commands.send(letter.clone()));
        let answered = async move {
            loop {
                if receivers(sent.await?)? > 0 {
                    let Question { answer, .. } = &mut question;
                    return answer.await.map_err(|_| Failure::Unknown);
                }
                if Redis::is_gone(&inbox, to, lease_ttl).await? {
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

    fn pods(&self) -> Pending<Vec<Peer>> {
        let inbox = self.inbox.clone();
        Box::pin(async move {
            let known = inbox.commands.send(Cmd::smembers(inbox.names.pods())).await?;
            let known: Vec<String> = redis::from_redis_value(known).unwrap_or_default();
            let known: Vec<PodId> = known.iter().filter_map(|text| PodId::parse(text)).collect();
            // Asked together, answered in order.
            let leases: Vec<_> = known
                .iter()
                .map(|&pod| inbox.commands.send(Cmd::get(inbox.names.lease(pod))))
                .collect();
            let mut living = Vec::new();
            for (&pod, leased) in known.iter().zip(leases) {
                match leased.await? {
                    Value::Nil => {
                        let forget = Cmd::srem(inbox.names.pods(), pod.text());
                        drop(inbox.commands.send(forget));
                    }
                    lease => living.push(Peer { pod, sessions: sessions_of(&lease) }),
                }
            }
            Ok(living)
        })
    }

    fn outage(&self) -> Outage {
        self.inbox.commands.outage()
    }
}

/// What a lease tells of its pod (`Link::renewal` writes it).
fn sessions_of(lease: &Value) -> Option<u64> {
    let Value::BulkString(text) = lease else { return None };
    serde_json::from_slice::<serde_json::Value>(text).ok()?.get("sessions")?.as_u64()
}

/// What `PUBLISH` answers.
fn receivers(answer: Value) -> Result<u64, Failure> {
    // Redis has it, so whatever else it says, the message is on its way.
    redis::from_redis_value(answer).map_err(|_| Failure::Unknown)
}

/// What belongs to nobody's call.
fn envelope(id: Uuid, body: Body) -> Vec<u8> {
    traced(id, None, body)
}

fn traced(id: Uuid, traceparent: Option<Traceparent>, body: Body) -> Vec<u8> {
    Envelope { id, published_ms: unix_ms(), traceparent, body }.encode()
}

//! Many pods, through one Redis.
//!
//! Everything goes through Redis, also what a pod sends itself: Redis is the sequencer, and a short
//! cut would be a second order. One connection publishes, in the order of calls; one subscribes, and
//! hands on what comes at once. Both are kept up by the supervisor in [`link`]. Only this module
//! names the `redis` crate.

pub mod absent;
pub mod appending;
pub mod asker;
pub mod claims;
pub mod clock;
pub mod commands;
pub mod fence;
pub mod inbox;
pub mod interest;
pub mod lease;
pub mod link;
pub mod names;
pub mod pulse;
pub mod renewal;
pub mod roster;
pub mod taps;
pub mod tenures;
pub mod tls;
pub mod trimming;
pub mod wanted;

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError, Value};
use uuid::Uuid;

use crate::broker::redis::appending::{fates, transaction};
use crate::broker::redis::asker::Asker;
use crate::broker::redis::claims::Claims;
use crate::broker::redis::clock::Clock;
use crate::broker::redis::commands::Commands;
use crate::broker::redis::fence::{behind_fence, fenced};
use crate::broker::redis::inbox::{Inbox, Parts};
use crate::broker::redis::interest::Interest;
use crate::broker::redis::lease::Lease;
use crate::broker::redis::link::Link;
use crate::broker::redis::names::Names;
use crate::broker::redis::roster::Roster;
use crate::broker::redis::taps::Taps;
use crate::broker::redis::tenures::Keys;
use crate::broker::redis::trimming::Trimming;
use crate::broker::redis::wanted::Wanted;
use crate::broker::tenures::Tenures;
use crate::broker::{
    Broker, Failure, Letter, Orphans, Outage, Peer, Pending, Publication, Receiver,
};
use crate::clock::{BootTime, unix_ms};
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::proto::ask::Answer;
use crate::proto::envelope::{Body, Envelope};
use crate::proto::path::Path;
use crate::proto::paths::OnFull;
use crate::proto::roster::Member;
use crate::proto::session_id::{PodId, SessionId};
use crate::proto::stream::{Backlog, Entry, Fate, Part};
use crate::proto::telling::{Place, Told, What};
use crate::proto::traceparent::Traceparent;

/// About how many dead letters of a path are kept: enough to see what went wrong, and for how long.
const DEAD_LETTERS_MAX: u64 = 10_000;

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
    /// What a stranger may publish at once, as bytes of JSON.
    pub publish_bytes_max: usize,
    /// How long an answer may take; a question that is older when its turn comes is dropped.
    pub ask_timeout: Duration,
}

pub struct Redis {
    inbox: Arc<Inbox>,
    interest: Arc<Interest<Path>>,
    taps: Arc<Taps>,
    tenures: Arc<Keys>,
    asker: Arc<Asker>,
    roster: Arc<Roster>,
    claims: Arc<Claims>,
    trimming: Arc<Trimming>,
}

/// Why there can be no link to a Redis, now or later.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(RedisError);

impl Address {
    /// `redis://[user][:password@]host[:port][/database]`, `rediss://…` for TLS, or
    /// `redis+unix:///path`.
    pub fn parse(url: &str) -> Result<Address, String> {
        let info = url.into_connection_info().map_err(|error| error.to_string())?;
        match info.addr() {
            ConnectionAddr::TcpTls { insecure: true, .. } => {
                Err("certificates are always verified".to_owned())
            }
            _ => Ok(Address(info)),
        }
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
        let Config { address, prefix, lease_ttl, publish_bytes_max, ask_timeout } = config;
        let parts = Parts {
            pod,
            names: Names::new(prefix),
            commands: Arc::new(Commands::default()),
            clock: Arc::new(Clock::default()),
            lease: Arc::new(Lease::new(lease_ttl)),
            metrics,
            lifecycle: lifecycle.clone(),
            publish_bytes_max,
        };
        let inbox = Arc::new(Inbox::new(parts, Box::new(receiver)));
        let interest = Arc::new(Interest::default());
        let taps = Arc::new(Taps::new(inbox.clone()));
        let asker = Arc::new(Asker::new(inbox.clone(), lease_ttl, ask_timeout));
        let tenures = Arc::new(Keys::new(inbox.clone()));
        let roster = Arc::new(Roster::new(inbox.clone()));
        let claims = Arc::new(Claims::new(inbox.clone(), lease_ttl));
        let trimming = Arc::new(Trimming::new(inbox.clone()));
        let wanted = Wanted {
            interest: interest.clone(),
            taps: taps.clone(),
            tenures: tenures.clone(),
            roster: roster.clone(),
        };
        let link = Link::new(address, inbox.clone(), wanted);
        let link = link.map_err(Unusable)?;
        lifecycle.spawn(link.keep());
        Ok(Redis { inbox, interest, taps, tenures, asker, roster, claims, trimming })
    }

    /// The one way by which events leave this pod, to streams and to other pods' listeners: not
    /// while its sessions may have been taken for dead, however late Redis gets them. The answers to all of
    /// `transaction`, which is from `MULTI` to `EXEC`.
    fn send_events(&self, transaction: Vec<Cmd>) -> Pending<Vec<Result<Value, Failure>>> {
        let now = BootTime::now();
        let Some(until) = self.inbox.lease.held_until().filter(|&until| now < until) else {
            let failure = Failure::Unavailable("this pod's lease has lapsed");
            return Box::pin(std::future::ready(Err(failure)));
        };
        let commands = fenced(&self.inbox.names, self.inbox.pod, transaction);
        let answers = self.inbox.commands.send_until(commands, until);
        let inbox = self.inbox.clone();
        Box::pin(async move {
            behind_fence(answers.await).ok_or_else(|| {
                inbox.lifecycle.claimed().cancel();
                Failure::Unavailable("this pod was claimed")
            })
        })
    }

    /// As `send_events`, for one that stands alone.
    fn send_event(&self, command: Cmd) -> Pending<()> {
        let sent = self.send_events(vec![redis::cmd("MULTI"), command, redis::cmd("EXEC")]);
        Box::pin(async move {
            match sent.await?.pop() {
                // What was refused while it was executed is within.
                Some(Ok(Value::Array(done))) => match done.first() {
                    Some(Value::ServerError(_)) => Err(Failure::Unavailable("Redis refused it")),
                    _ => Ok(()),
                },
                Some(Err(failure)) => Err(failure),
                _ => Err(Failure::Unknown),
            }
        })
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
        self.asker.ask(letter)
    }

    fn pods(&self) -> Pending<Vec<Peer>> {
        let inbox = self.inbox.clone();
        let own = Peer { pod: inbox.pod, sessions: Some(self.interest.counts().0) };
        Box::pin(async move {
            if !inbox.lease.is_renewed(BootTime::now()) {
                return Err(Failure::Unavailable(
                    "leases cannot be renewed, so none proves anything",
                ));
            }
            let known = inbox.commands.send_vital(Cmd::smembers(inbox.names.pods())).await?;
            let known: Vec<String> = redis::from_redis_value(known).unwrap_or_default();
            let known = known.iter().filter_map(|text| PodId::parse(text));
            let others: Vec<PodId> = known.filter(|&pod| pod != inbox.pod).collect();
            // Asked together, answered in order.
            let look = |pod| inbox.commands.send_vital(Cmd::get(inbox.names.lease(pod)));
            let leases: Vec<_> = others.iter().map(|&pod| look(pod)).collect();
            let mut living = vec![own];
            for (&pod, leased) in others.iter().zip(leases) {
                match leased.await? {
                    // It is forgotten when its sessions' ends have been told (`claims`).
                    Value::Nil => {}
                    lease => living.push(Peer { pod, sessions: sessions_of(&lease) }),
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
            inbox.commands.send_vital(renewal).await.map(drop)
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
        self.send_event(Cmd::publish(channel, message))
    }

    fn append(&self, entries: &[Entry]) -> Pending<Vec<Fate>> {
        let sent = self.send_events(transaction(entries, &self.inbox.names));
        Box::pin(async move { fates(sent.await?) })
    }

    fn enlist(&self, id: SessionId, member: Member) -> Pending<()> {
        self.roster.enlist(id, member)
    }

    fn settle(&self, id: &SessionId) {
        self.roster.settle(id);
    }

    fn claim(&self) -> Pending<Vec<PodId>> {
        let claims = self.claims.clone();
        Box::pin(async move { claims.claim().await })
    }

    fn orphans(&self, pod: PodId, cursor: u64) -> Pending<Orphans> {
        let claims = self.claims.clone();
        Box::pin(async move { claims.orphans(pod, cursor).await })
    }

    fn adopt(&self, id: SessionId, owed: u8) -> Option<Pending<()>> {
        self.roster.adopt(id, owed)
    }

    fn trim(&self, part: &Part, backlog_max: u64, on_full: OnFull) -> Pending<Backlog> {
        let trimming = self.trimming.clone();
        let key = self.inbox.names.stream(&part.configured, part.partition);
        Box::pin(async move { trimming.trim(&key, backlog_max, on_full).await })
    }

    fn tenures(&self) -> &dyn Tenures {
        &*self.tenures
    }

    fn bury(&self, entry: &Entry) -> Pending<()> {
        let mut addition = redis::cmd("XADD");
        addition.arg(self.inbox.names.dead(&entry.configured));
        addition.arg("MAXLEN").arg("~").arg(DEAD_LETTERS_MAX).arg("*");
        for (name, text) in &entry.fields {
            addition.arg(*name).arg(text);
        }
        self.send_event(addition)
    }

    fn holds_lease(&self) -> bool {
        self.inbox.lease.is_held(BootTime::now())
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

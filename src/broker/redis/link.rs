//! The link to Redis: one publishing and one subscribing connection, which live and die together.
//!
//! A supervisor connects, subscribes to everything that is wanted, checks the answers, and only then
//! lets anybody publish. Every second it sends itself a ping through both connections, and asks
//! whether the server is still a master. At the first error, a missing answer, or three missed pings
//! both are dropped, and it begins anew, for ever. The crate's own way of reconnecting is not used:
//! it forgets subscriptions in silence.
//!
//! A path that Redis does not let this pod hear keeps the link down if it was heard before and is
//! still wanted: better no pod than a deaf one. Otherwise it is refused to those who come for it,
//! and to nobody else.

use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, ProtocolVersion, PushInfo, PushKind, RedisError,
    ServerErrorKind, Value,
};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::broker::Failure;
use crate::broker::redis::clock::Clock;
use crate::broker::redis::commands::{Commands, is_of_no_master};
use crate::broker::redis::fence::{CLAIM_TTL, behind_fence, fenced};
use crate::broker::redis::inbox::Inbox;
use crate::broker::redis::interest::Interest;
use crate::broker::redis::lease::Lease;
use crate::broker::redis::names::Names;
use crate::broker::redis::roster::Roster;
use crate::broker::redis::taps::Taps;
use crate::broker::redis::tenures::Keys;
use crate::broker::redis::tls::choose_cryptography;
use crate::broker::redis::{Address, envelope};
use crate::clock::BootTime;
use crate::complaints::Complaints;
use crate::metrics::Metrics;
use crate::proto::envelope::Body;
use crate::proto::millis::millis;
use crate::proto::path::Path;

/// For the socket and the greeting: a server that lives takes milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// What was written and not answered by then is unknown, and the link is broken.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Channels in one command: Redis serves others in between.
const SUBSCRIBE_CHUNK: usize = 500;

const PING_INTERVAL: Duration = Duration::from_secs(1);

/// Pings that may stay away before the pod is deaf.
const PINGS_MISSED_MAX: u32 = 3;

/// The lease is renewed so often in its time that one renewal may be lost, and one be late: every
/// 4 s of 15 s.
const RENEWALS: f64 = 3.75;

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// How often leaving looks whether everything has been written.
const IDLE_POLL: Duration = Duration::from_millis(10);

pub struct Link {
    client: Client,
    names: Names,
    commands: Arc<Commands>,
    interest: Arc<Interest<Path>>,
    taps: Arc<Taps>,
    tenures: Arc<Keys>,
    roster: Arc<Roster>,
    inbox: Arc<Inbox>,
    clock: Arc<Clock>,
    lease: Arc<Lease>,
    metrics: Arc<Metrics>,
    closing: CancellationToken,
    complaints: Complaints,
}

/// What is to be heard, and what is owed.
pub struct Wanted {
    pub interest: Arc<Interest<Path>>,
    pub taps: Arc<Taps>,
    pub tenures: Arc<Keys>,
    pub roster: Arc<Roster>,
}

/// Why the link is down.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("{0}")]
    Redis(#[from] RedisError),
    #[error("its time cannot be read: {0}")]
    Time(#[from] redis::ParsingError),
    #[error("the subscribing connection ended")]
    Lost,
    #[error("{0} pings through it did not come back")]
    Deaf(u32),
    #[error("{0}")]
    Refused(#[from] Refused),
    #[error("it is no master but a {0}")]
    NoMaster(String),
    #[error("this pod leaves")]
    Leaving,
    #[error("another pod has told the ends of this one's sessions")]
    Claimed,
}

/// A channel that Redis does not let this pod hear.
#[derive(Debug, thiserror::Error)]
#[error(
    "Redis refuses {channel} ({error}): its user needs the rights +subscribe and &{channel}, \
     or the line in docs/redis.md"
)]
struct Refused {
    channel: String,
    error: RedisError,
}

struct Connections {
    publishing: MultiplexedConnection,
    subscribing: MultiplexedConnection,
    role: Role,
    /// Told when one of them ends.
    lost: Arc<Notify>,
}

/// Whether the server tells its role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Asked,
    /// A missing right, or a proxy. A demoted master is known by its refusing to write.
    Untold,
}

/// What Redis still has of this pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    All,
    /// Which is as it should be while no end is owed.
    NoRoster,
    Nothing,
}

impl Link {
    pub fn new(address: Address, inbox: Arc<Inbox>, wanted: Wanted) -> Result<Link, RedisError> {
        let Wanted { interest, taps, tenures, roster } = wanted;
        if address.is_secured() {
            choose_cryptography();
        }
        let Address(info) = address;
        let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_redis_settings(redis.set_skip_set_lib_name()).set_tcp_settings(tcp);
        Ok(Link {
            client: Client::open(info)?,
            names: inbox.names.clone(),
            commands: inbox.commands.clone(),
            clock: inbox.clock.clone(),
            lease: inbox.lease.clone(),
            metrics: inbox.metrics.clone(),
            closing: inbox.lifecycle.closing().clone(),
            interest,
            taps,
            tenures,
            roster,
            inbox,
            complaints: Complaints::default(),
        })
    }

    /// Keeps the link up until the pod closes.
    pub async fn keep(self) {
        let mut backoff = BACKOFF_MIN;
        let mut told = String::new();
        loop {
            let connected = tokio::select! {
                connected = self.connect() => connected,
                () = self.closing.cancelled() => return,
            };
            let fault = match connected {
                Ok(connections) => {
                    backoff = BACKOFF_MIN;
                    told.clear();
                    self.up();
                    let fault = self.serve(connections).await;
                    self.down();
                    fault
                }
                Err(fault) => fault,
            };
            if let Fault::Leaving | Fault::Claimed = fault {
                return;
            }
            // Once for each reason: the first one is seldom what keeps it away.
            let why = fault.to_string();
            if why != told {
                tracing::warn!("Redis is away: {why}");
                told = why;
            }
            tokio::select! {
                () = tokio::time::sleep(jittered(backoff)) => {}
                () = self.closing.cancelled() => return,
            }
            backoff = (2 * backoff).min(BACKOFF_MAX);
        }
    }

    /// Two connections, the subscriptions confirmed, the lease written.
    async fn connect(&self) -> Result<Connections, Fault> {
        self.interest.restart();
        self.taps.interest.restart();
        self.tenures.interest.restart();
        self.roster.restart();
        let epoch = self.inbox.begin();
        let lost = Arc::new(Notify::new());
        let (mut publishing, mut subscribing) =
            tokio::try_join!(self.open(epoch, &lost), self.open(epoch, &lost))?;

        let asked = BootTime::now();
        let redis_ms = time_ms(answer(&mut publishing, &redis::cmd("TIME")).await?)?;
        self.clock.restart(redis_ms, asked, BootTime::now());

        let role = match answer(&mut publishing, &redis::cmd("ROLE")).await {
            Ok(role) => {
                must_be_master(&role)?;
                Role::Asked
            }
            Err(error) if is_answer(&error) => Role::Untold,
            Err(error) => return Err(error.into()),
        };

        self.subscribe(&mut subscribing).await?;
        let inbox = self.names.pod(self.inbox.pod);
        if let Err(error) = subscribing.subscribe(&inbox).await {
            return Err(refused(inbox, error)?.into());
        }
        self.renew_first(&mut publishing).await?;
        // After the lease: whoever taps and does not see this pod is seen by it.
        self.taps.begin(&mut publishing).await?;
        Ok(Connections { publishing, subscribing, role, lost })
    }

    /// Before the link counts as up.
    async fn renew_first(&self, publishing: &mut MultiplexedConnection) -> Result<(), Fault> {
        let begun = BootTime::now();
        let mut batch = redis::Pipeline::new();
        for command in self.renewal() {
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
                    self.commands.complain(command, &error);
                    Err(Failure::Unavailable("Redis refused it"))
                }
            });
        }
        // All that it may have lost is written anew with the link.
        self.note_renewal(begun, answers).map(drop)
    }

    async fn open(&self, epoch: u64, lost: &Arc<Notify>) -> Result<MultiplexedConnection, Fault> {
        let (inbox, lost) = (self.inbox.clone(), lost.clone());
        let hear = move |push: PushInfo| {
            match push.kind {
                PushKind::Message => {
                    if let Ok([Value::BulkString(channel), Value::BulkString(message)]) =
                        <[Value; 2]>::try_from(push.data)
                    {
                        inbox.take(epoch, &channel, message);
                    }
                }
                PushKind::Disconnection => lost.notify_one(),
                _ => {}
            }
            Ok::<(), std::convert::Infallible>(())
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT))
            .set_push_sender(hear);
        Ok(self.client.get_multiplexed_async_connection_with_config(&config).await?)
    }

    fn up(&self) {
        self.inbox.resume();
        self.commands.open();
        self.interest.open();
        self.taps.interest.open();
        self.tenures.interest.open();
        self.roster.open();
        self.metrics.broker.up.set(1);
        tracing::info!("Redis is there");
    }

    fn down(&self) {
        self.metrics.broker.up.set(0);
        self.commands.close(Instant::now());
        self.interest.close();
        self.taps.interest.close();
        self.tenures.interest.close();
        self.roster.close();
    }

    /// Until something breaks.
    async fn serve(&self, connections: Connections) -> Fault {
        let Connections { publishing, subscribing, role, lost } = connections;
        tokio::select! {
            error = self.commands.write(publishing) => error.into(),
            fault = self.follow(subscribing) => fault,
            fault = self.ping(role) => fault,
            fault = self.renew() => fault,
            () = self.taps.keep() => Fault::Leaving,
            () = self.roster.keep() => Fault::Leaving,
            () = self.inbox.lifecycle.claimed().cancelled() => Fault::Claimed,
            () = lost.notified() => Fault::Lost,
        }
    }

    /// Keeps the subscriptions at what is wanted.
    async fn follow(&self, mut connection: MultiplexedConnection) -> Fault {
        let mut linger = tokio::time::interval(PING_INTERVAL);
        loop {
            tokio::select! {
                () = self.interest.asked() => {}
                () = self.taps.interest.asked() => {}
                () = self.tenures.interest.asked() => {}
                _ = linger.tick() => {
                    let now = Instant::now();
                    let out = self.interest.expire(now).into_iter().map(|path| self.names.out(&path));
                    let told = self.taps.interest.expire(now);
                    let told = told.into_iter().map(|configured| self.names.events(&configured));
                    let up = self.tenures.interest.expire(now);
                    let up = up.into_iter().map(|name| self.names.up(&name));
                    let expired: Vec<String> = out.chain(told).chain(up).collect();
                    for chunk in expired.chunks(SUBSCRIBE_CHUNK) {
                        if let Err(error) = connection.unsubscribe(chunk).await {
                            return error.into();
                        }
                    }
                }
            }
            if let Err(fault) = self.subscribe(&mut connection).await {
                return fault;
            }
        }
    }

    /// Subscribes to everything that is wanted and not subscribed to.
    async fn subscribe(&self, connection: &mut MultiplexedConnection) -> Result<(), Fault> {
        let out = |path: &Path| self.names.out(path);
        self.subscribe_to(connection, &self.interest, out).await?;
        let told = |configured: &Arc<str>| self.names.events(configured);
        self.subscribe_to(connection, &self.taps.interest, told).await?;
        let up = |name: &Arc<str>| self.names.up(name);
        self.subscribe_to(connection, &self.tenures.interest, up).await
    }

    async fn subscribe_to<P: Clone + Eq + Hash>(
        &self,
        connection: &mut MultiplexedConnection,
        interest: &Interest<P>,
        channel: impl Fn(&P) -> String,
    ) -> Result<(), Fault> {
        loop {
            let paths = interest.next(SUBSCRIBE_CHUNK);
            if paths.is_empty() {
                return Ok(());
            }
            match connection.subscribe(paths.iter().map(&channel).collect::<Vec<_>>()).await {
                Ok(()) => interest.confirm(&paths),
                // One refused channel fails the whole command.
                Err(error) if is_refusal(&error) => {
                    for path in &paths {
                        let channel = channel(path);
                        match connection.subscribe(&channel).await {
                            Ok(()) => interest.confirm(std::slice::from_ref(path)),
                            Err(error) => {
                                let refused = refused(channel, error)?;
                                if interest.is_relied_on(path) {
                                    return Err(refused.into());
                                }
                                interest.refuse(path);
                                if self.complaints.are_due() {
                                    tracing::error!("{refused}");
                                }
                            }
                        }
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Asks itself through Redis whether it still hears, and Redis for its time and role, until too
    /// many pings were missed, or a replica answers.
    async fn ping(&self, role: Role) -> Fault {
        let mut interval = tokio::time::interval(PING_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let nonce = match self.inbox.ping(PINGS_MISSED_MAX) {
                Ok(nonce) => nonce,
                Err(missed) => return Fault::Deaf(missed),
            };
            let ping = envelope(Uuid::now_v7(), Body::Ping { nonce });
            drop(self.commands.send_vital(Cmd::publish(self.names.pod(self.inbox.pod), ping)));
            let asked = BootTime::now();
            let time = self.commands.send_vital(redis::cmd("TIME"));
            let role = (role == Role::Asked).then(|| self.commands.send_vital(redis::cmd("ROLE")));
            if let Some(redis_ms) = time.await.ok().and_then(|value| time_ms(value).ok()) {
                self.clock.note(redis_ms, asked, BootTime::now());
            }
            if let Some(role) = role
                && let Ok(role) = role.await
                && let Err(fault) = must_be_master(&role)
            {
                return fault;
            }
        }
    }

    /// Renews the lease until the pod closes, and takes it back then.
    async fn renew(&self) -> Fault {
        let mut interval = tokio::time::interval(self.lease.ttl.div_f64(RENEWALS));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval.tick().await;
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = self.closing.cancelled() => break,
            }
            let begun = BootTime::now();
            let is_kept = self.roster.is_written() && !self.roster.is_empty();
            let answers = self.commands.send_vital_together(self.renewal()).await;
            match self.note_renewal(begun, answers) {
                Ok(Kept::All) => {}
                Ok(Kept::NoRoster) if !is_kept || self.roster.is_empty() => {}
                Ok(Kept::NoRoster | Kept::Nothing) => {
                    tracing::warn!("Redis has lost what this pod kept there: it is written again");
                    self.roster.restart();
                }
                Err(fault) => return fault,
            }
        }
        let begun = Instant::now();
        while !self.roster.is_written() && begun.elapsed() < ANSWER_TIMEOUT {
            tokio::time::sleep(IDLE_POLL).await;
        }
        let pod = self.inbox.pod;
        drop(self.commands.send_vital(Cmd::del(self.names.lease(pod))));
        // Ends that could not be told are left to the others, who look for them in what is left.
        if self.roster.is_empty() {
            drop(self.commands.send_vital(Cmd::srem(self.names.pods(), pod.text())));
        }
        while !self.commands.is_idle() {
            tokio::time::sleep(IDLE_POLL).await;
        }
        Fault::Leaving
    }

    /// Of the answers to a renewal.
    fn note_renewal(
        &self,
        begun: BootTime,
        answers: Vec<Result<Value, Failure>>,
    ) -> Result<Kept, Fault> {
        let lapsed = self.lease.held_until().map_or(Duration::ZERO, |until| begun.since(until));
        let renewed = match behind_fence(answers) {
            Some(answers) if lapsed < CLAIM_TTL => executed(answers),
            _ => {
                self.inbox.lifecycle.claimed().cancel();
                return Err(Fault::Claimed);
            }
        };
        match renewed {
            Ok(done) => {
                if self.lease.confirm(begun).is_some() {
                    tracing::warn!(
                        "this pod's lease had lapsed {lapsed:.1?} ago, and nobody minded"
                    );
                }
                Ok(kept(&done))
            }
            Err(why) => {
                if self.lease.miss() {
                    tracing::warn!("this pod's lease could not be renewed: {why}");
                }
                Ok(Kept::All)
            }
        }
    }

    /// The lease with what the pod holds, and its place among the pods, unless it is claimed; and whether
    /// its roster is there.
    fn renewal(&self) -> Vec<Cmd> {
        let pod = self.inbox.pod;
        let (sessions, paths) = self.interest.counts();
        let ttl_ms = millis(self.lease.ttl);
        let counts = format!(r#"{{"sessions":{sessions},"paths":{paths}}}"#);
        let mut lease = redis::cmd("SET");
        lease.arg(self.names.lease(pod)).arg(counts).arg("PX").arg(ttl_ms);
        let place = Cmd::sadd(self.names.pods(), pod.text());
        let roster = Cmd::exists(self.names.roster(pod));
        let transaction = vec![redis::cmd("MULTI"), lease, place, roster, redis::cmd("EXEC")];
        fenced(&self.names, pod, transaction)
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

/// The answer to one command; an error that Redis answered is one.
async fn answer(
    connection: &mut MultiplexedConnection,
    command: &Cmd,
) -> Result<Value, RedisError> {
    connection.send_packed_command(command).await?.extract_error()
}

/// Whether Redis said so, rather than nothing.
fn is_answer(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
}

fn is_refusal(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
}

/// What a failed subscription was: refused, or the end of the link.
fn refused(channel: String, error: RedisError) -> Result<Refused, Fault> {
    match is_refusal(&error) {
        true => Ok(Refused { channel, error }),
        false => Err(error.into()),
    }
}

/// What `ROLE` tells begins with the role. What it says in another form proves nothing.
fn must_be_master(role: &Value) -> Result<(), Fault> {
    match role {
        Value::Array(parts) => match parts.first() {
            Some(Value::BulkString(role)) if role != b"master" => {
                Err(Fault::NoMaster(String::from_utf8_lossy(role).into_owned()))
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// What `TIME` tells, in milliseconds.
fn time_ms(time: Value) -> Result<u64, redis::ParsingError> {
    let (seconds, micros): (u64, u64) = redis::from_redis_value(time)?;
    Ok(seconds.saturating_mul(1_000).saturating_add(micros / 1_000))
}

/// Between half of it and all of it, so that pods do not come back all at once.
fn jittered(backoff: Duration) -> Duration {
    let random = Uuid::new_v4().as_u128() as u8;
    backoff.mul_f64(0.5 + f64::from(random) / 512.0)
}

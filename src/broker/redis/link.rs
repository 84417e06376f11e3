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

use std::convert::Infallible;
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

use crate::broker::redis::clock::Clock;
use crate::broker::redis::commands::Commands;
use crate::broker::redis::inbox::Inbox;
use crate::broker::redis::interest::Interest;
use crate::broker::redis::names::Names;
use crate::broker::redis::renewal::{Claimed, Refusal, Renewal};
use crate::broker::redis::tls::choose_cryptography;
use crate::broker::redis::wanted::Wanted;
use crate::broker::redis::{Address, envelope};
use crate::clock::BootTime;
use crate::complaints::Complaints;
use crate::metrics::Metrics;
use crate::proto::backoff::Backoff;
use crate::proto::envelope::Body;

/// For the socket and the greeting: a server that lives takes milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// What was written and not answered by then is unknown, and the link is broken.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Channels in one command: Redis serves others in between.
const SUBSCRIBE_CHUNK: usize = 500;

/// How often channels that nobody wants any more are looked for: a look goes through all of them, and they have
/// lingered for ten times as long.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);

const PING_INTERVAL: Duration = Duration::from_secs(1);

/// Pings that may stay away before the pod is deaf.
const PINGS_MISSED_MAX: u32 = 3;

/// Short: whoever publishes is refused meanwhile.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), most: Duration::from_secs(1) };

pub struct Link {
    client: Client,
    names: Names,
    commands: Arc<Commands>,
    wanted: Wanted,
    inbox: Arc<Inbox>,
    clock: Arc<Clock>,
    renewal: Renewal,
    metrics: Arc<Metrics>,
    closing: CancellationToken,
    complaints: Complaints,
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
    #[error("{0}")]
    Claimed(#[from] Claimed),
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

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        match refusal {
            Refusal::Redis(error) => Fault::Redis(error),
            Refusal::Claimed(claimed) => Fault::Claimed(claimed),
        }
    }
}

impl Link {
    pub fn new(address: Address, inbox: Arc<Inbox>, wanted: Wanted) -> Result<Link, RedisError> {
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
            renewal: Renewal::new(inbox.clone(), wanted.interest.clone(), wanted.roster.clone()),
            metrics: inbox.metrics.clone(),
            closing: inbox.lifecycle.closing().clone(),
            wanted,
            inbox,
            complaints: Complaints::default(),
        })
    }

    /// Keeps the link up until the pod closes.
    pub async fn keep(self) {
        let mut failures = 0;
        let mut told = String::new();
        loop {
            let connected = tokio::select! {
                connected = self.connect() => connected,
                () = self.closing.cancelled() => return,
            };
            let fault = match connected {
                Ok(connections) => {
                    failures = 0;
                    told.clear();
                    self.up();
                    let fault = self.serve(connections).await;
                    self.down();
                    fault
                }
                Err(fault) => fault,
            };
            if let Fault::Leaving | Fault::Claimed(_) = fault {
                return;
            }
            // Once for each reason: the first one is seldom what keeps it away.
            let why = fault.to_string();
            if why != told {
                tracing::warn!("Redis is away: {why}");
                told = why;
            }
            let random = Uuid::new_v4().as_u64_pair().1;
            tokio::select! {
                () = tokio::time::sleep(BACKOFF.wait(failures, random)) => {}
                () = self.closing.cancelled() => return,
            }
            failures += 1;
        }
    }

    /// Two connections, the subscriptions confirmed, the lease asked for.
    async fn connect(&self) -> Result<Connections, Fault> {
        self.wanted.restart();
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
        self.renewal.first(&mut publishing).await?;
        // After the lease: whoever taps and does not see this pod is seen by it.
        self.wanted.taps.begin(&mut publishing).await?;
        Ok(Connections { publishing, subscribing, role, lost })
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
            Ok::<(), Infallible>(())
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
        self.wanted.open();
        self.metrics.broker.up.set(1);
        tracing::info!("Redis is there");
    }

    fn down(&self) {
        self.metrics.broker.up.set(0);
        self.commands.close(Instant::now());
        self.wanted.close();
    }

    /// Until something breaks.
    async fn serve(&self, connections: Connections) -> Fault {
        let Connections { publishing, subscribing, role, lost } = connections;
        tokio::select! {
            error = self.commands.write(publishing) => error.into(),
            fault = self.follow(subscribing) => fault,
            fault = self.ping(role) => fault,
            renewed = self.renewal.keep() => renewed.map_or_else(Fault::from, |()| Fault::Leaving),
            never = self.wanted.taps.keep() => match never {},
            never = self.wanted.roster.keep() => match never {},
            () = self.inbox.lifecycle.claimed().cancelled() => Fault::Claimed(Claimed),
            () = lost.notified() => Fault::Lost,
        }
    }

    /// Keeps the subscriptions at what is wanted.
    async fn follow(&self, mut connection: MultiplexedConnection) -> Fault {
        let mut expiry = tokio::time::interval(EXPIRY_INTERVAL);
        loop {
            tokio::select! {
                () = self.wanted.asked() => {}
                _ = expiry.tick() => {
                    let expired = self.wanted.expired(Instant::now(), &self.names);
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
        let (Wanted { interest, taps, tenures, .. }, names) = (&self.wanted, &self.names);
        self.subscribe_to(connection, interest, |path| names.out(path)).await?;
        self.subscribe_to(connection, &taps.interest, |path| names.events(path)).await?;
        self.subscribe_to(connection, &tenures.interest, |name| names.up(name)).await
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

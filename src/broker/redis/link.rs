//! The link to Redis: one publishing and one subscribing connection, which live and die together.
//!
//! A supervisor connects, subscribes to everything that is wanted, checks the answers, and only then
//! lets anybody publish. Every second it sends itself a ping through both connections. At the first
//! error, a missing answer, or three missed pings both are dropped, and it begins anew, for ever.
//! The crate's own way of reconnecting is not used: it forgets subscriptions in silence.

use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ProtocolVersion, PushInfo, PushKind, RedisError, Value,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::broker::redis::clock::Clock;
use crate::broker::redis::commands::Commands;
use crate::broker::redis::inbox::Inbox;
use crate::broker::redis::interest::Interest;
use crate::broker::redis::names::Names;
use crate::broker::redis::taps::Taps;
use crate::broker::redis::{Address, envelope};
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
    lease_ttl: Duration,
    names: Names,
    commands: Arc<Commands>,
    interest: Arc<Interest<Path>>,
    taps: Arc<Taps>,
    inbox: Arc<Inbox>,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    closing: CancellationToken,
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
    #[error("this pod leaves")]
    Leaving,
}

struct Connections {
    publishing: MultiplexedConnection,
    subscribing: MultiplexedConnection,
    /// Told when one of them ends.
    lost: Arc<Notify>,
}

impl Link {
    pub fn new(
        address: Address,
        lease_ttl: Duration,
        inbox: Arc<Inbox>,
        interest: Arc<Interest<Path>>,
        taps: Arc<Taps>,
    ) -> Result<Link, RedisError> {
        let Address(info) = address;
        let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_redis_settings(redis.set_skip_set_lib_name()).set_tcp_settings(tcp);
        Ok(Link {
            client: Client::open(info)?,
            lease_ttl,
            names: inbox.names.clone(),
            commands: inbox.commands.clone(),
            clock: inbox.clock.clone(),
            metrics: inbox.metrics.clone(),
            closing: inbox.lifecycle.closing().clone(),
            interest,
            taps,
            inbox,
        })
    }

    /// Keeps the link up until the pod closes.
    pub async fn keep(self) {
        let mut backoff = BACKOFF_MIN;
        let mut is_told = false;
        loop {
            let connected = tokio::select! {
                connected = self.connect() => connected,
                () = self.closing.cancelled() => return,
            };
            let fault = match connected {
                Ok(connections) => {
                    (backoff, is_told) = (BACKOFF_MIN, false);
                    self.up();
                    let fault = self.serve(connections).await;
                    self.down();
                    fault
                }
                Err(fault) => fault,
            };
            if let Fault::Leaving = fault {
                return;
            }
            if !is_told {
                tracing::warn!("Redis is away: {fault}");
            }
            is_told = true;
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
        let epoch = self.inbox.begin();
        let lost = Arc::new(Notify::new());
        let (mut publishing, mut subscribing) =
            tokio::try_join!(self.open(epoch, &lost), self.open(epoch, &lost))?;

        let asked = Instant::now();
        let redis_ms = time_ms(publishing.send_packed_command(&redis::cmd("TIME")).await?)?;
        self.clock.restart(redis_ms, asked, Instant::now());

        self.subscribe(&mut subscribing).await?;
        subscribing.subscribe(self.names.pod(self.inbox.pod)).await?;
        for command in self.renewal() {
            publishing.send_packed_command(&command).await?.extract_error()?;
        }
        // After the lease: whoever taps and does not see this pod is seen by it.
        self.taps.begin(&mut publishing).await?;
        Ok(Connections { publishing, subscribing, lost })
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
        self.commands.open(Instant::now());
        self.interest.open();
        self.taps.interest.open();
        self.metrics.broker.up.set(1);
        tracing::info!("Redis is there");
    }

    fn down(&self) {
        self.metrics.broker.up.set(0);
        self.commands.close(Instant::now());
        self.interest.close();
        self.taps.interest.close();
    }

    /// Until something breaks.
    async fn serve(&self, connections: Connections) -> Fault {
        let Connections { publishing, subscribing, lost } = connections;
        tokio::select! {
            error = self.commands.write(publishing) => error.into(),
            error = self.follow(subscribing) => error.into(),
            missed = self.ping() => Fault::Deaf(missed),
            () = self.renew() => Fault::Leaving,
            () = self.taps.keep() => Fault::Leaving,
            () = lost.notified() => Fault::Lost,
        }
    }

    /// Keeps the subscriptions at what is wanted.
    async fn follow(&self, mut connection: MultiplexedConnection) -> RedisError {
        let mut linger = tokio::time::interval(PING_INTERVAL);
        loop {
            tokio::select! {
                () = self.interest.asked() => {}
                () = self.taps.interest.asked() => {}
                _ = linger.tick() => {
                    let now = Instant::now();
                    let out = self.interest.expire(now).into_iter().map(|path| self.names.out(&path));
                    let told = self.taps.interest.expire(now);
                    let told = told.into_iter().map(|configured| self.names.events(&configured));
                    let expired: Vec<String> = out.chain(told).collect();
                    for chunk in expired.chunks(SUBSCRIBE_CHUNK) {
                        if let Err(error) = connection.unsubscribe(chunk).await {
                            return error;
                        }
                    }
                }
            }
            if let Err(error) = self.subscribe(&mut connection).await {
                return error;
            }
        }
    }

    /// Subscribes to everything that is wanted and not subscribed to.
    async fn subscribe(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        Link::subscribe_to(connection, &self.interest, |path| self.names.out(path)).await?;
        Link::subscribe_to(connection, &self.taps.interest, |text| self.names.events(text)).await
    }

    async fn subscribe_to<P: Clone + Eq + Hash>(
        connection: &mut MultiplexedConnection,
        interest: &Interest<P>,
        channel: impl Fn(&P) -> String,
    ) -> Result<(), RedisError> {
        loop {
            let next = interest.next(SUBSCRIBE_CHUNK);
            if next.is_empty() {
                return Ok(());
            }
            connection.subscribe(next.iter().map(&channel).collect::<Vec<_>>()).await?;
            interest.confirm(&next);
        }
    }

    /// Asks itself through Redis whether it still hears, and Redis for its time, until too many
    /// pings were missed: how many.
    async fn ping(&self) -> u32 {
        let mut interval = tokio::time::interval(PING_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let asked = Instant::now();
            let nonce = match self.inbox.ping(PINGS_MISSED_MAX, asked) {
                Ok(nonce) => nonce,
                Err(missed) => return missed,
            };
            let ping = envelope(Uuid::now_v7(), Body::Ping { nonce });
            drop(self.commands.send(Cmd::publish(self.names.pod(self.inbox.pod), ping)));
            let time = self.commands.send(redis::cmd("TIME")).await;
            if let Some(redis_ms) = time.ok().and_then(|value| time_ms(value).ok()) {
                self.clock.note(redis_ms, asked, Instant::now());
            }
        }
    }

    /// Renews the lease until the pod closes, and takes it back then.
    async fn renew(&self) {
        let mut interval = tokio::time::interval(self.lease_ttl.div_f64(RENEWALS));
        interval.tick().await;
        loop {
            tokio::select! {
                _ = interval.tick() => {
                    for command in self.renewal() {
                        drop(self.commands.send(command));
                    }
                }
                () = self.closing.cancelled() => break,
            }
        }
        let pod = self.inbox.pod;
        drop(self.commands.send(Cmd::del(self.names.lease(pod))));
        drop(self.commands.send(Cmd::srem(self.names.pods(), pod.text())));
        while !self.commands.is_idle() {
            tokio::time::sleep(IDLE_POLL).await;
        }
    }

    /// The lease with what the pod holds, and its place among the pods.
    fn renewal(&self) -> [Cmd; 2] {
        let pod = self.inbox.pod;
        let (sessions, paths) = self.interest.counts();
        let ttl_ms = millis(self.lease_ttl);
        let counts = format!(r#"{{"sessions":{sessions},"paths":{paths}}}"#);
        let mut lease = redis::cmd("SET");
        lease.arg(self.names.lease(pod)).arg(counts).arg("PX").arg(ttl_ms);
        [lease, Cmd::sadd(self.names.pods(), pod.text())]
    }
}

/// What `TIME` tells, in milliseconds.
fn time_ms(time: Value) -> Result<u64, redis::ParsingError> {
    let (seconds, micros): (u64, u64) = redis::from_redis_value(time)?;
    Ok(seconds * 1_000 + micros / 1_000)
}

/// Between half of it and all of it, so that pods do not come back all at once.
fn jittered(backoff: Duration) -> Duration {
    let random = Uuid::new_v4().as_u128() as u8;
    backoff.mul_f64(0.5 + f64::from(random) / 512.0)
}

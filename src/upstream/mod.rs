//! "Connect to": remote WebSocket servers that pathcast is a client of.
//!
//! Each is held by one pod at a time, and only that one connects, writes, and acts on what comes. A
//! pod that holds it renews its hold every two seconds and gives it back when it leaves; the others
//! look, and take it when it is free (`proto::tenure` has the rule). Whatever a connection ends of,
//! another one follows after a while, with the same hold.
//!
//! One that is configured anew is another one with the same name: the old one is given back as if this
//! pod left, and the new one is taken like any that is free. So there are never two at work.

pub mod connection;
pub mod dial;
pub mod ear;
pub mod lease;
pub mod tls;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::broker::tenures::Grip;
use crate::clock::BootTime;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::proto::backoff::{Attempts, Backoff};
use crate::proto::event::Event;
use crate::proto::millis::millis;
use crate::proto::tenure::{LOOK_EVERY, RENEW_AGAIN, RENEW_EVERY, Taker};
use crate::relay::Relay;
use crate::relay::desk::{self, Desk};
use crate::upstream::connection::{Halves, Service, Terms};
use crate::upstream::dial::{Dialled, Remote};
use crate::upstream::ear::Ear;
use crate::upstream::lease::Lease;

/// How long giving back may take: what does not get through then expires.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct Config {
    pub desk: desk::Config,
    pub remote: Remote,
    pub terms: Terms,
    /// Between two attempts to connect.
    pub reconnect: Backoff,
    /// What all of it was made of. May hold secrets.
    pub written: Written,
}

/// The settings of an upstream as they were written: it is another one if and only if these are.
#[derive(Clone, PartialEq, Eq)]
pub struct Written(pub String);

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Written")
    }
}

/// Takes care of all upstreams that are configured, whichever those are.
pub struct Keeper {
    relay: Arc<Relay>,
    metrics: Arc<Metrics>,
    lifecycle: Lifecycle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    kept: Vec<Kept>,
    /// What events are counted with, by the names that ever were: an id is never told twice.
    seqs: HashMap<Arc<str>, Arc<AtomicU64>>,
}

struct Kept {
    config: Config,
    desk: Arc<Desk>,
    leaving: CancellationToken,
}

/// One upstream, as this pod takes care of it.
struct Upstream {
    remote: Remote,
    terms: Terms,
    attempts: Attempts,
    desk: Arc<Desk>,
    relay: Arc<Relay>,
    leaving: CancellationToken,
    taker: Taker,
    /// What the taker's time counts from.
    begun: BootTime,
}

impl Keeper {
    pub fn new(relay: Arc<Relay>, metrics: Arc<Metrics>, lifecycle: Lifecycle) -> Keeper {
        Keeper { relay, metrics, lifecycle, state: Mutex::default() }
    }

    /// Takes care of these and no others until the pod leaves. Those that are the same go on.
    pub fn reconfigure(&self, configs: Vec<Config>) {
        let mut state = self.state();
        let State { kept, seqs } = &mut *state;
        let mut before = std::mem::take(kept);
        let mut new = Vec::new();
        for config in configs {
            match before.iter().position(|one| one.config.written == config.written) {
                Some(at) => kept.push(before.remove(at)),
                None => {
                    let name = config.desk.name.text();
                    let seq = seqs.entry(name.clone()).or_default().clone();
                    let metrics = self.metrics.upstream(name);
                    let desk = Arc::new(Desk::new(config.desk.clone(), metrics, seq));
                    let leaving = self.lifecycle.leaving().child_token();
                    new.push(Upstream::new(&config, &desk, &self.relay, &leaving));
                    kept.push(Kept { config, desk, leaving });
                }
            }
        }
        self.relay.upstreams().replace(kept.iter().map(|one| one.desk.clone()).collect());
        for gone in before {
            let name = gone.config.desk.name.text();
            gone.leaving.cancel();
            if kept.iter().all(|one| one.config.desk.name.text() != name) {
                self.metrics.forget_upstream(name);
            }
        }
        for upstream in new {
            self.lifecycle.spawn(upstream.keep());
        }
    }

    /// As they were last configured.
    pub fn configs(&self) -> Vec<Config> {
        self.state().kept.iter().map(|one| one.config.clone()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under it can panic halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upstream {
    fn new(
        config: &Config,
        desk: &Arc<Desk>,
        relay: &Arc<Relay>,
        leaving: &CancellationToken,
    ) -> Upstream {
        let Config { remote, terms, reconnect, .. } = config;
        Upstream {
            remote: remote.clone(),
            terms: terms.clone(),
            attempts: Attempts::new(*reconnect),
            desk: desk.clone(),
            relay: relay.clone(),
            leaving: leaving.clone(),
            taker: Taker::default(),
            begun: BootTime::now(),
        }
    }

    async fn keep(mut self) {
        let leaving = self.leaving.clone();
        let name = self.desk.config.name.text().clone();
        // Looking before the broker is there tells nothing, and the next look is a while away: what an
        // emptied Redis does not say has to be known from before.
        tokio::select! {
            biased;
            () = leaving.cancelled() => return,
            () = self.relay.broker_there() => {}
        }
        loop {
            let (grip, lease) = tokio::select! {
                biased;
                () = leaving.cancelled() => return,
                taken = self.take() => taken,
            };
            tracing::info!(upstream = %name, epoch = grip.epoch, "this pod holds the upstream");
            let (relay, desk) = (self.relay.clone(), self.desk.clone());
            desk.open(grip.epoch);
            relay.upstreams().taken(&desk);
            // Not waited for: what is published before it is heard has no holder yet.
            drop(relay.tenures().hear(&name));
            tokio::select! {
                biased;
                () = self.connect(&lease, grip) => {}
                () = renew(&relay, &name, &lease) => {}
            }
            desk.close();
            relay.tenures().unhear(&name);
            if lease.is_held(BootTime::now()) {
                // What fails expires.
                let _ = timeout(RELEASE_TIMEOUT, relay.tenures().release(&name, grip)).await;
                tracing::info!(upstream = %name, epoch = grip.epoch, "gave the upstream back");
            } else {
                tracing::warn!(upstream = %name, epoch = grip.epoch, "lost the upstream");
            }
            desk.give_back();
        }
    }

    /// Waits until nobody else holds it, and takes it. Cancelled in the middle of that, what was taken
    /// expires.
    async fn take(&mut self) -> (Grip, Arc<Lease>) {
        let tenures = self.relay.tenures();
        let name = self.desk.config.name.text();
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let Ok(seen) = tenures.look(name).await else {
                self.taker.forget();
                continue;
            };
            if !self.taker.may_take(&seen, millis(BootTime::now().since(self.begun))) {
                continue;
            }
            let begun = BootTime::now();
            if let Ok(Some(grip)) = tenures.seize(name, self.taker.epoch).await {
                self.taker.epoch = self.taker.epoch.max(if grip.expires { grip.epoch } else { 0 });
                let lease = Lease::new(begun, grip.expires);
                if lease.is_held(BootTime::now()) {
                    return (grip, Arc::new(lease));
                }
            }
        }
    }

    /// Connects, again and again, until the upstream is lost or the pod leaves.
    async fn connect(&mut self, lease: &Arc<Lease>, grip: Grip) {
        let leaving = self.leaving.clone();
        let gone = async {
            tokio::select! {
                () = leaving.cancelled() => {}
                () = lease.lost().cancelled() => {}
            }
        };
        let mut gone = std::pin::pin!(gone);
        loop {
            let ear = Arc::new(Ear::begin());
            let dialled = tokio::select! {
                biased;
                () = &mut gone => return,
                dialled = self.remote.dial(grip.epoch, lease, &ear) => dialled,
            };
            let begun = Instant::now();
            let (why, is_news) = match dialled {
                Ok(dialled) => self.serve(dialled, lease, &ear).await,
                Err(fault) => {
                    self.desk.metrics.dials_failed.inc();
                    let why = fault.to_string();
                    let is_news = self.desk.disconnected(&why);
                    (why, is_news)
                }
            };
            if gone.as_mut().now_or_never().is_some() {
                return;
            }
            let random = Uuid::new_v4().as_u64_pair().1;
            let pause = self.attempts.failed(begun.elapsed(), random);
            let name = &self.desk.config.name;
            // Once for each reason: a server that is away would fill the log.
            if is_news {
                tracing::warn!(upstream = %name, "not connected: {why}");
            } else {
                tracing::debug!(upstream = %name, ?pause, "not connected: {why}");
            }
            tokio::select! {
                biased;
                () = &mut gone => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// Why the connection ended, and whether that is news.
    async fn serve(&self, dialled: Dialled, lease: &Lease, ear: &Ear) -> (String, bool) {
        let Dialled { socket, addr, subprotocol } = dialled;
        let desk = &*self.desk;
        desk.metrics.dials_opened.inc();
        desk.connected();
        tracing::info!(upstream = %desk.config.name, %addr, "connected");
        let remote = addr.to_string();
        let (subprotocol, user) = (subprotocol.as_deref(), None);
        let connect =
            Event::Connect { remote: &remote, subprotocol, user, origin: None, query: None };
        self.relay.tell_of_upstream(desk, &connect);
        let service = Service {
            terms: &self.terms,
            relay: &self.relay,
            desk,
            lease,
            ear,
            leaving: &self.leaving,
        };
        let mut halves = Halves::of(socket);
        let end = service.serve(&mut halves).await;
        // Before the goodbye: what is published meanwhile waits for the next connection.
        let is_news = desk.disconnected(&end.why);
        let disconnect = Event::Disconnect { close: &end.close, cause: end.cause };
        self.relay.tell_of_upstream(desk, &disconnect);
        service.part(halves, &end).await;
        (end.why, is_news)
    }
}

/// Renews the hold until it is lost, and then waits for that to be noticed.
async fn renew(relay: &Relay, name: &str, lease: &Lease) {
    let mut pause = RENEW_EVERY;
    while let Some(left) = lease.left(BootTime::now()).filter(|left| !left.is_zero()) {
        sleep(pause.min(left)).await;
        let begun = BootTime::now();
        let Some(left) = lease.left(begun) else { break };
        if left.is_zero() {
            break;
        }
        pause = match timeout(left, relay.tenures().renew(name)).await {
            Ok(Ok(true)) => {
                lease.confirm(begun);
                RENEW_EVERY
            }
            // Somebody else's, or nobody's: Redis may have lost it.
            Ok(Ok(false)) => break,
            Ok(Err(_)) | Err(_) => RENEW_AGAIN,
        };
    }
    if lease.left(BootTime::now()).is_some() {
        lease.lose();
    }
    std::future::pending().await
}

//! "Connect to": remote WebSocket servers that pathcast is a client of.
//!
//! Each is held by one pod at a time, and only that one connects, writes, and acts on what comes. A
//! pod that holds it renews its hold every two seconds and gives it back when it leaves; the others
//! look, and take it when it is free (`proto::tenure` has the rule). Whatever a connection ends of,
//! another one follows after a while, with the same hold.

pub mod connection;
pub mod dial;
pub mod guarded;
pub mod lease;
pub mod tls;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::broker::tenures::Grip;
use crate::clock::BootTime;
use crate::lifecycle::Lifecycle;
use crate::proto::backoff::{Attempts, Backoff};
use crate::proto::event::Event;
use crate::proto::millis::millis;
use crate::proto::tenure::{LOOK_EVERY, RENEW_AGAIN, RENEW_EVERY, Taker};
use crate::relay::Relay;
use crate::relay::desk::{self, Desk};
use crate::upstream::connection::{Service, Terms};
use crate::upstream::dial::{Dialled, Remote};
use crate::upstream::guarded::Ear;
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

/// Takes care of these until the pod leaves. The relay has their desks.
pub fn start(configs: Vec<Config>, relay: &Arc<Relay>, lifecycle: &Lifecycle) {
    for Config { desk, remote, terms, reconnect } in configs {
        let Some(desk) = relay.upstreams().named(desk.name.text()) else { continue };
        let upstream = Upstream {
            remote,
            terms,
            attempts: Attempts::new(reconnect),
            desk: desk.clone(),
            relay: relay.clone(),
            leaving: lifecycle.leaving().clone(),
            taker: Taker::default(),
            begun: BootTime::now(),
        };
        lifecycle.spawn(upstream.keep());
    }
}

impl Upstream {
    async fn keep(mut self) {
        let leaving = self.leaving.clone();
        let name = self.desk.config.name.text().clone();
        loop {
            let (grip, lease) = tokio::select! {
                biased;
                () = leaving.cancelled() => return,
                taken = self.take() => taken,
            };
            tracing::info!(upstream = %name, epoch = grip.epoch, "this pod holds the upstream");
            let (relay, desk) = (self.relay.clone(), self.desk.clone());
            desk.open(grip.epoch);
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
            let why = match dialled {
                Ok(dialled) => self.serve(dialled, lease, &ear).await,
                Err(fault) => {
                    self.desk.metrics.dials_failed.inc();
                    fault.to_string()
                }
            };
            let is_news = self.desk.disconnected(&why);
            if gone.as_mut().now_or_never().is_some() {
                return;
            }
            let random = Uuid::new_v4().as_u64_pair().0;
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

    /// Why the connection ended.
    async fn serve(&self, dialled: Dialled, lease: &Lease, ear: &Ear) -> String {
        let Dialled { socket, addr, subprotocol } = dialled;
        let (desk, upstreams) = (&*self.desk, self.relay.upstreams());
        desk.metrics.dials_opened.inc();
        desk.connected();
        tracing::info!(upstream = %desk.config.name, %addr, "connected");
        let remote = addr.to_string();
        let (subprotocol, user) = (subprotocol.as_deref(), None);
        let connect =
            Event::Connect { remote: &remote, subprotocol, user, origin: None, query: None };
        upstreams.tell(desk, &connect);
        let service = Service {
            terms: &self.terms,
            relay: &self.relay,
            desk,
            lease,
            ear,
            leaving: &self.leaving,
        };
        let end = service.serve(socket).await;
        upstreams.tell(desk, &Event::Disconnect { close: &end.close, cause: end.cause });
        end.why
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

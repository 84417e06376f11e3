//! The composition root: puts the parts together, starts them, and takes them down in good order.
//!
//! The only module that knows everyone. No part knows who made it.

pub mod leave;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::api;
use crate::backend::sse::Sse;
use crate::backend::stream::Stream;
use crate::backend::webhook::Webhooks;
use crate::broker::Broker;
use crate::broker::memory::Memory;
use crate::broker::redis::{Redis, Unusable};
use crate::config::{self, Drain, Settings, Source};
use crate::gateway::{Gateway, tls};
use crate::hub::Hub;
use crate::hub::inbound::Inbound;
use crate::hub::presence::Presence;
use crate::kubernetes;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::proto::millis::millis;
use crate::proto::session_id::PodId;
use crate::relay::ears::Ears;
use crate::relay::hearsay::Hearsay;
use crate::relay::local::Local;
use crate::relay::taps::Taps;
use crate::relay::upstreams::Upstreams;
use crate::relay::{Parts, Relay};
use crate::trace::export::{self, Count, Fate};
use crate::trace::span::Tracer;
use crate::upstream::Keeper;
use crate::watch::Changes;

/// Handshakes that wait to be accepted: a pod that lost a peer gets its clients all at once.
const BACKLOG: i32 = 4096;

/// A running gateway.
pub struct App {
    relay: Arc<Relay>,
    hub: Arc<Hub>,
    events: Arc<Sse>,
    stream: Arc<Stream>,
    ears: Arc<Ears>,
    webhooks: Arc<Webhooks>,
    upstreams: Keeper,
    metrics: Arc<Metrics>,
    tracer: Tracer,
    lifecycle: Lifecycle,
    drain: Drain,
    source: Source,
    clients: SocketAddr,
    api: SocketAddr,
}

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {0} for {1}: {2}")]
    Listen(SocketAddr, &'static str, io::Error),
    #[error("cannot use the certificate: {0}")]
    Tls(tls::Unusable),
    #[error("cannot start the shards: {0}")]
    Shards(io::Error),
    #[error("cannot make an id for this pod: {0}")]
    Random(getrandom::Error),
    #[error("cannot use the broker: {0}")]
    Broker(Unusable),
    #[error("cannot send spans: {0}")]
    Trace(export::Unusable),
    #[error("metrics contradict each other: {0}")]
    Metrics(String),
}

impl App {
    /// Starts everything; when it returns, both doors are open.
    pub async fn start(settings: Settings, source: Source) -> Result<App, Error> {
        let lifecycle = Lifecycle::default();
        let metrics = Metrics::new().map_err(|error| Error::Metrics(error.to_string()))?;
        let metrics = Arc::new(metrics);
        let mut pod = [0; 8];
        getrandom::fill(&mut pod).map_err(Error::Random)?;
        let pod = PodId(pod);
        let counted = metrics.clone();
        let count: Count = Arc::new(move |fate, spans| {
            let counter = match fate {
                Fate::Sent => &counted.spans_sent,
                Fate::Lost => &counted.spans_lost,
                Fate::Dropped => &counted.spans_dropped,
            };
            counter.inc_by(spans as u64);
        });
        let tracer = Tracer::start(&settings.trace, &pod, count).map_err(Error::Trace)?;

        let events = Arc::new(Sse::start(&lifecycle, metrics.clone()));
        let (stream, queue) = Stream::new(settings.stream_backlog_max, metrics.clone());
        let stream = Arc::new(stream);
        let partitions = settings.stream_partitions;
        let shards = settings.hub.shards;
        let hard = settings.hub.sessions_max;
        let soft = settings.relay.sessions_soft_max.unwrap_or(hard);
        let limit = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        metrics.sessions_limit_hard.set(limit(hard as u64));
        metrics.sessions_limit_soft.set(limit(soft as u64));
        metrics.outbox_bytes_max.set(limit(settings.hub.outbox_total_bytes_max as u64));
        metrics.stream_backlog_max.set(limit(settings.stream_backlog_max));
        let (webhooks, lanes) = Webhooks::new(
            settings.webhook,
            shards,
            metrics.clone(),
            lifecycle.clone(),
            tracer.clone(),
        );
        let webhooks = Arc::new(webhooks);
        let (ears, departures) =
            Ears::new(events.clone(), stream.clone(), webhooks.clone(), partitions);
        let ears = Arc::new(ears);
        let inbound: Arc<dyn Inbound> = ears.clone();
        let hub = Hub::start(pod, settings.hub, &metrics, &inbound).map_err(Error::Shards)?;
        let hub = Arc::new(hub);
        let presence = Arc::new(Presence::new(hub.shards()));
        let paths = Arc::new(ArcSwap::from_pointee(settings.paths));
        let hearsay = Arc::new(Hearsay::new(events.clone()));
        let (taps, tapped) = Taps::new(events.clone());
        let taps = Arc::new(taps);
        let standing = Upstreams::new(events.clone(), stream.clone(), partitions, pod);
        let standing = Arc::new(standing);
        let local = Local {
            upstreams: standing.clone(),
            hub: hub.clone(),
            presence: presence.clone(),
            metrics: metrics.clone(),
            frame_bytes_max: settings.relay.frame_bytes_max,
            retry_within_ms: millis(settings.drain.retry_after),
            paths: paths.clone(),
            hearsay: hearsay.clone(),
            tracer: tracer.clone(),
            taps: taps.clone(),
        };
        let broker: Box<dyn Broker> = match settings.broker {
            Some(config) => {
                let redis = Redis::start(config, pod, local, metrics.clone(), &lifecycle);
                Box::new(redis.map_err(Error::Broker)?)
            }
            None => {
                metrics.broker.up.set(1);
                Box::new(Memory::new(pod, local))
            }
        };
        let parts = Parts {
            upstreams: standing,
            broker,
            hub: hub.clone(),
            presence,
            events: events.clone(),
            webhooks: webhooks.clone(),
            hearsay,
            taps,
            metrics: metrics.clone(),
            paths,
            tracer: tracer.clone(),
            lifecycle: lifecycle.clone(),
        };
        let relay = Arc::new(Relay::new(settings.relay, parts));
        let closing = lifecycle.closing();
        lifecycle.spawn(relay.clone().keep_books(departures, closing.clone()));
        lifecycle.spawn(relay.clone().tell_taps(tapped, lifecycle.clone()));
        lifecycle.spawn(relay.clone().keep_hearing(closing.clone()));
        lifecycle.spawn(relay.clone().work_lanes(lanes, lifecycle.clone()));
        let streams =
            relay.clone().write_streams(stream.clone(), queue, partitions, closing.clone());
        lifecycle.spawn(streams);
        lifecycle.spawn(relay.clone().tell_orphans(ears.clone(), lifecycle.clone()));

        let upstreams = Keeper::new(relay.clone(), metrics.clone(), lifecycle.clone());
        // Whoever publishes finds them.
        upstreams.reconfigure(settings.upstreams);

        let (api_listener, api) = listen(settings.api.listen, "the API")?;
        let (listener, clients) = listen(settings.gateway.listen, "clients")?;
        let door = api::State::new(settings.api, relay.clone(), metrics.clone(), lifecycle.clone());
        lifecycle.spawn(api::serve(api_listener, door));
        let (trace, counts) = (tracer.clone(), metrics.clone());
        let gateway = Gateway::new(settings.gateway, relay.clone(), counts, trace, &lifecycle)
            .map_err(Error::Tls)?;
        lifecycle.spawn(Arc::new(gateway).serve(listener, lifecycle.clone()));

        if let Some(config) = settings.kubernetes {
            let hub = hub.clone();
            lifecycle.spawn(kubernetes::tell_cost(
                config,
                move || hub.occupied(),
                lifecycle.clone(),
            ));
        }
        tracing::info!(%pod, %clients, %api, shards = hub.shards(), "serving");
        let drain = settings.drain;
        Ok(App {
            relay,
            hub,
            events,
            stream,
            ears,
            webhooks,
            upstreams,
            metrics,
            tracer,
            lifecycle,
            drain,
            source,
            clients,
            api,
        })
    }

    /// Where clients connect.
    pub fn clients(&self) -> SocketAddr {
        self.clients
    }

    /// Where publishers call.
    pub fn api(&self) -> SocketAddr {
        self.api
    }

    /// Reads the configuration again. What is wrong with it is logged and shown, and nothing changes then.
    pub fn reload(&self) {
        let loaded = config::load(&self.source);
        self.metrics.configuration_refused.set(loaded.is_err().into());
        match loaded {
            Ok(settings) => {
                self.relay.reconfigure(Arc::new(settings.paths));
                self.upstreams.reconfigure(settings.upstreams);
                tracing::info!("took the configuration again: paths and upstreams are up to date");
            }
            Err(error) => {
                // An event is one line of the log, and this is several, with a mark below the place.
                let error = format!("kept the old configuration: {error}");
                error.lines().for_each(|line| tracing::error!("{line}"));
            }
        }
    }

    /// The changes of the configuration file. Without a file there are none.
    pub fn changes(&self) -> Changes {
        Changes::of(self.source.path.clone().into_iter().collect())
    }

    /// Resolves when other pods have taken this one for dead, and told the ends of its sessions.
    pub fn claimed(&self) -> impl Future<Output = ()> + use<> {
        self.lifecycle.claimed().clone().cancelled_owned()
    }
}

fn listen(address: SocketAddr, whom: &'static str) -> Result<(TcpListener, SocketAddr), Error> {
    let listen = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from_std(socket.into())?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    listen().map_err(|error| Error::Listen(address, whom, error))
}

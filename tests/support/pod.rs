//! A pod without its doors: hub, presence and memory broker, with sockets put in by hand.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use pathcast::backend::sse::Sse;
use pathcast::backend::stream::Stream;
use pathcast::broker::memory::Memory;
use pathcast::broker::{Broker, Pending, Publication};
use pathcast::hub::command::{Command, Frames, Greeting, Newcomer};
use pathcast::hub::inbound::{Inbound, Who};
use pathcast::hub::presence::Presence;
use pathcast::hub::socket::Socket;
use pathcast::hub::{Config, Hub};
use pathcast::lifecycle::Lifecycle;
use pathcast::metrics::Metrics;
use pathcast::proto::ask::Answer;
use pathcast::proto::close::{Cause, Close};
use pathcast::proto::frame::{Kind, encode};
use pathcast::proto::grant::Grant;
use pathcast::proto::msg::Content;
use pathcast::proto::path::Path;
use pathcast::proto::paths::{Configured, OnGap, Pattern};
use pathcast::proto::session_id::{PodId, SessionId};
use pathcast::relay::hearsay::Hearsay;
use pathcast::relay::local::Local;
use pathcast::relay::taps::Taps;
use pathcast::relay::upstreams::Upstreams;
use pathcast::trace::span::Tracer;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::wait::DEADLINE;

pub const POD: PodId = PodId([7; 8]);

/// Hears nothing.
pub struct Deaf;

impl Inbound for Deaf {
    fn opened(&self, _: Who<'_>, _: Option<SocketAddr>, _: &Greeting) {}
    fn message(&self, _: Who<'_>, _: Kind, _: &[u8]) -> u8 {
        0
    }
    fn closed(&self, _: Who<'_>, _: Option<(&Close, Cause)>) {}
}

pub struct Pod {
    pub hub: Arc<Hub>,
    pub broker: Memory<Local>,
    pub metrics: Arc<Metrics>,
    presence: Arc<Presence>,
    listener: TcpListener,
    /// What those who join from now on come with.
    pub configured: Arc<Configured>,
    /// Whether they agreed to deflated messages.
    pub deflates: bool,
}

/// Limits that nothing here reaches by accident.
pub fn roomy(shards: usize) -> Config {
    Config {
        shards,
        sessions_max: 10_000,
        session_age_max: None,
        message_bytes_max: 1 << 20,
        frame_bytes_max: 1 << 20,
        outbox_bytes_max: 1 << 30,
        outbox_total_bytes_max: 1 << 32,
        inbound_total_bytes_max: 1 << 30,
        mailbox_bytes_max: 1 << 30,
        slow_after: 2 * DEADLINE,
        close_timeout: Duration::from_secs(1),
        join_pause: None,
    }
}

/// The concrete path of that number.
pub fn path(number: usize) -> Path {
    Path::parse(&format!("/ws/{number}")).expect("a good path")
}

impl Pod {
    pub fn start(config: Config, inbound: Arc<dyn Inbound>) -> Pod {
        let metrics = Arc::new(Metrics::new().expect("families have names of their own"));
        let presence = Arc::new(Presence::new(config.shards));
        let frame_bytes_max = config.frame_bytes_max;
        let hub = Arc::new(Hub::start(POD, config, &metrics, &inbound).expect("shards start"));
        let local = local(&hub, &presence, &metrics, frame_bytes_max);
        let pattern = Pattern::parse("/ws/{room}").expect("a good pattern");
        Pod {
            hub,
            broker: Memory::new(POD, local),
            metrics,
            presence,
            listener: TcpListener::bind("127.0.0.1:0").expect("a free port"),
            configured: Arc::new(Configured::new(pattern)),
            deflates: false,
        }
    }

    /// A client on the path of that number, connected and past its handshake.
    pub fn join(&self, number: usize) -> (TcpStream, SessionId) {
        let address = self.listener.local_addr().expect("it is bound");
        let client = TcpStream::connect(address).expect("it listens");
        client.set_read_timeout(Some(DEADLINE)).expect("a timeout can be set");
        let (server, _) = self.listener.accept().expect("it was connected to");
        server.set_nonblocking(true).expect("a socket can be non-blocking");
        let id = self.hub.place().expect("there is room");
        self.reserve(id, number);
        self.hub.open(id, Socket::plain(server), Greeting::default());
        (client, id)
    }

    /// Gives a session that was placed its path.
    pub fn reserve(&self, id: SessionId, number: usize) {
        let path = path(number);
        self.presence.arrive(&path, &self.configured, id.shard.into()).expect("few paths");
        let configured = self.configured.clone();
        let newcomer =
            Newcomer { path: path.clone(), configured, deflates: self.deflates, trace: None };
        self.hub.reserve(id, newcomer, &self.metrics);
        if self.configured.on_gap == OnGap::Close {
            self.presence.mind_gap(&path, id.shard.into());
        }
    }

    /// What a broker tells of this pod.
    pub fn local(&self) -> Local {
        local(&self.hub, &self.presence, &self.metrics, 1 << 20)
    }

    /// Publishes through the broker.
    pub fn publish(&self, path: Path, content: Content) -> Pending<u64> {
        self.broker.publish(Publication { id: Uuid::nil(), path, content, traceparent: None })
    }

    /// Hands a text to one shard, past the broker; whether the shard took it.
    pub fn broadcast(&self, number: usize, text: &str) -> bool {
        let payload = Some(encode(Kind::Text, text.as_bytes()));
        let frames = Frames { payload, ..Frames::default() };
        self.hub.broadcast(&path(number), &frames, &[0]).is_empty()
    }

    /// Ends a session as a publisher may.
    pub fn kick(&self, id: SessionId) -> Answer {
        let (reply, answer) = oneshot::channel();
        let command =
            Command::Close { id, grant: Grant::All, close: Close::new(4000, "kicked"), reply };
        self.hub.tell(&id, command).expect("a kick always fits");
        answer.blocking_recv().expect("the shard lives")
    }
}

fn local(
    hub: &Arc<Hub>,
    presence: &Arc<Presence>,
    metrics: &Arc<Metrics>,
    frame_bytes_max: usize,
) -> Local {
    // Nobody listens, so nobody has to hand events on.
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let entered = runtime.enter();
    let events = Arc::new(Sse::start(&Lifecycle::default(), metrics.clone()));
    drop(entered);
    let stream = Arc::new(Stream::new(1_000, metrics.clone()).0);
    Local {
        hub: hub.clone(),
        presence: presence.clone(),
        metrics: metrics.clone(),
        frame_bytes_max,
        retry_within_ms: 1_000,
        paths: Arc::default(),
        hearsay: Arc::new(Hearsay::new(events.clone())),
        taps: Arc::new(Taps::new(events.clone()).0),
        upstreams: Arc::new(Upstreams::new(events, stream, 1, POD)),
        tracer: Tracer::default(),
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.hub.stop();
    }
}

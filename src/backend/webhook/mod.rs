//! Webhooks: every event of a path or an upstream with `webhook = "…"`, posted to its URL, in order and at least once.
//!
//! Shards offer events and never wait: an event goes into its teller's lane (`lanes`), and whoever works
//! the lane posts it (`target`). A lane that is full holds its teller, which is then not read: a backend that is
//! slow, or down, stops those who talk to it, nothing is dropped, and nobody else notices.

pub mod exchange;
pub mod lanes;
pub mod leave;
pub mod request;
pub mod target;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::backend::webhook::exchange::Client;
use crate::backend::webhook::lanes::{Event, Job, Key, Lanes, Source, Teller, Whose};
use crate::backend::webhook::leave::MayLeave;
use crate::backend::webhook::target::{Admission, Delivery, Target};
use crate::complaints::Complaints;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::proto::event::{self, About, Feed, Head};
use crate::proto::frame::Kind;
use crate::proto::msg;
use crate::proto::traceparent::Traceparent;
use crate::proto::webhook::Webhook;
use crate::proto::webhook::signature::Secret;
use crate::proto::webhook::url::Url;
use crate::trace::span::Tracer;

/// What may wait in all lanes before every session that sends more is held.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// Lines in the log of what single events came to.
const COMPLAINTS_PER_SECOND: u32 = 10;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const OCTETS: &str = "application/octet-stream";

#[derive(Debug, Clone)]
pub struct Config {
    /// All of them sign.
    pub secrets: Vec<Secret>,
    /// For one exchange, from the first byte out to the last byte in.
    pub timeout: Duration,
    /// How long a client waits for the answer to its connect.
    pub connect_limit: Duration,
    /// Messages under way at once, to one target.
    pub in_flight: usize,
    /// Connects, the same.
    pub connects_in_flight: usize,
    /// Disconnects, the same.
    pub disconnects_in_flight: usize,
    /// Whether a target is asked first whether it wants events.
    pub validate: bool,
    /// In whose name it is asked.
    pub origin: String,
    /// The largest body of an answer that becomes a reply.
    pub answer_bytes_max: usize,
}

pub struct Webhooks {
    config: Config,
    pub lanes: Lanes,
    /// Made when the first event goes out: who has no webhooks needs no authorities.
    client: OnceLock<Client>,
    lifecycle: Lifecycle,
    /// By URL: the configuration may name one for several paths, and new ones after a reload.
    targets: Mutex<HashMap<Url, Arc<Target>>>,
    /// What backends did wrong.
    pub complaints: Complaints,
    tracer: Tracer,
    metrics: Arc<Metrics>,
}

impl Webhooks {
    /// `shards`: those who offer events. Also the lanes that are to be worked.
    pub fn new(
        config: Config,
        shards: usize,
        metrics: Arc<Metrics>,
        lifecycle: Lifecycle,
        tracer: Tracer,
    ) -> (Webhooks, mpsc::UnboundedReceiver<Key>) {
        let (lanes, ready) = Lanes::new(shards, WAITING_BYTES_MAX, metrics.clone());
        let (client, targets) = (OnceLock::new(), Mutex::default());
        let complaints = Complaints::new(COMPLAINTS_PER_SECOND);
        let webhooks =
            Webhooks { config, lanes, client, lifecycle, targets, complaints, tracer, metrics };
        (webhooks, ready)
    }

    /// A message of a client. Whether its session is to be held.
    #[must_use]
    pub fn message(
        &self,
        whose: Whose,
        trace: Option<&Traceparent>,
        seq: u64,
        time_ms: u64,
        kind: Kind,
        data: &[u8],
    ) -> bool {
        let whole = |kind, data: &[u8]| msg::from_client(true, kind, data, &whose.session);
        let (content_type, body) = body(whose.configured.wholemsg, kind, data, whole);
        let id = event::id_of(&whose.session, seq, event::Kind::Message);
        let event = message(id, seq, time_ms, content_type, body);
        let event = Event { traceparent: trace.copied(), ..event };
        self.lanes.push(Teller::Session(whose), event)
    }

    /// A message of an upstream, which finds out by `is_held` whether it is to be read on.
    pub fn upstream_message(&self, source: Source, feed: &Feed<'_>, kind: Kind, data: &[u8]) {
        let whole = |kind, data: &[u8]| msg::from_upstream(true, kind, data);
        let (content_type, body) = body(source.wholemsg, kind, data, whole);
        let id = event::id_in(feed);
        let event = message(id, feed.seq, feed.time_ms, content_type, body);
        let _ = self.lanes.push(Teller::Upstream(source), event);
    }

    /// Offers an event until something final became of it. `None`: its path has no webhook.
    pub async fn deliver(&self, job: &Job, may_leave: &MayLeave) -> Option<Delivery> {
        let webhook = job.teller.webhook()?;
        let target = self.target(webhook);
        let Webhooks { config, metrics, .. } = self;
        Some(target.deliver(self.client(may_leave), config, metrics, webhook, job, may_leave).await)
    }

    /// Asks the backend of a path whether a client may come.
    pub async fn admit(&self, webhook: &Webhook, job: &Job, may_leave: &MayLeave) -> Admission {
        let target = self.target(webhook);
        // What waits for others' backends is not for this one's clients to answer for.
        if self.lanes.is_full() && target.is_busy() {
            return Admission::Full;
        }
        target.admit(self.client(may_leave), &self.config, &self.metrics, job, may_leave).await
    }

    fn client(&self, may_leave: &MayLeave) -> &Client {
        let Config { in_flight, connects_in_flight, disconnects_in_flight, .. } = self.config;
        let idle_max = in_flight + connects_in_flight + disconnects_in_flight;
        self.client.get_or_init(|| Client::new(&self.lifecycle, idle_max, may_leave.clone()))
    }

    fn target(&self, webhook: &Webhook) -> Arc<Target> {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let target = targets.entry(webhook.url.clone());
        let new = || Target::new(webhook.url.clone(), &self.config, self.tracer.clone());
        target.or_insert_with(|| Arc::new(new())).clone()
    }
}

/// A connect or a disconnect as a request has it: the event as JSON.
pub fn told<'a>(about: impl Into<About<'a>>, event: &event::Event<'_>) -> Event {
    let about = about.into();
    let (seq, time_ms, traceparent) = match about {
        About::Session(head) => (head.seq, head.time_ms, head.traceparent.copied()),
        About::Upstream(feed) => (feed.seq, feed.time_ms, None),
    };
    Event {
        id: event::id(about, event),
        kind: event::kind(event),
        seq,
        time_ms,
        traceparent,
        content_type: JSON,
        body: event::json(about, event),
        at: Instant::now(),
    }
}

/// What stands in the body of a message; `whole` makes the msg of it.
fn body(
    wholemsg: bool,
    kind: Kind,
    data: &[u8],
    whole: impl Fn(Kind, &[u8]) -> String,
) -> (&'static str, Bytes) {
    match (wholemsg, kind) {
        (true, _) => (JSON, whole(kind, data).into()),
        (false, Kind::Text) => (TEXT, Bytes::copy_from_slice(data)),
        (false, Kind::Binary) => (OCTETS, Bytes::copy_from_slice(data)),
    }
}

fn message(id: String, seq: u64, time_ms: u64, content_type: &'static str, body: Bytes) -> Event {
    let kind = event::Kind::Message;
    Event { id, kind, seq, time_ms, traceparent: None, content_type, body, at: Instant::now() }
}

/// The event of a job as everybody else hears it: JSON on one line.
pub fn json(job: &Job) -> Bytes {
    let Job { teller, event } = job;
    let kind = match (event.kind, event.content_type) {
        (event::Kind::Message, OCTETS) => Kind::Binary,
        (event::Kind::Message, _) => Kind::Text,
        (event::Kind::Connect | event::Kind::Disconnect, _) => return event.body.clone(),
    };
    let wholemsg = teller.wholemsg();
    match teller {
        Teller::Session(whose) => {
            let msg = msg::from_client(wholemsg, kind, &event.body, &whose.session);
            let head = head(whose, event.traceparent.as_ref(), event.seq, event.time_ms);
            event::json(&head, &event::Event::Message { msg: &msg })
        }
        Teller::Upstream(source) => {
            let msg = msg::from_upstream(wholemsg, kind, &event.body);
            let feed = feed(source, event.seq, event.time_ms);
            event::json(&feed, &event::Event::Message { msg: &msg })
        }
    }
}

/// What every event of a session tells.
pub fn head<'a>(
    whose: &'a Whose,
    trace: Option<&'a Traceparent>,
    seq: u64,
    time_ms: u64,
) -> Head<'a> {
    Head {
        session: &whose.session,
        path: whose.path.as_str(),
        pod: &whose.session.pod,
        seq,
        time_ms,
        traceparent: trace,
    }
}

/// What every event of an upstream tells.
pub fn feed(source: &Source, seq: u64, time_ms: u64) -> Feed<'_> {
    Feed { upstream: &source.upstream, pod: &source.pod, seq, time_ms }
}

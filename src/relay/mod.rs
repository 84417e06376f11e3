//! Where broker (all pods) and hub (this pod) meet: attach, detach, publish, unicast, list.
//!
//! A publish goes to the broker and comes back from it like everybody else's; nothing here
//! short-cuts it, not even for this pod's own sessions, because the order of messages is the
//! broker's. Questions about a session go to the pod its id names, and that pod decides.

pub mod attachment;
pub mod desk;
pub mod ears;
pub mod hearsay;
pub mod listening;
pub mod listing;
pub mod local;
pub mod orphans;
pub mod streams;
pub mod taps;
pub mod upstreams;
pub mod webhooks;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::backend::sse::Sse;
use crate::backend::webhook::Webhooks;
use crate::broker::{Broker, Failure, Letter, Outage, Pending, Publication};
use crate::hub::Hub;
use crate::hub::command::{Farewell, Sweep, Whom};
use crate::hub::presence::Presence;
use crate::lifecycle::Lifecycle;
use crate::metrics::{Metrics, PathMetrics};
use crate::proto::ask::{Answer, Ask, PathCount, Reach, SessionInfo};
use crate::proto::close::{Cause, Close};
use crate::proto::grant::Grant;
use crate::proto::msg::Content;
use crate::proto::path::Path;
use crate::proto::paths::Paths;
use crate::proto::session_id::SessionId;
use crate::proto::spelling::bounded;
use crate::proto::traceparent::Traceparent;
use crate::relay::ears::Departure;
use crate::relay::hearsay::Hearsay;
use crate::relay::listening::Vacant;
use crate::relay::taps::Taps;
use crate::relay::upstreams::Upstreams;
use crate::trace::span::{Kind, Span, Tracer};

/// How long a publisher waits for a crowded pod before it is refused.
const CROWDED_WAIT: Duration = Duration::from_secs(1);

/// How often it looks meanwhile: a mailbox drains a megabyte in less.
const CROWDED_POLL: Duration = Duration::from_millis(5);

/// How long a subscription may take to be confirmed.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Of how many paths on either side, in the order of paths, the nearest one is picked: telling it
/// is a courtesy, and publishing to empty paths is ordinary.
const NEAREST_OF: usize = 8;

/// The longest part in which they may differ: clients choose the names, and comparing costs by its
/// square.
const NEAREST_CHARS_MAX: usize = 48;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What a msg may become as a frame.
    pub frame_bytes_max: usize,
    /// How long an answer about one session may take before it is unknown.
    pub unicast_timeout: Duration,
    /// How long the broker may be away before this pod is not ready.
    pub unready_after: Duration,
    /// With more sessions than this the pod is not ready.
    pub sessions_soft_max: Option<usize>,
}

/// What became of a broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    pub id: Uuid,
    /// Subscriptions that got it: a hint.
    pub receivers: u64,
}

/// Why something asked of the relay was not, or not surely, done; by what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such session")]
    Gone,
    #[error("no answer in time: it may have been delivered, or may yet be")]
    Unknown,
    #[error("not sent: {0}")]
    Unavailable(&'static str),
    #[error("the outbox of that session is full")]
    OutboxFull,
    #[error("this pod has more to deliver than it can hold")]
    Overloaded,
    #[error("the path is not configured any more")]
    NoSuchPath,
    #[error("there is nothing to send")]
    Nothing,
    #[error("the frame would be larger than {0} bytes")]
    TooBig(usize),
}

/// The parts that the relay brings together; made by the app.
pub struct Parts {
    pub broker: Box<dyn Broker>,
    pub hub: Arc<Hub>,
    pub presence: Arc<Presence>,
    pub events: Arc<Sse>,
    pub webhooks: Arc<Webhooks>,
    /// Of other pods, to this one's listeners.
    pub hearsay: Arc<Hearsay>,
    /// Of this pod, to other pods' listeners.
    pub taps: Arc<Taps>,
    pub upstreams: Arc<Upstreams>,
    pub metrics: Arc<Metrics>,
    pub paths: Arc<ArcSwap<Paths>>,
    pub tracer: Tracer,
    pub lifecycle: Lifecycle,
}

pub struct Relay {
    config: Config,
    broker: Box<dyn Broker>,
    hub: Arc<Hub>,
    presence: Arc<Presence>,
    events: Arc<Sse>,
    webhooks: Arc<Webhooks>,
    hearsay: Arc<Hearsay>,
    taps: Arc<Taps>,
    upstreams: Arc<Upstreams>,
    metrics: Arc<Metrics>,
    paths: Arc<ArcSwap<Paths>>,
    /// More sessions than the soft limit, when it was last asked.
    is_crowded: AtomicBool,
    vacant: Vacant,
    tracer: Tracer,
    lifecycle: Lifecycle,
}

/// A broadcast that has its place.
struct Begun {
    id: Uuid,
    pending: Pending<u64>,
    span: Span,
}

impl Relay {
    pub fn new(config: Config, parts: Parts) -> Relay {
        let Parts { broker, hub, presence, events, webhooks, hearsay, taps, .. } = parts;
        let Parts { upstreams, metrics, paths, tracer, lifecycle, .. } = parts;
        let vacant = Vacant::default();
        count_from_zero(&metrics, &paths.load());
        Relay {
            config,
            broker,
            hub,
            presence,
            events,
            webhooks,
            hearsay,
            taps,
            upstreams,
            metrics,
            paths,
            is_crowded: AtomicBool::new(false),
            vacant,
            tracer,
            lifecycle,
        }
    }

    /// The configured paths, as of now.
    pub fn paths(&self) -> Arc<Paths> {
        self.paths.load_full()
    }

    /// Takes other paths. Sessions of paths that are no more are closed 1001; all others keep the
    /// settings they came with.
    pub fn reconfigure(&self, paths: Arc<Paths>) {
        count_from_zero(&self.metrics, &paths);
        let before = self.paths.swap(paths.clone());
        for old in before.iter() {
            let text = old.pattern.text();
            if paths.named(text).is_none() {
                self.hub.sweep(&Sweep {
                    whom: Whom::Configured(text.clone()),
                    cause: Cause::Server,
                    farewell: Farewell::Fixed(Close::new(1001, "this path was removed")),
                });
            }
        }
    }

    /// Broadcasts. The order of calls is the order of messages: the message takes its place when
    /// this is called, the future only waits for the answer.
    pub fn publish(
        &self,
        path: Path,
        content: Content,
        traceparent: Option<Traceparent>,
    ) -> impl Future<Output = Result<Receipt, Refusal>> + Send + use<> {
        let source = |path: &PathMetrics| path.published_http.inc();
        let begun = self.may_send().and_then(|()| self.begin(&path, content, traceparent, source));
        async move {
            let Begun { id, pending, span } = begun?;
            Ok(Receipt { id, receivers: taken(pending, span).await? })
        }
    }

    /// Gives a broadcast its place. `count`: where it came from.
    fn begin(
        &self,
        path: &Path,
        content: Content,
        traceparent: Option<Traceparent>,
        count: impl FnOnce(&PathMetrics),
    ) -> Result<Begun, Refusal> {
        let paths = self.paths.load();
        let Some((path, configured)) = paths.resolve(path.as_str()) else {
            return Err(Refusal::NoSuchPath);
        };
        let (_, payload) = content.frame(configured.wholemsg).ok_or(Refusal::Nothing)?;
        if payload.len() > self.config.frame_bytes_max {
            return Err(Refusal::TooBig(self.config.frame_bytes_max));
        }
        count(&self.metrics.path(configured.pattern.text()));
        let id = Uuid::now_v7();
        let mut span = self.tracer.span(Kind::Publish, traceparent.as_ref());
        span.text("pathcast.kind", "broadcast");
        span.text("pathcast.path", configured.pattern.text());
        let publication = Publication { id, path, content, traceparent: span.context() };
        Ok(Begun { id, pending: self.broker.publish(publication), span })
    }

    /// Sends to one session; in one order with `publish`.
    pub fn unicast(
        &self,
        to: SessionId,
        reach: Reach,
        content: Content,
        traceparent: Option<Traceparent>,
    ) -> impl Future<Output = Result<(), Refusal>> + Send + use<> {
        let mut span = self.tracer.span(Kind::Publish, traceparent.as_ref());
        if span.is_recording() {
            span.text("pathcast.kind", "unicast");
            if let Reach::Path(path) = &reach
                && let Some((_, configured)) = self.paths.load().resolve(path.as_str())
            {
                span.text("pathcast.path", configured.pattern.text());
            }
        }
        let ask = Ask::Unicast { to, reach, content };
        let traceparent = span.context();
        let may = self.may_send();
        let answer = may.map(|()| self.ask(Letter { to: to.pod, ask, traceparent }));
        let metrics = self.metrics.clone();
        async move {
            let answer = match answer {
                Ok(answer) => answer.await,
                Err(refusal) => Err(refusal),
            };
            let results = &metrics.unicasts;
            match &answer {
                Ok(answer) => results.of(answer).inc(),
                Err(Refusal::Unknown) => results.unknown.inc(),
                Err(_) => results.refused.inc(),
            }
            match &answer {
                Ok(answer) => span.text("pathcast.result", answer.as_str()),
                Err(refusal) => span.fail(refusal),
            }
            match answer? {
                Answer::Delivered => Ok(()),
                answer => Err(answer.into()),
            }
        }
    }

    /// A pod that leaves sends nothing new: another one will, and nobody is told `gone` of a session
    /// that only moves.
    fn may_send(&self) -> Result<(), Refusal> {
        match self.is_draining() {
            true => Err(Refusal::Unavailable("this pod is leaving")),
            false => Ok(()),
        }
    }

    /// Waits until this pod can take more, at most a second; `Overloaded` after that. To be asked
    /// before each publish or unicast.
    pub async fn room(&self) -> Result<(), Refusal> {
        if !self.hub.is_crowded() {
            return Ok(());
        }
        let waited = tokio::time::timeout(CROWDED_WAIT, async {
            while self.hub.is_crowded() {
                tokio::time::sleep(CROWDED_POLL).await;
            }
        });
        waited.await.map_err(|_| Refusal::Overloaded)
    }

    pub async fn look_up(&self, id: SessionId, grant: Grant) -> Result<SessionInfo, Refusal> {
        match self.ask(Letter::new(id.pod, Ask::LookUp { id, grant })).await? {
            Answer::Info(info) => Ok(info),
            answer => Err(answer.into()),
        }
    }

    /// Ends a session.
    pub async fn close(&self, id: SessionId, grant: Grant, close: Close) -> Result<(), Refusal> {
        match self.ask(Letter::new(id.pod, Ask::Close { id, grant, close })).await? {
            Answer::Closed => Ok(()),
            answer => Err(answer.into()),
        }
    }

    /// Takes note of sessions that have left their paths, until the pod closes.
    pub async fn keep_books(
        self: Arc<Self>,
        mut departures: mpsc::UnboundedReceiver<Departure>,
        closing: CancellationToken,
    ) {
        loop {
            let departure = tokio::select! {
                departure = departures.recv() => departure,
                () = closing.cancelled() => return,
            };
            let Some(Departure { id, path, configured, unheard }) = departure else { return };
            self.presence.depart(&path, &configured, usize::from(id.shard));
            for _ in 0..unheard {
                self.broker.settle(&id);
            }
            self.broker.unsubscribe(&path);
        }
    }

    /// Measures what changes with every session, for whoever asks now.
    pub fn note_balance(&self) {
        let imbalance = i64::try_from(self.hub.imbalance()).unwrap_or(i64::MAX);
        self.metrics.shard_imbalance.set(imbalance);
    }

    /// The path with clients on this pod, of those that the asker `may` know, that is most like this
    /// one.
    /// `None` also when none is like it.
    pub fn nearest(&self, path: &Path, may: impl Fn(&PathCount) -> bool) -> Option<PathCount> {
        let candidates = self.presence.around(path, NEAREST_OF).into_iter().filter(may);
        let ranked = candidates.filter_map(|count| {
            let slips = bounded(count.path.as_str(), path.as_str(), NEAREST_CHARS_MAX)?;
            Some((slips, count))
        });
        ranked.min_by_key(|&(slips, _)| slips).map(|(_, count)| count)
    }

    /// Whether this pod is to leave; it may still take clients in.
    pub fn is_leaving(&self) -> bool {
        self.lifecycle.leaving().is_cancelled()
    }

    /// Whether this pod takes nobody in any more.
    pub fn is_draining(&self) -> bool {
        self.lifecycle.draining().is_cancelled()
    }

    /// What is not alive, if anything: shards that do not turn.
    pub fn liveness(&self) -> Result<(), String> {
        match self.hub.stuck().as_slice() {
            [] => Ok(()),
            stuck => Err(format!("shards {stuck:?} do not turn")),
        }
    }

    /// What keeps this pod from being ready, if anything.
    pub fn readiness(&self) -> Result<(), String> {
        if self.is_leaving() {
            return Err("this pod is leaving".to_owned());
        }
        if let Some(soft_max) = self.config.sessions_soft_max {
            let sessions = self.hub.occupied();
            let was_crowded = self.is_crowded.load(Ordering::Relaxed);
            // Once it was said, some have to go: a pod that is ready every other second is worse
            // than one that is not.
            let fewer = soft_max - soft_max / 10;
            let most = if was_crowded { fewer } else { soft_max };
            self.is_crowded.store(sessions > most, Ordering::Relaxed);
            if sessions > most {
                return Err(format!(
                    "{sessions} sessions: ready again with {fewer}, as limits.sessions_soft_max is {soft_max}"
                ));
            }
        }
        match self.broker.outage() {
            Outage::None => {}
            Outage::Never => return Err("the broker has not been reached yet".to_owned()),
            Outage::Since(since) => {
                if since.elapsed() >= self.config.unready_after {
                    let seconds = since.elapsed().as_secs();
                    return Err(format!("the broker has been away for {seconds} s"));
                }
            }
        }
        self.liveness()
    }

    fn ask(&self, letter: Letter) -> impl Future<Output = Result<Answer, Refusal>> + Send + use<> {
        let pending = self.broker.ask(letter);
        let limit = self.config.unicast_timeout;
        async move {
            match tokio::time::timeout(limit, pending).await {
                Ok(answer) => Ok(answer?),
                Err(_) => Err(Refusal::Unknown),
            }
        }
    }
}

/// Waits for the broker's word, which the span ends with.
async fn taken(pending: Pending<u64>, mut span: Span) -> Result<u64, Failure> {
    let receivers = pending.await;
    match &receivers {
        Ok(receivers) => span.number("pathcast.receivers", *receivers),
        Err(failure) => span.fail(failure),
    }
    receivers
}

/// Makes the series of each path, so that a pod that nobody has come to yet counts zero sessions: an
/// autoscaler would take it for one of which nothing is known.
fn count_from_zero(metrics: &Metrics, paths: &Paths) {
    for configured in paths.iter() {
        metrics.path(configured.pattern.text());
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        match failure {
            Failure::Unavailable(why) => Refusal::Unavailable(why),
            Failure::Unknown => Refusal::Unknown,
        }
    }
}

impl From<Answer> for Refusal {
    /// An answer that is not the one hoped for. One that does not fit the question at all comes
    /// from a pod that speaks another language: nothing is known then.
    fn from(answer: Answer) -> Refusal {
        match answer {
            Answer::Gone => Refusal::Gone,
            Answer::OutboxFull => Refusal::OutboxFull,
            Answer::Overloaded => Refusal::Overloaded,
            Answer::Nothing => Refusal::Nothing,
            Answer::TooBig(limit) => Refusal::TooBig(limit),
            _ => Refusal::Unknown,
        }
    }
}

//! This pod as the broker sees it: what comes from the broker goes to the hub.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::broker::{Failure, Pending, Receiver};
use crate::hub::Hub;
use crate::hub::command::{Command, Farewell, Frames, Sweep, Whom};
use crate::hub::presence::Presence;
use crate::metrics::Metrics;
use crate::proto::ask::{Answer, Ask, Reach, SessionInfo};
use crate::proto::close::Cause;
use crate::proto::frame;
use crate::proto::grant::Grant;
use crate::proto::msg::Content;
use crate::proto::path::Path;
use crate::proto::paths::Paths;
use crate::proto::session_id::SessionId;
use crate::proto::telling::Told;
use crate::proto::traceparent::Traceparent;
use crate::relay::hearsay::Hearsay;
use crate::relay::taps::Taps;
use crate::relay::upstreams::Upstreams;
use crate::trace::span::{Kind, Span, Tracer};

pub struct Local {
    pub hub: Arc<Hub>,
    pub presence: Arc<Presence>,
    pub metrics: Arc<Metrics>,
    /// What a msg may become as a frame.
    pub frame_bytes_max: usize,
    /// Whom a gap closes comes back after a random time up to this.
    pub retry_within_ms: u64,
    pub paths: Arc<ArcSwap<Paths>>,
    pub hearsay: Arc<Hearsay>,
    pub taps: Arc<Taps>,
    pub upstreams: Arc<Upstreams>,
    pub tracer: Tracer,
}

impl Local {
    /// Ends those whom a gap closes.
    fn after_gap(&self, whom: Whom) -> Sweep {
        let farewell = Farewell::RetryWithin { ms: self.retry_within_ms };
        Sweep { whom, cause: Cause::Gap, farewell }
    }
}

impl Receiver for Local {
    fn published(&self, path: &Path) {
        if let Some(configured) = self.presence.configured(path) {
            self.metrics.path(&configured).published_redis.inc();
        }
    }

    fn broadcast(&self, path: &Path, content: &Content, traceparent: Option<&Traceparent>) -> bool {
        let Some(audience) = self.presence.audience(path) else { return false };
        let mut span = self.tracer.child(Kind::FanOut, traceparent);
        let undelivered = || self.metrics.path(&audience.configured);
        let form = |wholemsg: bool| match content.frame(wholemsg) {
            None => {
                undelivered().undelivered_nothing.inc();
                None
            }
            Some((_, payload)) if payload.len() > self.frame_bytes_max => {
                undelivered().undelivered_too_big.inc();
                None
            }
            Some((kind, payload)) => Some(frame::encode(kind, &payload)),
        };
        let mut frames = Frames {
            payload: audience.payload.then(|| form(false)).flatten(),
            whole: audience.whole.then(|| form(true)).flatten(),
            deflated: audience.deflated.then(Arc::default),
            span: None,
        };
        if span.is_recording() {
            let bytes = frames.payload.as_ref().or(frames.whole.as_ref()).map_or(0, Bytes::len);
            span.text("pathcast.path", &audience.configured);
            span.number("pathcast.sessions", audience.sessions.into());
            span.number("pathcast.bytes", bytes as u64);
            frames.span = Some(Arc::new(span));
        }
        let refused = self.hub.broadcast(path, &frames, &audience.shards);
        if !refused.is_empty() {
            undelivered().undelivered_overload.inc_by(refused.len() as u64);
        }
        for shard in refused {
            if self.presence.take_gap_minder(path, shard) {
                let sweep = self.after_gap(Whom::GapOn(path.clone()));
                // Without bytes, so it always fits.
                let _ = self.hub.tell_shard(shard, Command::Sweep(sweep));
            }
        }
        true
    }

    fn upstream(&self, name: &str, content: Content) {
        self.upstreams.published(name, &content);
    }

    fn ask(&self, ask: Ask, traceparent: Option<&Traceparent>) -> Pending<Answer> {
        if let Some(answer) = self.upstreams.ask(&ask) {
            return answer;
        }
        let (reply, answer) = oneshot::channel();
        let named = match &ask {
            Ask::Unicast { to, .. } => Some(to.shard),
            Ask::LookUp { id, .. } | Ask::Close { id, .. } => Some(id.shard),
            Ask::List { .. }
            | Ask::Census
            | Ask::Tap { .. }
            | Ask::Upstream { .. }
            | Ask::UpstreamState { .. } => None,
        };
        if named.is_some_and(|shard| usize::from(shard) >= self.hub.shards()) {
            return Box::pin(std::future::ready(Ok(Answer::Gone)));
        }
        let mut span = match &ask {
            Ask::Unicast { .. } => self.tracer.child(Kind::Unicast, traceparent),
            _ => Span::default(),
        };
        let told = match ask {
            Ask::Unicast { to, reach, content } => {
                if let (Reach::Path(path), true) = (&reach, span.is_recording())
                    && let Some(configured) = self.presence.configured(path)
                {
                    span.text("pathcast.path", &configured);
                }
                self.hub.tell(&to, Command::Unicast { to, reach, content, reply })
            }
            Ask::LookUp { id, grant } => self.hub.tell(&id, Command::LookUp { id, grant, reply }),
            Ask::Close { id, grant, close } => {
                self.hub.tell(&id, Command::Close { id, grant, close, reply })
            }
            Ask::List { filter, after, limit, grant } => {
                return Box::pin(list(self.hub.clone(), filter, after, limit, grant));
            }
            Ask::Census => {
                let census = self.presence.census();
                return Box::pin(std::future::ready(Ok(Answer::Census(census))));
            }
            Ask::Tap { configured } => {
                let paths = self.paths.load();
                let path = paths.named(&configured).map(|one| one.pattern.text().clone());
                let upstream =
                    || Some(self.upstreams.named(&configured)?.config.name.text().clone());
                let answer = match path.or_else(upstream) {
                    Some(text) => Answer::Tapped(self.taps.ask(&text, Instant::now())),
                    None => Answer::Gone,
                };
                return Box::pin(std::future::ready(Ok(answer)));
            }
            // Answered above.
            Ask::Upstream { .. } | Ask::UpstreamState { .. } => {
                return Box::pin(std::future::ready(Ok(Answer::Gone)));
            }
        };
        if told.is_err() {
            return Box::pin(std::future::ready(Ok(Answer::Overloaded)));
        }
        Box::pin(async move {
            // A shard that ends with the pod answers nothing, which proves nothing.
            let answer = answer.await.map_err(|_| Failure::Unknown);
            if span.is_recording() {
                span.text("pathcast.result", answer.as_ref().map_or("unknown", Answer::as_str));
            }
            answer
        })
    }

    fn gap(&self) {
        tracing::warn!("broadcasts may have been missed while the broker was away");
        self.hub.sweep(&self.after_gap(Whom::Gap));
        self.hearsay.tear();
    }

    fn told(&self, configured: &str, told: Told) {
        self.hearsay.told(configured, told);
    }

    fn configured(&self) -> Vec<Arc<str>> {
        let paths = self.paths.load();
        let paths = paths.iter().map(|one| one.pattern.text().clone());
        paths.chain(self.upstreams.names()).collect()
    }

    fn tapped(&self, taps: &[(Arc<str>, Duration)]) {
        self.taps.look(taps, Instant::now());
    }
}

/// Goes through the shards in their order: so ids come in theirs.
async fn list(
    hub: Arc<Hub>,
    filter: Option<String>,
    after: Option<SessionId>,
    limit: usize,
    grant: Grant,
) -> Result<Answer, Failure> {
    let mut found = Vec::new();
    let first = after.map_or(0, |after| usize::from(after.shard));
    let mut from = after.map(|after| after.random);
    for shard in first..hub.shards() {
        loop {
            let limit = limit - found.len();
            if limit == 0 {
                let after = found.last().map(|info: &SessionInfo| info.id);
                return Ok(Answer::Sessions { sessions: found, after });
            }
            let (reply, answer) = oneshot::channel();
            let (filter, grant) = (filter.clone(), grant.clone());
            let command = Command::List { filter, after: from, limit, grant, reply };
            // Without bytes, so it always fits.
            let _ = hub.tell_shard(shard, command);
            let Ok(Answer::Sessions { sessions, after }) = answer.await else {
                return Err(Failure::Unknown);
            };
            found.extend(sessions);
            from = after.map(|after| after.random);
            if from.is_none() {
                break;
            }
        }
    }
    Ok(Answer::Sessions { sessions: found, after: None })
}

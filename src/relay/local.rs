//! This pod as the broker sees it: what comes from the broker goes to the hub.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::broker::{Failure, Pending, Receiver};
use crate::hub::Hub;
use crate::hub::command::{Command, Frames};
use crate::hub::presence::Presence;
use crate::metrics::Metrics;
use crate::proto::ask::{Answer, Ask, SessionInfo};
use crate::proto::frame;
use crate::proto::grant::Grant;
use crate::proto::msg::Content;
use crate::proto::path::Path;
use crate::proto::paths::Paths;
use crate::proto::session_id::SessionId;
use crate::proto::telling::Told;
use crate::relay::hearsay::Hearsay;
use crate::relay::taps::Taps;

pub struct Local {
    pub hub: Arc<Hub>,
    pub presence: Arc<Presence>,
    pub metrics: Arc<Metrics>,
    /// What a msg may become as a frame.
    pub frame_bytes_max: usize,
    pub paths: Arc<ArcSwap<Paths>>,
    pub hearsay: Arc<Hearsay>,
    pub taps: Arc<Taps>,
}

impl Receiver for Local {
    fn broadcast(&self, path: &Path, content: &Content) -> bool {
        let Some(audience) = self.presence.audience(path) else { return false };
        let form = |is_needed: bool, wholemsg: bool| -> Option<Bytes> {
            let (kind, payload) = is_needed.then(|| content.frame(wholemsg))??;
            (payload.len() <= self.frame_bytes_max).then(|| frame::encode(kind, &payload))
        };
        let frames =
            Frames { payload: form(audience.payload, false), whole: form(audience.whole, true) };
        let refused = self.hub.broadcast(path, &frames, &audience.shards);
        if refused > 0 {
            let metrics = self.metrics.path(&audience.configured);
            metrics.undelivered_overload.inc_by(refused as u64);
        }
        true
    }

    fn ask(&self, ask: Ask) -> Pending<Answer> {
        let (reply, answer) = oneshot::channel();
        let named = match &ask {
            Ask::Unicast { to, .. } => Some(to.shard),
            Ask::LookUp { id, .. } | Ask::Close { id, .. } => Some(id.shard),
            Ask::List { .. } | Ask::Census | Ask::Tap { .. } => None,
        };
        if named.is_some_and(|shard| usize::from(shard) >= self.hub.shards()) {
            return Box::pin(std::future::ready(Ok(Answer::Gone)));
        }
        let told = match ask {
            Ask::Unicast { to, reach, content } => {
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
                let answer = match self.paths.load().named(&configured) {
                    Some(one) => Answer::Tapped(self.taps.ask(one.pattern.text(), Instant::now())),
                    None => Answer::Gone,
                };
                return Box::pin(std::future::ready(Ok(answer)));
            }
        };
        if told.is_err() {
            return Box::pin(std::future::ready(Ok(Answer::Overloaded)));
        }
        // A shard that ends with the pod answers nothing, which proves nothing.
        Box::pin(async move { answer.await.map_err(|_| Failure::Unknown) })
    }

    fn gap(&self) {
        tracing::warn!("broadcasts may have been missed while the broker was away");
        self.hearsay.tear();
    }

    fn told(&self, configured: &str, told: Told) {
        self.hearsay.told(configured, told);
    }

    fn configured(&self) -> Vec<Arc<str>> {
        self.paths.load().iter().map(|one| one.pattern.text().clone()).collect()
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

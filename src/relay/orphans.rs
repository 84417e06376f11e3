//! The ends of sessions whose pod lives no more, told by this one.
//!
//! A dead pod is claimed, so that one survivor tells for it; each end goes the way of this pod's own,
//! and leaves the dead one's roster when all backends have taken it. Each is told once by this pod, however
//! long a backend takes for it; another pod that goes on after it may tell it again, with the same id. A
//! backend that takes nothing keeps its own ends in the roster, and nobody else's.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::broker::{Failure, Pending};
use crate::lifecycle::Lifecycle;
use crate::proto::paths::{Configured, Pattern};
use crate::proto::roster::Member;
use crate::proto::session_id::{PodId, SessionId};
use crate::relay::Relay;
use crate::relay::ears::Ears;

/// How often dead pods are looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long some ends are waited for before the next ones are told: backends that are well take
/// hundreds of them in that time.
const TAKE_MAX: Duration = Duration::from_secs(1);

/// How often a roster is read again of which something is left.
const READ_INTERVAL: Duration = Duration::from_secs(10);

/// What became of one entry of a roster.
enum Orphan {
    /// Its end is on its way, and was not before; resolves when all backends have taken it.
    Told(Pending<()>),
    UnderWay,
    /// Too much waits for its backend, or this pod does not know it.
    Left,
}

/// What became of a roster.
#[derive(Default)]
struct Walk {
    told: usize,
    left: usize,
}

impl Relay {
    /// Tells until the pod leaves: one that does begins nothing.
    pub async fn tell_orphans(self: Arc<Self>, ears: Arc<Ears>, lifecycle: Lifecycle) {
        tokio::select! {
            () = self.watch_pods(&ears) => {}
            () = lifecycle.draining().cancelled() => {}
        }
    }

    async fn watch_pods(&self, ears: &Ears) {
        let mut read: HashMap<PodId, Instant> = HashMap::new();
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            // What fails now is looked at again next time: nothing of it is forgotten.
            let Ok(claimed) = self.broker.claim().await else { continue };
            read.retain(|pod, _| claimed.contains(pod));
            for pod in claimed {
                match read.get(&pod) {
                    Some(at) if at.elapsed() < READ_INTERVAL => continue,
                    Some(_) => {}
                    None => {
                        tracing::warn!(%pod, "a pod was lost: telling the ends of its sessions")
                    }
                }
                match self.tell_ends_of(pod, ears).await {
                    Ok(Walk { told: 0, left: 0 }) => {}
                    Ok(Walk { told, left: 0 }) => {
                        tracing::info!(%pod, told, "told the ends of a lost pod's sessions");
                    }
                    Ok(Walk { told, left }) => tracing::warn!(
                        %pod, told, left, "cannot tell all ends of its sessions now: too much waits \
                        for their backends, or this pod has no webhook for their paths"
                    ),
                    Err(failure) => {
                        tracing::warn!(%pod, "cannot tell the ends of its sessions now: {failure}");
                        continue;
                    }
                }
                read.insert(pod, Instant::now());
            }
        }
    }

    /// Once through the roster of a claimed pod.
    async fn tell_ends_of(&self, pod: PodId, ears: &Ears) -> Result<Walk, Failure> {
        let (mut walk, mut cursor) = (Walk::default(), Some(0));
        while let Some(at) = cursor {
            let orphans = self.broker.orphans(pod, at).await?;
            let mut taken = Vec::new();
            for (id, member) in orphans.members {
                match self.tell(id, &member, ears) {
                    Orphan::Told(pending) => taken.push(pending),
                    Orphan::UnderWay => {}
                    Orphan::Left => walk.left += 1,
                }
            }
            walk.told += taken.len();
            // In time or not: none of it is told again.
            let _ = tokio::time::timeout(TAKE_MAX, join_all(taken)).await;
            cursor = orphans.next;
        }
        Ok(walk)
    }

    fn tell(&self, id: SessionId, member: &Member, ears: &Ears) -> Orphan {
        let configured = self.of_the_lost(member);
        let has = configured.as_ref().map(|configured| configured.backends());
        let needs_webhook = has.is_some_and(|has| has.webhook != member.backends.webhook);
        let is_full = has.is_some_and(|has| has.webhook) && self.webhooks.lanes.is_full();
        if needs_webhook || is_full {
            return Orphan::Left;
        }
        let owed = has.map_or(0, |has| has.count());
        let Some(taken) = self.broker.adopt(id, owed) else { return Orphan::UnderWay };
        if let Some(configured) = configured {
            ears.lost(id, &member.path, &configured);
        }
        Orphan::Told(taken)
    }

    /// A configured path of a pod that is no more, with the backends that the end is owed to; a webhook only
    /// if this pod knows it, for where events go is in no roster. `None`: there can be no such path.
    fn of_the_lost(&self, member: &Member) -> Option<Arc<Configured>> {
        let pattern = Pattern::parse(&member.configured).ok()?;
        let paths = self.paths.load();
        let known = paths.named(&member.configured).and_then(|known| known.webhook.clone());
        let webhook = known.filter(|_| member.backends.webhook);
        let stream = member.backends.stream;
        Some(Arc::new(Configured { stream, webhook, ..Configured::new(pattern) }))
    }
}

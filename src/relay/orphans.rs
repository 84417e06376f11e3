//! The ends of sessions whose pod lives no more, told by this one.
//!
//! A dead pod is claimed, so that one survivor tells for it; each end goes the way of this pod's own,
//! and leaves the dead one's roster when all backends have taken it. Whatever breaks on the way is begun
//! again: an end may be told twice, and has the same id both times.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::broker::Failure;
use crate::lifecycle::Lifecycle;
use crate::proto::paths::{Configured, Pattern};
use crate::proto::roster::Member;
use crate::proto::session_id::{PodId, SessionId};
use crate::relay::Relay;
use crate::relay::ears::Ears;

/// How often dead pods are looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long backends may take for some ends until they are told again: longer than any of them takes
/// that is well.
const TAKE_MAX: Duration = Duration::from_secs(60);

impl Relay {
    /// Tells until the pod leaves: one that does begins nothing.
    pub async fn tell_orphans(self: Arc<Self>, ears: Arc<Ears>, lifecycle: Lifecycle) {
        tokio::select! {
            () = self.watch_pods(&ears) => {}
            () = lifecycle.draining().cancelled() => {}
        }
    }

    async fn watch_pods(&self, ears: &Ears) {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            // What fails now is looked at again next time: nothing of it is forgotten.
            while let Ok(Some(pod)) = self.broker.claim().await {
                tracing::warn!(%pod, "a pod was lost: telling the ends of its sessions");
                match self.tell_ends_of(pod, ears).await {
                    Ok(told) => {
                        tracing::info!(%pod, told, "told the ends of a lost pod's sessions")
                    }
                    Err(failure) => {
                        tracing::warn!(%pod, "cannot tell the ends of its sessions now: {failure}");
                        break;
                    }
                }
            }
        }
    }

    /// Once through the roster of a claimed pod; how many ends were taken.
    async fn tell_ends_of(&self, pod: PodId, ears: &Ears) -> Result<usize, Failure> {
        let (mut told, mut cursor) = (0, Some(0));
        while let Some(at) = cursor {
            let orphans = self.broker.orphans(pod, at).await?;
            let count = orphans.members.len();
            let taken =
                orphans.members.into_iter().map(|(id, member)| self.tell(id, &member, ears));
            let taken = tokio::time::timeout(TAKE_MAX, join_all(taken)).await;
            taken.map_err(|_| Failure::Unknown)?.into_iter().collect::<Result<(), _>>()?;
            told += count;
            cursor = orphans.next;
        }
        Ok(told)
    }

    /// Resolves when all backends have taken it.
    fn tell(
        &self,
        id: SessionId,
        member: &Member,
        ears: &Ears,
    ) -> impl Future<Output = Result<(), Failure>> + use<> {
        let configured = self.of_the_lost(&member.configured);
        let owed = configured.as_ref().map_or(0, |configured| configured.backends());
        let taken = self.broker.adopt(id, owed);
        if let Some(configured) = configured {
            ears.lost(id, &member.path, &configured);
        }
        taken
    }

    /// A configured path of a pod that is no more: with the backends that this pod knows for it. Where
    /// it knows none, the other one had a stream. `None`: there can be no such path.
    fn of_the_lost(&self, text: &str) -> Option<Arc<Configured>> {
        let paths = self.paths.load();
        if let Some(configured) = paths.named(text).filter(|one| one.has_backend()) {
            return Some(configured.clone());
        }
        let pattern = Pattern::parse(text).ok()?;
        Some(Arc::new(Configured { stream: true, ..Configured::new(pattern) }))
    }
}

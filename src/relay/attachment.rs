//! Attaching a client to its path, in the one order that loses nothing.
//!
//! Presence first, then the place in the shard, then the confirmed subscription, and only then the
//! 101: a publish that is begun after the client saw its connection open finds all three. Where backends
//! are told of it, its place in the roster is confirmed by then too.

use std::sync::Arc;

use crate::backend::webhook::lanes::Whose;
use crate::hub::command::{Greeting, Newcomer};
use crate::hub::presence::TooManyPaths;
use crate::hub::socket::Socket;
use crate::proto::paths::OnGap;
use crate::proto::roster::Member;
use crate::proto::session_id::SessionId;
use crate::relay::{Relay, SUBSCRIBE_TIMEOUT};

/// Why a client cannot be attached now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unattached {
    #[error("this pod is full")]
    Full,
    #[error("this pod holds as many paths of that pattern as it may")]
    TooManyPaths,
    #[error("this pod is leaving")]
    Leaving,
    #[error("the path was removed meanwhile")]
    Removed,
    #[error("the broker did not answer")]
    Broker,
}

/// A session that has its place, but no socket yet. Dropped, it gives the place back.
pub struct Attachment {
    relay: Arc<Relay>,
    id: SessionId,
    is_open: bool,
}

impl Attachment {
    pub async fn begin(relay: &Arc<Relay>, newcomer: Newcomer) -> Result<Attachment, Unattached> {
        let Newcomer { path, configured, .. } = &newcomer;
        let id = relay.hub.place().map_err(|_| Unattached::Full)?;
        let shard = usize::from(id.shard);
        if let Err(TooManyPaths) = relay.presence.arrive(path, configured, shard) {
            relay.hub.give_back(id);
            return Err(Unattached::TooManyPaths);
        }
        // Before it can end: so it is not in the roster for ever.
        let enlisted = configured.has_backend().then(|| {
            let (text, backends) = (configured.pattern.text().clone(), configured.backends());
            let member = Member { configured: text, path: path.clone(), backends };
            relay.broker.enlist(id, member)
        });
        if configured.webhook.is_some() {
            let (path, configured) = (path.clone(), configured.clone());
            relay.webhooks.lanes.reserve(Whose { session: id, path, configured });
        }
        // From here on the session exists: its end, however it comes about, is told by the hub.
        relay.hub.reserve(id, newcomer.clone(), &relay.metrics);
        if configured.on_gap == OnGap::Close {
            relay.presence.mind_gap(path, shard);
        }
        let attachment = Attachment { relay: relay.clone(), id, is_open: false };
        let subscribed = relay.broker.subscribe(path);
        // Looked at only now: whoever changes one of these sweeps the sessions afterwards, so
        // either it is seen here, or the sweep finds the session in its place.
        if relay.is_draining() {
            return Err(Unattached::Leaving);
        }
        if relay.paths.load().named(configured.pattern.text()).is_none() {
            return Err(Unattached::Removed);
        }
        let confirmed = async {
            subscribed.await?;
            match enlisted {
                Some(enlisted) => enlisted.await,
                None => Ok(()),
            }
        };
        match tokio::time::timeout(SUBSCRIBE_TIMEOUT, confirmed).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(Unattached::Broker),
        }
        Ok(attachment)
    }

    /// Of the session that will be.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The 101 is sent: here is the socket.
    pub fn open(mut self, socket: Socket, greeting: Greeting) {
        self.is_open = true;
        self.relay.hub.open(self.id, socket, greeting);
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if !self.is_open {
            self.relay.hub.abandon(self.id);
        }
    }
}

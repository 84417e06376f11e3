//! What hears of this pod's sessions: the sink that the hub is given.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::hub::command::Greeting;
use crate::proto::close::{Cause, Close};
use crate::proto::frame::Kind;
use crate::proto::path::Path;
use crate::proto::paths::Configured;
use crate::proto::session_id::SessionId;
use crate::proto::traceparent::Traceparent;

/// Called on the shards' own threads, so it never waits, and its calls are short.
///
/// Order: for one session `opened` comes first, then its messages in the order they were sent,
/// then `closed`, exactly once. Different sessions may be told of at the same time.
pub trait Inbound: Send + Sync + 'static {
    fn opened(&self, who: Who<'_>, remote: Option<SocketAddr>, greeting: &Greeting);

    /// A session of a path with a backend is about to be read. Answers how many of those who hear it can
    /// take nothing of it: it is not read until each of them has called
    /// [`Hub::read_on`](crate::hub::Hub::read_on).
    #[must_use]
    fn holds(&self, _: &SessionId, _: &Arc<Configured>) -> u8 {
        0
    }

    /// One complete message. On paths with `echo` there are none. Answers how many of those who hear it
    /// can take no more of this session: nothing more of it is told, also of what has been read already, until
    /// each of them has called [`Hub::read_on`](crate::hub::Hub::read_on).
    #[must_use]
    fn message(&self, who: Who<'_>, kind: Kind, data: &[u8]) -> u8;

    /// `end`: what the session ended of; `None` when it had been reserved but never opened.
    fn closed(&self, who: Who<'_>, end: Option<(&Close, Cause)>);
}

/// Who an event is about.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    pub id: SessionId,
    pub path: &'a Path,
    pub configured: &'a Arc<Configured>,
    /// Whose call all its events belong to, if it came within one.
    pub trace: Option<&'a Traceparent>,
    /// Counts a session's events from 0.
    pub seq: u64,
}

//! What is asked of the pod that owns a session, or of every pod, and what it answers.
//!
//! The owner decides everything: whether the session lives, whether it is on the path that was
//! meant, whether the asker may touch that path, and what its `wholemsg` makes of a content.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::proto::close::Close;
use crate::proto::grant::Grant;
use crate::proto::msg::Content;
use crate::proto::path::Path;
use crate::proto::session_id::SessionId;
use crate::proto::telling::Place;
use crate::proto::upstream::{Dispatch, State};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Put this on that session's socket.
    Unicast { to: SessionId, reach: Reach, content: Content },
    /// Tell what you know of it.
    LookUp { id: SessionId, grant: Grant },
    /// End it.
    Close { id: SessionId, grant: Grant, close: Close },
    /// Your sessions behind `after`, in the order of their ids.
    List { filter: Option<String>, after: Option<SessionId>, limit: usize, grant: Grant },
    /// Your concrete paths and how many are on each.
    Census,
    /// Tell what happens to your sessions of this configured path, from now on.
    Tap { configured: Arc<str> },
    /// Send this to the upstream of that name, which you hold.
    Upstream { name: Arc<str>, content: Content },
    /// Tell how the upstream of that name is, which you hold.
    UpstreamState { name: Arc<str> },
}

/// Which sessions a unicast may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Only those of this concrete path.
    Path(Path),
    /// Those of any path the caller may touch.
    Granted(Grant),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// On the socket, or in the outbox of an open session.
    Delivered,
    /// No such session, or none the asker may know of.
    Gone,
    /// The session lives, but has no room for more.
    OutboxFull,
    /// The pod has more to deliver than it can hold.
    Overloaded,
    /// On that session's path this content comes to nothing.
    Nothing,
    /// The frame would have this many bytes more than allowed: the limit, in bytes.
    TooBig(usize),
    Info(SessionInfo),
    Closed,
    Sessions {
        sessions: Vec<SessionInfo>,
        /// Whether there may be more behind the last one looked at.
        after: Option<SessionId>,
    },
    Census(Vec<PathCount>),
    /// What is told from now on begins here.
    Tapped(Place),
    /// To the upstream, or into the queue before it.
    Dispatched(Dispatch),
    UpstreamState(State),
}

/// What a look-up tells of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    pub id: SessionId,
    pub path: Path,
    /// Unix time in milliseconds.
    pub opened_ms: u64,
    pub remote: Option<SocketAddr>,
    pub subprotocol: Option<String>,
}

/// A concrete path that has sessions, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathCount {
    pub path: Path,
    /// The text of its configured path.
    pub configured: Arc<str>,
    pub sessions: u64,
}

impl Reach {
    pub fn allows(&self, path: &Path) -> bool {
        match self {
            Reach::Path(meant) => meant == path,
            Reach::Granted(grant) => grant.allows(path.as_str()),
        }
    }
}

impl Answer {
    /// In one word, as it is told of unicasts.
    pub fn as_str(&self) -> &'static str {
        match self {
            Answer::Delivered => "delivered",
            Answer::Gone => "gone",
            Answer::OutboxFull => "outbox_full",
            Answer::Overloaded => "overloaded",
            Answer::Nothing => "nothing",
            Answer::TooBig(_) => "too_big",
            Answer::Closed => "closed",
            // These answer no unicast.
            Answer::Info(_)
            | Answer::Sessions { .. }
            | Answer::Census(_)
            | Answer::Tapped(_)
            | Answer::Dispatched(_)
            | Answer::UpstreamState(_) => "unknown",
        }
    }
}

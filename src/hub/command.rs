//! What a shard is told.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::hub::press::Deflated;
use crate::hub::socket::Socket;
use crate::metrics::PathMetrics;
use crate::proto::ask::{Answer, Reach};
use crate::proto::close::{Cause, Close};
use crate::proto::grant::Grant;
use crate::proto::msg::Content;
use crate::proto::path::Path;
use crate::proto::paths::{Configured, OnGap};
use crate::proto::session_id::SessionId;
use crate::proto::traceparent::Traceparent;
use crate::trace::span::Span;

pub type Reply = oneshot::Sender<Answer>;

pub enum Command {
    /// Frames for everybody on a path.
    Broadcast {
        path: Path,
        frames: Frames,
        at: Instant,
    },
    /// A frame for one session.
    Unicast {
        to: SessionId,
        reach: Reach,
        content: Content,
        reply: Reply,
    },
    /// A session whose 101 is about to be sent. It takes its place among the broadcasts now.
    Reserve {
        id: SessionId,
        newcomer: Newcomer,
        metrics: Arc<PathMetrics>,
    },
    /// Its socket, after the 101.
    Open {
        id: SessionId,
        socket: Socket,
        greeting: Box<Greeting>,
    },
    /// Its 101 did not come about.
    Abandon {
        id: SessionId,
    },
    /// End it; nobody waits for an answer.
    End {
        id: SessionId,
        close: Close,
        cause: Cause,
    },
    LookUp {
        id: SessionId,
        grant: Grant,
        reply: Reply,
    },
    Close {
        id: SessionId,
        grant: Grant,
        close: Close,
        reply: Reply,
    },
    List {
        filter: Option<String>,
        after: Option<[u8; 16]>,
        limit: usize,
        grant: Grant,
        reply: Reply,
    },
    /// The session is read again.
    ReadOn {
        id: SessionId,
    },
    /// Something that rooms wait for was deflated.
    Pressed,
    /// End many sessions, a slice at a time.
    Sweep(Sweep),
    /// End the shard, its sockets with it.
    Stop,
}

/// A broadcast as the bytes that go on the wire, in the forms that somebody here needs.
#[derive(Debug, Clone, Default)]
pub struct Frames {
    /// For sessions whose path has `wholemsg = false`.
    pub payload: Option<Bytes>,
    /// For those with `wholemsg = true`.
    pub whole: Option<Bytes>,
    /// Where their deflated forms will be, if somebody may want them.
    pub deflated: Option<Arc<Deflated>>,
    /// Ends when nobody waits for them any more; made for those alone whose call is traced.
    pub span: Option<Arc<Span>>,
}

/// A client whose handshake is good.
#[derive(Debug, Clone)]
pub struct Newcomer {
    pub path: Path,
    pub configured: Arc<Configured>,
    /// Whether deflated messages were agreed on.
    pub deflates: bool,
    /// Whose call all its events belong to, if it came within one.
    pub trace: Option<Box<Traceparent>>,
}

/// What a client said when it came; told in its `connect` event, then forgotten.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Greeting {
    pub subprotocol: Option<String>,
    /// Who it is, by its backend's word.
    pub user: Option<String>,
    pub origin: Option<String>,
    pub query: Option<String>,
    /// Of its handshake.
    pub traceparent: Option<Traceparent>,
    /// Bytes that came with the handshake and belong to the first frame.
    pub read: Bytes,
}

#[derive(Debug, Clone)]
pub struct Sweep {
    pub whom: Whom,
    pub cause: Cause,
    pub farewell: Farewell,
}

/// Which sessions a sweep ends. One that waits for its socket may have been told that it is open, so
/// it is meant as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    Everybody,
    /// So many of those that no such sweep of this shard has met, in the order of their ids, which is
    /// random.
    Next(usize),
    /// All of a configured path, by its text.
    Configured(Arc<str>),
    /// Those that a gap closes, by the settings that they came with.
    Gap,
    /// The same on one concrete path.
    GapOn(Path),
}

/// What a swept session is told.
#[derive(Debug, Clone)]
pub enum Farewell {
    Fixed(Close),
    /// 1012, with a delay of its own up to this for each, so that they do not come back at once.
    RetryWithin {
        ms: u64,
    },
}

/// What a client is told that need not wait, because few are told it at a time: long enough for a
/// client not to try in a loop, should it be sent here again.
const MOVED_RETRY_AFTER_MS: u64 = 100;

impl Farewell {
    /// 1012, and to come back at once.
    pub fn moved() -> Farewell {
        Farewell::Fixed(Close::retry_after(MOVED_RETRY_AFTER_MS))
    }

    /// For one session, by its lot.
    pub fn close(&self, lot: u16) -> Close {
        match self {
            Farewell::Fixed(close) => close.clone(),
            Farewell::RetryWithin { ms } => {
                Close::retry_after(ms * u64::from(lot) / u64::from(u16::MAX))
            }
        }
    }
}

impl Whom {
    /// Whether a session on this path, that came with these settings, is meant.
    pub fn means(&self, path: &Path, configured: &Configured) -> bool {
        let closes = configured.on_gap == OnGap::Close;
        match self {
            Whom::Everybody | Whom::Next(_) => true,
            Whom::Configured(text) => configured.pattern.text() == text,
            Whom::Gap => closes,
            Whom::GapOn(meant) => closes && meant == path,
        }
    }
}

impl Command {
    /// What it holds in the mailbox.
    pub fn bytes(&self) -> usize {
        match self {
            Command::Broadcast { frames, .. } => {
                let len = |form: &Option<Bytes>| form.as_ref().map_or(0, Bytes::len);
                len(&frames.payload) + len(&frames.whole)
            }
            Command::Unicast { content, .. } => content.bytes(),
            _ => 0,
        }
    }
}

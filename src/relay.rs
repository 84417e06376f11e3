//! Where broker (all pods) and hub (this pod) meet.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::hub::SessionInfo;
use crate::proto::close::Close;
use crate::proto::grant::Grant;
use crate::proto::msg::Content;
use crate::proto::path::Path;
use crate::proto::paths::Paths;
use crate::proto::session_id::{PodId, SessionId};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What a msg may become as a frame.
    pub frame_bytes_max: usize,
    /// How long an answer about one session may take before it is unknown.
    pub unicast_timeout: Duration,
}

/// What became of a broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    pub id: uuid::Uuid,
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
    #[error("there is nothing to send")]
    Nothing,
    #[error("the frame would be larger than {0} bytes")]
    TooBig(usize),
}

/// Which sessions a unicast may reach.
#[derive(Debug, Clone)]
pub enum Reach {
    /// Only those of this concrete path.
    Path(Path),
    /// Those of any path the caller may touch.
    Granted(Grant),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub sessions: Vec<SessionInfo>,
    /// Where the next page goes on; `None` after the last.
    pub cursor: Option<SessionId>,
    /// Pods that did not answer.
    pub missing: Vec<PodId>,
}

/// A path that exists, and how many are on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathCount {
    pub path: Path,
    /// The text of its configured path.
    pub configured: Arc<str>,
    pub sessions: u64,
}

/// What a listener wants to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topic {
    /// Every session of a configured path, by its text.
    Configured(Arc<str>),
    /// One concrete path of a pattern.
    Concrete(Path),
}

/// What a listener hears.
#[derive(Debug, Clone)]
pub enum Heard {
    /// `id`, the type's name, and the event as JSON on one line.
    Event { id: String, kind: &'static str, json: Bytes },
    /// The listener was too slow: this many events are missing here.
    Gap(u64),
}

pub struct Listener;

impl Listener {
    /// The next one; `None` when this pod leaves.
    pub async fn next(&mut self) -> Option<Heard> {
        std::future::pending().await
    }
}

#[derive(Default)]
pub struct Relay {
    pub stub_paths: Arc<Paths>,
}

impl Relay {
    pub fn paths(&self) -> Arc<Paths> {
        self.stub_paths.clone()
    }

    /// Broadcasts. The order of calls is the order of messages: the message takes its place when
    /// this is called, the future only waits for the answer.
    pub fn publish(
        &self,
        path: Path,
        content: Content,
    ) -> impl Future<Output = Result<Receipt, Refusal>> + Send + 'static {
        let _ = (path, content);
        async { Ok(Receipt { id: uuid::Uuid::now_v7(), receivers: 0 }) }
    }

    /// Sends to one session; in one order with `publish`.
    pub fn unicast(
        &self,
        to: SessionId,
        reach: Reach,
        content: Content,
    ) -> impl Future<Output = Result<(), Refusal>> + Send + 'static {
        let _ = (to, reach, content);
        async { Err(Refusal::Gone) }
    }

    /// Waits until this pod can take more, at most a second; `Overloaded` after that. To be asked
    /// before each publish or unicast.
    pub async fn room(&self) -> Result<(), Refusal> {
        Ok(())
    }

    pub async fn look_up(&self, id: SessionId, grant: Grant) -> Result<SessionInfo, Refusal> {
        let _ = (id, grant);
        Err(Refusal::Gone)
    }

    pub async fn close(&self, id: SessionId, grant: Grant, close: Close) -> Result<(), Refusal> {
        let _ = (id, grant, close);
        Err(Refusal::Gone)
    }

    /// `path`: a concrete path or a configured path's text. `limit` ≥ 1.
    pub async fn list(
        &self,
        path: Option<String>,
        after: Option<SessionId>,
        limit: usize,
        grant: Grant,
    ) -> Result<Page, Refusal> {
        let _ = (path, after, limit, grant);
        Ok(Page { sessions: Vec::new(), cursor: None, missing: Vec::new() })
    }

    /// Live concrete paths of all pods, ordered by path.
    pub async fn census(&self) -> Result<Vec<PathCount>, Refusal> {
        Ok(Vec::new())
    }

    /// The path with clients that is most like this one.
    pub fn nearest(&self, path: &Path) -> Option<PathCount> {
        let _ = path;
        None
    }

    /// Hears events from now on.
    pub fn listen(&self, topic: Topic) -> Listener {
        let _ = topic;
        Listener
    }

    /// What is not alive, if anything: shards that do not turn.
    pub fn liveness(&self) -> Result<(), String> {
        Ok(())
    }

    /// What keeps this pod from being ready, if anything.
    pub fn readiness(&self) -> Result<(), String> {
        Ok(())
    }
}

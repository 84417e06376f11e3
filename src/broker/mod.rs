//! The way to all pods.

pub mod memory;
pub mod redis;
pub mod tenures;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::broker::tenures::Tenures;
use crate::proto::ask::{Answer, Ask};
use crate::proto::msg::Content;
use crate::proto::path::Path;
use crate::proto::paths::OnFull;
use crate::proto::roster::Member;
use crate::proto::session_id::{PodId, SessionId};
use crate::proto::stream::{Backlog, Entry, Fate, Part};
use crate::proto::telling::{Place, Told, What};
use crate::proto::traceparent::Traceparent;

pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send>>;

/// Carries messages to every pod, and questions to one.
///
/// Order: the order of calls to `publish` and `ask` is the order in which any one pod gets them; a
/// call takes its place when it is made, its future only waits for the answer. (A question to a pod
/// that was taken for dead takes its place when that pod turns out to live.) All pods get the
/// broadcasts of a path in one order.
///
/// Delivery: a broadcast reaches each subscribed pod at most once; nothing is ever repeated. A
/// question reaches its pod at most once, and is answered or [`Failure::Unknown`].
///
/// Failure: [`Failure::Unavailable`] is a promise that nothing was sent.
pub trait Broker: Send + Sync {
    /// A session wants `path`: resolves when every broadcast to it that is begun from then on
    /// reaches this pod. Counted, from the moment of the call.
    fn subscribe(&self, path: &Path) -> Pending<()>;

    /// A session that wanted `path` does so no more: one call for each of `subscribe`.
    fn unsubscribe(&self, path: &Path);

    /// Resolves to the number of pods that got it: a hint.
    fn publish(&self, publication: Publication) -> Pending<u64>;

    /// It may be for this pod. [`Answer::Gone`] for a pod that proves to live no more, or never to
    /// have lived; while that is not proven, [`Failure::Unknown`].
    fn ask(&self, letter: Letter) -> Pending<Answer>;

    /// Every pod alive, this one included.
    fn pods(&self) -> Pending<Vec<Peer>>;

    /// Somebody here listens to the events of a configured path, by its text: resolves when what
    /// other pods tell of it from then on reaches this pod, and pods that do not tell yet will
    /// find out. Counted, from the moment of the call.
    fn tap(&self, configured: &Arc<str>) -> Pending<()>;

    /// A listener has left: one call for each of `tap`.
    fn untap(&self, configured: &Arc<str>);

    /// Tells the pods that listen to a configured path; what one pod tells of it comes in the order
    /// of calls. Resolves when it has been told.
    fn tell(&self, configured: &str, place: Place, what: What) -> Pending<()>;

    /// Appends to streams, in this order, and those that are taken all at once: resolves to what
    /// became of each. After [`Failure::Unknown`] all or none were taken. Unlike everything else
    /// this may be called again then: readers know an event by its id.
    fn append(&self, entries: &[Entry]) -> Pending<Vec<Fate>>;

    /// Trims a stream to what some group of its readers has not acknowledged, or to a minute where
    /// there is no group, and resolves to what is left. Where there is no group, no more than
    /// `backlog_max` entries are; with [`OnFull::DropOldest`] no more but connects and disconnects, as far
    /// as one call gets. What is no stream is left alone, and empty. Any pod may, at any time, and again.
    fn trim(&self, part: &Part, backlog_max: u64, on_full: OnFull) -> Pending<Backlog>;

    /// Who holds which upstream.
    fn tenures(&self) -> &dyn Tenures;

    /// The end of this session will be owed to its backends: resolves when another pod will tell it
    /// if this one cannot. It has its place from the moment of the call.
    fn enlist(&self, id: SessionId, member: Member) -> Pending<()>;

    /// One of the backends has taken the end of a session, enlisted or adopted, or has never heard of
    /// it, nor will. What is known here holds at once, what is kept for others follows.
    fn settle(&self, id: &SessionId);

    /// The pods that prove to live no more and still owe ends, which this pod tells from now on. No
    /// two pods that live tell those of one at the same time.
    fn claim(&self) -> Pending<Vec<PodId>>;

    /// What a claimed pod owes: some of it, beginning at `cursor`, which is 0 or [`Orphans::next`].
    /// What is owed throughout a walk is found by it, once or more often.
    fn orphans(&self, pod: PodId, cursor: u64) -> Pending<Orphans>;

    /// The end of a claimed pod's session is to be told to so many backends: resolves when all of them
    /// have taken it and it is owed no more. `None`: it is being told already.
    fn adopt(&self, id: SessionId, owed: u8) -> Option<Pending<()>>;

    /// Keeps an event that a backend will not get any more, where somebody can find it, if there is such
    /// a place. Its fields tell all; its partition says nothing.
    fn bury(&self, entry: &Entry) -> Pending<()>;

    /// Whether an event may leave this pod now: nobody can have taken it for dead.
    fn holds_lease(&self) -> bool;

    /// Whether it carries messages at all.
    fn outage(&self) -> Outage;
}

/// Sessions of a pod that lives no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphans {
    pub members: Vec<(SessionId, Member)>,
    /// Where it goes on.
    pub next: Option<u64>,
}

/// A broadcast on its way; all of it arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    pub id: Uuid,
    pub path: Path,
    pub content: Content,
    /// Whose call it belongs to.
    pub traceparent: Option<Traceparent>,
}

/// A question on its way to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub to: PodId,
    pub ask: Ask,
    /// Whose call it belongs to.
    pub traceparent: Option<Traceparent>,
}

impl Letter {
    /// One that belongs to nobody's call.
    pub fn new(to: PodId, ask: Ask) -> Letter {
        Letter { to, ask, traceparent: None }
    }
}

/// A pod that lives, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub pod: PodId,
    /// How many sessions it had when it was last heard of; `None` where nobody tells.
    pub sessions: Option<u64>,
}

/// Whether a broker is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    None,
    Since(Instant),
    /// It has not been reached since this pod started.
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("not sent: {0}")]
    Unavailable(&'static str),
    #[error("sent, but no answer in time")]
    Unknown,
}

/// What a broker hands its pod's messages to. Calls come one at a time, in the broker's order, and
/// never wait.
pub trait Receiver: Send + Sync + 'static {
    /// What comes next for `path` was published by somebody who is no pod: no door has counted it.
    fn published(&self, path: &Path);

    /// Whether anybody here wanted it.
    fn broadcast(&self, path: &Path, content: &Content) -> bool;

    /// Somebody who is no pod published this for an upstream that this pod hears.
    fn upstream(&self, name: &str, content: Content);

    /// The question takes its place among the broadcasts when this is called.
    fn ask(&self, ask: Ask) -> Pending<Answer>;

    /// Broadcasts may have been missed between what came before this and what comes after it.
    fn gap(&self);

    /// What another pod tells of a configured path.
    fn told(&self, configured: &str, told: Told);

    /// The configured paths whose events somebody may want to hear.
    fn configured(&self) -> Vec<Arc<str>>;

    /// Some of these are tapped, each for so long. Called before the broker carries messages, so
    /// before any session is attached through it, and regularly from then on.
    fn tapped(&self, taps: &[(Arc<str>, Duration)]);
}

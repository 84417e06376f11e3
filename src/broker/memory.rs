//! One process, no other pods: the default.
//!
//! Keeps every outer semantic of one pod. The sequencer is a lock: whoever holds it hands his
//! message to every shard's mailbox before the next one may, so all shards see one order. Under it
//! the frame is made and pushed; nothing under it waits.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::broker::tenures::{Grip, Tenures};
use crate::broker::{
    Broker, Failure, Letter, Orphans, Outage, Peer, Pending, Publication, Receiver,
};
use crate::proto::ask::Answer;
use crate::proto::path::Path;
use crate::proto::paths::OnFull;
use crate::proto::roster::Member;
use crate::proto::session_id::{PodId, SessionId};
use crate::proto::stream::{Backlog, Entry, Fate, Part};
use crate::proto::telling::{Place, What};
use crate::proto::tenure::Tenure;

const NO_STREAMS: Failure = Failure::Unavailable("there are no streams without a Redis");

pub struct Memory<R> {
    pod: PodId,
    sequencer: Mutex<R>,
    /// The upstreams that are held.
    held: Mutex<HashSet<String>>,
}

impl<R: Receiver> Memory<R> {
    pub fn new(pod: PodId, receiver: R) -> Memory<R> {
        Memory { pod, sequencer: Mutex::new(receiver), held: Mutex::default() }
    }

    fn in_order<T>(&self, act: impl FnOnce(&R) -> T) -> T {
        // A receiver that panicked left no half-done order behind: each push is whole.
        act(&self.sequencer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn held(&self) -> MutexGuard<'_, HashSet<String>> {
        // Each change is one call; a panic leaves it whole.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: Receiver> Broker for Memory<R> {
    fn subscribe(&self, _path: &Path) -> Pending<()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn unsubscribe(&self, _path: &Path) {}

    fn publish(&self, publication: Publication) -> Pending<u64> {
        let Publication { path, content, traceparent, .. } = publication;
        let traceparent = traceparent.as_ref();
        let heard = self.in_order(|receiver| receiver.broadcast(&path, &content, traceparent));
        Box::pin(std::future::ready(Ok(u64::from(heard))))
    }

    fn ask(&self, letter: Letter) -> Pending<Answer> {
        let Letter { to, ask, traceparent } = letter;
        if to != self.pod {
            return Box::pin(std::future::ready(Ok(Answer::Gone)));
        }
        self.in_order(|receiver| receiver.ask(ask, traceparent.as_ref()))
    }

    fn pods(&self) -> Pending<Vec<Peer>> {
        let own = Peer { pod: self.pod, sessions: None };
        Box::pin(std::future::ready(Ok(vec![own])))
    }

    fn tap(&self, _configured: &Arc<str>) -> Pending<()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn untap(&self, _configured: &Arc<str>) {}

    fn tell(&self, _configured: &str, _place: Place, _what: What) -> Pending<()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn append(&self, _entries: &[Entry]) -> Pending<Vec<Fate>> {
        Box::pin(std::future::ready(Err(NO_STREAMS)))
    }

    fn trim(&self, _part: &Part, _backlog_max: u64, _on_full: OnFull) -> Pending<Backlog> {
        Box::pin(std::future::ready(Err(NO_STREAMS)))
    }

    fn tenures(&self) -> &dyn Tenures {
        self
    }

    fn enlist(&self, _id: SessionId, _member: Member) -> Pending<()> {
        // Nobody would be left to tell its end.
        Box::pin(std::future::ready(Ok(())))
    }

    fn settle(&self, _id: &SessionId) {}

    fn claim(&self) -> Pending<Vec<PodId>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn orphans(&self, _pod: PodId, _cursor: u64) -> Pending<Orphans> {
        Box::pin(std::future::ready(Ok(Orphans { members: Vec::new(), next: None })))
    }

    fn adopt(&self, _id: SessionId, _owed: u8) -> Option<Pending<()>> {
        None
    }

    fn bury(&self, _entry: &Entry) -> Pending<()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn holds_lease(&self) -> bool {
        true
    }

    fn outage(&self) -> Outage {
        Outage::None
    }
}

/// Nobody else is there: what is held here stays so, and is never renewed.
impl<R: Receiver> Tenures for Memory<R> {
    fn look(&self, name: &str) -> Pending<Tenure> {
        let holder = self.held().contains(name).then_some(self.pod);
        let tenure = Tenure { holder, epoch: None, is_released: false };
        Box::pin(std::future::ready(Ok(tenure)))
    }

    fn seize(&self, name: &str, _above: u64) -> Pending<Option<Grip>> {
        self.held().insert(name.to_owned());
        Box::pin(std::future::ready(Ok(Some(Grip { epoch: 1, expires: false }))))
    }

    fn renew(&self, _name: &str) -> Pending<bool> {
        Box::pin(std::future::ready(Ok(true)))
    }

    fn release(&self, name: &str, _grip: Grip) -> Pending<()> {
        self.held().remove(name);
        Box::pin(std::future::ready(Ok(())))
    }

    fn hear(&self, _name: &Arc<str>) -> Pending<()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn unhear(&self, _name: &Arc<str>) {}
}

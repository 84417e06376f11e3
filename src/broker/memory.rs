//! One process, no other pods: the default.
//!
//! Keeps every outer semantic of one pod. The sequencer is a lock: whoever holds it hands his
//! message to every shard's mailbox before the next one may, so all shards see one order. Under it
//! the frame is made and pushed; nothing under it waits.

use std::sync::{Arc, Mutex, PoisonError};

use crate::broker::{Broker, Failure, Letter, Outage, Peer, Pending, Publication, Receiver};
use crate::proto::ask::Answer;
use crate::proto::path::Path;
use crate::proto::session_id::PodId;
use crate::proto::stream::{Entry, Fate};
use crate::proto::telling::{Place, What};

pub struct Memory<R> {
    pod: PodId,
    sequencer: Mutex<R>,
}

impl<R: Receiver> Memory<R> {
    pub fn new(pod: PodId, receiver: R) -> Memory<R> {
        Memory { pod, sequencer: Mutex::new(receiver) }
    }

    fn in_order<T>(&self, act: impl FnOnce(&R) -> T) -> T {
        // A receiver that panicked left no half-done order behind: each push is whole.
        act(&self.sequencer.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<R: Receiver> Broker for Memory<R> {
    fn subscribe(&self, _path: &Path) -> Pending<()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn unsubscribe(&self, _path: &Path) {}

    fn publish(&self, publication: Publication) -> Pending<u64> {
        let Publication { path, content, .. } = publication;
        let heard = self.in_order(|receiver| receiver.broadcast(&path, &content));
        Box::pin(std::future::ready(Ok(u64::from(heard))))
    }

    fn ask(&self, letter: Letter) -> Pending<Answer> {
        let Letter { to, ask, .. } = letter;
        if to != self.pod {
            return Box::pin(std::future::ready(Ok(Answer::Gone)));
        }
        self.in_order(|receiver| receiver.ask(ask))
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
        let failure = Failure::Unavailable("there are no streams without a Redis");
        Box::pin(std::future::ready(Err(failure)))
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

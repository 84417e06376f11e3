//! What the hub tells of its sessions, made into events and kept books of.
//!
//! Called on the shards' threads, so everything here is a check without a lock, some bytes
//! written, and a push.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

use crate::backend::sse::{Event as Offered, Origin, Sse};
use crate::backend::stream::Stream;
use crate::clock::unix_ms;
use crate::hub::command::Greeting;
use crate::hub::inbound::{Inbound, Who};
use crate::proto::close::{Cause, Close};
use crate::proto::event::{self, Event, Head};
use crate::proto::frame::Kind;
use crate::proto::msg;
use crate::proto::partition::partition;
use crate::proto::path::Path;
use crate::proto::paths::Configured;
use crate::proto::session_id::SessionId;
use crate::proto::stream::Entry;
use crate::proto::traceparent::Traceparent;

/// A session that had a place on a path has left it.
#[derive(Debug)]
pub struct Departure {
    pub id: SessionId,
    pub path: Path,
    pub configured: Arc<Configured>,
    /// Whether it was open, so that its end has been told.
    pub was_open: bool,
}

pub struct Ears {
    events: Arc<Sse>,
    stream: Arc<Stream>,
    /// Into how many streams the events of a path are parted.
    stream_partitions: u32,
    /// Nothing of this pod's sessions may be told any more.
    is_mute: AtomicBool,
    /// Bounded by the number of sessions: each departs once.
    departures: mpsc::UnboundedSender<Departure>,
}

/// The `seq` of an end that another pod tells: nobody knows how many events came before it, and none
/// of them has a larger one.
const LOST_SEQ: u64 = u32::MAX as u64;

impl Ears {
    pub fn new(
        events: Arc<Sse>,
        stream: Arc<Stream>,
        stream_partitions: u32,
    ) -> (Ears, mpsc::UnboundedReceiver<Departure>) {
        let (departures, receiver) = mpsc::unbounded_channel();
        let is_mute = AtomicBool::new(false);
        (Ears { events, stream, stream_partitions, is_mute, departures }, receiver)
    }

    /// From now on nothing is told: another pod has told the ends of this one's sessions.
    pub fn mute(&self) {
        self.is_mute.store(true, Ordering::Relaxed);
    }

    /// Tells the end of a session whose pod lives no more, in that one's place.
    pub fn lost(&self, id: SessionId, path: &Path, configured: &Arc<Configured>) {
        let close = Close::new(Close::NO_FRAME, "");
        let event = Event::Disconnect { close: &close, cause: Cause::PodLost };
        self.offer(&Who { id, path, configured, seq: LOST_SEQ }, None, &event);
    }

    fn offer(&self, who: &Who<'_>, traceparent: Option<&Traceparent>, event: &Event<'_>) {
        let head = Head {
            session: &who.id,
            path: who.path.as_str(),
            pod: &who.id.pod,
            seq: who.seq,
            time_ms: unix_ms(),
            traceparent,
        };
        if who.configured.stream {
            self.stream.offer(Entry {
                configured: who.configured.pattern.text().clone(),
                partition: partition(&who.id, self.stream_partitions),
                fields: event::fields(&head, event),
            });
        }
        if self.is_heard(who) {
            self.events.offer(Offered {
                id: event::id(&head, event),
                kind: event::kind(event),
                json: event::json(&head, event),
                path: who.path.clone(),
                configured: who.configured.pattern.text().clone(),
                origin: Origin::Own,
            });
        }
    }

    fn is_wanted(&self, who: &Who<'_>) -> bool {
        (who.configured.stream || self.is_heard(who)) && !self.is_mute.load(Ordering::Relaxed)
    }

    fn is_heard(&self, who: &Who<'_>) -> bool {
        self.events.is_heard(who.path, who.configured.pattern.text())
    }
}

impl Inbound for Ears {
    fn opened(&self, who: Who<'_>, remote: Option<SocketAddr>, greeting: &Greeting) {
        if self.is_wanted(&who) {
            let remote = remote.map(|remote| remote.to_string()).unwrap_or_default();
            let event = Event::Connect {
                remote: &remote,
                subprotocol: greeting.subprotocol.as_deref(),
                user: None,
                origin: greeting.origin.as_deref(),
                query: greeting.query.as_deref(),
            };
            self.offer(&who, greeting.traceparent.as_ref(), &event);
        }
    }

    fn message(&self, who: Who<'_>, kind: Kind, data: &[u8]) -> u8 {
        if self.is_wanted(&who) {
            let msg = msg::from_client(who.configured.wholemsg, kind, data, &who.id);
            self.offer(&who, None, &Event::Message { msg: &msg });
        }
        0
    }

    fn closed(&self, who: Who<'_>, end: Option<(&Close, Cause)>) {
        if let Some((close, cause)) = end
            && self.is_wanted(&who)
        {
            self.offer(&who, None, &Event::Disconnect { close, cause });
        }
        let departure = Departure {
            id: who.id,
            path: who.path.clone(),
            configured: who.configured.clone(),
            was_open: end.is_some(),
        };
        // Nobody keeps books any more when the pod has ended.
        let _ = self.departures.send(departure);
    }
}

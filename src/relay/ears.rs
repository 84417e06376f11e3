//! What the hub tells of its sessions, made into events and kept books of.
//!
//! Called on the shards' threads, so everything here is a check without a lock, some bytes
//! written, and a push.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

use crate::backend::sse::Sse;
use crate::backend::sse::heard::{Event as Offered, Origin};
use crate::backend::stream::Stream;
use crate::backend::webhook::lanes::{Teller, Whose};
use crate::backend::webhook::{self, Webhooks};
use crate::clock::unix_ms;
use crate::hub::command::Greeting;
use crate::hub::inbound::{Inbound, Who};
use crate::proto::close::{Cause, Close};
use crate::proto::event::{self, Event, Head};
use crate::proto::frame::Kind;
use crate::proto::msg;
use crate::proto::partition::partition;
use crate::proto::path::Path;
use crate::proto::paths::{Configured, OnFull};
use crate::proto::session_id::SessionId;
use crate::proto::stream::{Entry, Part};

/// A session that had a place on a path has left it.
#[derive(Debug)]
pub struct Departure {
    pub id: SessionId,
    pub path: Path,
    pub configured: Arc<Configured>,
    /// How many of its backends have not heard of it, nor will: it never came.
    pub unheard: u8,
}

pub struct Ears {
    events: Arc<Sse>,
    stream: Arc<Stream>,
    webhooks: Arc<Webhooks>,
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
        webhooks: Arc<Webhooks>,
        stream_partitions: u32,
    ) -> (Ears, mpsc::UnboundedReceiver<Departure>) {
        let (departures, receiver) = mpsc::unbounded_channel();
        let is_mute = AtomicBool::new(false);
        (Ears { events, stream, webhooks, stream_partitions, is_mute, departures }, receiver)
    }

    /// From now on nothing is told: another pod has told the ends of this one's sessions.
    pub fn mute(&self) {
        self.is_mute.store(true, Ordering::Relaxed);
    }

    /// Tells the end of a session whose pod lives no more, in that one's place.
    pub fn lost(&self, id: SessionId, path: &Path, configured: &Arc<Configured>) {
        let close = Close::new(Close::NO_FRAME, "");
        let event = Event::Disconnect { close: &close, cause: Cause::PodLost };
        let who = Who { id, path, configured, trace: None, seq: LOST_SEQ };
        // There is nobody to be held.
        let _ = self.offer(&who, &event);
        if configured.webhook.is_some() {
            self.tell_webhook_of_end(&who, &close, Cause::PodLost);
        }
    }

    /// Answers how many of those who hear it can take no more of that session.
    fn offer(&self, who: &Who<'_>, event: &Event<'_>) -> u8 {
        let mut holds = 0;
        let head = Head {
            session: &who.id,
            path: who.path.as_str(),
            pod: &who.id.pod,
            seq: who.seq,
            time_ms: unix_ms(),
            traceparent: who.trace,
        };
        if who.configured.stream {
            let Part { configured, partition } = self.part(&who.id, who.configured);
            let entry = Entry { configured, partition, fields: event::fields(&head, event) };
            if let Event::Message { .. } = event {
                let on_full = who.configured.on_full;
                holds += u8::from(self.stream.offer_message(entry, who.id, on_full));
            } else {
                self.stream.offer(entry);
            }
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
        holds
    }

    /// Where the events of a session go.
    fn part(&self, id: &SessionId, configured: &Configured) -> Part {
        let configured = configured.pattern.text().clone();
        Part { configured, partition: partition(id, self.stream_partitions) }
    }

    fn tell_webhook_of_end(&self, who: &Who<'_>, close: &Close, cause: Cause) {
        // It is over: nothing is left to be held.
        let event = end(who, who.seq, close, cause);
        let _ = self.webhooks.lanes.push(Teller::Session(whose(who)), event);
    }

    /// Tells the end of a session that never came to those who heard of it all the same: how many of its
    /// backends did not.
    fn tell_unopened(&self, who: &Who<'_>) -> u8 {
        // Its connect, which the hub does not know of, was its first event.
        let last = || end(who, who.seq.max(1), &Close::new(Close::NO_FRAME, ""), Cause::Network);
        let backends = who.configured.backends();
        let is_told = backends.webhook && self.webhooks.lanes.end_unopened(&who.id, last);
        backends.count() - u8::from(is_told)
    }

    fn is_wanted(&self, who: &Who<'_>) -> bool {
        (who.configured.stream || self.is_heard(who)) && !self.is_mute()
    }

    fn is_mute(&self) -> bool {
        self.is_mute.load(Ordering::Relaxed)
    }

    fn is_heard(&self, who: &Who<'_>) -> bool {
        self.events.is_heard(who.path, who.configured.pattern.text())
    }
}

impl Inbound for Ears {
    fn opened(&self, who: Who<'_>, remote: Option<SocketAddr>, greeting: &Greeting) {
        if who.configured.webhook.is_some() {
            self.webhooks.lanes.opened(&who.id);
        }
        if self.is_wanted(&who) {
            let remote = remote.map(|remote| remote.to_string()).unwrap_or_default();
            let event = Event::Connect {
                remote: &remote,
                subprotocol: greeting.subprotocol.as_deref(),
                user: greeting.user.as_deref(),
                origin: greeting.origin.as_deref(),
                query: greeting.query.as_deref(),
            };
            // Bounded by the number of sessions.
            let who = Who { trace: greeting.traceparent.as_ref(), ..who };
            let _ = self.offer(&who, &event);
        }
    }

    fn holds(&self, id: &SessionId, configured: &Arc<Configured>) -> u8 {
        let is_held = configured.stream
            && configured.on_full == OnFull::Backpressure
            && self.stream.is_crowded()
            && self.stream.hold(&self.part(id, configured), *id);
        u8::from(is_held)
    }

    fn message(&self, who: Who<'_>, kind: Kind, data: &[u8]) -> u8 {
        let mut holds = 0;
        if self.is_wanted(&who) {
            let msg = msg::from_client(who.configured.wholemsg, kind, data, &who.id);
            holds += self.offer(&who, &Event::Message { msg: &msg });
        }
        if who.configured.webhook.is_some() && !self.is_mute() {
            let (whose, at_ms) = (whose(&who), unix_ms());
            let is_held = self.webhooks.message(whose, who.trace, who.seq, at_ms, kind, data);
            holds += u8::from(is_held);
        }
        holds
    }

    fn closed(&self, who: Who<'_>, end: Option<(&Close, Cause)>) {
        if who.configured.stream {
            self.stream.forget(&self.part(&who.id, who.configured), &who.id);
        }
        let mut unheard = 0;
        match end {
            _ if self.is_mute() => {}
            Some((close, cause)) => {
                if self.is_wanted(&who) {
                    // Nothing more is read of it.
                    let _ = self.offer(&who, &Event::Disconnect { close, cause });
                }
                if who.configured.webhook.is_some() {
                    self.tell_webhook_of_end(&who, close, cause);
                }
            }
            None => unheard = self.tell_unopened(&who),
        }
        let departure = Departure {
            id: who.id,
            path: who.path.clone(),
            configured: who.configured.clone(),
            unheard,
        };
        // Nobody keeps books any more when the pod has ended.
        let _ = self.departures.send(departure);
    }
}

/// The last event of a session, for its webhook.
fn end(who: &Who<'_>, seq: u64, close: &Close, cause: Cause) -> webhook::lanes::Event {
    let whose = whose(who);
    let head = webhook::head(&whose, who.trace, seq, unix_ms());
    webhook::told(&head, &Event::Disconnect { close, cause })
}

fn whose(who: &Who<'_>) -> Whose {
    Whose { session: who.id, path: who.path.clone(), configured: who.configured.clone() }
}

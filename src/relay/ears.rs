//! What the hub tells of its sessions, made into events and kept books of.
//!
//! Called on the shards' threads, so everything here is a check without a lock, some bytes
//! written, and a push.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::backend::sse::{Event as Offered, Origin, Sse};
use crate::backend::stream::Stream;
use crate::backend::webhook::lanes::Whose;
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
use crate::proto::paths::Configured;
use crate::proto::stream::Entry;
use crate::proto::traceparent::Traceparent;

/// A session that had a place on a path has left it.
#[derive(Debug)]
pub struct Departure {
    pub path: Path,
    pub configured: Arc<Configured>,
    pub shard: usize,
}

pub struct Ears {
    events: Arc<Sse>,
    stream: Arc<Stream>,
    webhooks: Arc<Webhooks>,
    /// Into how many streams the events of a path are parted.
    stream_partitions: u32,
    /// Bounded by the number of sessions: each departs once.
    departures: mpsc::UnboundedSender<Departure>,
}

impl Ears {
    pub fn new(
        events: Arc<Sse>,
        stream: Arc<Stream>,
        webhooks: Arc<Webhooks>,
        stream_partitions: u32,
    ) -> (Ears, mpsc::UnboundedReceiver<Departure>) {
        let (departures, receiver) = mpsc::unbounded_channel();
        (Ears { events, stream, webhooks, stream_partitions, departures }, receiver)
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

    fn tell_webhook_of_end(&self, who: &Who<'_>, end: Option<(&Close, Cause)>) {
        let whose = whose(who);
        let told = |seq, close: &Close, cause| {
            let head = webhook::head(&whose, seq, unix_ms());
            webhook::told(&head, &Event::Disconnect { close, cause })
        };
        match end {
            // It is over: nothing is left to be held.
            Some((close, cause)) => {
                let _ = self.webhooks.lanes.push(&whose, told(who.seq, close, cause));
            }
            None => self.webhooks.lanes.end_unopened(&who.id, || {
                // Its connect, which the hub does not know of, was its first event.
                told(who.seq.max(1), &Close::new(Close::NO_FRAME, ""), Cause::Network)
            }),
        }
    }

    fn is_wanted(&self, who: &Who<'_>) -> bool {
        who.configured.stream || self.is_heard(who)
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
            self.offer(&who, greeting.traceparent.as_ref(), &event);
        }
    }

    fn message(&self, who: Who<'_>, kind: Kind, data: &[u8]) -> u8 {
        if self.is_wanted(&who) {
            let msg = msg::from_client(who.configured.wholemsg, kind, data, &who.id);
            self.offer(&who, None, &Event::Message { msg: &msg });
        }
        if who.configured.webhook.is_none() {
            return 0;
        }
        u8::from(self.webhooks.message(&whose(&who), who.seq, unix_ms(), kind, data))
    }

    fn closed(&self, who: Who<'_>, end: Option<(&Close, Cause)>) {
        if let Some((close, cause)) = end
            && self.is_wanted(&who)
        {
            self.offer(&who, None, &Event::Disconnect { close, cause });
        }
        if who.configured.webhook.is_some() {
            self.tell_webhook_of_end(&who, end);
        }
        let departure = Departure {
            path: who.path.clone(),
            configured: who.configured.clone(),
            shard: usize::from(who.id.shard),
        };
        // Nobody keeps books any more when the pod has ended.
        let _ = self.departures.send(departure);
    }
}

fn whose(who: &Who<'_>) -> Whose {
    Whose { session: who.id, path: who.path.clone(), configured: who.configured.clone() }
}

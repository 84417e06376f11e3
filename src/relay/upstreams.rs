//! Upstreams as all pods see them: what is published to one goes to the pod that holds it; what one
//! sends becomes events, and broadcasts of a path if it is to.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::backend::sse::Sse;
use crate::backend::sse::heard::{Event as Offered, Origin};
use crate::backend::stream::Stream;
use crate::backend::webhook;
use crate::backend::webhook::lanes::{Source, Teller};
use crate::broker::tenures::Tenures;
use crate::broker::{Letter, Outage, Pending};
use crate::clock::unix_ms;
use crate::metrics::PathMetrics;
use crate::proto::ask::{Answer, Ask};
use crate::proto::event::{self, Event, Feed};
use crate::proto::frame::Kind;
use crate::proto::msg::Content;
use crate::proto::partition;
use crate::proto::path::Path;
use crate::proto::paths::OnFull;
use crate::proto::session_id::PodId;
use crate::proto::stream::{Entry, Part};
use crate::proto::traceparent::Traceparent;
use crate::proto::upstream::{Dispatch, State};
use crate::relay::desk::Desk;
use crate::relay::{Begun, Refusal, Relay, taken};
use crate::trace::span;

/// How soon a pod that did not hold it is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How often it is looked whether more of an upstream can be taken.
const ROOM_POLL: Duration = Duration::from_millis(5);

/// All upstreams that are configured, as of now.
pub struct Upstreams {
    desks: ArcSwap<Vec<Arc<Desk>>>,
    events: Arc<Sse>,
    stream: Arc<Stream>,
    stream_partitions: u32,
    pod: PodId,
}

/// What is known of one upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub name: Arc<str>,
    pub holder: Option<PodId>,
    /// `None`: nobody holds it, or its holder did not answer.
    pub state: Option<State>,
}

impl Upstreams {
    /// None at first.
    pub fn new(
        events: Arc<Sse>,
        stream: Arc<Stream>,
        stream_partitions: u32,
        pod: PodId,
    ) -> Upstreams {
        let desks = ArcSwap::default();
        Upstreams { desks, events, stream, stream_partitions, pod }
    }

    /// From now on it is these.
    pub fn replace(&self, desks: Vec<Arc<Desk>>) {
        self.desks.store(Arc::new(desks));
    }

    pub fn named(&self, name: &str) -> Option<Arc<Desk>> {
        self.desks.load().iter().find(|desk| &**desk.config.name.text() == name).cloned()
    }

    pub fn names(&self) -> Vec<Arc<str>> {
        self.desks.load().iter().map(|desk| desk.config.name.text().clone()).collect()
    }

    /// Whether this pod holds one, or is about to give it back.
    pub fn are_in_use(&self) -> bool {
        self.desks.load().iter().any(|desk| desk.is_in_use())
    }

    /// What the broker asks the holder.
    pub fn ask(&self, ask: &Ask) -> Option<Pending<Answer>> {
        let answer =
            |answer: Answer| -> Pending<Answer> { Box::pin(std::future::ready(Ok(answer))) };
        match ask {
            Ask::Upstream { name, content } => Some(match self.named(name) {
                Some(desk) => desk.bring(content),
                None => answer(Answer::Gone),
            }),
            Ask::UpstreamState { name } => {
                let state = self.named(name).and_then(|desk| desk.state());
                Some(answer(state.map_or(Answer::Gone, Answer::UpstreamState)))
            }
            _ => None,
        }
    }

    /// Somebody who waits for no verdict published it.
    pub fn published(&self, name: &str, content: &Content) {
        let Some(desk) = self.named(name) else { return };
        // What was queued is counted by the desk; another pod's is no concern of this one.
        drop(desk.bring(content));
    }

    /// Who tells a webhook, if there is one.
    fn source(&self, desk: &Desk) -> Option<Source> {
        let webhook = desk.config.webhook.clone()?;
        let (upstream, pod) = (desk.config.name.text().clone(), self.pod);
        Some(Source { upstream, pod, wholemsg: desk.config.wholemsg, webhook })
    }

    /// What its next event tells.
    fn feed<'a>(&'a self, desk: &'a Desk) -> Feed<'a> {
        Feed {
            upstream: desk.config.name.text(),
            pod: &self.pod,
            seq: desk.count_event(),
            time_ms: unix_ms(),
        }
    }

    /// To streams and listeners. Events of one desk are heard in the order of calls.
    fn offer(&self, desk: &Desk, feed: &Feed<'_>, event: &Event<'_>) {
        let name = &desk.config.name;
        let path = Path::of_upstream(name);
        let is_heard = self.events.is_heard(&path, name.text());
        if desk.config.stream {
            let Part { configured, partition } = self.part(desk);
            let entry = Entry { configured, partition, fields: event::fields(feed, event) };
            match event {
                Event::Message { .. } => self.stream.offer_of_upstream(entry, desk.config.on_full),
                _ => self.stream.offer(entry),
            }
        }
        if is_heard {
            self.events.offer(Offered {
                id: event::id(feed, event),
                kind: event::kind(event),
                json: event::json(feed, event),
                path,
                configured: name.text().clone(),
                origin: Origin::Own,
            });
        }
    }

    /// Where its events go.
    fn part(&self, desk: &Desk) -> Part {
        let configured = desk.config.name.text().clone();
        let partition = partition::of_text(&configured, self.stream_partitions);
        Part { configured, partition }
    }

    /// This pod holds it from now on, and does not know what the one before has left in its stream.
    pub fn taken(&self, desk: &Desk) {
        if desk.config.stream {
            self.stream.suspect(self.part(desk));
        }
    }

    /// Whether what it sends is heard by anybody who wants the msg, so that it is worth being made one.
    pub fn is_heard(&self, desk: &Desk) -> bool {
        let name = &desk.config.name;
        desk.config.stream || self.events.is_heard(&Path::of_upstream(name), name.text())
    }
}

impl Relay {
    pub fn upstreams(&self) -> &Arc<Upstreams> {
        &self.upstreams
    }

    /// Who holds which upstream.
    pub fn tenures(&self) -> &dyn Tenures {
        self.broker.tenures()
    }

    /// Sends to an upstream, whichever pod holds it.
    pub async fn dispatch(
        &self,
        name: &Arc<str>,
        content: Content,
        traceparent: Option<Traceparent>,
    ) -> Result<Dispatch, Refusal> {
        let mut span = self.tracer.span(span::Kind::Publish, traceparent.as_ref());
        span.text("pathcast.kind", "upstream");
        span.text("pathcast.upstream", name);
        let dispatched = self.dispatch_once(name, content, span.context()).await;
        if let Err(refusal) = &dispatched {
            span.fail(refusal);
        }
        dispatched
    }

    async fn dispatch_once(
        &self,
        name: &Arc<str>,
        content: Content,
        traceparent: Option<Traceparent>,
    ) -> Result<Dispatch, Refusal> {
        self.may_send()?;
        let until = Instant::now() + self.config.unicast_timeout;
        loop {
            if let Some(holder) = self.tenures().look(name).await?.holder {
                let ask = Ask::Upstream { name: name.clone(), content: content.clone() };
                match self.ask(Letter { to: holder, ask, traceparent }).await? {
                    Answer::Dispatched(dispatch) => return Ok(dispatch),
                    Answer::OutboxFull => {
                        let why = "as much waits for this upstream as may";
                        return Err(Refusal::Unavailable(why));
                    }
                    // It was not sent: somebody else holds it now, or will.
                    Answer::Gone => {}
                    answer => return Err(answer.into()),
                }
            }
            if Instant::now() >= until {
                return Err(Refusal::Unavailable("no pod holds this upstream at the moment"));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// What is known of all upstreams that the asker `may` know, in the order of the settings.
    pub async fn standings(&self, may: impl Fn(&str) -> bool) -> Result<Vec<Standing>, Refusal> {
        let names = self.upstreams.names().into_iter().filter(|name| may(name));
        let standings = names.map(|name| async move {
            let holder = self.tenures().look(&name).await?.holder;
            let state = match holder {
                Some(pod) => {
                    let ask = Ask::UpstreamState { name: name.clone() };
                    match self.ask(Letter::new(pod, ask)).await {
                        Ok(Answer::UpstreamState(state)) => Some(state),
                        Ok(_) | Err(_) => None,
                    }
                }
                None => None,
            };
            Ok(Standing { name, holder, state })
        });
        join_all(standings).await.into_iter().collect()
    }

    /// Tells everybody who hears the upstream that a connection came or went.
    pub fn tell_of_upstream(&self, desk: &Desk, event: &Event<'_>) {
        let feed = self.upstreams.feed(desk);
        self.upstreams.offer(desk, &feed, event);
        if let Some(source) = self.upstreams.source(desk) {
            // It is held by what comes of it, not by its coming.
            let told = webhook::told(&feed, event);
            let _ = self.webhooks.lanes.push(Teller::Upstream(source), told);
        }
    }

    /// The same of a message that came: as a frame, and as a msg for those who want that.
    pub fn tell_of_frame(&self, desk: &Desk, kind: Kind, data: &[u8], msg: Option<&str>) {
        let source = self.upstreams.source(desk);
        if msg.is_none() && source.is_none() {
            return;
        }
        let feed = self.upstreams.feed(desk);
        if let Some(msg) = msg {
            self.upstreams.offer(desk, &feed, &Event::Message { msg });
        }
        if let Some(source) = source {
            self.webhooks.upstream_message(source, &feed, kind, data);
        }
    }

    /// Broadcasts what an upstream sent. The order of calls is the order of messages.
    pub fn bridge(&self, to: &Path, content: Content) -> Result<Pending<u64>, Refusal> {
        let source = |path: &PathMetrics| path.published_upstream.inc();
        let Begun { pending, span, .. } = self.begin(to, content, None, source)?;
        Ok(match span.is_recording() {
            true => Box::pin(taken(pending, span)),
            false => pending,
        })
    }

    /// Waits until the broker is there.
    pub async fn broker_there(&self) {
        while self.broker.outage() != Outage::None {
            tokio::time::sleep(ROOM_POLL).await;
        }
    }

    /// Waits until more of an upstream can be taken: as long as it takes, since nothing is lost by
    /// not reading it.
    pub async fn room_for_upstream(&self, desk: &Desk) {
        let Upstreams { stream, .. } = &*self.upstreams;
        let is_kept = desk.config.stream && desk.config.on_full == OnFull::Backpressure;
        let part = is_kept.then(|| self.upstreams.part(desk));
        let lane = self.upstreams.source(desk).map(|source| source.key());
        let mut unread = None;
        loop {
            let has_room = part.as_ref().is_none_or(|part| stream.has_room(part));
            if has_room {
                unread = None;
            } else if unread.is_none() {
                unread = Some(stream.hold_upstream());
            }
            let has_room = has_room
                && self.broker.outage() == Outage::None
                && !self.hub.is_crowded()
                && !lane.as_ref().is_some_and(|lane| self.webhooks.lanes.is_held(lane));
            if has_room {
                return;
            }
            tokio::time::sleep(ROOM_POLL).await;
        }
    }
}

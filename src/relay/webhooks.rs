//! Who works the lanes of webhooks: posts each event, sends what is answered to its session or upstream, reads
//! it on.
//!
//! A lane is worked by one task while something waits in it. An answer takes its place among the messages
//! for its teller before the next event is posted, and goes through the broker like every unicast. An event that
//! nobody will take is counted, logged, and kept where the broker has a place for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::backend::webhook;
use crate::backend::webhook::exchange::Answer as Answered;
use crate::backend::webhook::lanes::{Job, Key, Source, Teller, Whose};
use crate::backend::webhook::leave::MayLeave;
use crate::backend::webhook::target::{Admission, Delivery};
use crate::broker::Letter;
use crate::clock::unix_ms;
use crate::hub::command::Greeting;
use crate::lifecycle::Lifecycle;
use crate::proto::ask::{Answer, Ask, Reach};
use crate::proto::close::{Cause, Close};
use crate::proto::event::{Event, Kind};
use crate::proto::msg::Content;
use crate::proto::session_id::SessionId;
use crate::proto::stream::Entry;
use crate::proto::traceparent::Traceparent;
use crate::proto::webhook::admission::{self, Named};
use crate::proto::webhook::reply;
use crate::proto::webhook::{OnConnectError, OnError, Webhook};
use crate::relay::{Refusal, Relay};

/// How long after a reply could not be sent it is sent again: nothing of it left.
const REPLY_AGAIN: Duration = Duration::from_millis(100);

/// Why a client does not come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turned {
    /// Its backend does not want it: a status of 4xx, and a line for it.
    Away { status: u16, line: String, retry_after: Option<String> },
    /// Its backend did not say in time.
    Unanswered,
    /// Its session was ended meanwhile: this pod leaves, or the path was removed.
    Ended,
}

impl Relay {
    /// Works lanes until the pod closes.
    pub async fn work_lanes(
        self: Arc<Self>,
        mut ready: mpsc::UnboundedReceiver<Key>,
        lifecycle: Lifecycle,
    ) {
        let closing = lifecycle.closing();
        loop {
            let key = tokio::select! {
                key = ready.recv() => key,
                () = closing.cancelled() => return,
            };
            let Some(key) = key else { return };
            let (relay, closing) = (self.clone(), closing.clone());
            lifecycle.spawn(async move {
                tokio::select! {
                    () = relay.work_lane(&key) => {}
                    () = closing.cancelled() => {}
                }
            });
        }
    }

    fn may_leave(self: &Arc<Self>) -> MayLeave {
        // Connections keep it for as long as they live.
        let relay = Arc::downgrade(self);
        Arc::new(move || relay.upgrade().is_some_and(|relay| relay.broker.holds_lease()))
    }

    async fn work_lane(self: &Arc<Self>, key: &Key) {
        let may_leave = self.may_leave();
        while let Some(job) = self.webhooks.lanes.take(key) {
            match self.webhooks.deliver(&job, &may_leave).await {
                Some(Delivery::Taken(answer)) => match (job.event.kind, key) {
                    (Kind::Message, _) => self.reply(&job, answer).await,
                    (Kind::Connect, Key::Session(session)) => {
                        self.heed_late_veto(*session, &answer);
                    }
                    (Kind::Connect, Key::Upstream(..)) | (Kind::Disconnect, _) => {}
                },
                None => {}
                Some(Delivery::Dead(why)) => self.bury(&job, &why).await,
            }
            let is_to_be_read = self.webhooks.lanes.settle(key, job.event.bytes());
            // Who reads an upstream looks for himself.
            let Key::Session(session) = key else { continue };
            if job.event.kind == Kind::Disconnect {
                self.broker.settle(session);
            }
            if is_to_be_read {
                self.hub.read_on(*session);
            }
        }
    }

    /// A client that was let in without its backend's word, and is not wanted.
    fn heed_late_veto(&self, session: SessionId, answer: &Answered) {
        if (400..500).contains(&answer.status) {
            let line = admission::line(&answer.said());
            self.hub.end(session, Close::new(1008, line), Cause::Server);
        }
    }

    /// Sends what was answered to whoever asked.
    async fn reply(&self, job: &Job, answer: Answered) {
        if answer.status != 200 {
            return;
        }
        let traceparent = answer.traceparent;
        let label = answer.label();
        let complain = |why: String| {
            if !self.webhooks.complaints.are_due() {
                return;
            }
            match &job.teller {
                Teller::Session(Whose { session, configured, .. }) => {
                    let (session, path) = (session.prefix(), configured.pattern.text());
                    tracing::warn!(%session, %path, "dropped a backend's answer: {why}");
                }
                Teller::Upstream(Source { upstream, .. }) => {
                    tracing::warn!(%upstream, "dropped a backend's answer: {why}");
                }
            }
        };
        let Some(body) = answer.body.clone() else {
            return complain(format!("it is larger than {} bytes", self.config.frame_bytes_max));
        };
        let content = match reply::content(job.teller.wholemsg(), &label, body) {
            Ok(Some(content)) => content,
            Ok(None) => return,
            Err(invalid) => return complain(invalid.to_string()),
        };
        match &job.teller {
            Teller::Session(Whose { session, path, .. }) => {
                let reach = Reach::Path(path.clone());
                match self.tell_session(*session, reach, content, traceparent).await {
                    // A session that has ended hears nothing any more, and its backend is told of that.
                    Ok(Answer::Delivered | Answer::Gone) => {}
                    Ok(answer) => complain(Refusal::from(answer).to_string()),
                    Err(refusal) => complain(refusal.to_string()),
                }
            }
            Teller::Upstream(Source { upstream, .. }) => {
                if let Err(refusal) = self.tell_upstream(upstream, content, traceparent).await {
                    complain(refusal.to_string());
                }
            }
        }
    }

    /// As a publisher would, whichever pod holds it by now; the same holds for what was not sent. A pod
    /// that leaves sends nothing more.
    async fn tell_upstream(
        &self,
        name: &Arc<str>,
        content: Content,
        traceparent: Option<Traceparent>,
    ) -> Result<(), Refusal> {
        loop {
            match self.dispatch(name, content.clone(), traceparent).await {
                Err(Refusal::Unavailable(_)) if !self.is_leaving() => {
                    tokio::time::sleep(REPLY_AGAIN).await;
                }
                outcome => return outcome.map(drop),
            }
        }
    }

    /// As a publisher would, but what certainly was not sent is sent again: the backend has had its event,
    /// and will not answer it twice.
    async fn tell_session(
        &self,
        to: SessionId,
        reach: Reach,
        content: Content,
        traceparent: Option<Traceparent>,
    ) -> Result<Answer, Refusal> {
        loop {
            while self.room().await.is_err() {}
            let ask = Ask::Unicast { to, reach: reach.clone(), content: content.clone() };
            let answer = self.ask(Letter { to: to.pod, ask, traceparent }).await;
            let results = &self.metrics.unicasts;
            match &answer {
                Err(Refusal::Unavailable(_)) | Ok(Answer::Overloaded) => {
                    tokio::time::sleep(REPLY_AGAIN).await;
                    continue;
                }
                Ok(answer) => results.of(answer).inc(),
                Err(_) => results.unknown.inc(),
            }
            return answer;
        }
    }

    /// An event that will not be offered again.
    async fn bury(&self, job: &Job, why: &str) {
        let Job { teller, event } = job;
        let path = teller.configured();
        if self.webhooks.complaints.are_due() {
            tracing::error!(id = event.id, %path, "gave up an event: {why}");
        }
        let json = webhook::json(job);
        let fields = vec![
            ("id", event.id.clone()),
            ("type", event.kind.as_str().to_owned()),
            ("event", String::from_utf8_lossy(&json).into_owned()),
            ("error", why.to_owned()),
        ];
        let entry = Entry { configured: path.clone(), partition: 0, fields };
        if let Err(failure) = self.broker.bury(&entry).await
            && self.webhooks.complaints.are_due()
        {
            tracing::error!(id = event.id, %path, "could not keep an event that was given up: {failure}");
        }
        let closes = teller.webhook().is_some_and(|one| one.on_error == OnError::Close);
        if let (Teller::Session(Whose { session, .. }), true) = (teller, closes) {
            self.hub.end(*session, Close::new(1011, "backend"), Cause::Server);
        }
    }

    /// Asks the backend of a session's path, if it has one, whether the client may come; it may name user
    /// and subprotocol, one of those `offered`. The session has its place already, and is told of whatever becomes of
    /// the client: its connect, once offered, is followed by its disconnect.
    pub async fn introduce(
        self: &Arc<Self>,
        whose: Whose,
        remote: SocketAddr,
        greeting: &mut Greeting,
        offered: &[String],
    ) -> Result<(), Turned> {
        let Some(webhook) = whose.configured.webhook.clone() else { return Ok(()) };
        let session = whose.session;
        if !self.webhooks.lanes.begin(&session) {
            return Err(Turned::Ended);
        }
        let job = connect(&whose, remote, greeting);
        let (tell, told) = oneshot::channel();
        let (relay, closing) = (self.clone(), self.lifecycle.closing().clone());
        // A client that hangs up does not stop this: the backend may have heard of it.
        self.lifecycle.spawn(async move {
            tokio::select! {
                // Whoever asked may not wait any more.
                outcome = relay.ask_backend(session, webhook, job) => drop(tell.send(outcome)),
                () = closing.cancelled() => {}
            }
        });
        // Dropped when the pod closes.
        let named = told.await.unwrap_or(Err(Turned::Unanswered))?;
        if let Some(subprotocol) = named.subprotocol {
            if !offered.contains(&subprotocol) {
                if self.webhooks.complaints.are_due() {
                    let path = whose.configured.pattern.text();
                    tracing::error!(
                        %path,
                        "a backend chose the subprotocol {subprotocol:?}, which its client does not offer"
                    );
                }
                return Err(Turned::Unanswered);
            }
            greeting.subprotocol = Some(subprotocol);
        }
        greeting.user = named.user;
        Ok(())
    }

    async fn ask_backend(
        self: &Arc<Self>,
        session: SessionId,
        webhook: Webhook,
        job: Job,
    ) -> Result<Named, Turned> {
        let may_leave = self.may_leave();
        let lanes = &self.webhooks.lanes;
        match self.webhooks.admit(&webhook, &job, &may_leave).await {
            Admission::Accepted(named) => {
                lanes.connected(&session, None);
                Ok(named)
            }
            Admission::Vetoed { status, line, retry_after } => {
                self.forget(&session);
                Err(Turned::Away { status, line, retry_after })
            }
            Admission::Full => {
                if self.webhooks.complaints.are_due() {
                    tracing::warn!(url = %webhook.url, "let nobody in: too much waits for backends");
                }
                self.forget(&session);
                Err(Turned::Unanswered)
            }
            Admission::Unanswered { why, .. }
                if webhook.on_connect_error == OnConnectError::Accept =>
            {
                if self.webhooks.complaints.are_due() {
                    tracing::warn!(url = %webhook.url, "let a client in without its backend's word: {why}");
                }
                lanes.connected(&session, Some(job.event));
                Ok(Named::default())
            }
            Admission::Unanswered { is_known, why } => {
                if self.webhooks.complaints.are_due() {
                    tracing::warn!(url = %webhook.url, "a backend did not answer a connect: {why}");
                }
                match is_known {
                    true => lanes.connected(&session, None),
                    false => self.forget(&session),
                }
                Err(Turned::Unanswered)
            }
        }
    }

    /// The backend of a session that has not come knows nothing of it.
    fn forget(&self, session: &SessionId) {
        if self.webhooks.lanes.forget(session) {
            self.broker.settle(session);
        }
    }
}

/// The first event of a session.
fn connect(whose: &Whose, remote: SocketAddr, greeting: &Greeting) -> Job {
    let remote = remote.to_string();
    let event = Event::Connect {
        remote: &remote,
        subprotocol: greeting.subprotocol.as_deref(),
        user: None,
        origin: greeting.origin.as_deref(),
        query: greeting.query.as_deref(),
    };
    let head = webhook::head(whose, greeting.traceparent.as_ref(), 0, unix_ms());
    Job { event: webhook::told(&head, &event), teller: Teller::Session(whose.clone()) }
}

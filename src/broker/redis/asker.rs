//! What this pod asks of others, and how it knows that one of them lives no more.
//!
//! A pod has gone when there is no lease of it, and this pod would have seen it renewed. That is
//! looked for when nobody got the question; when it stayed unanswered, for the next ones; and
//! before anything is sent to a pod that was found absent so.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value};
use uuid::Uuid;

use crate::broker::redis::absent::Absent;
use crate::broker::redis::inbox::{Inbox, Question};
use crate::broker::redis::{receivers, traced};
use crate::broker::{Failure, Letter, Pending};
use crate::clock::BootTime;
use crate::proto::ask::Answer;
use crate::proto::envelope::Body;
use crate::proto::millis::millis;
use crate::proto::session_id::PodId;

/// How long a pod that lives, but does not listen at the moment, is given before it is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

pub struct Asker {
    inbox: Arc<Inbox>,
    lease_ttl: Duration,
    /// How long an answer may take.
    limit: Duration,
    absent: Absent,
}

impl Asker {
    pub fn new(inbox: Arc<Inbox>, lease_ttl: Duration, limit: Duration) -> Asker {
        Asker { inbox, lease_ttl, limit, absent: Absent::default() }
    }

    /// The question takes its place when this is called, unless that pod was found absent: then it
    /// does so when the pod turns out to live.
    pub fn ask(self: &Arc<Self>, letter: Letter) -> Pending<Answer> {
        let answered = match self.absent.is_noted(letter.to) {
            false => self.send(letter),
            true => self.clone().send_if_present(letter),
        };
        let limit = self.limit;
        Box::pin(async move {
            tokio::time::timeout(limit, answered).await.unwrap_or(Err(Failure::Unknown))
        })
    }

    /// Writes the question, and waits for the answer as long as it is polled.
    fn send(self: &Arc<Self>, letter: Letter) -> Pending<Answer> {
        let Letter { to: pod, ask, traceparent } = letter;
        let inbox = self.inbox.clone();
        let Some(sent_ms) = inbox.clock.now_ms(BootTime::now()) else {
            return Box::pin(std::future::ready(Err(Failure::Unavailable("Redis is away"))));
        };
        let mut question = inbox.question();
        let body = Body::Ask {
            from: inbox.pod,
            correlation: question.correlation,
            sent_ms,
            age_limit_ms: millis(self.limit),
            ask,
        };
        let message = traced(Uuid::now_v7(), traceparent, body);
        let letter = Cmd::publish(inbox.names.pod(pod), message);
        let mut sent = Box::pin(inbox.commands.send(letter.clone()));
        let asker = self.clone();
        Box::pin(async move {
            loop {
                if receivers(sent.await?)? > 0 {
                    return asker.answer(pod, &mut question).await;
                }
                if asker.is_gone(pod).await? {
                    return Ok(Answer::Gone);
                }
                // It lives, or may: it comes back within the time, or is asked in vain.
                tokio::time::sleep(ASK_AGAIN).await;
                sent = Box::pin(asker.inbox.commands.send(letter.clone()));
            }
        })
    }

    fn send_if_present(self: Arc<Self>, letter: Letter) -> Pending<Answer> {
        Box::pin(async move {
            if self.is_gone(letter.to).await? {
                return Ok(Answer::Gone);
            }
            self.absent.forget(letter.to);
            self.send(letter).await
        })
    }

    async fn answer(
        self: &Arc<Self>,
        pod: PodId,
        question: &mut Question,
    ) -> Result<Answer, Failure> {
        let Question { answer, .. } = question;
        // A pod that lives has answered long before; whoever waits is told nothing else by this.
        let answered = match tokio::time::timeout(self.limit / 2, &mut *answer).await {
            Ok(answered) => answered,
            Err(_) => {
                self.suspect(pod);
                answer.await
            }
        };
        answered.map_err(|_| Failure::Unknown)
    }

    /// Looks for the lease of a pod that does not answer, for the sake of those who ask it next.
    fn suspect(self: &Arc<Self>, pod: PodId) {
        if pod == self.inbox.pod || !self.absent.suspect(pod) {
            return;
        }
        let asker = self.clone();
        self.inbox.lifecycle.spawn(async move {
            match asker.is_gone(pod).await {
                Ok(true) => asker.absent.note(pod, BootTime::now()),
                Ok(false) | Err(_) => asker.absent.forget(pod),
            }
        });
    }

    /// What proves that a pod has gone: there is no lease of it, and this pod would have seen it
    /// renewed: it has heard Redis for a whole lease time without a break, and its own lease, which
    /// is renewed in the same way, has been renewed each time.
    async fn is_gone(&self, pod: PodId) -> Result<bool, Failure> {
        let lease = Cmd::exists(self.inbox.names.lease(pod));
        let leased = self.inbox.commands.send_vital(lease).await?;
        let would_know = self.inbox.lease.is_renewed(BootTime::now())
            && self.inbox.has_heard_for(self.lease_ttl);
        Ok(leased == Value::Int(0) && would_know)
    }
}

//! What is for one session alone: unicasts, farewells, the answer to its close frame.

use bytes::Bytes;

use crate::hub::command::Reply;
use crate::hub::outbox::Class;
use crate::hub::sessions::{Sent, Sessions};
use crate::metrics::Metrics;
use crate::proto::ask::Answer;
use crate::proto::close::{Cause, Close};

pub enum Part {
    Frame(Bytes),
    /// The last thing: so a farewell does not overtake what was queued before it.
    Farewell(Close, Cause),
    /// The answer to the client's own close frame: what was queued before it came is still its.
    Echo,
}

impl Part {
    /// What it holds, in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Part::Frame(frame) => frame.len(),
            Part::Farewell(..) | Part::Echo => 0,
        }
    }

    /// Sends it, behind everything the session has been sent; tells who waits for the answer.
    pub fn send(
        self,
        sessions: &mut Sessions,
        slot: usize,
        answer: Option<Reply>,
        metrics: &Metrics,
    ) {
        match self {
            // Nobody waits for the verdict any more: it was told as unknown, and a frame after
            // that could come twice.
            Part::Frame(_) if answer.as_ref().is_some_and(Reply::is_closed) => {
                metrics.unicasts.late.inc();
            }
            Part::Frame(frame) => {
                let answer_is = match sessions.send(slot, &frame, 0, Class::Single) {
                    Sent::Written | Sent::Queued => Answer::Delivered,
                    Sent::Full => Answer::OutboxFull,
                    Sent::Gone => Answer::Gone,
                };
                reply(answer, answer_is);
            }
            Part::Farewell(close, cause) => {
                let is_alive = sessions.is_alive(slot);
                sessions.close(slot, close, cause);
                reply(answer, if is_alive { Answer::Closed } else { Answer::Gone });
            }
            Part::Echo => sessions.closed_by_client(slot),
        }
    }
}

/// Nobody may be waiting for it any more.
pub fn reply(to: Option<Reply>, answer: Answer) {
    if let Some(to) = to {
        let _ = to.send(answer);
    }
}

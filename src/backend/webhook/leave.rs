//! Leave to go: a body that is not written any more when its pod may have been taken for dead.
//!
//! Between the decision to post an event and its first byte there may be a new connection, and a pod may
//! stand still there for longer than its lease. The body is asked for at the moment of writing, head and body go
//! out together, so this is the last look there can be.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// Whether events may leave this pod now.
pub type MayLeave = Arc<dyn Fn() -> bool + Send + Sync>;

pub struct Guarded {
    body: Option<Bytes>,
    may_leave: MayLeave,
}

#[derive(Debug, thiserror::Error)]
#[error("this pod's lease has lapsed")]
pub struct Lapsed;

impl Guarded {
    pub fn new(body: Bytes, may_leave: MayLeave) -> Guarded {
        Guarded { body: Some(body).filter(|body| !body.is_empty()), may_leave }
    }
}

impl Body for Guarded {
    type Data = Bytes;
    type Error = Lapsed;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Lapsed>>> {
        if !(self.may_leave)() {
            return Poll::Ready(Some(Err(Lapsed)));
        }
        Poll::Ready(self.body.take().map(|body| Ok(Frame::data(body))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.body.as_ref().map_or(0, Bytes::len) as u64)
    }
}

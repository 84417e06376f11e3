//! Leave to go: connections that are not written to any more when their pod may have been taken for dead.
//!
//! Between the decision to post an event and its first byte there may be a new connection, and a pod may
//! stand still there for longer than its lease. So each connection is guarded, below HTTP and TLS. One that
//! may not be written to has failed, and its event is posted again when events may leave.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tower::Service;

use crate::guarded::{Guarded, MayWrite};

/// Whether events may leave this pod now.
pub type MayLeave = MayWrite;

/// Makes connections that are guarded.
#[derive(Clone)]
pub struct Connector {
    pub tcp: HttpConnector,
    pub may_leave: MayLeave,
}

type Connecting<E> = Pin<Box<dyn Future<Output = Result<TokioIo<Guarded>, E>> + Send>>;

impl Service<Uri> for Connector {
    type Response = TokioIo<Guarded>;
    type Error = <HttpConnector as Service<Uri>>::Error;
    type Future = Connecting<Self::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(context)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let (connecting, may_leave) = (self.tcp.call(target), self.may_leave.clone());
        Box::pin(async move {
            let socket = connecting.await?.into_inner();
            Ok(TokioIo::new(Guarded::new(socket, may_leave)))
        })
    }
}

impl Connection for Guarded {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

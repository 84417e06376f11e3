//! Leave to go: connections that are not written to any more when their pod may have been taken for dead.
//!
//! Between the decision to post an event and its first byte there may be a new connection, and a pod may
//! stand still there for longer than its lease. So it is asked once more before every single write to the
//! socket, below HTTP and TLS: whatever a request is made of, this is the last look there can be. A connection that
//! may not be written to has failed, and its event is posted again when events may leave.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::Service;

/// Whether events may leave this pod now.
pub type MayLeave = Arc<dyn Fn() -> bool + Send + Sync>;

/// Makes connections that are guarded.
#[derive(Clone)]
pub struct Connector {
    pub tcp: HttpConnector,
    pub may_leave: MayLeave,
}

pub struct Guarded {
    socket: TokioIo<TcpStream>,
    may_leave: MayLeave,
}

type Connecting<E> = Pin<Box<dyn Future<Output = Result<Guarded, E>> + Send>>;

impl Service<Uri> for Connector {
    type Response = Guarded;
    type Error = <HttpConnector as Service<Uri>>::Error;
    type Future = Connecting<Self::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(context)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let (connecting, may_leave) = (self.tcp.call(target), self.may_leave.clone());
        Box::pin(async move { Ok(Guarded { socket: connecting.await?, may_leave }) })
    }
}

impl Guarded {
    fn check(&self) -> io::Result<()> {
        match (self.may_leave)() {
            true => Ok(()),
            false => Err(io::Error::other("this pod's lease has lapsed")),
        }
    }
}

impl Connection for Guarded {
    fn connected(&self) -> Connected {
        self.socket.connected()
    }
}

impl Read for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl Write for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.check() {
            Ok(()) => Pin::new(&mut self.socket).poll_write(context, bytes),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.check() {
            Ok(()) => Pin::new(&mut self.socket).poll_write_vectored(context, slices),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

//! A connection that is written to only while this pod may: the lease that says so is its owner's.
//!
//! It is asked before every single write to the socket, whatever that is part of: a frame, the rest of
//! one, a pong, a request, a record of TLS. So this stands below TLS and whatever is spoken, and is the
//! last look there can be: a pod may stand still for longer than its lease between any two steps above.
//! Without leave the write fails, an orderly end too, and the connection is reset rather than closed,
//! so that what the system has not sent yet is not sent any more.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Whether this pod may still write.
pub type MayWrite = Arc<dyn Fn() -> bool + Send + Sync>;

pub struct Guarded {
    socket: TcpStream,
    may_write: MayWrite,
}

impl Guarded {
    pub fn new(socket: TcpStream, may_write: MayWrite) -> Guarded {
        Guarded { socket, may_write }
    }

    fn check(&self) -> io::Result<()> {
        match (self.may_write)() {
            true => Ok(()),
            false => Err(io::Error::other("this pod's lease has lapsed")),
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for Guarded {
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
        match self.check() {
            Ok(()) => Pin::new(&mut self.socket).poll_shutdown(context),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.check().is_err() {
            // Where that fails the socket is broken anyway.
            let _ = self.socket.set_zero_linger();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, IoSlice};
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Both ends, and what the guarded one asks.
    async fn guarded() -> (Guarded, TcpStream, Arc<AtomicBool>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let socket = TcpStream::connect(addr).await.expect("it listens");
        let (remote, _) = listener.accept().await.expect("it was connected to");
        let held = Arc::new(AtomicBool::new(true));
        let is_held = held.clone();
        let guarded = Guarded::new(socket, Arc::new(move || is_held.load(Ordering::SeqCst)));
        (guarded, remote, held)
    }

    #[tokio::test]
    async fn without_the_lease_nothing_is_written_and_the_connection_is_reset() {
        let (mut guarded, mut remote, held) = guarded().await;
        guarded.write_all(b"held").await.expect("it is held");
        let mut bytes = [0; 4];
        remote.read_exact(&mut bytes).await.expect("it was written");
        held.store(false, Ordering::SeqCst);
        assert!(guarded.write(b"lost").await.is_err());
        assert!(guarded.write_vectored(&[IoSlice::new(b"lo"), IoSlice::new(b"st")]).await.is_err());
        assert!(guarded.shutdown().await.is_err());
        drop(guarded);
        let error = remote.read(&mut bytes).await.expect_err("neither a byte nor an orderly end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn with_the_lease_slices_leave_in_one_write_and_the_end_is_orderly() {
        let (mut guarded, mut remote, _held) = guarded().await;
        assert!(guarded.is_write_vectored());
        let slices = [IoSlice::new(b"head"), IoSlice::new(b"body")];
        assert_eq!(guarded.write_vectored(&slices).await.expect("it is held"), 8);
        drop(guarded);
        let mut bytes = Vec::new();
        remote.read_to_end(&mut bytes).await.expect("an orderly end");
        assert_eq!(bytes, b"headbody");
    }
}

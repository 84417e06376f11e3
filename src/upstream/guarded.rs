//! A connection that is written to only while its upstream is held.
//!
//! The lease is asked before every single write to the socket, whatever it is part of: a frame, the
//! rest of one, a pong, a record of TLS. Without it the write fails, and the connection is reset
//! rather than closed, so that what the system has not sent yet is not sent any more.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::clock::BootTime;
use crate::proto::millis::millis;
use crate::upstream::lease::Lease;

pub struct Guarded {
    socket: TcpStream,
    lease: Arc<Lease>,
    ear: Arc<Ear>,
}

/// When bytes came last, in milliseconds since it was made.
#[derive(Debug)]
pub struct Ear {
    begun: Instant,
    heard_ms: AtomicU64,
}

impl Ear {
    pub fn begin() -> Ear {
        Ear { begun: Instant::now(), heard_ms: AtomicU64::new(0) }
    }

    pub fn now_ms(&self) -> u64 {
        millis(self.begun.elapsed())
    }

    pub fn heard_ms(&self) -> u64 {
        self.heard_ms.load(Ordering::Relaxed)
    }
}

impl Guarded {
    pub fn new(socket: TcpStream, lease: Arc<Lease>, ear: Arc<Ear>) -> Guarded {
        Guarded { socket, lease, ear }
    }

    fn check(&self) -> io::Result<()> {
        match self.lease.is_held(BootTime::now()) {
            true => Ok(()),
            false => Err(io::Error::other("this pod does not hold the upstream any more")),
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.ear.heard_ms.store(self.ear.now_ms(), Ordering::Relaxed);
        }
        read
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
    use std::io::ErrorKind;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn without_the_lease_nothing_is_written_and_the_connection_is_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let socket = TcpStream::connect(addr).await.expect("it listens");
        let (mut remote, _) = listener.accept().await.expect("it was connected to");
        let lease = Arc::new(Lease::new(BootTime::now(), true));
        let ear = Arc::new(Ear::begin());
        let mut guarded = Guarded::new(socket, lease.clone(), ear);
        guarded.write_all(b"held").await.expect("it is held");
        let mut bytes = [0; 4];
        remote.read_exact(&mut bytes).await.expect("it was written");
        lease.lose();
        assert!(guarded.write(b"lost").await.is_err());
        assert!(guarded.shutdown().await.is_err());
        drop(guarded);
        let error = remote.read(&mut bytes).await.expect_err("neither a byte nor an orderly end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

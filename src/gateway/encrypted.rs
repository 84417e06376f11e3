//! A client's connection until its session's shard takes it over: TLS below hyper's one request.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::hub::records::{Records, Stage};
use crate::hub::socket::{Rests, Socket};

/// Read at once: a client's hello fits, and so does its request.
const READ_BYTES: usize = 4096;

/// Sealed at once: the answer to a handshake fits, and the sum stays small.
const WRITE_BYTES_MAX: usize = 16 * 1024;

pub struct Encrypted {
    stream: TcpStream,
    records: Records,
    rests: Rests,
    stage: Stage,
}

impl Encrypted {
    /// Goes through the TLS handshake. What ends it from this side may still wait to be sent: it
    /// goes out with the first answer.
    pub async fn accept(stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<Encrypted> {
        let records = Records::new(config).map_err(io::Error::other)?;
        let rests = Rests::default();
        let mut accepted = Encrypted { stream, records, rests, stage: Stage::Handshake };
        loop {
            let mut received = accepted.records.held().to_vec();
            received.reserve(READ_BYTES);
            if accepted.stream.read_buf(&mut received).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let opened = accepted.open(&mut received);
            if opened.is_ok() && accepted.stage != Stage::Handshake {
                return Ok(accepted);
            }
            let Encrypted { stream, rests, .. } = &mut accepted;
            stream.write_all(&rests.sealed).await?;
            rests.sealed.clear();
            opened?;
        }
    }

    /// The socket, for a shard.
    pub fn into_socket(self) -> io::Result<Socket> {
        Ok(Socket::tls(self.stream.into_std()?, self.records, self.rests))
    }

    /// Opens what was held back and received.
    fn open(&mut self, received: &mut [u8]) -> io::Result<()> {
        let Rests { clear, sealed } = &mut self.rests;
        let opened = self.records.open(received, clear, sealed);
        self.stage = opened.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        Ok(())
    }

    /// Sends what is sealed.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sent = 0;
        let outcome = loop {
            if sent == self.rests.sealed.len() {
                break Poll::Ready(Ok(()));
            }
            match Pin::new(&mut self.stream).poll_write(cx, &self.rests.sealed[sent..]) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => sent += n,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        self.rests.sealed.drain(..sent);
        outcome
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.rests.clear.is_empty() && this.stage != Stage::Ended {
            // Whoever waits for an answer has to have got it.
            if let Poll::Ready(sent) = this.poll_send(cx) {
                sent?;
            }
            let mut bytes = [0; READ_BYTES];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            let mut received = [this.records.held(), read.filled()].concat();
            this.open(&mut received)?;
        }
        let n = this.rests.clear.len().min(buf.remaining());
        buf.put_slice(&this.rests.clear[..n]);
        this.rests.clear.drain(..n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // Behind the end of the handshake at most, and that goes with it.
        if this.rests.sealed.len() > WRITE_BYTES_MAX {
            ready!(this.poll_send(cx))?;
        }
        let taken = buf.len().min(WRITE_BYTES_MAX);
        let sealed = &mut this.rests.sealed;
        this.records.seal(&buf[..taken], sealed).map_err(io::Error::other)?;
        // Else it goes with a flush.
        match this.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Said once, however often. Only what went wrong before keeps it from being said.
        let _ = this.records.end(&mut this.rests.sealed);
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

//! One client's socket, plain or TLS: the only type in the hub that makes system calls on it.
//!
//! Non-blocking throughout. `Plain` writes are one `send` without a signal each; the shard calls
//! them straight from its loop.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustix::net::SendFlags;
use tokio_rustls::rustls::ServerConnection;

/// What rustls may hold encrypted but unsent for one session, in bytes: four full records.
const TLS_PENDING_BYTES_MAX: usize = 64 * 1024;

pub enum Socket {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

/// A socket whose TLS handshake is done.
pub struct Tls {
    stream: TcpStream,
    connection: ServerConnection,
}

impl Socket {
    /// `stream` is non-blocking.
    pub fn plain(stream: std::net::TcpStream) -> Socket {
        Socket::Plain(TcpStream::from_std(stream))
    }

    /// `stream` is non-blocking and past the handshake of `connection`.
    pub fn tls(stream: std::net::TcpStream, mut connection: ServerConnection) -> Socket {
        connection.set_buffer_limit(Some(TLS_PENDING_BYTES_MAX));
        Socket::Tls(Box::new(Tls { stream: TcpStream::from_std(stream), connection }))
    }

    /// Both directions, edge-triggered, for the life of the socket.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(self.stream_mut(), token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Bytes read; 0 at the end of the stream; `WouldBlock` when there are none.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Plain(stream) => uninterrupted(|| stream.read(buffer)),
            Socket::Tls(tls) => tls.read(buffer),
        }
    }

    /// Whether a read of `n` bytes into a buffer of `capacity` left nothing behind.
    pub fn is_drained(&self, n: usize, capacity: usize) -> bool {
        // One TLS read gives one record's rest, however much waits behind it.
        matches!(self, Socket::Plain(_)) && n < capacity
    }

    /// Bytes taken, at least one; `WouldBlock` when none can be.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            // Not by the C library: its `send` can be cancelled, and says so by two atomics each time.
            Socket::Plain(stream) => {
                uninterrupted(|| Ok(rustix::net::send(&*stream, bytes, SendFlags::NOSIGNAL)?))
            }
            Socket::Tls(tls) => tls.write(bytes),
        }
    }

    /// As `write`, from several buffers in one call.
    pub fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Plain(stream) => uninterrupted(|| stream.write_vectored(slices)),
            Socket::Tls(tls) => match slices.iter().find(|slice| !slice.is_empty()) {
                Some(first) => tls.write(first),
                None => Ok(0),
            },
        }
    }

    /// Sends what TLS still holds; `WouldBlock` while something is left.
    pub fn flush(&mut self) -> io::Result<()> {
        match self {
            Socket::Plain(_) => Ok(()),
            Socket::Tls(tls) => tls.flush(),
        }
    }

    /// Nothing will be written any more; the peer may still send.
    pub fn finish(&mut self) {
        if let Socket::Tls(tls) = self {
            tls.connection.send_close_notify();
            // Best effort: the peer learns of the end from the FIN as well.
            let _ = tls.flush();
        }
        // Fails only when the peer is gone already.
        let _ = self.stream_mut().shutdown(Shutdown::Write);
    }

    pub fn remote(&self) -> Option<SocketAddr> {
        match self {
            Socket::Plain(stream) => stream.peer_addr().ok(),
            Socket::Tls(tls) => tls.stream.peer_addr().ok(),
        }
    }

    fn stream_mut(&mut self) -> &mut TcpStream {
        match self {
            Socket::Plain(stream) => stream,
            Socket::Tls(tls) => &mut tls.stream,
        }
    }
}

impl Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // A peer that ends without close_notify has ended all the same.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                done => return done,
            }
            if uninterrupted(|| self.connection.read_tls(&mut self.stream))? == 0 {
                return Ok(0);
            }
            let processed = self.connection.process_new_packets();
            // Alerts and answers to key updates go out at once or with the next write.
            let _ = self.flush();
            processed.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let mut taken = 0;
        while taken < bytes.len() {
            taken += self.connection.writer().write(&bytes[taken..])?;
            match self.flush() {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            uninterrupted(|| self.connection.write_tls(&mut self.stream))?;
        }
        Ok(())
    }
}

impl Drop for Tls {
    /// Tells the peer that the end is meant, and that nobody cut the stream short.
    fn drop(&mut self) {
        self.connection.send_close_notify();
        // Best effort: a peer that takes nothing now learns it from the FIN.
        let _ = self.flush();
    }
}

fn uninterrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

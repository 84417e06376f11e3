//! One client's socket, plain or TLS: the only type in the hub that makes system calls on it.
//!
//! Non-blocking throughout. `Plain` writes are one `send` without a signal each; the shard calls
//! them straight from its loop. A session with TLS that is at rest has no buffers either: what is
//! read or written at once lies on a desk that all sessions of a thread share.

use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustix::net::SendFlags;

use crate::hub::records::{HELD_BYTES_MAX, RECORD_BYTES_MAX, Records, Stage};

/// Clear text that is sealed at once, and so what one session holds sealed but unsent: four full
/// records.
const SEAL_BYTES_MAX: usize = 64 * 1024;

/// Room to read behind what is held back.
const READ_BYTES: usize = HELD_BYTES_MAX + RECORD_BYTES_MAX;

pub enum Socket {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

/// A socket whose TLS handshake is done.
pub struct Tls {
    stream: TcpStream,
    records: Records,
    rests: Rests,
    /// The peer has announced that it sends no more.
    has_ended: bool,
    /// Nothing was left in the socket when it was last read.
    is_drained: bool,
}

/// What is under way between a socket and its session; all of it empty at rest.
#[derive(Debug, Default)]
pub struct Rests {
    /// What was opened and not taken yet.
    pub clear: Vec<u8>,
    /// What was sealed and not sent yet.
    pub sealed: Vec<u8>,
}

/// Where one socket's bytes lie while they are worked on. Of a thread, not of a session: ten
/// thousand sessions would hold it ten thousand times.
struct Desk {
    received: Box<[u8]>,
    clear: Vec<u8>,
    sealed: Vec<u8>,
}

thread_local! {
    static DESK: RefCell<Desk> = RefCell::new(Desk {
        received: vec![0; READ_BYTES].into_boxed_slice(),
        clear: Vec::new(),
        sealed: Vec::new(),
    });
}

impl Socket {
    /// `stream` is non-blocking.
    pub fn plain(stream: std::net::TcpStream) -> Socket {
        Socket::Plain(TcpStream::from_std(stream))
    }

    /// `stream` is non-blocking and past the handshake of `records`, which left `rests`.
    pub fn tls(stream: std::net::TcpStream, records: Records, mut rests: Rests) -> Socket {
        let stream = TcpStream::from_std(stream);
        for rest in [&mut rests.clear, &mut rests.sealed] {
            // A handshake leaves them empty, and large.
            rest.shrink_to_fit();
        }
        Socket::Tls(Box::new(Tls { stream, records, rests, has_ended: false, is_drained: false }))
    }

    /// Both directions, edge-triggered, for the life of the socket.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(self.stream_mut(), token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Bytes read; 0 at the end of the stream, whatever ended it; `WouldBlock` when there are none, or
    /// none yet: `is_drained` tells which.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Plain(stream) => uninterrupted(|| stream.read(buffer)),
            Socket::Tls(tls) => tls.read(buffer),
        }
    }

    /// Whether a read of `n` bytes into a buffer of `capacity` left nothing behind.
    pub fn is_drained(&self, n: usize, capacity: usize) -> bool {
        match self {
            Socket::Plain(_) => n < capacity,
            Socket::Tls(tls) => tls.is_drained && !tls.has_ended && tls.rests.clear.is_empty(),
        }
    }

    /// Bytes taken, at least one; `WouldBlock` when none can be.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            // Not by the C library: its `send` can be cancelled, and says so by two atomics each time.
            Socket::Plain(stream) => {
                uninterrupted(|| Ok(rustix::net::send(&*stream, bytes, SendFlags::NOSIGNAL)?))
            }
            Socket::Tls(tls) => tls.write(&[IoSlice::new(bytes)]),
        }
    }

    /// As `write`, from several buffers in one call.
    pub fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Plain(stream) => uninterrupted(|| stream.write_vectored(slices)),
            Socket::Tls(tls) => tls.write(slices),
        }
    }

    /// What a write took and the kernel has not, in bytes: it is sealed, so it can only be sent.
    pub fn sealed_bytes(&self) -> usize {
        match self {
            Socket::Plain(_) => 0,
            Socket::Tls(tls) => tls.rests.sealed.len(),
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
            tls.end();
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
        if !self.rests.clear.is_empty() {
            let n = self.rests.clear.len().min(buffer.len());
            buffer[..n].copy_from_slice(&self.rests.clear[..n]);
            consume(&mut self.rests.clear, n);
            return Ok(n);
        }
        if self.has_ended {
            return Ok(0);
        }
        match DESK.with_borrow_mut(|desk| self.receive(desk, buffer))? {
            // Not until something comes: changes of keys with empty records between them say nothing,
            // and a peer may send them without end.
            0 if !self.has_ended => Err(ErrorKind::WouldBlock.into()),
            n => Ok(n),
        }
    }

    /// Reads the socket once; how much of that is clear text, which may be nothing.
    fn receive(&mut self, desk: &mut Desk, buffer: &mut [u8]) -> io::Result<usize> {
        let Rests { clear, sealed } = &mut self.rests;
        let held = self.records.held().len();
        desk.received[..held].copy_from_slice(self.records.held());
        let read = uninterrupted(|| self.stream.read(&mut desk.received[held..]));
        self.is_drained = read.as_ref().map_or(0, |read| held + read) < desk.received.len();
        let read = read?;
        if read == 0 {
            // A peer that ends without announcing it has ended all the same.
            self.has_ended = true;
            return Ok(0);
        }
        desk.clear.clear();
        let bytes = &mut desk.received[..held + read];
        let opened = self.records.open(bytes, &mut desk.clear, sealed);
        // Alerts and answers to key updates go out at once or with the next write.
        let _ = flush(&mut self.stream, sealed);
        // What came before a fault came all the same.
        self.has_ended = !matches!(opened, Ok(Stage::Open));
        let n = desk.clear.len().min(buffer.len());
        buffer[..n].copy_from_slice(&desk.clear[..n]);
        *clear = desk.clear[n..].to_vec();
        Ok(n)
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.flush()?;
        DESK.with_borrow_mut(|desk| {
            let mut taken = 0;
            while let Some(next) = gather(slices, taken, &mut desk.clear) {
                desk.sealed.clear();
                self.records.seal(next, &mut desk.sealed).map_err(io::Error::other)?;
                taken += next.len();
                match send(&mut self.stream, &desk.sealed) {
                    Ok(sent) if sent == desk.sealed.len() => {}
                    // What is sealed has to be sent: it has its number.
                    Ok(sent) => {
                        self.rests.sealed = desk.sealed[sent..].to_vec();
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(taken)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        flush(&mut self.stream, &mut self.rests.sealed)
    }

    /// Announces the end. Best effort: the peer learns of it from the FIN as well.
    fn end(&mut self) {
        if self.records.end(&mut self.rests.sealed).is_ok() {
            let _ = self.flush();
        }
    }
}

impl Drop for Tls {
    /// Tells the peer that the end is meant, and that nobody cut the stream short.
    fn drop(&mut self) {
        self.end();
    }
}

/// What comes after the first `skip` bytes of `slices`, as much as is sealed at once: one slice as it
/// is, several copied together, since each record has its price.
fn gather<'a>(
    slices: &'a [IoSlice<'_>],
    mut skip: usize,
    gathered: &'a mut Vec<u8>,
) -> Option<&'a [u8]> {
    let mut rest = slices.iter().filter_map(|slice| {
        let skipped = skip.min(slice.len());
        skip -= skipped;
        Some(&slice[skipped..]).filter(|slice| !slice.is_empty())
    });
    let first = rest.next()?;
    if first.len() >= SEAL_BYTES_MAX {
        return Some(&first[..SEAL_BYTES_MAX]);
    }
    let Some(second) = rest.next() else { return Some(first) };
    gathered.clear();
    gathered.extend_from_slice(first);
    for slice in std::iter::once(second).chain(rest) {
        let room = SEAL_BYTES_MAX - gathered.len();
        gathered.extend_from_slice(&slice[..slice.len().min(room)]);
    }
    Some(gathered)
}

/// Sends what was sealed before; `WouldBlock` while something is left.
fn flush(stream: &mut TcpStream, sealed: &mut Vec<u8>) -> io::Result<()> {
    if sealed.is_empty() {
        return Ok(());
    }
    let sent = send(stream, sealed)?;
    consume(sealed, sent);
    if sealed.is_empty() { Ok(()) } else { Err(ErrorKind::WouldBlock.into()) }
}

/// As much as the socket takes.
fn send(stream: &mut TcpStream, mut bytes: &[u8]) -> io::Result<usize> {
    let all = bytes.len();
    while !bytes.is_empty() {
        match uninterrupted(|| stream.write(bytes)) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(all - bytes.len())
}

/// Forgets the first bytes, and with the last of them the buffer.
fn consume(bytes: &mut Vec<u8>, n: usize) {
    bytes.drain(..n);
    if bytes.is_empty() {
        *bytes = Vec::new();
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

#[cfg(test)]
mod tests {
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConnection, SupportedProtocolVersion};

    use super::*;
    use crate::hub::outbox::{Bounds, Class, Outbox};
    use crate::hub::records::tests::Pair;
    use crate::proto::frame;
    use crate::proto::paths::Slow;

    /// A socket past its handshake, and its client with the other end, which waits for what it reads.
    fn pair(
        version: &'static SupportedProtocolVersion,
    ) -> (Socket, ClientConnection, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it has one");
        let other = std::net::TcpStream::connect(address).expect("it listens");
        let (stream, _) = listener.accept().expect("somebody connected");
        stream.set_nonblocking(true).expect("any socket can be");
        let Pair { client, records, .. } = Pair::open(version, usize::MAX);
        (Socket::tls(stream, records, Rests::default()), client, other)
    }

    /// What the client has to send.
    fn sent(client: &mut ClientConnection) -> Vec<u8> {
        let mut sent = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut sent).expect("it is memory");
        }
        sent
    }

    /// One read as the shard does it, once there is something.
    fn read(socket: &mut Socket) -> io::Result<Vec<u8>> {
        let mut events = mio::Events::with_capacity(1);
        let mut poll = mio::Poll::new().expect("a poll");
        socket.register(poll.registry(), Token(0)).expect("it can be watched");
        while !events.iter().any(mio::event::Event::is_readable) {
            poll.poll(&mut events, Some(std::time::Duration::from_secs(20))).expect("a poll");
            assert!(!events.is_empty(), "nothing came");
        }
        poll.registry().deregister(socket.stream_mut()).expect("it was watched");
        let mut buffer = [0; 1024];
        let n = socket.read(&mut buffer)?;
        Ok(buffer[..n].to_vec())
    }

    #[test]
    fn what_says_nothing_costs_one_look_and_leaves_nothing_behind() {
        let (mut socket, mut client, mut other) = pair(&TLS13);
        for _ in 0..3 {
            client.refresh_traffic_keys().expect("it is open");
            other.write_all(&sent(&mut client)).expect("it is taken");
            let error = read(&mut socket).expect_err("that was no message");
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            assert!(socket.is_drained(0, 1024), "the next bytes are an event");
        }
        client.writer().write_all(b"at last").expect("it is taken");
        other.write_all(&sent(&mut client)).expect("it is taken");
        assert_eq!(read(&mut socket).expect("a message"), b"at last");
    }

    #[test]
    fn what_came_before_a_fault_is_read_and_then_the_end() {
        for version in [&TLS12, &TLS13] {
            let (mut socket, mut client, mut other) = pair(version);
            client.writer().write_all(b"sound").expect("it is taken");
            let mut sent = sent(&mut client);
            sent.extend_from_slice(&[23, 3, 3, 0, 20]);
            sent.extend_from_slice(&[7; 20]);
            other.write_all(&sent).expect("it is taken");
            assert_eq!(read(&mut socket).expect("a message"), b"sound");
            assert!(!socket.is_drained(5, 1024), "no event says that this was all");
            assert_eq!(socket.read(&mut [0; 1024]).expect("the end"), 0);
            assert!(socket.write(b"more").is_err());
        }
    }

    #[test]
    fn a_client_that_takes_a_part_of_what_is_sealed_has_moved() {
        let (mut socket, _client, mut other) = pair(&TLS13);
        let kernel = socket2::SockRef::from(&*socket.stream_mut());
        kernel.set_send_buffer_size(8 * 1024).expect("any size is taken");
        let frame = frame::encode(frame::Kind::Binary, &vec![0; SEAL_BYTES_MAX]);
        while socket.write(&frame).is_ok() {}
        let mut outbox = Outbox::new(0);
        for _ in 0..32 {
            let frame = frame.clone();
            outbox.take(frame, 0..0, Class::Broadcast, Slow::Close, Bounds::NONE).expect("room");
        }
        // What was taken may not be acknowledged yet: then there is nothing to read, and no room either.
        let moment = std::time::Duration::from_millis(10);
        other.set_read_timeout(Some(moment)).expect("any time is taken");
        let mut buffer = [0; 4096];
        for now_ms in 1.. {
            let (sealed, waiting) = (socket.sealed_bytes(), outbox.bytes());
            outbox.flush(&mut socket, now_ms).expect("it is open");
            if outbox.bytes() == waiting && socket.sealed_bytes() < sealed {
                assert_eq!(outbox.moved_ms, now_ms);
                return;
            }
            assert!(!outbox.is_empty(), "the kernel never took a part only");
            match other.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => assert!(read.expect("it is open") > 0),
            }
        }
    }

    #[track_caller]
    fn check(slices: &[&[u8]], skip: usize, expected: Option<&[u8]>) {
        let slices: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        assert_eq!(gather(&slices, skip, &mut Vec::new()), expected);
    }

    #[test]
    fn what_is_sealed_at_once_is_gathered_up_to_a_bound() {
        let large = vec![7; SEAL_BYTES_MAX + 1];
        check(&[], 0, None);
        check(&[b"", b""], 0, None);
        check(&[b"ab"], 0, Some(b"ab"));
        check(&[b"ab"], 2, None);
        check(&[b"ab", b"", b"cd", b"e"], 1, Some(b"bcde"));
        check(&[b"ab", b"cd"], 3, Some(b"d"));
        check(&[&large], 0, Some(&large[1..]));
        check(&[&large], SEAL_BYTES_MAX, Some(&[7]));
        check(&[&large[2..], &large], 0, Some(&large[1..]));
    }

    #[test]
    fn a_session_with_tls_stays_within_its_size() {
        // The allocator's next one is 1,536.
        assert!(size_of::<Tls>() <= 1280, "{}", size_of::<Tls>());
    }
}

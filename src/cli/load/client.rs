//! One client: its socket, and what came on it.

use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use mio::net::TcpStream;
use socket2::{Domain, Socket, Type};

use crate::cli::load::frames::{self, Frame, Walk};
use crate::cli::load::inflate;
use crate::cli::load::line::{Line, Tls, Trust};
use crate::cli::load::sequence::{Arrival, Sequence};
use crate::cli::load::stamp::Stamp;

/// A connection on one machine is there at once, or the server's backlog is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The answer to the key that every client of a run sends (RFC 6455 section 1.3 has the pair).
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A longer answer to a handshake makes no sense.
const ANSWER_BYTES_MAX: usize = 4096;

/// What a client that takes deflated messages offers (RFC 7692 section 7).
const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate\r\n";

const DEFLATE: &[u8] = b"permessage-deflate";

/// Of the deflated messages one in so many is looked into.
const LOOK_EVERY: u64 = 1_000;

pub struct Client {
    line: Line,
    phase: Phase,
    wish: Wish,
    walk: Walk,
    sequence: Sequence,
    /// What it got, and how often it was pinged.
    pub messages: u64,
    pub bytes: u64,
    pub pings: u32,
}

/// What a client asks for.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// Its messages deflated; to be refused that is an error.
    pub deflated: bool,
    /// Of a run's messages, which go to `paths` paths in turn, those of the path number `path`.
    pub path: u64,
    pub paths: u64,
}

enum Phase {
    /// The handshake was sent; what came of the answer.
    Asked(Vec<u8>),
    Open,
    Closed,
}

/// What all clients of a run got, together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub opened: usize,
    pub closed: usize,
    /// The code of the last close frame, if one came.
    pub close_code: Option<u16>,
    pub messages: u64,
    pub bytes: u64,
    pub reads: u64,
    /// Missing and not come late.
    pub lost: u64,
    pub late: u64,
    pub again: u64,
}

impl Client {
    /// Connects from `source` and asks for `path`, over TLS where it is told whom to trust.
    pub fn ask(
        source: SocketAddr,
        server: SocketAddr,
        path: &str,
        trust: Option<&Trust>,
        wish: Wish,
    ) -> anyhow::Result<Client> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&source.into()).with_context(|| format!("no port of {source} is free"))?;
        socket.connect_timeout(&server.into(), CONNECT_TIMEOUT).context("cannot connect")?;
        socket.set_nonblocking(true)?;
        let mut line = Line::new(TcpStream::from_std(socket.into()), trust)?;
        let offer = if wish.deflated { OFFER } else { "" };
        line.write_all(handshake(server, path, offer).as_bytes())?;
        Ok(Client {
            line,
            wish,
            phase: Phase::Asked(Vec::new()),
            walk: Walk::default(),
            sequence: Sequence::default(),
            messages: 0,
            bytes: 0,
            pings: 0,
        })
    }

    /// For whoever waits until something comes.
    pub fn stream(&mut self) -> &mut TcpStream {
        self.line.stream()
    }

    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Sends a frame. A socket of a client never has so much waiting that it would not fit.
    pub fn say(&mut self, frame: &[u8]) -> anyhow::Result<()> {
        self.line.write_all(frame).context("a client cannot write")
    }

    /// Reads what is there, into a buffer that all clients share, and answers pings. Where the
    /// server `is_ending`, no later event will tell of the end: so that is read too.
    pub fn read(
        &mut self,
        buffer: &mut [u8],
        is_ending: bool,
        tally: &mut Tally,
        heard: &mut impl FnMut(Stamp),
    ) -> anyhow::Result<()> {
        let (buffer, clear) = match self.line {
            Line::Plain(_) => (buffer, &mut [][..]),
            Line::Tls(_) => Tls::halves(buffer),
        };
        loop {
            let n = match self.line.stream().read(buffer) {
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // The end, whatever its form.
                Err(_) => 0,
            };
            tally.reads += 1;
            if n == 0 {
                if let Phase::Asked(_) = self.phase {
                    bail!("the server hung up during a handshake");
                }
                tally.closed += usize::from(!self.is_closed());
                self.phase = Phase::Closed;
                return Ok(());
            }
            match self.line {
                Line::Plain(_) => self.take(&buffer[..n], tally, heard)?,
                Line::Tls(_) => self.open(&buffer[..n], clear, tally, heard)?,
            }
            if n < buffer.len() && !is_ending {
                return Ok(());
            }
        }
    }

    /// What came over TLS, record by record.
    fn open(
        &mut self,
        mut received: &[u8],
        clear: &mut [u8],
        tally: &mut Tally,
        heard: &mut impl FnMut(Stamp),
    ) -> anyhow::Result<()> {
        while let Line::Tls(tls) = &mut self.line {
            match tls.open(&mut received, clear)? {
                0 => break,
                n => self.take(&clear[..n], tally, heard)?,
            }
        }
        Ok(())
    }

    fn take(
        &mut self,
        bytes: &[u8],
        tally: &mut Tally,
        heard: &mut impl FnMut(Stamp),
    ) -> anyhow::Result<()> {
        let Phase::Asked(answer) = &mut self.phase else {
            return self.frames(bytes, tally, heard);
        };
        answer.extend_from_slice(bytes);
        let Some(end) = head_end(answer)? else { return Ok(()) };
        let early = answer.split_off(end);
        check_answer(answer)?;
        let agreed = answer.windows(DEFLATE.len()).any(|word| word == DEFLATE);
        ensure!(agreed == self.wish.deflated, "the server does not deflate, or unasked");
        self.phase = Phase::Open;
        tally.opened += 1;
        self.frames(&early, tally, heard)
    }

    fn frames(
        &mut self,
        bytes: &[u8],
        tally: &mut Tally,
        heard: &mut impl FnMut(Stamp),
    ) -> anyhow::Result<()> {
        let Client { line, wish, walk, sequence, messages, bytes: total, pings, .. } = self;
        let mut outcome = Ok(());
        let mut take = |stamp: Stamp, bytes: usize, messages: &mut u64, tally: &mut Tally| {
            *messages += 1;
            *total += bytes as u64;
            tally.messages += 1;
            tally.bytes += bytes as u64;
            match sequence.take(wish.number(stamp.seq)?) {
                Arrival::InOrder => {}
                Arrival::AfterGap(missing) => tally.lost += missing,
                Arrival::Late => {
                    tally.late += 1;
                    tally.lost -= 1;
                }
                Arrival::Again => tally.again += 1,
            }
            heard(stamp);
            Ok(())
        };
        walk.walk(bytes, |frame| {
            let done = match frame {
                Frame::Message { stamp, bytes } => take(stamp, bytes, messages, tally),
                Frame::Deflated { .. } if !wish.deflated => Err(anyhow!("a message is deflated")),
                Frame::Deflated { bytes, payload } => {
                    let looked = payload.filter(|_| tally.messages.is_multiple_of(LOOK_EVERY));
                    // The others are taken for what is next; when they were sent is not known.
                    let next = || Ok(Stamp { seq: wish.seq(*messages), sent_ns: 0 });
                    let stamp = looked.map_or_else(next, inflate::stamp);
                    stamp.and_then(|stamp| take(stamp, bytes, messages, tally))
                }
                Frame::Ping(payload) => {
                    *pings += 1;
                    let pong = frames::pong(payload);
                    line.write_all(&pong).context("a client cannot answer a ping")
                }
                Frame::Close(code) => {
                    tally.close_code = Some(code);
                    Ok(())
                }
            };
            if done.is_err() {
                outcome = done;
            }
        })?;
        outcome
    }
}

impl Wish {
    /// The number that a message of the run has on this client's path.
    #[inline]
    fn number(self, seq: u64) -> anyhow::Result<u64> {
        if self.paths == 1 {
            return Ok(seq);
        }
        ensure!(seq % self.paths == self.path, "message {seq} is another path's");
        Ok(seq / self.paths)
    }

    fn seq(self, number: u64) -> u64 {
        number * self.paths + self.path
    }
}

impl Default for Wish {
    fn default() -> Wish {
        Wish { deflated: false, path: 0, paths: 1 }
    }
}

/// The opening handshake; with an `Origin`, as browsers send it and servers check it, and `further`
/// headers.
pub fn handshake(server: SocketAddr, path: &str, further: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {server}\r\nOrigin: http://{server}\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n{further}\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// Where an answer's head ends, once it does.
pub fn head_end(answer: &[u8]) -> anyhow::Result<Option<usize>> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
    if end.is_none() && answer.len() > ANSWER_BYTES_MAX {
        bail!("the answer to a handshake does not end");
    }
    Ok(end)
}

/// Whether a head says that the WebSocket is open.
pub fn check_answer(head: &[u8]) -> anyhow::Result<()> {
    let head = std::str::from_utf8(head).context("the answer to a handshake is not text")?;
    if !head.starts_with("HTTP/1.1 101 ") || !head.contains(ACCEPT) {
        bail!("a handshake was answered {:?}", head.lines().next().unwrap_or_default());
    }
    Ok(())
}

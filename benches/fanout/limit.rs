//! What the machine allows: the cheapest server that could do a run. One thread, bare epoll, no
//! framework, no checks, nothing that a product needs.
//!
//! It speaks just enough of the gateway's two protocols for the same load to drive it: the answer
//! to one handshake key, and publishes with a length. A frame is made once for everybody. Whatever
//! it costs beyond its system calls is a few percent, so its figure is taken for the floor.

use std::io::Write;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use anyhow::{Context, bail};
use clap::ValueEnum;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, acceptfrom_with, bind,
    getsockname, listen, recv, send, socket_with, sockopt,
};

/// The answer to the key that every client of the load sends.
const ACCEPTED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

const TAKEN: &[u8] = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n";

/// As the gateway joins: past it a write costs by the byte, not by the call.
const JOIN_BYTES_MAX: usize = 128 * 1024;

const EVENTS_MAX: usize = 256;

const BACKLOG: i32 = 4096;

/// The token of the listening socket; others are their places in a list.
const LISTENER: u64 = u64::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Limit {
    /// One write for each client and message.
    Write,
    /// One write for each client and all that waits.
    Join,
}

struct Server {
    limit: Limit,
    epoll: OwnedFd,
    listener: OwnedFd,
    peers: Vec<Peer>,
    /// Those with an open WebSocket, in the order of their coming.
    clients: Vec<usize>,
    /// Frames that wait, end to end, and where each ends.
    frames: Vec<u8>,
    ends: Vec<usize>,
    /// To clients.
    writes: u64,
    buffer: Box<[u8]>,
}

struct Peer {
    socket: OwnedFd,
    standing: Standing,
    /// What has come and is not understood yet; of a client, what has not been written.
    rest: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Unknown,
    Client,
    Gone,
}

/// Serves until it is killed; says where, as the gateway does.
pub fn serve(limit: Limit) -> anyhow::Result<()> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let listener = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    listen(&listener, BACKLOG)?;
    let address: SocketAddrV4 = getsockname(&listener)?.try_into()?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "clients ws://{address}\napi http://{address}")?;
    out.flush()?;
    drop(out);
    let server = Server {
        limit,
        epoll,
        listener,
        peers: Vec::new(),
        clients: Vec::new(),
        frames: Vec::new(),
        ends: Vec::new(),
        writes: 0,
        buffer: vec![0; 256 * 1024].into_boxed_slice(),
    };
    server.run()
}

impl Server {
    fn run(mut self) -> anyhow::Result<()> {
        let mut room = [MaybeUninit::<Event>::uninit(); EVENTS_MAX];
        loop {
            let events = match epoll::wait(&self.epoll, &mut room, None) {
                Ok((events, _)) => events,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for event in events {
                let flags = event.flags;
                match event.data.u64() {
                    LISTENER => self.accept()?,
                    number => {
                        let number = usize::try_from(number)?;
                        if flags.contains(EventFlags::OUT) {
                            self.flush(number)?;
                        }
                        if flags.intersects(EventFlags::IN | EventFlags::HUP) {
                            self.read(number)?;
                        }
                    }
                }
            }
            self.fan_out();
        }
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        loop {
            let (socket, _) = match acceptfrom_with(&self.listener, flags) {
                Ok(accepted) => accepted,
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            sockopt::set_tcp_nodelay(&socket, true)?;
            let token = EventData::new_u64(self.peers.len() as u64);
            let both = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
            epoll::add(&self.epoll, &socket, token, both)?;
            self.peers.push(Peer { socket, standing: Standing::Unknown, rest: Vec::new() });
        }
    }

    /// Reads all there is. What a client sends is thrown away.
    fn read(&mut self, number: usize) -> anyhow::Result<()> {
        loop {
            let peer = &mut self.peers[number];
            if peer.standing == Standing::Gone {
                return Ok(());
            }
            let read = match recv(&peer.socket, &mut self.buffer[..], RecvFlags::empty()) {
                Ok((read, _)) => read,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(_) => 0,
            };
            if read == 0 {
                self.leave(number);
                return Ok(());
            }
            if peer.standing == Standing::Unknown {
                peer.rest.extend_from_slice(&self.buffer[..read]);
                self.take_requests(number)?;
            }
        }
    }

    fn leave(&mut self, number: usize) {
        let peer = &mut self.peers[number];
        if peer.standing == Standing::Client {
            self.clients.retain(|&client| client != number);
        }
        peer.standing = Standing::Gone;
        peer.rest = Vec::new();
        // The descriptor stays: runs are short, and a number that is used again needs care.
        let _ = rustix::net::shutdown(&peer.socket, rustix::net::Shutdown::Both);
    }

    fn take_requests(&mut self, number: usize) -> anyhow::Result<()> {
        let mut answers = Vec::new();
        let mut from = 0;
        let requests = std::mem::take(&mut self.peers[number].rest);
        while let Some(head) = requests[from..].windows(4).position(|four| four == b"\r\n\r\n") {
            let body = from + head + 4;
            let text = std::str::from_utf8(&requests[from..body])?;
            let length = text.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            let end = body + length.map_or(Ok(0), str::parse)?;
            if end > requests.len() {
                break;
            }
            if text.starts_with("POST ") {
                push_frame(&mut self.frames, &requests[body..end]);
                self.ends.push(self.frames.len());
                answers.extend_from_slice(TAKEN);
            } else if text.starts_with("GET /metrics ") {
                let body = format!("pathcast_delivery_writes_total {}\n", self.writes);
                let length = body.len();
                write!(answers, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}")?;
            } else if text.contains("Upgrade: websocket") {
                answers.extend_from_slice(ACCEPTED);
                self.peers[number].standing = Standing::Client;
                self.clients.push(number);
            } else {
                bail!("nobody asks a limit for {:?}", text.lines().next());
            }
            from = end;
        }
        let peer = &mut self.peers[number];
        peer.rest.extend_from_slice(&requests[from..]);
        let sent = send(&peer.socket, &answers, SendFlags::NOSIGNAL).context("an answer")?;
        if sent < answers.len() {
            bail!("answers are small, and those who asked read them");
        }
        Ok(())
    }

    fn fan_out(&mut self) {
        let mut from = 0;
        let mut next = 0;
        while next < self.ends.len() {
            let mut end = self.ends[next];
            next += 1;
            while self.limit == Limit::Join
                && let Some(&further) = self.ends.get(next)
                && further - from <= JOIN_BYTES_MAX
            {
                end = further;
                next += 1;
            }
            let bytes = &self.frames[from..end];
            for &number in &self.clients {
                let peer = &mut self.peers[number];
                let mut sent = 0;
                if peer.rest.is_empty() {
                    // A client that has gone is told of by an event.
                    sent = send(&peer.socket, bytes, SendFlags::NOSIGNAL).unwrap_or(0);
                }
                if sent < bytes.len() {
                    peer.rest.extend_from_slice(&bytes[sent..]);
                }
            }
            from = end;
            self.writes += self.clients.len() as u64;
        }
        self.frames.clear();
        self.ends.clear();
    }

    /// A client takes more.
    fn flush(&mut self, number: usize) -> anyhow::Result<()> {
        let peer = &mut self.peers[number];
        while peer.standing == Standing::Client && !peer.rest.is_empty() {
            match send(&peer.socket, &peer.rest, SendFlags::NOSIGNAL) {
                Ok(sent) => drop(peer.rest.drain(..sent)),
                Err(Errno::AGAIN) => return Ok(()),
                Err(_) => {
                    self.leave(number);
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// A whole binary message (RFC 6455 section 5.2).
fn push_frame(frames: &mut Vec<u8>, payload: &[u8]) {
    let length = payload.len();
    frames.push(0x82);
    match u16::try_from(length) {
        Ok(short) if short < 126 => frames.push(short as u8),
        Ok(medium) => {
            frames.push(126);
            frames.extend_from_slice(&medium.to_be_bytes());
        }
        Err(_) => {
            frames.push(127);
            frames.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frames.extend_from_slice(payload);
}

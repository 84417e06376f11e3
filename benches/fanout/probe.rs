//! One client beside the crowd, and somebody who sends to it by its session: how long that takes.
//!
//! Two blocking threads of their own, ahead of the load's thread where the system allows it, so
//! that they measure the gateway and not the load.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, ensure};

use crate::server::{ASIDE, Server};
use pathcast::cli::load::client::{check_answer, handshake, head_end};
use pathcast::cli::load::clock::Clock;
use pathcast::cli::load::frames::{Frame, Walk};
use pathcast::cli::load::latency::Latency;
use pathcast::cli::load::publisher::Publisher;
use pathcast::cli::load::sequence::{Arrival, Sequence};
use pathcast::cli::load::stamp::Stamp;

/// How long the last frames may take after the last answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the reader looks whether it is to end.
const GLANCE: Duration = Duration::from_millis(100);

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How much to run ahead of the load; less is better (`nice`).
const NICE: i32 = -10;

pub struct Probe {
    stream: TcpStream,
    api: SocketAddr,
    target: String,
    bytes: usize,
    clock: Clock,
    walk: Walk,
    sequence: Sequence,
    next: u64,
}

pub struct Latencies {
    /// From the request to its 200.
    pub answered: Latency,
    /// From the request to the frame at the client.
    pub arrived: Latency,
}

impl Probe {
    /// Opens the client, alone on its path, to be sent to through `api`. Messages are of `bytes`.
    pub fn open(
        server: &Server,
        api: SocketAddr,
        bytes: usize,
        clock: Clock,
    ) -> anyhow::Result<Probe> {
        let mut stream = TcpStream::connect(server.clients)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
        stream.write_all(handshake(server.clients, ASIDE, "").as_bytes())?;
        let mut answer = Vec::new();
        let end = loop {
            let mut buffer = [0; 1024];
            let n = stream.read(&mut buffer)?;
            ensure!(n > 0, "the server hung up during a handshake");
            answer.extend_from_slice(&buffer[..n]);
            if let Some(end) = head_end(&answer)? {
                break end;
            }
        };
        check_answer(&answer[..end])?;
        stream.set_read_timeout(Some(GLANCE))?;
        // The session may become visible a moment after its 101.
        let until = Instant::now() + PATIENCE;
        let target = loop {
            if let [id] = &server.sessions(ASIDE)?[..] {
                break format!("/v1/publish{ASIDE}?session={id}");
            }
            ensure!(Instant::now() < until, "the probe's session is not listed alone");
            sleep(Duration::from_millis(5));
        };
        Ok(Probe {
            stream,
            api,
            target,
            bytes,
            clock,
            walk: Walk::default(),
            sequence: Sequence::default(),
            next: 0,
        })
    }

    /// Sends for `span`, one message every `interval`, in threads of its own.
    pub fn start(
        mut self,
        interval: Duration,
        span: Duration,
    ) -> JoinHandle<anyhow::Result<(Probe, Latencies)>> {
        spawn(move || {
            // Without the right to it, the figures hold the load's own delays.
            let _ = rustix::process::nice(NICE);
            let publisher = Publisher::connect(self.api, None)?;
            let end = Arc::new(AtomicU64::new(u64::MAX));
            let ask = Ask {
                publisher,
                target: self.target.clone(),
                bytes: self.bytes,
                clock: self.clock,
                next: self.next,
                end: end.clone(),
            };
            let asking = spawn(move || ask.run(interval, span));
            let arrived = self.listen(interval, &end);
            let answered = asking.join().map_err(|_| anyhow!("a probe panicked"))??;
            self.next = end.load(Ordering::Acquire);
            Ok((self, Latencies { answered, arrived: arrived? }))
        })
    }

    /// Reads until the message before `end` is there.
    fn listen(&mut self, interval: Duration, end: &AtomicU64) -> anyhow::Result<Latency> {
        let mut latency = Latency::new();
        let mut got = self.next;
        let mut buffer = [0; 16 * 1024];
        let mut quiet_since = Instant::now();
        while got < end.load(Ordering::Acquire) {
            let n = match self.stream.read(&mut buffer) {
                Ok(0) => bail!("the probe was closed"),
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    ensure!(quiet_since.elapsed() < PATIENCE, "message {got} did not arrive");
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            quiet_since = Instant::now();
            let now_ns = self.clock.now_ns();
            let Probe { walk, sequence, .. } = self;
            let mut fault = None;
            walk.walk(&buffer[..n], |frame| match frame {
                Frame::Message { stamp, .. } => {
                    got += 1;
                    let taken_ns = now_ns.saturating_sub(stamp.sent_ns);
                    latency.record_paced(taken_ns, interval);
                    if sequence.take(stamp.seq) != Arrival::InOrder {
                        fault = Some(format!("message {} out of order", stamp.seq));
                    }
                }
                Frame::Ping(_) => {}
                Frame::Deflated { .. } => fault = Some("deflated".to_owned()),
                Frame::Close(code) => fault = Some(format!("closed with {code}")),
            })?;
            if let Some(fault) = fault {
                bail!("probe: {fault}");
            }
        }
        Ok(latency)
    }
}

/// The sender's half.
struct Ask {
    publisher: Publisher,
    target: String,
    bytes: usize,
    clock: Clock,
    next: u64,
    /// Told when the last one was answered.
    end: Arc<AtomicU64>,
}

impl Ask {
    fn run(mut self, interval: Duration, span: Duration) -> anyhow::Result<Latency> {
        let outcome = self.send(interval, span);
        self.end.store(self.next, Ordering::Release);
        outcome
    }

    fn send(&mut self, interval: Duration, span: Duration) -> anyhow::Result<Latency> {
        let mut latency = Latency::new();
        let mut message = Vec::new();
        let begun = Instant::now();
        let mut due = begun;
        while begun.elapsed() < span {
            sleep(due.saturating_duration_since(Instant::now()));
            let sent_ns = self.clock.now_ns();
            Stamp { seq: self.next, sent_ns }.write(&mut message, self.bytes);
            self.publisher.begin(&self.target, &message)?;
            self.publisher.answer()?.check(200)?;
            self.next += 1;
            latency.record_paced(self.clock.now_ns() - sent_ns, interval);
            due = (due + interval).max(Instant::now());
        }
        Ok(latency)
    }
}

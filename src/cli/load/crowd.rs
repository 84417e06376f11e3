//! Many clients on one thread: connected with a bound on handshakes in flight, read in turns.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use mio::{Events, Interest, Poll, Token};

use crate::cli::load::client::{Client, Tally, Wish};
use crate::cli::load::descriptors;
use crate::cli::load::frames;
use crate::cli::load::line::Trust;
use crate::cli::load::source;
use crate::cli::load::stamp::Stamp;

/// More than a client is ever sent between two turns, so that one read drains a socket.
const BUFFER_BYTES: usize = 512 * 1024;

const EVENTS_MAX: usize = 1024;

/// How long a crowd may take to come or go without one client getting further.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long a turn waits when nothing happens, where nobody asked for another time.
const WAIT: Duration = Duration::from_millis(20);

pub struct Crowd {
    poll: Poll,
    events: Events,
    buffer: Box<[u8]>,
    clients: Vec<Client>,
    /// Whom TLS is spoken with; `None`: none is.
    trust: Option<Trust>,
    pub tally: Tally,
    /// Whether the clients that come from now on take deflated messages.
    pub deflated: bool,
    /// How many paths they are spread over, in turn; a run's messages go to these in turn.
    pub paths: usize,
}

impl Crowd {
    /// Its clients speak TLS where it is told whom to trust.
    pub fn new(trust: Option<Trust>) -> anyhow::Result<Crowd> {
        Ok(Crowd {
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS_MAX),
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            clients: Vec::new(),
            trust,
            tally: Tally::default(),
            deflated: false,
            paths: 1,
        })
    }

    pub fn count(&self) -> usize {
        self.clients.len()
    }

    /// Opens `count` more clients, `in_flight` handshakes at a time, each on the path of its number.
    pub fn connect(
        &mut self,
        server: SocketAddr,
        count: usize,
        path: impl Fn(usize) -> String,
        in_flight: usize,
    ) -> anyhow::Result<()> {
        let target = self.clients.len() + count;
        descriptors::allow(target)?;
        self.clients.reserve_exact(count);
        let opened = self.tally.opened;
        let before = self.clients.len();
        let mut progress = Progress::start();
        loop {
            let open = self.tally.opened - opened;
            if open == count {
                return self.check();
            }
            progress.made(open).with_context(|| format!("{open} of {count} clients are open"))?;
            while self.clients.len() < target && self.clients.len() - before - open < in_flight {
                self.begin(server, &path(self.clients.len() - before))?;
            }
            self.turn(WAIT, |_| {})?;
        }
    }

    fn begin(&mut self, server: SocketAddr, path: &str) -> anyhow::Result<()> {
        let number = self.clients.len();
        let (path_number, paths) = (number % self.paths, self.paths as u64);
        let wish = Wish { deflated: self.deflated, path: path_number as u64, paths };
        let mut client = Client::ask(source::next(), server, path, self.trust.as_ref(), wish)?;
        self.poll.registry().register(client.stream(), Token(number), Interest::READABLE)?;
        self.clients.push(client);
        Ok(())
    }

    /// Reads every client that has something, once; waits up to `wait` for the first.
    pub fn turn(&mut self, wait: Duration, mut heard: impl FnMut(Stamp)) -> anyhow::Result<()> {
        let mut wait = Some(wait);
        // Bounded: under load there is always a client that has something again.
        for _ in 0..=self.clients.len() / EVENTS_MAX {
            match self.poll.poll(&mut self.events, wait.replace(Duration::ZERO)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
                polled => polled?,
            }
            let mut count = 0;
            for event in &self.events {
                count += 1;
                let number = event.token().0;
                let Some(client) = self.clients.get_mut(number) else { continue };
                client
                    .read(&mut self.buffer, event.is_read_closed(), &mut self.tally, &mut heard)
                    .with_context(|| format!("client {number}"))?;
            }
            if count < EVENTS_MAX {
                break;
            }
        }
        Ok(())
    }

    /// Fails when a client was closed that should be open.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.tally.closed > 0 {
            bail!("{} clients were closed, code {:?}", self.tally.closed, self.tally.close_code);
        }
        Ok(())
    }

    /// Each client sends a frame.
    pub fn say(&mut self, frame: &[u8]) -> anyhow::Result<()> {
        self.clients.iter_mut().try_for_each(|client| client.say(frame))
    }

    /// The fewest messages that a client got, and the most.
    pub fn messages(&self) -> (u64, u64) {
        let messages = || self.clients.iter().map(|client| client.messages);
        (messages().min().unwrap_or(0), messages().max().unwrap_or(0))
    }

    /// The fewest pings that a client got.
    pub fn pings(&self) -> u32 {
        self.clients.iter().map(|client| client.pings).min().unwrap_or(0)
    }

    /// Closes every client in good order, and forgets them.
    pub fn leave(&mut self) -> anyhow::Result<()> {
        self.say(&frames::close())?;
        let mut progress = Progress::start();
        while self.tally.closed < self.clients.len() {
            let (closed, all) = (self.tally.closed, self.clients.len());
            progress.made(closed).with_context(|| format!("{closed} of {all} clients are gone"))?;
            self.turn(WAIT, |_| {})?;
        }
        self.clients.clear();
        self.tally.closed = 0;
        Ok(())
    }
}

/// Whether something still moves.
struct Progress {
    last: usize,
    since: Instant,
}

impl Progress {
    fn start() -> Progress {
        Progress { last: 0, since: Instant::now() }
    }

    fn made(&mut self, now: usize) -> anyhow::Result<()> {
        if now != self.last {
            *self = Progress { last: now, since: Instant::now() };
        }
        ensure!(self.since.elapsed() < PATIENCE, "nothing happened for {PATIENCE:?}");
        Ok(())
    }
}

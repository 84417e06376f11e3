//! One side of a comparison: servers, a crowd on one path of theirs, and the load between them.

use std::time::{Duration, Instant};

use pathcast::cli::load::crowd::Crowd;
use pathcast::cli::load::latency::Latency;
use pathcast::cli::load::publisher::{Publisher, ToPath};
use pathcast::cli::load::run::{Outlet, Run};

use crate::process::Process;
use crate::report::micros_each;
use crate::server::{CROWD, Server};

pub struct Side {
    pub servers: Vec<Server>,
    /// The same number of clients at each server.
    pub crowd: Crowd,
    run: Run,
    /// How often the load looks what has come, in a closed loop.
    poll: Duration,
}

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub window: usize,
    pub bytes: usize,
    pub poll: Duration,
}

/// What happened between two moments of a run.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    pub span: Duration,
    pub messages: u64,
    pub deliveries: u64,
    /// Of their payloads.
    pub bytes: u64,
    /// Of all servers.
    pub cpu: Duration,
    /// Of the load itself.
    pub load_cpu: Duration,
    /// How long the servers and the load were kept waiting for a processor.
    pub waited: Duration,
    pub load_waited: Duration,
    /// What was written to each client at once, on average.
    pub frames_per_write: f64,
}

struct Mark {
    at: Instant,
    messages: u64,
    deliveries: u64,
    bytes: u64,
    cpu: Duration,
    load_cpu: Duration,
    waited: Duration,
    load_waited: Duration,
    /// Of all servers: how often somebody was handed something, with one write each time.
    writes: f64,
}

impl Side {
    /// A crowd of `clients` at each server, and a publisher at the first one's API.
    pub fn http(servers: Vec<Server>, clients: usize, load: Load) -> anyhow::Result<Side> {
        let outlet = ToPath::new(Publisher::connect(servers[0].api, None)?, CROWD);
        Side::new(servers, clients, Box::new(outlet), load)
    }

    pub fn new(
        servers: Vec<Server>,
        clients: usize,
        outlet: Box<dyn Outlet>,
        load: Load,
    ) -> anyhow::Result<Side> {
        let mut crowd = servers[0].crowd()?;
        for server in &servers {
            crowd.connect(server.clients, clients, |_| CROWD.to_owned(), 64)?;
        }
        Side::gathered(servers, crowd, outlet, load)
    }

    /// A crowd that is complete, the same number of clients at each server.
    pub fn gathered(
        servers: Vec<Server>,
        crowd: Crowd,
        outlet: Box<dyn Outlet>,
        load: Load,
    ) -> anyhow::Result<Side> {
        let run = Run::new(outlet, &crowd, load.window, load.bytes)?;
        Ok(Side { servers, crowd, run, poll: load.poll })
    }

    /// What messages say behind their stamps.
    pub fn fill(&mut self, text: impl Iterator<Item = u8>) {
        self.run.fill(text);
    }

    /// A closed loop: warms up, calls `begin`, measures for `span`, and waits until everybody has
    /// everything.
    pub fn saturate(
        &mut self,
        warm_up: Duration,
        span: Duration,
        begin: impl FnOnce(),
    ) -> anyhow::Result<Measured> {
        let mut latency = Latency::new();
        self.run.saturate(&mut self.crowd, warm_up, self.poll, &mut latency)?;
        begin();
        let from = self.mark()?;
        self.run.saturate(&mut self.crowd, span, self.poll, &mut latency)?;
        let to = self.mark()?;
        self.run.drain(&mut self.crowd, &mut latency)?;
        Ok(self.between(&from, &to))
    }

    /// `count` messages, one every `interval`.
    pub fn pace(
        &mut self,
        interval: Duration,
        count: u64,
        latency: &mut Latency,
    ) -> anyhow::Result<Measured> {
        let from = self.mark()?;
        self.run.pace(&mut self.crowd, interval, count, latency)?;
        let to = self.mark()?;
        Ok(self.between(&from, &to))
    }

    /// A closed loop for `span` that nobody measures, and nothing but the load: until everybody has
    /// everything.
    pub fn busy(&mut self, span: Duration) -> anyhow::Result<()> {
        let mut latency = Latency::new();
        self.run.saturate(&mut self.crowd, span, self.poll, &mut latency)?;
        self.run.drain(&mut self.crowd, &mut latency)
    }

    /// `count` messages that nobody measures, one every `interval`.
    pub fn beat(&mut self, interval: Duration, count: u64) -> anyhow::Result<()> {
        self.run.pace(&mut self.crowd, interval, count, &mut Latency::new())
    }

    /// Messages that every client has.
    pub fn done(&self) -> u64 {
        self.run.done()
    }

    /// How often a client was handed messages.
    pub fn writes(&self) -> anyhow::Result<f64> {
        self.servers.iter().map(|server| server.metric("pathcast_delivery_writes_total")).sum()
    }

    fn mark(&self) -> anyhow::Result<Mark> {
        let mut mark = Mark {
            at: Instant::now(),
            messages: self.run.done(),
            deliveries: self.crowd.tally.messages,
            bytes: self.crowd.tally.bytes,
            cpu: Duration::ZERO,
            load_cpu: Process::own().cpu()?,
            waited: Duration::ZERO,
            load_waited: Process::own().waited()?,
            writes: self.writes()?,
        };
        for server in &self.servers {
            mark.cpu += server.process.cpu()?;
            mark.waited += server.process.waited()?;
        }
        Ok(mark)
    }

    fn between(&self, from: &Mark, to: &Mark) -> Measured {
        let deliveries = to.deliveries - from.deliveries;
        Measured {
            span: to.at - from.at,
            messages: to.messages - from.messages,
            deliveries,
            bytes: to.bytes - from.bytes,
            cpu: to.cpu - from.cpu,
            load_cpu: to.load_cpu - from.load_cpu,
            waited: to.waited.saturating_sub(from.waited),
            load_waited: to.load_waited.saturating_sub(from.load_waited),
            frames_per_write: deliveries as f64 / (to.writes - from.writes).max(1.0),
        }
    }
}

impl Measured {
    /// CPU of the servers per delivery, in microseconds.
    pub fn each_micros(&self) -> f64 {
        micros_each(self.cpu, self.deliveries)
    }
}

//! A run of the load on one server, and what the server used meanwhile.

use std::time::{Duration, Instant};

use pathcast::cli::load::crowd::Crowd;
use pathcast::cli::load::latency::Latency;
use pathcast::cli::load::run::{Plan, Run};

use crate::process::Process;
use crate::server::{CROWD, Server};

pub struct Saturation<'a> {
    server: &'a Server,
    run: Run,
    /// How often the load looks what has come.
    poll: Duration,
}

/// What happened between two moments of a run.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    pub span: Duration,
    pub messages: u64,
    pub deliveries: u64,
    pub cpu: Duration,
    /// Of the load itself.
    pub load_cpu: Duration,
    /// How long the server and the load were kept waiting for a processor.
    pub waited: Duration,
    pub load_waited: Duration,
    /// Rounds of all rooms: `deliveries` by the clients by this is frames per write.
    pub rounds: f64,
}

struct Mark {
    at: Instant,
    messages: u64,
    deliveries: u64,
    cpu: Duration,
    load_cpu: Duration,
    waited: Duration,
    load_waited: Duration,
    rounds: f64,
}

impl<'a> Saturation<'a> {
    pub fn new(
        server: &'a Server,
        crowd: &Crowd,
        window: usize,
        bytes: usize,
        poll: Duration,
    ) -> anyhow::Result<Saturation<'a>> {
        let plan = Plan { api: server.api, key: None, path: CROWD, bytes, window };
        Ok(Saturation { server, run: Run::new(plan, crowd)?, poll })
    }

    /// A closed loop: warms up, calls `begin`, measures for `span`, and waits until everybody has
    /// everything.
    pub fn run(
        &mut self,
        crowd: &mut Crowd,
        warm_up: Duration,
        span: Duration,
        begin: impl FnOnce(),
    ) -> anyhow::Result<Measured> {
        let mut latency = Latency::new();
        self.run.saturate(crowd, warm_up, self.poll, &mut latency)?;
        begin();
        let from = self.mark(crowd)?;
        self.run.saturate(crowd, span, self.poll, &mut latency)?;
        let to = self.mark(crowd)?;
        self.run.drain(crowd, &mut latency)?;
        Ok(to.since(from))
    }

    /// `count` messages, one every `interval`.
    pub fn pace(
        &mut self,
        crowd: &mut Crowd,
        interval: Duration,
        count: u64,
        latency: &mut Latency,
    ) -> anyhow::Result<Measured> {
        let from = self.mark(crowd)?;
        self.run.pace(crowd, interval, count, latency)?;
        Ok(self.mark(crowd)?.since(from))
    }

    fn mark(&self, crowd: &Crowd) -> anyhow::Result<Mark> {
        Ok(Mark {
            at: Instant::now(),
            messages: self.run.done(),
            deliveries: crowd.tally.messages,
            cpu: self.server.process.cpu()?,
            load_cpu: Process::own().cpu()?,
            waited: self.server.process.waited()?,
            load_waited: Process::own().waited()?,
            rounds: self.server.metric("pathcast_fanout_seconds_count")?,
        })
    }
}

impl Mark {
    fn since(self, from: Mark) -> Measured {
        Measured {
            span: self.at - from.at,
            messages: self.messages - from.messages,
            deliveries: self.deliveries - from.deliveries,
            cpu: self.cpu - from.cpu,
            load_cpu: self.load_cpu - from.load_cpu,
            waited: self.waited.saturating_sub(from.waited),
            load_waited: self.load_waited.saturating_sub(from.load_waited),
            rounds: self.rounds - from.rounds,
        }
    }
}

impl Measured {
    /// Frames that one socket was handed at once, on average.
    pub fn frames_per_write(&self, clients: usize, shards: usize) -> f64 {
        let rooms = shards.min(clients) as f64;
        self.deliveries as f64 / clients as f64 * rooms / self.rounds.max(1.0)
    }
}

//! One message at a time, at an even pace: how long each takes to each client.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::rig::process::Process;
use crate::rig::server::{CROWD, Server};
use pathcast::cli::load::clock::Clock;
use pathcast::cli::load::crowd::Crowd;
use pathcast::cli::load::latency::Latency;
use pathcast::cli::load::publisher::Publisher;
use pathcast::cli::load::stamp::Stamp;

/// How long the last message may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest sleep, so that answers are taken too.
const WAIT_MAX: Duration = Duration::from_millis(50);

pub struct Measured {
    /// From the request to the frame at each client.
    pub latency: Latency,
    pub deliveries: u64,
    pub cpu: Duration,
    pub load_cpu: Duration,
}

/// Publishes `count` messages of `bytes`, one every `interval`; the crowd has heard nothing before.
pub fn run(
    server: &Server,
    crowd: &mut Crowd,
    bytes: usize,
    interval: Duration,
    count: u64,
) -> anyhow::Result<Measured> {
    let clock = Clock::start();
    let mut publisher = Publisher::connect(server.api)?;
    let mut latency = Latency::new();
    let mut message = Vec::new();
    let target = format!("/v1/publish{CROWD}");
    let before = crowd.tally.messages;
    let (cpu, load_cpu) = (server.process.cpu()?, Process::own().cpu()?);
    let mut due = Instant::now();
    let mut seq = 0;
    let wanted = before + count * crowd.len() as u64;
    let mut until = None;
    while crowd.tally.messages < wanted {
        if seq < count && Instant::now() >= due {
            Stamp { seq, sent_ns: clock.now_ns() }.write(&mut message, bytes);
            publisher.begin(&target, &message)?;
            seq += 1;
            due += interval;
        }
        if seq == count {
            let until = *until.get_or_insert_with(|| Instant::now() + PATIENCE);
            ensure!(Instant::now() < until, "deliveries are missing: {:?}", crowd.tally);
        }
        let wait = due.saturating_duration_since(Instant::now()).min(WAIT_MAX);
        crowd.turn(wait, |stamp| {
            latency.record(clock.now_ns().saturating_sub(stamp.sent_ns));
        })?;
        crowd.check()?;
        publisher.expect(202)?;
    }
    Ok(Measured {
        latency,
        deliveries: crowd.tally.messages - before,
        cpu: server.process.cpu()? - cpu,
        load_cpu: Process::own().cpu()? - load_cpu,
    })
}

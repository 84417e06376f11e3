//! A storm of connects beside live traffic: how much later messages come while it lasts.
//!
//! The gateway has one processor for everything. The storm comes from a loader that runs only when
//! nobody else on the load's processor wants to, so what is told here is the gateway's own delay.
//! Clients of a storm leave when it is over, and nothing is measured meanwhile.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::bail;
use pathcast::cli::load::latency::Latency;

use crate::bench::{Bench, check_faults};
use crate::loader::{Job, Loader, Orders, Said};
use crate::report::grouped;
use crate::server::ASIDE;
use crate::side::Side;
use crate::single::PACE;

/// Handshakes at once, of each storm.
const STORMS: [usize; 2] = [64, 1_000];

/// Storms of each kind, and calms between them. In turn, so that a slow minute of the machine falls
/// on all of them.
const ROUNDS: usize = 15;

/// Clients that connect in a storm.
const CLIENTS: usize = 15_000;

/// Messages of a calm.
const CALM: usize = 20;

/// What the gateway gets to settle before the next one.
const SETTLE: Duration = Duration::from_millis(500);

/// What live traffic felt, all rounds together.
#[derive(Debug, Default)]
struct Felt {
    latency: Latency,
    messages: usize,
    span: Duration,
    cpu: Duration,
}

pub fn rush(bench: &mut Bench) -> anyhow::Result<()> {
    let gateway = bench.gateway(&bench.setup())?;
    let mut side = Side::http(vec![gateway], bench.scaled(1_000), bench.load())?;
    let clients = bench.scaled(CLIENTS);
    let storms = STORMS.map(|in_flight| {
        let (server, path) = (side.servers[0].clients, ASIDE.to_owned());
        let orders = Orders { job: Job::Storm, server, path, clients, in_flight };
        Loader::start(&orders, bench.split.load.as_deref())
    });
    let [few, many] = storms;
    let mut storms = [few?, many?];
    let mut calm = Felt::default();
    let mut stormy = STORMS.map(|_| Felt::default());
    let rounds = if bench.options.quick { 1 } else { ROUNDS };
    for _ in 0..rounds {
        for (storm, felt) in storms.iter_mut().zip(&mut stormy) {
            let mut left = CALM;
            calm.beside(&mut side, || {
                left -= 1;
                Ok(left > 0)
            })?;
            storm.urge()?;
            felt.beside(&mut side, || match storm.heard()? {
                None => Ok(true),
                Some(Said::Open { .. }) => Ok(false),
                Some(said) => bail!("a storm said {said:?}"),
            })?;
            storm.urge()?;
            storm.next()?;
            sleep(SETTLE);
        }
    }
    for storm in storms {
        storm.end()?;
    }
    check_faults(&side.crowd)?;
    let crowd = grouped(side.crowd.count() as f64);
    let beside = format!("20 messages/s to {crowd} clients");
    let settings = bench.settings(&format!("{beside}, {} messages", calm.messages));
    let what = "paced, nobody connecting: publish to frame read";
    bench.report.add(what, calm.latency.to_string(), settings);
    for (in_flight, felt) in STORMS.into_iter().zip(&stormy) {
        let what = format!("a storm of connects, {} in flight", grouped(in_flight as f64));
        let storms = format!("{rounds} storms of {}", grouped(clients as f64));
        let settings = format!("{beside}, {} messages, {storms}", felt.messages);
        let settings = bench.settings(&settings);
        let paced = format!("paced, {what}: publish to frame read");
        bench.report.add(paced, felt.latency.to_string(), &settings);
        let seconds = felt.span.as_secs_f64();
        let figure = format!(
            "{} a second; gateway busy with {:.0} % of its processor",
            grouped((rounds * clients) as f64 / seconds),
            100.0 * felt.cpu.as_secs_f64() / seconds
        );
        bench.report.add(format!("{what}: upgrades"), figure, settings);
    }
    Ok(())
}

impl Felt {
    /// A message every 50 ms, one at least, as long as something `goes_on`.
    fn beside(
        &mut self,
        side: &mut Side,
        mut goes_on: impl FnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let process = side.servers[0].process;
        let (begun, cpu_before) = (Instant::now(), process.cpu()?);
        let mut due = begun;
        while {
            side.pace(PACE, 1, &mut self.latency)?;
            self.messages += 1;
            due = (due + PACE).max(Instant::now());
            sleep(due.saturating_duration_since(Instant::now()));
            goes_on()?
        } {}
        self.span += begun.elapsed();
        self.cpu += process.cpu()? - cpu_before;
        Ok(())
    }
}

//! 90,000 sessions on one path: five gateways, one Redis, one machine.
//!
//! Each gateway has its loader, for no process may hold that many sockets. Every broadcast reaches
//! everybody before the next one is published; then some are published one behind the other.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use pathcast::cli::load::publisher::Publisher;
use pathcast::cli::load::stamp::Stamp;

use crate::bench::Bench;
use crate::loader::{Job, Loader, Orders, Said, now_ns};
use crate::process::Process;
use crate::redis::Redis;
use crate::report::{grouped, micros_each};
use crate::server::{CROWD, Server, Setup};

const GATEWAYS: usize = 5;

/// At each gateway.
const CLIENTS: usize = 18_000;

/// The same with `--quick`.
const FEW_CLIENTS: usize = 400;

/// Handshakes at once, of each loader.
const IN_FLIGHT: usize = 64;

/// Broadcasts that are published when everybody has the one before.
const ALONE: u64 = 20;

/// Broadcasts that are published without waiting.
const BEHIND: u64 = 20;

/// What the allocators get to settle before memory is read.
const SETTLE: Duration = Duration::from_secs(2);

pub fn crowd(bench: &mut Bench) -> anyhow::Result<()> {
    let clients = if bench.options.quick { FEW_CLIENTS } else { CLIENTS };
    let cpus = bench.split.load.clone();
    let redis = Redis::start(cpus.as_deref())?;
    let setup = Setup { redis: Some(redis.url()), ..bench.setup() };
    let gateways = (0..GATEWAYS).map(|_| bench.gateway(&setup));
    let gateways = gateways.collect::<anyhow::Result<Vec<_>>>()?;
    sleep(SETTLE);
    let before_kib = rss_kib(&gateways)?;

    let begun = Instant::now();
    let loaders = gateways.iter().map(|gateway| {
        let (server, path) = (gateway.clients, CROWD.to_owned());
        let orders = Orders { job: Job::Hear, server, path, clients, in_flight: IN_FLIGHT };
        Loader::start(&orders, cpus.as_deref())
    });
    let loaders = loaders.collect::<anyhow::Result<Vec<_>>>()?;
    for loader in &loaders {
        loader.open()?;
    }
    let connected = begun.elapsed();

    let mut source = Source::to(&gateways[0], bench.options.bytes)?;
    let cpu_before = cpu(&gateways)?;
    let mut alone_ms = Vec::new();
    for _ in 0..ALONE {
        let sent_ns = source.publish()?;
        alone_ms.push(ms(last_ns(&loaders, source.next - 1)? - sent_ns));
    }
    let cpu_each = micros_each(cpu(&gateways)? - cpu_before, ALONE * (GATEWAYS * clients) as u64);
    let sent_ns = source.publish()?;
    for _ in 1..BEHIND {
        source.publish()?;
    }
    let mut behind_ms = 0.0;
    for seq in ALONE..source.next {
        behind_ms = ms(last_ns(&loaders, seq)? - sent_ns);
    }
    sleep(SETTLE);
    let after_kib = rss_kib(&gateways)?;
    for loader in loaders {
        check(loader, source.next)?;
    }

    let all = GATEWAYS * clients;
    let what = format!("{} sessions at {GATEWAYS} gateways: ", grouped(all as f64));
    let settings = bench.settings(&format!(
        "{} sessions each on one path, one Redis, a load of its own for each, {} B",
        grouped(clients as f64),
        bench.options.bytes
    ));
    let mut tell = |which: &str, figure: String| {
        bench.report.add(format!("{what}{which}"), figure, &settings);
    };
    let seconds = connected.as_secs_f64();
    let pace = grouped(all as f64 / seconds);
    tell("until all are connected", format!("{seconds:.1} s, {pace} a second"));
    alone_ms.sort_by(f64::total_cmp);
    let [p50, max] = [alone_ms.len() / 2, alone_ms.len() - 1].map(|at| alone_ms[at]);
    let figure = format!("p50 {p50:.0}, max {max:.0} ms, of {ALONE}, one after the other");
    tell("publish to the last client", figure);
    tell("gateway CPU per delivery", format!("{cpu_each:.2} µs, one message at a time"));
    let figure = format!("{behind_ms:.0} ms until the last client has the last one");
    tell(&format!("{BEHIND} broadcasts, one behind the other"), figure);
    let mib: Vec<_> = after_kib.iter().map(|&kib| format!("{:.1}", kib as f64 / 1024.0)).collect();
    let grown_kib = after_kib.iter().sum::<u64>() as f64 - before_kib.iter().sum::<u64>() as f64;
    let figure = format!("{} MiB; {:.2} KiB a session", mib.join(", "), grown_kib / all as f64);
    tell("RSS of each gateway", figure);
    tell("lost, twice, out of order", "0, 0, 0".to_owned());
    Ok(())
}

/// Who publishes to everybody.
struct Source {
    publisher: Publisher,
    bytes: usize,
    message: Vec<u8>,
    /// Number of the next message.
    next: u64,
}

impl Source {
    fn to(gateway: &Server, bytes: usize) -> anyhow::Result<Source> {
        let publisher = Publisher::connect(gateway.api, None)?;
        Ok(Source { publisher, bytes, message: Vec::new(), next: 0 })
    }

    /// When it was sent. Returns when it was taken.
    fn publish(&mut self) -> anyhow::Result<u64> {
        let sent_ns = now_ns();
        Stamp { seq: self.next, sent_ns }.write(&mut self.message, self.bytes);
        self.publisher.begin(&format!("/v1/publish{CROWD}"), &self.message)?;
        self.publisher.answer()?.check(202)?;
        self.next += 1;
        Ok(sent_ns)
    }
}

/// When the last client of all loaders had message `seq`; what comes next from each has to be that.
fn last_ns(loaders: &[Loader], seq: u64) -> anyhow::Result<u64> {
    let mut latest_ns = 0;
    for loader in loaders {
        match loader.next()? {
            Said::Heard { seq: heard, last_ns } if heard == seq => {
                latest_ns = latest_ns.max(last_ns);
            }
            said => bail!("a loader said {said:?} instead of having heard {seq}"),
        }
    }
    Ok(latest_ns)
}

/// Whether each of its clients got all messages, once and in their order.
fn check(loader: Loader, messages: u64) -> anyhow::Result<()> {
    let said = loader.end()?;
    let [Said::End { lost: 0, again: 0, late: 0, fewest, most }] = said[..] else {
        bail!("deliveries went wrong: {said:?}");
    };
    ensure!([fewest, most] == [messages; 2], "of {messages} somebody has {fewest} or {most}");
    Ok(())
}

fn cpu(gateways: &[Server]) -> anyhow::Result<Duration> {
    processes(gateways).map(Process::cpu).sum()
}

fn rss_kib(gateways: &[Server]) -> anyhow::Result<Vec<u64>> {
    processes(gateways).map(|process| Ok(process.memory()?.rss_kib)).collect()
}

fn processes(gateways: &[Server]) -> impl Iterator<Item = Process> {
    gateways.iter().map(|gateway| gateway.process)
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

//! What a unicast with its verdict costs, and how long it takes, at one pod and across two.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};
use pathcast::cli::load::clock::Clock;
use pathcast::cli::load::publisher::Publisher;
use pathcast::cli::load::stamp::Stamp;

use crate::bench::Bench;
use crate::probe::Probe;
use crate::redis::Redis;
use crate::report::{grouped, micros_each};
use crate::server::{ASIDE, Server, Setup};

/// Keep-alive connections, each with one unicast on its way.
const CONNECTIONS: usize = 64;

/// The paced ones: 1,000 a second.
const INTERVAL: Duration = Duration::from_millis(1);

const WARM_UP: Duration = Duration::from_secs(1);

/// How often the answers are looked for.
const POLL: Duration = Duration::from_micros(200);

const PATIENCE: Duration = Duration::from_secs(5);

pub fn verdicts(bench: &mut Bench) -> anyhow::Result<()> {
    let one = bench.gateway(&bench.setup())?;
    many(bench, "one pod", &[&one], &one, &one)?;
    paced(bench, "one pod", &one, &one)?;
    drop(one);
    let redis = Redis::start(bench.split.load.as_deref())?;
    let setup = Setup { redis: Some(redis.url()), ..bench.setup() };
    let (owner, other) = (bench.gateway(&setup)?, bench.gateway(&setup)?);
    many(bench, "across two pods", &[&owner, &other], &owner, &other)?;
    paced(bench, "across two pods", &owner, &other)
}

/// As many as 64 connections carry.
fn many(
    bench: &mut Bench,
    what: &str,
    all: &[&Server],
    owner: &Server,
    asked: &Server,
) -> anyhow::Result<()> {
    let mut crowd = owner.crowd()?;
    crowd.connect(owner.clients, CONNECTIONS, |_| ASIDE.to_owned(), CONNECTIONS)?;
    let mut publishers = Vec::new();
    for session in owner.sessions(ASIDE)? {
        let target = format!("/v1/publish{ASIDE}?session={session}");
        publishers.push((Publisher::connect(asked.api, None)?, target, 0));
    }
    ensure!(publishers.len() == CONNECTIONS, "{} sessions", publishers.len());
    let mut message = Vec::new();
    let mut turn = |until: Instant| -> anyhow::Result<u64> {
        let mut begun = 0;
        while Instant::now() < until {
            for (publisher, target, seq) in &mut publishers {
                publisher.expect(200)?;
                if publisher.awaited() == 0 {
                    Stamp { seq: *seq, sent_ns: 0 }.write(&mut message, bench.options.bytes);
                    publisher.begin(target, &message)?;
                    *seq += 1;
                    begun += 1;
                }
            }
            crowd.turn(Duration::ZERO, |_| {})?;
            crowd.check()?;
            sleep(POLL);
        }
        Ok(begun)
    };
    let cpu = || all.iter().map(|server| server.process.cpu()).sum::<anyhow::Result<Duration>>();
    let mut sent = turn(Instant::now() + WARM_UP)?;
    let (before, begun) = (cpu()?, Instant::now());
    let measured = turn(begun + bench.span())?;
    let (used, seconds) = (cpu()? - before, begun.elapsed().as_secs_f64());
    sent += measured;
    let until = Instant::now() + PATIENCE;
    while crowd.tally.messages < sent {
        ensure!(Instant::now() < until, "{} of {sent} arrived", crowd.tally.messages);
        crowd.turn(Duration::from_millis(10), |_| {})?;
    }
    let settings = bench.settings(&format!("{CONNECTIONS} connections, one on its way on each"));
    let figure = format!(
        "{:.1} µs, {} a second",
        micros_each(used, measured),
        grouped(measured as f64 / seconds)
    );
    bench.report.add(format!("unicast, {what}: gateway CPU each"), figure, &settings);
    let tally = &crowd.tally;
    ensure!(tally.lost + tally.again + tally.late == 0, "{tally:?}");
    crowd.leave()
}

/// 1,000 a second.
fn paced(bench: &mut Bench, what: &str, owner: &Server, asked: &Server) -> anyhow::Result<()> {
    let probe = Probe::open(owner, asked.api, bench.options.bytes, Clock::start())?;
    let probing = probe.start(INTERVAL, bench.span());
    let (_, latencies) = probing.join().map_err(|_| anyhow!("the probe panicked"))??;
    let settings = bench.settings("1,000 unicasts/s on one connection");
    for (to, latency) in [("200", &latencies.answered), ("frame read", &latencies.arrived)] {
        let what = format!("unicast, {what}: request to {to}");
        bench.report.add(what, latency.to_string(), &settings);
    }
    Ok(())
}

//! What sessions hold while nothing happens, and what a storm of them leaves behind.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::ensure;
use pathcast::cli::load::frames;
use pathcast::cli::load::publisher::Publisher;
use pathcast::cli::load::stamp::Stamp;

use crate::bench::Bench;
use crate::process::Memory;
use crate::redis::Redis;
use crate::report::{grouped, micros_each};
use crate::server::{CROWD, Door, Setup};

/// Short, so that two of them fit into a run; what they cost does not hang on it.
const HEARTBEAT_S: u64 = 4;

/// What the allocator gets to settle before memory is read.
const SETTLE: Duration = Duration::from_secs(2);

/// After everything was answered: what is bound to a time has gone by then.
const REST: Duration = Duration::from_secs(90);

const CLIENTS: usize = 10_000;

/// Handshakes at once.
const IN_FLIGHT: usize = 64;

/// Memory of 10,000 idle sessions.
pub fn idle(bench: &mut Bench) -> anyhow::Result<()> {
    let setup = Setup { heartbeat_s: HEARTBEAT_S, ..bench.setup() };
    rest(bench, "idle session", &setup)?;
    rest(bench, "idle session with TLS", &Setup { door: Door::Tls, ..setup.clone() })?;
    let redis = Redis::start(bench.split.load.as_deref())?;
    let redis = Some(redis.url());
    let crowd = "backend = { stream = true }";
    rest(bench, "idle session with a backend", &Setup { redis, crowd, ..setup })
}

fn rest(bench: &mut Bench, what: &str, setup: &Setup) -> anyhow::Result<()> {
    let clients = bench.scaled(CLIENTS);
    let gateway = bench.gateway(setup)?;
    sleep(SETTLE);
    let before = gateway.process.memory()?;
    let mut crowd = gateway.crowd()?;
    crowd.connect(gateway.clients, clients, |_| CROWD.to_owned(), IN_FLIGHT)?;
    let mut message = Vec::new();
    Stamp { seq: 0, sent_ns: 0 }.write(&mut message, bench.options.bytes);
    let mut publisher = Publisher::connect(gateway.api, None)?;
    publisher.begin(&format!("/v1/publish{CROWD}"), &message)?;
    publisher.answer()?.check(202)?;
    crowd.say(&frames::text(&[b'x'; 100]))?;
    let begun = Instant::now();
    let until = begun + Duration::from_secs(8 * HEARTBEAT_S);
    while crowd.pings() < 2 || crowd.messages().0 < 1 {
        ensure!(Instant::now() < until, "not everybody got a message and two pings");
        crowd.turn(Duration::from_millis(50), |_| {})?;
        crowd.check()?;
    }
    let rest = bench.span_or(REST);
    while begun.elapsed() < rest {
        crowd.turn(Duration::from_millis(50), |_| {})?;
    }
    let after = gateway.process.memory()?;
    let sessions = grouped(clients as f64);
    let settings = bench.settings(&format!(
        "{sessions} sessions, each with one message in, one out, two pings answered, after {} s",
        rest.as_secs()
    ));
    let each = |from: u64, to: u64| (to as f64 - from as f64) / clients as f64;
    let rss = format!(
        "{:.2} KiB ({:.1} → {:.1} MiB)",
        each(before.rss_kib, after.rss_kib),
        mib(before.rss_kib),
        mib(after.rss_kib)
    );
    bench.report.add(format!("{what}: RSS"), rss, &settings);
    let anonymous = format!("{:.2} KiB", each(before.anon_kib, after.anon_kib));
    bench.report.add(format!("{what}: of it anonymous"), anonymous, &settings);
    bench.tell_faults(&format!("{what}: "), &crowd, &settings)
}

/// 10,000 connects, again and again; on one path, and each on a path of its own.
pub fn storm(bench: &mut Bench) -> anyhow::Result<()> {
    let plain = bench.setup();
    rounds(bench, "one path", &plain, |_| CROWD.to_owned())?;
    let tls = Setup { door: Door::Tls, ..plain.clone() };
    rounds(bench, "one path, TLS", &tls, |_| CROWD.to_owned())?;
    rounds(bench, "a path for each", &plain, |number| format!("/rooms/{number}"))
}

fn rounds(
    bench: &mut Bench,
    what: &str,
    setup: &Setup,
    path: impl Fn(usize) -> String,
) -> anyhow::Result<()> {
    const ROUNDS: usize = 5;
    let clients = bench.scaled(CLIENTS);
    let gateway = bench.gateway(setup)?;
    sleep(SETTLE);
    let mut memory = vec![gateway.process.memory()?];
    let (mut cpu, mut pace) = (Vec::new(), Vec::new());
    let mut full_kib = 0;
    let mut crowd = gateway.crowd()?;
    for _ in 0..ROUNDS {
        let (cpu_before, begun) = (gateway.process.cpu()?, Instant::now());
        crowd.connect(gateway.clients, clients, &path, IN_FLIGHT)?;
        cpu.push(micros_each(gateway.process.cpu()? - cpu_before, clients as u64));
        pace.push(clients as f64 / begun.elapsed().as_secs_f64());
        full_kib = full_kib.max(gateway.process.memory()?.rss_kib);
        crowd.leave()?;
        sleep(SETTLE);
        memory.push(gateway.process.memory()?);
    }
    let settings = bench.settings(&format!(
        "{ROUNDS} rounds of {} connects, {IN_FLIGHT} in flight, Origin checked",
        grouped(clients as f64)
    ));
    let what = format!("connect storm, {what}: ");
    let report = &mut bench.report;
    let worst = cpu.iter().copied().fold(f64::NAN, f64::max);
    let figure = format!("median {:.1} µs, worst {worst:.1}", median(&mut cpu));
    report.add(format!("{what}gateway CPU per upgrade"), figure, &settings);
    let figure = format!("median {} a second", grouped(median(&mut pace)));
    report.add(format!("{what}upgrades"), figure, &settings);
    let steps = |of: fn(&Memory) -> u64| {
        let steps: Vec<_> = memory.iter().map(|one| format!("{:.1}", mib(of(one)))).collect();
        steps.join(" → ")
    };
    let figure = format!("{} MiB; {:.1} with all", steps(|one| one.rss_kib), mib(full_kib));
    report.add(format!("{what}RSS before, and after each round"), figure, &settings);
    let figure = format!("{} MiB", steps(|one| one.anon_kib));
    report.add(format!("{what}of it anonymous"), figure, &settings);
    Ok(())
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

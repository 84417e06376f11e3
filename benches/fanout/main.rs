//! What a broadcast costs, and what it costs everybody else.
//!
//! ```sh
//! cargo bench --bench fanout                # everything, some minutes
//! cargo bench --bench fanout -- --quick     # whether it works, in seconds; the figures say little
//! cargo bench --bench fanout -- --rows saturated,unicast --shards 2 --gateway-cpus 0,1
//! ```
//!
//! Each row has a gateway of its own, as a child process on loopback, and a crowd of clients in
//! this process. A saturated row is a closed loop: the window stands beside it, for it decides how
//! many frames one write carries, and with that the cost of a delivery.

mod limit;
mod machine;
mod pairs;
mod probe;
mod process;
mod report;
mod saturation;
mod server;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};

use crate::limit::Limit;
use crate::machine::Split;
use crate::pairs::Pairs;
use crate::probe::Probe;
use crate::process::Memory;
use crate::report::{Report, grouped, micros_each};
use crate::saturation::{Measured, Saturation};
use crate::server::{CROWD, Server, Setup};
use pathcast::cli::load::clock::Clock;
use pathcast::cli::load::crowd::Crowd;
use pathcast::cli::load::frames;
use pathcast::cli::load::latency::Latency;
use pathcast::cli::load::publisher::Publisher;
use pathcast::cli::load::stamp::Stamp;

/// Before a saturated run is measured: every socket's buffers have found their size.
const WARM_UP: Duration = Duration::from_secs(2);

/// Short, so that two of them fit into a run; what they cost does not hang on it.
const HEARTBEAT: Duration = Duration::from_secs(4);

/// Between two messages of a paced run.
const PACE: Duration = Duration::from_millis(50);

/// What the allocator gets to settle before memory is read.
const SETTLE: Duration = Duration::from_secs(1);

#[derive(Debug, Parser)]
#[command(name = "fanout", about = "What a broadcast costs, and what it costs everybody else")]
struct Options {
    /// Small counts and short runs: shows that it works.
    #[arg(long)]
    quick: bool,
    /// Which rows; all without it.
    #[arg(long, value_enum, value_delimiter = ',')]
    rows: Vec<Row>,
    #[arg(long, default_value_t = 1)]
    shards: usize,
    /// Processors for the gateway, as taskset takes them, or "any".
    #[arg(long)]
    gateway_cpus: Option<String>,
    /// Processors for the load, as taskset takes them, or "any".
    #[arg(long)]
    load_cpus: Option<String>,
    /// Messages outstanding in a saturated row.
    #[arg(long, default_value_t = 16)]
    window: usize,
    /// Length of a message.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    /// How long a saturated row is measured, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Pairs of a row that compares.
    #[arg(long, default_value_t = 9)]
    pairs: usize,
    /// How often the load looks what has come in a saturated row, in milliseconds.
    #[arg(long, default_value_t = 4)]
    poll_ms: u64,
    /// Be one of the limits instead of measuring.
    #[arg(long, value_enum, hide = true)]
    limit: Option<Limit>,
    /// Another gateway than the one built here.
    #[arg(long)]
    gateway: Option<PathBuf>,
    /// Given by cargo bench. Without it nothing runs: cargo test starts benches too.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Row {
    /// A closed loop with 1,000 clients.
    Saturated,
    /// 20 messages a second to 1,000 clients.
    Paced,
    /// A closed loop with 15,000 clients, and unicasts on another path, alone and beside it.
    Unicast,
    /// The gateway beside the limits, pair by pair.
    Limits,
    /// Memory of 10,000 idle sessions.
    Idle,
    /// 10,000 connects, again and again.
    Storm,
}

/// Measures a row and reports it.
type Measure = fn(&mut Bench) -> anyhow::Result<()>;

struct Bench {
    options: Options,
    split: Split,
    program: PathBuf,
    report: Report,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if !options.bench {
        println!("this measures only under `cargo bench`");
        return Ok(());
    }
    if let Some(limit) = options.limit {
        return limit::serve(limit);
    }
    let machine = machine::describe();
    let split = Split::choose(options.gateway_cpus.clone(), options.load_cpus.clone());
    split.settle()?;
    let program = options.gateway.clone();
    let program = program.unwrap_or_else(|| env!("CARGO_BIN_EXE_pathcast").into());
    let mut bench = Bench { options, split, program, report: Report::default() };
    let outcome = bench.run();
    println!("{machine}; {}\n\n{}", bench.split.describe(), bench.report);
    outcome
}

impl Bench {
    fn run(&mut self) -> anyhow::Result<()> {
        let rows: &[(Row, Measure)] = &[
            (Row::Saturated, Bench::saturated),
            (Row::Paced, Bench::paced),
            (Row::Unicast, Bench::unicast),
            (Row::Limits, Bench::limits),
            (Row::Idle, Bench::idle),
            (Row::Storm, Bench::storm),
        ];
        for (row, run) in rows {
            if self.options.rows.is_empty() || self.options.rows.contains(row) {
                eprintln!("{row:?}");
                run(self).with_context(|| format!("row {row:?}"))?;
            }
        }
        Ok(())
    }

    fn saturated(&mut self) -> anyhow::Result<()> {
        let clients = self.scaled(1_000);
        let gateway = self.start(None)?;
        let mut crowd = self.crowd(&gateway, clients)?;
        let mut saturation = self.saturation(&gateway, &crowd)?;
        let measured = saturation.run(&mut crowd, self.warm_up(), self.span(), || {})?;
        self.tell_saturated(&measured, &crowd)
    }

    fn paced(&mut self) -> anyhow::Result<()> {
        let clients = self.scaled(1_000);
        let gateway = self.start(None)?;
        let mut crowd = self.crowd(&gateway, clients)?;
        let count = 20 * self.span().as_secs();
        let mut latency = Latency::new();
        let mut load = self.saturation(&gateway, &crowd)?;
        let measured = load.pace(&mut crowd, PACE, count, &mut latency)?;
        let what = format!("paced, {} clients: ", grouped(clients as f64));
        let bytes = self.options.bytes;
        let settings = self.settings(&format!("20 messages/s, {bytes} B, {count} messages"));
        let report = &mut self.report;
        report.add(format!("{what}publish to frame read"), latency.to_string(), &settings);
        let each = micros_each(measured.cpu, measured.deliveries);
        let load_each = micros_each(measured.load_cpu, measured.deliveries);
        let figure = format!("{each:.2} µs (load: {load_each:.2})");
        report.add(format!("{what}gateway CPU per delivery"), figure, &settings);
        self.tell_faults(&what, &crowd, &settings)
    }

    /// One crowd at the gateway, one as large at a limit, and the same load on both in turn.
    fn limits(&mut self) -> anyhow::Result<()> {
        for row in pairs::ROWS {
            self.pair(row)?;
        }
        Ok(())
    }

    fn pair(&mut self, row: &pairs::Row) -> anyhow::Result<()> {
        let clients = self.scaled(row.clients);
        let gateway = self.start(None)?;
        let limit = Server::limit(row.limit, self.split.gateway.as_deref())?;
        let mut crowds = [self.crowd(&gateway, clients)?, self.crowd(&limit, clients)?];
        let poll = Duration::from_millis(self.options.poll_ms);
        let mut loads = [
            Saturation::new(&gateway, &crowds[0], row.window, row.bytes, poll)?,
            Saturation::new(&limit, &crowds[1], row.window, row.bytes, poll)?,
        ];
        let count = if self.options.quick { 3 } else { self.options.pairs };
        let pairs = Pairs::run(row, count, &mut loads, &mut crowds)?;
        let settings = self.settings(&row.settings(count, self.options.poll_ms));
        self.report.add(row.name(), pairs.to_string(), &settings);
        for crowd in &crowds {
            self.check_faults(crowd)?;
        }
        Ok(())
    }

    fn unicast(&mut self) -> anyhow::Result<()> {
        let clients = self.scaled(15_000);
        let interval = Duration::from_millis(10);
        let gateway = self.start(None)?;
        let mut crowd = self.crowd(&gateway, clients)?;
        let probe = Probe::open(&gateway, self.options.bytes, Clock::start())?;

        // The crowd is silent, but its pings are answered.
        let probing = probe.start(interval, self.span());
        while !probing.is_finished() {
            crowd.turn(Duration::from_millis(20), |_| {})?;
        }
        let (probe, alone) =
            probing.join().map_err(|_| anyhow::anyhow!("the probe panicked"))??;

        let mut saturation = self.saturation(&gateway, &crowd)?;
        let measured = saturation.run(&mut crowd, self.warm_up(), self.span(), || {})?;
        self.tell_saturated(&measured, &crowd)?;

        let span = self.span();
        let mut probing = None;
        // Ends before the loop does, so that none of it is measured in silence.
        let begin = || probing = Some(probe.start(interval, span * 9 / 10));
        saturation.run(&mut crowd, Duration::ZERO, span, begin)?;
        let probing = probing.context("a run that did not begin")?;
        let (_, beside) = probing.join().map_err(|_| anyhow::anyhow!("the probe panicked"))??;

        let window = self.options.window;
        for (when, latencies, settings) in [
            ("beside a silent crowd", alone, String::new()),
            ("beside the saturated path", beside, format!(", W = {window} on the crowd's path")),
        ] {
            let crowd = grouped(clients as f64);
            let settings = format!("100 unicasts/s, {crowd} clients on another path{settings}");
            let settings = self.settings(&settings);
            let mut tell = |what: &str, latency: &Latency| {
                let what = format!("unicast {when}: request to {what}");
                self.report.add(what, latency.to_string(), &settings);
            };
            tell("200", &latencies.answered);
            tell("frame read", &latencies.arrived);
        }
        Ok(())
    }

    fn idle(&mut self) -> anyhow::Result<()> {
        let clients = self.scaled(10_000);
        let gateway = self.start(Some(HEARTBEAT))?;
        std::thread::sleep(SETTLE);
        let before = gateway.process.memory()?;
        let mut crowd = self.crowd(&gateway, clients)?;
        let mut message = Vec::new();
        Stamp { seq: 0, sent_ns: 0 }.write(&mut message, self.options.bytes);
        let mut publisher = Publisher::connect(gateway.api, None)?;
        publisher.begin(&format!("/v1/publish{CROWD}"), &message)?;
        publisher.answer()?.check(202)?;
        crowd.say(&frames::text(&[b'x'; 100]))?;
        let until = Instant::now() + 8 * HEARTBEAT;
        while crowd.pings() < 2 || crowd.messages().0 < 1 {
            ensure!(Instant::now() < until, "not everybody got a message and two pings");
            crowd.turn(Duration::from_millis(50), |_| {})?;
            crowd.check()?;
        }
        let settled = Instant::now() + SETTLE;
        while Instant::now() < settled {
            crowd.turn(Duration::from_millis(50), |_| {})?;
        }
        let after = gateway.process.memory()?;
        let sessions = grouped(clients as f64);
        let settings = self.settings(&format!(
            "{sessions} sessions, each with one message in, one out, two pings answered"
        ));
        let each = |from: u64, to: u64| (to as f64 - from as f64) / clients as f64;
        let mib = |kib: u64| kib as f64 / 1024.0;
        let rss = format!(
            "{:.2} KiB ({:.1} → {:.1} MiB)",
            each(before.rss_kib, after.rss_kib),
            mib(before.rss_kib),
            mib(after.rss_kib)
        );
        self.report.add("idle session: RSS", rss, &settings);
        let anonymous = format!("{:.2} KiB", each(before.anon_kib, after.anon_kib));
        self.report.add("idle session: anonymous memory", anonymous, &settings);
        self.tell_faults("idle: ", &crowd, &settings)
    }

    fn storm(&mut self) -> anyhow::Result<()> {
        const ROUNDS: usize = 5;
        const IN_FLIGHT: usize = 64;
        let clients = self.scaled(10_000);
        let gateway = self.start(None)?;
        std::thread::sleep(SETTLE);
        let mut rss = vec![gateway.process.memory()?];
        let mut cpu = Vec::new();
        let mut pace = Vec::new();
        let mut full = 0;
        let mut crowd = Crowd::new(gateway.clients)?;
        for _ in 0..ROUNDS {
            let (cpu_before, begun) = (gateway.process.cpu()?, Instant::now());
            crowd.connect(clients, CROWD, IN_FLIGHT)?;
            cpu.push(micros_each(gateway.process.cpu()? - cpu_before, clients as u64));
            pace.push(clients as f64 / begun.elapsed().as_secs_f64());
            full = full.max(gateway.process.memory()?.rss_kib);
            crowd.leave()?;
            std::thread::sleep(SETTLE);
            rss.push(gateway.process.memory()?);
        }
        let settings = self.settings(&format!(
            "{ROUNDS} rounds of {} connects, {IN_FLIGHT} in flight, Origin checked",
            grouped(clients as f64)
        ));
        let report = &mut self.report;
        let figure = format!("median {:.1} µs, worst {:.1}", median(&mut cpu), max(&cpu));
        report.add("connect storm: gateway CPU per upgrade", figure, &settings);
        let figure = format!("median {} a second", grouped(median(&mut pace)));
        report.add("connect storm: upgrades", figure, &settings);
        let steps = |of: fn(&Memory) -> u64| {
            let mib = |memory| format!("{:.1}", of(memory) as f64 / 1024.0);
            rss.iter().map(mib).collect::<Vec<_>>().join(" → ")
        };
        let full = full as f64 / 1024.0;
        let figure = format!("{} MiB; {full:.1} with all", steps(|memory| memory.rss_kib));
        report.add("connect storm: RSS before, and after each round", figure, &settings);
        let figure = format!("{} MiB", steps(|memory| memory.anon_kib));
        report.add("connect storm: of it anonymous", figure, &settings);
        Ok(())
    }

    fn start(&self, heartbeat: Option<Duration>) -> anyhow::Result<Server> {
        let heartbeat = heartbeat.map_or("30s".into(), |beat| format!("{}s", beat.as_secs()));
        let (shards, cpus) = (self.options.shards, self.split.gateway.clone());
        let gateway = Server::gateway(&self.program, &Setup { shards, cpus, heartbeat })?;
        eprintln!("  gateway is process {}", gateway.process.0);
        Ok(gateway)
    }

    fn crowd(&self, gateway: &Server, clients: usize) -> anyhow::Result<Crowd> {
        let mut crowd = Crowd::new(gateway.clients)?;
        crowd.connect(clients, CROWD, 64)?;
        Ok(crowd)
    }

    fn saturation<'a>(&self, gateway: &'a Server, crowd: &Crowd) -> anyhow::Result<Saturation<'a>> {
        let Options { window, bytes, poll_ms, .. } = self.options;
        Saturation::new(gateway, crowd, window, bytes, Duration::from_millis(poll_ms))
    }

    fn tell_saturated(&mut self, measured: &Measured, crowd: &Crowd) -> anyhow::Result<()> {
        let Options { window, bytes, poll_ms, shards, .. } = self.options;
        let clients = crowd.count();
        let what = format!("saturated, {} clients: ", grouped(clients as f64));
        let seconds = measured.span.as_secs_f64();
        let settings =
            format!("W = {window}, {bytes} B, load polls every {poll_ms} ms, {seconds:.0} s");
        let settings = self.settings(&settings);
        let messages = grouped(measured.messages as f64 / seconds);
        let deliveries = grouped(measured.deliveries as f64 / seconds);
        let report = &mut self.report;
        report.add(
            format!("{what}messages/s, deliveries/s"),
            format!("{messages}, {deliveries}"),
            &settings,
        );
        let each = micros_each(measured.cpu, measured.deliveries);
        let load_each = micros_each(measured.load_cpu, measured.deliveries);
        let share = |time: Duration| 100.0 * time.as_secs_f64() / seconds;
        let figure = format!("{each:.3} µs (load: {load_each:.3})");
        report.add(format!("{what}gateway CPU per delivery"), figure, &settings);
        let figure = format!(
            "{:.0} %, waiting {:.0} % (load: {:.0} %, {:.0} %)",
            share(measured.cpu),
            share(measured.waited),
            share(measured.load_cpu),
            share(measured.load_waited)
        );
        report.add(format!("{what}gateway busy with one processor"), figure, &settings);
        let frames = format!("{:.1}", measured.frames_per_write(clients, shards));
        report.add(format!("{what}frames per write"), frames, &settings);
        self.tell_faults(&what, crowd, &settings)
    }

    fn tell_faults(&mut self, what: &str, crowd: &Crowd, settings: &str) -> anyhow::Result<()> {
        let tally = &crowd.tally;
        let figure = format!("{}, {}, {}", tally.lost, tally.again, tally.late);
        let what = format!("{what}lost, twice, out of order");
        self.report.add(what, figure, settings);
        self.check_faults(crowd)
    }

    /// A figure of a run that lost something is none.
    fn check_faults(&self, crowd: &Crowd) -> anyhow::Result<()> {
        let tally = &crowd.tally;
        let (fewest, most) = crowd.messages();
        ensure!(tally.lost + tally.again + tally.late == 0, "deliveries went wrong: {tally:?}");
        ensure!(fewest == most, "somebody has {fewest} messages, somebody {most}");
        Ok(())
    }

    fn settings(&self, own: &str) -> String {
        format!("{own}; {} shard(s), {}", self.options.shards, self.split.describe())
    }

    fn scaled(&self, clients: usize) -> usize {
        if self.options.quick { clients / 20 } else { clients }
    }

    fn span(&self) -> Duration {
        Duration::from_secs(if self.options.quick { 1 } else { self.options.seconds })
    }

    fn warm_up(&self) -> Duration {
        if self.options.quick { WARM_UP / 10 } else { WARM_UP }
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn max(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::max)
}

//! A gateway beside something else: the same load on the one, then on the other, again and again.
//!
//! Machines are noisy and change their pace, so only the ratio of two runs that followed each other
//! says something, and only the median of many such pairs is told.

use std::fmt;
use std::time::Duration;

use pathcast::cli::load::latency::Latency;

use crate::Options;
use crate::bench::{Bench, check_faults};
use crate::limit::Limit;
use crate::plot;
use crate::redis::{Redis, Stranger};
use crate::report::grouped;
use crate::server::{CROWD, Door, Server, Setup};
use crate::side::{Load, Measured, Side};
use crate::single::PACE;

/// How long each side of a pair is measured.
pub const SPAN: Duration = Duration::from_secs(2);

/// Before it: the sides wake each other's caches up.
const WARM_UP: Duration = Duration::from_millis(300);

/// How much dearer than its limit the gateway may be.
const LIMITS: &[Row] = &[
    Row::saturated(16, 1_000, 100, 1.1),
    Row { join_pause: "500us", ..Row::saturated(16, 1_000, 100, 0.95) },
    Row::saturated(1, 1_000, 100, 1.2),
    Row::saturated(4, 1_000, 100, 1.2),
    Row::saturated(64, 1_000, 100, 1.2),
    Row::saturated(256, 1_000, 100, 1.2),
    Row::saturated(16, 5_000, 100, 1.15),
    Row::saturated(16, 1_000, 10_000, 1.15),
    Row { limit: Limit::Write, window: 1, ..Row::saturated(1, 1_000, 100, 1.15) },
    Row { limit: Limit::Write, pace: Some(PACE), ..Row::saturated(16, 1_000, 100, 1.15) },
];

/// One comparison with a limit.
#[derive(Debug, Clone, Copy)]
struct Row {
    limit: Limit,
    /// Between two messages; `None`: a closed loop.
    pace: Option<Duration>,
    window: usize,
    clients: usize,
    /// Of a message.
    bytes: usize,
    /// Of the gateway.
    join_pause: &'static str,
    bar: f64,
}

/// All pairs of a row.
#[derive(Debug, Default)]
pub struct Pairs {
    pub own: Vec<Measured>,
    pub other: Vec<Measured>,
    /// Of the paced ones, all pairs together.
    latencies: [Latency; 2],
}

/// A median, and the interval that holds the true one in 95 of 100 cases; of fewer than six values
/// that is all of them, and holds it less often.
#[derive(Debug, Clone, Copy)]
pub struct Median {
    pub value: f64,
    pub from: f64,
    pub to: f64,
}

/// The gateway beside the limits.
pub fn limits(bench: &mut Bench) -> anyhow::Result<()> {
    let mut curve = Vec::new();
    for row in LIMITS {
        let load = Load { window: row.window, bytes: row.bytes, poll: bench.poll() };
        let clients = bench.scaled(row.clients);
        let setup = Setup { shards: 1, join_pause: row.join_pause, ..bench.setup() };
        let gateway = bench.gateway(&setup)?;
        let limit = Server::limit(row.limit, bench.split.gateway.as_deref())?;
        let own = Side::http(vec![gateway], clients, load)?;
        let other = Side::http(vec![limit], clients, load)?;
        let pairs = Pairs::run(bench, row.pace, &mut [own, other], || Ok(()))?;
        let what = format!("{}: CPU per delivery by limit", row.name());
        let settings = row.settings(bench);
        bench.report.add(what, pairs.to_string(), &settings);
        if row.is_on_curve() {
            let of = |all: &[Measured]| Median::of(all.iter().map(Measured::each_micros).collect());
            curve.push((row.window, of(&pairs.own).value, of(&pairs.other).value));
        }
        if row.pace.is_some() {
            let [own, limit] = &pairs.latencies;
            let figure = format!("{own}; the limit: {limit}");
            bench.report.add(format!("{}: latency", row.name()), figure, &settings);
        }
    }
    curve.sort_by_key(|&(window, ..)| window);
    bench.plots.push(("performance.svg", plot::svg(&curve)));
    Ok(())
}

/// Two pods on one Redis, beside one with the memory broker.
pub fn redis(bench: &mut Bench) -> anyhow::Result<()> {
    let clients = bench.scaled(1_000);
    let redis = Redis::start(bench.split.load.as_deref())?;
    let setup = Setup { redis: Some(redis.url()), ..bench.setup() };
    let pods = vec![bench.gateway(&setup)?, bench.gateway(&setup)?];
    let stranger = Box::new(Stranger::connect(&redis, CROWD)?);
    let own = Side::new(pods, clients, stranger, bench.load())?;
    let alone = bench.gateway(&bench.setup())?;
    let other = Side::http(vec![alone], clients, bench.load())?;
    let pairs = Pairs::run(bench, None, &mut [own, other], || Ok(()))?;
    let what = "through Redis, two pods: CPU per delivery by the memory broker's";
    tell(
        bench,
        what,
        &format!("{} clients a pod, PUBLISH by the load", grouped(clients as f64)),
        &pairs,
    );
    Ok(())
}

/// A busy path beside idle ones, and alone.
pub fn aside(bench: &mut Bench) -> anyhow::Result<()> {
    const PATHS: usize = 100;
    let (clients, idle) = (bench.scaled(1_000), bench.scaled(10_000));
    let crowded = bench.gateway(&bench.setup())?;
    let mut silent = crowded.crowd()?;
    let room = |number: usize| format!("/rooms/{}", number % PATHS);
    silent.connect(crowded.clients, idle, room, 64)?;
    let own = Side::http(vec![crowded], clients, bench.load())?;
    let alone = bench.gateway(&bench.setup())?;
    let other = Side::http(vec![alone], clients, bench.load())?;
    let pairs = Pairs::run(bench, None, &mut [own, other], || {
        // It answers its pings.
        silent.turn(Duration::ZERO, |_| {})?;
        silent.check()
    })?;
    let what = format!(
        "a busy path beside {PATHS} idle ones with {} sessions: CPU per delivery by alone",
        grouped(idle as f64)
    );
    tell(bench, &what, &format!("{} clients", grouped(clients as f64)), &pairs);
    Ok(())
}

/// The same gateway with TLS and without.
pub fn tls(bench: &mut Bench) -> anyhow::Result<()> {
    let clients = bench.scaled(1_000);
    let encrypted = bench.gateway(&Setup { door: Door::Tls, ..bench.setup() })?;
    let plain = bench.gateway(&bench.setup())?;
    let own = Side::http(vec![encrypted], clients, bench.load())?;
    let other = Side::http(vec![plain], clients, bench.load())?;
    let mut sides = [own, other];
    let whom = format!("{} clients", grouped(clients as f64));
    let Options { window, bytes, .. } = bench.options;
    for (what, pace) in [("saturated", None), ("paced", Some(PACE))] {
        let pairs = Pairs::run(bench, pace, &mut sides, || Ok(()))?;
        let how = match pace {
            Some(pace) => format!("a message every {} ms", pace.as_millis()),
            None => format!("W = {window}"),
        };
        let (count, span) = (pairs.own.len(), SPAN.as_secs());
        let settings =
            bench.settings(&format!("{how}, {whom}, {bytes} B, {count} pairs of {span} s"));
        let what = format!("TLS, {what}");
        bench.report.add(
            format!("{what}: CPU per delivery by plain"),
            pairs.to_string(),
            &settings,
        );
        if pace.is_some() {
            let [encrypted, plain] = &pairs.latencies;
            let figure = format!("{encrypted}; plain: {plain}");
            bench.report.add(format!("{what}: latency"), figure, &settings);
        }
    }
    Ok(())
}

/// Of two gateways: the one may cost a tenth more.
fn tell(bench: &mut Bench, what: &str, whom: &str, pairs: &Pairs) {
    let (window, count, span) = (bench.options.window, pairs.own.len(), SPAN.as_secs());
    let settings = format!("bar 1.1; W = {window}, {whom}, {count} pairs of {span} s");
    let settings = bench.settings(&settings);
    bench.report.add(what, pairs.to_string(), settings);
}

impl Row {
    /// A closed loop, against all that waits joined into one write.
    const fn saturated(window: usize, clients: usize, bytes: usize, bar: f64) -> Row {
        Row { limit: Limit::Join, pace: None, window, clients, bytes, join_pause: "off", bar }
    }

    /// Of the window alone.
    fn is_on_curve(&self) -> bool {
        let Row { limit, clients, bytes, join_pause, .. } = *self;
        limit == Limit::Join && clients == 1_000 && bytes == 100 && join_pause == "off"
    }

    fn name(&self) -> String {
        let clients = grouped(self.clients as f64);
        let (window, bytes) = (self.window, self.bytes);
        match (self.limit, self.pace) {
            (_, Some(_)) => format!("paced, {clients} clients"),
            (Limit::Write, None) => format!("one at a time, {clients} clients"),
            (Limit::Join, None) if self.join_pause != "off" => {
                let pause = self.join_pause;
                format!("W = {window}, {clients} clients, {bytes} B, join_pause {pause}")
            }
            (Limit::Join, None) => format!("W = {window}, {clients} clients, {bytes} B"),
        }
    }

    fn settings(&self, bench: &Bench) -> String {
        let span = SPAN.as_secs();
        let Row { bar, bytes, .. } = self;
        let limit = match self.limit {
            Limit::Write => "limit-write",
            Limit::Join => "limit-join",
        };
        let how = match self.pace {
            Some(pace) => format!("a message every {} ms", pace.as_millis()),
            None => format!("load polls every {} ms", bench.options.poll_ms),
        };
        let pairs = count(bench);
        bench.settings(&format!("bar {bar} × {limit}; {pairs} pairs of {span} s, {how}, {bytes} B"))
    }
}

fn count(bench: &Bench) -> usize {
    if bench.options.quick { 3 } else { bench.options.pairs }
}

impl Pairs {
    /// The gateway's side comes first in each pair; after each pair `between` has its turn.
    pub fn run(
        bench: &Bench,
        pace: Option<Duration>,
        sides: &mut [Side; 2],
        mut between: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Pairs> {
        let mut pairs = Pairs::default();
        for _ in 0..count(bench) {
            let all = [&mut pairs.own, &mut pairs.other];
            for ((side, all), latency) in sides.iter_mut().zip(all).zip(&mut pairs.latencies) {
                all.push(match pace {
                    Some(pace) => {
                        let messages = SPAN.as_millis() / pace.as_millis();
                        side.pace(pace, messages as u64, latency)?
                    }
                    None => side.saturate(WARM_UP, SPAN, || {})?,
                });
            }
            between()?;
        }
        for side in sides {
            check_faults(&side.crowd)?;
        }
        Ok(pairs)
    }

    /// Of the gateway's cost by the other's, pair by pair.
    pub fn ratio(&self) -> Median {
        let ratio = |(own, other): (&Measured, &Measured)| own.each_micros() / other.each_micros();
        Median::of(self.own.iter().zip(&self.other).map(ratio).collect())
    }
}

/// The ratio, and what both sides came to.
impl fmt::Display for Pairs {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Median { value, from, to } = self.ratio();
        let of = |all: &[Measured], figure: fn(&Measured) -> f64| {
            Median::of(all.iter().map(figure).collect()).value
        };
        write!(
            out,
            "**{value:.2}** ({from:.2}–{to:.2}): {:.3} µs, {:.1} frames per write by {:.3}, {:.1}",
            of(&self.own, Measured::each_micros),
            of(&self.own, |one| one.frames_per_write),
            of(&self.other, Measured::each_micros),
            of(&self.other, |one| one.frames_per_write),
        )
    }
}

impl Median {
    /// Of at least one value.
    pub fn of(mut values: Vec<f64>) -> Median {
        values.sort_by(f64::total_cmp);
        let count = values.len();
        let value = (values[(count - 1) / 2] + values[count / 2]) / 2.0;
        let rank = rank(count);
        Median { value, from: values[rank], to: values[count - 1 - rank] }
    }
}

/// How many of so many sorted values may be left away on either side, so that the median of what
/// they were drawn from lies between the rest in at least 95 of 100 cases: each value is below it
/// with one half, so what is left away follows the binomial distribution.
fn rank(count: usize) -> usize {
    let mut below = 0.0;
    let mut chance = 0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    for at in 0..count / 2 {
        below += chance;
        if below > 0.025 {
            return at.saturating_sub(1);
        }
        chance *= (count - at) as f64 / (at + 1) as f64;
    }
    (count / 2).saturating_sub(1)
}

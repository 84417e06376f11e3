//! Broadcasts at one gateway: in a closed loop, at an even pace, and what a unicast feels of them.

use std::time::Duration;

use anyhow::{Context, anyhow};
use pathcast::cli::load::clock::Clock;
use pathcast::cli::load::latency::Latency;

use crate::bench::Bench;
use crate::probe::Probe;
use crate::report::{grouped, micros_each};
use crate::side::Side;

/// Before a saturated run is measured: every socket's buffers have found their size.
const WARM_UP: Duration = Duration::from_secs(2);

/// Between two messages of a paced run.
pub const PACE: Duration = Duration::from_millis(50);

/// A closed loop with 1,000 clients.
pub fn saturated(bench: &mut Bench) -> anyhow::Result<()> {
    let mut side = side(bench, 1_000)?;
    let measured = side.saturate(warm_up(bench), bench.span(), || {})?;
    bench.tell_saturated(&measured, &side.crowd)
}

/// 20 messages a second to 1,000 clients.
pub fn paced(bench: &mut Bench) -> anyhow::Result<()> {
    let mut side = side(bench, 1_000)?;
    let count = 20 * bench.span().as_secs();
    let mut latency = Latency::new();
    let measured = side.pace(PACE, count, &mut latency)?;
    let what = format!("paced, {} clients: ", grouped(side.crowd.count() as f64));
    let bytes = bench.options.bytes;
    let settings = bench.settings(&format!("20 messages/s, {bytes} B, {count} messages"));
    let report = &mut bench.report;
    report.add(format!("{what}publish to frame read"), latency.to_string(), &settings);
    let load_each = micros_each(measured.load_cpu, measured.deliveries);
    let figure = format!("{:.2} µs (load: {load_each:.2})", measured.each_micros());
    report.add(format!("{what}gateway CPU per delivery"), figure, &settings);
    bench.tell_faults(&what, &side.crowd, &settings)
}

/// A closed loop with 15,000 clients, and unicasts on another path, alone and beside it.
pub fn unicast(bench: &mut Bench) -> anyhow::Result<()> {
    let interval = Duration::from_millis(10);
    let mut side = side(bench, 15_000)?;
    let gateway = &side.servers[0];
    let probe = Probe::open(gateway, gateway.api, bench.options.bytes, Clock::start())?;

    // The crowd is silent, but its pings are answered.
    let probing = probe.start(interval, bench.span());
    while !probing.is_finished() {
        side.crowd.turn(Duration::from_millis(20), |_| {})?;
    }
    let (probe, alone) = probing.join().map_err(|_| anyhow!("the probe panicked"))??;

    let measured = side.saturate(warm_up(bench), bench.span(), || {})?;
    bench.tell_saturated(&measured, &side.crowd)?;

    let span = bench.span();
    let mut probing = None;
    // Ends before the loop does, so that none of it is measured in silence.
    let begin = || probing = Some(probe.start(interval, span * 9 / 10));
    side.saturate(Duration::ZERO, span, begin)?;
    let probing = probing.context("a run that did not begin")?;
    let (_, beside) = probing.join().map_err(|_| anyhow!("the probe panicked"))??;

    let window = bench.options.window;
    let crowd = grouped(side.crowd.count() as f64);
    for (when, latencies, settings) in [
        ("beside a silent crowd", alone, String::new()),
        ("beside the saturated path", beside, format!(", W = {window} on the crowd's path")),
    ] {
        let settings = format!("100 unicasts/s, {crowd} clients on another path{settings}");
        let settings = bench.settings(&settings);
        let mut tell = |what: &str, latency: &Latency| {
            let what = format!("unicast {when}: request to {what}");
            bench.report.add(what, latency.to_string(), &settings);
        };
        tell("200", &latencies.answered);
        tell("frame read", &latencies.arrived);
    }
    Ok(())
}

fn side(bench: &Bench, clients: usize) -> anyhow::Result<Side> {
    let gateway = bench.gateway(&bench.setup())?;
    Side::http(vec![gateway], bench.scaled(clients), bench.load())
}

fn warm_up(bench: &Bench) -> Duration {
    if bench.options.quick { WARM_UP / 10 } else { WARM_UP }
}

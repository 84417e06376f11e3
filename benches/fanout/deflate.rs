//! Deflated messages beside plain ones: what a delivery costs, and what goes over the wire.

use std::time::Duration;

use anyhow::ensure;
use pathcast::cli::load::crowd::Crowd;
use pathcast::cli::load::publisher::{Publisher, ToPath};

use crate::bench::Bench;
use crate::pairs::{Median, Pairs, SPAN};
use crate::report::grouped;
use crate::server::{CROWD, Setup};
use crate::side::{Load, Measured, Side};
use crate::single::PACE;

const BYTES: usize = 1_000;

/// In a closed loop, and at an even pace.
pub fn deflate(bench: &mut Bench) -> anyhow::Result<()> {
    let load = Load { bytes: BYTES, ..bench.load() };
    for pace in [None, Some(PACE)] {
        let (own, other) = (side(bench, load, true)?, side(bench, load, false)?);
        let pairs = Pairs::run(bench, pace, &mut [own, other], || Ok(()))?;
        tell(bench, pace, &pairs)?;
    }
    Ok(())
}

fn side(bench: &Bench, load: Load, deflated: bool) -> anyhow::Result<Side> {
    let crowd_settings = if deflated { "compress = \"256B\"" } else { "" };
    let gateway = bench.gateway(&Setup { crowd: crowd_settings, ..bench.setup() })?;
    let mut crowd = Crowd::new(None)?;
    crowd.deflated = deflated;
    crowd.connect(gateway.clients, bench.scaled(1_000), |_| CROWD.to_owned(), 64)?;
    let outlet = ToPath::new(Publisher::connect(gateway.api, None)?, CROWD);
    let mut side = Side::gathered(vec![gateway], crowd, Box::new(outlet), load)?;
    side.fill(readings());
    Ok(side)
}

/// Text as it is sent: the same names again and again, and numbers that differ.
fn readings() -> impl Iterator<Item = u8> {
    (0_u64..).flat_map(|number| {
        // Any numbers that do not follow a rule that an encoder finds.
        let noise = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let (sensor, value) = (noise % 97, noise % 10_007);
        let reading = format!(
            "{{\"sensor\":\"hall-{sensor}\",\"value\":{}.{:02},\"unit\":\"C\",\"ok\":true}},",
            value / 100,
            value % 100
        );
        reading.into_bytes()
    })
}

fn tell(bench: &mut Bench, pace: Option<Duration>, pairs: &Pairs) -> anyhow::Result<()> {
    let each = |all: &[Measured]| {
        let bytes = |one: &Measured| one.bytes as f64 / one.deliveries as f64;
        Median::of(all.iter().map(bytes).collect()).value
    };
    let (deflated, plain) = (each(&pairs.own), each(&pairs.other));
    ensure!(deflated < plain, "nothing was deflated");
    let how = match pace {
        Some(pace) => format!("a message every {} ms", pace.as_millis()),
        None => format!("W = {}", bench.options.window),
    };
    let clients = grouped(bench.scaled(1_000) as f64);
    let settings = format!(
        "{how}, {clients} clients, {BYTES} B of JSON-like text, {} pairs of {} s",
        pairs.own.len(),
        SPAN.as_secs()
    );
    let settings = bench.settings(&settings);
    let manner = if pace.is_some() { "paced" } else { "saturated" };
    let report = &mut bench.report;
    let what = format!("deflated, {manner}: CPU per delivery by plain");
    report.add(what, pairs.to_string(), &settings);
    let figure = format!("{deflated:.0} B by {plain:.0} B");
    report.add(format!("deflated, {manner}: payload per delivery"), figure, &settings);
    Ok(())
}

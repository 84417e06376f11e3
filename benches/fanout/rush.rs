//! A storm of connects beside live traffic: how much later messages come while it lasts.
//!
//! The gateway has one processor for everything. The storm comes from a loader that runs only when
//! nobody else on the load's processor wants to, so what is told here is the gateway's own delay.

use std::time::Duration;

use anyhow::ensure;
use pathcast::cli::load::latency::Latency;

use crate::bench::{Bench, check_faults};
use crate::loader::{Job, Loader, Orders};
use crate::report::grouped;
use crate::server::ASIDE;
use crate::side::Side;
use crate::single::PACE;

/// Handshakes at once, of each storm; none is the traffic alone.
const STORMS: [usize; 3] = [0, 64, 1_000];

/// Each storm has its turn so often, so that a slow minute of the machine falls on all of them.
const ROUNDS: usize = 3;

/// Clients that connect, and leave when all of them have.
const CLIENTS: usize = 10_000;

/// What the gateway counts.
const UPGRADES: &str = r#"pathcast_handshakes_total{result="accepted"}"#;

/// What came of one storm, all its turns together.
#[derive(Debug, Default)]
struct Rush {
    latency: Latency,
    upgrades: f64,
    span: Duration,
    cpu: Duration,
}

pub fn rush(bench: &mut Bench) -> anyhow::Result<()> {
    let gateway = bench.gateway(&bench.setup())?;
    let mut side = Side::http(vec![gateway], bench.scaled(1_000), bench.load())?;
    let rounds = if bench.options.quick { 1 } else { ROUNDS };
    let messages = (20 * bench.span().as_secs()).div_ceil(rounds as u64);
    let clients = bench.scaled(CLIENTS);
    let mut rushes = STORMS.map(|_| Rush::default());
    for _ in 0..rounds {
        for (in_flight, rush) in STORMS.into_iter().zip(&mut rushes) {
            let orders = Orders {
                job: Job::Storm,
                server: side.servers[0].clients,
                path: ASIDE.to_owned(),
                clients,
                in_flight,
            };
            let is_calm = in_flight == 0;
            let cpus = bench.split.load.as_deref();
            let storm = (!is_calm).then(|| Loader::start(&orders, cpus)).transpose()?;
            if let Some(storm) = &storm {
                // It blows from here on.
                storm.open()?;
            }
            let before = side.servers[0].metric(UPGRADES)?;
            let measured = side.pace(PACE, messages, &mut rush.latency)?;
            rush.upgrades += side.servers[0].metric(UPGRADES)? - before;
            rush.cpu += measured.cpu;
            rush.span += measured.span;
            if let Some(storm) = storm {
                storm.end()?;
            }
        }
    }
    check_faults(&side.crowd)?;
    let crowd = grouped(side.crowd.count() as f64);
    for (in_flight, rush) in STORMS.into_iter().zip(&rushes) {
        let what = match in_flight {
            0 => "alone".to_owned(),
            _ => format!("beside a storm of connects, {} in flight", grouped(in_flight as f64)),
        };
        let settings = bench.settings(&format!(
            "20 messages/s to {crowd} clients; {} connect, leave, and come again",
            grouped(clients as f64)
        ));
        let what = format!("paced, {what}: publish to frame read");
        bench.report.add(what, rush.latency.to_string(), &settings);
        if in_flight > 0 {
            ensure!(rush.upgrades > 0.0, "there was no storm");
            let seconds = rush.span.as_secs_f64();
            let figure = format!(
                "{} a second; gateway busy with {:.0} % of its processor",
                grouped(rush.upgrades / seconds),
                100.0 * rush.cpu.as_secs_f64() / seconds
            );
            bench.report.add(
                format!("the storm, {in_flight} in flight: upgrades"),
                figure,
                settings,
            );
        }
    }
    Ok(())
}

//! What every row needs: servers and crowds as the options say, and a report.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use pathcast::cli::load::crowd::Crowd;

use crate::Options;
use crate::machine::Split;
use crate::report::{Report, grouped, micros_each};
use crate::server::{Door, Server, Setup};
use crate::side::{Load, Measured};

pub struct Bench {
    pub options: Options,
    pub split: Split,
    pub program: PathBuf,
    pub report: Report,
    /// Of the rows that have one: names in `docs/`, and what they hold.
    pub plots: Vec<(&'static str, String)>,
}

impl Bench {
    /// How gateways are set up where a row does not say otherwise.
    pub fn setup(&self) -> Setup {
        Setup {
            shards: self.options.shards,
            cpus: self.split.gateway.clone(),
            door: Door::Plain,
            heartbeat_s: 30,
            redis: None,
            join_pause: "off",
            crowd: "",
            webhook: None,
        }
    }

    pub fn gateway(&self, setup: &Setup) -> anyhow::Result<Server> {
        let gateway = Server::gateway(&self.program, setup)?;
        gateway.ready()?;
        eprintln!("  gateway is process {}", gateway.process.0);
        Ok(gateway)
    }

    pub fn load(&self) -> Load {
        let Options { window, bytes, .. } = self.options;
        Load { window, bytes, poll: self.poll() }
    }

    pub fn poll(&self) -> Duration {
        Duration::from_millis(self.options.poll_ms)
    }

    pub fn scaled(&self, clients: usize) -> usize {
        if self.options.quick { clients / 20 } else { clients }
    }

    pub fn span(&self) -> Duration {
        self.span_or(Duration::from_secs(10))
    }

    /// Of a row that is measured for another time where nobody says for how long.
    pub fn span_or(&self, usual: Duration) -> Duration {
        match (self.options.quick, self.options.seconds) {
            (true, _) => Duration::from_secs(1),
            (false, Some(seconds)) => Duration::from_secs(seconds),
            (false, None) => usual,
        }
    }

    /// What a figure holds for, beside what is its row's own.
    pub fn settings(&self, own: &str) -> String {
        format!("{own}; {} shard(s), {}", self.options.shards, self.split.describe())
    }

    pub fn tell_saturated(&mut self, measured: &Measured, crowd: &Crowd) -> anyhow::Result<()> {
        let Options { window, bytes, poll_ms, .. } = self.options;
        let what = format!("saturated, {} clients: ", grouped(crowd.count() as f64));
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
        let load_each = micros_each(measured.load_cpu, measured.deliveries);
        let share = |time: Duration| 100.0 * time.as_secs_f64() / seconds;
        let figure = format!("{:.3} µs (load: {load_each:.3})", measured.each_micros());
        report.add(format!("{what}gateway CPU per delivery"), figure, &settings);
        let figure = format!(
            "{:.0} %, waiting {:.0} % (load: {:.0} %, {:.0} %)",
            share(measured.cpu),
            share(measured.waited),
            share(measured.load_cpu),
            share(measured.load_waited)
        );
        report.add(format!("{what}gateway busy with one processor"), figure, &settings);
        let frames = format!("{:.1}", measured.frames_per_write);
        report.add(format!("{what}frames per write"), frames, &settings);
        self.tell_faults(&what, crowd, &settings)
    }

    pub fn tell_faults(&mut self, what: &str, crowd: &Crowd, settings: &str) -> anyhow::Result<()> {
        let tally = &crowd.tally;
        let figure = format!("{}, {}, {}", tally.lost, tally.again, tally.late);
        let what = format!("{what}lost, twice, out of order");
        self.report.add(what, figure, settings);
        check_faults(crowd)
    }
}

/// A figure of a run that lost something is none.
pub fn check_faults(crowd: &Crowd) -> anyhow::Result<()> {
    let tally = &crowd.tally;
    let (fewest, most) = crowd.messages();
    ensure!(tally.lost + tally.again + tally.late == 0, "deliveries went wrong: {tally:?}");
    // Paths take turns, so a run may have ended with some a message ahead of others.
    let ahead = u64::from(crowd.paths > 1);
    ensure!(most - fewest <= ahead, "somebody has {fewest} messages, somebody {most}");
    Ok(())
}

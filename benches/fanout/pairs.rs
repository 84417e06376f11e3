//! The gateway beside a limit: the same load on the one, then on the other, again and again.
//!
//! Machines are noisy and change their pace, so only the ratio of two runs that followed each other
//! says something, and only the median of many such pairs is told.

use std::fmt;
use std::time::Duration;

use pathcast::cli::load::crowd::Crowd;
use pathcast::cli::load::latency::Latency;

use crate::limit::Limit;
use crate::report::{grouped, micros_each};
use crate::saturation::{Measured, Saturation};

/// How long each side of a pair is measured.
const SPAN: Duration = Duration::from_secs(2);

/// Before it: the sides wake each other's caches up.
const WARM_UP: Duration = Duration::from_millis(300);

const PACE: Duration = Duration::from_millis(50);

/// What is compared, and how much dearer than its limit the gateway may be.
pub const ROWS: &[Row] = &[
    Row::saturated(16, 1_000, 100, 1.1),
    Row::saturated(1, 1_000, 100, 1.2),
    Row::saturated(4, 1_000, 100, 1.2),
    Row::saturated(64, 1_000, 100, 1.2),
    Row::saturated(256, 1_000, 100, 1.2),
    Row::saturated(16, 5_000, 100, 1.15),
    Row::saturated(16, 1_000, 10_000, 1.15),
    Row { limit: Limit::Write, pace: None, window: 1, clients: 1_000, bytes: 100, bar: 1.15 },
    Row {
        limit: Limit::Write,
        pace: Some(PACE),
        window: 16,
        clients: 1_000,
        bytes: 100,
        bar: 1.15,
    },
];

#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub limit: Limit,
    /// Between two messages; `None`: a closed loop.
    pub pace: Option<Duration>,
    pub window: usize,
    pub clients: usize,
    /// Of a message.
    pub bytes: usize,
    pub bar: f64,
}

/// What one side of a pair came to.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// CPU of the server per delivery, in microseconds.
    pub each_micros: f64,
    pub frames_per_write: f64,
}

/// All pairs of a row.
#[derive(Debug, Default)]
pub struct Pairs {
    pub own: Vec<Cost>,
    pub limit: Vec<Cost>,
}

/// A median, and the interval that holds the true one in 95 of 100 cases.
#[derive(Debug, Clone, Copy)]
pub struct Median {
    pub value: f64,
    pub from: f64,
    pub to: f64,
}

impl Cost {
    pub fn of(measured: &Measured, clients: usize) -> Cost {
        Cost {
            each_micros: micros_each(measured.cpu, measured.deliveries),
            frames_per_write: measured.frames_per_write(clients, 1),
        }
    }
}

impl Row {
    /// A closed loop, against all that waits joined into one write.
    const fn saturated(window: usize, clients: usize, bytes: usize, bar: f64) -> Row {
        Row { limit: Limit::Join, pace: None, window, clients, bytes, bar }
    }

    pub fn name(&self) -> String {
        let clients = grouped(self.clients as f64);
        let (window, bytes) = (self.window, self.bytes);
        match (self.limit, self.pace) {
            (_, Some(_)) => format!("paced, {clients} clients: ratio to limit-write"),
            (Limit::Write, None) => {
                format!("one at a time, {clients} clients: ratio to limit-write")
            }
            (Limit::Join, None) => format!(
                "saturated, W = {window}, {clients} clients, {bytes} B: ratio to limit-join"
            ),
        }
    }

    pub fn settings(&self, pairs: usize, poll_ms: u64) -> String {
        let span = SPAN.as_secs();
        let bar = self.bar;
        let how = match self.pace {
            Some(pace) => format!("a message every {} ms", pace.as_millis()),
            None => format!("load polls every {poll_ms} ms"),
        };
        format!("bar {bar}; {pairs} pairs of {span} s, {how}, {} B", self.bytes)
    }
}

impl Pairs {
    /// Runs `count` pairs; the gateway's side comes first in both.
    pub fn run(
        row: &Row,
        count: usize,
        loads: &mut [Saturation<'_>; 2],
        crowds: &mut [Crowd; 2],
    ) -> anyhow::Result<Pairs> {
        let mut pairs = Pairs::default();
        for _ in 0..count {
            let mut costs = [&mut pairs.own, &mut pairs.limit];
            for ((load, crowd), costs) in loads.iter_mut().zip(&mut *crowds).zip(&mut costs) {
                let measured = match row.pace {
                    Some(pace) => {
                        let messages = SPAN.as_millis() / pace.as_millis();
                        load.pace(crowd, pace, messages as u64, &mut Latency::new())?
                    }
                    None => load.run(crowd, WARM_UP, SPAN, || {})?,
                };
                costs.push(Cost::of(&measured, crowd.count()));
            }
        }
        Ok(pairs)
    }

    /// Of the gateway's cost by the limit's, pair by pair.
    pub fn ratio(&self) -> Median {
        let ratio = |(own, limit): (&Cost, &Cost)| own.each_micros / limit.each_micros;
        Median::of(self.own.iter().zip(&self.limit).map(ratio).collect())
    }
}

/// The ratio, and what both sides came to.
impl fmt::Display for Pairs {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Median { value, from, to } = self.ratio();
        let cost = |costs: &[Cost]| Median::of(costs.iter().map(|one| one.each_micros).collect());
        let frames =
            |costs: &[Cost]| Median::of(costs.iter().map(|one| one.frames_per_write).collect());
        write!(
            out,
            "{value:.2} ({from:.2}–{to:.2}): {:.3} µs and {:.1} frames per write by {:.3} and {:.1}",
            cost(&self.own).value,
            frames(&self.own).value,
            cost(&self.limit).value,
            frames(&self.limit).value,
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

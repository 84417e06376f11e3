//! One point of a curve: what a delivery costs there.

use crate::pairs::Median;
use crate::report::micros_each;
use crate::side::Measured;

/// The median of some runs.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// CPU of all gateways.
    pub delivery_us: f64,
    pub message_us: f64,
    pub frames_per_write: f64,
    pub deliveries_per_second: f64,
}

impl Point {
    pub fn of(runs: &[Measured]) -> Point {
        let of = |figure: fn(&Measured) -> f64| Median::of(runs.iter().map(figure).collect()).value;
        Point {
            delivery_us: of(Measured::each_micros),
            message_us: of(|one| micros_each(one.cpu, one.messages)),
            frames_per_write: of(|one| one.frames_per_write),
            deliveries_per_second: of(|one| one.deliveries as f64 / one.span.as_secs_f64()),
        }
    }
}

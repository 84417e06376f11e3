//! How long something took, many times over (HdrHistogram).

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Below it the clock's own cost shows.
const LOWEST_NS: u64 = 1_000;

/// Above it a run has failed long ago.
const HIGHEST_NS: u64 = 60_000_000_000;

const DIGITS: u8 = 3;

#[derive(Debug)]
pub struct Latency(Histogram<u64>);

impl Latency {
    pub fn new() -> Latency {
        let histogram = Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, DIGITS);
        Latency(histogram.expect("the bounds are in order"))
    }

    #[inline]
    pub fn record(&mut self, taken_ns: u64) {
        self.0.saturating_record(taken_ns);
    }

    /// Of something begun every `interval` by somebody who waits for it: what a late one kept from
    /// being begun is added as it would have been (coordinated omission).
    pub fn record_paced(&mut self, taken_ns: u64, interval: Duration) {
        let interval_ns = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        if self.0.record_correct(taken_ns, interval_ns).is_err() {
            self.record(taken_ns);
        }
    }

    /// Counts what another one has counted.
    pub fn add(&mut self, other: &Latency) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    /// What a share of them took at most, in milliseconds; 1 is all.
    pub fn at_ms(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1e6
    }
}

impl Default for Latency {
    fn default() -> Latency {
        Latency::new()
    }
}

/// In milliseconds.
impl fmt::Display for Latency {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, p999, max] = [0.5, 0.99, 0.999, 1.0].map(|share| self.at_ms(share));
        write!(out, "p50 {p50:.2}, p99 {p99:.2}, p99.9 {p999:.2}, max {max:.2} ms")
    }
}

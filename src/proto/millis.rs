//! Durations in whole milliseconds, as clocks, timers and wires count here.

use std::time::Duration;

/// What is more than a `u64` holds is all that it holds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

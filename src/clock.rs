//! The wall clock, for what people and other pods are told. Waits are measured by `Instant`.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::proto::millis::millis;

/// Unix time in milliseconds; 0 before 1970.
pub fn unix_ms() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

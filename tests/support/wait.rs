//! Waiting for something, never for the clock: each wait has a deadline and names what was awaited.

use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy two-core machine, shorter than patience.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// How often a condition that announces nothing is looked at again.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The future's output; a failed test when it takes longer than [`DEADLINE`].
#[track_caller]
pub fn within<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    within_time(DEADLINE, what, future)
}

/// As [`within`], with a deadline of its own.
#[track_caller]
pub fn within_time<F: Future>(
    deadline: Duration,
    what: &str,
    future: F,
) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(deadline, future).await {
            Ok(output) => output,
            Err(_) => panic!("{what}: not within {deadline:?} (asked at {caller})"),
        }
    }
}

/// Looks again and again until `probe` finds something; a failed test after [`DEADLINE`].
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(begun.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        poll_pause().await;
    }
}

/// The pause between two looks of a bounded loop.
pub async fn poll_pause() {
    tokio::time::sleep(POLL_INTERVAL).await;
}

/// As [`eventually`], for tests without a runtime.
#[track_caller]
pub fn until(what: &str, mut probe: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !probe() {
        assert!(begun.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

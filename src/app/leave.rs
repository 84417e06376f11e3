//! Leaving in good order, on a signal: settle, close, flush.
//!
//! While it *settles* the pod works as ever but says that it is not ready, and gives its upstreams
//! back: whoever sends clients here learns it within seconds, not at once. Then its sessions are
//! *closed*, evenly over a window and in random order, so that the others get a stream of clients and
//! no herd. At last what waits, for clients that are slow and for backends, is *flushed*.
//!
//! A second signal ends the waiting of the first two phases; a third one all of it.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::app::{App, FINISH_TIMEOUT, LEAVE_POLL, SPANS_TIMEOUT};
use crate::clock::unix_ms;
use crate::hub::command::{Farewell, Sweep, Whom};
use crate::lifecycle::{Signals, Wish};
use crate::proto::close::Cause;
use crate::proto::millis::millis;
use crate::proto::pacing::{due, share};

/// How often some sessions are closed.
const CLOSE_PAUSE: Duration = Duration::from_millis(20);

/// How often the log tells how far it is.
const TELL_PAUSE: Duration = Duration::from_secs(10);

impl App {
    /// Leaves as `wish` says, and faster when more signals come.
    pub async fn leave(self, wish: Wish, signals: &mut Signals) {
        let hurry = CancellationToken::new();
        if wish == Wish::Hurry {
            hurry.cancel();
        }
        let insist = async {
            loop {
                match signals.next().await {
                    Wish::Reload => {}
                    Wish::Leave | Wish::Hurry if hurry.is_cancelled() => return,
                    Wish::Leave | Wish::Hurry => {
                        tracing::info!("leaving faster: the sessions that are left are closed now");
                        hurry.cancel();
                    }
                }
            }
        };
        let leave = async {
            self.leave_by_phases(&hurry).await;
            self.hub.stop();
            self.tracer.finish(SPANS_TIMEOUT).await;
        };
        tokio::select! {
            () = leave => return,
            () = self.tell_progress() => {}
            () = insist => {}
        }
        tracing::warn!(sessions = self.hub.occupied(), "left at once");
        self.hub.stop();
        self.tracer.finish(Duration::ZERO).await;
    }

    async fn leave_by_phases(&self, hurry: &CancellationToken) {
        let (drain, begun) = (&self.drain, Instant::now());
        let whole = drain.settle + drain.window + drain.timeout;
        self.metrics.drain_end.set((unix_ms() + millis(whole)) as f64 / 1000.0);
        self.begin_to_leave();
        tracing::info!(sessions = self.hub.occupied(), ?drain, "leaving: not ready any more");
        tokio::select! {
            () = tokio::time::sleep(drain.settle) => {}
            () = hurry.cancelled() => {}
        }

        self.lifecycle.draining().cancel();
        tracing::info!(sessions = self.hub.occupied(), "leaving: closing the sessions");
        tokio::select! {
            biased;
            () = hurry.cancelled() => {}
            () = self.close_evenly() => {}
        }
        self.close_all();

        let flushed = async {
            // The last events of upstreams are told, too.
            let holds_any = || self.relay.upstreams().are_in_use();
            while self.hub.occupied() > 0 || holds_any() || self.has_untold() {
                tokio::time::sleep(LEAVE_POLL).await;
            }
        };
        if tokio::time::timeout(drain.timeout, flushed).await.is_err() {
            let (sessions, has_untold) = (self.hub.occupied(), self.has_untold());
            tracing::warn!(sessions, has_untold, "left in mid-farewell");
        }
        if !self.lifecycle.finish(FINISH_TIMEOUT).await {
            tracing::warn!("some requests did not end in time");
        }
        tracing::info!(seconds = begun.elapsed().as_secs_f64(), "left");
    }

    /// Closes the sessions that there are, evenly over the window, if there is one; ends with the last
    /// of them. Who came in meanwhile is left.
    async fn close_evenly(&self) {
        let (window, begun) = (self.drain.window, Instant::now());
        if window.is_zero() {
            return;
        }
        let mut left: Vec<usize> = self.hub.populations().collect();
        let (all, mut told) = (left.iter().sum(), 0);
        loop {
            let passed = begun.elapsed();
            let count = due(all, passed, window) - told;
            told += count;
            for (shard, count) in share(count, &mut left).into_iter().enumerate() {
                if count > 0 {
                    let farewell = Farewell::moved();
                    let (whom, cause) = (Whom::Next(count), Cause::Drain);
                    self.hub.sweep_shard(shard, Sweep { whom, cause, farewell });
                }
            }
            if passed >= window || self.hub.occupied() == 0 {
                return;
            }
            tokio::time::sleep(CLOSE_PAUSE).await;
        }
    }

    /// Tells how many sessions are left, for as long as it is asked.
    async fn tell_progress(&self) {
        let mut told = Instant::now();
        loop {
            let sessions = self.hub.occupied();
            self.metrics.drain_remaining.set(i64::try_from(sessions).unwrap_or(i64::MAX));
            if told.elapsed() >= TELL_PAUSE {
                told = Instant::now();
                tracing::info!(sessions, "leaving");
            }
            tokio::time::sleep(LEAVE_POLL).await;
        }
    }

    /// Whether an event waits that somebody is to be told of.
    fn has_untold(&self) -> bool {
        self.events.has_waiting() || self.stream.has_waiting() || self.webhooks.lanes.has_waiting()
    }
}

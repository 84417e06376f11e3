//! Leaving in good order, on a signal: settle, close, flush; and without a word, once others have taken the pod
//! for dead. That may happen to a pod that leaves, too: then it closes what is left, and goes.
//!
//! While it *settles* the pod works as ever but says that it is not ready, and gives its upstreams
//! back: whoever sends clients here learns it within seconds, not at once. Then its sessions are
//! *closed*, evenly over a window and in random order, so that the others get a stream of clients and
//! no herd. At last what waits, for clients that are slow and for backends, is *flushed*.
//!
//! A second signal ends the waiting of the first two phases; a third one all of it.

use std::convert::Infallible;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::hub::command::{Farewell, Sweep, Whom};
use crate::lifecycle::{Signals, Wish};
use crate::proto::close::Cause;
use crate::proto::millis::millis;
use crate::proto::pacing::{due, share};
use crate::proto::paths::Paths;
use crate::upstream;

/// How long requests in flight may take when the sessions are gone.
const FINISH_TIMEOUT: Duration = Duration::from_secs(6);

/// How long the last spans may take to the collector, when everything else has ended.
const SPANS_TIMEOUT: Duration = Duration::from_secs(3);

/// How often leaving looks whether the last session has gone.
const LEAVE_POLL: Duration = Duration::from_millis(10);

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
        // Their ends are told, so nothing holds its sessions here, and nothing of them may be told.
        let heed_claim = async {
            self.lifecycle.claimed().cancelled().await;
            tracing::error!(
                sessions = self.hub.occupied(),
                "this pod was away for longer than its lease and taken for dead while it left: its \
                 sessions end now"
            );
            self.ears.mute();
            hurry.cancel();
            std::future::pending::<Infallible>().await
        };
        let leave = async {
            self.leave_by_phases(&hurry).await;
            self.hub.stop();
            self.tracer.finish(SPANS_TIMEOUT).await;
        };
        tokio::select! {
            () = leave => return,
            never = heed_claim => match never {},
            never = self.tell_progress() => match never {},
            () = insist => {}
        }
        tracing::warn!(sessions = self.hub.occupied(), "left at once");
        self.hub.stop();
        self.tracer.finish(Duration::ZERO).await;
    }

    async fn leave_by_phases(&self, hurry: &CancellationToken) {
        let (drain, begun) = (&self.drain, Instant::now());
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

        // The last events of upstreams are told, too; by a pod that may tell any.
        let owes_any = || self.relay.upstreams().are_in_use() || self.has_untold();
        let is_claimed = || self.lifecycle.claimed().is_cancelled();
        self.finish(|| self.hub.occupied() > 0 || (owes_any() && !is_claimed())).await;
        tracing::info!(seconds = begun.elapsed().as_secs_f64(), "left");
    }

    /// Ends the sessions of a pod that was taken for dead, without a word of it to anybody else, and
    /// then the pod. Paths and upstreams as they were last configured, for the next one; `None` if there is to be
    /// none, as a signal says. A second signal ends the waiting.
    pub async fn give_up(self, signals: &mut Signals) -> Option<(Paths, Vec<upstream::Config>)> {
        let sessions = self.hub.occupied();
        tracing::error!(
            sessions,
            "this pod was away for longer than its lease and taken for dead: its sessions end, and \
             it begins anew under another id"
        );
        let mut is_wanted = true;
        let mut give_up = pin!(async {
            self.ears.mute();
            self.begin_to_leave();
            self.lifecycle.draining().cancel();
            self.close_all();
            self.finish(|| self.hub.occupied() > 0).await;
            self.hub.stop();
            self.tracer.finish(SPANS_TIMEOUT).await;
        });
        loop {
            tokio::select! {
                () = &mut give_up => break,
                wish = signals.next() => match wish {
                    // The next one reads it again.
                    Wish::Reload => {}
                    Wish::Leave | Wish::Hurry if is_wanted => {
                        tracing::info!("leaving: no other pod begins in its place");
                        is_wanted = false;
                    }
                    Wish::Leave | Wish::Hurry => break,
                },
            }
        }
        is_wanted.then(|| (Paths::clone(&self.relay.paths()), self.upstreams.configs()))
    }

    /// From now on this pod is not ready.
    fn begin_to_leave(&self) {
        self.metrics.draining.set(1);
        self.lifecycle.leaving().cancel();
    }

    /// Every session that is left is told when to come back.
    fn close_all(&self) {
        let farewell = Farewell::RetryWithin { ms: millis(self.drain.retry_after) };
        self.hub.sweep(&Sweep { whom: Whom::Everybody, cause: Cause::Drain, farewell });
    }

    /// Waits for what is under way, and then for all tasks, neither of it for ever.
    async fn finish(&self, is_busy: impl Fn() -> bool) {
        let begun = Instant::now();
        let idle = async {
            while is_busy() {
                self.metrics.drain_flush_seconds.set(begun.elapsed().as_secs_f64());
                tokio::time::sleep(LEAVE_POLL).await;
            }
        };
        if tokio::time::timeout(self.drain.timeout, idle).await.is_err() {
            let (sessions, has_untold) = (self.hub.occupied(), self.has_untold());
            tracing::warn!(sessions, has_untold, "left in mid-farewell");
        }
        if !self.lifecycle.finish(FINISH_TIMEOUT).await {
            tracing::warn!("some requests did not end in time");
        }
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
    async fn tell_progress(&self) -> Infallible {
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

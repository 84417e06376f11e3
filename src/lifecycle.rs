//! Coming and going: tracked tasks, the steps of leaving, signals.
//!
//! This is the only place that spawns a task, so that every task is known and awaited at the end.
//! A task that runs until the pod leaves watches [`Lifecycle::leaving`], [`Lifecycle::draining`] or
//! [`Lifecycle::closing`], which come in this order; nothing is aborted.

use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Lifecycle {
    tasks: TaskTracker,
    leaving: CancellationToken,
    draining: CancellationToken,
    closing: CancellationToken,
    claimed: CancellationToken,
}

impl Lifecycle {
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Cancelled when the pod is to leave: others are told, what can move at once moves, and clients
    /// that come all the same are taken.
    pub fn leaving(&self) -> &CancellationToken {
        &self.leaving
    }

    /// Cancelled when the sessions begin to be closed: accept nothing new.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Cancelled when the sessions have been told: finish and end.
    pub fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Cancelled when another pod has told the ends of this one's sessions: no event of them may leave
    /// any more, and this pod has to begin anew under another id.
    pub fn claimed(&self) -> &CancellationToken {
        &self.claimed
    }

    /// Waits for every task, at most `limit`; whether all of them ended.
    pub async fn finish(&self, limit: Duration) -> bool {
        self.closing.cancel();
        self.tasks.close();
        tokio::time::timeout(limit, self.tasks.wait()).await.is_ok()
    }
}

/// What the world outside asks of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// SIGTERM: leave in good order.
    Leave,
    /// SIGINT: leave without delay; somebody sits there and waits.
    Hurry,
    /// SIGHUP: read the configuration again.
    Reload,
}

#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// From now on the three signals are ours.
    pub fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Cancel-safe.
    pub async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Leave,
            _ = self.interrupt.recv() => Wish::Hurry,
            _ = self.hang_up.recv() => Wish::Reload,
        }
    }
}

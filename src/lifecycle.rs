//! Stub: drain phases and task tracking.

use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone, Default)]
pub struct Lifecycle {
    draining: CancellationToken,
    closing: CancellationToken,
}

impl Lifecycle {
    pub fn spawn<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        tokio::spawn(future);
    }

    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    pub fn closing(&self) -> CancellationToken {
        self.closing.clone()
    }
}

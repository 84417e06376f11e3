//! Connections that ask nothing: how long each may, and how many at once.
//!
//! Anybody can connect and keep silent, so silence never takes the place of a request: beyond a
//! bound, whoever has been silent longest has to go. A connection is silent until the head of a
//! request is complete, and again when its answer has been given.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// From the last answer, or from the beginning, to the first byte of a request.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// From the first byte of a request to the end of its head.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// All connections that are silent now. Cheap to clone.
#[derive(Clone)]
pub struct Silent(Arc<Mutex<Queue>>);

struct Queue {
    connections_max: usize,
    next: u64,
    /// In the order in which they fell silent.
    waiting: BTreeMap<u64, CancellationToken>,
}

impl Silent {
    pub fn new(connections_max: usize) -> Silent {
        Silent(Arc::new(Mutex::new(Queue { connections_max, next: 0, waiting: BTreeMap::new() })))
    }

    /// Takes a connection in, silent as it is at first.
    pub fn connect(&self) -> Connection {
        let gone = CancellationToken::new();
        let phase = Mutex::new(Phase { place: Some(self.enter(&gone)), deadline: idle() });
        let shared = Shared { silent: self.clone(), gone, phase, changed: Notify::new() };
        Connection(Arc::new(shared))
    }

    fn enter(&self, gone: &CancellationToken) -> u64 {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = queue.next;
        queue.next += 1;
        queue.waiting.insert(place, gone.clone());
        if queue.waiting.len() > queue.connections_max
            && let Some((_, oldest)) = queue.waiting.pop_first()
        {
            oldest.cancel();
        }
        place
    }

    fn leave(&self, place: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).waiting.remove(&place);
    }
}

/// One connection. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Connection(Arc<Shared>);

struct Shared {
    silent: Silent,
    /// Cancelled when it has to go.
    gone: CancellationToken,
    phase: Mutex<Phase>,
    changed: Notify,
}

struct Phase {
    /// Among the silent ones; `None` during a request.
    place: Option<u64>,
    /// When the silence has lasted too long.
    deadline: Deadline,
}

#[derive(Clone, Copy)]
enum Deadline {
    /// Not a byte has come.
    Idle(Instant),
    /// Of a head that has begun.
    Head(Instant),
}

fn idle() -> Deadline {
    Deadline::Idle(Instant::now() + IDLE_TIMEOUT)
}

impl Connection {
    /// Bytes came.
    pub fn hear(&self) {
        let mut phase = self.phase();
        if phase.place.is_some() && matches!(phase.deadline, Deadline::Idle(_)) {
            phase.deadline = Deadline::Head(Instant::now() + HEAD_TIMEOUT);
            self.0.changed.notify_one();
        }
    }

    /// A head is complete: no silence until what comes back is dropped, which is when the whole
    /// answer has been given.
    pub fn ask(&self) -> Asking {
        if let Some(place) = self.phase().place.take() {
            self.0.silent.leave(place);
        }
        self.0.changed.notify_one();
        Asking(self.clone())
    }

    /// Ends when the silence has lasted too long, or there is too much of it.
    pub async fn overdue(&self) {
        loop {
            let deadline = {
                let phase = self.phase();
                phase.place.map(|_| match phase.deadline {
                    Deadline::Idle(deadline) | Deadline::Head(deadline) => deadline,
                })
            };
            let late = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = late => return,
                () = self.0.gone.cancelled() => return,
                () = self.0.changed.notified() => {}
            }
        }
    }

    fn phase(&self) -> std::sync::MutexGuard<'_, Phase> {
        self.0.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let phase = self.phase.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = phase.place {
            self.silent.leave(place);
        }
    }
}

/// A request that has not been answered completely.
pub struct Asking(Connection);

impl Drop for Asking {
    fn drop(&mut self) {
        let Connection(shared) = &self.0;
        let place = shared.silent.enter(&shared.gone);
        let before =
            std::mem::replace(&mut *self.0.phase(), Phase { place: Some(place), deadline: idle() });
        // Requests of one connection follow each other, so there is none; but none is lost either.
        if let Some(place) = before.place {
            shared.silent.leave(place);
        }
        shared.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn has_to_go(connection: &Connection) -> bool {
        connection.overdue().now_or_never().is_some()
    }

    #[tokio::test]
    async fn whoever_was_silent_longest_goes_first() {
        let silent = Silent::new(2);
        let (one, two) = (silent.connect(), silent.connect());
        let asking = one.ask();
        let three = silent.connect();
        assert!(![&one, &two, &three].into_iter().any(has_to_go), "two of them are silent");
        drop(asking);
        assert!(has_to_go(&two), "it has waited since before the first one's answer");
        assert!(!has_to_go(&one) && !has_to_go(&three));
        drop(three);
        let four = silent.connect();
        assert!(!has_to_go(&one) && !has_to_go(&four), "whoever has left holds no place");
        let _asking = (one.ask(), four.ask());
        let _more = [silent.connect(), silent.connect(), silent.connect()];
        assert!(!has_to_go(&one) && !has_to_go(&four), "a request is never in the way");
    }

    #[tokio::test]
    async fn a_head_that_has_begun_has_less_time() {
        let connection = Silent::new(1).connect();
        let left = || match connection.phase().deadline {
            Deadline::Idle(at) | Deadline::Head(at) => at - Instant::now(),
        };
        assert!(left() > HEAD_TIMEOUT);
        connection.hear();
        let first = left();
        assert!(first <= HEAD_TIMEOUT);
        connection.hear();
        assert!(left() <= first, "more of it gives no more time");
        drop(connection.ask());
        assert!(left() > HEAD_TIMEOUT);
    }
}

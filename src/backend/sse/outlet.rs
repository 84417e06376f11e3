//! What waits for one listener: bounded in events and in bytes, and whoever puts something there never
//! waits. What finds no room is missed, and the listener is told so in its place, at the latest when
//! it has heard everything before it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::backend::sse::heard::{Event, Heard};
use crate::proto::telling::Missed;

/// Events that wait for one listener.
const EVENTS_MAX: usize = 8 * 1024;

/// The same in bytes.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// Where events are put.
pub struct Outlet {
    events: mpsc::Sender<Heard>,
    arrears: Arc<Arrears>,
}

/// Where the listener takes them.
pub struct Inlet {
    events: mpsc::Receiver<Heard>,
    arrears: Arc<Arrears>,
}

/// How far a listener is behind.
#[derive(Default)]
struct Arrears {
    /// Of the events that wait for it, and of those it has not released.
    bytes: AtomicUsize,
    /// Events missing behind those that wait, which it has not been told. Held while an event is
    /// put behind them, and while the listener sees that nothing waits before them.
    missed: Mutex<Option<Missed>>,
}

/// The two ends for a new listener.
pub fn pair() -> (Outlet, Inlet) {
    let (sender, receiver) = mpsc::channel(EVENTS_MAX);
    let arrears = Arc::<Arrears>::default();
    (Outlet { events: sender, arrears: arrears.clone() }, Inlet { events: receiver, arrears })
}

impl Arrears {
    fn missed(&self) -> MutexGuard<'_, Option<Missed>> {
        // Each change is one assignment; a panic leaves it whole.
        self.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outlet {
    /// Whether there was room for it.
    pub fn put(&self, event: &Arc<Event>) -> bool {
        let bytes = event.json.len();
        let before = self.arrears.bytes.load(Ordering::SeqCst);
        if before > 0 && before + bytes > BYTES_MAX {
            return false;
        }
        let mut missed = self.arrears.missed();
        // Only when there is room for the event behind it: one gap tells all that are missing.
        if missed.is_some() {
            if self.events.capacity() < 2 {
                return false;
            }
            self.tell(&mut missed);
        }
        self.arrears.bytes.fetch_add(bytes, Ordering::SeqCst);
        let is_sent = self.events.try_send(Heard::Event(event.clone())).is_ok();
        if !is_sent {
            self.arrears.bytes.fetch_sub(bytes, Ordering::SeqCst);
        }
        is_sent
    }

    /// The listener will be told that something is missing here.
    pub fn miss(&self, more: Missed) {
        let mut missed = self.arrears.missed();
        *missed = Some(missed.map_or(more, |before| before.and(more)));
        // The listener may have taken the last event meanwhile, and wait.
        if self.events.capacity() == self.events.max_capacity() {
            self.tell(&mut missed);
        }
    }

    fn tell(&self, missed: &mut Option<Missed>) {
        if let Some(gap) = *missed
            && self.events.try_send(Heard::Gap(gap)).is_ok()
        {
            *missed = None;
        }
    }

    /// Whether something was put that the listener has not released yet.
    pub fn is_behind(&self) -> bool {
        self.arrears.bytes.load(Ordering::SeqCst) > 0
    }

    pub fn is_closed(&self) -> bool {
        self.events.is_closed()
    }
}

impl Inlet {
    /// The next one; `None` when there is no outlet any more. An event goes on counting as waiting until it
    /// is released. Cancel-safe.
    pub async fn take(&mut self) -> Option<Heard> {
        // What was missed last is told when everything before it was heard, not only when another
        // event comes.
        if let Some(missed) = self.take_missed() {
            return Some(Heard::Gap(missed));
        }
        self.events.recv().await
    }

    fn take_missed(&self) -> Option<Missed> {
        let mut missed = self.arrears.missed();
        missed.take_if(|_| self.events.is_empty())
    }

    /// An event that was taken waits no more. `bytes`: of its JSON.
    pub fn release(&self, bytes: usize) {
        self.arrears.bytes.fetch_sub(bytes, Ordering::SeqCst);
    }

    pub fn close(&mut self) {
        self.events.close();
    }
}

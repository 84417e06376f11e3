//! What other pods tell of their sessions, to the listeners of this one.
//!
//! Kept for each configured path that somebody here listens to. What is told goes to the listeners in
//! the order in which it came; what is missing in it is told in its place. After the broker was away
//! nothing is told to be missing until all pods tell again: whoever then looks for himself what he
//! missed finds it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::backend::sse::{Event, Origin, Sse};
use crate::proto::millis::millis;
use crate::proto::session_id::PodId;
use crate::proto::telling::{Hearing, Missed, Place, Told, What};

pub struct Hearsay {
    sse: Arc<Sse>,
    begun: Instant,
    heard: Mutex<HashMap<Arc<str>, Heard>>,
    /// Something was torn.
    torn: Notify,
}

#[derive(Default)]
struct Heard {
    listeners: usize,
    /// For how many of them pods are being asked to tell.
    asking: usize,
    /// How often the broker was away since this was last whole.
    tears: u64,
    hearing: Hearing,
}

impl Hearsay {
    pub fn new(sse: Arc<Sse>) -> Hearsay {
        let (heard, torn) = (Mutex::default(), Notify::new());
        Hearsay { sse, begun: Instant::now(), heard, torn }
    }

    /// A listener comes, and pods are about to be asked for it.
    pub fn enter(&self, configured: &Arc<str>) {
        let mut heard = self.lock();
        let heard = heard.entry(configured.clone()).or_default();
        heard.listeners += 1;
        heard.asking += 1;
    }

    /// They have been asked.
    pub fn settle(&self, configured: &str) {
        if let Some(heard) = self.lock().get_mut(configured) {
            heard.asking -= 1;
        }
    }

    /// A listener leaves: one call for each of `enter`, after `settle`.
    pub fn leave(&self, configured: &str) {
        let mut all = self.lock();
        if let Some(heard) = all.get_mut(configured) {
            heard.listeners -= 1;
            if heard.listeners == 0 {
                all.remove(configured);
            }
        }
    }

    /// A pod tells.
    pub fn told(&self, configured: &str, told: Told) {
        let mut all = self.lock();
        let Some((configured, _)) = all.get_key_value(configured) else { return };
        let configured = configured.clone();
        let Some(heard) = all.get_mut(&configured) else { return };
        let is_asking = heard.asking > 0 || heard.tears > 0;
        if let Some(missed) = heard.hearing.told(&told, is_asking, self.now_ms()) {
            self.sse.miss(&configured, missed);
        }
        if let What::Event { id, kind, path, json } = told.what {
            self.sse.offer(Event { id, kind, json, path, configured, origin: Origin::Far });
        }
    }

    /// A pod that was asked says that it tells from there on.
    pub fn answered(&self, configured: &Arc<str>, pod: PodId, place: Place) {
        let mut all = self.lock();
        let Some(heard) = all.get_mut(configured) else { return };
        if let Some(missed) = heard.hearing.answered(pod, place, self.now_ms()) {
            self.sse.miss(configured, missed);
        }
    }

    /// The broker was away: what is heard again begins anew.
    pub fn tear(&self) {
        for heard in self.lock().values_mut() {
            heard.tears += 1;
            heard.hearing = Hearing::default();
        }
        self.torn.notify_one();
    }

    /// Resolves when something may be torn.
    pub async fn torn(&self) {
        self.torn.notified().await;
    }

    /// What is torn, and how often.
    pub fn tears(&self) -> Vec<(Arc<str>, u64)> {
        let all = self.lock();
        let torn = all.iter().filter(|(_, heard)| heard.tears > 0);
        torn.map(|(configured, heard)| (configured.clone(), heard.tears)).collect()
    }

    /// All pods have been asked again after so many tears: now the listeners are told.
    pub fn mend(&self, configured: &Arc<str>, tears: u64) {
        let mut all = self.lock();
        let torn = all.get_mut(configured).filter(|heard| heard.tears == tears);
        if let Some(heard) = torn {
            heard.tears = 0;
            self.sse.miss(configured, Missed::Uncounted);
        }
    }

    /// Listeners are told of pods that have become silent.
    pub fn miss_silent(&self) {
        let now_ms = self.now_ms();
        for (configured, heard) in self.lock().iter_mut() {
            if heard.hearing.forget_silent(now_ms) {
                self.sse.miss(configured, Missed::Uncounted);
            }
        }
    }

    fn now_ms(&self) -> u64 {
        millis(self.begun.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Heard>> {
        // Each change is whole before the next line can panic.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

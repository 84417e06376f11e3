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

use crate::backend::sse::Sse;
use crate::backend::sse::heard::{Event, Origin};
use crate::proto::millis::millis;
use crate::proto::session_id::PodId;
use crate::proto::telling::{Audience, Hearing, Missed, Place, Told, What};

pub struct Hearsay {
    sse: Arc<Sse>,
    begun: Instant,
    subjects: Mutex<HashMap<Arc<str>, Subject>>,
    /// Something was torn.
    torn: Notify,
}

/// A configured path that somebody here listens to.
#[derive(Default)]
struct Subject {
    listeners: usize,
    /// For how many of them pods are being asked to tell.
    asking: usize,
    /// How often the broker was away since this was last whole.
    tears: u64,
    hearing: Hearing,
}

impl Subject {
    fn audience(&self) -> Audience {
        // After a tear everybody is told of a gap when all have been asked.
        match self.asking == self.listeners || self.tears > 0 {
            true => Audience::New,
            false => Audience::Settled,
        }
    }
}

impl Hearsay {
    pub fn new(sse: Arc<Sse>) -> Hearsay {
        let (subjects, torn) = (Mutex::default(), Notify::new());
        Hearsay { sse, begun: Instant::now(), subjects, torn }
    }

    /// A listener comes, and pods are about to be asked for it.
    pub fn enter(&self, configured: &Arc<str>) {
        let mut subject = self.lock();
        let subject = subject.entry(configured.clone()).or_default();
        subject.listeners += 1;
        subject.asking += 1;
    }

    /// They have been asked.
    pub fn settle(&self, configured: &str) {
        if let Some(subject) = self.lock().get_mut(configured) {
            subject.asking -= 1;
        }
    }

    /// A listener leaves: one call for each of `enter`, after `settle`.
    pub fn leave(&self, configured: &str) {
        let mut all = self.lock();
        if let Some(subject) = all.get_mut(configured) {
            subject.listeners -= 1;
            if subject.listeners == 0 {
                all.remove(configured);
            }
        }
    }

    /// A pod tells.
    pub fn told(&self, configured: &str, told: Told) {
        let mut all = self.lock();
        let Some((configured, _)) = all.get_key_value(configured) else { return };
        let configured = configured.clone();
        let Some(subject) = all.get_mut(&configured) else { return };
        let audience = subject.audience();
        if let Some(missed) = subject.hearing.told(&told, audience, self.now_ms()) {
            self.sse.miss(&configured, missed);
        }
        if let What::Event { id, kind, path, json } = told.what {
            self.sse.offer(Event { id, kind, json, path, configured, origin: Origin::Far });
        }
    }

    /// A pod that was asked says that it tells from there on.
    pub fn answered(&self, configured: &Arc<str>, pod: PodId, place: Place) {
        let mut all = self.lock();
        let Some(subject) = all.get_mut(configured) else { return };
        let audience = subject.audience();
        if let Some(missed) = subject.hearing.answered(pod, place, audience, self.now_ms()) {
            self.sse.miss(configured, missed);
        }
    }

    /// The broker was away: what is heard again begins anew.
    pub fn tear(&self) {
        for subject in self.lock().values_mut() {
            subject.tears += 1;
            subject.hearing = Hearing::default();
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
        let torn = all.iter().filter(|(_, subject)| subject.tears > 0);
        torn.map(|(configured, subject)| (configured.clone(), subject.tears)).collect()
    }

    /// All pods have been asked again after so many tears: now the listeners are told.
    pub fn mend(&self, configured: &Arc<str>, tears: u64) {
        let mut all = self.lock();
        let torn = all.get_mut(configured).filter(|subject| subject.tears == tears);
        if let Some(subject) = torn {
            subject.tears = 0;
            self.sse.miss(configured, Missed::Uncounted);
        }
    }

    /// Listeners are told of pods that have become silent.
    pub fn miss_silent(&self) {
        let now_ms = self.now_ms();
        for (configured, subject) in self.lock().iter_mut() {
            if subject.hearing.forget_silent(now_ms) {
                self.sse.miss(configured, Missed::Uncounted);
            }
        }
    }

    fn now_ms(&self) -> u64 {
        millis(self.begun.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Subject>> {
        // Each change is whole before the next line can panic.
        self.subjects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::sse::heard::{Heard, Topic};
    use crate::lifecycle::Lifecycle;
    use crate::metrics::Metrics;
    use crate::proto::event::Kind;
    use crate::proto::path::Path;

    const POD: PodId = PodId([1; 8]);

    fn event(stretch: u64, number: u64) -> Told {
        let path = Path::parse("/ws").expect("a path");
        let (id, json) = (format!("x-{number}"), bytes::Bytes::new());
        let what = What::Event { id, kind: Kind::Message, path, json };
        Told { from: POD, place: Place { stretch, number }, what }
    }

    #[tokio::test]
    async fn whoever_listened_before_is_told_what_the_next_listeners_asking_finds() {
        let lifecycle = Lifecycle::default();
        let metrics = Arc::new(Metrics::new().expect("families have names of their own"));
        let sse = Arc::new(Sse::start(&lifecycle, metrics));
        let (hearsay, ws) = (Hearsay::new(sse.clone()), Arc::<str>::from("/ws"));
        hearsay.enter(&ws);
        let mut first = sse.listen(Topic::Configured(ws.clone()));
        hearsay.settle(&ws);
        // A pod that nobody had asked has told nobody of what happened there.
        hearsay.enter(&ws);
        hearsay.answered(&ws, POD, Place { stretch: 1, number: 0 });
        hearsay.told(&ws, event(1, 0));
        hearsay.settle(&ws);
        assert!(matches!(first.next().await, Some(Heard::Gap(Missed::Uncounted))));
        assert!(matches!(first.next().await, Some(Heard::Event(_))));
        // One that was asked for the first listener is known to the second.
        hearsay.enter(&ws);
        hearsay.answered(&ws, POD, Place { stretch: 1, number: 1 });
        hearsay.settle(&ws);
        hearsay.told(&ws, event(1, 1));
        assert!(matches!(first.next().await, Some(Heard::Event(_))));
        // All who are asking at once have heard nothing before.
        let other = Arc::<str>::from("/other");
        hearsay.enter(&other);
        hearsay.enter(&other);
        let mut second = sse.listen(Topic::Configured(other.clone()));
        hearsay.answered(&other, POD, Place { stretch: 2, number: 5 });
        hearsay.told(&other, event(2, 5));
        assert!(matches!(second.next().await, Some(Heard::Event(_))));
    }
}

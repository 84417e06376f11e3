//! Which of this pod's configured paths other pods listen to, and the telling of their events.
//!
//! A tap is opened by a pod that asks, or when its key is seen in Redis, and lapses when neither
//! happened for a while. While it is open a task takes the events of own sessions, as any listener
//! would, and tells them in their order, several at a time. What it is too slow for is lost and
//! counted, so that those who hear see the hole.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::backend::sse::heard::{Heard, Topic};
use crate::backend::sse::{Listener, Sse};
use crate::broker::Broker;
use crate::lifecycle::Lifecycle;
use crate::proto::telling::{BEAT_MS, Missed, Place, What};
use crate::relay::Relay;

/// How long a tap stays open for a pod that asked: its key says more until then.
const ASKED_FOR: Duration = Duration::from_secs(10);

/// Events of one path on their way at once, and their bytes: a broadcast waits for no more.
const TELLING_MAX: usize = 256;
const TELLING_BYTES_MAX: usize = 1 << 20;

pub struct Taps {
    sse: Arc<Sse>,
    open: Mutex<HashMap<Arc<str>, Open>>,
    begun: mpsc::UnboundedSender<Tap>,
    /// The next stretch; 0 is what has nothing before it.
    stretch: AtomicU64,
    has_looked: AtomicBool,
}

struct Open {
    until: Instant,
    stretch: u64,
    number: Arc<AtomicU64>,
}

/// One that was opened, for the task that tells.
pub struct Tap {
    configured: Arc<str>,
    listener: Listener,
    stretch: u64,
    /// How many events were told or lost.
    number: Arc<AtomicU64>,
}

impl Taps {
    /// The receiver: what is opened, to be told. Bounded by the number of configured paths.
    pub fn new(sse: Arc<Sse>) -> (Taps, mpsc::UnboundedReceiver<Tap>) {
        let (begun, receiver) = mpsc::unbounded_channel();
        let taps = Taps {
            sse,
            open: Mutex::default(),
            begun,
            stretch: AtomicU64::new(1),
            has_looked: AtomicBool::new(false),
        };
        (taps, receiver)
    }

    /// A pod asked: from now on everything is told. Where that begins.
    pub fn ask(&self, configured: &Arc<str>, now: Instant) -> Place {
        let stretch = || self.stretch.fetch_add(1, Ordering::Relaxed);
        self.keep_open(&mut self.lock(), configured, now + ASKED_FOR, stretch)
    }

    /// What was seen in Redis: tapped paths, and for how long. The first look is before this pod can
    /// have had any session.
    pub fn look(&self, taps: &[(Arc<str>, Duration)], now: Instant) {
        let is_first = !self.has_looked.swap(true, Ordering::Relaxed);
        let stretch = || match is_first {
            true => 0,
            false => self.stretch.fetch_add(1, Ordering::Relaxed),
        };
        let mut open = self.lock();
        for (configured, left) in taps {
            self.keep_open(&mut open, configured, now + *left, stretch);
        }
    }

    fn keep_open(
        &self,
        open: &mut HashMap<Arc<str>, Open>,
        configured: &Arc<str>,
        until: Instant,
        stretch: impl Fn() -> u64,
    ) -> Place {
        let tap = open.entry(configured.clone()).or_insert_with(|| {
            let (stretch, number) = (stretch(), Arc::new(AtomicU64::new(0)));
            let listener = self.sse.listen(Topic::Own(configured.clone()));
            let configured = configured.clone();
            // Nobody tells any more when the pod closes.
            let _ = self.begun.send(Tap { configured, listener, stretch, number: number.clone() });
            Open { until, stretch, number }
        });
        tap.until = tap.until.max(until);
        Place { stretch: tap.stretch, number: tap.number.load(Ordering::Relaxed) }
    }

    /// Whether nobody wants it any more; then it is open no more.
    fn has_lapsed(&self, configured: &Arc<str>, now: Instant) -> bool {
        let mut open = self.lock();
        let has_lapsed = open.get(configured).is_none_or(|tap| tap.until < now);
        if has_lapsed {
            open.remove(configured);
        }
        has_lapsed
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Open>> {
        // Each change is one call; a panic leaves it whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Relay {
    /// Tells what is tapped, until the pod closes.
    pub async fn tell_taps(
        self: Arc<Self>,
        mut begun: mpsc::UnboundedReceiver<Tap>,
        lifecycle: Lifecycle,
    ) {
        loop {
            let tap = tokio::select! {
                tap = begun.recv() => tap,
                () = lifecycle.closing().cancelled() => return,
            };
            let Some(mut tap) = tap else { return };
            let (relay, closing) = (self.clone(), lifecycle.closing().clone());
            lifecycle.spawn(async move {
                tokio::select! {
                    () = tap.tell(&*relay.broker, &relay.taps) => {}
                    () = closing.cancelled() => {
                        // What was waiting has been told: leaving waits for that.
                        drop(relay.broker.tell(&tap.configured, tap.place(0), What::Last));
                    }
                }
            });
        }
    }
}

impl Tap {
    /// Until it lapses.
    async fn tell(&mut self, broker: &dyn Broker, taps: &Taps) {
        let mut beat = tokio::time::interval(Duration::from_millis(BEAT_MS));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut answers = FuturesUnordered::new();
        let mut telling_bytes = 0;
        loop {
            let has_room = answers.len() < TELLING_MAX && telling_bytes < TELLING_BYTES_MAX;
            tokio::select! {
                Some(bytes) = answers.next() => {
                    telling_bytes -= bytes;
                    self.listener.release(bytes);
                }
                heard = self.listener.take(), if has_room => match heard {
                    Some(Heard::Event(event)) => {
                        let bytes = event.json.len();
                        let what = What::Event {
                            id: event.id.clone(),
                            kind: event.kind,
                            path: event.path.clone(),
                            json: event.json.clone(),
                        };
                        let told = broker.tell(&self.configured, self.place(1), what);
                        telling_bytes += bytes;
                        answers.push(async move {
                            // What did not arrive is a hole in the numbers.
                            let _ = told.await;
                            bytes
                        });
                    }
                    Some(Heard::Gap(Missed::Counted(count))) => {
                        self.place(count);
                    }
                    Some(Heard::Gap(Missed::Uncounted)) => {
                        self.begin_anew(taps);
                        drop(broker.tell(&self.configured, self.place(0), What::Beat));
                    }
                    // A listener hears as long as the pod is open.
                    None => {}
                },
                _ = beat.tick() => {
                    if taps.has_lapsed(&self.configured, Instant::now()) {
                        return;
                    }
                    drop(broker.tell(&self.configured, self.place(0), What::Beat));
                }
            }
        }
    }

    /// Nobody knows how many own events were lost: what comes now is of another stretch.
    fn begin_anew(&mut self, taps: &Taps) {
        let mut open = taps.lock();
        self.stretch = taps.stretch.fetch_add(1, Ordering::Relaxed);
        self.number.store(0, Ordering::Relaxed);
        if let Some(open) = open.get_mut(&self.configured) {
            open.stretch = self.stretch;
        }
    }

    /// The place of the next events, so many.
    fn place(&self, count: u64) -> Place {
        Place { stretch: self.stretch, number: self.number.fetch_add(count, Ordering::Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn taps() -> (Taps, mpsc::UnboundedReceiver<Tap>, Arc<Sse>) {
        let metrics = Arc::new(Metrics::new().expect("families have names of their own"));
        let sse = Arc::new(Sse::start(&Lifecycle::default(), metrics));
        let (taps, begun) = Taps::new(sse.clone());
        (taps, begun, sse)
    }

    #[tokio::test]
    async fn a_tap_is_open_while_somebody_asks_or_its_key_is_seen() {
        let (taps, mut begun, _sse) = taps();
        let (ws, start): (Arc<str>, _) = ("/ws".into(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        taps.look(&[], start);
        assert_eq!(taps.ask(&ws, start), Place { stretch: 1, number: 0 });
        let tap = begun.recv().await.expect("a tap");
        assert_eq!(tap.place(3), Place { stretch: 1, number: 0 });
        assert_eq!(taps.ask(&ws, start), Place { stretch: 1, number: 3 });
        assert!(!taps.has_lapsed(&ws, at(10)));
        taps.look(&[(ws.clone(), Duration::from_secs(7))], at(10));
        assert!(!taps.has_lapsed(&ws, at(17)));
        assert!(taps.has_lapsed(&ws, at(18)));
        assert!(begun.try_recv().is_err());
        // What happened since is not known.
        taps.look(&[(ws.clone(), Duration::from_secs(7))], at(20));
        assert_eq!(begun.recv().await.expect("a tap").stretch, 2);
    }

    #[tokio::test]
    async fn what_is_told_after_an_unknown_loss_is_of_another_stretch() {
        let (taps, mut begun, _sse) = taps();
        let (ws, now): (Arc<str>, _) = ("/ws".into(), Instant::now());
        taps.ask(&ws, now);
        let mut tap = begun.recv().await.expect("a tap");
        tap.place(3);
        tap.begin_anew(&taps);
        assert_eq!(taps.ask(&ws, now), Place { stretch: 2, number: 0 });
        assert_eq!(tap.place(1), Place { stretch: 2, number: 0 });
        assert_eq!(taps.ask(&ws, now), Place { stretch: 2, number: 1 });
    }

    #[tokio::test]
    async fn what_is_tapped_before_the_first_session_has_nothing_before_it() {
        let (taps, mut begun, _sse) = taps();
        let now = Instant::now();
        taps.look(&[("/a".into(), ASKED_FOR), ("/b".into(), ASKED_FOR)], now);
        taps.look(&[("/c".into(), ASKED_FOR)], now);
        for (configured, stretch) in [("/a", 0), ("/b", 0), ("/c", 1)] {
            let tap = begun.recv().await.expect("a tap");
            assert_eq!((&*tap.configured, tap.stretch), (configured, stretch));
        }
    }
}

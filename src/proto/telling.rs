//! What a pod tells the other pods of its sessions' events, and what of it is missing.
//!
//! A pod tells the events of a configured path only while somebody listens, in stretches: within one
//! everything is counted, also what was lost on the way, so that a hole in the numbers is a known
//! loss. Between two stretches an unknown number of events was not told. Only stretch 0 has nothing
//! before it.

use std::collections::HashMap;

use bytes::Bytes;

use crate::proto::event::Kind;
use crate::proto::path::Path;
use crate::proto::session_id::PodId;

/// How often a pod that tells tells at least something, so that it is known to tell.
pub const BEAT_MS: u64 = 2_000;

/// A pod that has told nothing for so long is missed: three beats, and a second to come late.
const SILENCE_MS_MAX: u64 = 3 * BEAT_MS + 1_000;

/// One thing that a pod tells of a configured path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub from: PodId,
    pub place: Place,
    pub what: What,
}

/// Where in what a pod tells something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub stretch: u64,
    /// How many events of this stretch came before.
    pub number: u64,
}

impl Place {
    /// Nothing was told before, and nothing was not told.
    pub const FIRST: Place = Place { stretch: 0, number: 0 };
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Event {
        id: String,
        kind: Kind,
        /// The concrete path.
        path: Path,
        /// JSON on one line, as `proto::event` made it.
        json: Bytes,
    },
    /// Nothing new: so many there were.
    Beat,
    /// The pod leaves: there will be no more.
    Last,
}

/// What a listener did not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    Counted(u64),
    /// Some, or perhaps none.
    Uncounted,
}

/// What is heard of one configured path, from every pod but this one.
#[derive(Debug, Default)]
pub struct Hearing {
    pods: HashMap<PodId, Heard>,
}

#[derive(Debug)]
struct Heard {
    /// Of what comes next.
    next: Place,
    at_ms: u64,
}

impl Hearing {
    /// Something was told. `is_asking`: whether pods are being asked to tell just now, so that one
    /// not heard before is no surprise.
    pub fn told(&mut self, told: &Told, is_asking: bool, now_ms: u64) -> Option<Missed> {
        let Told { from, place, what } = told;
        let known = self.pods.get(from).map(|heard| heard.next);
        let missed = match known {
            Some(next) if next.stretch == place.stretch => {
                match place.number.checked_sub(next.number) {
                    None | Some(0) => None,
                    Some(hole) => Some(Missed::Counted(hole)),
                }
            }
            None if is_asking => None,
            // A new pod, from its beginning on.
            None if *place == Place::FIRST => None,
            Some(_) | None => Some(Missed::Uncounted),
        };
        if let What::Last = what {
            self.pods.remove(from);
            return missed;
        }
        let mut next = *place;
        next.number = next.number.saturating_add(u64::from(matches!(what, What::Event { .. })));
        if let Some(known) = known.filter(|known| known.stretch == next.stretch) {
            next.number = next.number.max(known.number);
        }
        self.pods.insert(*from, Heard { next, at_ms: now_ms });
        missed
    }

    /// A pod that was asked to tell does so from that place on. What it told before it was asked
    /// may still come.
    pub fn answered(&mut self, pod: PodId, place: Place, now_ms: u64) -> Option<Missed> {
        let known = self.pods.get(&pod).map(|heard| heard.next);
        if known.is_some_and(|next| next.stretch == place.stretch) {
            return None;
        }
        self.pods.insert(pod, Heard { next: place, at_ms: now_ms });
        known.map(|_| Missed::Uncounted)
    }

    /// Forgets pods that have been silent for too long; whether there were any.
    pub fn forget_silent(&mut self, now_ms: u64) -> bool {
        let before = self.pods.len();
        self.pods.retain(|_, heard| now_ms.saturating_sub(heard.at_ms) <= SILENCE_MS_MAX);
        self.pods.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PodId = PodId([1; 8]);

    fn told(stretch: u64, number: u64, what: What) -> Told {
        Told { from: A, place: Place { stretch, number }, what }
    }

    fn event() -> What {
        let path = Path::parse("/ws").expect("a path");
        What::Event { id: "x-1".into(), kind: Kind::Message, path, json: Bytes::new() }
    }

    /// Tells one after the other: what is missing before each.
    #[track_caller]
    fn check(told: &[(u64, u64, What, Option<Missed>)]) {
        let mut hearing = Hearing::default();
        for (stretch, number, what, expected) in told {
            let told = self::told(*stretch, *number, what.clone());
            assert_eq!(hearing.told(&told, false, 0), *expected, "{stretch} {number} {what:?}");
        }
    }

    #[test]
    fn a_hole_in_the_numbers_is_a_known_loss() {
        use Missed::{Counted, Uncounted};
        check(&[
            (0, 0, event(), None),
            (0, 1, event(), None),
            (0, 5, event(), Some(Counted(3))),
            (0, 6, What::Beat, None),
            (0, 6, event(), None),
            (0, 9, What::Beat, Some(Counted(2))),
            (0, 9, What::Beat, None),
            (0, 10, What::Last, Some(Counted(1))),
        ]);
        // A new pod has nothing behind it; one that began anew has, nobody knows how much.
        check(&[(0, 0, What::Beat, None), (0, 2, event(), Some(Counted(2)))]);
        check(&[(0, 2, What::Beat, Some(Uncounted))]);
        check(&[(1, 0, What::Beat, Some(Uncounted)), (1, 0, event(), None)]);
        check(&[(0, 0, event(), None), (3, 7, event(), Some(Uncounted)), (3, 8, event(), None)]);
        check(&[(0, u64::MAX, event(), Some(Uncounted)), (0, u64::MAX, event(), None)]);
    }

    #[test]
    fn whoever_was_asked_tells_from_there_on() {
        let mut hearing = Hearing::default();
        let place = |stretch, number| Place { stretch, number };
        assert_eq!(hearing.told(&told(4, 7, event()), true, 0), None);
        assert_eq!(hearing.answered(A, place(4, 8), 0), None);
        assert_eq!(hearing.told(&told(4, 8, event()), false, 0), None);
        // The answer overtook what had been told before it.
        let mut hearing = Hearing::default();
        assert_eq!(hearing.answered(A, place(4, 8), 0), None);
        assert_eq!(hearing.told(&told(4, 7, event()), false, 0), None);
        assert_eq!(hearing.told(&told(4, 8, event()), false, 0), None);
        // Nobody was told of the end of the stretch before.
        assert_eq!(hearing.answered(A, place(5, 0), 0), Some(Missed::Uncounted));
        assert_eq!(hearing.told(&told(5, 1, event()), false, 0), Some(Missed::Counted(1)));
    }

    #[test]
    fn a_pod_that_is_silent_for_long_is_missed_once() {
        let mut hearing = Hearing::default();
        hearing.told(&told(0, 0, event()), false, 0);
        assert!(!hearing.forget_silent(SILENCE_MS_MAX));
        hearing.told(&told(0, 1, What::Beat), false, SILENCE_MS_MAX);
        assert!(!hearing.forget_silent(2 * SILENCE_MS_MAX));
        assert!(hearing.forget_silent(2 * SILENCE_MS_MAX + 1));
        assert!(!hearing.forget_silent(3 * SILENCE_MS_MAX));
        // Whoever leaves in good order is not missed.
        hearing.told(&told(0, 2, What::Beat), true, 0);
        hearing.told(&told(0, 2, What::Last), false, 0);
        assert!(!hearing.forget_silent(u64::MAX));
    }
}

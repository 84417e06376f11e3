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

impl Missed {
    /// Both together.
    pub fn and(self, more: Missed) -> Missed {
        match (self, more) {
            (Missed::Counted(one), Missed::Counted(other)) => {
                Missed::Counted(one.saturating_add(other))
            }
            _ => Missed::Uncounted,
        }
    }
}

/// What is heard of one configured path, from every pod but this one.
#[derive(Debug, Default)]
pub struct Hearing {
    pods: HashMap<PodId, Voice>,
}

/// Whether there is somebody who has been hearing: whom every pod alive had been asked to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// A pod not heard before is news to all who listen, and what it did before no concern of
    /// theirs.
    New,
    /// A pod not heard before did what it did while somebody listened.
    Settled,
}

/// One pod that tells.
#[derive(Debug)]
struct Voice {
    /// Of what comes next.
    next: Place,
    at_ms: u64,
}

impl Hearing {
    /// Something was told.
    pub fn told(&mut self, told: &Told, audience: Audience, now_ms: u64) -> Option<Missed> {
        let Told { from, place, what } = told;
        let known = self.pods.get(from).map(|voice| voice.next);
        let missed = match known {
            Some(next) if next.stretch == place.stretch => {
                match place.number.checked_sub(next.number) {
                    None | Some(0) => None,
                    Some(hole) => Some(Missed::Counted(hole)),
                }
            }
            Some(_) => Some(Missed::Uncounted),
            None => unheard(*place, audience),
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
        self.pods.insert(*from, Voice { next, at_ms: now_ms });
        missed
    }

    /// A pod that was asked to tell does so from that place on. What it told before it was asked
    /// may still come.
    pub fn answered(
        &mut self,
        pod: PodId,
        place: Place,
        audience: Audience,
        now_ms: u64,
    ) -> Option<Missed> {
        let known = self.pods.get(&pod).map(|voice| voice.next);
        if known.is_some_and(|next| next.stretch == place.stretch) {
            return None;
        }
        self.pods.insert(pod, Voice { next: place, at_ms: now_ms });
        match known {
            Some(_) => Some(Missed::Uncounted),
            None => unheard(place, audience),
        }
    }

    /// Forgets pods that have been silent for too long; whether there were any.
    pub fn forget_silent(&mut self, now_ms: u64) -> bool {
        let before = self.pods.len();
        self.pods.retain(|_, voice| now_ms.saturating_sub(voice.at_ms) <= SILENCE_MS_MAX);
        self.pods.len() < before
    }
}

/// What is missing before that place of a pod that was not heard before.
fn unheard(place: Place, audience: Audience) -> Option<Missed> {
    match audience {
        Audience::New => None,
        // A new pod, from its beginning on.
        Audience::Settled if place == Place::FIRST => None,
        Audience::Settled => Some(Missed::Uncounted),
    }
}

#[cfg(test)]
mod tests {
    use super::Audience::{New, Settled};
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
            assert_eq!(hearing.told(&told, Settled, 0), *expected, "{stretch} {number} {what:?}");
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
        assert_eq!(hearing.told(&told(4, 7, event()), New, 0), None);
        assert_eq!(hearing.answered(A, place(4, 8), New, 0), None);
        assert_eq!(hearing.told(&told(4, 8, event()), Settled, 0), None);
        // The answer overtook what had been told before it.
        let mut hearing = Hearing::default();
        assert_eq!(hearing.answered(A, place(4, 8), New, 0), None);
        assert_eq!(hearing.told(&told(4, 7, event()), Settled, 0), None);
        assert_eq!(hearing.told(&told(4, 8, event()), Settled, 0), None);
        // Nobody was told of the end of the stretch before.
        assert_eq!(hearing.answered(A, place(5, 0), New, 0), Some(Missed::Uncounted));
        assert_eq!(hearing.told(&told(5, 1, event()), Settled, 0), Some(Missed::Counted(1)));
    }

    #[test]
    fn what_a_pod_did_before_it_was_found_is_missing_to_those_who_listened() {
        let place = |stretch, number| Place { stretch, number };
        let answered = |place, audience| Hearing::default().answered(A, place, audience, 0);
        assert_eq!(answered(place(1, 0), Settled), Some(Missed::Uncounted));
        assert_eq!(answered(place(0, 2), Settled), Some(Missed::Uncounted));
        assert_eq!(answered(Place::FIRST, Settled), None);
        assert_eq!(answered(place(1, 7), New), None);
        // It was silent for too long, and then asked for somebody else.
        let mut hearing = Hearing::default();
        hearing.told(&told(0, 0, event()), New, 0);
        assert!(hearing.forget_silent(SILENCE_MS_MAX + 1));
        let missed = hearing.answered(A, place(0, 3), Settled, SILENCE_MS_MAX + 2);
        assert_eq!(missed, Some(Missed::Uncounted));
        assert_eq!(hearing.told(&told(0, 3, event()), Settled, SILENCE_MS_MAX + 3), None);
    }

    #[test]
    fn a_pod_that_is_silent_for_long_is_missed_once() {
        let mut hearing = Hearing::default();
        hearing.told(&told(0, 0, event()), Settled, 0);
        assert!(!hearing.forget_silent(SILENCE_MS_MAX));
        hearing.told(&told(0, 1, What::Beat), Settled, SILENCE_MS_MAX);
        assert!(!hearing.forget_silent(2 * SILENCE_MS_MAX));
        assert!(hearing.forget_silent(2 * SILENCE_MS_MAX + 1));
        assert!(!hearing.forget_silent(3 * SILENCE_MS_MAX));
        // Whoever leaves in good order is not missed.
        hearing.told(&told(0, 2, What::Beat), New, 0);
        hearing.told(&told(0, 2, What::Last), Settled, 0);
        assert!(!hearing.forget_silent(u64::MAX));
    }
}

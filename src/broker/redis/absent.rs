//! Pods that did not answer and whose lease was not there: asked again only if it is.
//!
//! Redis keeps the connection of a machine that lost its power for minutes, and counts it as a
//! receiver. So what is asked of it is written, and stays unanswered; without these notes nobody
//! would ever be told that its sessions have gone. A note is a reason to look, never a proof.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::BootTime;
use crate::proto::session_id::PodId;

/// Pods that can be noted at once: more than any installation loses. Of more, the oldest is
/// forgotten, and noted again when it is asked again.
const NOTES_MAX: usize = 1_024;

#[derive(Debug, Default)]
pub struct Absent(Mutex<HashMap<PodId, Note>>);

#[derive(Debug, Clone, Copy)]
enum Note {
    /// Its lease is being looked for.
    Suspected,
    Absent(BootTime),
}

impl Absent {
    pub fn is_noted(&self, pod: PodId) -> bool {
        matches!(self.notes().get(&pod), Some(Note::Absent(_)))
    }

    /// It did not answer. Whether somebody has to look for its lease: one look for all who wait.
    pub fn suspect(&self, pod: PodId) -> bool {
        let mut notes = self.notes();
        if notes.contains_key(&pod) {
            return false;
        }
        if notes.len() >= NOTES_MAX {
            let age = |(&pod, note): (&PodId, &Note)| match note {
                Note::Suspected => None,
                Note::Absent(noted) => Some((*noted, pod)),
            };
            let Some((_, oldest)) = notes.iter().filter_map(age).min() else { return false };
            notes.remove(&oldest);
        }
        notes.insert(pod, Note::Suspected);
        true
    }

    /// Its lease was not there.
    pub fn note(&self, pod: PodId, now: BootTime) {
        if let Some(note) = self.notes().get_mut(&pod) {
            *note = Note::Absent(now);
        }
    }

    /// It lives, or may.
    pub fn forget(&self, pod: PodId) {
        self.notes().remove(&pod);
    }

    fn notes(&self) -> MutexGuard<'_, HashMap<PodId, Note>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn pod(number: usize) -> PodId {
        PodId(number.to_be_bytes())
    }

    #[test]
    fn one_look_is_for_all_and_what_is_noted_can_be_forgotten() {
        let (absent, now) = (Absent::default(), BootTime::now());
        assert!(absent.suspect(pod(1)));
        assert!(!absent.suspect(pod(1)));
        assert!(!absent.is_noted(pod(1)));
        absent.note(pod(1), now);
        assert!(absent.is_noted(pod(1)));
        absent.forget(pod(1));
        assert!(!absent.is_noted(pod(1)));
        // A look that ends after that notes nothing.
        absent.note(pod(1), now);
        assert!(!absent.is_noted(pod(1)));
        assert!(absent.suspect(pod(1)));
    }

    #[test]
    fn of_too_many_the_oldest_is_forgotten() {
        let (absent, start) = (Absent::default(), BootTime::now());
        for number in 0..=NOTES_MAX {
            assert!(absent.suspect(pod(number)));
            absent.note(pod(number), start + Duration::from_millis(number as u64));
        }
        assert!(!absent.is_noted(pod(0)));
        assert!(absent.is_noted(pod(1)));
        assert!(absent.is_noted(pod(NOTES_MAX)));
        assert_eq!(absent.notes().len(), NOTES_MAX);
    }
}

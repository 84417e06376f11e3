//! How full each stream is, as far as this pod knows, and which of its sessions are not read
//! because of that.
//!
//! A stream is looked at in Redis from time to time (`relay::streams`). In between this pod counts
//! what it adds itself, so that a burst is stopped at the bound and not at the next look; what
//! groups acknowledge meanwhile, and what other pods add, the next look tells.

use std::collections::HashMap;
use std::sync::Arc;

use crate::backend::held::Held;
use crate::proto::session_id::SessionId;
use crate::proto::stream::{Backlog, Fate, Part};

pub struct Parts {
    /// How many entries of one stream may be unread.
    backlog_max: u64,
    known: HashMap<Part, Known>,
    held: usize,
}

#[derive(Default)]
struct Known {
    /// Entries that this pod has offered and not settled.
    waiting: u64,
    /// Unread when it was last looked at, and what this pod has added since.
    backlog: u64,
    /// All that this pod ever added.
    added: u64,
    is_full: bool,
    /// There may be something to trim.
    is_used: bool,
    held: Held,
}

/// A stream that is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub part: Part,
    /// How much this pod had added before.
    added: u64,
}

/// Which streams are to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All that may have something to trim.
    Used,
    /// Those that are full, or sessions wait for.
    Pressed,
}

impl Known {
    fn expected(&self) -> u64 {
        self.backlog + self.waiting
    }

    fn is_pressed(&self) -> bool {
        self.is_full || !self.held.is_empty()
    }
}

impl Parts {
    pub fn new(backlog_max: u64) -> Parts {
        Parts { backlog_max, known: HashMap::new(), held: 0 }
    }

    /// There may be something in this stream, from before.
    pub fn watch(&mut self, part: Part) {
        self.known.entry(part).or_default().is_used = true;
    }

    /// Nobody here knows how much is in this stream: it counts as full until it was looked at.
    pub fn suspect(&mut self, part: Part) {
        let known = self.known.entry(part).or_default();
        (known.is_used, known.is_full) = (true, true);
    }

    /// One more entry waits. Whether the stream is full by it, and was not before.
    pub fn offered(&mut self, part: &Part) -> bool {
        let backlog_max = self.backlog_max;
        let known = match self.known.get_mut(part) {
            Some(known) => known,
            None => self.known.entry(part.clone()).or_default(),
        };
        known.waiting += 1;
        known.is_used = true;
        let is_full = known.expected() > backlog_max;
        is_full && !std::mem::replace(&mut known.is_full, true)
    }

    /// What became of one that waited.
    pub fn settled(&mut self, part: &Part, fate: Fate) {
        let Some(known) = self.known.get_mut(part) else { return };
        known.waiting -= 1;
        if fate == Fate::Taken {
            known.backlog += 1;
            known.added += 1;
        }
    }

    pub fn is_full(&self, part: &Part) -> bool {
        self.known.get(part).is_some_and(|known| known.is_full)
    }

    /// The session is not read until `free` names it. Whether that is news.
    pub fn hold(&mut self, part: &Part, session: SessionId) -> bool {
        let is_new = self.known.get_mut(part).is_some_and(|known| known.held.hold(session));
        self.held += usize::from(is_new);
        is_new
    }

    /// The session has ended.
    pub fn forget(&mut self, part: &Part, session: &SessionId) {
        if self.held > 0
            && let Some(known) = self.known.get_mut(part)
            && known.held.forget(session)
        {
            self.held -= 1;
        }
    }

    /// Up to so many sessions that may be read again: of each stream no more than it has room for
    /// entries, but one at least.
    pub fn free(&mut self, most: usize) -> Vec<SessionId> {
        let mut freed = Vec::new();
        if self.held == 0 {
            return freed;
        }
        for known in self.known.values_mut().filter(|known| !known.is_full) {
            let room = self.backlog_max.saturating_sub(known.expected()).max(1);
            for _ in 0..room {
                if freed.len() == most {
                    break;
                }
                let Some(session) = known.held.free() else { break };
                freed.push(session);
            }
        }
        self.held -= freed.len();
        freed
    }

    pub fn held(&self) -> usize {
        self.held
    }

    /// Whether a look may free somebody.
    pub fn is_pressed(&self) -> bool {
        self.known.values().any(Known::is_pressed)
    }

    pub fn looks(&self, scope: Scope) -> Vec<Look> {
        let is_meant = |known: &Known| match scope {
            Scope::Used => known.is_used,
            Scope::Pressed => known.is_pressed(),
        };
        let meant = self.known.iter().filter(|(_, known)| is_meant(known));
        meant.map(|(part, known)| Look { part: part.clone(), added: known.added }).collect()
    }

    /// What a look has found. Once full, a stream takes more when a quarter is free.
    pub fn looked(&mut self, look: &Look, found: Backlog) {
        let Some(known) = self.known.get_mut(&look.part) else { return };
        // What this pod added while it was looked at, or waits to be told of, may be in what was
        // found or not. Its own count tells which, unless others add as well, or groups read.
        let since = known.added - look.added;
        let at_least = found.unread.saturating_sub(known.waiting);
        known.backlog = known.backlog.min(found.unread + since).max(at_least);
        let bound = match known.is_full {
            true => self.backlog_max - self.backlog_max.div_ceil(4),
            false => self.backlog_max,
        };
        known.is_full = known.expected() > bound;
        known.is_used = known.waiting > 0 || since > 0 || found.length > 0;
    }

    /// The most that is unread in one of the streams of each configured path.
    pub fn backlogs(&self) -> HashMap<Arc<str>, u64> {
        let mut most = HashMap::new();
        for (part, known) in &self.known {
            let most = most.entry(part.configured.clone()).or_default();
            *most = known.backlog.max(*most);
        }
        most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(partition: u32) -> Part {
        Part { configured: "/ws".into(), partition }
    }

    fn session(number: u8) -> SessionId {
        SessionId { random: [number; 16], ..SessionId::MIN }
    }

    fn unread(unread: u64) -> Backlog {
        Backlog { unread, length: unread, dropped: 0 }
    }

    fn look(parts: &Parts, scope: Scope) -> Look {
        let looks = parts.looks(scope);
        let [look] = &looks[..] else { panic!("{looks:?}") };
        look.clone()
    }

    #[test]
    fn a_stream_is_full_above_its_bound_and_takes_more_when_a_quarter_is_free() {
        let mut parts = Parts::new(8);
        let (one, two) = (part(1), part(2));
        let full: Vec<_> = (0..10).map(|_| parts.offered(&one)).collect();
        assert_eq!(full.iter().position(|&is_full| is_full), Some(8), "the ninth, once: {full:?}");
        parts.offered(&two);
        assert!(parts.is_full(&one) && !parts.is_full(&two));
        for _ in 0..10 {
            parts.settled(&one, Fate::Taken);
        }
        parts.looked(&look(&parts, Scope::Pressed), unread(7));
        assert!(parts.is_full(&one));
        let before = look(&parts, Scope::Pressed);
        parts.offered(&one);
        parts.settled(&one, Fate::Taken);
        parts.looked(&before, unread(6));
        assert!(parts.is_full(&one), "one may have come since");
        parts.looked(&look(&parts, Scope::Pressed), unread(6));
        assert!(!parts.is_full(&one));
        assert_eq!(parts.backlogs(), HashMap::from([("/ws".into(), 6)]));
    }

    #[test]
    fn what_is_added_while_a_look_is_under_way_counts_once() {
        let mut parts = Parts::new(8);
        let one = part(1);
        let add = |parts: &mut Parts| {
            parts.offered(&one);
            parts.settled(&one, Fate::Taken);
        };
        (0..3).for_each(|_| add(&mut parts));
        let before = look(&parts, Scope::Used);
        (0..4).for_each(|_| add(&mut parts));
        parts.offered(&one);
        // It was found late, with the one in it that waits to be settled; or early.
        for found in [8, 3] {
            parts.looked(&before, unread(found));
            assert!(!parts.is_full(&one), "{found}");
        }
        parts.settled(&one, Fate::Taken);
        assert_eq!(parts.backlogs(), HashMap::from([("/ws".into(), 8)]));
        assert!(parts.offered(&one), "the ninth");
        // Others have added as well.
        parts.looked(&look(&parts, Scope::Used), unread(20));
        parts.settled(&one, Fate::Taken);
        assert_eq!(parts.backlogs(), HashMap::from([("/ws".into(), 20)]));
    }

    #[test]
    fn who_is_held_is_freed_as_there_is_room_or_forgotten() {
        let mut parts = Parts::new(4);
        let one = part(1);
        for _ in 0..6 {
            parts.offered(&one);
            parts.settled(&one, Fate::Taken);
        }
        for number in 0..6 {
            assert!(parts.hold(&one, session(number)));
        }
        assert!(!parts.hold(&one, session(5)));
        parts.forget(&one, &session(0));
        parts.forget(&part(2), &session(1));
        assert_eq!((parts.held(), parts.free(9)), (5, vec![]));
        parts.looked(&look(&parts, Scope::Pressed), unread(2));
        assert_eq!(parts.free(1), [session(1)]);
        assert_eq!(parts.free(9), [session(2), session(3)]);
        // Not full any more, but somebody waits.
        assert!(parts.is_pressed());
        parts.looked(&look(&parts, Scope::Pressed), unread(0));
        assert_eq!(parts.free(9), [session(4), session(5)]);
        assert_eq!(parts.held(), 0);
        assert!(!parts.is_pressed());
    }

    #[test]
    fn what_may_be_full_is_until_it_was_looked_at() {
        let mut parts = Parts::new(8);
        parts.suspect(part(1));
        assert!(parts.is_full(&part(1)) && parts.is_pressed());
        parts.looked(&look(&parts, Scope::Pressed), unread(7));
        assert!(parts.is_full(&part(1)), "too full to take more");
        parts.looked(&look(&parts, Scope::Pressed), unread(0));
        assert!(!parts.is_full(&part(1)));
    }

    #[test]
    fn a_stream_is_looked_at_until_it_is_empty() {
        let mut parts = Parts::new(4);
        parts.watch(part(1));
        parts.looked(&look(&parts, Scope::Used), unread(1));
        let nothing = Backlog { unread: 0, length: 3, dropped: 0 };
        parts.looked(&look(&parts, Scope::Used), nothing);
        parts.offered(&part(1));
        parts.looked(&look(&parts, Scope::Used), unread(0));
        parts.settled(&part(1), Fate::Refused);
        let before = look(&parts, Scope::Used);
        parts.looked(&before, unread(0));
        assert_eq!(parts.looks(Scope::Used), []);
        parts.offered(&part(1));
        assert_eq!(parts.looks(Scope::Used).len(), 1);
    }
}

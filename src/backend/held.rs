//! Sessions that are not read, in the order in which that began.

use std::collections::{BTreeMap, HashMap};

use crate::proto::session_id::SessionId;

#[derive(Default)]
pub struct Held {
    tickets: HashMap<SessionId, u64>,
    order: BTreeMap<u64, SessionId>,
    next: u64,
}

impl Held {
    /// Whether it was not held before.
    pub fn hold(&mut self, session: SessionId) -> bool {
        if self.tickets.contains_key(&session) {
            return false;
        }
        self.next += 1;
        self.tickets.insert(session, self.next);
        self.order.insert(self.next, session);
        true
    }

    /// It has ended, and need not be read on. Whether it was held.
    pub fn forget(&mut self, session: &SessionId) -> bool {
        let Some(ticket) = self.tickets.remove(session) else { return false };
        self.order.remove(&ticket);
        true
    }

    /// The one that has been held longest, from now on held no more.
    pub fn free(&mut self) -> Option<SessionId> {
        let (_, session) = self.order.pop_first()?;
        self.tickets.remove(&session);
        Some(session)
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_held_once_and_freed_in_turn() {
        let session = |number| SessionId { random: [number; 16], ..SessionId::MIN };
        let mut held = Held::default();
        let held_now = [3, 1, 2, 1].map(|number| held.hold(session(number)));
        assert_eq!(held_now, [true, true, true, false]);
        assert!(held.forget(&session(1)) && !held.forget(&session(1)));
        assert_eq!(held.free(), Some(session(3)));
        assert!(held.hold(session(3)));
        assert_eq!(
            [held.free(), held.free(), held.free()],
            [Some(session(2)), Some(session(3)), None]
        );
        assert!(held.is_empty() && held.tickets.is_empty());
    }
}

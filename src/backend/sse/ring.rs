//! What was heard lately of one configured path: for listeners that come back and know the last event they
//! had.
//!
//! Bounded in number and in bytes; the oldest goes. What was missing is kept in its place, so that whoever
//! hears it later is told the same.

use std::collections::{VecDeque, vec_deque};
use std::sync::Arc;

use crate::backend::sse::heard::Event;
use crate::proto::telling::Missed;

/// Events of some seconds of a busy path, half of what may wait for a listener: all of it fits there.
const EVENTS_MAX: usize = 4 * 1024;

/// The same in bytes.
const BYTES_MAX: usize = 4 << 20;

#[derive(Default)]
pub struct Ring {
    kept: VecDeque<Kept>,
    bytes: usize,
}

#[derive(Debug, Clone)]
pub enum Kept {
    Event(Arc<Event>),
    /// Events are missing here, as far as the configured path goes.
    Hole(Missed),
}

impl Kept {
    fn bytes(&self) -> usize {
        match self {
            Kept::Event(event) => event.json.len(),
            Kept::Hole(_) => 0,
        }
    }
}

impl Ring {
    pub fn push(&mut self, event: &Arc<Event>) {
        self.bytes += event.json.len();
        self.kept.push_back(Kept::Event(event.clone()));
        while self.kept.len() > EVENTS_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.kept.pop_front() else { return };
            self.bytes -= oldest.bytes();
        }
    }

    pub fn miss(&mut self, more: Missed) {
        match self.kept.back_mut() {
            Some(Kept::Hole(missed)) => *missed = missed.and(more),
            _ => self.kept.push_back(Kept::Hole(more)),
        }
    }

    /// What came behind the event of that id; `None` if that one is not here. Of one that came twice
    /// the first counts: better a repetition than a hole.
    pub fn behind(&self, id: &str) -> Option<vec_deque::Iter<'_, Kept>> {
        let is_it = |kept: &Kept| matches!(kept, Kept::Event(event) if event.id == id);
        let at = self.kept.iter().position(is_it)?;
        Some(self.kept.range(at + 1..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::sse::heard::Origin;
    use crate::proto::event::Kind;
    use crate::proto::path::Path;

    fn event(id: usize, bytes: usize) -> Arc<Event> {
        Arc::new(Event {
            id: id.to_string(),
            kind: Kind::Message,
            json: vec![b'x'; bytes].into(),
            path: Path::parse("/ws").expect("a path"),
            configured: "/ws".into(),
            origin: Origin::Own,
        })
    }

    #[track_caller]
    fn check(ring: &Ring, id: usize, expected: Option<&[&str]>) {
        let text = |kept: &Kept| match kept {
            Kept::Event(event) => event.id.clone(),
            Kept::Hole(Missed::Counted(count)) => format!("-{count}"),
            Kept::Hole(Missed::Uncounted) => "-?".to_owned(),
        };
        let behind = ring.behind(&id.to_string());
        let behind: Option<Vec<String>> = behind.map(|kept| kept.map(text).collect());
        let expected = expected.map(|texts| texts.iter().map(|&text| text.to_owned()).collect());
        assert_eq!(behind, expected);
    }

    #[test]
    fn what_came_behind_an_event_is_told_with_its_holes() {
        let mut ring = Ring::default();
        check(&ring, 1, None);
        for id in 1..=2 {
            ring.push(&event(id, 1));
        }
        check(&ring, 2, Some(&[]));
        ring.miss(Missed::Counted(3));
        ring.miss(Missed::Counted(4));
        ring.push(&event(3, 1));
        ring.miss(Missed::Uncounted);
        check(&ring, 1, Some(&["2", "-7", "3", "-?"]));
        check(&ring, 3, Some(&["-?"]));
        check(&ring, 4, None);
        ring.push(&event(1, 1));
        check(&ring, 1, Some(&["2", "-7", "3", "-?", "1"]));
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many_or_they_are_too_large() {
        let mut ring = Ring::default();
        for id in 0..=EVENTS_MAX {
            ring.push(&event(id, 1));
        }
        check(&ring, 0, None);
        assert_eq!(ring.behind("1").map(Iterator::count), Some(EVENTS_MAX - 1));
        for id in 0..5 {
            ring.push(&event(EVENTS_MAX + 1 + id, BYTES_MAX / 4));
        }
        check(&ring, EVENTS_MAX + 1, None);
        assert_eq!(ring.behind(&(EVENTS_MAX + 2).to_string()).map(Iterator::count), Some(3));
        ring.push(&event(9_999, 2 * BYTES_MAX));
        assert_eq!((ring.kept.len(), ring.bytes), (0, 0));
    }
}

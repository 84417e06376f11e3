//! What waits to be appended to streams, in its order.
//!
//! What may be dropped lies apart from what may not, so that dropping the oldest of it touches
//! nothing else; the order of both is a number on each.

use std::collections::VecDeque;
use std::time::Instant;

use crate::proto::stream::Entry;

/// What may wait of that which may be dropped: about a minute of a busy path.
const LOOSE_BYTES_MAX: usize = 32 << 20;

#[derive(Default)]
pub struct Lanes {
    firm: Lane,
    loose: Lane,
    next: u64,
}

pub struct Waiting {
    number: u64,
    pub entry: Entry,
    /// When it was offered.
    pub at: Instant,
}

#[derive(Default)]
struct Lane {
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

impl Lane {
    fn push(&mut self, waiting: Waiting) {
        self.bytes += waiting.entry.bytes();
        self.waiting.push_back(waiting);
    }

    fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.waiting.pop_front()?;
        self.bytes -= waiting.entry.bytes();
        Some(waiting)
    }

    fn front(&self) -> Option<u64> {
        self.waiting.front().map(|waiting| waiting.number)
    }
}

impl Lanes {
    /// What is never dropped for want of room.
    pub fn push_firm(&mut self, entry: Entry) {
        let waiting = self.number(entry);
        self.firm.push(waiting);
    }

    /// What makes room for itself among its like: those that went for it.
    pub fn push_loose(&mut self, entry: Entry) -> Vec<Entry> {
        let waiting = self.number(entry);
        self.loose.push(waiting);
        let mut dropped = Vec::new();
        while self.loose.bytes > LOOSE_BYTES_MAX && self.loose.waiting.len() > 1 {
            dropped.extend(self.loose.pop().map(|waiting| waiting.entry));
        }
        dropped
    }

    /// The oldest.
    pub fn pop(&mut self) -> Option<Waiting> {
        match (self.firm.front(), self.loose.front()) {
            (Some(firm), Some(loose)) if loose < firm => self.loose.pop(),
            (None, _) => self.loose.pop(),
            _ => self.firm.pop(),
        }
    }

    pub fn firm_bytes(&self) -> usize {
        self.firm.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.firm.waiting.is_empty() && self.loose.waiting.is_empty()
    }

    fn number(&mut self, entry: Entry) -> Waiting {
        self.next += 1;
        Waiting { number: self.next, entry, at: Instant::now() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: usize, bytes: usize) -> Entry {
        let fields = vec![("id", id.to_string()), ("msg", "x".repeat(bytes))];
        Entry { configured: "/ws".into(), partition: 0, fields }
    }

    fn id(entry: &Entry) -> usize {
        entry.fields[0].1.parse().expect("a number")
    }

    #[test]
    fn the_oldest_goes_first_and_only_what_may_is_dropped() {
        let mut lanes = Lanes::default();
        for number in 0..6 {
            match number % 3 {
                0 => lanes.push_firm(entry(number, 1)),
                _ => assert_eq!(lanes.push_loose(entry(number, 1)), []),
            }
        }
        let dropped = lanes.push_loose(entry(6, LOOSE_BYTES_MAX - 3 * entry(0, 1).bytes()));
        assert_eq!(dropped.iter().map(id).collect::<Vec<_>>(), [1, 2]);
        let dropped = lanes.push_loose(entry(7, LOOSE_BYTES_MAX));
        assert_eq!(dropped.iter().map(id).collect::<Vec<_>>(), [4, 5, 6]);
        assert_eq!(lanes.firm_bytes(), 2 * entry(0, 1).bytes());
        let left = std::iter::from_fn(|| lanes.pop()).map(|waiting| id(&waiting.entry));
        assert_eq!(left.collect::<Vec<_>>(), [0, 3, 7]);
        assert!(lanes.is_empty());
        assert_eq!((lanes.firm.bytes, lanes.loose.bytes), (0, 0));
    }
}

//! What publishers were told of each message, held against what clients got.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::resident::Resident;

/// A message that was answered.
#[derive(Debug, Clone)]
pub struct Entry {
    /// No other has it.
    pub payload: String,
    /// The pod that was asked, by its number.
    pub pod: usize,
    /// The resident that it was for, by its number; a broadcast has none.
    pub to: Option<usize>,
    pub begun: Instant,
    pub status: u16,
}

#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<Vec<Entry>>>);

impl Ledger {
    pub fn note(&self, entry: Entry) {
        self.0.lock().expect("nobody panicked").push(entry);
    }

    /// In the order of the answers.
    pub fn entries(&self) -> Vec<Entry> {
        self.0.lock().expect("nobody panicked").clone()
    }

    /// Of how many that was the status.
    pub fn count(&self, status: u16) -> usize {
        self.entries().iter().filter(|entry| entry.status == status).count()
    }

    /// Nobody got anything twice, or what was for somebody else, or what was told to be "not sent";
    /// what was told to be "delivered" is there; and nobody was declared gone.
    #[track_caller]
    pub fn check(&self, residents: &[Resident]) {
        let mut got: HashMap<String, Vec<usize>> = HashMap::new();
        for (number, resident) in residents.iter().enumerate() {
            for text in resident.texts() {
                got.entry(text).or_default().push(number);
            }
        }
        for entry in self.entries() {
            let got = got.get(&entry.payload).map_or(&[][..], Vec::as_slice);
            assert!(got.is_sorted_by(|one, next| one < next), "twice at one: {got:?} {entry:?}");
            let only_to = entry.to.is_none_or(|to| got.iter().all(|&number| number == to));
            assert!(only_to, "went astray to {got:?}: {entry:?}");
            match entry.status {
                200 => assert_eq!(got.len(), 1, "not received: {entry:?}"),
                503 => assert_eq!(got, [0; 0], "sent all the same: {entry:?}"),
                202 | 504 => {}
                _ => panic!("{entry:?}"),
            }
        }
    }
}

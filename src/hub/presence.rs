//! Who is where on this pod: concrete paths with sessions, and on which shards.
//!
//! Kept outside the shards, by those who let sessions in and are told that they ended, so that a
//! broadcast crosses only to shards that have somebody for it, in the forms that they need.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::proto::ask::PathCount;
use crate::proto::path::Path;
use crate::proto::paths::Configured;

#[derive(Debug)]
pub struct Presence {
    shards: usize,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    paths: BTreeMap<Path, Entry>,
    /// How many concrete paths each configured path has.
    concrete: HashMap<Arc<str>, usize>,
}

#[derive(Debug)]
struct Entry {
    configured: Arc<str>,
    /// By shard.
    sessions: Box<[u32]>,
    /// Of those, on a path with `wholemsg`.
    whole: u32,
}

/// Where a broadcast has to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audience {
    /// The text of the configured path.
    pub configured: Arc<str>,
    pub shards: Vec<usize>,
    /// Whether somebody needs the payload alone.
    pub payload: bool,
    /// Whether somebody needs the whole msg.
    pub whole: bool,
}

/// The pattern has as many concrete paths as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyPaths;

impl Presence {
    pub fn new(shards: usize) -> Presence {
        Presence { shards, known: Mutex::default() }
    }

    /// A session comes to `path`.
    pub fn arrive(
        &self,
        path: &Path,
        configured: &Configured,
        shard: usize,
    ) -> Result<(), TooManyPaths> {
        let known = &mut *self.lock();
        if !known.paths.contains_key(path) {
            let text = configured.pattern.text();
            let concrete = known.concrete.entry(text.clone()).or_default();
            if *concrete >= configured.concrete_paths_max && !configured.pattern.is_exact() {
                return Err(TooManyPaths);
            }
            *concrete += 1;
        }
        let entry = known.paths.entry(path.clone()).or_insert_with(|| Entry {
            configured: configured.pattern.text().clone(),
            sessions: vec![0; self.shards].into(),
            whole: 0,
        });
        entry.sessions[shard] += 1;
        entry.whole += u32::from(configured.wholemsg);
        Ok(())
    }

    /// A session that had come to `path` is gone.
    pub fn depart(&self, path: &Path, configured: &Configured, shard: usize) {
        let known = &mut *self.lock();
        let Some(entry) = known.paths.get_mut(path) else { return };
        entry.sessions[shard] -= 1;
        entry.whole -= u32::from(configured.wholemsg);
        let is_last = entry.sessions.iter().all(|&sessions| sessions == 0);
        if is_last
            && let Some(entry) = known.paths.remove(path)
            && let Some(concrete) = known.concrete.get_mut(&entry.configured)
        {
            *concrete -= 1;
        }
    }

    /// `None`: nobody is there.
    pub fn audience(&self, path: &Path) -> Option<Audience> {
        let known = self.lock();
        let entry = known.paths.get(path)?;
        let is_there = |&(_, &sessions): &(usize, &u32)| sessions > 0;
        let shards = entry.sessions.iter().enumerate().filter(is_there).map(|(at, _)| at).collect();
        let all: u32 = entry.sessions.iter().sum();
        Some(Audience {
            configured: entry.configured.clone(),
            shards,
            payload: all > entry.whole,
            whole: entry.whole > 0,
        })
    }

    /// The `most` paths before `path` in their order, and as many behind it.
    pub fn around(&self, path: &Path, most: usize) -> Vec<PathCount> {
        let known = self.lock();
        let before = known.paths.range(..path).rev().take(most);
        before.chain(known.paths.range(path..).take(most)).map(count).collect()
    }

    /// In the order of the paths.
    pub fn census(&self) -> Vec<PathCount> {
        self.lock().paths.iter().map(count).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Every change is whole before the next line can panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count((path, entry): (&Path, &Entry)) -> PathCount {
    PathCount {
        path: path.clone(),
        configured: entry.configured.clone(),
        sessions: entry.sessions.iter().copied().map(u64::from).sum(),
    }
}

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
    shards: Box<[Here]>,
    /// Of its sessions, on a path with `wholemsg`.
    whole: u32,
    /// On a path with `compress`.
    compress: u32,
}

/// One shard's part of a path.
#[derive(Debug, Clone, Copy, Default)]
struct Here {
    sessions: u32,
    /// Whether somebody came, since it was last asked, whom a gap closes.
    minds_gap: bool,
}

/// Where a broadcast has to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audience {
    /// The text of the configured path.
    pub configured: Arc<str>,
    pub shards: Vec<usize>,
    pub sessions: u32,
    /// Whether somebody needs the payload alone.
    pub payload: bool,
    /// Whether somebody needs the whole msg.
    pub whole: bool,
    /// Whether somebody may want it deflated.
    pub deflated: bool,
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
            shards: vec![Here::default(); self.shards].into(),
            whole: 0,
            compress: 0,
        });
        entry.shards[shard].sessions += 1;
        entry.whole += u32::from(configured.wholemsg);
        entry.compress += u32::from(configured.compress_from_bytes.is_some());
        Ok(())
    }

    /// A session that had come to `path` is gone.
    pub fn depart(&self, path: &Path, configured: &Configured, shard: usize) {
        let known = &mut *self.lock();
        let Some(entry) = known.paths.get_mut(path) else { return };
        entry.shards[shard].sessions -= 1;
        entry.whole -= u32::from(configured.wholemsg);
        entry.compress -= u32::from(configured.compress_from_bytes.is_some());
        let is_last = entry.shards.iter().all(|here| here.sessions == 0);
        if is_last
            && let Some(entry) = known.paths.remove(path)
            && let Some(concrete) = known.concrete.get_mut(&entry.configured)
        {
            *concrete -= 1;
        }
    }

    /// A session that a gap closes has its place in its shard: whatever that shard refuses from now
    /// on, it misses.
    pub fn mind_gap(&self, path: &Path, shard: usize) {
        if let Some(entry) = self.lock().paths.get_mut(path) {
            entry.shards[shard].minds_gap = true;
        }
    }

    /// Whether such a session came since this was last asked. So what has been told to close all who
    /// were there is told again only when somebody new is.
    pub fn take_gap_minder(&self, path: &Path, shard: usize) -> bool {
        let mut known = self.lock();
        let entry = known.paths.get_mut(path);
        entry.is_some_and(|entry| std::mem::take(&mut entry.shards[shard].minds_gap))
    }

    /// `None`: nobody is there.
    pub fn audience(&self, path: &Path) -> Option<Audience> {
        let known = self.lock();
        let entry = known.paths.get(path)?;
        let is_there = |(_, here): &(usize, &Here)| here.sessions > 0;
        let shards = entry.shards.iter().enumerate().filter(is_there).map(|(at, _)| at).collect();
        let all: u32 = entry.shards.iter().map(|here| here.sessions).sum();
        Some(Audience {
            configured: entry.configured.clone(),
            shards,
            sessions: all,
            payload: all > entry.whole,
            whole: entry.whole > 0,
            deflated: entry.compress > 0,
        })
    }

    /// The configured path of those who are on this one; `None`: nobody is.
    pub fn configured(&self, path: &Path) -> Option<Arc<str>> {
        self.lock().paths.get(path).map(|entry| entry.configured.clone())
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
        sessions: entry.shards.iter().map(|here| u64::from(here.sessions)).sum(),
    }
}

//! Files that change under a running gateway: tells when one has.
//!
//! What counts is the content. The system says when something stirs in a file's folder, for a file
//! is often replaced rather than written: by editors, and by Kubernetes, which turns a link. Where
//! it cannot say so (a network's file system, a link into another folder) a look now and then
//! finds the change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

/// A file that is being written changes several times; it is read when it has been quiet so long.
const QUIET: Duration = Duration::from_millis(300);

/// How often the files are looked at though nothing stirred.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Some files, and what they held when they were last looked at.
pub struct Changes {
    files: Vec<PathBuf>,
    known: Option<Vec<[u8; 32]>>,
    stirs: mpsc::Receiver<()>,
    stirred: bool,
    /// Watches until it is dropped.
    _watcher: Option<RecommendedWatcher>,
}

impl Changes {
    /// What the files hold now is no change.
    pub fn of(files: Vec<PathBuf>) -> Changes {
        let (stirred, stirs) = mpsc::channel(1);
        let watcher = watcher(&files, stirred);
        let watcher = watcher
            .inspect_err(|error| tracing::warn!(%error, "changes of files are noticed late"));
        let known = contents(&files);
        Changes { files, known, stirs, stirred: false, _watcher: watcher.ok() }
    }

    /// Waits until one of the files has another content; not while one cannot be read. Cancel-safe.
    pub async fn next(&mut self) {
        loop {
            if !self.stirred {
                tokio::select! {
                    Some(()) = self.stirs.recv() => self.stirred = true,
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
            if self.stirred {
                tokio::time::sleep(QUIET).await;
                self.stirred = false;
            }
            let now = contents(&self.files);
            if now.is_some() && now != self.known {
                self.known = now;
                return;
            }
        }
    }
}

fn watcher(files: &[PathBuf], stirred: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            // One that waits is enough.
            let _ = stirred.try_send(());
        }
    })?;
    for file in files {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        watcher.watch(folder.unwrap_or(Path::new(".")), RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

/// What the files hold, as hashes: one of them may be a secret. A few small files on a local disk:
/// quicker read than handed to another thread.
fn contents(files: &[PathBuf]) -> Option<Vec<[u8; 32]>> {
    files.iter().map(|file| Some(Sha256::digest(std::fs::read(file).ok()?).into())).collect()
}

//! Lines of the log on their way to standard error, which may be a pipe that nobody empties or a disk that is
//! slow: a thread writes them, and whoever logs never waits, shards least of all.
//!
//! What waits is bounded. What finds no room is lost, and the log says how much once it is taken again.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Some seconds of a log that tells everything.
const WAITING_BYTES_MAX: usize = 4 << 20;

/// How long the last lines may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The log is the whole process', and so is this.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Where lines are put.
#[derive(Debug)]
pub struct Lines {
    waiting: Sender<Item>,
    waiting_bytes: AtomicUsize,
    lost: AtomicU64,
}

#[derive(Debug)]
enum Item {
    Line(Vec<u8>),
    /// Everything before it has been written.
    Mark(Sender<()>),
}

/// Where lines of this process' log are put.
///
/// # Errors
/// There can be no thread.
pub fn start() -> io::Result<&'static Lines> {
    let (waiting, items) = channel();
    let lines = Lines { waiting, waiting_bytes: AtomicUsize::new(0), lost: AtomicU64::new(0) };
    if LINES.set(lines).is_ok() {
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write(&items))?;
    }
    Ok(LINES.get().expect("it was set just now, or before"))
}

/// Waits until everything that was logged has been taken, not for long.
pub fn flush() {
    let (done, is_done) = channel();
    if let Some(lines) = LINES.get()
        && lines.waiting.send(Item::Mark(done)).is_ok()
    {
        let _ = is_done.recv_timeout(FLUSH_TIMEOUT);
    }
}

fn write(items: &Receiver<Item>) {
    while let (Ok(item), Some(lines)) = (items.recv(), LINES.get()) {
        match item {
            Item::Line(line) => {
                // There is nowhere to say so.
                let _ = io::stderr().write_all(&line);
                lines.waiting_bytes.fetch_sub(line.len(), Ordering::Relaxed);
                let lost = lines.lost.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    tracing::warn!(
                        lines = lost,
                        "nobody took the log: lines are missing before this one"
                    );
                }
            }
            // Whoever waited for it may not wait any more.
            Item::Mark(done) => drop(done.send(())),
        }
    }
}

/// One write is one line.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let before = self.waiting_bytes.fetch_add(line.len(), Ordering::Relaxed);
        if before + line.len() > WAITING_BYTES_MAX
            || self.waiting.send(Item::Line(line.into())).is_err()
        {
            self.waiting_bytes.fetch_sub(line.len(), Ordering::Relaxed);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_takes_is_bounded_and_what_is_lost_is_counted() {
        let (waiting, items) = channel();
        let lines = Lines { waiting, waiting_bytes: AtomicUsize::new(0), lost: AtomicU64::new(0) };
        let line = [b'x'; 1 << 10];
        for _ in 0..WAITING_BYTES_MAX / line.len() + 7 {
            (&lines).write_all(&line).expect("it never fails");
        }
        assert_eq!(items.try_iter().count(), WAITING_BYTES_MAX / line.len());
        assert_eq!(lines.lost.into_inner(), 7);
    }
}

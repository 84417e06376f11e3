//! Streams: every event of a path with `stream = true`, in order and at least once, for whoever reads
//! the stream in Redis.
//!
//! Shards offer entries and never wait: an entry goes into one queue, bounded in bytes, and is
//! dropped and counted when that is full. Who writes takes a batch from the front, and the batch
//! stays there until it is known what became of it; so the order of a session's entries survives
//! every failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::mpsc;

use crate::metrics::Metrics;
use crate::proto::stream::{Entry, Fate};

/// What may wait: a busy pod's events while Redis changes its primary.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// A batch holds up to so many entries, or bytes: a broadcast that comes meanwhile waits a few
/// milliseconds for it.
const BATCH_ENTRIES_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 256 << 10;

/// Where shards put entries.
pub struct Stream {
    waiting: mpsc::UnboundedSender<Waiting>,
    shared: Arc<Shared>,
}

/// The other end, for the one who writes.
pub struct Queue {
    waiting: mpsc::UnboundedReceiver<Waiting>,
    /// Taken and not settled.
    batch: Vec<Entry>,
    offered: Vec<Instant>,
    shared: Arc<Shared>,
}

struct Waiting {
    entry: Entry,
    at: Instant,
}

struct Shared {
    waiting_bytes: AtomicUsize,
    /// Since somebody asked.
    dropped: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Stream {
    pub fn new(metrics: Arc<Metrics>) -> (Stream, Queue) {
        let (sender, waiting) = mpsc::unbounded_channel();
        let (waiting_bytes, dropped) = (AtomicUsize::new(0), AtomicU64::new(0));
        let shared = Arc::new(Shared { waiting_bytes, dropped, metrics });
        let queue =
            Queue { waiting, batch: Vec::new(), offered: Vec::new(), shared: shared.clone() };
        (Stream { waiting: sender, shared }, queue)
    }

    /// Never waits. Entries offered by one thread are written in that order.
    pub fn offer(&self, entry: Entry) {
        let bytes = entry.bytes();
        let before = self.shared.waiting_bytes.fetch_add(bytes, Ordering::SeqCst);
        let is_sent = before + bytes <= WAITING_BYTES_MAX
            && self.waiting.send(Waiting { entry, at: Instant::now() }).is_ok();
        if !is_sent {
            self.shared.waiting_bytes.fetch_sub(bytes, Ordering::SeqCst);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            self.shared.metrics.streamed.dropped.inc();
        }
    }

    /// Whether something that was offered has not been settled yet.
    pub fn has_waiting(&self) -> bool {
        self.shared.waiting_bytes.load(Ordering::SeqCst) > 0
    }

    /// What was offered and has not been settled, in bytes.
    pub fn waiting_bytes(&self) -> usize {
        self.shared.waiting_bytes.load(Ordering::SeqCst)
    }

    /// How many found no room since this was last asked.
    pub fn take_dropped(&self) -> u64 {
        self.shared.dropped.swap(0, Ordering::Relaxed)
    }
}

impl Queue {
    /// The oldest entries, at least one, when there are any: the same ones until they are settled.
    /// `None`: nothing more can come. Cancel-safe.
    pub async fn batch(&mut self) -> Option<&[Entry]> {
        if self.batch.is_empty() {
            let first = self.waiting.recv().await?;
            self.take(first);
            let mut bytes = self.batch[0].bytes();
            while self.batch.len() < BATCH_ENTRIES_MAX && bytes < BATCH_BYTES_MAX {
                let Ok(next) = self.waiting.try_recv() else { break };
                bytes += next.entry.bytes();
                self.take(next);
            }
        }
        Some(&self.batch)
    }

    fn take(&mut self, Waiting { entry, at }: Waiting) {
        self.batch.push(entry);
        self.offered.push(at);
    }

    /// What became of each entry of the batch: those that are left stay in front.
    pub fn settle(&mut self, fates: &[Fate]) {
        let metrics = &self.shared.metrics.streamed;
        let (batch, offered) = (std::mem::take(&mut self.batch), std::mem::take(&mut self.offered));
        let mut bytes = 0;
        for ((entry, at), fate) in batch.into_iter().zip(offered).zip(fates) {
            match fate {
                Fate::Taken => metrics.taken.inc(),
                Fate::Refused => metrics.refused.inc(),
                Fate::Left => {
                    self.batch.push(entry);
                    self.offered.push(at);
                    continue;
                }
            }
            metrics.seconds.observe(at.elapsed().as_secs_f64());
            bytes += entry.bytes();
        }
        self.shared.waiting_bytes.fetch_sub(bytes, Ordering::SeqCst);
    }

    /// The batch will be written again, though it may have been.
    pub fn repeat(&self) {
        let count = u64::try_from(self.batch.len()).unwrap_or(u64::MAX);
        self.shared.metrics.streamed.repeated.inc_by(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> (Stream, Queue) {
        let metrics = Metrics::new().expect("families have names of their own");
        Stream::new(Arc::new(metrics))
    }

    fn entry(id: usize, bytes: usize) -> Entry {
        let fields = vec![("id", id.to_string()), ("msg", "x".repeat(bytes))];
        Entry { configured: "/ws".into(), partition: 0, fields }
    }

    async fn ids(queue: &mut Queue) -> Vec<usize> {
        let batch = queue.batch().await.expect("the other end is there");
        batch.iter().map(|entry| entry.fields[0].1.parse().expect("a number")).collect()
    }

    #[tokio::test]
    async fn a_batch_stays_in_front_until_it_is_settled() {
        let (stream, mut queue) = stream();
        for id in 0..BATCH_ENTRIES_MAX + 2 {
            stream.offer(entry(id, 1));
        }
        let first: Vec<_> = (0..BATCH_ENTRIES_MAX).collect();
        assert_eq!(ids(&mut queue).await, first);
        queue.repeat();
        stream.offer(entry(1_000, 1));
        assert_eq!(ids(&mut queue).await, first);
        let mut fates = vec![Fate::Taken; BATCH_ENTRIES_MAX];
        fates[3..6].copy_from_slice(&[Fate::Refused, Fate::Left, Fate::Left]);
        queue.settle(&fates);
        // What was left is still in front of what came later.
        assert_eq!(ids(&mut queue).await, [4, 5]);
        queue.settle(&[Fate::Refused, Fate::Taken]);
        assert_eq!(ids(&mut queue).await, [BATCH_ENTRIES_MAX, BATCH_ENTRIES_MAX + 1, 1_000]);
        assert!(stream.has_waiting());
        queue.settle(&[Fate::Taken; 3]);
        assert!(!stream.has_waiting());
        let metrics = &queue.shared.metrics.streamed;
        assert_eq!((metrics.taken.get(), metrics.refused.get()), (257, 2));
        assert_eq!((metrics.repeated.get(), metrics.dropped.get()), (256, 0));
    }

    #[tokio::test]
    async fn what_waits_is_bounded_and_what_is_dropped_is_counted() {
        let (stream, mut queue) = stream();
        for id in 0..70 {
            stream.offer(entry(id, 1 << 20));
        }
        assert_eq!(stream.take_dropped(), 7);
        assert_eq!(stream.take_dropped(), 0);
        assert_eq!(queue.shared.metrics.streamed.dropped.get(), 7);
        // Large ones go one by one.
        assert_eq!(ids(&mut queue).await, [0]);
        queue.settle(&[Fate::Taken]);
        stream.offer(entry(100, 1));
        assert_eq!(stream.take_dropped(), 0);
    }
}

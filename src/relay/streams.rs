//! The writer of streams: takes what shards offered to Redis, batch after batch, and looks after
//! what is there.
//!
//! A batch is written until it is known that it was: Redis away means waiting, and an append of which
//! nothing is known is made again. So events arrive at least once, those of one session for the first
//! time in their order.
//!
//! Streams are trimmed by every pod that has added to them or finds them at its start, to what is not
//! acknowledged by all; several that do so do no more than one. Whenever there is room again, the
//! sessions that were held for want of it are read on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::backend::parts::{Look, Scope};
use crate::backend::stream::{Queue, Stream};
use crate::broker::Failure;
use crate::complaints::Recurring;
use crate::proto::paths::OnFull;
use crate::proto::stream::{Fate, Part};
use crate::relay::Relay;

/// How long after a failed append it is tried again. Redis back is found out that soon.
const APPEND_AGAIN: Duration = Duration::from_millis(100);

/// How often it is looked whether something was dropped, and logged if so.
const COMPLAIN_INTERVAL: Duration = Duration::from_secs(1);

/// How often streams that may hold something are looked at and trimmed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How often those are that sessions wait for: it is what a client may wait longer than it must.
const LOOK_INTERVAL_PRESSED: Duration = Duration::from_millis(200);

/// How far apart looks are at least, also when streams are filled faster than that.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

impl Relay {
    /// Writes until the pod closes. `partitions`: of each configured path.
    pub async fn write_streams(
        self: Arc<Self>,
        stream: Arc<Stream>,
        mut queue: Queue,
        partitions: u32,
        closing: CancellationToken,
    ) {
        tokio::select! {
            () = self.append_all(&stream, &mut queue) => {}
            () = self.look_after(&stream, partitions) => {}
            () = complain(&stream) => {}
            () = closing.cancelled() => {}
        }
    }

    async fn append_all(&self, stream: &Stream, queue: &mut Queue) {
        let complaints = Recurring::default();
        loop {
            let batch = queue.batch().await;
            let fates = match self.broker.append(batch).await {
                Ok(fates) => fates,
                Err(failure) => {
                    if failure == Failure::Unknown {
                        queue.repeat();
                    }
                    tokio::time::sleep(APPEND_AGAIN).await;
                    continue;
                }
            };
            let refused = batch.iter().zip(&fates).filter(|&(_, &fate)| fate == Fate::Refused);
            if let Some((first, _)) = refused.clone().next() {
                let (count, of, part) = (refused.count(), &first.configured, first.partition);
                if complaints.is_due(&format!("{of} {part}")) {
                    tracing::error!(
                        "Redis will not take {count} events, the first one of {of}, part {part}: its \
                         key is no stream, or this pod's user has no right to it; more is counted, \
                         and told again in a minute"
                    );
                }
            }
            let settled = batch.iter().zip(&fates).filter(|&(_, &fate)| fate != Fate::Left);
            for id in settled.filter_map(|(entry, _)| entry.ended()) {
                self.broker.settle(&id);
            }
            queue.settle(&fates);
            self.read_on(stream);
        }
    }

    async fn look_after(&self, stream: &Stream, partitions: u32) {
        for path in self.paths().iter().filter(|path| path.stream) {
            for partition in 0..partitions {
                stream.watch(Part { configured: path.pattern.text().clone(), partition });
            }
        }
        let mut looked = None;
        loop {
            let is_due = looked.is_none_or(|at: Instant| at.elapsed() >= LOOK_INTERVAL);
            let scope = match is_due {
                true => {
                    looked = Some(Instant::now());
                    Scope::Used
                }
                false => Scope::Pressed,
            };
            let looks = stream.looks(scope);
            join_all(looks.iter().map(|look| self.look(stream, look))).await;
            stream.show();
            self.read_on(stream);
            tokio::time::sleep(LOOK_PAUSE).await;
            let interval = match stream.is_pressed() {
                true => LOOK_INTERVAL_PRESSED,
                false => LOOK_INTERVAL,
            };
            // In time or not, it is looked.
            let _ = tokio::time::timeout(interval, stream.pressed()).await;
        }
    }

    async fn look(&self, stream: &Stream, look: &Look) {
        let paths = self.paths();
        let name = &look.part.configured;
        let of_path = paths.named(name).map(|configured| configured.on_full);
        let of_upstream = || self.upstreams.named(name).map(|desk| desk.config.on_full);
        let on_full = of_path.or_else(of_upstream).unwrap_or(OnFull::Backpressure);
        // What cannot be told now stays as it was; why is logged where it failed.
        if let Ok(found) = self.broker.trim(&look.part, stream.backlog_max(), on_full).await {
            stream.looked(look, found);
        }
    }

    fn read_on(&self, stream: &Stream) {
        for session in stream.freed() {
            self.hub.read_on(session);
        }
    }
}

async fn complain(stream: &Stream) {
    let mut interval = tokio::time::interval(COMPLAIN_INTERVAL);
    loop {
        interval.tick().await;
        let dropped = stream.take_dropped();
        if dropped > 0 {
            tracing::error!("dropped {dropped} events: more waits for their streams than may");
        }
    }
}

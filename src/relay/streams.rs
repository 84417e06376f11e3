//! The writer of streams: takes what shards offered to Redis, batch after batch.
//!
//! A batch is written until it is known that it was: Redis away means waiting, and an append of which
//! nothing is known is made again. So events arrive at least once, those of one session for the first
//! time in their order.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::backend::stream::{Queue, Stream};
use crate::broker::Failure;
use crate::proto::stream::Fate;
use crate::relay::Relay;

/// How long after a failed append it is tried again. Redis back is found out that soon.
const APPEND_AGAIN: Duration = Duration::from_millis(100);

/// How often it is looked whether something was dropped, and logged if so.
const COMPLAIN_INTERVAL: Duration = Duration::from_secs(1);

impl Relay {
    /// Writes until the pod closes.
    pub async fn write_streams(
        self: Arc<Self>,
        stream: Arc<Stream>,
        mut queue: Queue,
        closing: CancellationToken,
    ) {
        tokio::select! {
            () = self.append_all(&mut queue) => {}
            () = complain(&stream) => {}
            () = closing.cancelled() => {}
        }
    }

    async fn append_all(&self, queue: &mut Queue) {
        while let Some(batch) = queue.batch().await {
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
                let (count, of) = (refused.count(), &first.configured);
                tracing::error!(
                    "Redis will not take {count} events, the first one of {of}: its key is no \
                     stream, or this pod's user has no right to it"
                );
            }
            let settled = batch.iter().zip(&fates).filter(|&(_, &fate)| fate != Fate::Left);
            for id in settled.filter_map(|(entry, _)| entry.ended()) {
                self.broker.settle(&id);
            }
            queue.settle(&fates);
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

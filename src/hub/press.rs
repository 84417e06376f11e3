//! The press: messages as deflated frames, for those who agreed to have them so.
//!
//! A broadcast is deflated by the first shard that needs it, in its own loop, and the others find it
//! made; two that need it at the same instant may both do it, for nobody waits. What is too large
//! for a loop is made in the back room ([`crate::hub::backroom`]).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::metrics::Metrics;
use crate::proto::deflater::Deflater;
use crate::proto::frame;
use crate::proto::frame::Kind;

/// The largest frame that is deflated in a shard's loop: it takes a third of a millisecond, as long as
/// some forty writes.
pub const LOOP_BYTES_MAX: usize = 64 * 1024;

/// Where the deflated forms of a broadcast come to lie, for all shards.
#[derive(Debug, Default)]
pub struct Deflated {
    payload: Form,
    whole: Form,
}

/// One of them. What does not become smaller stays as it is, which settles it too.
#[derive(Debug, Default)]
pub struct Form {
    frame: OnceLock<Bytes>,
    is_ordered: AtomicBool,
}

/// The encoder of one thread; made when it is first needed.
pub struct Press {
    deflater: Option<Box<Deflater>>,
    metrics: Arc<Metrics>,
}

impl Deflated {
    pub fn form(&self, wholemsg: bool) -> &Form {
        if wholemsg { &self.whole } else { &self.payload }
    }
}

impl Form {
    /// The frame to send, once that is settled.
    pub fn frame(&self) -> Option<&Bytes> {
        self.frame.get()
    }

    /// Settles it, unless somebody was faster.
    pub fn settle(&self, frame: Bytes) {
        // Whoever was faster made the same of the same.
        let _ = self.frame.set(frame);
    }

    /// Whether it will be made in the back room, or has been.
    pub fn is_ordered(&self) -> bool {
        self.is_ordered.load(Ordering::Relaxed)
    }

    /// The back room has taken the order.
    pub fn note_ordered(&self) {
        self.is_ordered.store(true, Ordering::Relaxed);
    }
}

impl Press {
    pub fn new(metrics: Arc<Metrics>) -> Press {
        Press { deflater: None, metrics }
    }

    /// A message as a frame, deflated if that makes it smaller.
    pub fn frame(&mut self, kind: Kind, payload: &[u8]) -> Bytes {
        self.press(kind, payload).unwrap_or_else(|| frame::encode(kind, payload))
    }

    /// The same, of a frame that is not deflated.
    pub fn deflate(&mut self, plain: &Bytes) -> Bytes {
        let (kind, payload) = frame::message(plain);
        self.press(kind, payload).unwrap_or_else(|| plain.clone())
    }

    fn press(&mut self, kind: Kind, payload: &[u8]) -> Option<Bytes> {
        let deflater = self.deflater.get_or_insert_default();
        let frame = deflater.frame(kind, payload);
        let after_bytes = frame.as_ref().map_or(payload.len(), Bytes::len);
        self.metrics.deflate_before_bytes.inc_by(payload.len() as u64);
        self.metrics.deflate_after_bytes.inc_by(after_bytes as u64);
        frame
    }
}

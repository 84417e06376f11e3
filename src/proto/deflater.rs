//! The encoder: a message as one deflated frame (RFC 7692, 7.2.1).
//!
//! Each message is deflated for itself, with nothing taken over from the one before, so one encoder
//! serves everybody, and its frames may be sent to anybody who agreed, in any order. It holds
//! some 300 kB: there is one for each thread that deflates, and none for a connection.

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};

use crate::proto::frame;
use crate::proto::frame::Kind;

/// Of nine: JSON comes out within a tenth of what level 6 makes of it, in half of the time.
const LEVEL: u32 = 3;

/// What a flush ends with, and every receiver adds again (7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// Kept of the buffer between two messages.
const KEPT_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub struct Deflater {
    compress: Compress,
    output: Vec<u8>,
}

impl Deflater {
    pub fn new() -> Deflater {
        let compress = Compress::new(Compression::new(LEVEL), false);
        Deflater { compress, output: Vec::new() }
    }

    /// The message as a frame with its payload deflated; `None` when that would not be smaller.
    pub fn frame(&mut self, kind: Kind, payload: &[u8]) -> Option<Bytes> {
        self.compress.reset();
        self.output.clear();
        // As much as is worth having, so that what does not shrink is given up early.
        self.output.reserve_exact(payload.len() + TAIL.len());
        let done = self.compress.compress_vec(payload, &mut self.output, FlushCompress::Sync);
        let is_whole = done.is_ok()
            && self.compress.total_in() == payload.len() as u64
            // A flush that filled its buffer may have more to say.
            && self.output.len() < self.output.capacity();
        let deflated = self.output.strip_suffix(&TAIL);
        let smaller = deflated.filter(|deflated| is_whole && deflated.len() < payload.len());
        let frame = smaller.map(|deflated| frame::encode_deflated(kind, deflated));
        self.output.shrink_to(KEPT_BYTES);
        frame
    }
}

impl Default for Deflater {
    fn default() -> Deflater {
        Deflater::new()
    }
}

//! The decoder: a client's deflated message as it was (RFC 7692, 7.2.2).
//!
//! It takes a message whole, so between two messages it knows nothing, and one serves everybody; it
//! holds some 50 kB. What it makes of a message is bounded while it is made: a hundred kilobytes
//! may announce a hundred megabytes.

use flate2::{Decompress, FlushDecompress, Status};

use crate::proto::frame::Violation;

/// What every sender leaves out at the end of a message (7.2.2), and then an empty last block. That
/// one is read to its end exactly if the message was whole.
const END: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];

/// A message may consist of several streams, each with a last block of its own (7.2.3.4), two bytes
/// at least; it takes no more than this many, or beginning them would be all that is done.
const STREAMS_MAX: usize = 256;

/// The first buffer, in bytes: most messages are smaller when inflated.
const OUTPUT_BYTES_MIN: usize = 4096;

/// Kept of the buffer between two messages.
const KEPT_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub struct Inflater {
    decompress: Decompress,
    output: Vec<u8>,
    inflated_bytes: u64,
}

impl Inflater {
    pub fn new() -> Inflater {
        Inflater { decompress: Decompress::new(false), output: Vec::new(), inflated_bytes: 0 }
    }

    /// Takes a message, which has at most `bytes_max` bytes when inflated.
    pub fn inflate(&mut self, payload: &[u8], bytes_max: usize) -> Result<(), Violation> {
        self.output.clear();
        self.output.shrink_to(KEPT_BYTES);
        let outcome = self.fill(payload, bytes_max);
        self.inflated_bytes += self.output.len() as u64;
        outcome
    }

    /// The message that was taken last.
    pub fn message(&self) -> &[u8] {
        &self.output
    }

    /// What it has made so far of all messages, in bytes.
    pub fn inflated_bytes(&self) -> u64 {
        self.inflated_bytes
    }

    fn fill(&mut self, payload: &[u8], bytes_max: usize) -> Result<(), Violation> {
        let mut rest = payload;
        if rest.is_empty() {
            // An encoder that has nothing to flush may say nothing.
            return Ok(());
        }
        for _ in 0..STREAMS_MAX {
            self.decompress.reset(false);
            if self.run(&mut rest, bytes_max)? == Stream::Ended {
                if rest.is_empty() {
                    // The last block of a message may be its end.
                    return Ok(());
                }
                continue;
            }
            let mut end = &END[..];
            let ended = self.run(&mut end, bytes_max)? == Stream::Ended;
            return if ended && end.is_empty() { Ok(()) } else { Err(Violation::Deflated) };
        }
        Err(Violation::Deflated)
    }

    /// Reads on in one stream, to its end or the input's.
    fn run(&mut self, input: &mut &[u8], bytes_max: usize) -> Result<Stream, Violation> {
        loop {
            if self.output.len() == self.output.capacity() {
                // One byte too many tells a message that is too big from one that just fits.
                let doubled_bytes = (self.output.len() * 2).max(OUTPUT_BYTES_MIN);
                let wanted_bytes = doubled_bytes.min(bytes_max.saturating_add(1));
                self.output.reserve_exact(wanted_bytes - self.output.len());
            }
            let (before_in, before_out) = (self.decompress.total_in(), self.output.len());
            let status =
                self.decompress.decompress_vec(input, &mut self.output, FlushDecompress::Sync);
            let taken_bytes = (self.decompress.total_in() - before_in) as usize;
            *input = &input[taken_bytes..];
            if self.output.len() > bytes_max {
                return Err(Violation::TooBig { bytes_max });
            }
            match status {
                Err(_) => return Err(Violation::Deflated),
                Ok(Status::StreamEnd) => return Ok(Stream::Ended),
                Ok(_) if self.output.len() == self.output.capacity() => {}
                Ok(_) if input.is_empty() => return Ok(Stream::Open),
                // It does not get on with what it has.
                Ok(_) if taken_bytes == 0 && self.output.len() == before_out => {
                    return Err(Violation::Deflated);
                }
                Ok(_) => {}
            }
        }
    }
}

impl Default for Inflater {
    fn default() -> Inflater {
        Inflater::new()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Open,
    Ended,
}

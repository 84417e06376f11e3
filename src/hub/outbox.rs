//! The bounded queue in front of one socket. It exists only while a socket did not take something.
//!
//! Pieces begin on a frame's edge; of the first, a part may be written. So what is queued can be
//! cut off behind the frame that is on its way, and nothing is ever written into a frame begun.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};

use bytes::Bytes;

use crate::hub::socket::Socket;
use crate::proto::frame;

/// Buffers handed to one `writev`: more gains nothing, and it bounds the array on the stack.
const SLICES_MAX: usize = 16;

#[derive(Debug, Default)]
pub struct Outbox {
    pieces: VecDeque<Bytes>,
    /// Of the first piece, already written.
    written: usize,
    /// Left to write.
    bytes: usize,
    /// Of those, what belongs to the piece that found the outbox empty.
    first_bytes: usize,
    /// When the socket last took something, by the shard's clock.
    pub moved_ms: u64,
}

impl Outbox {
    /// Nothing has waited before `now_ms`.
    pub fn new(now_ms: u64) -> Outbox {
        Outbox { moved_ms: now_ms, ..Outbox::default() }
    }

    /// Left to write, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Whether `more` fits: the piece that found the outbox empty does not count.
    pub fn fits(&self, more: usize, bytes_max: usize) -> bool {
        self.is_empty() || self.bytes - self.first_bytes + more <= bytes_max
    }

    /// Queues whole frames, of which the socket took `written` bytes already.
    pub fn push(&mut self, mut frames: Bytes, mut written: usize) {
        debug_assert!(written == 0 || self.is_empty(), "nothing is written past an outbox");
        if written == frames.len() {
            return;
        }
        // A rest that is small against the shared buffer it would pin is copied out, from the edge
        // of the frame that is on its way.
        let edge = frame::span(&frames, written).start;
        if written > 0 && frames.len() - edge < frames.len() / 2 {
            frames = Bytes::copy_from_slice(&frames[edge..]);
            written -= edge;
        }
        if self.is_empty() {
            self.written = written;
            self.first_bytes = frames.len() - written;
        }
        self.bytes += frames.len() - written;
        self.pieces.push_back(frames);
    }

    /// Drops everything behind the frame that is on its way; how many bytes that were.
    pub fn cut(&mut self) -> usize {
        let before = self.bytes;
        let rest = self.pieces.front().filter(|_| self.written > 0).map(|first| {
            let end = frame::span(first, self.written).end;
            if end == self.written { Bytes::new() } else { first.slice(..end) }
        });
        self.pieces.clear();
        self.bytes = 0;
        self.first_bytes = 0;
        match rest.filter(|rest| !rest.is_empty()) {
            Some(rest) => {
                self.bytes = rest.len() - self.written;
                self.first_bytes = self.bytes;
                self.pieces.push_back(rest);
            }
            None => self.written = 0,
        }
        before - self.bytes
    }

    /// Writes what the socket takes. `Ok` also when something is left.
    pub fn flush(&mut self, socket: &mut Socket, now_ms: u64) -> io::Result<()> {
        while !self.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut offset = self.written;
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                *slice = IoSlice::new(&piece[offset..]);
                offset = 0;
            }
            let count = self.pieces.len().min(SLICES_MAX);
            match socket.write_vectored(&slices[..count]) {
                Ok(taken) => self.took(taken, now_ms),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn took(&mut self, mut taken: usize, now_ms: u64) {
        self.moved_ms = now_ms;
        self.bytes -= taken;
        self.first_bytes = self.first_bytes.saturating_sub(taken);
        while let Some(first) = self.pieces.front() {
            let left = first.len() - self.written;
            if taken < left {
                self.written += taken;
                return;
            }
            taken -= left;
            self.written = 0;
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::frame::{Kind, encode};

    fn frames(payloads: &[usize]) -> Bytes {
        let mut joined = Vec::new();
        for &len in payloads {
            joined.extend_from_slice(&encode(Kind::Binary, &vec![b'x'; len]));
        }
        joined.into()
    }

    #[test]
    fn the_message_that_found_it_empty_does_not_count() {
        let mut outbox = Outbox::new(0);
        assert!(outbox.fits(1 << 30, 10));
        outbox.push(frames(&[1000]), 0);
        assert!(outbox.fits(10, 10));
        assert!(!outbox.fits(11, 10));
        outbox.push(frames(&[3]), 0);
        assert!(outbox.fits(5, 10));
        assert!(!outbox.fits(6, 10));
        outbox.took(900, 1);
        assert!(!outbox.fits(6, 10), "what drains first is the first piece");
        outbox.took(104 + 2, 2);
        assert!(outbox.fits(7, 10));
        assert!(!outbox.fits(8, 10));
        assert_eq!(outbox.bytes(), 3);
    }

    #[test]
    fn a_cut_leaves_only_the_frame_on_its_way() {
        let mut outbox = Outbox::new(0);
        outbox.push(frames(&[100, 100, 100]), 0);
        outbox.push(frames(&[50]), 0);
        assert_eq!(outbox.cut(), 3 * 102 + 52, "nothing begun, nothing left");
        assert!(outbox.is_empty());

        outbox.push(frames(&[100, 100, 100]), 150);
        outbox.push(frames(&[50]), 0);
        assert_eq!(outbox.cut(), 102 + 52);
        assert_eq!(outbox.bytes(), 54);
        outbox.took(54, 0);
        assert!(outbox.is_empty());

        outbox.push(frames(&[100, 100]), 102);
        assert_eq!(outbox.cut(), 102, "a frame's edge is no frame on its way");
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_small_rest_does_not_pin_a_large_buffer() {
        let mut outbox = Outbox::new(0);
        let shared = frames(&[100; 100]);
        outbox.push(shared.clone(), 102 * 99 + 7);
        assert!(shared.is_unique(), "the rest was copied out");
        assert_eq!(outbox.bytes(), 95);
        assert_eq!(outbox.cut(), 0);
        assert_eq!(outbox.bytes(), 95);
    }

    #[test]
    fn pieces_drain_in_order_across_edges() {
        let mut outbox = Outbox::new(0);
        outbox.push(frames(&[8]), 3);
        outbox.push(frames(&[8]), 0);
        outbox.push(frames(&[8]), 0);
        assert_eq!(outbox.bytes(), 27);
        outbox.took(7, 5);
        outbox.took(15, 6);
        assert_eq!((outbox.bytes(), outbox.moved_ms), (5, 6));
        outbox.took(5, 7);
        assert!(outbox.is_empty() && outbox.pieces.is_empty());
    }
}

//! The bounded queue in front of one socket. It exists only while a socket did not take something.
//!
//! What waits are whole frames, but for the one that is on its way: that lies apart, so nothing is
//! ever written into it, and it is never dropped. Broadcasts, which a path may allow to be dropped,
//! lie apart from what is for this session alone, which never is; a number on each keeps their one
//! order.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::ops::Range;

use bytes::{Buf, Bytes};

use crate::hub::socket::Socket;
use crate::proto::frame;
use crate::proto::paths::Slow;

/// Buffers handed to one `writev`: more gains nothing, and it bounds the array on the stack.
const SLICES_MAX: usize = 16;

#[derive(Debug, Default)]
pub struct Outbox {
    /// What is left of the frame on its way.
    begun: Bytes,
    /// The size of the buffer that it is a part of.
    begun_pinned_bytes: usize,
    broadcasts: VecDeque<Piece>,
    /// Unicasts and control frames.
    singles: VecDeque<Piece>,
    next_number: u64,
    /// Left to write.
    bytes: usize,
    /// Of those, what `broadcasts` holds.
    broadcast_bytes: usize,
    /// Of those, what belongs to the message that found the outbox empty.
    first_bytes: usize,
    /// When the socket last took something, by the shard's clock.
    pub moved_ms: u64,
}

/// Whom frames are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Broadcast,
    /// This session alone: unicasts and control frames.
    Single,
}

/// How much may wait, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Without the message that found the outbox empty.
    pub bytes_max: usize,
    /// What the other outboxes leave of what all may hold.
    pub share_bytes_max: usize,
}

/// There is no room, and none may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Whole frames, back to back.
#[derive(Debug)]
struct Piece {
    frames: Bytes,
    /// Its place in the order of all.
    number: u64,
    /// The size of the buffer that `frames` is a part of.
    pinned_bytes: usize,
}

impl Bounds {
    /// For what has to wait in any case: it is small and comes once.
    pub const NONE: Bounds = Bounds { bytes_max: usize::MAX, share_bytes_max: usize::MAX };

    fn hold(self, bytes: usize, first_bytes: usize, more: usize) -> bool {
        (bytes == 0 || (bytes - first_bytes).saturating_add(more) <= self.bytes_max)
            && bytes.saturating_add(more) <= self.share_bytes_max
    }
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

    /// Of those, what is not to be dropped, whatever the policy.
    pub fn firm_bytes(&self) -> usize {
        self.bytes - self.broadcast_bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Queues whole frames, those from the beginning of `written` on, of which the socket took as much as
    /// that already, and makes room for them as `slow` says; how many frames of broadcasts were dropped,
    /// these included. A frame begun has to be kept whatever the bounds say, so what is partly written
    /// is never refused.
    pub fn take(
        &mut self,
        frames: Bytes,
        written: Range<usize>,
        class: Class,
        slow: Slow,
        bounds: Bounds,
    ) -> Result<u64, Full> {
        debug_assert!(written.is_empty() || self.is_empty(), "nothing is written past an outbox");
        let keeps_newest = slow == Slow::Latest && class == Class::Broadcast;
        let mut dropped = if keeps_newest { self.drop_broadcasts() } else { 0 };
        let was_empty = self.is_empty();
        let pinned_bytes = frames.len();
        // Where all hold as much as they may, a copy for each would be more than one buffer for all.
        let may_copy = self.bytes + (frames.len() - written.end) <= bounds.share_bytes_max;
        let (begun, rest, older) = parts(frames, written.end, keeps_newest, may_copy);
        dropped += older;
        if slow == Slow::DropOldest && class == Class::Broadcast {
            return Ok(self.take_singly(begun, &rest, pinned_bytes, bounds));
        }
        let more = begun.len() + rest.len();
        let may_make_room = slow == Slow::DropOldest
            && bounds.hold(self.firm_bytes(), self.firm_first_bytes(), more);
        if written.is_empty() && !may_make_room && !bounds.hold(self.bytes, self.first_bytes, more)
        {
            return Err(Full);
        }
        self.push(begun, rest, class, pinned_bytes);
        if was_empty {
            // Where frames are dropped one by one, only one is the message that does not count.
            self.first_bytes = if slow == Slow::Close { more } else { self.first_frame_bytes() };
        }
        while may_make_room
            && self.broadcast_bytes > 0
            && !bounds.hold(self.bytes, self.first_bytes, 0)
        {
            self.drop_oldest();
            dropped += 1;
            self.spare_if_alone(more);
        }
        Ok(dropped)
    }

    /// Queues a broadcast's frames, each of them as if it came alone, dropping the oldest; how many.
    fn take_singly(
        &mut self,
        begun: Bytes,
        frames: &Bytes,
        pinned_bytes: usize,
        bounds: Bounds,
    ) -> u64 {
        if !begun.is_empty() {
            self.first_bytes = begun.len();
            self.push(begun, Bytes::new(), Class::Broadcast, pinned_bytes);
        }
        let number = self.next_number;
        self.next_number += 1;
        let (mut end, mut dropped) = (0, 0);
        while end < frames.len() {
            let bytes = frame::first(&frames[end..]);
            if self.is_empty() {
                self.first_bytes = bytes;
            }
            // They stay one piece, which grows at its end while its beginning may be dropped.
            let own = self.broadcasts.pop_back_if(|piece| piece.number == number);
            let begin = end - own.map_or(0, |piece| piece.frames.len());
            end += bytes;
            let frames = frames.slice(begin..end);
            self.broadcasts.push_back(Piece { frames, number, pinned_bytes });
            self.bytes += bytes;
            self.broadcast_bytes += bytes;
            while self.broadcast_bytes > 0 && !bounds.hold(self.bytes, self.first_bytes, 0) {
                self.drop_oldest();
                dropped += 1;
                if self.broadcast_bytes == bytes {
                    self.spare_if_alone(bytes);
                }
            }
        }
        dropped
    }

    /// The newest message, if everything else was dropped for it, is as one that found nothing waiting.
    fn spare_if_alone(&mut self, bytes: usize) {
        if self.bytes == bytes {
            self.first_bytes = bytes;
        }
    }

    /// Drops everything behind the frame that is on its way; how many bytes that were.
    pub fn cut(&mut self) -> usize {
        let before = self.bytes;
        self.broadcasts.clear();
        self.singles.clear();
        self.broadcast_bytes = 0;
        self.bytes = self.begun.len();
        self.first_bytes = self.bytes;
        before - self.bytes
    }

    /// Writes what the socket takes. `Ok` also when something is left.
    pub fn flush(&mut self, socket: &mut Socket, now_ms: u64) -> io::Result<()> {
        let sealed_bytes = socket.sealed_bytes();
        while !self.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut count = 0;
            for (slice, waiting) in slices.iter_mut().zip(self.waiting()) {
                *slice = IoSlice::new(waiting);
                count += 1;
            }
            match socket.write_vectored(&slices[..count]) {
                Ok(taken) => self.took(taken, now_ms),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    // Of what TLS had taken before, which is less than all of it.
                    if socket.sealed_bytes() < sealed_bytes {
                        self.moved_ms = now_ms;
                    }
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What is left to write, in its order.
    fn waiting(&self) -> impl Iterator<Item = &Bytes> {
        let mut broadcasts = self.broadcasts.iter().peekable();
        let mut singles = self.singles.iter().peekable();
        let pieces = std::iter::from_fn(move || match (broadcasts.peek(), singles.peek()) {
            (Some(broadcast), Some(single)) if single.number < broadcast.number => singles.next(),
            (Some(_), _) => broadcasts.next(),
            (None, _) => singles.next(),
        });
        let begun = Some(&self.begun).filter(|begun| !begun.is_empty());
        begun.into_iter().chain(pieces.map(|piece| &piece.frames))
    }

    fn took(&mut self, mut taken: usize, now_ms: u64) {
        self.moved_ms = now_ms;
        self.bytes -= taken;
        self.first_bytes = self.first_bytes.saturating_sub(taken);
        loop {
            if taken < self.begun.len() {
                self.begun.advance(taken);
                return self.unpin_begun();
            }
            taken -= self.begun.len();
            // Even without bytes it would hold on to its buffer.
            self.begun = Bytes::new();
            if taken == 0 {
                return;
            }
            self.begin_next(&mut taken);
        }
    }

    /// Takes the whole frames off the next piece that are written, and what of them is left of one
    /// that is begun by that.
    fn begin_next(&mut self, taken: &mut usize) {
        let is_broadcast = self.is_broadcast_next();
        let queue = if is_broadcast { &mut self.broadcasts } else { &mut self.singles };
        let piece = queue.front_mut().expect("what was written had been waiting");
        let written = (*taken).min(piece.frames.len());
        let end = frame::span(&piece.frames, written).end;
        self.begun = piece.frames.split_to(end).split_off(written);
        self.begun_pinned_bytes = piece.pinned_bytes;
        if piece.frames.is_empty() {
            queue.pop_front();
        }
        if is_broadcast {
            self.broadcast_bytes -= end;
        }
        *taken -= written;
    }

    /// Lets go of a buffer of which little is left, if that frees it. Else a client that takes all but
    /// the last bytes of what is sent to it would hold far more than is counted.
    fn unpin_begun(&mut self) {
        if self.begun.len() < self.begun_pinned_bytes / 2 && self.begun.is_unique() {
            self.begun = Bytes::copy_from_slice(&self.begun);
            self.begun_pinned_bytes = self.begun.len();
        }
    }

    /// Whether a broadcast is next, behind the frame that is on its way.
    fn is_broadcast_next(&self) -> bool {
        match (self.broadcasts.front(), self.singles.front()) {
            (Some(broadcast), Some(single)) => broadcast.number < single.number,
            (broadcast, _) => broadcast.is_some(),
        }
    }

    /// Whether what does not count is a broadcast not begun, so that it may be dropped.
    fn is_first_loose(&self) -> bool {
        self.first_bytes > 0 && self.begun.is_empty() && self.is_broadcast_next()
    }

    /// What `first_bytes` would be without broadcasts: where the first goes, the next does not count.
    fn firm_first_bytes(&self) -> usize {
        match self.singles.front() {
            _ if !self.is_first_loose() => self.first_bytes,
            Some(single) => frame::first(&single.frames),
            None => 0,
        }
    }

    fn first_frame_bytes(&self) -> usize {
        match self.waiting().next() {
            Some(_) if !self.begun.is_empty() => self.begun.len(),
            next => next.map_or(0, |frames| frame::first(frames)),
        }
    }

    fn push(&mut self, begun: Bytes, frames: Bytes, class: Class, pinned_bytes: usize) {
        self.bytes += begun.len() + frames.len();
        if !begun.is_empty() {
            (self.begun, self.begun_pinned_bytes) = (begun, pinned_bytes);
        }
        if frames.is_empty() {
            return;
        }
        let piece = Piece { number: self.next_number, pinned_bytes, frames };
        self.next_number += 1;
        match class {
            Class::Broadcast => {
                self.broadcast_bytes += piece.frames.len();
                self.broadcasts.push_back(piece);
            }
            Class::Single => self.singles.push_back(piece),
        }
    }

    /// Drops the oldest frame of a broadcast that is not begun.
    fn drop_oldest(&mut self) {
        let is_first = self.is_first_loose();
        let Some(piece) = self.broadcasts.front_mut() else { return };
        let bytes = frame::first(&piece.frames);
        piece.frames.advance(bytes);
        if piece.frames.is_empty() {
            self.broadcasts.pop_front();
        } else if piece.frames.len() < piece.pinned_bytes / 2 {
            piece.frames = Bytes::copy_from_slice(&piece.frames);
            piece.pinned_bytes = piece.frames.len();
        }
        self.bytes -= bytes;
        self.broadcast_bytes -= bytes;
        if is_first {
            self.first_bytes = self.first_frame_bytes();
        }
    }

    /// Drops all broadcasts that are not begun; how many frames that were.
    fn drop_broadcasts(&mut self) -> u64 {
        self.first_bytes = self.firm_first_bytes();
        self.bytes -= std::mem::take(&mut self.broadcast_bytes);
        self.broadcasts.drain(..).map(|piece| frame::count(&piece.frames)).sum()
    }
}

/// What is left of a frame that was partly written, and the frames after it: all, or only the last
/// one, and how many that leaves out.
fn parts(frames: Bytes, written: usize, keeps_newest: bool, may_copy: bool) -> (Bytes, Bytes, u64) {
    let pinned_bytes = frames.len();
    // A small part of a buffer would pin all of it.
    let unpinned = |part: Bytes| match may_copy && part.len() < pinned_bytes / 2 {
        true => Bytes::copy_from_slice(&part),
        false => part,
    };
    let end = frame::span(&frames, written).end;
    if !keeps_newest {
        let mut rest = unpinned(frames.slice(written..));
        let begun = rest.split_to(end - written);
        return (begun, rest, 0);
    }
    let rest = frames.slice(end..);
    let (start, older) = frame::last(&rest);
    let begun = unpinned(frames.slice(written..end));
    (begun, unpinned(rest.slice(start..)), older)
}

#[cfg(test)]
mod tests;

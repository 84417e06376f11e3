//! One connection's side of the protocol: bytes of a client in, what to do about them out
//! (RFC 6455, sections 5 to 7).
//!
//! Invariants: at rest a session owns nothing on the heap, and a small message that arrives whole
//! is handed on from where it was read. What is kept of an unfinished message grows with the bytes
//! that arrived, never with those announced, and stays within the limit. What is done about some
//! bytes does not depend on how they were cut into pieces.
//!
//! There are tens of thousands of these, nearly all at rest, so everything that an unfinished
//! frame needs lives in one box that is not there otherwise.

use std::ops::Range;

use simdutf8::compat;

use crate::proto::close;
use crate::proto::close::{Cause, Close};
use crate::proto::frame;
use crate::proto::frame::{Head, Kind, Opcode, Room, Violation};

/// The first buffer of a message that arrives in pieces, in bytes: below it doubling only costs.
const DATA_BYTES_MIN: usize = 64;

/// The protocol's state of one connection.
#[derive(Debug, Default)]
pub struct Session {
    phase: Phase,
    unfinished: Option<Box<Unfinished>>,
}

const _: () = assert!(size_of::<Session>() <= 40);

/// What to do about the bytes that were fed.
#[derive(Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// All input is consumed and there is nothing to do. Pongs end here.
    Idle,
    /// A whole message; a text is valid UTF-8.
    Message { kind: Kind, data: &'a [u8] },
    /// To be answered by a pong with the same bytes.
    Ping(&'a [u8]),
    /// The client's close frame; code 1005 when it had none. To be echoed unless the session was
    /// closing before. Whatever follows is swallowed.
    Closed(Close),
    /// The client broke the protocol or sent too much: send this close, unless the session was
    /// closing before, and end the connection. Whatever follows is swallowed.
    Fail { close: Close, cause: Cause },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Open,
    /// The server's close frame is sent, the client's is awaited.
    Closing,
    /// Nothing that arrives counts any more.
    Ended,
}

/// What is kept between two reads, of a head, a payload or a message cut in two.
#[derive(Debug, Default)]
struct Unfinished {
    /// The first bytes of a head.
    head: [u8; frame::HEAD_BYTES_MAX],
    head_bytes: usize,
    /// The frame whose payload is arriving: how many bytes are still missing, and the key turned
    /// so that it fits the first of them.
    frame: Option<Head>,
    /// The payload of a control frame so far.
    control: Vec<u8>,
    /// Of what kind the message in `data` is, until it is finished.
    message: Option<Kind>,
    data: Vec<u8>,
    /// So much of a text is known to be valid; what follows is the start of one character.
    valid_bytes: usize,
}

/// An action before it borrows anything.
enum Found {
    Nothing,
    Message(Kind, Place),
    Ping(Place),
    Closed(Close),
}

/// Where the bytes of an action lie.
enum Place {
    Input(Range<usize>),
    Held,
}

impl Session {
    pub const fn new() -> Session {
        Session { phase: Phase::Open, unfinished: None }
    }

    /// Takes bytes just read, which are unmasked in place; tells how many were consumed and what
    /// to do about them. To be called again with the rest, an empty rest too, until it says
    /// [`Action::Idle`]. A message has at most `message_bytes_max` bytes, all fragments together.
    pub fn feed<'a>(
        &'a mut self,
        input: &'a mut [u8],
        message_bytes_max: usize,
    ) -> (usize, Action<'a>) {
        self.tidy();
        let mut at = 0;
        let found = match self.phase {
            Phase::Ended => Ok(Found::Nothing),
            Phase::Open | Phase::Closing => self.advance(input, &mut at, message_bytes_max),
        };
        let held = |unfinished: &'a Option<Box<Unfinished>>| {
            unfinished.as_deref().expect("what is held is in the box until the next feed")
        };
        match found {
            Ok(Found::Nothing) => {
                self.tidy();
                (input.len(), Action::Idle)
            }
            Ok(Found::Message(kind, Place::Input(range))) => {
                (at, Action::Message { kind, data: &input[range] })
            }
            Ok(Found::Message(kind, Place::Held)) => {
                (at, Action::Message { kind, data: &held(&self.unfinished).data })
            }
            Ok(Found::Ping(Place::Input(range))) => (at, Action::Ping(&input[range])),
            Ok(Found::Ping(Place::Held)) => (at, Action::Ping(&held(&self.unfinished).control)),
            Ok(Found::Closed(close)) => {
                self.end();
                (input.len(), Action::Closed(close))
            }
            Err(violation) => {
                self.end();
                let cause = match violation {
                    Violation::TooBig { .. } => Cause::TooBig,
                    _ => Cause::Protocol,
                };
                let close = Close::new(violation.code(), violation.to_string());
                (input.len(), Action::Fail { close, cause })
            }
        }
    }

    /// Heap bytes of what is unfinished; 0 at rest, which every [`Action::Idle`] without an
    /// unfinished message or frame leads to.
    pub fn held_bytes(&self) -> usize {
        self.unfinished.as_ref().map_or(0, |unfinished| {
            size_of::<Unfinished>() + unfinished.data.capacity() + unfinished.control.capacity()
        })
    }

    /// The server has sent its close frame: from now on messages and pings are swallowed unread,
    /// only the client's close frame counts, and heads that make the rest unreadable.
    pub fn begin_close(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Closing;
        }
        if let Some(unfinished) = &mut self.unfinished {
            unfinished.message = None;
            if !unfinished.frame.is_some_and(|frame| frame.opcode == Opcode::Close) {
                unfinished.control = Vec::new();
            }
        }
        self.tidy();
    }

    /// Whether a close has begun, by the server or, once told, by the client or a failure.
    pub fn is_closing(&self) -> bool {
        self.phase != Phase::Open
    }

    fn end(&mut self) {
        self.phase = Phase::Ended;
        self.unfinished = None;
    }

    /// Frees what has been handed on, and the box when nothing is left in it.
    fn tidy(&mut self) {
        let Some(unfinished) = &mut self.unfinished else { return };
        if unfinished.message.is_none() {
            unfinished.data = Vec::new();
            unfinished.valid_bytes = 0;
        }
        if !unfinished.frame.is_some_and(|frame| frame.opcode.is_control()) {
            unfinished.control = Vec::new();
        }
        let waits = unfinished.frame.is_some() || unfinished.head_bytes > 0;
        if !waits && unfinished.message.is_none() {
            self.unfinished = None;
        }
    }

    /// Consumes input up to the first thing that asks for an action.
    fn advance(
        &mut self,
        input: &mut [u8],
        at: &mut usize,
        message_bytes_max: usize,
    ) -> Result<Found, Violation> {
        loop {
            let begun = self.unfinished.as_mut().and_then(|unfinished| unfinished.frame.take());
            let mut frame = match begun {
                Some(frame) => frame,
                None => match self.head(input, at, message_bytes_max)? {
                    Some(head) => head,
                    None => return Ok(Found::Nothing),
                },
            };
            let end = input.len().min(at.saturating_add(frame.payload_bytes));
            let place = *at..end;
            *at = end;
            frame.payload_bytes -= place.len();
            let found = if self.is_swallowed(frame.opcode) {
                None
            } else {
                let piece = &mut input[place.clone()];
                frame::unmask(piece, frame.key);
                frame.key.rotate_left(place.len() % 4);
                if frame.opcode.is_control() {
                    self.control(&frame, piece, place)?
                } else {
                    self.data(&frame, piece, place, message_bytes_max)?
                }
            };
            if let Some(found) = found {
                return Ok(found);
            }
            if frame.payload_bytes > 0 {
                self.unfinished.get_or_insert_default().frame = Some(frame);
                return Ok(Found::Nothing);
            }
        }
    }

    /// The next head, from input alone or from what an earlier read began. `None`: the input ended
    /// first, and what there was of a head is kept.
    fn head(
        &mut self,
        input: &[u8],
        at: &mut usize,
        message_bytes_max: usize,
    ) -> Result<Option<Head>, Violation> {
        let room = self.room(message_bytes_max);
        let fresh = &input[*at..];
        let kept_bytes = self.unfinished.as_ref().map_or(0, |unfinished| unfinished.head_bytes);
        if kept_bytes == 0 {
            if let Some((head, head_bytes)) = Head::parse(fresh, &room)? {
                *at += head_bytes;
                return Ok(Some(head));
            }
            if fresh.is_empty() {
                return Ok(None);
            }
        }
        let unfinished = self.unfinished.get_or_insert_default();
        let more = fresh.len().min(frame::HEAD_BYTES_MAX - kept_bytes);
        let known_bytes = kept_bytes + more;
        unfinished.head[kept_bytes..known_bytes].copy_from_slice(&fresh[..more]);
        match Head::parse(&unfinished.head[..known_bytes], &room)? {
            Some((head, head_bytes)) => {
                unfinished.head_bytes = 0;
                *at += head_bytes - kept_bytes;
                Ok(Some(head))
            }
            None => {
                unfinished.head_bytes = known_bytes;
                *at += more;
                Ok(None)
            }
        }
    }

    /// Which data frame may come now, and how large it may be (RFC 6455, 5.4).
    fn room(&self, message_bytes_max: usize) -> impl Fn(Opcode) -> Result<Room, Violation> + use<> {
        let is_closing = self.is_closing();
        let (begun, held_bytes) = match &self.unfinished {
            Some(unfinished) => (unfinished.message.is_some(), unfinished.data.len()),
            None => (false, 0),
        };
        move |opcode| match (opcode == Opcode::Continuation, begun) {
            // Nothing of it is kept, and what it continues may have gone already.
            _ if is_closing => Ok(Room { payload_bytes: usize::MAX, message_bytes_max }),
            (true, false) => Err(Violation::NothingToContinue),
            (false, true) => Err(Violation::Interrupted),
            _ => {
                let payload_bytes = message_bytes_max.saturating_sub(held_bytes);
                Ok(Room { payload_bytes, message_bytes_max })
            }
        }
    }

    fn is_swallowed(&self, opcode: Opcode) -> bool {
        match opcode {
            Opcode::Close => false,
            Opcode::Pong => true,
            _ => self.is_closing(),
        }
    }

    /// Takes a piece of a ping's or a close frame's payload.
    fn control(
        &mut self,
        frame: &Head,
        piece: &[u8],
        place: Range<usize>,
    ) -> Result<Option<Found>, Violation> {
        let finished = frame.payload_bytes == 0;
        let kept = self.unfinished.as_ref().is_some_and(|kept| !kept.control.is_empty());
        let (payload, place) = if finished && !kept {
            (piece, Place::Input(place))
        } else {
            let control = &mut self.unfinished.get_or_insert_default().control;
            control.extend_from_slice(piece);
            (control.as_slice(), Place::Held)
        };
        Ok(match frame.opcode {
            _ if !finished => None,
            Opcode::Close => Some(Found::Closed(parse_close(payload)?)),
            _ => Some(Found::Ping(place)),
        })
    }

    /// Takes a piece of a message.
    fn data(
        &mut self,
        frame: &Head,
        piece: &[u8],
        place: Range<usize>,
        message_bytes_max: usize,
    ) -> Result<Option<Found>, Violation> {
        let finished = frame.fin && frame.payload_bytes == 0;
        let begun = self.unfinished.as_ref().and_then(|unfinished| unfinished.message);
        let kind = match (frame.opcode, begun) {
            (_, Some(kind)) => kind,
            (Opcode::Text, None) => Kind::Text,
            (Opcode::Binary, None) => Kind::Binary,
            (_, None) => return Err(Violation::NothingToContinue),
        };
        if begun.is_none() && finished {
            if kind == Kind::Text && compat::from_utf8(piece).is_err() {
                return Err(Violation::Text);
            }
            return Ok(Some(Found::Message(kind, Place::Input(place))));
        }
        let unfinished = self.unfinished.get_or_insert_default();
        unfinished.message = Some(kind);
        let whole_bytes_max = match frame.fin {
            true => unfinished.data.len() + piece.len() + frame.payload_bytes,
            false => message_bytes_max,
        };
        unfinished.keep(piece, whole_bytes_max);
        if kind == Kind::Text {
            unfinished.check_text(finished)?;
        }
        if !finished {
            return Ok(None);
        }
        unfinished.message = None;
        Ok(Some(Found::Message(kind, Place::Held)))
    }
}

impl Unfinished {
    /// Adds a piece to the message, which will have at most `whole_bytes_max`: doubles as a `Vec`
    /// does, but never beyond that.
    fn keep(&mut self, piece: &[u8], whole_bytes_max: usize) {
        let needed_bytes = self.data.len() + piece.len();
        if needed_bytes > self.data.capacity() {
            let doubled_bytes = (self.data.capacity() * 2).max(DATA_BYTES_MIN);
            let wanted_bytes = doubled_bytes.min(whole_bytes_max).max(needed_bytes);
            self.data.reserve_exact(wanted_bytes - self.data.len());
        }
        self.data.extend_from_slice(piece);
    }

    /// Checks what is new of a text. A character cut in two is an error only when nothing follows.
    fn check_text(&mut self, finished: bool) -> Result<(), Violation> {
        match compat::from_utf8(&self.data[self.valid_bytes..]) {
            Ok(_) => self.valid_bytes = self.data.len(),
            Err(error) if error.error_len().is_none() && !finished => {
                self.valid_bytes += error.valid_up_to();
            }
            Err(_) => return Err(Violation::Text),
        }
        Ok(())
    }
}

/// Reads a close frame's payload (RFC 6455, 5.5.1 and 7.4).
fn parse_close(payload: &[u8]) -> Result<Close, Violation> {
    let (code, reason) = match payload {
        [] => return Ok(Close::new(Close::NO_CODE, "")),
        [_] => return Err(Violation::CloseTruncated),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    if !close::is_receivable(code) {
        return Err(Violation::CloseCode);
    }
    match compat::from_utf8(reason) {
        Ok(reason) => Ok(Close::new(code, reason)),
        Err(_) => Err(Violation::CloseReason),
    }
}

//! One connection's side of the protocol: bytes of a client in, what to do about them out
//! (RFC 6455, sections 5 to 7).
//!
//! Invariants: at rest a session owns nothing on the heap, and a small message that arrives whole
//! is handed on from where it was read. What is kept of an unfinished message grows with the bytes
//! that arrived, never with those announced, and stays within the limit. What is done about some
//! bytes does not depend on how they were cut into pieces.
//!
//! There are tens of thousands of these, nearly all at rest, so everything that an unfinished
//! frame needs lives in one box that is not there otherwise. For the same reason a deflated message is
//! kept as it came and inflated when it is whole, by a decoder that the caller has for all of them.

use std::ops::Range;

use simdutf8::compat;

use crate::proto::close;
use crate::proto::close::{Cause, Close};
use crate::proto::frame;
use crate::proto::frame::{Head, Kind, Opcode, Room, Violation};
use crate::proto::inflater::Inflater;

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
    /// Whether it is deflated.
    deflated: bool,
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
    /// In the inflater.
    Inflated,
}

/// What holds for one session's messages.
#[derive(Debug, Clone, Copy)]
struct Terms {
    message_bytes_max: usize,
    may_deflate: bool,
}

impl Session {
    pub const fn new() -> Session {
        Session { phase: Phase::Open, unfinished: None }
    }

    /// Takes bytes just read, which are unmasked in place; tells how many were consumed and what
    /// to do about them. To be called again with the rest, an empty rest too, until it says
    /// [`Action::Idle`]. A message has at most `message_bytes_max` bytes, all fragments together and
    /// inflated. With an `inflater` messages may be deflated, which was agreed on for the session.
    pub fn feed<'a>(
        &'a mut self,
        input: &'a mut [u8],
        message_bytes_max: usize,
        mut inflater: Option<&'a mut Inflater>,
    ) -> (usize, Action<'a>) {
        self.tidy();
        let mut at = 0;
        let found = match self.phase {
            Phase::Ended => Ok(Found::Nothing),
            Phase::Open | Phase::Closing => {
                self.advance(input, &mut at, message_bytes_max, inflater.as_deref_mut())
            }
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
            Ok(Found::Message(kind, Place::Inflated)) => {
                let data = inflater.map_or(&[][..], |inflater| inflater.message());
                (at, Action::Message { kind, data })
            }
            Ok(Found::Ping(Place::Input(range))) => (at, Action::Ping(&input[range])),
            Ok(Found::Ping(_)) => (at, Action::Ping(&held(&self.unfinished).control)),
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
        mut inflater: Option<&mut Inflater>,
    ) -> Result<Found, Violation> {
        let terms = Terms { message_bytes_max, may_deflate: inflater.is_some() };
        loop {
            let begun = self.unfinished.as_mut().and_then(|unfinished| unfinished.frame.take());
            let mut frame = match begun {
                Some(frame) => frame,
                None => match self.head(input, at, terms)? {
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
                    self.data(&frame, piece, place, message_bytes_max, inflater.as_deref_mut())?
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
        terms: Terms,
    ) -> Result<Option<Head>, Violation> {
        let room = self.room(terms);
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
    fn room(&self, terms: Terms) -> impl Fn(Opcode, bool) -> Result<Room, Violation> + use<> {
        let is_closing = self.is_closing();
        let (begun, was_deflated, held_bytes) = match &self.unfinished {
            Some(one) => {
                let begun = one.message.is_some();
                (begun, begun && one.deflated, one.data.len())
            }
            None => (false, false, 0),
        };
        let message_bytes_max = terms.message_bytes_max;
        move |opcode, deflated| match (opcode == Opcode::Continuation, begun) {
            _ if deflated && !terms.may_deflate => Err(Violation::ReservedBit),
            // Nothing of it is kept, and what it continues may have gone already.
            _ if is_closing => Ok(Room { payload_bytes: usize::MAX, message_bytes_max }),
            (true, false) => Err(Violation::NothingToContinue),
            (false, true) => Err(Violation::Interrupted),
            _ => {
                let whole_bytes_max = match deflated || was_deflated {
                    true => deflated_bytes_max(message_bytes_max),
                    false => message_bytes_max,
                };
                let payload_bytes = whole_bytes_max.saturating_sub(held_bytes);
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
        inflater: Option<&mut Inflater>,
    ) -> Result<Option<Found>, Violation> {
        let finished = frame.fin && frame.payload_bytes == 0;
        let begun = self.unfinished.as_ref().and_then(|one| Some((one.message?, one.deflated)));
        let (kind, deflated) = match (frame.opcode, begun) {
            (_, Some(begun)) => begun,
            (Opcode::Text, None) => (Kind::Text, frame.deflated),
            (Opcode::Binary, None) => (Kind::Binary, frame.deflated),
            (_, None) => return Err(Violation::NothingToContinue),
        };
        if begun.is_none() && finished {
            if deflated {
                return inflate(kind, piece, message_bytes_max, inflater).map(Some);
            }
            if kind == Kind::Text && compat::from_utf8(piece).is_err() {
                return Err(Violation::Text);
            }
            return Ok(Some(Found::Message(kind, Place::Input(place))));
        }
        let unfinished = self.unfinished.get_or_insert_default();
        unfinished.message = Some(kind);
        unfinished.deflated = deflated;
        let whole_bytes_max = match (frame.fin, deflated) {
            (true, _) => unfinished.data.len() + piece.len() + frame.payload_bytes,
            (false, true) => deflated_bytes_max(message_bytes_max),
            (false, false) => message_bytes_max,
        };
        unfinished.keep(piece, whole_bytes_max);
        if kind == Kind::Text && !deflated {
            unfinished.check_text(finished)?;
        }
        if !finished {
            return Ok(None);
        }
        unfinished.message = None;
        if deflated {
            return inflate(kind, &unfinished.data, message_bytes_max, inflater).map(Some);
        }
        Ok(Some(Found::Message(kind, Place::Held)))
    }
}

/// What a message may have while it is deflated: of what cannot be made smaller, zlib with its
/// smallest memory makes an eighth more and some.
fn deflated_bytes_max(message_bytes_max: usize) -> usize {
    message_bytes_max.saturating_add(message_bytes_max / 4).saturating_add(64)
}

/// Inflates a whole message; a text can only now be checked (RFC 7692, 6.2).
fn inflate(
    kind: Kind,
    payload: &[u8],
    message_bytes_max: usize,
    inflater: Option<&mut Inflater>,
) -> Result<Found, Violation> {
    // The head was refused where it was not agreed on.
    let inflater = inflater.ok_or(Violation::ReservedBit)?;
    inflater.inflate(payload, message_bytes_max)?;
    if kind == Kind::Text && compat::from_utf8(inflater.message()).is_err() {
        return Err(Violation::Text);
    }
    Ok(Found::Message(kind, Place::Inflated))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::deflater::Deflater;

    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    const MAX: usize = 300;

    /// An action that outlives its buffers; of a failure without the reason's words.
    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Seen {
        Text(String),
        Binary(Vec<u8>),
        Ping(Vec<u8>),
        Closed(u16, String),
        Fail(u16, Cause),
    }

    use Seen::{Binary, Closed, Fail, Ping};

    fn text(text: &str) -> Seen {
        Seen::Text(text.into())
    }

    const PROTOCOL: Seen = Fail(1002, Cause::Protocol);
    const NOT_UTF8: Seen = Fail(1007, Cause::Protocol);
    const TOO_BIG: Seen = Fail(1009, Cause::TooBig);

    /// A client's frame, masked; `first` is its first byte.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            len @ 0..126 => frame.push(0x80 | len as u8),
            len => frame.extend([0xfe, (len >> 8) as u8, len as u8]),
        }
        frame.extend(KEY);
        frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
        frame
    }

    /// Feeds one read's bytes until the session is idle.
    fn read(session: &mut Session, bytes: &[u8]) -> Vec<Seen> {
        read_with(session, bytes, None)
    }

    fn read_with(
        session: &mut Session,
        bytes: &[u8],
        mut inflater: Option<&mut Inflater>,
    ) -> Vec<Seen> {
        let mut input = bytes.to_vec();
        let mut rest = &mut input[..];
        let mut seen = Vec::new();
        loop {
            let (consumed, action) = session.feed(rest, MAX, inflater.as_deref_mut());
            seen.push(match action {
                Action::Idle => {
                    assert_eq!(consumed, rest.len(), "idle only at the end");
                    return seen;
                }
                Action::Message { kind: Kind::Text, data } => {
                    text(std::str::from_utf8(data).expect("a text is UTF-8"))
                }
                Action::Message { kind: Kind::Binary, data } => Binary(data.to_vec()),
                Action::Ping(data) => Ping(data.to_vec()),
                Action::Closed(close) => Closed(close.code, close.reason),
                Action::Fail { close, cause } => Fail(close.code, cause),
            });
            rest = &mut rest[consumed..];
        }
    }

    fn read_pieces(session: &mut Session, bytes: &[u8], size: usize) -> Vec<Seen> {
        bytes.chunks(size).flat_map(|piece| read(session, piece)).collect()
    }

    /// The frames cause this, however they are cut, and leave nothing behind.
    #[track_caller]
    fn check(frames: &[Vec<u8>], expected: &[Seen]) {
        let bytes = frames.concat();
        for size in [bytes.len(), 1, 2, 3, 7] {
            let mut session = Session::new();
            assert_eq!(read_pieces(&mut session, &bytes, size), expected, "in pieces of {size}");
            assert_eq!(session.held_bytes(), 0, "in pieces of {size}");
        }
    }

    /// The last of these bytes, and none before, makes the session fail.
    #[track_caller]
    fn fails_at_once(bytes: &[u8], expected: Seen) {
        let mut session = Session::new();
        let (last, before) = bytes.split_last().expect("there are bytes");
        assert_eq!(read_pieces(&mut session, before, 1), []);
        assert_eq!(read(&mut session, &[*last]), [expected]);
    }

    #[test]
    fn a_message_is_handed_on_whole() {
        check(&[frame(0x81, b"")], &[text("")]);
        check(&[frame(0x81, "κόσμε".as_bytes())], &[text("κόσμε")]);
        check(&[frame(0x82, &[0, 255])], &[Binary(vec![0, 255])]);
        check(&[frame(0x81, b"a"), frame(0x82, b"b")], &[text("a"), Binary(b"b".to_vec())]);
        check(&[frame(0x01, b"a"), frame(0x80, b"b")], &[text("ab")]);
        check(&[frame(0x02, b"a"), frame(0x00, b""), frame(0x80, b"")], &[Binary(b"a".to_vec())]);
        check(&[frame(0x01, b""), frame(0x80, b""), frame(0x81, b"x")], &[text(""), text("x")]);
        check(&[frame(0x01, &[0xce]), frame(0x80, &[0xba])], &[text("κ")]);
        check(
            &[frame(0x01, &[0xf0, 0x9f]), frame(0, &[0x98]), frame(0x80, &[0x80])],
            &[text("😀")],
        );
    }

    #[test]
    fn control_frames_may_come_between_fragments() {
        let fragmented = [
            frame(0x01, b"a"),
            frame(0x89, b"one"),
            frame(0x8a, b"swallowed"),
            frame(0x00, b"b"),
            frame(0x89, b""),
            frame(0x80, b"c"),
        ];
        check(&fragmented, &[Ping(b"one".to_vec()), Ping(vec![]), text("abc")]);
        check(&[frame(0x01, b"a"), frame(0x88, b"")], &[Closed(1005, String::new())]);
        check(&[frame(0x89, &[7; 125])], &[Ping(vec![7; 125])]);
    }

    #[test]
    fn fragments_out_of_order_are_refused() {
        check(&[frame(0x80, b"x")], &[PROTOCOL]);
        check(&[frame(0x00, b"x"), frame(0x81, b"y")], &[PROTOCOL]);
        check(&[frame(0x01, b"x"), frame(0x81, b"y")], &[PROTOCOL]);
        check(&[frame(0x01, b"x"), frame(0x02, b"y")], &[PROTOCOL]);
        check(&[frame(0x81, b"x"), frame(0x80, b"y")], &[text("x"), PROTOCOL]);
        fails_at_once(&[0x80], PROTOCOL);
    }

    #[test]
    fn text_that_is_not_utf8_fails_with_its_first_bad_byte() {
        check(&[frame(0x81, &[0xff])], &[NOT_UTF8]);
        check(&[frame(0x81, b"\xce")], &[NOT_UTF8]);
        check(&[frame(0x01, b"\xce"), frame(0x80, b"")], &[NOT_UTF8]);
        check(&[frame(0x01, b"\xce"), frame(0x80, b"a")], &[NOT_UTF8]);
        check(&[frame(0x81, b"\xed\xa0\x80")], &[NOT_UTF8]);
        check(&[frame(0x82, &[0xff])], &[Binary(vec![0xff])]);
        // Overlong, surrogate, beyond U+10FFFF: the second byte tells, the frame goes on.
        for start in [&b"ok\xc0"[..], b"\xe0\x80", b"\xed\xa0", b"\xf4\x90", b"\xf5"] {
            let whole = frame(0x81, &[start, &[0x80; 10]].concat());
            fails_at_once(&whole[..6 + start.len()], NOT_UTF8);
            let fragment = frame(0x01, &[start, &[0x80; 10]].concat());
            fails_at_once(&fragment[..6 + start.len()], NOT_UTF8);
        }
        let continued = [frame(0x01, b"\xf4"), frame(0x80, &[0x90, 0x80, 0x80])].concat();
        fails_at_once(&continued[..continued.len() - 2], NOT_UTF8);
    }

    #[test]
    fn a_message_has_at_most_the_limit_all_fragments_together() {
        let (part, rest) = ([b'x'; MAX - 1], [b'x'; 2]);
        check(&[frame(0x82, &[1; MAX])], &[Binary(vec![1; MAX])]);
        check(&[frame(0x02, &[1; MAX]), frame(0x80, b"")], &[Binary(vec![1; MAX])]);
        let fits = [frame(0x01, &part), frame(0x80, b"x"), frame(0x81, &part)];
        check(&fits, &[text(&"x".repeat(MAX)), text(&"x".repeat(MAX - 1))]);
        check(&[frame(0x82, &[1; MAX + 1])], &[TOO_BIG]);
        check(&[frame(0x01, &part), frame(0x80, &rest)], &[TOO_BIG]);
        check(
            &[frame(0x01, &part), frame(0x89, b"p"), frame(0x00, &rest)],
            &[Ping(b"p".to_vec()), TOO_BIG],
        );
        fails_at_once(&frame(0x82, &[1; MAX + 1])[..4], TOO_BIG);
        fails_at_once(&[0x82, 0xff, 0, 0, 0, 0, 0xff, 0, 0, 0], TOO_BIG);
    }

    #[test]
    fn a_clients_close_is_told_and_checked() {
        let closed = |code, reason: &str| [Closed(code, reason.into())];
        check(&[frame(0x88, b"")], &closed(1005, ""));
        check(&[frame(0x88, b"\x03\xe8")], &closed(1000, ""));
        check(&[frame(0x88, "\u{f}\u{0}bye é".as_bytes())], &closed(3840, "bye é"));
        check(&[frame(0x88, &[0x0f; 125])], &closed(0x0f0f, &"\u{f}".repeat(123)));
        check(&[frame(0x88, b""), frame(0x81, b"x"), vec![0xff; 9]], &closed(1005, ""));
        check(&[frame(0x88, b"\x03")], &[PROTOCOL]);
        check(&[frame(0x88, b"\x03\xed")], &[PROTOCOL]);
        check(&[frame(0x88, b"\x03\xee")], &[PROTOCOL]);
        check(&[frame(0x88, b"\x03\xe8\xff")], &[NOT_UTF8]);
        check(&[frame(0x88, b"\x03\xe8\xc3")], &[NOT_UTF8]);
    }

    #[test]
    fn after_a_failure_everything_is_swallowed() {
        let frames = [frame(0x81, b"a"), vec![0x83], frame(0x81, b"b"), frame(0x88, b"")];
        check(&frames, &[text("a"), PROTOCOL]);
        let mut session = Session::new();
        read(&mut session, &[0x83]);
        assert!(session.is_closing());
        session.begin_close();
        assert_eq!(read(&mut session, &frame(0x88, b"")), []);
    }

    /// The server closes after `before` bytes of the first frame; the rest is swallowed, and then
    /// the client's close is heard.
    #[track_caller]
    fn closes_after(first: &[u8], before: usize) {
        let swallowed = [frame(0x81, &[0xff; MAX + 1]), frame(0x89, b"p"), frame(0x80, b"")];
        let rest = [&first[before..], &swallowed.concat(), &frame(0x88, b"\x03\xe8bye")].concat();
        for size in [rest.len(), 1, 2] {
            let mut session = Session::new();
            assert!(!session.is_closing());
            assert_eq!(read(&mut session, &first[..before]), []);
            session.begin_close();
            assert!(session.is_closing());
            let closed = [Closed(1000, "bye".into())];
            assert_eq!(read_pieces(&mut session, &rest, size), closed, "in pieces of {size}");
            assert_eq!(session.held_bytes(), 0);
        }
    }

    #[test]
    fn a_closing_session_holds_no_message() {
        let mut session = Session::new();
        assert_eq!(read(&mut session, &frame(0x02, &[1; MAX])), []);
        assert!(session.held_bytes() > MAX);
        session.begin_close();
        assert_eq!(session.held_bytes(), 0);
        assert_eq!(read(&mut session, &frame(0x82, &[1; MAX])[..200]), []);
        assert_eq!(session.held_bytes(), size_of::<Unfinished>());
    }

    #[test]
    fn an_unfinished_message_holds_at_most_the_limit() {
        let whole = frame(0x82, &[1; MAX]);
        let fragment = [frame(0x01, &[b'x'; 10]), frame(0x00, &[b'x'; MAX - 10])].concat();
        for bytes in [&whole[..whole.len() - 1], &fragment] {
            let mut session = Session::new();
            assert_eq!(read_pieces(&mut session, bytes, 1), []);
            assert_eq!(session.held_bytes(), size_of::<Unfinished>() + MAX);
        }
    }

    #[test]
    fn once_closing_only_the_clients_close_counts() {
        let first = frame(0x89, b"a ping cut in two");
        (0..first.len()).for_each(|before| closes_after(&first, before));
        let first = frame(0x81, b"a message cut in two");
        (0..first.len()).for_each(|before| closes_after(&first, before));
        let first = frame(0x01, b"a fragment");
        (0..=first.len()).for_each(|before| closes_after(&first, before));
        let mut session = Session::new();
        session.begin_close();
        assert_eq!(read(&mut session, &[0x81, 0x01]), [PROTOCOL]);
    }

    #[test]
    fn a_close_frame_half_read_when_the_server_closes_still_counts() {
        let close = frame(0x88, b"\x03\xe8bye");
        for before in 0..close.len() {
            let mut session = Session::new();
            assert_eq!(read(&mut session, &close[..before]), []);
            session.begin_close();
            assert_eq!(read(&mut session, &close[before..]), [Closed(1000, "bye".into())]);
        }
    }

    /// The frames of a client who agreed to deflated messages cause this, however they are cut.
    #[track_caller]
    fn check_deflated(frames: &[Vec<u8>], expected: &[Seen]) {
        let bytes = frames.concat();
        // Shared with somebody else, whose messages leave nothing behind.
        let mut inflater = Inflater::new();
        for size in [bytes.len(), 1, 2, 3, 7] {
            let mut session = Session::new();
            let pieces = bytes.chunks(size);
            let seen: Vec<_> = pieces
                .flat_map(|piece| {
                    let seen = read_with(&mut session, piece, Some(&mut inflater));
                    read_with(&mut Session::new(), &frame(0xc1, OTHER), Some(&mut inflater));
                    seen
                })
                .collect();
            assert_eq!(seen, expected, "in pieces of {size}");
            assert_eq!(session.held_bytes(), 0, "in pieces of {size}");
        }
    }

    /// RFC 7692, 7.2.3.1.
    const HELLO: &[u8] = &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    /// The stored blocks of "other", as in 7.2.3.3.
    const OTHER: &[u8] = b"\x00\x05\x00\xfa\xffother\x00";

    #[test]
    fn a_deflated_message_is_handed_on_inflated() {
        check_deflated(&[frame(0xc1, HELLO)], &[text("Hello")]);
        check_deflated(&[frame(0xc2, HELLO)], &[Binary(b"Hello".to_vec())]);
        check_deflated(&[frame(0xc1, &[0])], &[text("")]);
        check_deflated(
            &[frame(0xc1, HELLO), frame(0x81, b"plain")],
            &[text("Hello"), text("plain")],
        );
        // Its fragments are those of the deflated bytes, and only the first one says so.
        let fragments = [frame(0x41, &HELLO[..3]), frame(0x89, b"p"), frame(0x80, &HELLO[3..])];
        check_deflated(&fragments, &[Ping(b"p".to_vec()), text("Hello")]);
        let fragments = [frame(0x41, b""), frame(0, HELLO), frame(0x80, b""), frame(0x81, b"x")];
        check_deflated(&fragments, &[text("Hello"), text("x")]);
        let plain = [frame(0x01, b"not "), frame(0x80, b"deflated"), frame(0xc1, HELLO)];
        check_deflated(&plain, &[text("not deflated"), text("Hello")]);
    }

    #[test]
    fn the_bit_stands_on_the_first_frame_of_a_message_and_only_where_agreed() {
        check(&[frame(0xc1, HELLO)], &[PROTOCOL]);
        check(&[frame(0x01, b"a"), frame(0xc0, b"")], &[PROTOCOL]);
        check_deflated(&[frame(0x41, HELLO), frame(0xc0, b"")], &[PROTOCOL]);
        check_deflated(&[frame(0xc9, b"")], &[PROTOCOL]);
        check_deflated(&[frame(0xc8, b"")], &[PROTOCOL]);
        check_deflated(&[frame(0xa1, HELLO)], &[PROTOCOL]);
        check_deflated(&[frame(0xe1, HELLO)], &[PROTOCOL]);
        check_deflated(&[frame(0x41, HELLO), frame(0xc1, HELLO)], &[PROTOCOL]);
    }

    #[test]
    fn a_deflated_message_is_whole_of_the_right_size_and_a_text_utf8() {
        check_deflated(&[frame(0xc1, &HELLO[..6])], &[NOT_UTF8]);
        check_deflated(&[frame(0xc2, &[0xff; 9])], &[NOT_UTF8]);
        check_deflated(&[frame(0xc1, b"\x00\x01\x00\xfe\xff\xff\x00")], &[NOT_UTF8]);
        check_deflated(&[frame(0xc2, b"\x00\x01\x00\xfe\xff\xff\x00")], &[Binary(vec![0xff])]);
        // A character may be cut by the frames, not by the message.
        let cut = b"\x00\x02\x00\xfd\xff\xce\xba\x00";
        check_deflated(&[frame(0x41, &cut[..6]), frame(0x80, &cut[6..])], &[text("κ")]);
        let deflated = |count| {
            let frame = Deflater::new().frame(Kind::Text, &vec![b'x'; count]);
            frame::message(&frame.expect("it shrinks")).1.to_vec()
        };
        check_deflated(&[frame(0xc1, &deflated(MAX))], &[text(&"x".repeat(MAX))]);
        check_deflated(&[frame(0xc1, &deflated(MAX + 1))], &[TOO_BIG]);
        check_deflated(&[frame(0xc1, &deflated(1 << 20))], &[TOO_BIG]);
        // What cannot be made smaller may be a little larger; but only while it is deflated.
        let stored = [b"\x00\x2c\x01\xd3\xfe", &[7; MAX][..], &[0]].concat();
        check_deflated(&[frame(0xc2, &stored)], &[Binary(vec![7; MAX])]);
        let fragments =
            [frame(0x42, &stored[..9]), frame(0, &stored[9..300]), frame(0x80, &stored[300..])];
        check_deflated(&fragments, &[Binary(vec![7; MAX])]);
        let after = [frame(0xc1, HELLO), frame(0x01, b"x"), frame(0x80, &[b'x'; MAX])];
        check_deflated(&after, &[text("Hello"), TOO_BIG]);
        check_deflated(&[frame(0xc2, &[0; 2 * MAX])], &[TOO_BIG]);
    }

    #[test]
    fn an_unfinished_deflated_message_holds_what_came_of_it() {
        let mut inflater = Inflater::new();
        for fragment in [false, true] {
            let mut session = Session::new();
            let first = if fragment { 0x42 } else { 0xc2 };
            let whole = frame(first, &[1; MAX + 50]);
            let end = whole.len() - usize::from(!fragment);
            let pieces = whole[..end].chunks(1);
            let seen = pieces.flat_map(|piece| read_with(&mut session, piece, Some(&mut inflater)));
            assert_eq!(seen.collect::<Vec<_>>(), []);
            let most = size_of::<Unfinished>() + deflated_bytes_max(MAX);
            assert!(session.held_bytes() <= most, "{}", session.held_bytes());
            session.begin_close();
            assert!(session.held_bytes() <= size_of::<Unfinished>());
        }
    }

    #[test]
    fn what_lies_whole_in_the_input_is_neither_copied_nor_allocated_for() {
        let mut session = Session::new();
        let mut input = [frame(0x81, b"hello"), frame(0x89, b"p")].concat();
        let lies = input.as_ptr_range();
        let (consumed, action) = session.feed(&mut input, MAX, None);
        let Action::Message { data, .. } = action else { panic!("{action:?}") };
        assert!(lies.contains(&data.as_ptr()));
        assert_eq!((consumed, session.held_bytes()), (11, 0));
        let (_, action) = session.feed(&mut input[consumed..], MAX, None);
        let Action::Ping(data) = action else { panic!("{action:?}") };
        assert!(lies.contains(&data.as_ptr()));
        assert_eq!(session.held_bytes(), 0);
    }

    #[test]
    fn an_announced_size_costs_nothing_until_it_comes() {
        let mut session = Session::new();
        let mut input = [0x82, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0, 1, 2, 3, 4, 5];
        assert_eq!(session.feed(&mut input, usize::MAX, None), (15, Action::Idle));
        assert!(session.held_bytes() < 400, "{}", session.held_bytes());
    }
}

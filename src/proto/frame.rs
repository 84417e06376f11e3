//! WebSocket frames on the wire (RFC 6455 section 5): a strict reader of clients' heads, a writer
//! of the server's frames.
//!
//! A head is judged byte by byte as it arrives and whole before anything is kept for its payload:
//! what a client announces costs nothing until it is sent. Server frames are final and unmasked,
//! hence the same bytes for everybody, and any number of them may lie in one buffer.

use std::ops::Range;

use bytes::Bytes;

use crate::proto::close::Close;

/// The longest payload of a control frame, in bytes (RFC 6455, 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

/// The longest head of a client's frame, in bytes: two, a 64-bit length, the masking key.
pub const HEAD_BYTES_MAX: usize = 14;

/// The same without the key, as the server writes it.
const SERVER_HEAD_BYTES_MAX: usize = 10;

const FIN: u8 = 0x80;
/// The message is deflated, where that was agreed on (RFC 7692, 6).
const RSV1: u8 = 0x40;
/// Whatever else is not agreed on.
const RESERVED: u8 = 0x30;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;
/// In the place of a length: the length follows in two bytes, in eight (RFC 6455, 5.2).
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// The two kinds of message (RFC 6455, 5.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Text,
    Binary,
}

/// What a frame is (RFC 6455, 5.2). The others are reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

/// The head of a client's frame. Existing, it is proof of everything that a head must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub fin: bool,
    /// The message that begins here is deflated.
    pub deflated: bool,
    pub opcode: Opcode,
    pub key: [u8; 4],
    pub payload_bytes: usize,
}

/// How a client broke the protocol; its text is the reason that the client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("a reserved bit is set and no extension was agreed on")]
    ReservedBit,
    #[error("this opcode is reserved")]
    ReservedOpcode,
    #[error("a client has to mask its frames")]
    Unmasked,
    #[error("a control frame must not be fragmented")]
    ControlFragmented,
    #[error("a control frame has at most {CONTROL_BYTES_MAX} bytes")]
    ControlTooLong,
    #[error("the payload length is not in its shortest form")]
    LengthNotShortest,
    #[error("the payload length has its first bit set")]
    LengthNegative,
    #[error("a continuation frame without a message to continue")]
    NothingToContinue,
    #[error("a new message began inside a fragmented one")]
    Interrupted,
    #[error("a close frame has no byte or at least two")]
    CloseTruncated,
    #[error("a close code that must not be sent")]
    CloseCode,
    #[error("a close reason that is not UTF-8")]
    CloseReason,
    #[error("a text message that is not UTF-8")]
    Text,
    #[error("a deflated message that cannot be inflated")]
    Deflated,
    #[error("a message has at most {bytes_max} bytes here")]
    TooBig { bytes_max: usize },
}

/// How much a data frame may carry where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// What is left for this frame of what a message may have.
    pub payload_bytes: usize,
    /// What a message may have.
    pub message_bytes_max: usize,
}

impl Opcode {
    fn parse(nibble: u8) -> Option<Opcode> {
        Some(match nibble {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return None,
        })
    }

    pub fn is_control(self) -> bool {
        matches!(self, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }
}

impl Violation {
    /// The close code that answers it (RFC 6455, 7.4.1).
    pub fn code(self) -> u16 {
        match self {
            Violation::CloseReason | Violation::Text | Violation::Deflated => 1007,
            Violation::TooBig { .. } => 1009,
            _ => 1002,
        }
    }
}

impl Head {
    /// Reads a head from the first bytes of a frame; with it, how many bytes it took. `None`: good
    /// so far, but not all there, which needs fewer than [`HEAD_BYTES_MAX`] bytes. A violation is
    /// found with the first byte that shows it. `room` is asked of data frames only, as soon as
    /// the opcode is known, and may refuse it; also told whether the frame says that it begins a
    /// deflated message.
    pub fn parse(
        bytes: &[u8],
        room: impl FnOnce(Opcode, bool) -> Result<Room, Violation>,
    ) -> Result<Option<(Head, usize)>, Violation> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        if first & RESERVED != 0 {
            return Err(Violation::ReservedBit);
        }
        let opcode = Opcode::parse(first & 0x0f).ok_or(Violation::ReservedOpcode)?;
        let fin = first & FIN != 0;
        if opcode.is_control() && !fin {
            return Err(Violation::ControlFragmented);
        }
        let deflated = first & RSV1 != 0;
        let room = match opcode {
            // A bit for whole messages: it stands on the first frame of one (RFC 7692, 6.1).
            Opcode::Continuation | Opcode::Close | Opcode::Ping | Opcode::Pong if deflated => {
                return Err(Violation::ReservedBit);
            }
            Opcode::Close | Opcode::Ping | Opcode::Pong => None,
            _ => Some(room(opcode, deflated)?),
        };

        let Some(&second) = bytes.get(1) else { return Ok(None) };
        if second & MASKED == 0 {
            return Err(Violation::Unmasked);
        }
        let short = second & LENGTH;
        if room.is_none() && usize::from(short) > CONTROL_BYTES_MAX {
            return Err(Violation::ControlTooLong);
        }
        let (length, shortest, key_at) = match short {
            LENGTH_16 => {
                let Some(&length) = chunk(bytes, 2) else { return Ok(None) };
                (u64::from(u16::from_be_bytes(length)), u64::from(LENGTH_16), 4)
            }
            LENGTH_64 => {
                let Some(&length) = chunk(bytes, 2) else { return Ok(None) };
                (u64::from_be_bytes(length), 1 << 16, 10)
            }
            short => (u64::from(short), 0, 2),
        };
        if length >> 63 != 0 {
            return Err(Violation::LengthNegative);
        }
        if length < shortest {
            return Err(Violation::LengthNotShortest);
        }
        // What does not even fit into a `usize` is larger than any limit.
        let payload_bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if let Some(room) = room
            && payload_bytes > room.payload_bytes
        {
            return Err(Violation::TooBig { bytes_max: room.message_bytes_max });
        }
        let Some(&key) = chunk(bytes, key_at) else { return Ok(None) };
        Ok(Some((Head { fin, deflated, opcode, key, payload_bytes }, key_at + key.len())))
    }
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..)?.first_chunk()
}

/// Takes a client's mask off, in place (RFC 6455, 5.3). Of a payload that comes in pieces, each
/// piece needs the key turned left by the number of bytes before it.
pub fn unmask(payload: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    // Eight bytes at a time, which the compiler makes sixteen or more; the rest starts where the
    // key does.
    let (words, rest) = payload.as_chunks_mut();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// A whole server message as one unmasked, final frame, in one allocation.
pub fn encode(kind: Kind, payload: &[u8]) -> Bytes {
    let mut frame = Vec::new();
    append(&mut frame, kind, payload);
    Bytes::from(frame)
}

/// As `encode`, of a payload that was deflated (RFC 7692, 6.1).
pub fn encode_deflated(kind: Kind, payload: &[u8]) -> Bytes {
    let mut frame = Vec::new();
    append(&mut frame, kind, payload);
    frame[0] |= RSV1;
    Bytes::from(frame)
}

/// The message in a frame that `encode` made.
pub fn message(frame: &[u8]) -> (Kind, &[u8]) {
    let kind = match frame.first() {
        Some(first) if first & 0x0f == Opcode::Text as u8 => Kind::Text,
        _ => Kind::Binary,
    };
    let head_bytes = match frame.get(1) {
        Some(&LENGTH_16) => 4,
        Some(&LENGTH_64) => 10,
        _ => 2,
    };
    (kind, frame.get(head_bytes..).unwrap_or_default())
}

/// A ping; a payload over [`CONTROL_BYTES_MAX`] is cut to it.
pub fn encode_ping(payload: &[u8]) -> Bytes {
    write(Opcode::Ping, &[&payload[..payload.len().min(CONTROL_BYTES_MAX)]])
}

/// A close frame; an empty one for the codes that are never written, 1005 and 1006.
pub fn encode_close(close: &Close) -> Bytes {
    if matches!(close.code, Close::NO_CODE | Close::NO_FRAME) {
        return write(Opcode::Close, &[]);
    }
    // Cut again: the fields are open to everybody.
    let close = Close::new(close.code, close.reason.as_str());
    write(Opcode::Close, &[&close.code.to_be_bytes(), close.reason.as_bytes()])
}

/// As `encode`, behind what is there.
pub fn append(frames: &mut Vec<u8>, kind: Kind, payload: &[u8]) {
    let opcode = match kind {
        Kind::Text => Opcode::Text,
        Kind::Binary => Opcode::Binary,
    };
    write_to(frames, opcode, &[payload]);
}

/// A pong behind what is there; a payload over [`CONTROL_BYTES_MAX`] is cut to it.
pub fn append_pong(frames: &mut Vec<u8>, payload: &[u8]) {
    write_to(frames, Opcode::Pong, &[&payload[..payload.len().min(CONTROL_BYTES_MAX)]]);
}

/// One final, unmasked frame with these parts as its payload.
fn write(opcode: Opcode, parts: &[&[u8]]) -> Bytes {
    let mut frame = Vec::new();
    write_to(&mut frame, opcode, parts);
    Bytes::from(frame)
}

fn write_to(frames: &mut Vec<u8>, opcode: Opcode, parts: &[&[u8]]) {
    let payload_bytes: usize = parts.iter().map(|part| part.len()).sum();
    let mut head = [0; SERVER_HEAD_BYTES_MAX];
    head[0] = FIN | opcode as u8;
    let head = match payload_bytes {
        0..=125 => {
            head[1] = payload_bytes as u8;
            &head[..2]
        }
        126..=0xffff => {
            head[1] = LENGTH_16;
            head[2..4].copy_from_slice(&(payload_bytes as u16).to_be_bytes());
            &head[..4]
        }
        _ => {
            head[1] = LENGTH_64;
            head[2..].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
            &head[..]
        }
    };
    // A frame of its own takes what it needs and no more.
    match frames.is_empty() {
        true => frames.reserve_exact(head.len() + payload_bytes),
        false => frames.reserve(head.len() + payload_bytes),
    }
    frames.extend_from_slice(head);
    for part in parts {
        frames.extend_from_slice(part);
    }
}

/// The frame that is begun but not finished at `offset`; empty when `offset` is a frame's edge.
/// `frames` are whole frames of this module's making, back to back.
pub fn span(frames: &[u8], offset: usize) -> Range<usize> {
    let mut start = 0;
    loop {
        let end = start + frame_bytes(frames, start);
        if offset == start || offset >= frames.len() {
            return offset..offset;
        }
        if offset < end {
            return start..end;
        }
        start = end;
    }
}

/// How many frames these are: whole ones of this module's making, back to back.
pub fn count(frames: &[u8]) -> u64 {
    let mut start = 0;
    let mut count = 0;
    while start < frames.len() {
        start += frame_bytes(frames, start);
        count += 1;
    }
    count
}

/// The length of the first of these frames: whole ones of this module's making, back to back.
pub fn first(frames: &[u8]) -> usize {
    frame_bytes(frames, 0)
}

/// Where the last of these frames begins, and how many come before it: whole ones of this module's
/// making, back to back.
pub fn last(frames: &[u8]) -> (usize, u64) {
    let (mut start, mut before) = (0, 0);
    loop {
        let next = start + frame_bytes(frames, start);
        if next >= frames.len() {
            return (start, before);
        }
        start = next;
        before += 1;
    }
}

/// The length of the server frame that begins at `start`: head and payload. Never 0, so that
/// whoever walks gets on.
fn frame_bytes(frames: &[u8], start: usize) -> usize {
    let rest = frames.len().saturating_sub(start).max(1);
    match frames.get(start + 1) {
        Some(&LENGTH_16) => chunk(frames, start + 2)
            .map_or(rest, |&length| 4 + usize::from(u16::from_be_bytes(length))),
        Some(&LENGTH_64) => chunk(frames, start + 2)
            .map_or(rest, |&length| 10 + u64::from_be_bytes(length) as usize),
        Some(&short) => 2 + usize::from(short),
        None => rest,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 4] = [1, 2, 3, 4];

    /// Deflated texts were agreed on.
    fn room(opcode: Opcode, deflated: bool) -> Result<Room, Violation> {
        if deflated && opcode != Opcode::Text {
            return Err(Violation::ReservedBit);
        }
        Ok(Room { payload_bytes: 70_000, message_bytes_max: 80_000 })
    }

    /// The bytes, then a masking key; and every shorter piece of that is unfinished.
    #[track_caller]
    fn accepted(start: &[u8], fin: bool, opcode: Opcode, payload_bytes: usize) {
        let bytes = [start, &KEY].concat();
        for end in 0..bytes.len() {
            assert_eq!(Head::parse(&bytes[..end], room), Ok(None), "{end} of {bytes:?}");
        }
        let deflated = start[0] & RSV1 != 0;
        let head = Head { fin, deflated, opcode, key: KEY, payload_bytes };
        assert_eq!(Head::parse(&bytes, room), Ok(Some((head, bytes.len()))));
        let more = [&bytes[..], &[7; 20]].concat();
        assert_eq!(Head::parse(&more, room), Ok(Some((head, bytes.len()))));
    }

    /// Refused at the last of these bytes, not before, and the same with more behind them.
    #[track_caller]
    fn refused(bytes: &[u8], expected: Violation) {
        let before = &bytes[..bytes.len() - 1];
        assert_eq!(Head::parse(before, room), Ok(None), "before the end of {bytes:?}");
        assert_eq!(Head::parse(bytes, room), Err(expected), "{bytes:?}");
        let more = [bytes, &[0xff; 20]].concat();
        assert_eq!(Head::parse(&more, room), Err(expected), "{more:?}");
    }

    #[test]
    fn a_head_is_read_when_all_of_it_is_there() {
        accepted(&[0x81, 0x80], true, Opcode::Text, 0);
        accepted(&[0x02, 0x80 | 125], false, Opcode::Binary, 125);
        accepted(&[0x00, 0x80 | 126, 0, 126], false, Opcode::Continuation, 126);
        accepted(&[0x80, 0x80 | 126, 0xff, 0xff], true, Opcode::Continuation, 65_535);
        accepted(&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0], true, Opcode::Binary, 65_536);
        accepted(&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0x11, 0x70], true, Opcode::Binary, 70_000);
        accepted(&[0x88, 0x80], true, Opcode::Close, 0);
        accepted(&[0x89, 0x80 | 125], true, Opcode::Ping, 125);
        accepted(&[0x8a, 0x80 | 1], true, Opcode::Pong, 1);
        accepted(&[0xc1, 0x80 | 2], true, Opcode::Text, 2);
        accepted(&[0x41, 0x80], false, Opcode::Text, 0);
    }

    #[test]
    fn a_bad_head_is_refused_with_the_byte_that_shows_it() {
        refused(&[0xc2], Violation::ReservedBit);
        refused(&[0xc0], Violation::ReservedBit);
        refused(&[0xc8], Violation::ReservedBit);
        refused(&[0xc9], Violation::ReservedBit);
        refused(&[0xca], Violation::ReservedBit);
        refused(&[0xe1], Violation::ReservedBit);
        refused(&[0xd1], Violation::ReservedBit);
        refused(&[0xa1], Violation::ReservedBit);
        refused(&[0x91], Violation::ReservedBit);
        for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
            refused(&[0x80 | opcode], Violation::ReservedOpcode);
        }
        refused(&[0x08], Violation::ControlFragmented);
        refused(&[0x09], Violation::ControlFragmented);
        refused(&[0x0a], Violation::ControlFragmented);
        refused(&[0x81, 0x05], Violation::Unmasked);
        refused(&[0x89, 0x00], Violation::Unmasked);
        refused(&[0x88, 0xfe], Violation::ControlTooLong);
        refused(&[0x89, 0xff], Violation::ControlTooLong);
        refused(&[0x8a, 0xfe], Violation::ControlTooLong);
        refused(&[0x81, 0xfe, 0, 125], Violation::LengthNotShortest);
        refused(&[0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], Violation::LengthNotShortest);
        refused(&[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1], Violation::LengthNegative);
        let big = Violation::TooBig { bytes_max: 80_000 };
        refused(&[0x81, 0xff, 0, 0, 0, 0, 0, 1, 0x11, 0x71], big);
        refused(&[0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], big);
    }

    #[test]
    fn room_may_refuse_an_opcode_and_is_not_asked_of_control_frames() {
        let refuse = |_, _| Err(Violation::Interrupted);
        assert_eq!(Head::parse(&[0x01], refuse), Err(Violation::Interrupted));
        assert_eq!(Head::parse(&[0x89, 0x80], refuse), Ok(None));
    }

    #[test]
    fn a_reason_fits_into_a_close_frame() {
        let all = [Violation::ReservedBit, Violation::TooBig { bytes_max: usize::MAX }];
        for violation in all {
            assert!(violation.to_string().len() <= crate::proto::close::REASON_BYTES_MAX);
        }
    }

    #[track_caller]
    fn encoded(frame: Bytes, head: &[u8], payload: &[u8]) {
        assert_eq!(frame, [head, payload].concat());
        assert_eq!(span(&frame, 1), 0..frame.len());
        assert_eq!(count(&frame), 1);
    }

    #[test]
    fn a_server_frame_is_final_unmasked_and_as_short_as_can_be() {
        let long = [b'x'; 70_000];
        encoded(encode(Kind::Text, b""), &[0x81, 0], b"");
        encoded(encode(Kind::Text, b"hi"), &[0x81, 2], b"hi");
        encoded(encode(Kind::Binary, &long[..125]), &[0x82, 125], &long[..125]);
        encoded(encode(Kind::Binary, &long[..126]), &[0x82, 126, 0, 126], &long[..126]);
        encoded(encode(Kind::Text, &long[..65_535]), &[0x81, 126, 255, 255], &long[..65_535]);
        let head = [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0];
        encoded(encode(Kind::Text, &long[..65_536]), &head, &long[..65_536]);
        encoded(encode_deflated(Kind::Text, b"hi"), &[0xc1, 2], b"hi");
        encoded(encode_deflated(Kind::Binary, &long[..126]), &[0xc2, 126, 0, 126], &long[..126]);
    }

    #[test]
    fn a_control_frame_never_outgrows_its_limit() {
        let long = [b'x'; 200];
        encoded(encode_ping(b"a"), &[0x89, 1], b"a");
        let mut frames = encode_ping(b"").to_vec();
        append_pong(&mut frames, &long);
        append(&mut frames, Kind::Text, b"a");
        assert_eq!(frames, [&[0x89, 0, 0x8a, 125], &long[..125], &[0x81, 1], b"a"].concat());
        encoded(encode_close(&Close::new(1000, "")), &[0x88, 2], &[3, 0xe8]);
        encoded(encode_close(&Close::new(1001, "bye")), &[0x88, 5], b"\x03\xe9bye");
        encoded(encode_close(&Close::new(Close::NO_CODE, "")), &[0x88, 0], b"");
        encoded(encode_close(&Close::new(Close::NO_FRAME, "x")), &[0x88, 0], b"");
        let unchecked = Close { code: 4000, reason: "é".repeat(100) };
        assert_eq!(encode_close(&unchecked).len(), 2 + 2 + 122);
    }

    #[test]
    fn an_offset_leads_to_its_frame() {
        let sizes = [0, 1, 125, 126, 65_535, 65_536, 3];
        let mut frames = Vec::new();
        for (before, size) in sizes.into_iter().enumerate() {
            let start = frames.len();
            assert_eq!(count(&frames), before as u64);
            frames.extend_from_slice(&encode(Kind::Binary, &vec![0x7f; size]));
            assert_eq!(span(&frames, start), start..start);
            assert_eq!(span(&frames, frames.len()), frames.len()..frames.len());
            for offset in [start + 1, frames.len() - 1] {
                assert_eq!(span(&frames, offset), start..frames.len(), "{offset} of {size}");
            }
        }
        assert_eq!(span(&[], 0), 0..0);
        assert_eq!(count(&[]), 0);
    }

    proptest! {
        #[test]
        fn a_mask_comes_off_at_any_alignment_and_split(
            plain in prop::collection::vec(any::<u8>(), 0..100),
            key in any::<[u8; 4]>(),
            start in 0usize..16,
            split in any::<prop::sample::Index>(),
        ) {
            let mut buffer = vec![0; start];
            buffer.extend(plain.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
            let (one, two) = buffer[start..].split_at_mut(split.index(plain.len() + 1));
            unmask(one, key);
            let mut turned = key;
            turned.rotate_left(one.len() % 4);
            unmask(two, turned);
            prop_assert_eq!(&buffer[start..], &plain[..]);
        }
    }
}

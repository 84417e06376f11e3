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
mod tests;

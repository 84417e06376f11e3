//! RFC 6455 bytes, as a client writes them and as strictly as a client may read them.
//!
//! Independent of the gateway's own codec on purpose: a mistake in one is not repeated here.

use bytes::{Buf, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;
/// To be added to the opcode of a message that is deflated.
pub const DEFLATED: u8 = 0x40;

/// Any mask will do for a server; this one is visible in a dump.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub last: bool,
    /// The message that begins here is deflated.
    pub deflated: bool,
    pub opcode: u8,
    pub payload: Bytes,
}

/// A client's frame: masked, its length in the shortest form.
pub fn frame(last: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = head(last, opcode, payload.len() as u64);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// What a client's frame of that length begins with, mask included.
pub fn head(last: bool, opcode: u8, payload_bytes: u64) -> Vec<u8> {
    let mut bytes = vec![if last { 0x80 | opcode } else { opcode }];
    match payload_bytes {
        0..=125 => bytes.push(0x80 | payload_bytes as u8),
        126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend((payload_bytes as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend(payload_bytes.to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes
}

/// A close frame's payload.
pub fn close_payload(code: Option<u16>, reason: &str) -> Vec<u8> {
    let mut payload = code.map(|code| code.to_be_bytes().to_vec()).unwrap_or_default();
    payload.extend(reason.as_bytes());
    payload
}

/// Takes the next whole frame of a server off the buffer; what no server may send is an error.
pub fn take_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, String> {
    let [first, second, ..] = buffer[..] else { return Ok(None) };
    let (last, opcode) = (first & 0x80 != 0, first & 0x0f);
    let deflated = first & DEFLATED != 0;
    if first & 0x30 != 0 || deflated && !matches!(opcode, TEXT | BINARY) {
        return Err(format!("RSV bits in {first:#04x}"));
    }
    if second & 0x80 != 0 {
        return Err("a masked frame from the server".into());
    }
    if !matches!(opcode, 0 | TEXT | BINARY | CLOSE | PING | PONG) {
        return Err(format!("reserved opcode {opcode}"));
    }
    if opcode >= CLOSE && (!last || second > 125) {
        return Err(format!("a control frame that is long or a fragment: {first:#x} {second:#x}"));
    }
    let (head_bytes, length) = match second {
        126 => {
            let Some(field) = buffer.get(2..4) else { return Ok(None) };
            (4, u64::from(u16::from_be_bytes([field[0], field[1]])))
        }
        127 => {
            let Some(field) = buffer.get(2..10) else { return Ok(None) };
            (10, u64::from_be_bytes(field.try_into().expect("eight bytes were asked for")))
        }
        short => (2, u64::from(short)),
    };
    if second == 126 && length < 126 || second == 127 && length < 0x1_0000 {
        return Err(format!("length {length} is not in its shortest form"));
    }
    let length = usize::try_from(length).map_err(|_| format!("length {length}"))?;
    if buffer.len() - head_bytes < length {
        return Ok(None);
    }
    buffer.advance(head_bytes);
    Ok(Some(Frame { last, deflated, opcode, payload: buffer.split_to(length).freeze() }))
}

/// A message as a client deflates it, best of all (RFC 7692, 7.2.1).
pub fn deflate(message: &[u8]) -> Vec<u8> {
    let mut deflated = Vec::with_capacity(message.len() + 1024);
    let mut encoder = Compress::new(Compression::best(), false);
    let done = encoder.compress_vec(message, &mut deflated, FlushCompress::Sync);
    done.expect("an encoder takes anything");
    assert_eq!(encoder.total_in(), message.len() as u64, "there was room for it");
    assert_eq!(deflated.split_off(deflated.len() - 4), [0, 0, 0xff, 0xff]);
    deflated
}

/// A server's deflated message, by a decoder that knows of none before it.
pub fn inflate(deflated: &[u8]) -> Vec<u8> {
    let whole = [deflated, &[0, 0, 0xff, 0xff]].concat();
    let mut decoder = Decompress::new(false);
    let mut message = Vec::with_capacity(4096);
    while decoder.total_in() < whole.len() as u64 || message.len() == message.capacity() {
        message.reserve(message.len().max(64));
        let rest = &whole[decoder.total_in() as usize..];
        let done = decoder.decompress_vec(rest, &mut message, FlushDecompress::Sync);
        done.expect("the server deflates well");
    }
    message
}

/// Code and reason of a close frame's payload; no code is `None`.
pub fn parse_close(payload: &[u8]) -> Result<Option<(u16, String)>, String> {
    match payload {
        [] => Ok(None),
        [_] => Err("a close frame with one byte".into()),
        [high, low, reason @ ..] => {
            let reason = std::str::from_utf8(reason).map_err(|error| error.to_string())?;
            Ok(Some((u16::from_be_bytes([*high, *low]), reason.to_owned())))
        }
    }
}

//! The WebSocket frames of a run (RFC 6455 section 5.2): a server's are walked, a client's made.
//!
//! Walking looks at each frame's head and the first bytes of a message, and skips the rest. It is
//! strict where a mistake of the server would falsify a figure: masks, fragments and reserved bits
//! are errors; only a message may be deflated (RFC 7692), and is not inflated here.

use anyhow::{Context, bail};

use crate::cli::load::stamp::{STAMP_BYTES, Stamp};

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The bit of a message that is deflated.
const DEFLATED: u8 = 0x40;

/// One frame of the server.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    Message {
        stamp: Stamp,
        bytes: usize,
    },
    /// A message whose stamp cannot be seen: its payload, if all of it has come.
    Deflated {
        bytes: usize,
        payload: Option<&'a [u8]>,
    },
    Ping(&'a [u8]),
    /// Its code, 1005 when there was none.
    Close(u16),
}

/// Where one client stands in the bytes it gets.
#[derive(Debug, Default)]
pub struct Walk {
    /// The beginning of a frame of which too little has come to say what it is.
    held: Vec<u8>,
    /// Of the message that was told last, still to come.
    skip: usize,
}

impl Walk {
    /// Goes through what came next, and tells `heard` of each frame as soon as it is known.
    pub fn walk(&mut self, bytes: &[u8], heard: impl FnMut(Frame<'_>)) -> anyhow::Result<()> {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        let bytes = &bytes[skipped..];
        if self.held.is_empty() {
            return self.frames(bytes, heard);
        }
        // Rare: a read that ended within a frame's first bytes.
        let mut joined = std::mem::take(&mut self.held);
        joined.extend_from_slice(bytes);
        self.frames(&joined, heard)
    }

    fn frames(&mut self, mut bytes: &[u8], mut heard: impl FnMut(Frame<'_>)) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            let Some((opcode, head, payload)) = head(bytes)? else {
                self.held = bytes.to_vec();
                break;
            };
            let is_message = matches!(opcode, TEXT | BINARY);
            let needed = if is_message { STAMP_BYTES.min(payload) } else { payload };
            let Some(body) = bytes.get(head..head + needed) else {
                self.held = bytes.to_vec();
                break;
            };
            match opcode {
                _ if bytes[0] & DEFLATED != 0 => {
                    let whole = bytes.get(head..head + payload);
                    heard(Frame::Deflated { bytes: payload, payload: whole });
                }
                TEXT | BINARY => {
                    let stamp = Stamp::read(body).context("a message without a stamp")?;
                    heard(Frame::Message { stamp, bytes: payload });
                }
                PING => heard(Frame::Ping(body)),
                PONG => {}
                CLOSE => {
                    let code = body.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                    heard(Frame::Close(code));
                }
                _ => bail!("a frame with opcode {opcode}"),
            }
            let end = head + payload;
            self.skip = end.saturating_sub(bytes.len());
            bytes = bytes.get(end..).unwrap_or_default();
        }
        Ok(())
    }
}

/// Opcode, length of the head, length of the payload; `None` when the head is not all there.
fn head(bytes: &[u8]) -> anyhow::Result<Option<(u8, usize, usize)>> {
    let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
    let opcode = first & 0x0f;
    let is_deflated = first & 0xf0 == 0x80 | DEFLATED && matches!(opcode, TEXT | BINARY);
    if (first & 0xf0 != 0x80 && !is_deflated) || second & 0x80 != 0 {
        bail!("a frame that begins {first:02x} {second:02x}");
    }
    Ok(match second {
        126 => rest.first_chunk().map(|len| (opcode, 4, usize::from(u16::from_be_bytes(*len)))),
        127 => match rest.first_chunk() {
            Some(len) => Some((opcode, 10, usize::try_from(u64::from_be_bytes(*len))?)),
            None => None,
        },
        len => Some((opcode, 2, usize::from(len))),
    })
}

/// A short text message of a client.
pub fn text(payload: &[u8]) -> Vec<u8> {
    short(TEXT, payload)
}

/// The answer to a ping.
pub fn pong(payload: &[u8]) -> Vec<u8> {
    short(PONG, payload)
}

/// A client's close frame, code 1000.
pub fn close() -> Vec<u8> {
    short(CLOSE, &1000_u16.to_be_bytes())
}

/// Masked, as a client's frames have to be, with zeros: so the payload stays as it is.
fn short(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(payload.len()).ok().filter(|&len| len < 126);
    let len = len.expect("the frames of a run's clients are short");
    let mut frame = vec![0x80 | opcode, 0x80 | len, 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

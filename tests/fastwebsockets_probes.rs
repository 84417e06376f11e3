//! Ten things that a public edge must do with a client's frames: what fastwebsockets 0.10 does as a
//! reader, and what our session does. See docs/decisions/own-frame-decoder.md.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use fastwebsockets::{FragmentCollector, OpCode, Role, WebSocket, WebSocketError};
use pathcast::proto::session::{Action, Session};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// More than a reader may keep ready for bytes that were only announced.
const READY_BYTES_MAX: usize = 64 * 1024;

/// What a reader made of a client's bytes.
#[derive(Debug, Default)]
struct Reading {
    /// Of each message that it handed on, how long it was.
    message_bytes: Vec<usize>,
    /// It ended the connection over these bytes.
    refused: bool,
    /// The most memory it kept ready for bytes that had not come.
    ready_bytes: usize,
}

struct Probe {
    must: &'static str,
    input: Vec<u8>,
    holds: fn(&Reading) -> bool,
    fastwebsockets_holds: bool,
}

/// A frame's head, masked, with its length in the shortest form.
fn head(first: u8, payload_bytes: usize) -> Vec<u8> {
    let mut head = vec![first];
    match payload_bytes {
        len @ 0..126 => head.push(0x80 | len as u8),
        len @ 126..0x1_0000 => head.extend([0xfe, (len >> 8) as u8, len as u8]),
        len => {
            head.push(0xff);
            head.extend((len as u64).to_be_bytes());
        }
    }
    head.extend(KEY);
    head
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(first, payload.len());
    frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

fn probes() -> Vec<Probe> {
    let refused = |reading: &Reading| reading.refused && reading.message_bytes.is_empty();
    let probe = |must, frames: &[Vec<u8>], fastwebsockets_holds| Probe {
        must,
        input: frames.concat(),
        holds: refused,
        fastwebsockets_holds,
    };
    let half = vec![b'x'; 800_000];
    vec![
        probe("refuse a frame without a mask", &[b"\x81\x02hi".to_vec()], false),
        probe("refuse a pong over 125 bytes", &[frame(0x8a, &[b'x'; 126])], false),
        probe("refuse a close over 125 bytes", &[frame(0x88, &[0x0f; 126])], false),
        probe(
            "refuse a length that is not in its shortest form",
            &[[&[0x81, 0xfe, 0, 2], &KEY[..], &frame(0x81, b"hi")[6..]].concat()],
            false,
        ),
        probe(
            "refuse a new text inside a fragmented one",
            &[frame(0x01, b"lost"), frame(0x01, b"he"), frame(0x80, b"re")],
            false,
        ),
        probe(
            "refuse a fragmented text that ends inside a character",
            &[frame(0x01, b"a"), frame(0x80, b"b\xc3")],
            false,
        ),
        probe(
            "limit a message, not just each of its fragments",
            &[frame(0x02, &half), frame(0x80, &half)],
            false,
        ),
        Probe {
            must: "keep no memory ready for what is only announced",
            input: head(0x82, MESSAGE_BYTES_MAX - 1),
            holds: |reading| reading.ready_bytes <= READY_BYTES_MAX,
            fastwebsockets_holds: false,
        },
        probe("refuse a reserved bit", &[frame(0xc1, b"hi")], true),
        probe("refuse a continuation of nothing", &[frame(0x80, b"hi")], true),
    ]
}

/// A socket that notes how much room its reader offers it.
struct Watched {
    stream: DuplexStream,
    offered_bytes: Arc<AtomicUsize>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.offered_bytes.fetch_max(buffer.remaining(), Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

async fn fastwebsockets_reads(input: &[u8]) -> Reading {
    let (mut client, stream) = tokio::io::duplex(4 * MESSAGE_BYTES_MAX);
    client.write_all(input).await.expect("the pipe is wide enough");
    client.shutdown().await.expect("the pipe is open");
    let offered_bytes = Arc::new(AtomicUsize::new(0));
    let watched = Watched { stream, offered_bytes: offered_bytes.clone() };
    let mut socket = WebSocket::after_handshake(watched, Role::Server);
    socket.set_max_message_size(MESSAGE_BYTES_MAX);
    let mut socket = FragmentCollector::new(socket);
    let mut reading = Reading::default();
    loop {
        match socket.read_frame().await {
            Ok(frame) if matches!(frame.opcode, OpCode::Text | OpCode::Binary) => {
                reading.message_bytes.push(frame.payload.len());
            }
            Ok(_) => {}
            Err(WebSocketError::UnexpectedEOF) => break,
            Err(_) => {
                reading.refused = true;
                break;
            }
        }
    }
    reading.ready_bytes = offered_bytes.load(Ordering::Relaxed);
    reading
}

fn session_reads(input: &[u8]) -> Reading {
    let mut session = Session::new();
    let mut reading = Reading::default();
    // As a shard does: one read after the other into a buffer of its own.
    for piece in input.chunks(16 * 1024) {
        let mut piece = piece.to_vec();
        let mut rest = &mut piece[..];
        loop {
            let (consumed, action) = session.feed(rest, MESSAGE_BYTES_MAX, None);
            match action {
                Action::Idle => break,
                Action::Message { data, .. } => reading.message_bytes.push(data.len()),
                Action::Fail { .. } => reading.refused = true,
                Action::Ping(_) | Action::Closed(_) => {}
            }
            rest = &mut rest[consumed..];
        }
        reading.ready_bytes = reading.ready_bytes.max(session.held_bytes());
    }
    reading
}

#[test]
fn our_session_passes_every_probe() {
    for probe in probes() {
        let reading = session_reads(&probe.input);
        assert!((probe.holds)(&reading), "must {}, but: {reading:?}", probe.must);
    }
}

#[tokio::test]
async fn fastwebsockets_fails_eight_of_ten_probes() {
    for probe in probes() {
        let reading = fastwebsockets_reads(&probe.input).await;
        assert_eq!(
            (probe.holds)(&reading),
            probe.fastwebsockets_holds,
            "fastwebsockets has changed: must {}. Then reconsider \
             docs/decisions/own-frame-decoder.md",
            probe.must,
        );
    }
}

//! The codec, whatever comes: any cut, any bytes, and tungstenite as the second opinion.

use std::io;
use std::io::{Cursor, ErrorKind, Read, Write};

use pathcast::proto::close::Close;
use pathcast::proto::deflater::Deflater;
use pathcast::proto::frame;
use pathcast::proto::frame::Kind;
use pathcast::proto::inflater::Inflater;
use pathcast::proto::session::{Action, Session};
use proptest::prelude::*;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const MESSAGE_BYTES_MAX: usize = 300;
/// What an unfinished message may hold beside its own bytes: its box, a control frame.
const BESIDE_BYTES_MAX: usize = 512;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Closed(u16, String),
    Failed(u16),
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
        let (consumed, action) = session.feed(rest, MESSAGE_BYTES_MAX, inflater.as_deref_mut());
        seen.push(match action {
            Action::Idle => return seen,
            Action::Message { kind: Kind::Text, data } => Seen::Text(data.to_vec()),
            Action::Message { kind: Kind::Binary, data } => Seen::Binary(data.to_vec()),
            Action::Ping(data) => Seen::Ping(data.to_vec()),
            Action::Closed(close) => Seen::Closed(close.code, close.reason),
            Action::Fail { close, .. } => Seen::Failed(close.code),
        });
        rest = &mut rest[consumed..];
    }
}

/// A client's frame; `first` is its first byte, `masked` the bit beside the length.
fn client_frame(first: u8, masked: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..126 => frame.push(masked | len as u8),
        len => frame.extend([masked | 126, (len >> 8) as u8, len as u8]),
    }
    frame.extend(KEY);
    frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// What a client may say: mostly good frames, now and then a bad one.
fn conversation() -> impl Strategy<Value = Vec<u8>> {
    let good = prop::sample::select(vec![0x81u8, 0x82, 0x01, 0x02, 0x00, 0x00, 0x80, 0x89, 0x8a]);
    let bad = prop::sample::select(vec![0xc1u8, 0xa2, 0x83, 0x8b, 0x09]);
    let first = prop_oneof![20 => good, 1 => bad];
    let payload = prop_oneof![
        8 => "[a-zé😀]{0,40}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..140),
        // A character's first and last bytes, to meet or to miss each other.
        1 => Just(b"a\xf0\x9f".to_vec()),
        1 => Just(b"\x98\x80b".to_vec()),
    ];
    let masked = prop_oneof![60 => Just(0x80u8), 1 => Just(0u8)];
    let frame = (first, masked, payload)
        .prop_map(|(first, masked, payload)| client_frame(first, masked, &payload));
    let close = prop_oneof![
        Just(client_frame(0x88, 0x80, b"")),
        Just(client_frame(0x88, 0x80, b"\x03\xe8bye")),
        Just(client_frame(0x88, 0x80, b"\x03")),
        Just(client_frame(0x88, 0x80, b"\x03\xe8\xff")),
    ];
    prop::collection::vec(prop_oneof![20 => frame, 1 => close], 0..12)
        .prop_map(|frames| frames.concat())
}

/// A socket of which everything is known beforehand.
struct Wire {
    input: Cursor<Vec<u8>>,
    output: Vec<u8>,
}

impl Wire {
    fn websocket(input: Vec<u8>, role: Role) -> WebSocket<Wire> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let wire = Wire { input: Cursor::new(input), output: Vec::new() };
        WebSocket::from_raw_socket(wire, role, Some(config))
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.input.read(buffer)? {
            0 => Err(ErrorKind::WouldBlock.into()),
            read => Ok(read),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.output.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What tungstenite makes of it; a failure is 0, its codes are its own.
fn tungstenite_reads(bytes: &[u8]) -> Vec<Seen> {
    let mut socket = Wire::websocket(bytes.to_vec(), Role::Server);
    let mut seen = Vec::new();
    loop {
        seen.push(match socket.read() {
            Ok(Message::Text(text)) => Seen::Text(text.as_bytes().to_vec()),
            Ok(Message::Binary(data)) => Seen::Binary(data.to_vec()),
            Ok(Message::Ping(data)) => Seen::Ping(data.to_vec()),
            Ok(Message::Close(close)) => {
                let close = close.map(|close| (close.code.into(), close.reason.to_string()));
                let (code, reason) = close.unwrap_or((Close::NO_CODE, String::new()));
                seen.push(Seen::Closed(code, reason));
                return seen;
            }
            Ok(Message::Pong(_) | Message::Frame(_)) => continue,
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => return seen,
            Err(_) => {
                seen.push(Seen::Failed(0));
                return seen;
            }
        });
    }
}

proptest! {
    #[test]
    fn the_same_bytes_cause_the_same_however_they_are_cut(
        bytes in conversation(),
        cuts in prop::collection::vec(1usize..40, 1..20),
    ) {
        let whole = read(&mut Session::new(), &bytes);
        let mut session = Session::new();
        let mut pieces = Vec::new();
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at(rest.len().min(*cut));
            pieces.extend(read(&mut session, piece));
            rest = after;
        }
        prop_assert_eq!(pieces, whole);
    }

    #[test]
    fn deflated_messages_come_whole_however_they_are_cut(
        messages in prop::collection::vec(("[a-c]{0,200}", 0usize..200), 0..8),
        size in 1usize..40,
    ) {
        let mut bytes = Vec::new();
        for (text, cut) in &messages {
            match Deflater::new().frame(Kind::Text, text.as_bytes()) {
                None => bytes.extend(client_frame(0x81, 0x80, text.as_bytes())),
                Some(frame) => {
                    let payload = frame::message(&frame).1;
                    let (first, second) = payload.split_at(*cut % payload.len());
                    bytes.extend(client_frame(0x41, 0x80, first));
                    bytes.extend(client_frame(0x89, 0x80, b"between"));
                    bytes.extend(client_frame(0x80, 0x80, second));
                }
            }
        }
        let mut inflater = Inflater::new();
        let mut session = Session::new();
        let read = |piece| read_with(&mut session, piece, Some(&mut inflater));
        let mut seen: Vec<_> = bytes.chunks(size).flat_map(read).collect();
        seen.retain(|seen| !matches!(seen, Seen::Ping(_)));
        let texts = messages.into_iter().map(|(text, _)| Seen::Text(text.into_bytes()));
        prop_assert_eq!(seen, texts.collect::<Vec<_>>());
        prop_assert_eq!(session.held_bytes(), 0);
    }

    #[test]
    fn arbitrary_bytes_hold_hardly_more_than_they_are(
        start in prop::sample::select(vec![0x01u8, 0x02, 0x81, 0x82, 0x89, 0x88]),
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..20),
    ) {
        let mut session = Session::new();
        let mut fed_bytes = 0;
        // A head that announces 256 bytes, so that something gets held at all.
        let head = vec![start, 0xfe, 1, 0, 1, 2, 3, 4];
        for piece in std::iter::once(&head).chain(&pieces) {
            read(&mut session, piece);
            fed_bytes += piece.len();
            // A buffer doubles, but never beyond the limit.
            let bound = (2 * fed_bytes).min(MESSAGE_BYTES_MAX) + BESIDE_BYTES_MAX;
            prop_assert!(session.held_bytes() <= bound);
        }
    }

    #[test]
    fn tungstenite_hears_the_same(bytes in conversation()) {
        let mut ours = read(&mut Session::new(), &bytes);
        if let Some(Seen::Failed(code)) = ours.last_mut() {
            *code = 0;
        }
        prop_assert_eq!(ours, tungstenite_reads(&bytes));
    }

    #[test]
    fn what_a_tungstenite_client_writes_arrives(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
    ) {
        let mut client = Wire::websocket(Vec::new(), Role::Client);
        for message in &messages {
            client.send(Message::binary(message.clone())).expect("the wire takes everything");
        }
        let bytes = &client.get_ref().output;
        let expected: Vec<_> = messages.into_iter().map(Seen::Binary).collect();
        prop_assert_eq!(read(&mut Session::new(), bytes), expected);
    }

    #[test]
    fn a_tungstenite_client_reads_what_we_write(
        texts in prop::collection::vec("\\PC{0,70}", 0..8),
        reason in "\\PC{0,130}",
    ) {
        let mut frames = Vec::new();
        for text in &texts {
            frames.extend_from_slice(&frame::encode(Kind::Text, text.as_bytes()));
            frames.extend_from_slice(&frame::encode(Kind::Binary, text.as_bytes()));
            frames.extend_from_slice(&frame::encode_ping(b"beat"));
        }
        let close = Close::new(1012, reason);
        frames.extend_from_slice(&frame::encode_close(&close));
        let mut client = Wire::websocket(frames, Role::Client);
        let mut next = || client.read().expect("a message");
        for text in texts {
            prop_assert_eq!(next(), Message::text(text.clone()));
            prop_assert_eq!(next(), Message::binary(text.into_bytes()));
            prop_assert_eq!(next(), Message::Ping(b"beat".to_vec().into()));
        }
        let Message::Close(Some(read)) = next() else { panic!("a close frame") };
        prop_assert_eq!((u16::from(read.code), read.reason.as_str()), (1012, &close.reason[..]));
    }
}

//! Whatever a client sends, however it is cut: no panic, memory bounded, and the same actions as
//! in one piece; with deflated messages agreed on and without.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pathcast::proto::frame::Kind;
use pathcast::proto::inflater::Inflater;
use pathcast::proto::session::{Action, Session};

const MESSAGE_BYTES_MAX: usize = 1000;
/// A deflated one may be a quarter larger until it is inflated.
const DEFLATED_BYTES_MAX: usize = MESSAGE_BYTES_MAX * 5 / 4 + 64;
/// What an unfinished message may hold beside its own bytes: its box, a control frame.
const BESIDE_BYTES_MAX: usize = 512;

fn read(
    session: &mut Session,
    bytes: &[u8],
    mut inflater: Option<&mut Inflater>,
    seen: &mut Vec<String>,
) {
    let mut input = bytes.to_vec();
    let mut rest = &mut input[..];
    loop {
        let (consumed, action) = session.feed(rest, MESSAGE_BYTES_MAX, inflater.as_deref_mut());
        match action {
            Action::Idle => {
                assert_eq!(consumed, rest.len());
                return;
            }
            Action::Message { kind: Kind::Text, data } => {
                let text = std::str::from_utf8(data).expect("a text is UTF-8");
                assert!(data.len() <= MESSAGE_BYTES_MAX);
                seen.push(format!("text {text:?}"));
            }
            Action::Message { kind: Kind::Binary, data } => {
                assert!(data.len() <= MESSAGE_BYTES_MAX);
                seen.push(format!("binary {data:?}"));
            }
            other => seen.push(format!("{other:?}")),
        }
        rest = &mut rest[consumed..];
    }
}

fuzz_target!(|input: &[u8]| {
    // The first byte says how many of the next are sizes of pieces, taken in turn; 0: one byte. Its
    // first bit says whether messages may be deflated.
    let Some((&count, rest)) = input.split_first() else { return };
    let Some((sizes, bytes)) = rest.split_at_checked(usize::from(count % 8) + 1) else { return };

    let mut inflater = (count & 0x80 != 0).then(Inflater::new);
    let mut inflater = inflater.as_mut();
    let mut whole = Vec::new();
    read(&mut Session::new(), bytes, inflater.as_deref_mut(), &mut whole);

    let mut session = Session::new();
    let mut pieces = Vec::new();
    let mut fed_bytes = 0;
    for &size in sizes.iter().cycle() {
        let rest = &bytes[fed_bytes..];
        if rest.is_empty() {
            break;
        }
        let piece = &rest[..rest.len().min(usize::from(size).max(1))];
        read(&mut session, piece, inflater.as_deref_mut(), &mut pieces);
        fed_bytes += piece.len();
        let bound = (2 * fed_bytes).min(DEFLATED_BYTES_MAX) + BESIDE_BYTES_MAX;
        assert!(session.held_bytes() <= bound);
    }
    assert_eq!(pieces, whole);

    session.begin_close();
    let before = pieces.len();
    read(&mut session, bytes, inflater, &mut pieces);
    assert!(pieces.len() <= before + 1, "a closing session ends once: {pieces:?}");
});

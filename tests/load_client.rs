//! The load of the benches finds what it is there to find: a figure of a run that lost something
//! must not look like one.

mod support;

use pathcast::cli::load::frames::{self, Frame, Walk};
use pathcast::cli::load::inflate;
use pathcast::cli::load::sequence::{Arrival, Sequence};
use pathcast::cli::load::stamp::Stamp;
use pathcast::cli::load::window::Window;

#[track_caller]
fn check(seqs: &[u64], expected: &[Arrival]) {
    let mut sequence = Sequence::default();
    let arrivals: Vec<Arrival> = seqs.iter().map(|&seq| sequence.take(seq)).collect();
    assert_eq!(arrivals, expected, "{seqs:?}");
}

#[test]
fn a_sequence_tells_missing_from_late_from_repeated() {
    use Arrival::{AfterGap, Again, InOrder, Late};
    check(&[0, 1, 2], &[InOrder, InOrder, InOrder]);
    check(&[0, 2, 1, 3], &[InOrder, AfterGap(1), Late, InOrder]);
    check(&[0, 0], &[InOrder, Again]);
    check(&[0, 1, 0], &[InOrder, InOrder, Again]);
    check(&[3, 1, 1, 0], &[AfterGap(3), Late, Again, Late]);
    check(&[62, 0, 0], &[AfterGap(62), Late, Again]);
    check(&[63, 0], &[AfterGap(63), Late]);
    check(&[200, 200, 1], &[AfterGap(200), Again, Again]);
}

fn server_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let len = payload.len();
    let mut frame = vec![first];
    match len {
        0..126 => frame.push(len as u8),
        126..65_536 => {
            frame.push(126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

/// What a walk hears when the bytes come in pieces of `size`.
fn heard(bytes: &[u8], size: usize) -> Vec<String> {
    let mut walk = Walk::default();
    let mut heard = Vec::new();
    for piece in bytes.chunks(size) {
        let outcome = walk.walk(piece, |frame| {
            heard.push(match frame {
                Frame::Message { stamp, bytes } => format!("message {} of {bytes}", stamp.seq),
                Frame::Deflated { bytes, payload } => {
                    format!("deflated {bytes}, whole {}", payload.is_some())
                }
                Frame::Ping(payload) => format!("ping {payload:?}"),
                Frame::Close(code) => format!("close {code}"),
            });
        });
        outcome.expect("good frames");
    }
    heard
}

#[test]
fn a_walk_hears_the_same_however_the_bytes_are_cut() {
    let mut bytes = Vec::new();
    let mut message = Vec::new();
    for (seq, len) in [(0, 16), (1, 100), (2, 125), (3, 126), (4, 70_000), (5, 40)] {
        Stamp { seq, sent_ns: seq + 7 }.write(&mut message, len);
        bytes.extend_from_slice(&server_frame(0x82, &message));
        bytes.extend_from_slice(&server_frame(0x89, b"are you there"));
    }
    bytes.extend_from_slice(&server_frame(0x88, &[0x03, 0xf4]));
    let whole = heard(&bytes, bytes.len());
    assert_eq!(whole.len(), 13);
    assert_eq!(whole[8], "message 4 of 70000");
    assert_eq!(whole[12], "close 1012");
    for size in [1, 2, 3, 7, 17, 113, 4096] {
        assert_eq!(heard(&bytes, size), whole, "in pieces of {size}");
    }
}

#[test]
fn a_walk_refuses_what_a_server_must_not_send() {
    let refuses = |bytes: &[u8]| Walk::default().walk(bytes, |_| {}).is_err();
    assert!(refuses(&server_frame(0x02, &[0; 20])), "a fragment");
    assert!(refuses(&server_frame(0xa2, &[0; 20])), "a reserved bit");
    assert!(refuses(&server_frame(0xc9, &[0; 20])), "a deflated ping");
    assert!(refuses(&server_frame(0x82, &[0; 15])), "no stamp");
    assert!(refuses(&server_frame(0x83, &[0; 20])), "an unknown opcode");
    for masked in [frames::text(b"x"), frames::pong(b""), frames::close()] {
        assert!(refuses(&masked), "a mask");
    }
}

#[test]
fn a_window_is_full_until_everybody_has_its_oldest_message() {
    let mut window = Window::new(2, 3);
    assert_eq!([window.begin(), window.begin(), window.begin()], [Some(0), Some(1), None]);
    for seq in [0, 0, 1, 0] {
        assert_eq!(window.begin(), None);
        window.arrived(seq);
    }
    assert_eq!((window.done(), window.open(), window.begin()), (1, 1, Some(2)));
    [1, 1, 2, 2].into_iter().for_each(|seq| window.arrived(seq));
    assert!(!window.is_empty());
    window.arrived(2);
    assert!(window.is_empty());
}

#[test]
fn a_window_over_several_paths_counts_a_message_that_overtook_when_its_turn_comes() {
    let mut window = Window::new(2, 1);
    assert_eq!([window.begin(), window.begin()], [Some(0), Some(1)]);
    window.arrived(1);
    assert_eq!((window.done(), window.begin()), (0, None));
    window.arrived(0);
    assert_eq!((window.done(), window.begin()), (2, Some(2)));
}

#[test]
fn a_deflated_message_is_told_with_its_payload_where_that_has_come_at_once() {
    let frame = server_frame(0xc2, &[7; 200]);
    assert_eq!(heard(&frame, frame.len()), ["deflated 200, whole true"]);
    assert_eq!(heard(&frame, 64), ["deflated 200, whole false"]);
}

#[test]
fn the_stamp_of_a_deflated_message_can_be_read() {
    let mut message = Vec::new();
    Stamp { seq: 7, sent_ns: 9 }.write(&mut message, 1_000);
    let stamp = inflate::stamp(&support::wire::deflate(&message)).expect("a message");
    assert_eq!(stamp, Stamp { seq: 7, sent_ns: 9 });
    assert!(inflate::stamp(&[0xff; 20]).is_err());
}

//! The tests' own reader is strict: what no server may send fails a test instead of passing it.

mod support;

use bytes::{Bytes, BytesMut};
use support::wire::{Frame, TEXT, frame, parse_close, take_frame};

#[track_caller]
fn check_refused(bytes: &[u8]) {
    let taken = take_frame(&mut BytesMut::from(bytes));
    assert!(taken.is_err(), "{bytes:02x?} was taken for {taken:?}");
}

#[test]
fn frames_that_no_server_may_send_are_refused() {
    check_refused(&frame(true, TEXT, b"masked"));
    check_refused(&[0xa1, 1, b'x']);
    check_refused(&[0xc0, 1, b'x']);
    check_refused(&[0xc9, 1, b'x']);
    check_refused(&[0x83, 0]);
    check_refused(&[0x09, 0]);
    check_refused(&[0x89, 126, 0, 126]);
    check_refused(&[0x81, 126, 0, 125]);
    check_refused(&[0x81, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    assert!(parse_close(&[3]).is_err());
    assert!(parse_close(&[3, 0xe8, 0xff]).is_err());
}

#[test]
fn a_frame_is_taken_when_it_is_whole() {
    let long = [&[0x82, 126, 1, 0][..], &[7; 256]].concat();
    let mut buffer = BytesMut::new();
    for byte in &long[..long.len() - 1] {
        buffer.extend_from_slice(&[*byte]);
        assert_eq!(take_frame(&mut buffer), Ok(None));
    }
    buffer.extend_from_slice(&[7, 0x81, 1, b'x']);
    let binary =
        Frame { last: true, deflated: false, opcode: 2, payload: Bytes::from(vec![7; 256]) };
    let text = Frame { last: true, deflated: false, opcode: TEXT, payload: Bytes::from("x") };
    assert_eq!(take_frame(&mut buffer), Ok(Some(binary)));
    assert_eq!(take_frame(&mut buffer), Ok(Some(text)));
    assert_eq!(take_frame(&mut buffer), Ok(None));
}

use proptest::prelude::*;

use crate::proto::frame::*;

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

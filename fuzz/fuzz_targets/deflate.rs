//! Whatever is to be inflated: no panic, and never more than the limit. Whatever is deflated comes back as
//! it was, and whatever is offered has an answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pathcast::proto::deflate::agree;
use pathcast::proto::deflater::Deflater;
use pathcast::proto::frame::{Kind, encode, message};
use pathcast::proto::inflater::Inflater;

const BYTES_MAX: usize = 100_000;

fuzz_target!(|input: &[u8]| {
    let mut inflater = Inflater::new();
    if inflater.inflate(input, BYTES_MAX).is_ok() {
        assert!(inflater.message().len() <= BYTES_MAX);
    }
    if let Some(frame) = Deflater::new().frame(Kind::Binary, input) {
        assert!(frame.len() < encode(Kind::Binary, input).len());
        // The same decoder: what it met before leaves nothing behind.
        assert_eq!(inflater.inflate(message(&frame).1, input.len()), Ok(()));
        assert_eq!(inflater.message(), input);
    }
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = agree([text]);
    }
});

//! Whatever a publisher sends: no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pathcast::proto::msg::Msg;

fuzz_target!(|input: &[u8]| {
    let _ = Msg::parse(input);
});

//! Whatever stands on a channel of Redis: no panic, and an envelope that is read has exactly the
//! bytes it was read from.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pathcast::proto::ask::Ask;
use pathcast::proto::envelope::{Body, Envelope};

fuzz_target!(|data: &[u8]| {
    let Ok(envelope) = Envelope::decode(Bytes::copy_from_slice(data)) else { return };
    assert_eq!(envelope.encode(), data);
    if let Body::Broadcast(content) | Body::Ask { ask: Ask::Unicast { content, .. }, .. } =
        envelope.body
    {
        let _ = (content.frame(false), content.frame(true));
    }
});

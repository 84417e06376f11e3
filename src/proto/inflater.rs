//! The decoder: a client's deflated message as it was (RFC 7692, 7.2.2).
//!
//! It takes a message whole, so between two messages it knows nothing, and one serves everybody; it
//! holds some 50 kB. What it makes of a message is bounded while it is made: a hundred kilobytes
//! may announce a hundred megabytes.

use flate2::{Decompress, FlushDecompress, Status};

use crate::proto::frame::Violation;

/// What every sender leaves out at the end of a message (7.2.2), and then an empty last block. That
/// one is read to its end exactly if the message was whole.
const END: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];

/// A message may consist of several streams, each with a last block of its own (7.2.3.4), two bytes
/// at least; it takes no more than this many, or beginning them would be all that is done.
const STREAMS_MAX: usize = 256;

/// The first buffer, in bytes: most messages are smaller when inflated.
const OUTPUT_BYTES_MIN: usize = 4096;

/// Kept of the buffer between two messages.
const KEPT_BYTES: usize = 64 * 1024;

/// A byte taken may cost as much as so many made: a block with tables and no content has twenty, and
/// takes some 2 µs.
const WORK_OF_TAKEN: u64 = 32;

#[derive(Debug)]
pub struct Inflater {
    decompress: Decompress,
    output: Vec<u8>,
    work_bytes: u64,
}

impl Inflater {
    pub fn new() -> Inflater {
        Inflater { decompress: Decompress::new(false), output: Vec::new(), work_bytes: 0 }
    }

    /// Takes a message, which has at most `bytes_max` bytes when inflated.
    pub fn inflate(&mut self, payload: &[u8], bytes_max: usize) -> Result<(), Violation> {
        self.output.clear();
        self.output.shrink_to(KEPT_BYTES);
        let outcome = self.fill(payload, bytes_max);
        self.work_bytes += self.output.len() as u64 + payload.len() as u64 * WORK_OF_TAKEN;
        outcome
    }

    /// The message that was taken last.
    pub fn message(&self) -> &[u8] {
        &self.output
    }

    /// What it has done so far for all messages, in bytes made. One that comes to nothing counts, too:
    /// reading it may take longer than making something.
    pub fn work_bytes(&self) -> u64 {
        self.work_bytes
    }

    fn fill(&mut self, payload: &[u8], bytes_max: usize) -> Result<(), Violation> {
        let mut rest = payload;
        if rest.is_empty() {
            // An encoder that has nothing to flush may say nothing.
            return Ok(());
        }
        for _ in 0..STREAMS_MAX {
            self.decompress.reset(false);
            if self.run(&mut rest, bytes_max)? == Stream::Ended {
                if rest.is_empty() {
                    // The last block of a message may be its end.
                    return Ok(());
                }
                continue;
            }
            let mut end = &END[..];
            let ended = self.run(&mut end, bytes_max)? == Stream::Ended;
            return if ended && end.is_empty() { Ok(()) } else { Err(Violation::Deflated) };
        }
        Err(Violation::Deflated)
    }

    /// Reads on in one stream, to its end or the input's.
    fn run(&mut self, input: &mut &[u8], bytes_max: usize) -> Result<Stream, Violation> {
        loop {
            if self.output.len() == self.output.capacity() {
                // One byte too many tells a message that is too big from one that just fits.
                let doubled_bytes = (self.output.len() * 2).max(OUTPUT_BYTES_MIN);
                let wanted_bytes = doubled_bytes.min(bytes_max.saturating_add(1));
                self.output.reserve_exact(wanted_bytes - self.output.len());
            }
            let (before_in, before_out) = (self.decompress.total_in(), self.output.len());
            let status =
                self.decompress.decompress_vec(input, &mut self.output, FlushDecompress::Sync);
            let taken_bytes = (self.decompress.total_in() - before_in) as usize;
            *input = &input[taken_bytes..];
            if self.output.len() > bytes_max {
                return Err(Violation::TooBig { bytes_max });
            }
            match status {
                Err(_) => return Err(Violation::Deflated),
                Ok(Status::StreamEnd) => return Ok(Stream::Ended),
                Ok(_) if self.output.len() == self.output.capacity() => {}
                Ok(_) if input.is_empty() => return Ok(Stream::Open),
                // It does not get on with what it has.
                Ok(_) if taken_bytes == 0 && self.output.len() == before_out => {
                    return Err(Violation::Deflated);
                }
                Ok(_) => {}
            }
        }
    }
}

impl Default for Inflater {
    fn default() -> Inflater {
        Inflater::new()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Open,
    Ended,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::deflater::Deflater;
    use crate::proto::frame;
    use crate::proto::frame::Kind;

    const MAX: usize = 1 << 20;
    const BROKEN: Result<&[u8], Violation> = Err(Violation::Deflated);

    fn inflate(payload: &[u8], bytes_max: usize) -> Result<Vec<u8>, Violation> {
        let mut inflater = Inflater::new();
        inflater.inflate(payload, bytes_max).map(|()| inflater.message().to_vec())
    }

    #[track_caller]
    fn check(payload: &[u8], expected: Result<&[u8], Violation>) {
        assert_eq!(inflate(payload, MAX), expected.map(<[u8]>::to_vec), "{payload:02x?}");
    }

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        // 7.2.3.1, .3 and .4: one block, a stored one, one that is the stream's last, two blocks.
        check(&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], Ok(b"Hello"));
        check(&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00], Ok(b"Hello"));
        check(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], Ok(b"Hello"));
        let two = [0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00];
        check(&two, Ok(b"Hello"));
    }

    #[test]
    fn an_empty_message_may_be_written_in_many_ways() {
        check(&[0x00], Ok(b""));
        check(&[], Ok(b""));
        check(&[0x02, 0x00], Ok(b""));
        check(&[0x03, 0x00], Ok(b""));
        check(&[0x03, 0x00, 0x00], Ok(b""));
    }

    #[test]
    fn what_is_cut_short_or_spoilt_is_no_message() {
        let whole = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        for end in 1..whole.len() {
            check(&whole[..end], BROKEN);
        }
        check(&[0xff; 20], BROKEN);
        check(b"not deflated at all", BROKEN);
        // A stored block that announces more than there is takes the end for its content.
        check(&[0x00, 0x09, 0x00, 0xf6, 0xff, 0x48], BROKEN);
        // A reference to what was before the message: nothing was taken over.
        check(&[0x02, 0x13, 0x00, 0x00], BROKEN);
        // Stream after stream of nothing.
        check(&[3, 0].repeat(STREAMS_MAX), Ok(b""));
        check(&[3, 0].repeat(STREAMS_MAX + 1), BROKEN);
    }

    /// A message of so many zeros, deflated.
    fn zeros(count: usize) -> Vec<u8> {
        let frame = Deflater::new().frame(Kind::Binary, &vec![0; count]).expect("it shrinks");
        frame::message(&frame).1.to_vec()
    }

    #[test]
    fn a_message_may_have_exactly_the_limit() {
        for limit in [100, 4095, 4096, 4097, 65_536, MAX] {
            let bomb = zeros(limit);
            assert_eq!(inflate(&bomb, limit).map(|message| message.len()), Ok(limit));
            let bytes_max = limit - 1;
            assert_eq!(inflate(&bomb, bytes_max), Err(Violation::TooBig { bytes_max }));
        }
    }

    #[test]
    fn a_bomb_costs_no_more_than_the_limit() {
        let bomb = zeros(64 << 20);
        assert!(bomb.len() < 300_000, "{}", bomb.len());
        let mut inflater = Inflater::new();
        let too_big = Err(Violation::TooBig { bytes_max: MAX });
        assert_eq!(inflater.inflate(&bomb, MAX), too_big);
        assert!(inflater.output.capacity() <= MAX + 1, "{}", inflater.output.capacity());
        assert!(inflater.work_bytes() > MAX as u64);
        assert_eq!(inflater.inflate(&[0], MAX), Ok(()));
        assert!(inflater.output.capacity() <= KEPT_BYTES, "and nothing of it is kept");
    }

    #[test]
    fn one_serves_all_in_any_order() {
        let mut deflater = Deflater::new();
        let mut inflater = Inflater::new();
        let texts = ["a".repeat(300), "b".repeat(300), "ab".repeat(300)];
        let frames = texts
            .each_ref()
            .map(|text| deflater.frame(Kind::Text, text.as_bytes()).expect("it shrinks"));
        for at in [2, 0, 1, 1, 0, 2] {
            assert_eq!(inflater.inflate(frame::message(&frames[at]).1, MAX), Ok(()));
            assert_eq!(inflater.message(), texts[at].as_bytes());
            assert!(inflater.inflate(&[0xff; 9], MAX).is_err(), "and a bad one leaves nothing");
        }
    }

    #[test]
    fn what_does_not_shrink_is_not_deflated() {
        let mut deflater = Deflater::new();
        assert_eq!(deflater.frame(Kind::Text, b""), None);
        assert_eq!(deflater.frame(Kind::Text, b"abc"), None);
        let mut random = 1u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 24) as u8
        })
        .take(100_000)
        .collect();
        assert_eq!(deflater.frame(Kind::Binary, &noise), None);
        assert!(deflater.frame(Kind::Binary, &[7; 100]).is_some());
    }

    /// Something that can be made smaller, mostly.
    fn content() -> impl Strategy<Value = Vec<u8>> {
        let pieces = prop_oneof![
            "[a-c]{0,20}".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..50),
            (any::<u8>(), 0usize..5000).prop_map(|(byte, count)| vec![byte; count]),
        ];
        prop::collection::vec(pieces, 0..20).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn what_is_deflated_is_inflated_to_the_same(content in content()) {
            if let Some(frame) = Deflater::new().frame(Kind::Text, &content) {
                prop_assert!(frame.len() < frame::encode(Kind::Text, &content).len());
                prop_assert_eq!(frame::count(&frame), 1);
                prop_assert_eq!(inflate(frame::message(&frame).1, MAX), Ok(content));
            }
        }

        #[test]
        fn a_flipped_bit_is_an_answer_like_any(
            content in content(),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            if let Some(frame) = Deflater::new().frame(Kind::Text, &content) {
                let mut payload = frame::message(&frame).1.to_vec();
                let at = at.index(payload.len());
                payload[at] ^= 1 << bit;
                let _ = inflate(&payload, MAX);
            }
        }

        #[test]
        fn any_bytes_have_an_answer(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            bytes_max in 0usize..5000,
        ) {
            if let Ok(message) = inflate(&bytes, bytes_max) {
                prop_assert!(message.len() <= bytes_max);
            }
        }
    }
}

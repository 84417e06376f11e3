//! Trace contexts (W3C Trace Context, section 3.2): whose call a message belongs to.

use std::fmt;
use std::ops::Range;

/// The length of version 00, in bytes.
pub const TRACEPARENT_BYTES: usize = 55;

/// A `traceparent` of version 00, as text: `00-<trace id>-<parent id>-<flags>`, lower-case
/// hexadecimal, neither id all zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Traceparent([u8; TRACEPARENT_BYTES]);

/// Of the flags, the one that every version has (3.2.2.5).
const SAMPLED: u8 = 1;

impl Traceparent {
    /// A header's value. A later version is read as far as version 00 knows it, and becomes one
    /// (3.2.4). `None` for whatever else: it is to be ignored, and the message goes its way.
    pub fn parse(text: &str) -> Option<Traceparent> {
        let known: &[u8; TRACEPARENT_BYTES] = text.as_bytes().first_chunk()?;
        let fields = [&known[..2], &known[3..35], &known[36..52], &known[53..]];
        let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_zero = |field: &[u8]| field.iter().all(|&byte| byte == b'0');
        let [version, trace_id, parent_id, flags] = fields;
        if [known[2], known[35], known[52]] != *b"---"
            || !fields.concat().iter().all(is_hex)
            || is_zero(trace_id)
            || is_zero(parent_id)
        {
            return None;
        }
        let rest = &text.as_bytes()[TRACEPARENT_BYTES..];
        match (version, rest.first()) {
            (b"00", None) => Some(Traceparent(*known)),
            (b"00" | b"ff", _) => None,
            (_, None | Some(b'-')) => {
                let mut written = *known;
                written[..2].copy_from_slice(b"00");
                let low = char::from(flags[1]).to_digit(16)?;
                let is_sampled = low & u32::from(SAMPLED) != 0;
                written[53..].copy_from_slice(if is_sampled { b"01" } else { b"00" });
                Some(Traceparent(written))
            }
            _ => None,
        }
    }

    /// One of version 00; `None` where an id is zero.
    pub fn new(trace_id: u128, parent_id: u64, flags: u8) -> Option<Traceparent> {
        Traceparent::parse(&format!("00-{trace_id:032x}-{parent_id:016x}-{flags:02x}"))
    }

    pub fn trace_id(&self) -> u128 {
        self.number(3..35)
    }

    pub fn parent_id(&self) -> u64 {
        // Sixteen digits fit.
        self.number(36..52) as u64
    }

    pub fn flags(&self) -> u8 {
        // Two digits fit.
        self.number(53..55) as u8
    }

    /// Whether whoever called keeps a record of the call.
    pub fn is_sampled(&self) -> bool {
        self.flags() & SAMPLED != 0
    }

    fn number(&self, digits: Range<usize>) -> u128 {
        u128::from_str_radix(&self.as_str()[digits], 16).expect("at most 32 hexadecimal digits")
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits and hyphens are ASCII")
    }
}

impl fmt::Debug for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let parsed = Traceparent::parse(text);
        assert_eq!(parsed.as_ref().map(Traceparent::as_str), expected, "{text}");
    }

    #[test]
    fn version_00_stays_as_it_came() {
        check(GOOD, Some(GOOD));
        let unsampled = GOOD.replace("-01", "-00");
        check(&unsampled, Some(&unsampled));
        let random = GOOD.replace("-01", "-03");
        check(&random, Some(&random));
    }

    #[test]
    fn its_fields_are_numbers_and_make_it_again() {
        let good = Traceparent::parse(GOOD).expect("a good one");
        assert_eq!(good.trace_id(), 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!((good.parent_id(), good.flags()), (0xb7ad_6b71_6920_3331, 1));
        assert_eq!(Traceparent::new(good.trace_id(), good.parent_id(), 1), Some(good));
        assert_eq!(Traceparent::new(0, 1, 1), None);
        assert_eq!(Traceparent::new(1, 0, 1), None);
        let sampled = |flags: &str| {
            Traceparent::parse(&GOOD.replace("-01", flags)).is_some_and(|one| one.is_sampled())
        };
        assert!(sampled("-01") && sampled("-03") && !sampled("-00") && !sampled("-02"));
    }

    #[test]
    fn what_is_malformed_is_none() {
        for bad in [
            "",
            "00",
            &GOOD[1..],
            &GOOD[..54],
            &format!("{GOOD} "),
            &format!("{GOOD}-more"),
            &GOOD.to_uppercase(),
            &GOOD.replace('-', "_"),
            &GOOD.replace("0af", "0ag"),
            &GOOD.replace("-01", "-0x"),
            &GOOD.replace("-01", "é01"),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            &GOOD.replace("00-", "ff-"),
            &GOOD.replace("00-", "0x-"),
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        check(&GOOD.replace("00-", "01-"), Some(GOOD));
        check(&format!("{}-what-comes-then", GOOD.replace("00-", "cc-")), Some(GOOD));
        check(&GOOD.replace("00-", "01-").replace("-01", "-ff"), Some(GOOD));
        let unsampled = GOOD.replace("-01", "-00");
        check(&GOOD.replace("00-", "01-").replace("-01", "-fe"), Some(&unsampled));
        check(&format!("{}x", GOOD.replace("00-", "01-")), None);
    }
}

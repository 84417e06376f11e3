//! The trace context that a request came with (W3C Trace Context, section 3.2), passed on as it is.
//!
//! Nobody here looks into it; but what is passed on is well-formed, so that those who do can rely on
//! that.

use std::fmt;

/// The length of a `traceparent`, in bytes.
pub const TRACEPARENT_BYTES: usize = 55;

/// A well-formed `traceparent` of version 00.
#[derive(Clone, PartialEq, Eq)]
pub struct Traceparent(Box<str>);

impl Traceparent {
    /// `00-<trace id>-<parent id>-<flags>`, lower-case hexadecimal, neither id all zeros. `None` for
    /// anything else: the standard says to go on as if there were none.
    pub fn parse(text: &str) -> Option<Traceparent> {
        let mut parts = text.split('-');
        let is_hex = |part: &str, chars: usize| {
            part.len() == chars
                && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_id =
            |part: &str, chars| is_hex(part, chars) && part.bytes().any(|byte| byte != b'0');
        let is_good = parts.next() == Some("00")
            && parts.next().is_some_and(|trace| is_id(trace, 32))
            && parts.next().is_some_and(|parent| is_id(parent, 16))
            && parts.next().is_some_and(|flags| is_hex(flags, 2))
            && parts.next().is_none();
        is_good.then(|| Traceparent(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: bool) {
        let parsed = Traceparent::parse(text);
        assert_eq!(parsed.as_ref().map(Traceparent::as_str), expected.then_some(text), "{text}");
    }

    #[test]
    fn only_what_the_standard_says_is_one() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(good.len(), TRACEPARENT_BYTES);
        check(good, true);
        check(&good.replace("-01", "-ff"), true);
        check("", false);
        check(&good.to_uppercase(), false);
        check(&good.replacen("00", "01", 1), false);
        check(&good.replacen("00", "ff", 1), false);
        check(&format!("{good}-"), false);
        check(&format!(" {good}"), false);
        check(&good[1..], false);
        check(&good[..54], false);
        check(&good.replace("b7ad6b7169203331", "0000000000000000"), false);
        check(&good.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)), false);
        check(&good.replace("0af", "0ag"), false);
        check(&good.replace('-', "_"), false);
    }
}

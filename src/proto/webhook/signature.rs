//! Signatures by which a backend knows that an event came from here and from nobody else.
//!
//! Source: Standard Webhooks 1.0.0, symmetric signatures. Its `v1` covers id, time and body, not the
//! headers that tell of the event; so each secret makes a second one, `v1ce`, which covers these too.
//! Who knows only the standard passes over what does not begin with `v1,`.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

/// What the text of a secret begins with.
const PREFIX: &str = "whsec_";

/// The bounds that the standard sets for a secret, in bytes.
const SECRET_BYTES_MIN: usize = 24;
const SECRET_BYTES_MAX: usize = 64;

/// A key for signing. Its `Debug` shows nothing of it.
#[derive(Debug, Clone)]
pub struct Secret(hmac::Key);

/// Why a text is no secret; none of it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("a secret begins with \"whsec_\"")]
    Prefix,
    #[error("what follows \"whsec_\" is not base64")]
    Base64,
    #[error("a secret is {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes long, this one has {0}")]
    Length(usize),
}

impl Secret {
    /// `whsec_` and the key in base64.
    pub fn parse(text: &str) -> Result<Secret, Invalid> {
        let key = text.strip_prefix(PREFIX).ok_or(Invalid::Prefix)?;
        let key = STANDARD.decode(key).map_err(|_| Invalid::Base64)?;
        match key.len() {
            SECRET_BYTES_MIN..=SECRET_BYTES_MAX => {
                Ok(Secret(hmac::Key::new(hmac::HMAC_SHA256, &key)))
            }
            length => Err(Invalid::Length(length)),
        }
    }

    fn sign(&self, parts: &[&[u8]]) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(part);
        }
        STANDARD.encode(context.sign())
    }
}

/// The value of `webhook-signature`, for every secret in use; `None` without any. `events`: the
/// sorted `ce-` headers, as they are sent.
pub fn signatures(
    secrets: &[Secret],
    id: &str,
    timestamp: u64,
    events: &[(&'static str, String)],
    body: &[u8],
) -> Option<String> {
    let before = format!("{id}.{timestamp}.");
    let mut lines = String::new();
    for (name, value) in events {
        writeln!(lines, "{name}:{value}").expect("a String takes everything");
    }
    let mut out = String::new();
    for secret in secrets {
        let plain = secret.sign(&[before.as_bytes(), body]);
        let whole = secret.sign(&[before.as_bytes(), lines.as_bytes(), body]);
        let space = if out.is_empty() { "" } else { " " };
        write!(out, "{space}v1,{plain} v1ce,{whole}").expect("a String takes everything");
    }
    (!out.is_empty()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn a_signature_is_the_one_of_the_standards_own_example() {
        // The worked example that Standard Webhooks' libraries test themselves with.
        let secret = Secret::parse(SECRET).expect("a good secret");
        let (id, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", br#"{"test": 2432232314}"#);
        let signed = signatures(&[secret], id, 1_614_265_330, &[], body).expect("a secret");
        let first = signed.split(' ').next();
        assert_eq!(first, Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
    }

    #[test]
    fn every_secret_signs_and_the_second_signature_covers_the_headers() {
        let one = Secret::parse(SECRET).expect("a good secret");
        let two = format!("whsec_{}", STANDARD.encode([7; 32]));
        let two = Secret::parse(&two).expect("a good secret");
        let both = [one, two];
        let events = |seq: &str| vec![("ce-id", "x".to_owned()), ("ce-seq", seq.to_owned())];
        let signed = |seq| signatures(&both, "x", 1, &events(seq), b"body").expect("secrets");
        let (before, after) = (signed("1"), signed("2"));
        let [before, after]: [Vec<&str>; 2] =
            [before.split(' ').collect(), after.split(' ').collect()];
        assert_eq!(before.len(), 4);
        for (at, version) in ["v1,", "v1ce,", "v1,", "v1ce,"].iter().enumerate() {
            assert!(before[at].starts_with(version), "{before:?}");
            assert_eq!(before[at] == after[at], *version == "v1,");
        }
        let expected = both[0].sign(&[b"x.1.ce-id:x\nce-seq:1\nbody"]);
        assert_eq!(before[1], format!("v1ce,{expected}"));
        assert_eq!(signatures(&[], "x", 1, &events("1"), b""), None);
    }

    #[track_caller]
    fn refused(text: &str, expected: Invalid) {
        assert_eq!(Secret::parse(text).err(), Some(expected), "{text}");
    }

    #[test]
    fn a_secret_is_as_the_standard_wants_it_and_is_not_shown() {
        refused("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", Invalid::Prefix);
        refused("", Invalid::Prefix);
        refused("whsec_", Invalid::Length(0));
        refused("whsec_not base64", Invalid::Base64);
        refused(&format!("whsec_{}", STANDARD.encode([1; 23])), Invalid::Length(23));
        refused(&format!("whsec_{}", STANDARD.encode([1; 65])), Invalid::Length(65));
        let shown = format!("{:?}", Secret::parse(SECRET).expect("a good secret"));
        assert!(!shown.contains("MfKQ"), "{shown}");
    }
}

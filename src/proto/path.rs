//! Concrete paths: what a client opens, what a publisher names, one broadcast domain each.
//!
//! A path is compared byte for byte on its raw text: nothing is decoded, nothing normalised, so
//! `/ws/a%2Fb` and `/ws/a/b` are two paths and `/ws/` is not `/ws`.

use std::fmt;
use std::sync::Arc;

use crate::proto::upstream::Name;

/// The longest path a client may open, in bytes. Longer ones are unknown (404) before any look-up.
pub const PATH_BYTES_MAX: usize = 1024;

/// The longest value of one `{segment}`, in bytes (docs/clients.md).
pub const SEGMENT_BYTES_MAX: usize = 128;

/// A concrete path: starts with `/`, has no query, fragment, space or control character.
///
/// Cheap to clone: the text is shared.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path(Arc<str>);

/// Why a text is no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("a path starts with '/'")]
    NoSlash,
    #[error("a path has at most {PATH_BYTES_MAX} bytes")]
    TooLong,
    #[error(
        "a path is plain ASCII without spaces, '?', '#' or control characters; percent-encode them"
    )]
    Character,
}

impl Path {
    /// Takes the raw text of a URL path, without its query.
    pub fn parse(text: &str) -> Result<Path, Invalid> {
        check(text)?;
        Ok(Path(text.into()))
    }

    /// What stands in a path's place where an upstream is meant: its bare name. No client can ask for
    /// it, since every path begins with a slash.
    pub fn of_upstream(name: &Name) -> Path {
        Path(name.text().clone())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What every path, concrete or pattern, has to be.
pub fn check(text: &str) -> Result<(), Invalid> {
    if !text.starts_with('/') {
        return Err(Invalid::NoSlash);
    }
    if text.len() > PATH_BYTES_MAX {
        return Err(Invalid::TooLong);
    }
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'?' && byte != b'#';
    if text.bytes().all(plain) { Ok(()) } else { Err(Invalid::Character) }
}

/// Whether a text may stand for a `{segment}`: 1–128 characters of `A–Z a–z 0–9 . _ ~ -` or
/// percent-triplets (docs/clients.md).
pub fn is_segment(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.is_empty() || bytes.len() > SEGMENT_BYTES_MAX {
        return false;
    }
    let mut rest = bytes;
    while let Some((&first, tail)) = rest.split_first() {
        rest = match first {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'~' | b'-' => tail,
            b'%' => match tail {
                [a, b, after @ ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => after,
                _ => return false,
            },
            _ => return false,
        };
    }
    true
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn segment(text: &str, expected: bool) {
        assert_eq!(is_segment(text), expected, "{text:?}");
    }

    #[test]
    fn a_segment_is_unreserved_characters_or_triplets() {
        segment("a", true);
        segment("room-1_2.3~x", true);
        segment("a%2Fb", true);
        segment("%c3%A9", true);
        segment("..", true);
        segment("", false);
        segment("a b", false);
        segment("a%2", false);
        segment("a%2g", false);
        segment("%", false);
        segment("a+b", false);
        segment("é", false);
        segment(&"x".repeat(128), true);
        segment(&"x".repeat(129), false);
    }

    #[test]
    fn a_path_is_raw_ascii_from_the_root() {
        assert!(Path::parse("/").is_ok());
        assert!(Path::parse("/ws/a%20b").is_ok());
        assert_eq!(Path::parse("ws"), Err(Invalid::NoSlash));
        assert_eq!(Path::parse(""), Err(Invalid::NoSlash));
        assert_eq!(Path::parse("/a b"), Err(Invalid::Character));
        assert_eq!(Path::parse("/a?b"), Err(Invalid::Character));
        assert_eq!(Path::parse("/é"), Err(Invalid::Character));
        assert_eq!(Path::parse(&format!("/{}", "x".repeat(1024))), Err(Invalid::TooLong));
    }
}

//! JSON strings: from what stands between the quotes to text and back (RFC 8259, section 7).
//!
//! Three views of one token: its bytes (what is sent on, never touched), its text (what a person
//! reads, lone surrogates replaced), and its identity (what makes two member names one name, lone
//! surrogates told apart). `inner` is always what stood between the quotes of a string that
//! `proto::json` let pass; other input gives a wrong answer, not a panic.

use std::borrow::Cow;

/// The text of a string. A lone surrogate, which UTF-8 cannot hold, becomes U+FFFD.
pub fn unescape(inner: &str) -> Cow<'_, str> {
    if !inner.contains('\\') {
        return Cow::Borrowed(inner);
    }
    let mut text = String::with_capacity(inner.len());
    for piece in pieces(inner) {
        match piece {
            Piece::Plain(run) => text.push_str(run),
            Piece::Char(char) => text.push(char),
            Piece::Lone(_) => text.push(char::REPLACEMENT_CHARACTER),
        }
    }
    Cow::Owned(text)
}

/// Bytes that are equal exactly when the strings are, however each was spelt: UTF-8, with a lone
/// surrogate written the way UTF-8 would write it if it were allowed to.
pub fn identity(inner: &str) -> Cow<'_, [u8]> {
    if !inner.contains('\\') {
        return Cow::Borrowed(inner.as_bytes());
    }
    let mut bytes = Vec::with_capacity(inner.len());
    for piece in pieces(inner) {
        match piece {
            Piece::Plain(run) => bytes.extend_from_slice(run.as_bytes()),
            Piece::Char(char) => bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
            Piece::Lone(unit) => {
                let [high, low] = unit.to_be_bytes();
                bytes.extend([
                    0xe0 | high >> 4,
                    0x80 | (high & 0x0f) << 2 | low >> 6,
                    0x80 | low & 0x3f,
                ]);
            }
        }
    }
    Cow::Owned(bytes)
}

/// Whether a string's text is exactly this.
pub fn is(inner: &str, text: &str) -> bool {
    // An escaped spelling is always longer, which spares nearly every caller the look inside.
    inner == text || inner.len() > text.len() && *identity(inner) == *text.as_bytes()
}

/// Appends the text as a JSON string, quotes and all, with the escapes that `JSON.stringify`
/// makes: those that are needed, in their short form where there is one.
pub fn quote(text: &str, out: &mut String) {
    out.reserve(text.len() + 2);
    out.push('"');
    let mut from = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            0x08 => "\\b",
            0x0c => "\\f",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..0x20 => "\\u00",
            _ => continue,
        };
        out.push_str(&text[from..at]);
        out.push_str(escape);
        if escape.len() > 2 {
            let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble & 0x0f)]);
            out.extend([digit(byte >> 4), digit(byte)]);
        }
        from = at + 1;
    }
    out.push_str(&text[from..]);
    out.push('"');
}

enum Piece<'a> {
    /// As long as it goes without an escape.
    Plain(&'a str),
    Char(char),
    /// A surrogate whose other half is not beside it.
    Lone(u16),
}

fn pieces(inner: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = inner;
    std::iter::from_fn(move || {
        let (piece, taken) = match rest.find('\\') {
            None if rest.is_empty() => return None,
            None => (Piece::Plain(rest), rest.len()),
            Some(0) => escape(rest)?,
            Some(plain) => (Piece::Plain(&rest[..plain]), plain),
        };
        rest = &rest[taken..];
        Some(piece)
    })
}

/// The escape that `rest` starts with, and its length.
fn escape(rest: &str) -> Option<(Piece<'_>, usize)> {
    let char = match rest.as_bytes().get(1)? {
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return code_point(rest),
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        _ => return None,
    };
    Some((Piece::Char(char), 2))
}

fn code_point(rest: &str) -> Option<(Piece<'_>, usize)> {
    let first = code_unit(rest)?;
    if let Some(char) = char::from_u32(u32::from(first)) {
        return Some((Piece::Char(char), 6));
    }
    // Only an escape can be the other half: raw text has no surrogates.
    let pair = code_unit(&rest[6..])
        .and_then(|second| char::decode_utf16([first, second]).next().and_then(Result::ok));
    match pair {
        Some(char) => Some((Piece::Char(char), 12)),
        None => Some((Piece::Lone(first), 6)),
    }
}

fn code_unit(rest: &str) -> Option<u16> {
    let digits = rest.strip_prefix("\\u")?.get(..4)?;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn unescapes(inner: &str, expected: &str) {
        assert_eq!(unescape(inner), expected, "{inner}");
    }

    #[test]
    fn an_escape_is_the_character_it_names() {
        unescapes("", "");
        unescapes("plain žluť 👩‍👩‍👧‍👦", "plain žluť 👩‍👩‍👧‍👦");
        unescapes(r#"\"\\\/\b\f\n\r\t"#, "\"\\/\u{8}\u{c}\n\r\t");
        unescapes(r"\u0000", "\0");
        unescapes(r"a\u0000b", "a\0b");
        unescapes(r"\u0041\u00e9\u00E9\uFEFF", "Aéé\u{feff}");
        unescapes(r"\\u0041", r"\u0041");
        unescapes(r"\\\\n", r"\\n");
        unescapes(r"é\né", "é\né");
        unescapes(r"\ud83d\ude80", "🚀");
        unescapes(r"\uD83D\uDE80!", "🚀!");
        unescapes(r"\uffff\ufffd", "\u{ffff}\u{fffd}");
    }

    #[test]
    fn each_lone_surrogate_becomes_one_replacement_character() {
        unescapes(r"\ud83d", "\u{fffd}");
        unescapes(r"\ude80", "\u{fffd}");
        unescapes(r"a\ud83db", "a\u{fffd}b");
        unescapes(r"\ude80\ud83d", "\u{fffd}\u{fffd}");
        unescapes(r"\ud83d\ud83d\ude80", "\u{fffd}🚀");
        unescapes(r"\ud83d\n", "\u{fffd}\n");
        unescapes(r"\ud83d\\ude80", "\u{fffd}\\ude80");
        unescapes(r"\ud83dude80", "\u{fffd}ude80");
        unescapes(r"\ud83d\u0041", "\u{fffd}A");
        unescapes(r"\ud83d🚀", "\u{fffd}🚀");
    }

    #[track_caller]
    fn same(one: &str, two: &str, expected: bool) {
        assert_eq!(identity(one) == identity(two), expected, "{one} {two}");
    }

    #[test]
    fn a_string_is_itself_however_spelt() {
        same("a", r"\u0061", true);
        same(r"\u00e9", r"\u00E9", true);
        same("é", r"\u00e9", true);
        same("/", r"\/", true);
        same(r"\n", r"\u000a", true);
        same("🚀", r"\ud83d\ude80", true);
        same("a", "A", false);
        same(r"\\n", r"\n", false);
        same(r"\ud83d", r"\ud83d", true);
        same(r"\ud83d", r"\uD83D", true);
        same(r"\ud83d", r"\ud83e", false);
        same(r"\ud83d", "\u{fffd}", false);
        same(r"\ud83d", r"\ufffd", false);
        same(r"\ud83d", r"\ude80", false);
        // e-acute, and e with a combining acute: two strings, as for JSON.parse.
        same("é", "e\u{301}", false);
        assert!(is("payload", "payload") && is(r"p\u0061yload", "payload"));
        assert!(!is("payloads", "payload") && !is("pay", "payload") && !is(r"\ud83d", "\u{fffd}"));
    }

    #[track_caller]
    fn quotes(text: &str, expected: &str) {
        let mut out = String::from("x");
        quote(text, &mut out);
        assert_eq!(out, format!("x{expected}"));
    }

    #[test]
    fn only_what_must_be_escaped_is() {
        quotes("", r#""""#);
        quotes("plain", r#""plain""#);
        quotes("q\"\\/q", r#""q\"\\/q""#);
        quotes("\u{8}\u{c}\n\r\t", r#""\b\f\n\r\t""#);
        quotes("\0\u{1}\u{b}\u{1f}", r#""\u0000\u0001\u000b\u001f""#);
        quotes("\u{7f}é🚀\u{2028}\u{feff}", "\"\u{7f}é🚀\u{2028}\u{feff}\"");
        quotes("é\nž", r#""é\nž""#);
    }

    proptest! {
        #[test]
        fn quoting_and_unescaping_are_inverse(text in any::<String>()) {
            let mut quoted = String::new();
            quote(&text, &mut quoted);
            prop_assert_eq!(unescape(&quoted[1..quoted.len() - 1]), text.as_str());
            prop_assert_eq!(serde_json::from_str::<String>(&quoted).ok(), Some(text));
        }

        #[test]
        fn what_never_was_a_string_does_no_harm(text in r#"(\\|u|d8|[0-9a-f]{2}|é|"|.)*"#) {
            unescape(&text);
            identity(&text);
        }
    }
}

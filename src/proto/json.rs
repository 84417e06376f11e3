//! Strict JSON (RFC 8259) in its compact form, token for token as it came.
//!
//! - Numbers and strings keep their bytes: nothing is parsed into a float, nothing re-escaped.
//! - Members keep their order. Of members with one name, at any depth, the last value wins, at the
//!   place of the first (and with its spelling), as with `JSON.parse`.
//! - Work and memory are linear in the input whatever it holds (sorting the names of large objects
//!   aside): there is no tree, depth is bounded, names are compared by hash above a small count.
//!
//! A compact text has no raw control character, so it is one line. What a general JSON library
//! cannot do is exactly what is done here: they all end in a number type and a map.

use std::ops::Range;

use crate::proto::json_names;
use crate::proto::json_names::{Edit, Name};

/// How deep arrays and objects may be nested; the outermost is 1 deep.
pub const DEPTH_MAX: usize = 128;

/// Why something is not JSON, and where: the byte in the text as it came, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at byte {at}")]
pub struct Invalid {
    pub at: usize,
    pub reason: &'static str,
}

/// A JSON text without insignificant whitespace and duplicate members.
#[derive(Debug)]
pub struct Compact {
    text: String,
    /// Of the outermost object.
    members: Vec<Name>,
}

/// One member of an object in a compact text.
#[derive(Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// Without its quotes, still escaped.
    pub name: &'a str,
    /// Where the member is, from its name's quote to its value's end.
    pub whole: Range<usize>,
    pub value: Range<usize>,
}

/// Checks a text and makes it compact.
pub fn compact(json: &[u8]) -> Result<Compact, Invalid> {
    let text = match simdutf8::compat::from_utf8(json) {
        Ok(text) => text,
        Err(bad) => return Err(Invalid { at: bad.valid_up_to(), reason: "not UTF-8" }),
    };
    let scanned = Scanner::scan(text)?;
    if scanned.edits.is_empty() {
        return Ok(Compact { text: scanned.out, members: scanned.members });
    }
    // The places of the members have moved. This happens only where names are repeated, which is
    // rare enough for a second look.
    let text = json_names::apply(&scanned.out, scanned.edits);
    let resolved = Scanner::scan(&text)?;
    Ok(Compact { text: resolved.out, members: resolved.members })
}

impl Compact {
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn into_text(self) -> String {
        self.text
    }

    pub fn is_object(&self) -> bool {
        self.text.starts_with('{')
    }

    /// The outermost object's members, in order, each name once; none if it is no object.
    pub fn members(&self) -> impl Iterator<Item = Member<'_>> {
        let ends = self.members.iter().skip(1).map(|next| next.start as usize - 1);
        self.members.iter().zip(ends.chain([self.text.len().saturating_sub(1)])).map(
            |(name, end)| {
                let (start, name_end) = (name.start as usize, name.end as usize);
                Member {
                    name: &self.text[start + 1..name_end - 1],
                    whole: start..end,
                    value: name_end + 1..end,
                }
            },
        )
    }
}

/// The parts of an object or array within a compact text, in order: names (`None` in an array; still
/// escaped, without quotes) and values as they stand there. No parts if it is neither.
pub fn parts(compact: &str) -> impl Iterator<Item = (Option<&str>, &str)> {
    let is_object = compact.starts_with('{');
    let inside = match is_object || compact.starts_with('[') {
        true => &compact[1..compact.len().saturating_sub(1).max(1)],
        false => "",
    };
    let mut rest = inside;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let name = is_object.then(|| {
            let end = string_end(rest);
            let name = &rest[1..end - 1];
            rest = &rest[end + 1..];
            name
        });
        let (value, after) = rest.split_at(value_end(rest));
        rest = after.strip_prefix(',').unwrap_or(after);
        Some((name, value))
    })
}

/// Where the value ends that a piece of compact text starts with.
fn value_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut open) = (0, 0);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => at += string_end(&text[at..]) - 1,
            b'{' | b'[' => open += 1,
            b',' if open == 0 => return at,
            b'}' | b']' => open -= 1,
            _ => {}
        }
        at += 1;
    }
    at
}

/// Where the string ends that a piece of compact text starts with, its quote included.
fn string_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = plain_end(bytes, 1);
    while bytes[at] != b'"' {
        at = plain_end(bytes, at + 2);
    }
    at + 1
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// What of `text` before this is significant is in `out`.
    copied: usize,
    out: String,
    /// The names of every object that is open, outermost first; at the end the outermost object's.
    members: Vec<Name>,
    /// What becomes of repeated members. They are put right in one go at the end, so that moving a
    /// value at every level does not cost its size at every level.
    edits: Vec<Edit>,
}

impl<'a> Scanner<'a> {
    fn scan(text: &'a str) -> Result<Scanner<'a>, Invalid> {
        if u32::try_from(text.len()).is_err() {
            return Err(Invalid { at: u32::MAX as usize, reason: "too long, cut" });
        }
        let mut scanner = Scanner {
            text,
            at: 0,
            copied: 0,
            out: String::with_capacity(text.len()),
            members: Vec::with_capacity(16),
            edits: Vec::new(),
        };
        scanner.space();
        scanner.value(0)?;
        scanner.space();
        if scanner.at < text.len() {
            return scanner.refuse("expected nothing more");
        }
        scanner.flush();
        Ok(scanner)
    }

    /// `depth`: how many arrays and objects are open around the value.
    fn value(&mut self, depth: usize) -> Result<(), Invalid> {
        match self.peek() {
            Some(b'"') => self.string().map(drop),
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            Some(0xef) if self.at == 0 && self.text.starts_with('\u{feff}') => {
                self.refuse("expected a value, not a byte order mark,")
            }
            _ => self.refuse("expected a value"),
        }
    }

    fn object(&mut self, depth: usize) -> Result<(), Invalid> {
        self.open(depth)?;
        let first = self.members.len();
        let mut escaped = false;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return self.refuse("expected a member's name in double quotes");
            }
            let start = self.written();
            escaped |= self.string()?;
            self.members.push(Name { start, end: self.written() });
            self.space();
            if self.peek() != Some(b':') {
                return self.refuse("expected ':'");
            }
            self.at += 1;
            self.space();
            self.value(depth + 1)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return self.refuse("expected ',' or '}'"),
            }
            self.space();
        }
        let end = self.written();
        self.at += 1;
        if self.members.len() - first > 1 {
            self.flush();
            json_names::resolve(&self.out, &self.members[first..], end, escaped, &mut self.edits);
        }
        if depth > 0 {
            self.members.truncate(first);
        }
        Ok(())
    }

    fn array(&mut self, depth: usize) -> Result<(), Invalid> {
        self.open(depth)?;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return self.refuse("expected ',' or ']'"),
            }
            self.space();
        }
        self.at += 1;
        Ok(())
    }

    fn open(&mut self, depth: usize) -> Result<(), Invalid> {
        if depth == DEPTH_MAX {
            return self.refuse("more than 128 arrays and objects inside each other");
        }
        self.at += 1;
        self.space();
        Ok(())
    }

    /// Whether it holds escapes.
    fn string(&mut self) -> Result<bool, Invalid> {
        let bytes = self.text.as_bytes();
        let opened = self.at;
        let mut escaped = false;
        self.at += 1;
        loop {
            self.at = plain_end(bytes, self.at);
            match bytes.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return self.refuse("control character in a string, escape it:"),
                None => {
                    return Err(Invalid { at: opened, reason: "string without an end, begun" });
                }
            }
        }
        self.at += 1;
        Ok(escaped)
    }

    fn escape(&mut self) -> Result<(), Invalid> {
        match self.text.as_bytes()[self.at + 1..] {
            [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => self.at += 2,
            [b'u', a, b, c, d, ..] if [a, b, c, d].iter().all(u8::is_ascii_hexdigit) => {
                self.at += 6;
            }
            [b'u', ..] => return self.refuse("expected four hexadecimal digits after the '\\u'"),
            _ => return self.refuse("unknown escape in a string"),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Invalid> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
            if matches!(self.peek(), Some(b'0'..=b'9')) {
                return self.refuse("number with a leading zero");
            }
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Invalid> {
        let from = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == from { self.refuse("expected a digit") } else { Ok(()) }
    }

    fn literal(&mut self, word: &str) -> Result<(), Invalid> {
        if !self.text[self.at..].starts_with(word) {
            return self.refuse("expected a value");
        }
        self.at += word.len();
        Ok(())
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        let from = self.at;
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
        if self.at > from {
            self.out.push_str(&self.text[self.copied..from]);
            self.copied = self.at;
        }
    }

    fn flush(&mut self) {
        self.out.push_str(&self.text[self.copied..self.at]);
        self.copied = self.at;
    }

    /// Where in `out` the current byte will stand.
    fn written(&self) -> u32 {
        let written = self.out.len() + (self.at - self.copied);
        u32::try_from(written).expect("no longer than the text, whose length was checked")
    }

    fn refuse<T>(&self, reason: &'static str) -> Result<T, Invalid> {
        Err(Invalid { at: self.at, reason })
    }
}

/// The first byte from `at` on that cannot stand in a string as it is (quote, backslash, control
/// character), or the end.
fn plain_end(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    // Eight at a time: a byte's high bit is set where it is below `limit`. A borrow can set more of
    // them, but only above one that is rightly set, and the lowest is the one that is asked for.
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & HIGHS;
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let word = u64::from_le_bytes(*chunk);
        let found = below(word, 0x20)
            | below(word ^ (ONES * u64::from(b'"')), 1)
            | below(word ^ (ONES * u64::from(b'\\')), 1);
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let special = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
    let rest = bytes.get(at..).unwrap_or_default();
    at.min(bytes.len()) + rest.iter().position(special).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::de::IgnoredAny;
    use serde_json::Value;

    #[track_caller]
    fn check(json: &str, expected: &str) {
        let compact = compact(json.as_bytes()).expect("good JSON");
        assert_eq!(compact.text(), expected, "{json}");
        let same = |member: Member<'_>| {
            assert_eq!(
                &compact.text()[member.whole.start..][1..][..member.name.len()],
                member.name
            );
            (member.name.to_owned(), compact.text()[member.value].to_owned())
        };
        let members: Vec<_> = compact.members().map(same).collect();
        let parts: Vec<_> = parts(compact.text())
            .filter_map(|(name, value)| Some((name?.to_owned(), value.to_owned())))
            .collect();
        assert_eq!(members, parts, "{json}");
    }

    #[track_caller]
    fn same(json: &str) {
        check(json, json);
    }

    #[track_caller]
    fn refused(json: impl AsRef<[u8]>, expected: &str) {
        let json = json.as_ref();
        let message = compact(json).expect_err("bad JSON").to_string();
        assert_eq!(message, expected, "{}", json.escape_ascii());
    }

    #[test]
    fn tokens_stay_byte_for_byte() {
        for number in ["0", "-0", "1.50", "-1.5", "1e+21", "1E5", "1e-7", "0.0", "-0.0e-0", "1e999"]
        {
            same(number);
            check(&format!("[ {number} , {number} ]"), &format!("[{number},{number}]"));
        }
        same("123456789012345678901234567890.123456789012345678901234567890");
        same(r#""""#);
        same(r#"" ""#);
        same(r#""  : , { } [ ] ""#);
        same(r#""\u0041\/\"\\\b\f\n\r\t\u00e9\u00E9""#);
        same(r#""\ud83d""#);
        same(r#""\udc00\ud800""#);
        same("\"žluť 👩‍👩‍👧‍👦 \u{2028}\u{feff}\u{7f}\"");
        same(r#"{"k":"é\"\\ /</script>"}"#);
        for word in ["true", "false", "null", "[]", "{}", "[[]]", "[{}]", r#"{"":{}}"#] {
            same(word);
        }
    }

    #[test]
    fn only_insignificant_whitespace_goes() {
        check(" 1 ", "1");
        check("\t\r\n {\t\"a\" :\r\n 1 , \"b\": [ 1 ,2\n] } \n", r#"{"a":1,"b":[1,2]}"#);
        check("[ ]", "[]");
        check("{ }", "{}");
        check(r#"[ { } , [ ] , " " ]"#, r#"[{},[]," "]"#);
        check(r#"{" a ": " b "}"#, r#"{" a ":" b "}"#);
        check("[é]".replace('é', "\"é\" ").as_str(), "[\"é\"]");
    }

    #[test]
    fn members_stay_in_order() {
        same(r#"{"2":"two","10":"ten","z":1,"a":2,"__proto__":3,"":4}"#);
    }

    #[test]
    fn of_one_name_the_last_value_stands_at_the_place_of_the_first() {
        check(r#"{"a":1,"a":2}"#, r#"{"a":2}"#);
        check(r#"{"a":1,"b":2,"a":3}"#, r#"{"a":3,"b":2}"#);
        check(r#"{"b":1,"a":2,"a":3,"c":4,"a":5}"#, r#"{"b":1,"a":5,"c":4}"#);
        check(r#"{"a":1,"b":2,"b":3,"a":4}"#, r#"{"a":4,"b":3}"#);
        check(r#"{"":1,"":[ 2 ]}"#, r#"{"":[2]}"#);
        check(r#"{ "a" : 1 , "a" : [ 2 , 3 ] }"#, r#"{"a":[2,3]}"#);
        check(r#"{"a":1,"a":1,"a":1,"a":1}"#, r#"{"a":1}"#);
        check(r#"{"a":"longer than","a":0,"b":1}"#, r#"{"a":0,"b":1}"#);
    }

    #[test]
    fn that_holds_at_every_depth() {
        check(r#"[{"a":1,"a":2},{"b":1,"b":2}]"#, r#"[{"a":2},{"b":2}]"#);
        check(r#"{"x":{"a":1,"a":2},"y":1}"#, r#"{"x":{"a":2},"y":1}"#);
        check(r#"{"a":{"b":1,"b":2},"a":{"c":1,"c":2}}"#, r#"{"a":{"c":2}}"#);
        check(
            r#"{"a":1,"b":[{"c":1,"c":{"d":1,"d":2}}],"a":{"e":1,"e":[]}}"#,
            r#"{"a":{"e":[]},"b":[{"c":{"d":2}}]}"#,
        );
        check(
            r#"{"a":{"a":{"a":1,"a":2},"a":{"a":3,"a":4}},"a":{"a":{"a":5,"a":6},"a":{"a":7,"a":8}}}"#,
            r#"{"a":{"a":{"a":8}}}"#,
        );
        // Objects side by side with the same names repeat nothing, nor do an object and its part.
        same(r#"[{"a":1},{"a":2},{"a":{"a":3}}]"#);
    }

    #[test]
    fn names_are_compared_by_what_they_mean() {
        check(r#"{"a":1,"\u0061":2}"#, r#"{"a":2}"#);
        check(r#"{"\u0061":1,"a":2}"#, r#"{"\u0061":2}"#);
        check(r#"{"\u00e9":1,"é":2,"\u00E9":3}"#, r#"{"\u00e9":3}"#);
        check(r#"{"🚀":1,"\ud83d\ude80":2}"#, r#"{"🚀":2}"#);
        check(r#"{"\ud83d":1,"\uD83D":2}"#, r#"{"\ud83d":2}"#);
        check(r#"{"\/":1,"/":2}"#, r#"{"\/":2}"#);
        same(r#"{"\ud83d":1,"\ufffd":2,"\ude80":3}"#);
        same("{\"\\ud83d\":1,\"\u{fffd}\":2}");
        same(r#"{"a":1,"A":2,"a ":3}"#);
        same(r#"{"\\u0061":1,"a":2}"#);
    }

    #[test]
    fn objects_of_any_size_are_resolved() {
        for count in [15, 16, 17, 5000] {
            let once: Vec<_> = (0..count).map(|name| format!("\"{name}\":{name}")).collect();
            same(&format!("{{{}}}", once.join(",")));
            let twice = format!("{{{},{}}}", once.join(","), once.join(",").replace(':', ":-"));
            check(&twice, &format!("{{{}}}", once.join(",").replace(':', ":-")));
            let apart = format!("{{{},\"0\":null}}", once.join(","));
            check(&apart, &format!("{{{}}}", once.join(",")).replace("\"0\":0", "\"0\":null"));
        }
        check(&format!("{{{}\"\":1}}", "\"\":0,".repeat(100_000)), r#"{"":1}"#);
    }

    #[test]
    fn a_hundred_and_twenty_eight_deep_passes_and_one_more_does_not() {
        let arrays = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        let objects = |depth: usize| r#"{"a":"#.repeat(depth) + "1" + &"}".repeat(depth);
        same(&arrays(128));
        same(&objects(128));
        refused(arrays(129), "more than 128 arrays and objects inside each other at byte 128");
        refused(objects(129), "more than 128 arrays and objects inside each other at byte 640");
        refused(
            "[".repeat(1_000_000),
            "more than 128 arrays and objects inside each other at byte 128",
        );
        let twice = |inner: String, _| format!(r#"{{"a":{inner},"a":{inner}}}"#);
        check(&(0..16).fold("1".to_owned(), twice), &objects(16));
        let late = |inner: String, _| format!(r#"{{"a":0,"a":{inner}}}"#);
        check(&(0..128).fold("1".to_owned(), late), &objects(128));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        refused("", "expected a value at byte 0");
        refused("  ", "expected a value at byte 2");
        refused(r#"{"a":"#, "expected a value at byte 5");
        refused("[1,]", "expected a value at byte 3");
        refused("[,1]", "expected a value at byte 1");
        refused("[1 2]", "expected ',' or ']' at byte 3");
        refused("[1", "expected ',' or ']' at byte 2");
        refused(r#"{"a":1 "b":2}"#, "expected ',' or '}' at byte 7");
        refused(r#"{"a":1"#, "expected ',' or '}' at byte 6");
        refused(r#"{"a" 1}"#, "expected ':' at byte 5");
        refused(r#"{"a":1,}"#, "expected a member's name in double quotes at byte 7");
        refused("{a:1}", "expected a member's name in double quotes at byte 1");
        refused("{1:1}", "expected a member's name in double quotes at byte 1");
        refused("{", "expected a member's name in double quotes at byte 1");
        refused("]", "expected a value at byte 0");
        refused("[}", "expected a value at byte 1");
        refused(r#"{"a":1} x"#, "expected nothing more at byte 8");
        refused("1 2", "expected nothing more at byte 2");
        refused("{}{}", "expected nothing more at byte 2");
        refused("{}\0", "expected nothing more at byte 2");
        refused("\u{feff}{}", "expected a value, not a byte order mark, at byte 0");
        refused("{}\u{feff}", "expected nothing more at byte 2");
        refused("\u{a0}1", "expected a value at byte 0");
        refused("\u{b}1", "expected a value at byte 0");
        for word in
            ["NaN", "Infinity", "-Infinity", "undefined", "True", "nul", "'a'", "tru e", "// c"]
        {
            assert!(compact(word.as_bytes()).is_err(), "{word}");
        }
        refused("nulll", "expected nothing more at byte 4");
    }

    #[test]
    fn numbers_follow_the_grammar() {
        refused("01", "number with a leading zero at byte 1");
        refused("-01", "number with a leading zero at byte 2");
        refused("-", "expected a digit at byte 1");
        refused("1.", "expected a digit at byte 2");
        refused("1.e1", "expected a digit at byte 2");
        refused(".5", "expected a value at byte 0");
        refused("+1", "expected a value at byte 0");
        refused("1e", "expected a digit at byte 2");
        refused("1e+", "expected a digit at byte 3");
        refused("0x10", "expected nothing more at byte 1");
        refused("1_000", "expected nothing more at byte 1");
        refused("-a", "expected a digit at byte 1");
        refused("--1", "expected a digit at byte 1");
    }

    #[test]
    fn strings_follow_the_grammar() {
        refused(r#"["abc"#, "string without an end, begun at byte 1");
        refused(r#""\""#, "string without an end, begun at byte 0");
        refused(r#""\"#, "unknown escape in a string at byte 1");
        refused(r#""\x41""#, "unknown escape in a string at byte 1");
        refused(r#""\U0041""#, "unknown escape in a string at byte 1");
        refused("\"\\\n\"", "unknown escape in a string at byte 1");
        refused(r#""\u12"#, "expected four hexadecimal digits after the '\\u' at byte 1");
        refused(r#""\u123g""#, "expected four hexadecimal digits after the '\\u' at byte 1");
        refused(r#""\u+123""#, "expected four hexadecimal digits after the '\\u' at byte 1");
        for control in 0..0x20 {
            let text = format!("\"long enough for words {}\"", char::from(control));
            refused(text, "control character in a string, escape it: at byte 23");
        }
        same("\"\u{7f}\u{80}\u{9f}\"");
    }

    #[test]
    fn what_is_not_utf_8_is_refused_wherever_it_stands() {
        refused(b"\"\xff\"", "not UTF-8 at byte 1");
        refused(b"\"abc\xc3\"", "not UTF-8 at byte 4");
        refused(b"\"\xed\xa0\x80\"", "not UTF-8 at byte 1");
        refused(b"\"\xc0\xaf\"", "not UTF-8 at byte 1");
        refused(b"{}\xfe", "not UTF-8 at byte 2");
    }

    #[test]
    fn the_end_of_plain_text_is_found_wherever_it_is() {
        for stop in ["\"", "\\", "\u{0}", "\u{1f}", ""] {
            for before in 0..20 {
                for after in 0..20 {
                    for fill in [" ", "!", "#", "[", "]", "\u{7f}", "z"] {
                        let text = fill.repeat(before) + stop + &fill.repeat(after);
                        let end = if stop.is_empty() { text.len() } else { before };
                        assert_eq!(plain_end(text.as_bytes(), 0), end, "{text:?}");
                        assert_eq!(plain_end(text.as_bytes(), end), end, "{text:?}");
                    }
                }
            }
        }
        let wide = "é🚀".repeat(9) + "\"";
        assert_eq!(plain_end(wide.as_bytes(), 0), wide.len() - 1);
        assert_eq!(plain_end(b"abc", 7), 3);
    }

    #[test]
    fn parts_are_found_again() {
        let list = |json: &str| -> Vec<String> {
            parts(json).map(|(name, value)| format!("{name:?} {value}")).collect()
        };
        assert_eq!(
            list(r#"[1,"],",[2,[3]],{"a":","}]"#),
            ["None 1", r#"None "],""#, "None [2,[3]]", r#"None {"a":","}"#]
        );
        assert_eq!(
            list(r#"{"\"":"\\","b":{"c":[]}}"#),
            [r#"Some("\\\"") "\\""#, r#"Some("b") {"c":[]}"#]
        );
        for none in ["[]", "{}", "1", "null", r#""{a}""#] {
            assert_eq!(list(none), [""; 0], "{none}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 64, 20, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..20).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..20)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// JSON with names that meet, spelt in several ways, and with whitespace.
    fn repetitive() -> impl Strategy<Value = String> {
        let leaf = prop_oneof!["[0-9]", Just("\"x, }\"".to_owned()), Just("[ ]".to_owned())];
        let name = prop_oneof!["[a-e]", r"\\u006[1-5]", Just("\\ud800".to_owned())];
        leaf.prop_recursive(5, 100, 24, move |inner| {
            let space = "[ \n]?";
            let member = (space, name.clone(), space, inner.clone())
                .prop_map(|(a, name, b, value)| format!("{a}\"{name}\"{b}:{b}{value}{a}"));
            prop_oneof![
                1 => prop::collection::vec(inner, 0..4).prop_map(|all| format!("[{}]", all.join(" , "))),
                3 => prop::collection::vec(member, 0..24).prop_map(|all| format!("{{{}}}", all.join(","))),
            ]
        })
    }

    fn almost_json() -> impl Strategy<Value = String> {
        prop_oneof![
            r#"[\[\]{}:, "\\u0-9a-f.eE+-]{0,12}"#,
            r#"("|\\|u|[0-9a-f]{1,4}|[\x00-\x20]|é|n){0,8}"#.prop_map(|text| format!("\"{text}\"")),
            "-?[0-9]{0,2}[.]?[0-9]{0,2}([eE][+-]?[0-9]{0,2})?",
            (value(), any::<prop::sample::Index>(), r#"[\[\]{}:, "\\0-9a-z]?"#).prop_map(
                |(value, at, other)| {
                    let mut text = value.to_string();
                    let mut at = at.index(text.len());
                    while !text.is_char_boundary(at) {
                        at -= 1;
                    }
                    let end = at + text[at..].chars().next().map_or(0, char::len_utf8);
                    text.replace_range(at..end, &other);
                    text
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn pretty_text_becomes_what_serde_writes(value in value()) {
            let compact = compact(&serde_json::to_vec_pretty(&value)?)?;
            prop_assert_eq!(compact.text(), serde_json::to_string(&value)?);
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(bytes: Vec<u8>) {
            let _ = compact(&bytes);
        }

        /// serde_json's reader that keeps nothing knows no depth, takes lone surrogates, and does
        /// not ask whether a number fits a float: the grammar and nothing else, like ours.
        #[test]
        fn the_same_texts_are_json_as_for_serde(text in almost_json()) {
            let theirs = serde_json::from_str::<IgnoredAny>(&text);
            let ours = compact(text.as_bytes());
            prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{} {:?} {:?}", text, ours, theirs);
        }

        #[test]
        fn a_compact_text_stays_what_it_is(text in prop_oneof![repetitive(), almost_json()]) {
            if let Ok(once) = compact(text.as_bytes()) {
                let twice = compact(once.text().as_bytes())?;
                prop_assert_eq!(twice.text(), once.text());
            }
        }

        #[test]
        fn repeated_names_end_as_in_a_map(text in repetitive()) {
            // The one thing that serde cannot hold, under a name that it can.
            let text = text.replace("\\ud800", "z");
            let model: Value = serde_json::from_str(&text)?;
            let compact = compact(text.as_bytes())?.into_text();
            let read: Value = serde_json::from_str(&compact)?;
            prop_assert_eq!(read.to_string(), model.to_string());
            let plain = (1..=5).fold(compact, |text, at| {
                text.replace(&format!("\\u006{at}"), &char::from(0x60 + at).to_string())
            });
            prop_assert_eq!(plain, model.to_string());
        }
    }
}

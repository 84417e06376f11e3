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

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use crate::proto::json_string;

/// How deep arrays and objects may be nested; the outermost is 1 deep.
pub const DEPTH_MAX: usize = 128;

/// Up to here an object's names are compared each with each, which beats hashing them.
const PAIRWISE_MAX: usize = 16;

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
    let text = apply(&scanned.out, scanned.edits);
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

/// Where a name stands in a compact text, quotes included. Small, because a text can consist of
/// little but names.
#[derive(Debug, Clone, Copy)]
struct Name {
    start: u32,
    end: u32,
}

/// Instead of what stands at `place`, what stands at `with` (which may be empty).
struct Edit {
    place: Range<u32>,
    with: Range<u32>,
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
        self.resolve(first, end, escaped);
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

    /// Notes what becomes of the repeated names of an object that was read to its end.
    ///
    /// `first`: its first name among `members`; `end`: where its brace stands in `out`; `escaped`:
    /// whether some name holds escapes.
    fn resolve(&mut self, first: usize, end: u32, escaped: bool) {
        if self.members.len() - first < 2 {
            return;
        }
        self.flush();
        let (out, names) = (&self.out, &self.members[first..]);
        if names.len() <= PAIRWISE_MAX && !escaped && all_differ(out.as_bytes(), names) {
            return;
        }
        let ends = |index: usize| names.get(index + 1).map_or(end, |next| next.start - 1);
        for same in repeated(out, names) {
            let (Some(&place), Some(&last)) = (same.first(), same.last()) else { continue };
            self.edits.push(Edit {
                place: names[place].end + 1..ends(place),
                with: names[last].end + 1..ends(last),
            });
            self.edits.extend(
                same[1..]
                    .iter()
                    .map(|&gone| Edit { place: names[gone].start - 1..ends(gone), with: 0..0 }),
            );
        }
    }
}

/// Whether no two names have the same bytes.
fn all_differ(out: &[u8], names: &[Name]) -> bool {
    names.iter().enumerate().all(|(index, one)| {
        names[..index].iter().all(|other| {
            one.end - one.start != other.end - other.start || token(out, *one) != token(out, *other)
        })
    })
}

/// The indices of names that are the same, in order, for each that is there more than once.
fn repeated(out: &str, names: &[Name]) -> Vec<Vec<usize>> {
    let name = |index: usize| {
        let Name { start, end } = names[index];
        json_string::identity(&out[start as usize + 1..end as usize - 1])
    };
    // Keyed at random: nobody can choose names that meet.
    let hasher = RandomState::new();
    let mut order: Vec<(u64, u32)> =
        (0..names.len()).map(|index| (hasher.hash_one(&*name(index)), index as u32)).collect();
    order.sort_unstable();
    let mut all = Vec::new();
    for meeting in order.chunk_by(|one, two| one.0 == two.0).filter(|meeting| meeting.len() > 1) {
        let mut rest: Vec<usize> = meeting.iter().map(|&(_, index)| index as usize).collect();
        while let Some(&first) = rest.first() {
            let (same, others) =
                rest.into_iter().partition::<Vec<_>, _>(|&index| name(index) == name(first));
            if same.len() > 1 {
                all.push(same);
            }
            rest = others;
        }
    }
    all
}

fn token(out: &[u8], name: Name) -> &[u8] {
    &out[name.start as usize..name.end as usize]
}

/// Writes the text anew with all edits. Each byte is copied at most once.
fn apply(out: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_unstable_by_key(|edit| edit.place.start);
    let mut text = String::with_capacity(out.len());
    copy(out, &edits, 0..out.len() as u32, &mut text);
    text
}

/// Recursion ends: what comes instead lies later and deeper than its place, at most `DEPTH_MAX`.
fn copy(out: &str, edits: &[Edit], range: Range<u32>, text: &mut String) {
    let mut at = range.start;
    loop {
        // Edits inside of what was left out or replaced are skipped with it.
        let next = edits.partition_point(|edit| edit.place.start < at);
        let Some(edit) = edits.get(next).filter(|edit| edit.place.start < range.end) else { break };
        text.push_str(&out[at as usize..edit.place.start as usize]);
        copy(out, edits, edit.with.clone(), text);
        at = edit.place.end;
    }
    text.push_str(&out[at as usize..range.end as usize]);
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
            | below(word ^ ONES * u64::from(b'"'), 1)
            | below(word ^ ONES * u64::from(b'\\'), 1);
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let special = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
    let rest = bytes.get(at..).unwrap_or_default();
    at.min(bytes.len()) + rest.iter().position(special).unwrap_or(rest.len())
}

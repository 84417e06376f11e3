//! Repeated names in JSON objects: the last value wins, at the place of the first.
//!
//! Names are the same when they mean the same text, however it is spelt. What is to change is
//! collected while a text is scanned and put right in one go at its end, so that a repeated value at
//! every level is not moved once for every level.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use crate::proto::json_string;

/// Up to here an object's names are compared each with each, which beats hashing them.
const PAIRWISE_MAX: usize = 16;

/// Where a name stands in a compact text, quotes included. Small, because a text can consist of
/// little but names.
#[derive(Debug, Clone, Copy)]
pub struct Name {
    pub start: u32,
    pub end: u32,
}

/// Instead of what stands at `place`, what stands at `with` (which may be empty).
pub struct Edit {
    pub place: Range<u32>,
    pub with: Range<u32>,
}

/// Notes what becomes of the repeated names of one object.
///
/// `out`: the compact text up to the object's end; `names`: its names; `end`: where its closing
/// brace stands; `escaped`: whether some name holds escapes.
pub fn resolve(out: &str, names: &[Name], end: u32, escaped: bool, edits: &mut Vec<Edit>) {
    if names.len() <= PAIRWISE_MAX && !escaped && all_differ(out.as_bytes(), names) {
        return;
    }
    let ends = |index: usize| names.get(index + 1).map_or(end, |next| next.start - 1);
    for same in repeated(out, names) {
        let (Some(&place), Some(&last)) = (same.first(), same.last()) else { continue };
        edits.push(Edit {
            place: names[place].end + 1..ends(place),
            with: names[last].end + 1..ends(last),
        });
        let gone = same[1..].iter();
        edits.extend(
            gone.map(|&gone| Edit { place: names[gone].start - 1..ends(gone), with: 0..0 }),
        );
    }
}

/// Writes the text anew with all edits. Each byte is copied at most once.
pub fn apply(out: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_unstable_by_key(|edit| edit.place.start);
    let mut text = String::with_capacity(out.len());
    copy(out, &edits, 0..out.len() as u32, &mut text);
    text
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

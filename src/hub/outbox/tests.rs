use proptest::prelude::*;

use crate::hub::outbox::*;
use crate::proto::frame::{Kind, encode};

const ROOMY: Bounds = Bounds::NONE;

fn frames(payloads: &[usize]) -> Bytes {
    let mut joined = Vec::new();
    for &len in payloads {
        joined.extend_from_slice(&encode(Kind::Binary, &vec![b'x'; len]));
    }
    joined.into()
}

/// Frames of these payloads.
fn texts(texts: &[&str]) -> Bytes {
    let frames: Vec<_> = texts.iter().map(|text| encode(Kind::Text, text.as_bytes())).collect();
    frames.concat().into()
}

fn bounds(bytes_max: usize) -> Bounds {
    Bounds { bytes_max, share_bytes_max: usize::MAX }
}

/// As every path has it that says nothing else.
fn queue(outbox: &mut Outbox, frames: Bytes, written: usize) {
    assert_eq!(outbox.take(frames, 0..written, Class::Broadcast, Slow::Close, ROOMY), Ok(0));
}

/// The next bytes, as a socket takes them.
fn write(outbox: &mut Outbox, bytes: usize, now_ms: u64) -> Vec<u8> {
    let waiting: Vec<u8> = outbox.waiting().flatten().copied().take(bytes).collect();
    outbox.took(waiting.len(), now_ms);
    waiting
}

/// All that waits, as the texts of whole frames.
fn drain(outbox: &mut Outbox) -> Vec<String> {
    let bytes = write(outbox, usize::MAX, 0);
    assert!(outbox.is_empty() && outbox.broadcasts.is_empty() && outbox.singles.is_empty());
    let mut rest = &bytes[..];
    let mut texts = Vec::new();
    while !rest.is_empty() {
        let (one, more) = rest.split_at(frame::first(rest));
        let head = if one.len() < 128 { 2 } else { 4 };
        texts.push(String::from_utf8(one[head..].to_vec()).expect("a text"));
        rest = more;
    }
    texts
}

#[test]
fn the_message_that_found_it_empty_does_not_count() {
    let mut outbox = Outbox::new(0);
    let take = |outbox: &mut Outbox, payload: usize| {
        outbox.take(frames(&[payload]), 0..0, Class::Broadcast, Slow::Close, bounds(10))
    };
    assert_eq!(take(&mut outbox, 1000), Ok(0));
    assert_eq!(take(&mut outbox, 9), Err(Full));
    assert_eq!(take(&mut outbox, 3), Ok(0));
    assert_eq!(take(&mut outbox, 4), Err(Full));
    outbox.took(900, 1);
    assert_eq!(take(&mut outbox, 4), Err(Full), "what drains first is the first message");
    outbox.took(104 + 2, 2);
    assert_eq!(take(&mut outbox, 6), Err(Full));
    assert_eq!(take(&mut outbox, 5), Ok(0));
    assert_eq!(outbox.bytes(), 10);
}

#[test]
fn a_cut_leaves_only_the_frame_on_its_way() {
    let mut outbox = Outbox::new(0);
    queue(&mut outbox, frames(&[100, 100, 100]), 0);
    queue(&mut outbox, frames(&[50]), 0);
    assert_eq!(outbox.cut(), 3 * 102 + 52, "nothing begun, nothing left");
    assert!(outbox.is_empty());

    queue(&mut outbox, frames(&[100, 100, 100]), 150);
    queue(&mut outbox, frames(&[50]), 0);
    assert_eq!(outbox.cut(), 102 + 52);
    assert_eq!(outbox.bytes(), 54);
    outbox.took(54, 0);
    assert!(outbox.is_empty());

    queue(&mut outbox, frames(&[100, 100]), 102);
    assert_eq!(outbox.cut(), 102, "a frame's edge is no frame on its way");
    assert!(outbox.is_empty());
}

#[test]
fn a_small_rest_does_not_pin_a_large_buffer() {
    let mut outbox = Outbox::new(0);
    let shared = frames(&[100; 100]);
    queue(&mut outbox, shared.clone(), 102 * 99 + 7);
    assert!(shared.is_unique(), "the rest was copied out");
    assert_eq!(outbox.bytes(), 95);
    assert_eq!(outbox.cut(), 0);
    assert_eq!(outbox.bytes(), 95);

    let mut outbox = Outbox::new(0);
    assert_eq!(outbox.take(shared.clone(), 0..7, Class::Broadcast, Slow::Latest, ROOMY), Ok(98));
    assert!(shared.is_unique(), "the newest was copied out, and the one begun");

    let mut outbox = Outbox::new(0);
    let few = bounds(102 * 40);
    assert_eq!(outbox.take(shared.clone(), 0..0, Class::Broadcast, Slow::DropOldest, few), Ok(59));
    assert!(shared.is_unique(), "what was not dropped was copied out");
}

#[test]
fn what_drains_to_a_small_rest_lets_go_of_its_buffer() {
    let mut outbox = Outbox::new(0);
    let whole = frames(&[10_000]);
    let lies = whole.as_ptr_range();
    outbox.take(whole, 0..0, Class::Single, Slow::Close, ROOMY).expect("there is room");
    outbox.took(4_000, 0);
    assert!(lies.contains(&outbox.begun.as_ptr()), "more than half is left");
    outbox.took(2_000, 0);
    assert!(!lies.contains(&outbox.begun.as_ptr()), "the rest was copied out");
    assert_eq!(write(&mut outbox, usize::MAX, 0), [b'x'; 4_004]);

    let shared = frames(&[10_000]);
    queue(&mut outbox, shared.clone(), 4_000);
    outbox.took(6_000, 0);
    assert!(shared.as_ptr_range().contains(&outbox.begun.as_ptr()), "others need it anyway");
}

#[test]
fn where_too_much_waits_nothing_more_is_copied() {
    let none = Bounds { bytes_max: usize::MAX, share_bytes_max: 50 };
    let shared = frames(&[100; 100]);
    for slow in [Slow::Close, Slow::Latest, Slow::DropOldest] {
        let mut outbox = Outbox::new(0);
        let taken = outbox.take(shared.clone(), 0..102 * 99 + 7, Class::Broadcast, slow, none);
        assert_eq!(taken, Ok(0));
        assert!(shared.as_ptr_range().contains(&outbox.begun.as_ptr()), "{slow:?}");
    }
}

#[test]
fn pieces_drain_in_order_across_edges() {
    let mut outbox = Outbox::new(0);
    queue(&mut outbox, frames(&[8]), 3);
    queue(&mut outbox, frames(&[8]), 0);
    queue(&mut outbox, frames(&[8]), 0);
    assert_eq!(outbox.bytes(), 27);
    outbox.took(7, 5);
    outbox.took(15, 6);
    assert_eq!((outbox.bytes(), outbox.moved_ms), (5, 6));
    outbox.took(5, 7);
    assert!(outbox.is_empty() && outbox.broadcasts.is_empty());
}

#[test]
fn the_oldest_broadcasts_make_room_frame_by_frame_and_nothing_else_does() {
    let mut outbox = Outbox::new(0);
    let mut take = |class, some: &[&str], written| {
        outbox.take(texts(some), 0..written, class, Slow::DropOldest, bounds(12))
    };
    // The first is begun, so it does not count; four bytes each for the others.
    assert_eq!(take(Class::Broadcast, &["b0", "b1"], 1), Ok(0));
    assert_eq!(take(Class::Single, &["s0"], 0), Ok(0));
    assert_eq!(take(Class::Broadcast, &["b2"], 0), Ok(0));
    assert_eq!(take(Class::Broadcast, &["b3"], 0), Ok(1), "b1");
    assert_eq!(take(Class::Single, &["s1"], 0), Ok(1), "b2");
    assert_eq!(take(Class::Broadcast, &["b4", "b5", "b6"], 0), Ok(3), "b3, b4, b5");
    assert_eq!(take(Class::Single, &["s2"], 0), Ok(1), "b6");
    assert_eq!(take(Class::Single, &["s3"], 0), Err(Full));
    assert_eq!(take(Class::Broadcast, &["b7"], 0), Ok(1), "b7 itself");
    assert_eq!(write(&mut outbox, 3, 0), b"\x02b0");
    assert_eq!(drain(&mut outbox), ["s0", "s1", "s2"]);
}

#[test]
fn of_broadcasts_that_wait_only_the_newest_stays_behind_what_came_before_it() {
    let mut outbox = Outbox::new(0);
    let mut take = |class, some: &[&str], written| {
        outbox.take(texts(some), 0..written, class, Slow::Latest, bounds(12))
    };
    assert_eq!(take(Class::Broadcast, &["b0", "b1", "b2"], 1), Ok(1), "b1");
    assert_eq!(take(Class::Single, &["s0"], 0), Ok(0));
    assert_eq!(take(Class::Broadcast, &["b3", "b4"], 0), Ok(2), "b2, b3");
    assert_eq!(take(Class::Single, &["s1"], 0), Ok(0));
    assert_eq!(take(Class::Single, &["s2"], 0), Err(Full), "b4 stays");
    assert_eq!(take(Class::Broadcast, &["b5"], 0), Ok(1), "b4");
    assert_eq!(take(Class::Broadcast, &["larger"], 0), Err(Full), "it is not told an old one");
    assert_eq!(write(&mut outbox, 3, 0), b"\x02b0");
    assert_eq!(drain(&mut outbox), ["s0", "s1"]);
}

#[test]
fn a_broadcast_that_waits_alone_gives_way_to_the_next_one() {
    for slow in [Slow::DropOldest, Slow::Latest] {
        let mut outbox = Outbox::new(0);
        let mut take =
            |text: &str| outbox.take(texts(&[text]), 0..0, Class::Broadcast, slow, bounds(1));
        assert_eq!(take("larger than the bound"), Ok(0));
        assert_eq!(take("another one"), Ok(1));
        assert_eq!(drain(&mut outbox), ["another one"], "{slow:?}");
    }
}

#[test]
fn what_others_hold_counts_as_well() {
    let none = Bounds { bytes_max: 100, share_bytes_max: 0 };
    for (slow, expected) in
        [(Slow::Close, Err(Full)), (Slow::Latest, Err(Full)), (Slow::DropOldest, Ok(2))]
    {
        let mut outbox = Outbox::new(0);
        let both = texts(&["b0", "b1"]);
        assert_eq!(outbox.take(both, 0..0, Class::Broadcast, slow, none), expected, "{slow:?}");
        assert!(outbox.is_empty());
        let begun = outbox.take(texts(&["b0", "b1"]), 0..2, Class::Broadcast, slow, none);
        assert!(begun.is_ok(), "half a frame is kept");
        assert!(outbox.bytes() >= 2);
    }
}

/// What an outbox does, frame by frame and as plainly as it can be said.
#[derive(Default)]
struct Model {
    /// Whom for, what is left to write, whether it is begun, whether it found nothing waiting.
    waiting: Vec<(Class, Vec<u8>, bool, bool)>,
}

impl Model {
    fn bytes(&self) -> usize {
        self.waiting.iter().map(|(_, bytes, ..)| bytes.len()).sum()
    }

    fn is_over(&self, bounds: Bounds) -> bool {
        let counted = self.waiting.iter().filter(|(.., first)| !first);
        counted.map(|(_, bytes, ..)| bytes.len()).sum::<usize>() > bounds.bytes_max
            || self.bytes() > bounds.share_bytes_max
    }

    fn drop_broadcast(&mut self) -> bool {
        let is_loose = |(class, _, begun, _): &(Class, Vec<u8>, bool, bool)| {
            *class == Class::Broadcast && !begun
        };
        let oldest = self.waiting.iter().position(is_loose);
        let Some((.., was_first)) = oldest.map(|at| self.waiting.remove(at)) else { return false };
        if let Some((.., first)) = self.waiting.first_mut() {
            *first |= was_first;
        }
        true
    }

    /// One frame at a time, so a round is several calls.
    fn take(
        &mut self,
        frame: &[u8],
        class: Class,
        slow: Slow,
        bounds: Bounds,
    ) -> Result<u64, Full> {
        let before = self.waiting.clone();
        let mut dropped = 0;
        while slow == Slow::Latest && class == Class::Broadcast && self.drop_broadcast() {
            dropped += 1;
        }
        self.waiting.push((class, frame.to_vec(), false, self.waiting.is_empty()));
        while slow == Slow::DropOldest && self.is_over(bounds) && self.drop_broadcast() {
            dropped += 1;
            // Alone now, it is as one that found nothing waiting.
            if let [(whom, _, false, first)] = &mut self.waiting[..]
                && *whom == class
            {
                *first = true;
            }
        }
        if self.is_over(bounds) {
            self.waiting = before;
            return Err(Full);
        }
        Ok(dropped)
    }

    fn write(&mut self, mut bytes: usize) -> Vec<u8> {
        let mut written = Vec::new();
        while let Some((_, left, begun, _)) = self.waiting.first_mut().filter(|_| bytes > 0) {
            let now = bytes.min(left.len());
            written.extend(left.drain(..now));
            (*begun, bytes) = (true, bytes - now);
            if left.is_empty() {
                self.waiting.remove(0);
            }
        }
        written
    }
}

#[derive(Debug, Clone)]
enum Step {
    Take { class: Class, sizes: Vec<usize> },
    Write(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let sizes = prop::collection::vec(0usize..40, 1..6);
    let step = prop_oneof![
        4 => sizes.prop_map(|sizes| Step::Take { class: Class::Broadcast, sizes }),
        3 => (0usize..40).prop_map(|size| Step::Take { class: Class::Single, sizes: vec![size] }),
        4 => (0usize..120).prop_map(Step::Write),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #[test]
    fn it_does_what_the_model_does(
        steps in steps(),
        slow in prop_oneof![Just(Slow::DropOldest), Just(Slow::Latest)],
        bytes_max in 0usize..200,
        share_bytes_max in 40usize..300,
    ) {
        let bounds = Bounds { bytes_max, share_bytes_max };
        let mut outbox = Outbox::new(0);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Take { class, sizes } => {
                    let frames: Vec<_> =
                        sizes.iter().map(|&size| encode(Kind::Binary, &vec![size as u8; size])).collect();
                    // A round is decided on as a whole: `latest` refuses nothing but its last frame.
                    let wanted = match slow {
                        Slow::Latest if class == Class::Broadcast => {
                            let newest = frames.last().expect("at least one");
                            let older = frames.len() as u64 - 1;
                            model.take(newest, class, slow, bounds).map(|dropped| dropped + older)
                        }
                        _ if class == Class::Broadcast => {
                            let wanted = frames.iter().map(|frame| {
                                model.take(frame, class, slow, bounds)
                            });
                            wanted.sum::<Result<u64, Full>>()
                        }
                        _ => model.take(&frames[0], class, slow, bounds),
                    };
                    // Others may have more to come of the same buffer.
                    let before = encode(Kind::Text, &vec![0; sizes.len()]);
                    let begin = before.len();
                    let joined = Bytes::from([before, frames.concat().into()].concat());
                    let taken = outbox.take(joined, begin..begin, class, slow, bounds);
                    prop_assert_eq!(taken, wanted);
                    if taken.is_err() && class == Class::Broadcast {
                        // Its session ends of this.
                        return Ok(());
                    }
                }
                Step::Write(bytes) => {
                    let wanted = model.write(bytes);
                    prop_assert_eq!(write(&mut outbox, bytes, 0), wanted);
                }
            }
            prop_assert_eq!(outbox.bytes(), model.bytes());
            let loose = model.waiting.iter().filter(|(class, _, begun, _)| {
                *class == Class::Broadcast && !begun
            });
            let loose = loose.map(|(_, bytes, ..)| bytes.len()).sum::<usize>();
            prop_assert_eq!(outbox.firm_bytes(), model.bytes() - loose);
        }
        let rest = model.bytes();
        prop_assert_eq!(write(&mut outbox, rest, 0), model.write(rest));
        prop_assert!(outbox.is_empty());
    }
}

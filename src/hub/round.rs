//! A round: what a room's sessions are handed one after the other, and how far that has come.
//!
//! The round goes through the room's places, and through them again, for as long as somebody has
//! something to come: once through is a *lap*. What is queued meanwhile joins it where it is, as a
//! *leg* that ends at the same place one lap on. So each session is visited once per lap and is handed,
//! with one write, all that came since its last visit. How many frames share a write does not hang on
//! whether they happened to wait for the same beginning.
//!
//! Pure: the room asks where to go and what lies where, and does the writing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use crate::trace::span::Span;

/// A joined buffer is at most this, or one frame: past it a write costs by the byte, not the call.
pub const JOIN_BYTES_MAX: usize = 128 * 1024;

#[derive(Debug)]
pub struct Round {
    /// Frames that somebody has not got, as they go on the wire.
    pub frames: Bytes,
    /// The size of the buffer that `frames` is a part of.
    pinned_bytes: usize,
    /// Where each of them begins, and where the last one ends.
    edges: VecDeque<Edge>,
    legs: VecDeque<Leg>,
    lap: u64,
    /// The place that is visited next; never behind the last.
    pub place: usize,
}

/// Frames that joined the round together, on their way to everybody.
#[derive(Debug)]
struct Leg {
    /// The lap and the place at which everybody has them.
    until: (u64, usize),
    /// The position behind them.
    end: u64,
    /// When the first of them came.
    since: Instant,
    /// End with the leg.
    _spans: Vec<Arc<Span>>,
}

/// A boundary between two frames.
#[derive(Debug, Clone, Copy)]
struct Edge {
    /// In the room's stream.
    position: u64,
    /// In all that went into the round, as it goes on the wire.
    wire: u64,
}

/// What a session has to come that has everything before a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stand {
    pub position: u64,
    /// Where it begins in the buffer.
    pub offset: usize,
    /// Frames from there to the buffer's end.
    pub count: u64,
}

impl Round {
    /// Nothing, for sessions that have everything before `position`.
    pub fn new(position: u64) -> Round {
        Round {
            frames: Bytes::new(),
            pinned_bytes: 0,
            edges: VecDeque::from([Edge { position, wire: 0 }]),
            legs: VecDeque::new(),
            lap: 0,
            place: 0,
        }
    }

    /// Whether everybody has everything.
    pub fn is_over(&self) -> bool {
        self.legs.is_empty()
    }

    /// Whether frames were joined that came apart.
    pub fn joins(&self) -> bool {
        self.edges.len() > 2
    }

    /// The position behind everything that has joined.
    pub fn end(&self) -> u64 {
        self.edges.back().map_or(0, |edge| edge.position)
    }

    /// What may still join, in bytes of the room's stream. Into an empty round one frame always may.
    pub fn spare_bytes(&self) -> usize {
        let begin = self.edges.front().map_or(0, |edge| edge.position);
        JOIN_BYTES_MAX.saturating_sub((self.end() - begin) as usize)
    }

    /// Takes up frames, each with what it counts in the room's stream, and the spans of those that have one.
    pub fn join(&mut self, frames: &[(Bytes, usize)], since: Instant, spans: Vec<Arc<Span>>) {
        let Some(mut last) = self.edges.back().copied() else { return };
        for (frame, bytes) in frames {
            last.position += *bytes as u64;
            last.wire += frame.len() as u64;
            self.edges.push_back(last);
        }
        self.frames = match (&self.frames[..], frames) {
            (&[], [(only, _)]) => only.clone(),
            (waiting, frames) => {
                let joining = frames.iter().map(|(frame, _)| frame.len()).sum::<usize>();
                let mut joined = BytesMut::with_capacity(waiting.len() + joining);
                joined.extend_from_slice(waiting);
                frames.iter().for_each(|(frame, _)| joined.extend_from_slice(frame));
                joined.freeze()
            }
        };
        self.pinned_bytes = self.frames.len();
        let until = (self.lap + 1, self.place);
        self.legs.push_back(Leg { until, end: last.position, since, _spans: spans });
    }

    /// The place before which nothing ends, of so many.
    pub fn stretch(&self, places: usize) -> usize {
        match self.legs.front() {
            Some(&Leg { until: (lap, place), .. }) if lap == self.lap => place.min(places),
            _ => places,
        }
    }

    /// Ends the lap if it came behind the last place, and the leg that ends here; when that began.
    pub fn arrive(&mut self, places: usize) -> Option<Instant> {
        if self.place >= places {
            self.lap += 1;
            self.place = 0;
        }
        let leg = self.legs.pop_front_if(|leg| leg.until <= (self.lap, self.place))?;
        let before = self.edges.partition_point(|edge| edge.position < leg.end);
        let wire = self.edges[before].wire - self.edges[0].wire;
        self.edges.drain(..before);
        let rest = self.frames.slice(wire as usize..);
        self.frames = rest;
        // What the slow are left with of it should not pin what nobody needs.
        if self.frames.len() < self.pinned_bytes / 2 {
            self.frames = Bytes::copy_from_slice(&self.frames);
            self.pinned_bytes = self.frames.len();
        }
        Some(leg.since)
    }

    /// Its places were moved up: what ends among them now ends behind the last.
    pub fn moved_up(&mut self, places: usize) {
        for leg in &mut self.legs {
            leg.until.1 = places;
        }
    }

    /// What there is from a position on, which is a boundary between frames or before all of them.
    pub fn stand(&self, position: u64) -> Stand {
        let at = self.edges.partition_point(|edge| edge.position < position);
        let at = at.min(self.edges.len() - 1);
        let offset = (self.edges[at].wire - self.edges[0].wire) as usize;
        Stand { position, offset, count: (self.edges.len() - 1 - at) as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goes on by so many places; whom it hands what on the way, and how many legs ended.
    fn go(round: &mut Round, heard: &mut [u64], places: usize) -> (Vec<(usize, String)>, usize) {
        let (mut handed, mut ended) = (Vec::new(), 0);
        for _ in 0..places {
            let place = round.place;
            let stand = round.stand(heard[place]);
            if heard[place] < round.end() {
                let frames = &round.frames[stand.offset..];
                assert_eq!(frames.len() as u64, stand.count, "every frame here is one byte");
                handed.push((place, String::from_utf8(frames.to_vec()).expect("letters")));
                heard[place] = round.end();
            }
            round.place += 1;
            while round.stretch(heard.len()) == round.place {
                let Some(_) = round.arrive(heard.len()) else { break };
                ended += 1;
            }
        }
        (handed, ended)
    }

    fn join(round: &mut Round, frames: &str) {
        let one = |byte: u8| (Bytes::copy_from_slice(&[byte]), 1);
        round.join(&frames.bytes().map(one).collect::<Vec<_>>(), Instant::now(), Vec::new());
    }

    fn handed(pairs: &[(usize, &str)]) -> Vec<(usize, String)> {
        pairs.iter().map(|&(place, frames)| (place, frames.to_owned())).collect()
    }

    #[test]
    fn what_joins_under_way_is_handed_on_with_what_is_there() {
        let (mut round, mut heard) = (Round::new(0), [0; 4]);
        join(&mut round, "ab");
        assert_eq!(go(&mut round, &mut heard, 2), (handed(&[(0, "ab"), (1, "ab")]), 0));
        join(&mut round, "c");
        assert_eq!(go(&mut round, &mut heard, 2), (handed(&[(2, "abc"), (3, "abc")]), 1));
        assert!(!round.is_over());
        assert_eq!(&round.frames[..], b"c", "what everybody has is let go");
        assert_eq!(go(&mut round, &mut heard, 2), (handed(&[(0, "c"), (1, "c")]), 1));
        assert!(round.is_over());
    }

    #[test]
    fn whoever_is_visited_once_a_lap_misses_nothing() {
        let (mut round, mut heard) = (Round::new(7), [7; 3]);
        let mut all = vec![String::new(); 3];
        let letters = "abcdefghijklmnopqrstuvwxyz";
        for at in 0..letters.len() {
            join(&mut round, &letters[at..=at]);
            for (place, frames) in go(&mut round, &mut heard, 2).0 {
                all[place].push_str(&frames);
            }
        }
        while !round.is_over() {
            for (place, frames) in go(&mut round, &mut heard, 1).0 {
                all[place].push_str(&frames);
            }
        }
        assert_eq!(all, [letters; 3]);
    }

    #[test]
    fn what_is_left_never_pins_more_than_twice_its_size() {
        let (mut round, mut heard) = (Round::new(0), [0; 3]);
        for bytes in [45, 25, 30] {
            join(&mut round, &"x".repeat(bytes));
            go(&mut round, &mut heard, 1);
        }
        let joined = round.frames.clone();
        let pinned = |round: &Round| joined.as_ptr_range().contains(&round.frames.as_ptr());
        assert_eq!((round.frames.len(), pinned(&round)), (55, true));
        go(&mut round, &mut heard, 1);
        assert_eq!((round.frames.len(), pinned(&round)), (30, false));
    }

    #[test]
    fn one_frame_may_always_join_and_more_up_to_the_bound() {
        let mut round = Round::new(0);
        assert_eq!(round.spare_bytes(), JOIN_BYTES_MAX);
        round.join(
            &[(Bytes::from(vec![0; 2 * JOIN_BYTES_MAX]), 2 * JOIN_BYTES_MAX)],
            Instant::now(),
            Vec::new(),
        );
        assert_eq!(round.spare_bytes(), 0);
        let mut round = Round::new(0);
        round.join(&[(Bytes::from_static(b"deflated"), 100)], Instant::now(), Vec::new());
        assert_eq!(round.spare_bytes(), JOIN_BYTES_MAX - 100);
    }

    #[test]
    fn a_leg_ends_late_rather_than_early_when_places_move_up() {
        let (mut round, mut heard) = (Round::new(0), [0; 6]);
        join(&mut round, "a");
        go(&mut round, &mut heard, 4);
        join(&mut round, "b");
        go(&mut round, &mut heard, 2);
        assert_eq!(round.place, 0, "a lap is over");
        let mut heard = [heard[1], heard[3], heard[5]];
        round.moved_up(3);
        assert_eq!(go(&mut round, &mut heard, 3), (handed(&[(0, "b"), (1, "b")]), 1));
        assert!(round.is_over());
    }
}

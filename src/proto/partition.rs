//! Which part of a stream a session's events go to: always the same one, so that whoever reads it
//! gets them in order.

use crate::proto::session_id::SessionId;

/// Offset basis and prime of FNV-1a, 64 bits.
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// FNV-1a of the 40 characters of the id, modulo `partitions` (≥ 1): consumers may count on it
/// (docs/events.md), so it never changes.
pub fn partition(session: &SessionId, partitions: u32) -> u32 {
    of_text(session.text().as_str(), partitions)
}

/// The same by any text: by the name of an upstream, whose events are all in one part.
pub fn of_text(text: &str, partitions: u32) -> u32 {
    let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(PRIME);
    let hash = text.as_bytes().iter().fold(BASIS, step);
    u32::try_from(hash % u64::from(partitions)).expect("less than a u32")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::session_id::PodId;

    #[track_caller]
    fn check(id: &str, partitions: u32, expected: u32) {
        let session = SessionId::parse(id).expect("an id");
        assert_eq!(partition(&session, partitions), expected, "{id} of {partitions}");
    }

    #[test]
    fn the_part_of_a_session_stays() {
        let id = "4syk3segao464aa5b2sa62q37nb5rysezarjx7qv";
        check(id, 1, 0);
        check(id, 8, 7);
        check(id, 1000, 799);
        check("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 8, 5);
    }

    #[test]
    fn the_parts_are_about_as_large_as_each_other() {
        let mut counts = [0; 8];
        for number in 0..8_000_u16 {
            let [high, low] = number.to_be_bytes();
            let mut random = [0; 16];
            (random[3], random[11]) = (high, low);
            let session = SessionId { pod: PodId([9; 8]), shard: 1, random };
            counts[partition(&session, 8) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
    }
}

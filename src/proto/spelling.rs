//! How alike two words are, for telling people what they may have meant.

/// How many letters have to be put in, taken out, replaced, or swapped with the next
/// (the optimal string alignment distance).
pub fn distance(one: &str, two: &str) -> usize {
    let (one, two): (Vec<char>, Vec<char>) = (one.chars().collect(), two.chars().collect());
    // The rows for none, one and two letters less of `one`.
    let mut last_but_one = vec![0; two.len() + 1];
    let mut last: Vec<usize> = (0..=two.len()).collect();
    let mut row = last.clone();
    for i in 1..=one.len() {
        row[0] = i;
        for j in 1..=two.len() {
            let replaced = last[j - 1] + usize::from(one[i - 1] != two[j - 1]);
            let mut least = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && one[i - 1] == two[j - 2] && one[i - 2] == two[j - 1] {
                least = least.min(last_but_one[j - 2] + 1);
            }
            row[j] = least;
        }
        std::mem::swap(&mut last_but_one, &mut last);
        std::mem::swap(&mut last, &mut row);
    }
    last[two.len()]
}

/// The same, if the parts in which they differ, without what they begin and end with in common,
/// are at most this long.
pub fn bounded(one: &str, two: &str, chars_max: usize) -> Option<usize> {
    let common = one.bytes().zip(two.bytes()).take_while(|(a, b)| a == b).count();
    let begin = one.floor_char_boundary(common);
    let (one, two) = (&one[begin..], &two[begin..]);
    let common = one.bytes().rev().zip(two.bytes().rev()).take_while(|(a, b)| a == b).count();
    let (one_end, two_end) = (one.len() - common, two.len() - common);
    let (one, two) =
        (&one[..one.ceil_char_boundary(one_end)], &two[..two.ceil_char_boundary(two_end)]);
    (one.len().max(two.len()) <= chars_max).then(|| distance(one, two))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_is_one_slip() {
        assert_eq!(distance("sensors", "sensors"), 0);
        assert_eq!(distance("sesnors", "sensors"), 1);
        assert_eq!(distance("sensor", "sensors"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("ca", "abc"), 3);
    }

    #[test]
    fn what_is_common_costs_nothing() {
        let long = "x".repeat(1000);
        assert_eq!(bounded(&format!("{long}ab{long}"), &format!("{long}ba{long}"), 2), Some(1));
        assert_eq!(bounded(&long, &long, 0), Some(0));
        assert_eq!(bounded("/ws/sensor", "/ws/sensors", 48), Some(1));
        assert_eq!(bounded("é", "è", 48), Some(1));
        assert_eq!(bounded(&format!("/a{long}"), &format!("/{long}"), 1), Some(1));
        assert_eq!(bounded("abcdef", "ghijkl", 5), None);
    }
}

//! Quantities as people write them: a whole number and a unit.
//!
//! A number without its unit is refused, because `30` has meant seconds to one half of all people
//! and milliseconds to the other. Nothing is zero: what can be switched off says "off".
//!
//! Times count in milliseconds, as the clocks do that they are for; only pauses are finer.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use crate::proto::millis::millis;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

/// The longest duration: far beyond any use, and far from where sums of times overflow.
const DURATION_MAX: Duration = Duration::from_secs(10_000 * 3600);

/// The largest size, 1 TiB: far beyond any machine's use, and far from where sums overflow.
const SIZE_BYTES_MAX: u64 = 1 << 40;

/// The longest pause: a thousandfold of what it has to be for.
const PAUSE_MAX: Duration = Duration::from_millis(10);

const TIMES: &[(&str, u64)] = &[("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

const PAUSES: &[(&str, u64)] = &[("ms", 1000), ("us", 1)];

const SIZES: &[(&str, u64)] = &[
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("B", 1),
];

/// How long something may take: 1 ms to 10,000 h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period(pub Duration);

/// How long until something happens, or "off".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval(pub Option<Duration>);

/// A moment of 1 us to 10 ms, or "off".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pause(pub Option<Duration>);

/// How many bytes: 1 B to 1 TiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub usize);

/// From what size on, or "off".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threshold(pub Option<usize>);

/// What they have in common; the error is a sentence for the person who wrote the text.
trait Quantity: Sized {
    const EXPECTED: &'static str;

    fn parse(text: &str) -> Result<Self, String>;
}

impl Quantity for Period {
    const EXPECTED: &'static str = "a duration such as \"30s\"";

    fn parse(text: &str) -> Result<Period, String> {
        time(text, Period::EXPECTED, "at least \"1ms\"").map(Period)
    }
}

impl Quantity for Interval {
    const EXPECTED: &'static str = "a duration such as \"30s\", or \"off\"";

    fn parse(text: &str) -> Result<Interval, String> {
        if text == "off" {
            return Ok(Interval(None));
        }
        time(text, Interval::EXPECTED, "to switch it off, say \"off\"")
            .map(|time| Interval(Some(time)))
    }
}

impl Quantity for Pause {
    const EXPECTED: &'static str = "a moment such as \"200us\", or \"off\"";

    fn parse(text: &str) -> Result<Pause, String> {
        if text == "off" {
            return Ok(Pause(None));
        }
        let (number, unit) = split(text, Pause::EXPECTED)?;
        if number == 0 {
            return Err(format!("{text:?} is no time at all: to switch it off, say \"off\""));
        }
        if unit.is_empty() {
            return Err(format!("{text} has no unit: write \"{number}us\" or \"{number}ms\""));
        }
        let Some((_, us_each)) = PAUSES.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("{text:?}: the units are us and ms, as in \"200us\""));
        };
        match number.checked_mul(*us_each).map(Duration::from_micros) {
            Some(pause) if pause <= PAUSE_MAX => Ok(Pause(Some(pause))),
            _ => Err(format!("{text:?} is too long: at most \"10ms\"")),
        }
    }
}

impl Quantity for Size {
    const EXPECTED: &'static str = "a size such as \"64KiB\"";

    fn parse(text: &str) -> Result<Size, String> {
        let (number, unit) = split(text, Size::EXPECTED)?;
        if number == 0 {
            return Err(format!("{text:?} leaves room for nothing: at least \"1B\""));
        }
        if unit.is_empty() {
            let written = ["B", "KiB", "MiB", "MB"].map(|unit| format!("\"{number}{unit}\""));
            return Err(format!("{text} has no unit: write for example {}", written.join(", ")));
        }
        // Case tells nothing apart here: nobody means megabits or millibytes.
        let same = |(name, _): &&(&str, u64)| name.eq_ignore_ascii_case(unit);
        let Some((_, bytes_each)) = SIZES.iter().find(same) else {
            return Err(format!(
                "{text:?}: the units are B, KiB, MiB, GiB (steps of 1024) \
                 and kB, MB, GB (steps of 1000)"
            ));
        };
        match number.checked_mul(*bytes_each) {
            Some(bytes) if bytes <= SIZE_BYTES_MAX => {
                usize::try_from(bytes).map(Size).map_err(|_| format!("{text:?} is too large"))
            }
            _ => Err(format!("{text:?} is too large: at most \"1024GiB\"")),
        }
    }
}

impl Quantity for Threshold {
    const EXPECTED: &'static str = "a size such as \"256B\", or \"off\"";

    fn parse(text: &str) -> Result<Threshold, String> {
        if text == "off" {
            return Ok(Threshold(None));
        }
        split(text, Threshold::EXPECTED)?;
        Size::parse(text).map(|Size(bytes)| Threshold(Some(bytes)))
    }
}

/// `instead` tells what to write in the place of zero.
fn time(text: &str, expected: &str, instead: &str) -> Result<Duration, String> {
    let (number, unit) = split(text, expected)?;
    if number == 0 {
        return Err(format!("{text:?} is no time at all: {instead}"));
    }
    if unit.is_empty() {
        let [ms, s, m, h] = ["ms", "s", "m", "h"].map(|unit| format!("\"{number}{unit}\""));
        return Err(format!("{text} has no unit: write {ms}, {s}, {m} or {h}"));
    }
    let Some((_, ms_each)) = TIMES.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("{text:?}: the units are ms, s, m and h, as in \"30s\""));
    };
    match number.checked_mul(*ms_each).map(Duration::from_millis) {
        Some(time) if time <= DURATION_MAX => Ok(time),
        _ => Err(format!("{text:?} is too long: at most \"10000h\"")),
    }
}

/// Parts the number from its unit; a space may stand between them.
fn split<'a>(text: &'a str, expected: &str) -> Result<(u64, &'a str), String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let whole = !digits.is_empty() && unit.chars().all(|c| c.is_ascii_alphabetic());
    match digits.parse() {
        Ok(number) if whole => Ok((number, unit)),
        _ => Err(format!("{text:?} is not {expected}: a whole number and a unit")),
    }
}

/// The number with the largest unit that leaves no rest.
fn write(number: u64, units: &[(&str, u64)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let whole = |(_, each): &&(&str, u64)| number >= *each && number.is_multiple_of(*each);
    let (unit, each) = units.iter().find(whole).expect("the last unit is 1, and nothing is zero");
    write!(f, "{}{unit}", number / each)
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(millis(self.0), TIMES, f)
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(duration) => Period(duration).fmt(f),
            None => f.write_str("off"),
        }
    }
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pause) => write(u64::try_from(pause.as_micros()).unwrap_or(u64::MAX), PAUSES, f),
            None => f.write_str("off"),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(self.0 as u64, SIZES, f)
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bytes) => Size(bytes).fmt(f),
            None => f.write_str("off"),
        }
    }
}

struct Text<T>(PhantomData<T>);

impl<T: Quantity> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        T::parse(text).map_err(E::custom)
    }

    /// Only to say what is missing.
    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
        T::parse(&number.to_string()).map_err(E::custom)
    }
}

macro_rules! as_text {
    ($type:ident, $pattern:literal, $($example:literal),+) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<$type, D::Error> {
                from.deserialize_any(Text::<$type>(PhantomData))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "examples": [$($example),+] })
            }
        }
    };
}

as_text!(Period, "^[0-9]+ ?(ms|s|m|h)$", "250ms", "30s", "5m", "1h");
as_text!(Interval, "^(off|[0-9]+ ?(ms|s|m|h))$", "30s", "5m", "off");
as_text!(Threshold, "^(off|[0-9]+ ?([kKmMgG][iI]?)?[bB])$", "256B", "1KiB", "off");
as_text!(Pause, "^(off|[0-9]+ ?(us|ms))$", "200us", "1ms", "off");
as_text!(Size, "^[0-9]+ ?([kKmMgG][iI]?)?[bB]$", "512B", "64KiB", "1MiB", "10MB");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn time(text: &str, expected_ms: u64) {
        assert_eq!(Period::parse(text), Ok(Period(Duration::from_millis(expected_ms))), "{text}");
    }

    #[track_caller]
    fn size(text: &str, expected_bytes: usize) {
        assert_eq!(Size::parse(text), Ok(Size(expected_bytes)), "{text}");
    }

    #[track_caller]
    fn refused<T: Quantity + fmt::Debug>(text: &str, fragment: &str) {
        let error = T::parse(text).expect_err(text);
        assert!(error.contains(fragment), "{text}: {error}");
    }

    #[test]
    fn a_duration_is_a_whole_number_and_a_unit() {
        time("250ms", 250);
        time("30s", 30_000);
        time("30 s", 30_000);
        time("5m", 300_000);
        time("1h", 3_600_000);
        refused::<Period>("30", "30 has no unit: write \"30ms\", \"30s\", \"30m\" or \"30h\"");
        refused::<Period>("30sec", "the units are ms, s, m and h");
        refused::<Period>("30S", "the units are ms, s, m and h");
        refused::<Period>("1.5s", "a whole number and a unit");
        refused::<Period>("-1s", "a whole number and a unit");
        refused::<Period>("1m30s", "a whole number and a unit");
        refused::<Period>("", "a whole number and a unit");
        refused::<Period>("s", "a whole number and a unit");
        refused::<Period>("0s", "at least \"1ms\"");
        refused::<Period>("10001h", "at most \"10000h\"");
        refused::<Period>("99999999999999999999s", "a whole number");
        refused::<Period>("18446744073709551615h", "at most \"10000h\"");
    }

    #[test]
    fn an_interval_may_be_off_but_not_zero() {
        assert_eq!(Interval::parse("off"), Ok(Interval(None)));
        assert_eq!(Interval::parse("1s"), Ok(Interval(Some(Duration::from_secs(1)))));
        refused::<Interval>("0s", "say \"off\"");
        refused::<Interval>("0", "say \"off\"");
        refused::<Interval>("never", "or \"off\"");
    }

    #[test]
    fn a_threshold_is_a_size_or_off() {
        assert_eq!(Threshold::parse("off"), Ok(Threshold(None)));
        assert_eq!(Threshold::parse("256B"), Ok(Threshold(Some(256))));
        refused::<Threshold>("256", "write for example \"256B\"");
        refused::<Threshold>("0B", "at least \"1B\"");
        refused::<Threshold>("on", "a size such as \"256B\", or \"off\"");
    }

    #[test]
    fn a_pause_is_a_moment_or_off() {
        let micros = |micros| Ok(Pause(Some(Duration::from_micros(micros))));
        assert_eq!(Pause::parse("200us"), micros(200));
        assert_eq!(Pause::parse("10 ms"), micros(10_000));
        assert_eq!(Pause::parse("off"), Ok(Pause(None)));
        refused::<Pause>("0", "say \"off\"");
        refused::<Pause>("200", "200 has no unit: write \"200us\" or \"200ms\"");
        refused::<Pause>("1s", "the units are us and ms");
        refused::<Pause>("10001us", "at most \"10ms\"");
        refused::<Pause>("18446744073709551615ms", "at most \"10ms\"");
    }

    #[test]
    fn a_size_is_a_whole_number_and_a_unit() {
        size("512B", 512);
        size("64KiB", 65_536);
        size("64kib", 65_536);
        size("1 MiB", 1 << 20);
        size("10MB", 10_000_000);
        size("2GiB", 2 << 30);
        size("3kB", 3000);
        refused::<Size>("1024", "write for example \"1024B\"");
        refused::<Size>("1M", "steps of 1024");
        refused::<Size>("0B", "at least \"1B\"");
        refused::<Size>("1.5MiB", "a whole number and a unit");
        refused::<Size>("1025GiB", "at most");
        refused::<Size>("18446744073709551615GiB", "at most");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_the_same(
            ms in 1..36_000_000_000u64,
            us in 1..=10_000u64,
            bytes in 1..=1usize << 40,
        ) {
            let pause = Pause(Some(Duration::from_micros(us)));
            prop_assert_eq!(Pause::parse(&pause.to_string()), Ok(pause));
            let period = Period(Duration::from_millis(ms));
            prop_assert_eq!(Period::parse(&period.to_string()), Ok(period));
            prop_assert_eq!(Size::parse(&Size(bytes).to_string()), Ok(Size(bytes)));
        }

        #[test]
        fn any_text_has_an_answer(text in ".*") {
            let _ = (Period::parse(&text), Interval::parse(&text), Size::parse(&text));
            let _ = Pause::parse(&text);
        }
    }
}

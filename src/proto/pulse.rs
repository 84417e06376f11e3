//! Signs of life: when a silent session is pinged, when it counts as dead, when as idle.
//!
//! Any byte received is life. A beat without one brings a ping, two beats the end. While the
//! gateway itself does not read a session, its silence means nothing and both clocks stand still.
//! Idle is something else: no data message either way.

use std::time::Duration;

use crate::proto::millis::millis;

/// What is known of one session's life, by the shard's clock in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    heard_ms: u64,
    used_ms: u64,
    /// Since the last byte heard, a ping was sent.
    pinged: bool,
}

/// What its path asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// `None`: silence means nothing.
    pub heartbeat: Option<Duration>,
    /// `None`: it may be idle for ever.
    pub idle: Option<Duration>,
    /// Of the session alone: those that came together ping up to an eighth of a beat apart.
    pub lot: u16,
    /// Whether the gateway reads it at the moment.
    pub is_read: bool,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    Quiet,
    Ping,
    Dead,
    Idle,
}

impl Pulse {
    pub const fn new(now_ms: u64) -> Pulse {
        Pulse { heard_ms: now_ms, used_ms: now_ms, pinged: false }
    }

    /// Reading begins again: while nobody read it, its silence meant nothing.
    pub fn read_again(&mut self, now_ms: u64) {
        self.heard(now_ms);
        self.used(now_ms);
    }

    /// Bytes came.
    pub fn heard(&mut self, now_ms: u64) {
        self.heard_ms = now_ms;
        self.pinged = false;
    }

    /// A data message came or went.
    #[inline]
    pub fn used(&mut self, now_ms: u64) {
        self.used_ms = now_ms;
    }

    /// What the time says. A ping is told once for each silence.
    pub fn check(&mut self, now_ms: u64, rule: Rule) -> Sign {
        if !rule.is_read {
            return Sign::Quiet;
        }
        if rule.idle.is_some_and(|idle| now_ms >= self.used_ms.saturating_add(millis(idle))) {
            return Sign::Idle;
        }
        let Some(heartbeat) = rule.heartbeat else { return Sign::Quiet };
        let silent_ms = now_ms.saturating_sub(self.heard_ms);
        if silent_ms >= millis(heartbeat).saturating_mul(2) {
            Sign::Dead
        } else if !self.pinged && silent_ms >= ping_after_ms(heartbeat, rule.lot) {
            self.pinged = true;
            Sign::Ping
        } else {
            Sign::Quiet
        }
    }

    /// When `check` should be asked next; `None`: never.
    pub fn due_ms(&self, now_ms: u64, rule: Rule) -> Option<u64> {
        let idle = rule.idle.map(|idle| {
            let from_ms = if rule.is_read { self.used_ms } else { now_ms };
            from_ms.saturating_add(millis(idle))
        });
        let beat = rule.heartbeat.map(|heartbeat| {
            let (from_ms, wait_ms) = match (rule.is_read, self.pinged) {
                (false, _) => (now_ms, millis(heartbeat)),
                (true, true) => (self.heard_ms, millis(heartbeat).saturating_mul(2)),
                (true, false) => (self.heard_ms, ping_after_ms(heartbeat, rule.lot)),
            };
            from_ms.saturating_add(wait_ms)
        });
        let due_ms = [idle, beat].into_iter().flatten().min()?;
        Some(due_ms.max(now_ms + 1))
    }
}

fn ping_after_ms(heartbeat: Duration, lot: u16) -> u64 {
    let beat_ms = millis(heartbeat);
    beat_ms - beat_ms / 8 * u64::from(lot) / u64::from(u16::MAX)
}

/// How long a session of this lot may last: what is allowed, give or take 15 %.
pub fn lifetime_ms(age_max: Duration, lot: u16) -> u64 {
    let age_ms = millis(age_max);
    let spread_ms = age_ms.saturating_mul(3) / 10;
    let part_ms = u128::from(spread_ms) * u128::from(lot) / u128::from(u16::MAX);
    (age_ms - spread_ms / 2).saturating_add(u64::try_from(part_ms).unwrap_or(spread_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_that_came_together_last_up_to_15_percent_more_or_less() {
        let hour = Duration::from_hours(1);
        assert_eq!(lifetime_ms(hour, 0), 3_600_000 * 85 / 100);
        assert_eq!(lifetime_ms(hour, u16::MAX), 3_600_000 * 115 / 100);
        assert!(lifetime_ms(hour, u16::MAX / 2).abs_diff(3_600_000) < 100);
        assert_eq!(lifetime_ms(Duration::from_millis(1), u16::MAX), 1);
        assert!(lifetime_ms(Duration::MAX, u16::MAX) > u64::MAX / 2);
    }

    const RULE: Rule =
        Rule { heartbeat: Some(Duration::from_millis(800)), idle: None, lot: 0, is_read: true };

    /// What is told when `check` is asked at each moment that `due_ms` names.
    fn signs(pulse: &mut Pulse, rule: Rule, until_ms: u64) -> Vec<(u64, Sign)> {
        let mut signs = Vec::new();
        let mut now_ms = 0;
        while let Some(due_ms) = pulse.due_ms(now_ms, rule).filter(|&due_ms| due_ms <= until_ms) {
            assert!(due_ms > now_ms, "time goes on");
            now_ms = due_ms;
            signs.push((now_ms, pulse.check(now_ms, rule)));
            if matches!(signs.last(), Some((_, Sign::Dead | Sign::Idle))) {
                break;
            }
        }
        signs
    }

    #[test]
    fn a_beat_of_silence_pings_once_and_two_end() {
        let told = signs(&mut Pulse::new(0), RULE, 10_000);
        assert_eq!(told, [(800, Sign::Ping), (1600, Sign::Dead)]);
        let late = Rule { lot: u16::MAX, ..RULE };
        let told = signs(&mut Pulse::new(0), late, 10_000);
        assert_eq!(told, [(700, Sign::Ping), (1600, Sign::Dead)]);
    }

    #[test]
    fn any_byte_begins_anew() {
        let mut pulse = Pulse::new(0);
        assert_eq!(pulse.check(800, RULE), Sign::Ping);
        pulse.heard(900);
        assert_eq!(pulse.check(1600, RULE), Sign::Quiet);
        assert_eq!(pulse.check(1700, RULE), Sign::Ping);
        assert_eq!(pulse.due_ms(1700, RULE), Some(2500));
    }

    #[test]
    fn while_it_is_not_read_the_clocks_stand_still() {
        let rule = Rule { idle: Some(Duration::from_millis(500)), ..RULE };
        let held = Rule { is_read: false, ..rule };
        let mut pulse = Pulse::new(0);
        assert_eq!(pulse.check(100_000, held), Sign::Quiet);
        assert_eq!(pulse.due_ms(100_000, held), Some(100_500));
        pulse.read_again(100_000);
        assert_eq!(pulse.check(100_499, rule), Sign::Quiet);
        assert_eq!(pulse.check(100_500, rule), Sign::Idle);
    }

    #[test]
    fn idle_is_about_messages_and_not_about_bytes() {
        let rule = Rule { idle: Some(Duration::from_millis(1000)), ..RULE };
        let mut pulse = Pulse::new(0);
        pulse.heard(900);
        assert_eq!(pulse.check(999, rule), Sign::Quiet);
        assert_eq!(pulse.check(1000, rule), Sign::Idle);
        pulse.used(1000);
        assert_eq!(pulse.check(1500, rule), Sign::Quiet);
        let alone = Rule { heartbeat: None, ..rule };
        assert_eq!(signs(&mut Pulse::new(0), alone, 10_000), [(1000, Sign::Idle)]);
        let neither = Rule { heartbeat: None, idle: None, ..RULE };
        assert_eq!(Pulse::new(0).due_ms(0, neither), None);
    }
}

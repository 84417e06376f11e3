//! What the status of an answer says of the event: taken, to be offered again, or refused for good.

use std::time::{Duration, UNIX_EPOCH};

/// The longest time for which an answer can put an event off: what is said beyond it is a mistake, or
/// means "never".
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Taken,
    /// Later; when, if the backend said so.
    Again {
        after: Option<Duration>,
    },
    /// The same would be answered whenever it is asked.
    Refused,
}

/// Of a status, and the value of `Retry-After` if there is one, which may be seconds or a date
/// (RFC 9110, 10.2.3). `now_ms`: Unix time.
pub fn verdict(status: u16, retry_after: Option<&str>, now_ms: u64) -> Verdict {
    match status {
        200..=299 => Verdict::Taken,
        408 | 425 | 429 | 500..=599 => {
            Verdict::Again { after: retry_after.and_then(|text| wait(text, now_ms)) }
        }
        _ => Verdict::Refused,
    }
}

fn wait(text: &str, now_ms: u64) -> Option<Duration> {
    let text = text.trim();
    let wait = match text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        // More digits than a number holds are a long time, too.
        true => text.parse().map_or(RETRY_AFTER_MAX, Duration::from_secs),
        false => {
            let at = httpdate::parse_http_date(text).ok()?;
            let at = at.duration_since(UNIX_EPOCH).ok()?;
            at.saturating_sub(Duration::from_millis(now_ms))
        }
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: u16, expected: Verdict) {
        assert_eq!(verdict(status, None, 0), expected, "{status}");
    }

    #[test]
    fn success_is_taken_and_only_what_may_change_is_tried_again() {
        let again = Verdict::Again { after: None };
        for status in [200, 201, 202, 204, 299] {
            check(status, Verdict::Taken);
        }
        for status in [408, 425, 429, 500, 501, 502, 503, 504, 599] {
            check(status, again);
        }
        for status in [100, 301, 302, 304, 307, 308, 400, 401, 403, 404, 410, 413, 422, 600, 999] {
            check(status, Verdict::Refused);
        }
    }

    #[track_caller]
    fn after(text: &str, expected_ms: Option<u64>) {
        let after = expected_ms.map(Duration::from_millis);
        assert_eq!(verdict(503, Some(text), 784_111_770_000), Verdict::Again { after }, "{text}");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_never_longer_than_an_hour() {
        after("0", Some(0));
        after(" 120 ", Some(120_000));
        after("Sun, 06 Nov 1994 08:49:37 GMT", Some(7_000));
        // In the past.
        after("Sun, 06 Nov 1994 08:49:00 GMT", Some(0));
        after("86400", Some(3_600_000));
        after("99999999999999999999999", Some(3_600_000));
        after("Fri, 31 Dec 9999 23:59:59 GMT", Some(3_600_000));
        for text in ["", "soon", "-1", "1.5", "1s", "Sun, 06 Nov"] {
            after(text, None);
        }
    }
}

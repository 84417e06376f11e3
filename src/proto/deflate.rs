//! Whether a connection's messages may be deflated: permessage-deflate, as it is agreed on in a
//! handshake (RFC 7692).
//!
//! Every acceptable offer is answered without context takeover, both ways: so one deflated frame
//! serves every client of a path, whatever each was sent before, and no connection needs an encoder
//! or a decoder of its own. The window is always the largest; whoever asks for a smaller one is
//! asking for frames of his own, and goes without.

const NAME: &str = "permessage-deflate";

/// What a client is answered, and the proof that its messages may be deflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    /// The client named the server's window, so the answer has to name it as well (7.1.2.1).
    names_window: bool,
}

impl Agreement {
    /// The value of `Sec-WebSocket-Extensions` in the 101.
    pub fn answer(self) -> &'static str {
        match self.names_window {
            false => "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            true => {
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                 server_max_window_bits=15"
            }
        }
    }
}

/// The first acceptable offer in the values of `Sec-WebSocket-Extensions`, in their order. Other
/// extensions, offers that ask for something else and offers that are none are passed over (7).
pub fn agree<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<Agreement> {
    values.into_iter().flat_map(|value| split(value, ',')).find_map(judge)
}

/// One offer: the name, then parameters, each at most once and each known (7.1).
fn judge(offer: &str) -> Option<Agreement> {
    let mut parts = split(offer, ';');
    if parts.next()?.trim_matches(BLANK) != NAME {
        return None;
    }
    let mut seen = Vec::new();
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim_matches(BLANK), Some(value.trim_matches(BLANK))),
            None => (part.trim_matches(BLANK), None),
        };
        let is_good = match (name, value) {
            ("server_no_context_takeover" | "client_no_context_takeover", None) => true,
            // A smaller window of the client's fits into ours, and need not be answered.
            ("client_max_window_bits", None) => true,
            ("client_max_window_bits", Some(bits)) => window_bits(bits).is_some(),
            ("server_max_window_bits", Some(bits)) => window_bits(bits) == Some(15),
            _ => false,
        };
        if !is_good || seen.contains(&name) {
            return None;
        }
        seen.push(name);
    }
    Some(Agreement { names_window: seen.contains(&"server_max_window_bits") })
}

/// White space of HTTP.
const BLANK: [char; 2] = [' ', '\t'];

/// 8 to 15 without leading zeros (7.1.2), as it is or in quotes (RFC 6455, 9.1).
fn window_bits(text: &str) -> Option<u8> {
    let text = match text.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"')?,
        None => text,
    };
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|bits| is_plain && (8..=15).contains(bits))
}

/// The parts between separators that are not within quotes.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |char| {
        match char {
            _ if std::mem::take(&mut escaped) => {}
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        char == separator && !quoted
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(values: &[&str], expected: Option<bool>) {
        let agreed = agree(values.iter().copied());
        assert_eq!(agreed.map(|agreed| agreed.names_window), expected, "{values:?}");
    }

    const YES: Option<bool> = Some(false);
    const WITH_WINDOW: Option<bool> = Some(true);

    #[test]
    fn what_browsers_and_libraries_offer_is_accepted() {
        check(&["permessage-deflate"], YES);
        check(&["permessage-deflate; client_max_window_bits"], YES);
        check(&["permessage-deflate;client_max_window_bits"], YES);
        check(&["permessage-deflate; client_max_window_bits=9"], YES);
        check(&["permessage-deflate; client_max_window_bits=\"9\""], YES);
        check(&["permessage-deflate; server_no_context_takeover; client_no_context_takeover"], YES);
        check(&["permessage-deflate; server_max_window_bits=15"], WITH_WINDOW);
        check(
            &["permessage-deflate ;\tserver_max_window_bits = 15 ; client_max_window_bits"],
            WITH_WINDOW,
        );
    }

    #[test]
    fn a_demand_that_cannot_be_met_leads_to_the_next_offer() {
        check(&["permessage-deflate; server_max_window_bits=9"], None);
        check(&["permessage-deflate; server_max_window_bits=14, permessage-deflate"], YES);
        check(&["x-webkit-deflate-frame, permessage-deflate"], YES);
        check(&["foo; bar=\"a, permessage-deflate\"", "permessage-deflate"], YES);
        check(&["foo; bar=\"\\\", permessage-deflate\""], None);
        check(&["foo", "bar"], None);
        check(&[], None);
    }

    #[test]
    fn an_offer_that_is_none_is_declined() {
        for bad in [
            "",
            ",",
            "Permessage-Deflate",
            "permessage-deflate;",
            "permessage-deflate; ;",
            "permessage-deflate; other",
            "permessage-deflate; =9",
            "permessage-deflate=1",
            "permessage-deflate; server_no_context_takeover=true",
            "permessage-deflate; client_no_context_takeover=",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=15",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=+15",
            "permessage-deflate; server_max_window_bits=015",
            "permessage-deflate; server_max_window_bits=15.0",
            "permessage-deflate; server_max_window_bits=\"15",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=08",
            "permessage-deflate; client_max_window_bits=256",
            "permessage-deflate; client_max_window_bits=x",
            "permessage-deflate server_no_context_takeover",
        ] {
            check(&[bad], None);
        }
    }

    #[test]
    fn the_answer_names_what_was_asked_for_and_no_more() {
        let answer = |offer| agree([offer]).map(Agreement::answer);
        let plain = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        assert_eq!(answer("permessage-deflate; client_max_window_bits"), Some(plain));
        let named = format!("{plain}; server_max_window_bits=15");
        assert_eq!(answer("permessage-deflate; server_max_window_bits=15"), Some(&*named));
    }

    proptest! {
        #[test]
        fn any_value_has_an_answer(value in ".*", offer in "permessage-deflate[;,= \"\\\\a-z_0-9]*") {
            let _ = agree([&*value, &*offer]);
        }
    }
}

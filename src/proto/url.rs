//! URLs of the settings: with a scheme that is meant, and without anything that would not be sent.

use http::Uri;

/// What a URL is to be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Webhook,
    Upstream,
}

/// Why a text is no such URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("this is not a URL")]
    Malformed(Purpose),
    #[error("{}", .0.about_scheme())]
    Scheme(Purpose),
    #[error("this URL may hold no user and no password")]
    UserInfo(Purpose),
    #[error("a fragment is never sent")]
    Fragment,
    #[error("a port is a number from 1 to 65535")]
    Port,
}

/// A URL that has a host, and a port that can be connected to if it has one.
///
/// # Errors
/// The first fault. It shows nothing of the text, which may hold a secret.
pub fn parse(text: &str, purpose: Purpose) -> Result<Uri, Invalid> {
    if text.contains('#') {
        return Err(Invalid::Fragment);
    }
    if let Some((scheme, _)) = text.split_once("://")
        && !purpose.schemes().iter().any(|known| scheme.eq_ignore_ascii_case(known))
    {
        return Err(Invalid::Scheme(purpose));
    }
    let uri: Uri = text.parse().map_err(|_| Invalid::Malformed(purpose))?;
    if uri.scheme().is_none() {
        return Err(Invalid::Malformed(purpose));
    }
    let authority = uri.authority().ok_or(Invalid::Malformed(purpose))?;
    if authority.as_str().contains('@') {
        return Err(Invalid::UserInfo(purpose));
    }
    let host = authority.host();
    match authority.as_str().strip_prefix(host) {
        _ if host.is_empty() => Err(Invalid::Malformed(purpose)),
        Some("") => Ok(uri),
        Some(_) if authority.port_u16().is_some_and(|port| port > 0) => Ok(uri),
        Some(_) => Err(Invalid::Port),
        None => Err(Invalid::Malformed(purpose)),
    }
}

impl Purpose {
    fn schemes(self) -> [&'static str; 2] {
        match self {
            Purpose::Webhook => ["http", "https"],
            Purpose::Upstream => ["ws", "wss"],
        }
    }

    fn about_scheme(self) -> &'static str {
        match self {
            Purpose::Webhook => "webhooks are called over http or https",
            Purpose::Upstream => "the URL of a WebSocket server begins with ws:// or wss://",
        }
    }
}

impl Invalid {
    /// What to write instead.
    pub fn advice(self) -> &'static str {
        match self {
            Invalid::Malformed(Purpose::Webhook) | Invalid::Scheme(Purpose::Webhook) => {
                "scheme, host and path, as in \"http://api.internal:8000/ws\""
            }
            Invalid::Malformed(Purpose::Upstream) | Invalid::Scheme(Purpose::Upstream) => {
                "as in \"wss://feed.example/stream?key=value\""
            }
            Invalid::UserInfo(Purpose::Webhook) => {
                "leave them out: requests are signed, see `secret` of [webhook] and docs/backends.md"
            }
            Invalid::UserInfo(Purpose::Upstream) => {
                "send a token with `token_file`, or a header with `headers`"
            }
            Invalid::Fragment => "leave the # and what follows it out",
            Invalid::Port => "leave it out, and its colon, for the port that the scheme stands for",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEBHOOK: Purpose = Purpose::Webhook;
    const UPSTREAM: Purpose = Purpose::Upstream;

    #[track_caller]
    fn check(text: &str, purpose: Purpose, expected: Result<&str, Invalid>) {
        let parsed = parse(text, purpose).map(|url| url.to_string());
        assert_eq!(parsed, expected.map(str::to_owned), "{text}");
    }

    #[test]
    fn a_url_says_where_to_connect_and_hides_nothing() {
        for (text, as_sent) in [
            ("http://api.internal/ws", "http://api.internal/ws"),
            ("https://api.internal:8443/a/b?c=d&e", "https://api.internal:8443/a/b?c=d&e"),
            ("HTTP://127.0.0.1:1", "http://127.0.0.1:1/"),
            ("http://[::1]:9000/x", "http://[::1]:9000/x"),
        ] {
            check(text, WEBHOOK, Ok(as_sent));
        }
        for text in ["ws://h/", "wss://feed.example:65535/a?b=c", "ws://[::1]:9000/x"] {
            check(text, UPSTREAM, Ok(text));
        }
        check("http://h/", UPSTREAM, Err(Invalid::Scheme(UPSTREAM)));
        for text in ["ftp://api.internal/ws", "ws://api.internal/ws", "unix:///run/api"] {
            check(text, WEBHOOK, Err(Invalid::Scheme(WEBHOOK)));
        }
        for text in ["http://user:secret@api.internal/", "http://user@api.internal/"] {
            check(text, WEBHOOK, Err(Invalid::UserInfo(WEBHOOK)));
        }
        for text in ["", "api.internal", "/ws", "http:", "http://", "http:///ws", "http://a b/"] {
            check(text, WEBHOOK, Err(Invalid::Malformed(WEBHOOK)));
        }
        check("http://api.internal/ws#here", WEBHOOK, Err(Invalid::Fragment));
        for port in ["99999", "65536", "0", "", "x"] {
            check(&format!("ws://h:{port}/"), UPSTREAM, Err(Invalid::Port));
            check(&format!("ws://[::1]:{port}"), UPSTREAM, Err(Invalid::Port));
        }
    }
}

//! Where a webhook is: an `http` or `https` URL without anything that would not be sent.

use std::fmt;

use http::Uri;

/// A URL that a request can go to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Url(Uri);

/// Why a text is no such URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("this is not a URL")]
    Malformed,
    #[error("webhooks are called over http or https")]
    Scheme,
    #[error("a webhook's URL holds no user and no password")]
    UserInfo,
    #[error("a fragment is never sent")]
    Fragment,
}

impl Url {
    pub fn parse(text: &str) -> Result<Url, Invalid> {
        if text.contains('#') {
            return Err(Invalid::Fragment);
        }
        if let Some((scheme, _)) = text.split_once("://")
            && !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known))
        {
            return Err(Invalid::Scheme);
        }
        let uri: Uri = text.parse().map_err(|_| Invalid::Malformed)?;
        if uri.scheme().is_none() {
            return Err(Invalid::Malformed);
        }
        let authority = uri.authority().ok_or(Invalid::Malformed)?;
        if authority.as_str().contains('@') {
            return Err(Invalid::UserInfo);
        }
        let host = authority.host();
        let is_good_port = match authority.as_str().strip_prefix(host) {
            Some("") => true,
            Some(_) => authority.port_u16().is_some_and(|port| port > 0),
            None => false,
        };
        if host.is_empty() || !is_good_port {
            return Err(Invalid::Malformed);
        }
        Ok(Url(uri))
    }

    pub fn uri(&self) -> &Uri {
        &self.0
    }
}

impl Invalid {
    /// What to write instead.
    pub fn advice(self) -> &'static str {
        match self {
            Invalid::Malformed | Invalid::Scheme => {
                "scheme, host and path, as in \"http://api.internal:8000/ws\""
            }
            Invalid::UserInfo => {
                "leave them out: requests are signed, see `secret` of [webhook] and docs/backends.md"
            }
            Invalid::Fragment => "leave the # and what follows it out",
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, Invalid>) {
        assert_eq!(Url::parse(text).map(|url| url.to_string()), expected.map(str::to_owned));
    }

    #[test]
    fn a_webhook_is_called_over_http_and_nothing_is_hidden_in_its_url() {
        check("http://api.internal/ws", Ok("http://api.internal/ws"));
        check("https://api.internal:8443/a/b?c=d&e", Ok("https://api.internal:8443/a/b?c=d&e"));
        check("HTTP://127.0.0.1:1", Ok("http://127.0.0.1:1/"));
        check("http://[::1]:9000/x", Ok("http://[::1]:9000/x"));
        check("ftp://api.internal/ws", Err(Invalid::Scheme));
        check("ws://api.internal/ws", Err(Invalid::Scheme));
        check("unix:///run/api", Err(Invalid::Scheme));
        check("http://user:secret@api.internal/", Err(Invalid::UserInfo));
        check("http://user@api.internal/", Err(Invalid::UserInfo));
        check("http://api.internal/ws#here", Err(Invalid::Fragment));
        for text in ["", "api.internal", "/ws", "http:", "http://", "http:///ws", "http://a b/"] {
            check(text, Err(Invalid::Malformed));
        }
        check("http://a:99999/", Err(Invalid::Malformed));
        check("http://a:0/", Err(Invalid::Malformed));
    }
}

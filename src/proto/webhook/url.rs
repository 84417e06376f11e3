//! Where a webhook is.

use std::fmt;

use http::Uri;

use crate::proto::url::{self, Invalid, Purpose};

/// A URL that a request can go to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Url(Uri);

impl Url {
    /// # Errors
    /// Those of every URL, and whatever is not `http` or `https`.
    pub fn parse(text: &str) -> Result<Url, Invalid> {
        url::parse(text, Purpose::Webhook).map(Url)
    }

    pub fn uri(&self) -> &Uri {
        &self.0
    }
}

/// For logs: without the query, where many a server takes its key.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        match text.split_once('?') {
            Some((place, _)) => write!(f, "{place}?…"),
            None => f.write_str(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, shown: &str) {
        assert_eq!(Url::parse(text).expect("a good URL").to_string(), shown);
    }

    #[test]
    fn a_query_is_not_shown() {
        check("http://h/ws?code=secret", "http://h/ws?…");
        check("https://h:8443/ws", "https://h:8443/ws");
    }
}

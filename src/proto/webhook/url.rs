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

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

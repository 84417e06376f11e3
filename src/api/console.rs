//! The console: one page for looking at paths and sessions, publishing, and watching events.
//!
//! It has no data of its own and loads nothing from elsewhere. Its policy lets run exactly the
//! script and the style that are in it, so nothing that a client sent can become code.

use std::sync::LazyLock;

use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use sha2::{Digest, Sha256};
use utoipa::openapi::content::Content;
use utoipa::openapi::schema::{ObjectBuilder, Type};

use crate::api::auth::Access;
use crate::api::call::Call;

const PAGE: &str = include_str!("console.html");

static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash("<script>", "</script>"),
        hash("<style>", "</style>"),
    );
    HeaderValue::try_from(policy).expect("hashes are ASCII")
});

pub fn calls() -> Vec<Call> {
    let html = ObjectBuilder::new().schema_type(Type::String);
    vec![
        Call::get("/", Access::Page, console, "console", "The console")
            .describe("A page for browsers; it asks for a key when one is needed.")
            .answers_with(200, "The page.", "text/html", Content::new(Some(html))),
    ]
}

async fn console() -> Response {
    let mut response = Html(PAGE).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The hash of what the page has between two tags (CSP 3, 2.3.1).
fn hash(open: &str, close: &str) -> String {
    let (_, after) = PAGE.split_once(open).unwrap_or_default();
    let (inner, _) = after.split_once(close).unwrap_or_default();
    format!("sha256-{}", STANDARD.encode(Sha256::digest(inner)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_script_and_one_style_and_nothing_from_elsewhere() {
        for (open, close) in [("<script", "</script>"), ("<style", "</style>")] {
            assert_eq!(PAGE.matches(open).count(), 1);
            assert_eq!(PAGE.matches(close).count(), 1);
            assert_ne!(hash(&format!("{open}>"), close), hash("no such tag", close));
        }
        for bad in ["http://", "https://", "innerHTML", "insertAdjacent", "eval(", "style=", " on"]
        {
            let found = PAGE
                .lines()
                .find(|line| line.contains(bad) && !(bad == " on" && !line.contains(" onclick")));
            assert_eq!(found, None, "{bad}");
        }
    }
}

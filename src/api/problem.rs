//! Problems: the one place where an error becomes a status (RFC 9457).
//!
//! A problem is known by its slug, which never changes once released; `detail` is for the human
//! who reads it and says what to do. Handlers return a [`Problem`]; [`finish`] writes it, because
//! only there the request's path is known.

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::proto::msg;
use crate::relay::Refusal;

/// What went wrong, by what the caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    NotJson,
    NotAnObject,
    NotUtf8,
    BadItem,
    BadParameter,
    UnreadableBody,
    Unauthorized,
    ForbiddenScope,
    ForbiddenPath,
    ForbiddenHost,
    ForbiddenOrigin,
    UnknownRoute,
    UnknownPath,
    UnknownUpstream,
    MethodNotAllowed,
    BodyTimeout,
    SessionGone,
    TooBig,
    UnsupportedType,
    BadSession,
    SessionMismatch,
    BadBuffer,
    NothingToSend,
    OutboxFull,
    Overloaded,
    Unavailable,
    OutcomeUnknown,
}

impl Kind {
    /// Every kind there is, in the order of their statuses.
    pub const ALL: &[Kind] = &[
        Kind::NotJson,
        Kind::NotAnObject,
        Kind::NotUtf8,
        Kind::BadItem,
        Kind::BadParameter,
        Kind::UnreadableBody,
        Kind::Unauthorized,
        Kind::ForbiddenScope,
        Kind::ForbiddenPath,
        Kind::ForbiddenHost,
        Kind::ForbiddenOrigin,
        Kind::UnknownRoute,
        Kind::UnknownPath,
        Kind::UnknownUpstream,
        Kind::MethodNotAllowed,
        Kind::BodyTimeout,
        Kind::SessionGone,
        Kind::TooBig,
        Kind::UnsupportedType,
        Kind::BadSession,
        Kind::SessionMismatch,
        Kind::BadBuffer,
        Kind::NothingToSend,
        Kind::OutboxFull,
        Kind::Overloaded,
        Kind::Unavailable,
        Kind::OutcomeUnknown,
    ];

    pub fn status(self) -> StatusCode {
        self.describe().1
    }

    pub fn slug(self) -> &'static str {
        self.describe().0
    }

    pub fn title(self) -> &'static str {
        self.describe().2
    }

    /// The headers that come with it.
    pub fn headers(self) -> &'static [&'static str] {
        match self {
            Kind::Unauthorized => &["WWW-Authenticate"],
            Kind::Overloaded | Kind::Unavailable => &["Retry-After"],
            _ => &[],
        }
    }

    fn describe(self) -> (&'static str, StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Kind::NotJson => ("not-json", S::BAD_REQUEST, "Not JSON"),
            Kind::NotAnObject => ("not-an-object", S::BAD_REQUEST, "Not a JSON object"),
            Kind::NotUtf8 => ("not-utf8", S::BAD_REQUEST, "Not UTF-8"),
            Kind::BadItem => ("bad-item", S::BAD_REQUEST, "Not an item of a batch"),
            Kind::BadParameter => ("bad-parameter", S::BAD_REQUEST, "Bad query parameter"),
            Kind::UnreadableBody => ("unreadable-body", S::BAD_REQUEST, "Body cut off"),
            Kind::Unauthorized => ("unauthorized", S::UNAUTHORIZED, "A key is needed"),
            Kind::ForbiddenScope => ("forbidden-scope", S::FORBIDDEN, "Not in the key's scopes"),
            Kind::ForbiddenPath => ("forbidden-path", S::FORBIDDEN, "Not in the key's paths"),
            Kind::ForbiddenHost => ("forbidden-host", S::FORBIDDEN, "Not a loopback host"),
            Kind::ForbiddenOrigin => ("forbidden-origin", S::FORBIDDEN, "A foreign origin"),
            Kind::UnknownRoute => ("unknown-route", S::NOT_FOUND, "No such call"),
            Kind::UnknownPath => ("unknown-path", S::NOT_FOUND, "Path not configured"),
            Kind::UnknownUpstream => ("unknown-upstream", S::NOT_FOUND, "Upstream not configured"),
            Kind::MethodNotAllowed => {
                ("method-not-allowed", S::METHOD_NOT_ALLOWED, "Method not allowed")
            }
            Kind::BodyTimeout => ("body-timeout", S::REQUEST_TIMEOUT, "The body did not come"),
            Kind::SessionGone => ("session-gone", S::GONE, "No such session"),
            Kind::TooBig => ("too-big", S::PAYLOAD_TOO_LARGE, "Too big"),
            Kind::UnsupportedType => {
                ("unsupported-type", S::UNSUPPORTED_MEDIA_TYPE, "Unsupported content type")
            }
            Kind::BadSession => ("bad-session", S::UNPROCESSABLE_ENTITY, "Malformed _session"),
            Kind::SessionMismatch => {
                ("session-mismatch", S::UNPROCESSABLE_ENTITY, "Two different sessions")
            }
            Kind::BadBuffer => ("bad-buffer", S::UNPROCESSABLE_ENTITY, "Malformed Buffer"),
            Kind::NothingToSend => ("nothing-to-send", S::UNPROCESSABLE_ENTITY, "Nothing to send"),
            Kind::OutboxFull => ("outbox-full", S::TOO_MANY_REQUESTS, "Outbox full"),
            Kind::Overloaded => ("overloaded", S::TOO_MANY_REQUESTS, "Overloaded"),
            Kind::Unavailable => ("unavailable", S::SERVICE_UNAVAILABLE, "Not sent"),
            Kind::OutcomeUnknown => ("outcome-unknown", S::GATEWAY_TIMEOUT, "Outcome unknown"),
        }
    }
}

/// A refusal on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub kind: Kind,
    pub detail: String,
}

/// A problem on the wire (RFC 9457, section 3.1).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct Written {
    /// `/problems/` and the slug: what a program looks at.
    #[serde(rename = "type")]
    kind: String,
    /// The same for every problem of this type.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What happened this time, and what to do.
    detail: String,
    /// The path of the request; in a batch with the item's place (from 0) as the fragment.
    instance: String,
}

impl Problem {
    pub fn new(kind: Kind, detail: impl Into<String>) -> Problem {
        Problem { kind, detail: detail.into() }
    }

    /// With `instance`: whose problem it is.
    pub fn written(self, instance: impl Into<String>) -> Written {
        Written {
            kind: format!("/problems/{}", self.kind.slug()),
            title: self.kind.title(),
            status: self.kind.status().as_u16(),
            detail: self.detail,
            instance: instance.into(),
        }
    }
}

impl IntoResponse for Problem {
    /// Without a body: [`finish`] writes that.
    fn into_response(self) -> Response {
        let mut response = self.kind.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The outermost layer: gives every problem its body and its headers.
pub async fn finish(request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let instance = request.uri().path().to_owned();
    let mut response = next.run(request).await;
    let Some(problem) = response.extensions_mut().remove::<Problem>() else { return response };
    tracing::debug!(%method, path = instance, problem = problem.kind.slug(), "refused");
    let kind = problem.kind;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    match kind {
        // A second is what `Relay::room` waits for: asking sooner cannot help.
        Kind::Overloaded | Kind::Unavailable => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        Kind::Unauthorized => {
            let challenge = HeaderValue::from_static("Bearer realm=\"pathcast\"");
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        _ => {}
    }
    let body = serde_json::to_vec(&problem.written(instance)).expect("strings and a number");
    *response.body_mut() = Body::from(body);
    response
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let (kind, what_to_do) = match refusal {
            Refusal::Gone => (
                Kind::SessionGone,
                "it ended, is of another path, or never was; forget the id (its client has a new \
                 one when it comes back)",
            ),
            Refusal::Unknown => {
                (Kind::OutcomeUnknown, "repeat it only if arriving twice does no harm")
            }
            Refusal::Unavailable(_) => (Kind::Unavailable, "try again later"),
            Refusal::OutboxFull => (
                Kind::OutboxFull,
                "its client reads more slowly than you send; send less, or later",
            ),
            Refusal::Overloaded => (Kind::Overloaded, "not sent; try again later"),
            Refusal::NoSuchPath => {
                (Kind::UnknownPath, "it was removed just now; GET /v1/paths tells those that are")
            }
            Refusal::Nothing => (
                Kind::NothingToSend,
                "the payload is missing or the empty string; null, 0 and false would be sent",
            ),
            Refusal::TooBig(_) => (Kind::TooBig, "send less, or raise [limits] frame_bytes_max"),
        };
        Problem::new(kind, format!("{refusal}: {what_to_do}"))
    }
}

impl From<msg::Invalid> for Problem {
    fn from(invalid: msg::Invalid) -> Problem {
        let kind = match invalid {
            msg::Invalid::NotJson { .. } => Kind::NotJson,
            msg::Invalid::NotAnObject => Kind::NotAnObject,
            msg::Invalid::Session => Kind::BadSession,
            msg::Invalid::Buffer { .. } => Kind::BadBuffer,
        };
        Problem::new(kind, invalid.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refusal(refusal: Refusal, status: u16, slug: &str) {
        let problem = Problem::from(refusal);
        assert_eq!((problem.kind.status().as_u16(), problem.kind.slug()), (status, slug));
        assert!(!problem.detail.is_empty());
    }

    #[test]
    fn a_refusal_has_its_status() {
        refusal(Refusal::Gone, 410, "session-gone");
        refusal(Refusal::Unknown, 504, "outcome-unknown");
        refusal(Refusal::Unavailable("draining"), 503, "unavailable");
        refusal(Refusal::OutboxFull, 429, "outbox-full");
        refusal(Refusal::Overloaded, 429, "overloaded");
        refusal(Refusal::NoSuchPath, 404, "unknown-path");
        refusal(Refusal::Nothing, 422, "nothing-to-send");
        refusal(Refusal::TooBig(4), 413, "too-big");
    }

    #[test]
    fn slugs_are_unique_and_all_are_listed() {
        let slugs: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|one| one.slug()).collect();
        assert_eq!(slugs.len(), Kind::ALL.len());
        assert_eq!(Kind::ALL.len(), Kind::OutcomeUnknown as usize + 1);
    }
}

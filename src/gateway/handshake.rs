//! What a client asks for in its handshake, and whether it gets it (RFC 6455 section 4.2).
//!
//! Looks at the request alone: no socket, no state. The caller still has to find room for the
//! session.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fastwebsockets::upgrade::is_upgrade_request;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Version};

use crate::hub::command::Greeting;
use crate::proto::deflate;
use crate::proto::deflate::Agreement;
use crate::proto::path::Path;
use crate::proto::paths::{Configured, Origins, Paths};
use crate::proto::traceparent::Traceparent;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What a client asked for, in order.
#[derive(Debug)]
pub struct Wanted {
    pub path: Path,
    pub configured: Arc<Configured>,
    /// On deflated messages, where the path has them.
    pub agreement: Option<Agreement>,
    pub greeting: Greeting,
    /// Whose call it belongs to.
    pub trace: Option<Traceparent>,
    /// The subprotocols that it offers.
    pub offered: Vec<String>,
}

/// Why it is turned away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    Malformed(&'static str),
    Origin,
    UnknownPath,
    Method,
    NotAnUpgrade,
    Version,
    TooOften,
    /// Not now; tells why.
    Unavailable(&'static str),
    /// Its backend does not want it.
    Vetoed {
        status: StatusCode,
        line: String,
        retry_after: Option<HeaderValue>,
    },
    /// Its backend does not say.
    Unanswered,
}

impl Refusal {
    pub fn status(&self) -> StatusCode {
        match self {
            Refusal::Malformed(_) => StatusCode::BAD_REQUEST,
            Refusal::Origin => StatusCode::FORBIDDEN,
            Refusal::UnknownPath => StatusCode::NOT_FOUND,
            Refusal::Method => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::NotAnUpgrade | Refusal::Version => StatusCode::UPGRADE_REQUIRED,
            Refusal::TooOften => StatusCode::TOO_MANY_REQUESTS,
            Refusal::Unavailable(_) | Refusal::Unanswered => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Vetoed { status, .. } => *status,
        }
    }

    /// One line for whoever reads the answer.
    pub fn line(&self) -> &str {
        match self {
            Refusal::Malformed(line) | Refusal::Unavailable(line) => line,
            Refusal::Vetoed { line, .. } => line,
            Refusal::Unanswered => "the backend of this path does not answer; try again",
            Refusal::Origin => "pages of this origin may not connect here",
            Refusal::UnknownPath => "no such path",
            Refusal::Method => "a WebSocket is opened with GET",
            Refusal::NotAnUpgrade => "this is a WebSocket; connect with a WebSocket client",
            Refusal::Version => "only WebSocket version 13 is spoken here",
            Refusal::TooOften => "too many connections at once; try again in a moment",
        }
    }

    /// The value of the metrics' label `result`.
    pub fn result(&self) -> &'static str {
        match self {
            Refusal::Malformed(_) => "malformed",
            Refusal::Origin => "origin",
            Refusal::UnknownPath => "unknown_path",
            Refusal::Method => "method",
            Refusal::NotAnUpgrade => "not_an_upgrade",
            Refusal::Version => "version",
            Refusal::TooOften => "rate",
            Refusal::Unavailable(_) => "unavailable",
            Refusal::Vetoed { .. } => "vetoed",
            Refusal::Unanswered => "backend",
        }
    }
}

/// Reads a handshake. `origins` is for paths that say nothing of their own.
pub fn read<B>(request: &Request<B>, paths: &Paths, origins: &Origins) -> Result<Wanted, Refusal> {
    let headers = request.headers();
    let Some((path, configured)) = paths.resolve(request.uri().path()) else {
        return Err(Refusal::UnknownPath);
    };
    if request.method() != Method::GET {
        return Err(Refusal::Method);
    }
    if request.version() != Version::HTTP_11 {
        return Err(Refusal::Malformed("a WebSocket needs HTTP/1.1"));
    }
    let body = single(headers, &header::CONTENT_LENGTH)?.is_some_and(|length| length != "0");
    if body || headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Refusal::Malformed("a handshake has no body"));
    }
    let host = single(headers, &header::HOST)?.ok_or(Refusal::Malformed("no Host"))?;
    if !is_upgrade_request(request) {
        return Err(Refusal::NotAnUpgrade);
    }
    if single(headers, &header::SEC_WEBSOCKET_VERSION)? != Some("13") {
        return Err(Refusal::Version);
    }
    let key = single(headers, &header::SEC_WEBSOCKET_KEY)?;
    if !key.is_some_and(|key| STANDARD.decode(key).is_ok_and(|key| key.len() == 16)) {
        return Err(Refusal::Malformed("Sec-WebSocket-Key is 16 bytes in base64"));
    }
    let origin = single(headers, &header::ORIGIN)?;
    if let Some(origin) = origin
        && !is_allowed(origin, host, configured.origins.as_ref().unwrap_or(origins))
    {
        return Err(Refusal::Origin);
    }
    let greeting = Greeting {
        subprotocol: subprotocol(headers, &configured.subprotocols),
        origin: origin.map(str::to_owned),
        query: request.uri().query().map(str::to_owned),
        ..Greeting::default()
    };
    let agreement = configured.compress_from_bytes.and_then(|_| agreement(headers));
    let offered = offered(headers).map(str::to_owned).collect();
    let trace = traceparent(headers);
    Ok(Wanted { path, configured: configured.clone(), agreement, greeting, trace, offered })
}

/// What is not even text is no offer.
fn agreement(headers: &HeaderMap) -> Option<Agreement> {
    let values = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS).iter();
    deflate::agree(values.filter_map(|value| value.to_str().ok()))
}

/// The value of a header that may be there once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::Malformed("a header is there twice that may be there once"));
    }
    match value.to_str() {
        Ok(value) => Ok(Some(value.trim())),
        Err(_) => Err(Refusal::Malformed("a header is not plain ASCII")),
    }
}

/// Whether a page of `origin` may connect to `host`. Scheme and host have no case (RFC 6454).
fn is_allowed(origin: &str, host: &str, origins: &Origins) -> bool {
    let origin = origin.to_ascii_lowercase();
    match origins {
        Origins::Any => true,
        Origins::Listed { same_host, origins } => {
            let is_same = origin.split_once("://").is_some_and(|(_, authority)| {
                without_port(authority) == without_port(&host.to_ascii_lowercase())
            });
            *same_host && is_same || origins.contains(&origin)
        }
    }
}

/// `host:1`, `host`, `[::1]:1`, `[::1]` → the host.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// The first one offered that is configured.
fn subprotocol(headers: &HeaderMap, configured: &[String]) -> Option<String> {
    offered(headers).find_map(|offer| configured.iter().find(|one| *one == offer).cloned())
}

/// The names that are offered, in their order.
fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let offers = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let offered = offers.filter_map(|value| value.to_str().ok()).flat_map(|one| one.split(','));
    offered.map(str::trim)
}

/// One that is there once and good; any other is as none.
fn traceparent(headers: &HeaderMap) -> Option<Traceparent> {
    let value = single(headers, &TRACEPARENT).ok()??;
    Traceparent::parse(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::paths::Pattern;

    const GOOD: &[(&str, &str)] = &[
        ("host", "example.org:8080"),
        ("upgrade", "websocket"),
        ("connection", "keep-alive, Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn paths() -> Paths {
        let mut paths = Paths::default();
        let mut configured = Configured::new(Pattern::parse("/ws/{room}").expect("a good pattern"));
        configured.subprotocols = vec!["b".to_owned(), "a".to_owned()];
        paths.add(configured).expect("the only one");
        paths
    }

    fn request(
        method: &str,
        uri: &str,
        without: Option<&str>,
        with: &[(&str, &str)],
    ) -> Result<Wanted, Refusal> {
        let mut request = Request::builder().method(method).uri(uri);
        let kept = GOOD.iter().filter(|(name, _)| Some(*name) != without);
        for (name, value) in kept.chain(with) {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a good request");
        let origins = Origins::Listed {
            same_host: true,
            origins: vec!["https://app.example.com".to_owned()],
        };
        read(&request, &paths(), &origins)
    }

    #[track_caller]
    fn refused(without: Option<&str>, with: &[(&str, &str)], expected: u16) {
        let refusal = request("GET", "/ws/a", without, with).err();
        assert_eq!(refusal.map(|refusal| refusal.status().as_u16()), Some(expected));
    }

    #[track_caller]
    fn origin(origin: &str, expected: bool) {
        let outcome = request("GET", "/ws/a", None, &[("origin", origin)]);
        assert_eq!(outcome.is_ok(), expected, "{origin}");
    }

    #[test]
    fn a_good_handshake_is_taken_with_what_it_said() {
        let wanted = request("GET", "/ws/a?x=1", None, &[("sec-websocket-protocol", "c, a,b")]);
        let wanted = wanted.expect("a good handshake");
        assert_eq!(wanted.path.as_str(), "/ws/a");
        assert_eq!(wanted.greeting.subprotocol.as_deref(), Some("a"));
        assert_eq!(wanted.greeting.query.as_deref(), Some("x=1"));
    }

    #[test]
    fn each_fault_has_its_status() {
        refused(Some("upgrade"), &[], 426);
        refused(Some("connection"), &[], 426);
        refused(Some("sec-websocket-version"), &[], 426);
        refused(Some("sec-websocket-version"), &[("sec-websocket-version", "8")], 426);
        refused(Some("sec-websocket-key"), &[], 400);
        refused(Some("sec-websocket-key"), &[("sec-websocket-key", "c2hvcnQ=")], 400);
        refused(None, &[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")], 400);
        refused(Some("host"), &[], 400);
        refused(None, &[("content-length", "5")], 400);
        refused(None, &[("transfer-encoding", "chunked")], 400);
        let status = |method, uri| {
            request(method, uri, None, &[]).err().map(|refusal| refusal.status().as_u16())
        };
        assert_eq!(status("GET", "/ws"), Some(404));
        assert_eq!(status("GET", "/ws/a/"), Some(404));
        assert_eq!(status("POST", "/ws/a"), Some(405));
    }

    #[test]
    fn a_trace_context_is_kept_if_it_is_one() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let kept = |headers: &[(&str, &str)]| {
            let wanted = request("GET", "/ws/a", None, headers).expect("a good handshake");
            wanted.trace.map(|traceparent| traceparent.as_str().to_owned())
        };
        assert_eq!(kept(&[("traceparent", good)]).as_deref(), Some(good));
        assert_eq!(kept(&[("traceparent", "00-0-0-01")]), None);
        assert_eq!(kept(&[("traceparent", good), ("traceparent", good)]), None);
        assert_eq!(kept(&[]), None);
    }

    #[test]
    fn origins_are_the_same_host_or_listed() {
        origin("http://example.org", true);
        origin("https://EXAMPLE.org:9", true);
        origin("https://app.example.com", true);
        origin("https://app.example.com:444", false);
        origin("http://evil.example", false);
        origin("http://example.org.evil.example", false);
        origin("null", false);
        origin("example.org", false);
    }
}

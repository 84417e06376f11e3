//! The requests that a backend gets: an event, and the question whether it wants any.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http::{Method, Request};
use http_body_util::Full;

use crate::backend::webhook::lanes::{Job, Teller};
use crate::backend::webhook::{feed, head};
use crate::proto::traceparent::Traceparent;
use crate::proto::webhook::cloud_event;
use crate::proto::webhook::signature::{Secret, signatures};
use crate::proto::webhook::url::Url;

pub const ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");

const REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");

const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("pathcast/", env!("CARGO_PKG_VERSION")));

/// An event as CloudEvents' binary mode has it, signed as Standard Webhooks say. `timestamp`: Unix time in
/// seconds.
pub fn post(
    url: &Url,
    job: &Job,
    secrets: &[Secret],
    timestamp: u64,
    traceparent: Option<&Traceparent>,
) -> Request<Full<Bytes>> {
    let event = &job.event;
    let told = match &job.teller {
        Teller::Session(whose) => {
            let head = head(whose, event.traceparent.as_ref(), event.seq, event.time_ms);
            cloud_event::headers(&event.id, event.kind, &head)
        }
        Teller::Upstream(source) => {
            let feed = feed(source, event.seq, event.time_ms);
            cloud_event::headers(&event.id, event.kind, &feed)
        }
    };
    let signature = signatures(secrets, &event.id, timestamp, &told, &event.body);
    let mut request = request(Method::POST, url, event.body.clone());
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(event.content_type));
    for (name, value) in told {
        put(headers, name, &value);
    }
    put(headers, "webhook-id", &event.id);
    put(headers, "webhook-timestamp", &timestamp.to_string());
    if let Some(signature) = signature {
        put(headers, "webhook-signature", &signature);
    }
    if let Some(traceparent) = traceparent {
        put(headers, "traceparent", traceparent.as_str());
    }
    request
}

/// The question whether a target wants events, in the name of `origin`.
pub fn options(url: &Url, origin: &str) -> Request<Full<Bytes>> {
    let mut request = request(Method::OPTIONS, url, Bytes::new());
    put(request.headers_mut(), REQUEST_ORIGIN.as_str(), origin);
    request
}

fn request(method: Method, url: &Url, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = url.uri().clone();
    request.headers_mut().insert(USER_AGENT, AGENT);
    request
}

/// What is put is printable ASCII: encoded, digits, or checked with the settings.
fn put(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
        headers.insert(name, value);
    }
}

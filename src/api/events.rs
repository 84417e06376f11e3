//! Server-sent events: what happens on a path, from now on, to whoever listens.
//!
//! The listener is registered before the head of the answer is written: whoever has seen the head
//! misses nothing. Order and loss are the relay's: what a listener was too slow for is told as a
//! gap. A stream ends with this pod; its reader connects again, elsewhere.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::{Extension, extract};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use utoipa::openapi::content::Content;
use utoipa::openapi::schema::{ObjectBuilder, Type};

use crate::api::auth::{Access, Caller};
use crate::api::call::Call;
use crate::api::problem::{Kind, Problem};
use crate::api::query::Parameters;
use crate::api::{Scope, State, publish};
use crate::backend::sse::{Event, Heard, Listener, Topic};
use crate::proto::paths::Paths;

const PREFIX: &str = "/v1/events";

/// How often something is written, so that proxies and readers know the stream lives.
const BEAT: Duration = Duration::from_secs(15);

pub fn calls() -> Vec<Call> {
    let stream = ObjectBuilder::new().schema_type(Type::String).description(Some(
        "`id:`, `event:` (connect, message, disconnect) and `data:`, the event as JSON on one \
         line; a comment every 15 s; `event: gap` with `{\"missed\":n}` where events were lost.",
    ));
    let content = Content::new(Some(stream));
    let call = |route, id| {
        Call::get(
            route,
            Access::Scopes(&[Scope::Events]),
            events,
            id,
            "Listen to the events of a path",
        )
        .describe(
            "Every listener gets everything, from now on. A pattern's own text, braces \
             percent-encoded or not, is all of its concrete paths; a concrete path is that one.",
        )
        .answers_with(200, "Events, until this pod leaves.", "text/event-stream", content.clone())
        .refuses(&[
            Kind::BadParameter,
            Kind::ForbiddenPath,
            Kind::UnknownPath,
            Kind::Unavailable,
        ])
    };
    // axum's wildcard is never empty, and a path may well be `/`.
    vec![
        call("/v1/events/{*path}", "listen")
            .part("path", "The path, configured or concrete, without its first slash."),
        call("/v1/events/", "listen_root"),
    ]
}

async fn events(
    extract::State(state): extract::State<State>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    Parameters::parse(request.uri(), &[])?;
    let raw = request.uri().path().strip_prefix(PREFIX).unwrap_or_default();
    let topic = topic(&state.relay.paths(), &caller, raw)?;
    let place = state.listeners.clone().try_acquire_owned().map_err(|_| {
        Problem::new(Kind::Unavailable, "this pod has as many listeners as it can serve")
    })?;
    let listening = Listening {
        listener: state.relay.listen(topic),
        beat: beat(),
        closing: state.lifecycle.closing().clone(),
        _place: place,
    };
    let chunks = stream::unfold(listening, |mut listening| async move {
        let chunk = listening.next().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), listening))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// What a raw path asks for: a configured path by its own text, else one concrete path.
fn topic(paths: &Paths, caller: &Caller, raw: &str) -> Result<Topic, Problem> {
    let text = with_braces(raw);
    if let Some(configured) = paths.named(&text).filter(|one| !one.pattern.is_exact()) {
        caller.may_touch(&text)?;
        return Ok(Topic::Configured(configured.pattern.text().clone()));
    }
    caller.may_touch(raw)?;
    match paths.resolve(raw) {
        Some((path, _)) => Ok(Topic::Concrete(path)),
        None => Err(publish::unknown(paths, caller, raw)),
    }
}

/// Many clients cannot write a brace into a URL.
fn with_braces(raw: &str) -> String {
    raw.replace("%7B", "{").replace("%7b", "{").replace("%7D", "}").replace("%7d", "}")
}

/// Beats now, and then regularly.
fn beat() -> Interval {
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat
}

struct Listening {
    listener: Listener,
    beat: Interval,
    closing: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Listening {
    /// The next piece of the stream. The first one is a comment, at once: it takes the head of the
    /// answer along.
    async fn next(&mut self) -> Option<Bytes> {
        tokio::select! {
            biased;
            _ = self.beat.tick() => Some(Bytes::from_static(b":\n\n")),
            heard = self.listener.next() => Some(written(heard?)),
            // Last: what was heard before the pod leaves is told first.
            () = self.closing.cancelled() => None,
        }
    }
}

fn written(heard: Heard) -> Bytes {
    match heard {
        Heard::Event(event) => {
            let Event { id, kind, json, .. } = &*event;
            let mut text = BytesMut::with_capacity(id.len() + kind.len() + json.len() + 24);
            text.put_slice(b"id: ");
            text.put_slice(id.as_bytes());
            text.put_slice(b"\nevent: ");
            text.put_slice(kind.as_bytes());
            text.put_slice(b"\ndata: ");
            text.put_slice(json);
            text.put_slice(b"\n\n");
            text.freeze()
        }
        Heard::Gap(missed) => Bytes::from(format!("event: gap\ndata: {{\"missed\":{missed}}}\n\n")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::fixture::Door;
    use crate::proto::grant::Grant;
    use crate::proto::path::Path;
    use crate::proto::paths::{Configured, Pattern};

    #[track_caller]
    fn check(raw: &str, expected: Option<Topic>) {
        let mut paths = Paths::default();
        for text in ["/", "/ws/a", "/ws/rooms/{room}"] {
            let pattern = Pattern::parse(text).expect("a pattern");
            paths.add(Configured::new(pattern)).expect("not there yet");
        }
        let caller = Caller { grant: Grant::All };
        assert_eq!(topic(&paths, &caller, raw).ok(), expected, "{raw}");
    }

    #[test]
    fn a_patterns_text_is_all_of_it_and_a_concrete_path_that_one() {
        let configured = |text: &str| Some(Topic::Configured(text.into()));
        check("/ws/rooms/{room}", configured("/ws/rooms/{room}"));
        check("/ws/rooms/%7Broom%7d", configured("/ws/rooms/{room}"));
        check("/ws/rooms/%7broom}", configured("/ws/rooms/{room}"));
        let concrete = |text| Path::parse(text).ok().map(Topic::Concrete);
        check("/", concrete("/"));
        check("/ws/a", concrete("/ws/a"));
        check("/ws/rooms/1", concrete("/ws/rooms/1"));
        check("/ws/rooms/%7Bother%7D", concrete("/ws/rooms/%7Bother%7D"));
        check("/ws/rooms/{other}", None);
        check("/ws/rooms", None);
        check("/ws/a/", None);
        check("", None);
    }

    #[test]
    fn an_event_is_three_lines_and_a_gap_tells_how_many() {
        let json = Bytes::from_static(b"{\"id\":\"x-0\"}");
        let event = Heard::Event(Arc::new(Event {
            id: "x-0".into(),
            kind: "message",
            json,
            path: Path::parse("/ws").expect("a path"),
            configured: "/ws".into(),
        }));
        let expected: &[u8] = b"id: x-0\nevent: message\ndata: {\"id\":\"x-0\"}\n\n";
        assert_eq!(written(event), expected);
        assert_eq!(written(Heard::Gap(7)), &b"event: gap\ndata: {\"missed\":7}\n\n"[..]);
    }

    #[tokio::test]
    async fn a_stream_begins_at_once() {
        let door = Door::keyless();
        for path in ["/", "/ws/a", "/ws/rooms/1", "/ws/rooms/%7Broom%7D", "/ws/rooms/{room}"] {
            let answer = door.get(&format!("/v1/events{path}")).await;
            assert_eq!((answer.status, answer.text.as_str()), (200, ":\n\n"), "{path}");
            assert_eq!(answer.headers["cache-control"], "no-store");
        }
        for path in ["/ws/b", "/ws/rooms/{x}", "/ws"] {
            assert_eq!(door.get(&format!("/v1/events{path}")).await.slug(), "unknown-path");
        }
        assert_eq!(door.get("/v1/events/ws/a?since=1").await.slug(), "bad-parameter");
        let headers = [("authorization", "Bearer events")];
        let answer = Door::keyed().ask("GET", "/v1/events/other", &headers, "").await;
        assert_eq!(answer.slug(), "forbidden-path");
    }
}

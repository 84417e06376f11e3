//! Server-sent events: what happens on a path, from now on, to whoever listens.
//!
//! The listener is registered, and every pod has been asked to tell, before the head of the answer is
//! written: whoever has seen the head misses nothing. Order and loss are the relay's: what a listener was too slow for is told as a
//! gap. A stream ends with this pod; its reader connects again, elsewhere.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::{Extension, extract};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
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
use crate::backend::sse::heard::{Event, Heard, Topic};
use crate::proto::paths::Paths;
use crate::proto::telling::Missed;
use crate::relay::listening::Listening;

const PREFIX: &str = "/v1/events";

/// The last event that a listener had, who comes back.
const LAST_EVENT_ID: &str = "last-event-id";

/// How often something is written, so that proxies and readers know the stream lives.
const BEAT: Duration = Duration::from_secs(15);

pub fn calls() -> Vec<Call> {
    let content = Content::new(Some(schema()));
    let call = |route, id| {
        Call::get(
            route,
            Access::Scopes(&[Scope::Events]),
            events,
            id,
            "Listen to the events of a path",
        )
        .describe(
            "Every listener gets everything that happens on any pod, from now on. A pattern's own text, braces \
             percent-encoded or not, is all of its concrete paths; a concrete path is that one. With \
             `Last-Event-ID` it goes on behind that event, or begins with a gap.",
        )
        .header(LAST_EVENT_ID, "The `id` of the last event that was had.")
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

/// What a stream of events looks like.
pub fn schema() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).description(Some(
        "`id:`, `event:` (connect, message, disconnect) and `data:`, the event as JSON on one \
         line; a comment every 15 s; `event: gap` with `{\"missed\":n}` where events were lost, \
         `null` where nobody knows how many.",
    ))
}

async fn events(
    extract::State(state): extract::State<State>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    Parameters::parse(request.uri(), &[])?;
    let raw = request.uri().path().strip_prefix(PREFIX).unwrap_or_default();
    let (topic, configured) = topic(&state.relay.paths(), &caller, raw)?;
    listen(&state, topic, configured, request.headers()).await
}

/// The stream of a topic. `configured`: the text of the configured path that it is of, or the name
/// of the upstream. The headers may name the last event that was heard.
pub async fn listen(
    state: &State,
    topic: Topic,
    configured: Arc<str>,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let place = state.listeners.clone().try_acquire_owned().map_err(|_| {
        Problem::new(Kind::Unavailable, "this pod has as many listeners as it can serve")
    })?;
    // What is no text is no id of ours, and what came behind it is as unknown as with any other.
    let last = headers.get(LAST_EVENT_ID);
    let last = last.map(|id| String::from_utf8_lossy(id.as_bytes())).filter(|id| !id.is_empty());
    let listening = Listening::begin(&state.relay, topic, configured, last.as_deref());
    let listening = listening.await.map_err(|_| {
        let detail = "other pods cannot be heard while Redis is away; try again later";
        Problem::new(Kind::Unavailable, detail)
    })?;
    let stream = Stream {
        listening,
        beat: beat(),
        closing: state.lifecycle.closing().clone(),
        _place: place,
    };
    let chunks = stream::unfold(stream, |mut stream| async move {
        let chunk = stream.next().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), stream))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// What a raw path asks for: a configured path by its own text, else one concrete path; and the
/// text of the configured path that it is of.
fn topic(paths: &Paths, caller: &Caller, raw: &str) -> Result<(Topic, Arc<str>), Problem> {
    let text = with_braces(raw);
    if let Some(configured) = paths.named(&text).filter(|one| !one.pattern.is_exact()) {
        caller.may_touch(&text)?;
        let text = configured.pattern.text();
        return Ok((Topic::Configured(text.clone()), text.clone()));
    }
    caller.may_touch(raw)?;
    match paths.resolve(raw) {
        Some((path, configured)) => Ok((Topic::Concrete(path), configured.pattern.text().clone())),
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

struct Stream {
    listening: Listening,
    beat: Interval,
    closing: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Stream {
    /// The next piece of the stream. The first one is a comment, at once: it takes the head of the
    /// answer along.
    async fn next(&mut self) -> Option<Bytes> {
        tokio::select! {
            biased;
            _ = self.beat.tick() => Some(Bytes::from_static(b":\n\n")),
            heard = self.listening.next() => Some(written(heard?)),
            // Last: what was heard before the pod leaves is told first.
            () = self.closing.cancelled() => None,
        }
    }
}

fn written(heard: Heard) -> Bytes {
    match heard {
        Heard::Event(event) => {
            let Event { id, kind, json, .. } = &*event;
            let kind = kind.as_str();
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
        Heard::Gap(Missed::Counted(missed)) => {
            Bytes::from(format!("event: gap\ndata: {{\"missed\":{missed}}}\n\n"))
        }
        Heard::Gap(Missed::Uncounted) => {
            Bytes::from_static(b"event: gap\ndata: {\"missed\":null}\n\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fixture::Door;
    use crate::backend::sse::heard::Origin;
    use crate::proto::event::Kind;
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
        let topic = topic(&paths, &caller, raw).ok().map(|(topic, _)| topic);
        assert_eq!(topic, expected, "{raw}");
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
            kind: Kind::Message,
            json,
            path: Path::parse("/ws").expect("a path"),
            configured: "/ws".into(),
            origin: Origin::Own,
        }));
        let expected: &[u8] = b"id: x-0\nevent: message\ndata: {\"id\":\"x-0\"}\n\n";
        assert_eq!(written(event), expected);
        let gap = |missed| written(Heard::Gap(missed));
        assert_eq!(gap(Missed::Counted(7)), &b"event: gap\ndata: {\"missed\":7}\n\n"[..]);
        assert_eq!(gap(Missed::Uncounted), &b"event: gap\ndata: {\"missed\":null}\n\n"[..]);
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

//! The door with a relay behind it and no socket before it, for the tests of its nouns.
//!
//! Every answer that passes through here is held against the OpenAPI document.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use http::{HeaderMap, Method};
use http_body_util::BodyExt;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tower::ServiceExt;

use crate::api::router::{calls, router};
use crate::api::{Config, Key, Scope, State, openapi};
use crate::backend::sse::Sse;
use crate::backend::stream::Stream;
use crate::backend::webhook::{self, Webhooks};
use crate::broker::memory::Memory;
use crate::broker::tenures::Tenures;
use crate::hub;
use crate::hub::Hub;
use crate::hub::inbound::Inbound;
use crate::hub::presence::Presence;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::proto::grant::{Glob, Grant};
use crate::proto::paths::{Configured, OnFull, Paths, Pattern};
use crate::proto::session_id::PodId;
use crate::proto::upstream::Name;
use crate::relay;
use crate::relay::desk::{self, Desk};
use crate::relay::ears::Ears;
use crate::relay::hearsay::Hearsay;
use crate::relay::local::Local;
use crate::relay::taps::Taps;
use crate::relay::upstreams::Upstreams;
use crate::relay::{Parts, Relay};

/// What the fixture's door takes as one msg.
pub const PUBLISH_BYTES_MAX: usize = 1000;

/// What it takes as one batch.
pub const BATCH_BYTES_MAX: usize = 20_000;

pub struct Door {
    router: Router,
    document: Value,
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    /// Of an event stream: its first piece.
    pub text: String,
}

impl Door {
    /// For this machine only.
    pub fn keyless() -> Door {
        Door::new(Vec::new())
    }

    /// With a key for each scope, its token being the scope's name, for `/ws/**` only.
    pub fn keyed() -> Door {
        let scopes = [Scope::Publish, Scope::Sessions, Scope::Events, Scope::Metrics, Scope::Admin];
        let key = |scope: Scope| Key {
            name: scope.as_str().to_owned(),
            sha256: Sha256::digest(scope.as_str()).into(),
            scopes: vec![scope],
            grant: Grant::Globs(Arc::new([Glob::parse("/ws/**").expect("a glob")])),
        };
        Door::new(scopes.map(key).into())
    }

    fn new(keys: Vec<Key>) -> Door {
        let document = serde_json::to_value(openapi::document(calls())).expect("a document");
        Door { router: router(state(keys)), document }
    }

    pub async fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[], "").await
    }

    /// Posts a body of this content type, a short name of one of ours.
    pub async fn post(&self, target: &str, content_type: &str, body: impl Into<Body>) -> Answer {
        let content_type = match content_type {
            "json" => "application/json",
            "ndjson" => "application/x-ndjson",
            "text" => "text/plain",
            "binary" => "application/octet-stream",
            other => other,
        };
        self.ask("POST", target, &[("content-type", content_type)], body).await
    }

    pub async fn ask(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(target);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "localhost:8081");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).expect("a good request");
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let Ok(response) = self.router.clone().oneshot(request).await;
        let (parts, mut body) = response.into_parts();
        let is_stream =
            parts.headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
        let bytes = if is_stream {
            let first = body.frame().await.expect("a stream begins");
            first.expect("a stream cannot fail").into_data().expect("data")
        } else {
            body.collect().await.expect("an answer ends well").to_bytes()
        };
        let text = String::from_utf8(bytes.into()).expect("answers are text");
        let answer = Answer { status: parts.status.as_u16(), headers: parts.headers, text };
        self.check(&method, &path, &answer);
        answer
    }

    /// The document tells of this answer.
    #[track_caller]
    fn check(&self, method: &Method, path: &str, answer: &Answer) {
        let what = format!("{method} {path} {}: {}", answer.status, answer.text);
        let content_type =
            answer.headers.get("content-type").map(|kind| kind.to_str().expect("text"));
        let slug = (content_type == Some("application/problem+json")).then(|| answer.slug());
        if let Some(slug) = &slug {
            let problem = answer.json();
            assert_eq!(problem["status"], answer.status, "{what}");
            assert_eq!(problem["instance"], path, "{what}");
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{what}");
            let types = &self.document["components"]["schemas"]["ProblemType"]["enum"];
            assert!(types.as_array().expect("a list").contains(&problem["type"]), "{what}");
            if ["unknown-route", "method-not-allowed"].contains(&slug.as_str()) {
                return;
            }
        }
        // Fallbacks demand a key as well, whatever the path is.
        let Some(item) = self.item(path) else { return assert!(answer.status >= 400, "{what}") };
        let Some(operation) = item.get(method.as_str().to_lowercase()) else { return };
        let response = &operation["responses"][answer.status.to_string()];
        assert!(response.is_object(), "undocumented: {what}");
        if answer.text.is_empty() {
            return;
        }
        let content_type = content_type.expect("a body has a type");
        let essence = content_type.split(';').next().expect("it has a beginning");
        let documented = response["content"].as_object().expect("it has content");
        let is_documented = documented.keys().any(|known| known.split(';').next() == Some(essence));
        assert!(is_documented, "{what}: {content_type}");
        if let Some(slug) = slug {
            let described = response["description"].as_str().expect("it is described");
            assert!(described.contains(&format!("`{slug}`")), "undocumented: {what}");
        }
    }

    /// The document's item for a path, the one with the fewest parts.
    fn item(&self, path: &str) -> Option<&Value> {
        let paths = self.document["paths"].as_object().expect("an object");
        let fits = |template: &str| match template.split_once('{') {
            None => template == path,
            Some((before, part)) => {
                let (part, after) = part.split_once('}').expect("a part ends");
                let value = path.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
                value.is_some_and(|value| {
                    !value.is_empty() && (part == "path" || !value.contains('/'))
                })
            }
        };
        let mut found: Vec<_> = paths.iter().filter(|(template, _)| fits(template)).collect();
        found.sort_by_key(|(template, _)| template.contains('{'));
        found.first().map(|(_, item)| *item)
    }
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The slug of a problem; else the status.
    #[track_caller]
    pub fn slug(&self) -> String {
        if self.status < 400 {
            return self.status.to_string();
        }
        let kind = self.json()["type"].as_str().expect("a problem has a type").to_owned();
        kind.strip_prefix("/problems/").expect("of ours").to_owned()
    }
}

/// What a door with these keys shares.
pub fn state(keys: Vec<Key>) -> State {
    let config = Config {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        keys,
        publish_bytes_max: PUBLISH_BYTES_MAX,
        batch_bytes_max: BATCH_BYTES_MAX,
    };
    let (metrics, lifecycle) = (Metrics::new().expect("metrics"), Lifecycle::default());
    let metrics = Arc::new(metrics);
    let relay = relay_of(&metrics, &lifecycle);
    State::new(config, relay, metrics, lifecycle)
}

/// A relay with these paths, of one shard and without any session.
fn relay_of(metrics: &Arc<Metrics>, lifecycle: &Lifecycle) -> Arc<Relay> {
    let mut paths = Paths::default();
    for text in ["/", "/ws/a", "/ws/rooms/{room}", "/other"] {
        let pattern = Pattern::parse(text).expect("a pattern");
        paths.add(Configured::new(pattern)).expect("not there yet");
    }
    const MIB: usize = 1 << 20;
    let config = hub::Config {
        shards: 1,
        sessions_max: 10,
        session_age_max: None,
        message_bytes_max: MIB,
        frame_bytes_max: MIB,
        outbox_bytes_max: MIB,
        outbox_total_bytes_max: MIB,
        inbound_total_bytes_max: MIB,
        mailbox_bytes_max: MIB,
        slow_after: Duration::from_secs(10),
        close_timeout: Duration::from_secs(1),
        join_pause: None,
    };
    let pod = PodId(*b"the door");
    let events = Arc::new(Sse::start(lifecycle, metrics.clone()));
    let (stream, _) = Stream::new(1_000, metrics.clone());
    let stream = Arc::new(stream);
    let webhooks = webhook::Config {
        secrets: Vec::new(),
        timeout: Duration::from_secs(10),
        connect_limit: Duration::from_secs(5),
        in_flight: 1,
        connects_in_flight: 1,
        disconnects_in_flight: 1,
        validate: false,
        origin: "pathcast".to_owned(),
        answer_bytes_max: MIB,
    };
    let (webhooks, _) = Webhooks::new(webhooks, 1, metrics.clone(), lifecycle.clone());
    let webhooks = Arc::new(webhooks);
    let (ears, _) = Ears::new(events.clone(), stream.clone(), webhooks.clone(), 1);
    let ears: Arc<dyn Inbound> = Arc::new(ears);
    let hub = Arc::new(Hub::start(pod, config, metrics, &ears).expect("a shard"));
    let presence = Arc::new(Presence::new(hub.shards()));
    let paths = Arc::new(ArcSwap::from_pointee(paths));
    let hearsay = Arc::new(Hearsay::new(events.clone()));
    let upstreams = Arc::new(Upstreams::new(events.clone(), stream, 1, pod));
    upstreams.replace(vec![desk(metrics)]);
    let (taps, _) = Taps::new(events.clone());
    let taps = Arc::new(taps);
    let local = Local {
        retry_within_ms: 1_000,
        hub: hub.clone(),
        presence: presence.clone(),
        metrics: metrics.clone(),
        frame_bytes_max: MIB,
        paths: paths.clone(),
        hearsay: hearsay.clone(),
        taps: taps.clone(),
        upstreams: upstreams.clone(),
    };
    let memory = Memory::new(pod, local);
    drop(memory.seize("feed", 0));
    let parts = Parts {
        broker: Box::new(memory),
        hub,
        presence,
        events,
        webhooks,
        hearsay,
        taps,
        upstreams,
        metrics: metrics.clone(),
        paths,
        lifecycle: lifecycle.clone(),
    };
    let config = relay::Config {
        frame_bytes_max: MIB,
        unicast_timeout: Duration::from_secs(2),
        unready_after: Duration::from_secs(30),
        sessions_soft_max: None,
    };
    Arc::new(Relay::new(config, parts))
}

/// An upstream that is held, but not connected.
fn desk(metrics: &Arc<Metrics>) -> Arc<Desk> {
    let config = desk::Config {
        name: Name::parse("feed").expect("a name"),
        wholemsg: false,
        queue_bytes_max: 1_000,
        frame_bytes_max: 1_000,
        stream: false,
        on_full: OnFull::Backpressure,
        webhook: None,
        patience: Duration::from_millis(10),
    };
    let desk = Desk::new(config, metrics.upstream("feed"), Arc::default());
    desk.open(1);
    Arc::new(desk)
}

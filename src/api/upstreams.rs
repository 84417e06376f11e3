//! Upstreams: what is sent to them, how they are, and what they send.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json, extract};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::HttpMethod;
use utoipa::openapi::content::Content;

use crate::api::auth::{Access, Caller};
use crate::api::call::Call;
use crate::api::problem::{Kind, Problem};
use crate::api::query::Parameters;
use crate::api::{Scope, State, events, publish};
use crate::backend::sse::heard::Topic;
use crate::proto::grant::UPSTREAM;
use crate::proto::msg::Address;
use crate::proto::upstream::Dispatch;
use crate::relay::upstreams::Standing;

const PREFIX: &str = "/v1/upstreams/";

/// What became of a msg for an upstream.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UpstreamDispatch)]
struct Dispatched {
    /// `sent`: it was written to the connection. `queued`: it waits at the pod that holds the
    /// upstream, and goes out in its turn while that pod holds it.
    result: &'static str,
}

/// An upstream that is configured, and how it is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Upstream)]
struct Known {
    name: String,
    /// `connected`; `connecting`; `free`: no pod holds it at the moment; `unknown`: its holder did
    /// not answer.
    state: &'static str,
    /// The pod that holds it.
    #[schema(required = true)]
    holder: Option<String>,
    /// Counts its holders.
    #[schema(required = true)]
    epoch: Option<u64>,
    /// Why the last attempt to connect failed, or the last connection ended; null while connected.
    #[schema(required = true)]
    why: Option<String>,
    /// Null where no pod holds it, or its holder did not answer.
    #[schema(required = true)]
    counts: Option<Counts>,
}

/// Since its holder was started, of that pod alone.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UpstreamCounts)]
struct Counts {
    /// Messages that it sent.
    received: u64,
    /// Messages that were written to it.
    sent: u64,
    /// Messages received or queued that came to nothing.
    lost: u64,
    /// Messages that wait to be sent.
    waiting: u64,
    waiting_bytes: u64,
}

/// The upstreams that the key may touch.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Upstreams)]
struct Listing {
    upstreams: Vec<Known>,
}

pub fn calls() -> Vec<Call> {
    let content = Content::new(Some(events::schema()));
    vec![
        Call::get(
            "/v1/upstreams",
            Access::Scopes(&[Scope::Publish, Scope::Sessions, Scope::Events]),
            list,
            "list_upstreams",
            "List upstreams",
        )
        .describe(
            "Remote WebSocket servers that pathcast is a client of, in the order of the settings.",
        )
        .answers::<Listing>(200, "How each is.")
        .refuses(&[Kind::BadParameter, Kind::Unavailable, Kind::OutcomeUnknown]),
        Call::new(
            HttpMethod::Post,
            "/v1/upstreams/{name}",
            Access::Scopes(&[Scope::Publish]),
            send,
            "send_to_upstream",
            "Send a msg to an upstream",
        )
        .describe("Through the pod that holds it, in the order of the calls.")
        .part("name", "The upstream's name.")
        .takes(&publish::body_types())
        .answers::<Dispatched>(200, "It was written to the connection.")
        .answers::<Dispatched>(202, "It waits to be sent.")
        .refuses(&[Kind::ForbiddenPath, Kind::UnknownUpstream])
        .refuses(publish::BODY_PROBLEMS)
        .refuses(publish::SEND_PROBLEMS),
        Call::get(
            "/v1/upstreams/{name}/events",
            Access::Scopes(&[Scope::Events]),
            listen,
            "listen_to_upstream",
            "Listen to the events of an upstream",
        )
        .describe("Every listener gets everything, at any pod, from now on.")
        .part("name", "The upstream's name.")
        .answers_with(200, "Events, until this pod leaves.", "text/event-stream", content)
        .refuses(&[
            Kind::BadParameter,
            Kind::ForbiddenPath,
            Kind::UnknownUpstream,
            Kind::Unavailable,
        ]),
    ]
}

async fn list(
    extract::State(state): extract::State<State>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<Listing>, Problem> {
    Parameters::parse(request.uri(), &[])?;
    let standings = state.relay.standings(|name| caller.grant.allows_upstream(name)).await?;
    Ok(Json(Listing { upstreams: standings.into_iter().map(Known::from).collect() }))
}

async fn send(
    extract::State(state): extract::State<State>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    Parameters::parse(&parts.uri, &[])?;
    let name = known(&state, &caller, parts.uri.path())?;
    let (msg, _held) = publish::read(&state, &parts.headers, body).await?;
    if msg.session != Address::All {
        let detail = "an upstream has no sessions: leave `_session` out";
        return Err(Problem::new(Kind::BadSession, detail));
    }
    let traceparent = publish::traceparent(&parts.headers);
    let dispatch = state.relay.dispatch(&name, msg.content, traceparent).await?;
    Ok(match dispatch {
        Dispatch::Sent => Json(Dispatched { result: "sent" }).into_response(),
        Dispatch::Queued => {
            (StatusCode::ACCEPTED, Json(Dispatched { result: "queued" })).into_response()
        }
    })
}

async fn listen(
    extract::State(state): extract::State<State>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    Parameters::parse(request.uri(), &[])?;
    let name = known(&state, &caller, request.uri().path())?;
    events::listen(&state, Topic::Configured(name.clone()), name, request.headers()).await
}

/// The upstream that a URL names. Refuses what the caller may not touch before it tells whether that
/// exists.
fn known(state: &State, caller: &Caller, url_path: &str) -> Result<Arc<str>, Problem> {
    let name = url_path.strip_prefix(PREFIX).unwrap_or_default();
    let name = name.split('/').next().unwrap_or_default();
    if !caller.grant.allows_upstream(name) {
        let detail =
            format!("the paths of this key do not cover {UPSTREAM}{name}: use another key");
        return Err(Problem::new(Kind::ForbiddenPath, detail));
    }
    let desk = state.relay.upstreams().named(name);
    desk.map(|desk| desk.config.name.text().clone()).ok_or_else(|| {
        let detail = "no upstream has this name; GET /v1/upstreams tells those that are there";
        Problem::new(Kind::UnknownUpstream, detail)
    })
}

impl From<Standing> for Known {
    fn from(Standing { name, holder, state }: Standing) -> Known {
        let word = match (&holder, &state) {
            (None, _) => "free",
            (Some(_), None) => "unknown",
            (Some(_), Some(state)) if state.is_connected => "connected",
            (Some(_), Some(_)) => "connecting",
        };
        Known {
            name: name.to_string(),
            state: word,
            holder: holder.map(|pod| pod.to_string()),
            epoch: state.as_ref().map(|state| state.epoch),
            why: state.as_ref().and_then(|state| state.why.clone()),
            counts: state.map(|state| Counts {
                received: state.received,
                sent: state.sent,
                lost: state.lost,
                waiting: state.waiting,
                waiting_bytes: state.waiting_bytes,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::api::fixture::Door;

    #[tokio::test]
    async fn upstreams_are_listed_to_whom_they_concern() {
        let listed = Door::keyless().get("/v1/upstreams").await;
        let first = &listed.json()["upstreams"][0];
        assert_eq!((&first["name"], &first["state"]), (&"feed".into(), &"connecting".into()));
        assert_eq!((&first["epoch"], &first["counts"]["sent"]), (&1.into(), &0.into()));
        let headers = [("authorization", "Bearer events")];
        let listed = Door::keyed().ask("GET", "/v1/upstreams", &headers, "").await;
        assert_eq!(listed.json()["upstreams"], serde_json::json!([]));
    }

    #[tokio::test]
    async fn what_cannot_be_sent_at_once_waits_and_what_makes_no_sense_is_refused() {
        let door = Door::keyless();
        let queued = door.post("/v1/upstreams/feed", "text", "hello").await;
        assert_eq!((queued.status, &queued.json()["result"]), (202, &"queued".into()));
        let session = r#"{"payload":1,"_session":{"type":"websocket","id":"x"}}"#;
        for (name, body, slug) in [
            ("feed", session, "bad-session"),
            ("feed", "{}", "nothing-to-send"),
            ("feed", "[]", "not-an-object"),
            ("none", r#"{"payload":1}"#, "unknown-upstream"),
        ] {
            let answer = door.post(&format!("/v1/upstreams/{name}"), "json", body).await;
            assert_eq!(answer.slug(), slug, "{name} {body}");
        }
        let listening = door.get("/v1/upstreams/feed/events").await;
        assert_eq!((listening.status, listening.text.as_str()), (200, ":\n\n"));
        assert_eq!(door.get("/v1/upstreams/none/events").await.slug(), "unknown-upstream");
        let headers = [("authorization", "Bearer events")];
        let answer = Door::keyed().ask("GET", "/v1/upstreams/feed/events", &headers, "").await;
        assert_eq!(answer.slug(), "forbidden-path");
    }
}

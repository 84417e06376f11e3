//! Whether this pod lives, whether it is ready, and what it has counted.
//!
//! Readiness fails fast, liveness slow: a pod that is restarted loses its sessions.

use axum::Json;
use axum::extract;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::content::Content;
use utoipa::openapi::schema::{ObjectBuilder, Type};

use crate::api::auth::Access;
use crate::api::call::Call;
use crate::api::{Scope, State};

/// The text format of Prometheus.
const METRICS_TYPE: &str = "text/plain; version=0.0.4";

/// How a pod does.
#[derive(Debug, Serialize, ToSchema)]
struct Health {
    /// `ok` or `failed`.
    status: &'static str,
    /// What failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    reason: Option<String>,
}

pub fn calls() -> Vec<Call> {
    let text = ObjectBuilder::new().schema_type(Type::String);
    vec![
        Call::get("/livez", Access::Probe, livez, "livez", "Whether this pod lives")
            .describe("Every shard and the API turn. Needs no key.")
            .answers::<Health>(200, "It lives.")
            .answers::<Health>(503, "It has to be restarted."),
        Call::get("/readyz", Access::Probe, readyz, "readyz", "Whether this pod takes sessions")
            .describe("Needs no key.")
            .answers::<Health>(200, "It does.")
            .answers::<Health>(503, "It does not now, and says why."),
        Call::get(
            "/metrics",
            Access::Scopes(&[Scope::Metrics]),
            metrics,
            "metrics",
            "What this pod has counted",
        )
        .answers_with(
            200,
            "Prometheus' text format.",
            METRICS_TYPE,
            Content::new(Some(text)),
        ),
    ]
}

async fn livez(extract::State(state): extract::State<State>) -> Response {
    health(state.relay.liveness())
}

async fn readyz(extract::State(state): extract::State<State>) -> Response {
    health(state.relay.readiness())
}

async fn metrics(extract::State(state): extract::State<State>) -> Response {
    state.relay.note_balance();
    let mut response = state.metrics.encode().into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(METRICS_TYPE));
    response
}

fn health(found: Result<(), String>) -> Response {
    let (code, health) = match found {
        Ok(()) => (StatusCode::OK, Health { status: "ok", reason: None }),
        Err(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, Health { status: "failed", reason: Some(reason) })
        }
    };
    let mut response = (code, Json(health)).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

//! Paths: the configured ones with their settings, the live concrete ones with their counts.

use std::collections::BTreeMap;

use axum::extract::Request;
use axum::{Extension, Json, extract};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::Type;

use crate::api::auth::{Access, Caller};
use crate::api::call::Call;
use crate::api::coverage::Coverage;
use crate::api::problem::{Kind, Problem};
use crate::api::query::Parameters;
use crate::api::{Scope, State};
use crate::proto::paths::Configured;

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// A path that is configured, or live, or both.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KnownPath)]
struct Known {
    /// Its text; of a pattern with its braces.
    path: String,
    /// The text of the configured path that it belongs to.
    configured: String,
    /// How many are on it; of a pattern on all of its concrete paths.
    sessions: u64,
    /// Of configured paths only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    settings: Option<Settings>,
}

/// What a configured path was told to do.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PathSettings)]
struct Settings {
    /// Whether it stands for many concrete paths.
    pattern: bool,
    wholemsg: bool,
    echo: bool,
    /// Null: never.
    #[schema(required = true)]
    heartbeat_ms: Option<u64>,
    /// Null: for ever.
    #[schema(required = true)]
    idle_ms: Option<u64>,
    subprotocols: Vec<String>,
}

/// A part of the paths that there are, by their text.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Paths)]
struct Listing {
    paths: Vec<Known>,
    /// To be given back for the next part; null after the last.
    #[schema(required = true)]
    cursor: Option<String>,
    #[serde(flatten)]
    coverage: Coverage,
}

pub fn calls() -> Vec<Call> {
    let access = Access::Scopes(&[Scope::Publish, Scope::Sessions, Scope::Events]);
    vec![
        Call::get("/v1/paths", access, list, "list_paths", "List paths")
            .describe("Configured paths and live concrete ones that the key may touch, by text.")
            .query("limit", Type::Integer, "How many at most, 1–1000; 100 when not said.")
            .query("cursor", Type::String, "Where the part before this one ended.")
            .answers::<Listing>(200, "Some paths, and where to go on.")
            .refuses(&[Kind::BadParameter])
            .refuses(&[Kind::Overloaded, Kind::Unavailable, Kind::OutcomeUnknown]),
    ]
}

async fn list(
    extract::State(state): extract::State<State>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<Listing>, Problem> {
    let mut parameters = Parameters::parse(request.uri(), &["limit", "cursor"])?;
    let limit = parameters.take_number("limit", LIMIT_DEFAULT, 1, LIMIT_MAX)?;
    let after = parameters.take("cursor").map(|cursor| last_path(&cursor)).transpose()?;
    let mut known = BTreeMap::new();
    for configured in state.relay.paths().iter() {
        let one = Known::from(&**configured);
        known.insert(one.path.clone(), one);
    }
    let census = state.relay.census().await?;
    for live in census.paths {
        let path = live.path.as_str();
        if let Some(configured) = known.get_mut(&*live.configured) {
            configured.sessions += live.sessions;
        }
        let new = || Known {
            path: path.to_owned(),
            configured: live.configured.to_string(),
            sessions: live.sessions,
            settings: None,
        };
        known.entry(path.to_owned()).or_insert_with(new);
    }
    known.retain(|path, _| {
        caller.grant.allows(path) && after.as_ref().is_none_or(|after| path > after)
    });
    let more = known.len() > limit;
    let paths: Vec<_> = known.into_values().take(limit).collect();
    let last = paths.last().filter(|_| more);
    let cursor = last.map(|last| URL_SAFE_NO_PAD.encode(&last.path));
    let coverage = Coverage::new(&census.missing, &caller.grant);
    Ok(Json(Listing { paths, cursor, coverage }))
}

fn last_path(cursor: &str) -> Result<String, Problem> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok();
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(|| {
        let detail = format!("{cursor:?} is no cursor: give back one that a listing gave");
        Problem::new(Kind::BadParameter, detail)
    })
}

impl From<&Configured> for Known {
    fn from(configured: &Configured) -> Known {
        let ms =
            |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let text = configured.pattern.text().to_string();
        Known {
            path: text.clone(),
            configured: text,
            sessions: 0,
            settings: Some(Settings {
                pattern: !configured.pattern.is_exact(),
                wholemsg: configured.wholemsg,
                echo: configured.echo,
                heartbeat_ms: configured.heartbeat.map(ms),
                idle_ms: configured.idle.map(ms),
                subprotocols: configured.subprotocols.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::api::fixture::{Answer, Door};

    fn names(answer: &Answer) -> Vec<String> {
        let paths = answer.json()["paths"].as_array().expect("a list").clone();
        paths.iter().map(|one| one["path"].as_str().expect("text").to_owned()).collect()
    }

    #[tokio::test]
    async fn paths_are_listed_in_parts() {
        let door = Door::keyless();
        let all = door.get("/v1/paths").await;
        assert_eq!(names(&all), ["/", "/other", "/ws/a", "/ws/rooms/{room}"]);
        assert_eq!(all.json()["cursor"], serde_json::Value::Null);
        let pattern = &all.json()["paths"][3];
        assert_eq!(pattern["settings"]["pattern"], true);
        assert_eq!(pattern["settings"]["heartbeat_ms"], 30_000);
        let mut found = Vec::new();
        let mut target = "/v1/paths?limit=3".to_owned();
        loop {
            let page = door.get(&target).await;
            found.extend(names(&page));
            let Some(cursor) = page.json()["cursor"].as_str().map(str::to_owned) else { break };
            target = format!("/v1/paths?limit=3&cursor={cursor}");
        }
        assert_eq!(found, names(&all));
        for bad in ["cursor=%25", "cursor=a", "limit=0", "limit=x", "path=/"] {
            assert_eq!(
                door.get(&format!("/v1/paths?{bad}")).await.slug(),
                "bad-parameter",
                "{bad}"
            );
        }
    }

    #[tokio::test]
    async fn a_key_sees_its_paths_only() {
        let headers = [("authorization", "Bearer events")];
        let answer = Door::keyed().ask("GET", "/v1/paths", &headers, "").await;
        assert_eq!(names(&answer), ["/ws/a", "/ws/rooms/{room}"]);
    }
}

//! All calls on their routes, each behind its door; and what is answered where there is none.

use std::collections::BTreeMap;

use axum::extract::Request;
use axum::routing::MethodRouter;
use axum::{Router, extract, middleware};

use crate::api::auth::Access;
use crate::api::call::Call;
use crate::api::problem::{Kind, Problem};
use crate::api::{
    State, auth, batch, console, events, health, openapi, paths, problem, publish, sessions,
    upstreams,
};

/// Every call there is.
pub fn calls() -> Vec<Call> {
    [
        publish::calls(),
        batch::calls(),
        sessions::calls(),
        paths::calls(),
        events::calls(),
        upstreams::calls(),
        health::calls(),
        openapi::calls(),
        console::calls(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// All calls on their routes, each behind its door.
pub fn router(state: State) -> Router {
    let mut routes = BTreeMap::<&str, MethodRouter<State>>::new();
    for call in calls() {
        let (state, access) = (state.clone(), call.access);
        let admit = move |request, next| auth::admit(state.clone(), access, request, next);
        let handler = call.handler.route_layer(middleware::from_fn(admit));
        let route = routes.remove(call.route).unwrap_or_default();
        routes.insert(call.route, route.merge(handler));
    }
    let mut router = Router::new();
    for (route, handlers) in routes {
        router = router.route(route, handlers.fallback(wrong_method));
    }
    router.fallback(unknown_route).with_state(state).layer(middleware::from_fn(problem::finish))
}

async fn wrong_method(extract::State(state): extract::State<State>, request: Request) -> Problem {
    let (parts, _) = request.into_parts();
    if let Err(problem) = auth::caller(&state.config, Access::Key, &parts) {
        return problem;
    }
    let detail = format!("{} is not for this call; Allow says what is", parts.method);
    Problem::new(Kind::MethodNotAllowed, detail)
}

async fn unknown_route(extract::State(state): extract::State<State>, request: Request) -> Problem {
    let (parts, _) = request.into_parts();
    match auth::caller(&state.config, Access::Key, &parts) {
        Ok(_) => Problem::new(
            Kind::UnknownRoute,
            "there is no such call: GET /openapi.json lists them, and publishing is POST \
             /v1/publish/…",
        ),
        Err(problem) => problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fixture::Door;

    /// What each call is asked with, by the scope that opens it; `-` for any key, `+` for none.
    const CALLS: &[(&str, &str, &str)] = &[
        ("POST", "/v1/publish/ws/a", "publish"),
        ("POST", "/v1/publish/", "publish"),
        ("POST", "/v1/publish", "publish"),
        ("GET", "/v1/sessions", "sessions"),
        ("GET", "/v1/sessions/x", "sessions"),
        ("POST", "/v1/sessions/x", "publish"),
        ("DELETE", "/v1/sessions/x", "sessions"),
        ("GET", "/v1/paths", "publish sessions events"),
        ("GET", "/v1/events/ws/a", "events"),
        ("GET", "/v1/events/", "events"),
        ("GET", "/v1/upstreams", "publish sessions events"),
        ("POST", "/v1/upstreams/feed", "publish"),
        ("GET", "/v1/upstreams/feed/events", "events"),
        ("GET", "/metrics", "metrics"),
        ("GET", "/openapi.json", "-"),
        ("GET", "/", "+"),
        ("GET", "/livez", "+"),
        ("GET", "/readyz", "+"),
    ];

    #[tokio::test]
    async fn a_call_is_open_to_its_scopes_and_to_nobody_else() {
        let door = Door::keyed();
        assert_eq!(CALLS.len(), calls().len());
        for &(method, target, opened_by) in CALLS {
            for token in ["publish", "sessions", "events", "metrics", "admin", "nonsense", ""] {
                let authorization = format!("Bearer {token}");
                let headers = [("authorization", authorization.as_str()), ("host", "any.example")];
                let slug = door.ask(method, target, &headers, "").await.slug();
                let refused = match slug.as_str() {
                    "unauthorized" | "forbidden-scope" => Some(slug.as_str()),
                    _ => None,
                };
                let is_key = !token.is_empty() && token != "nonsense";
                let expected = match opened_by {
                    "+" => None,
                    _ if !is_key => Some("unauthorized"),
                    "-" => None,
                    scopes if token == "admin" || scopes.contains(token) => None,
                    _ => Some("forbidden-scope"),
                };
                assert_eq!(refused, expected, "{method} {target} {token}");
            }
        }
    }

    #[tokio::test]
    async fn without_keys_a_foreign_page_gets_nowhere() {
        let door = Door::keyless();
        for &(method, target, opened_by) in CALLS {
            let is_probe = opened_by == "+" && target != "/";
            for (headers, expected) in [
                (&[("host", "evil.example")][..], "forbidden-host"),
                (&[("origin", "http://evil.example")][..], "forbidden-origin"),
                (&[("origin", "null")][..], "forbidden-origin"),
            ] {
                let slug = door.ask(method, target, headers, "").await.slug();
                assert_eq!(slug == expected, !is_probe, "{method} {target} {slug}");
            }
            let own = [("origin", "http://localhost:8081")];
            let slug = door.ask(method, target, &own, "").await.slug();
            assert!(!slug.starts_with("forbidden"), "{method} {target} {slug}");
        }
        for target in ["/nowhere", "/v1/publish/ws/a"] {
            let slug = door.ask("PATCH", target, &[("host", "evil.example")], "").await.slug();
            assert_eq!(slug, "forbidden-host");
        }
    }

    #[tokio::test]
    async fn what_is_not_there_says_so() {
        let door = Door::keyless();
        for target in ["/v1", "/v1/", "/v2/publish", "/v1/sessions/", "/v1/sessions/a/b", "/Livez"]
        {
            assert_eq!(door.get(target).await.slug(), "unknown-route", "{target}");
        }
        for (method, target, allowed) in [
            ("GET", "/v1/publish/ws/a", "POST"),
            ("OPTIONS", "/v1/publish", "POST"),
            ("POST", "/livez", "GET,HEAD"),
            ("PUT", "/v1/sessions/x", "POST,GET,HEAD,DELETE"),
            ("POST", "/", "GET,HEAD"),
        ] {
            let answer = door.ask(method, target, &[], "").await;
            assert_eq!(answer.slug(), "method-not-allowed", "{method} {target}");
            let sorted = |list: &str| {
                let mut methods: Vec<_> = list.split(',').map(str::to_owned).collect();
                methods.sort();
                methods
            };
            let allow = answer.headers["allow"].to_str().expect("text");
            assert_eq!(sorted(allow), sorted(allowed), "{method} {target}");
            assert!(!answer.headers.contains_key("access-control-allow-origin"));
        }
        let keyed = Door::keyed();
        assert_eq!(keyed.get("/nowhere").await.slug(), "unauthorized");
    }

    #[tokio::test]
    async fn health_metrics_and_document_answer() {
        let door = Door::keyless();
        assert_eq!(door.get("/livez").await.json()["status"], "ok");
        assert_eq!(door.get("/readyz?verbose").await.json()["status"], "ok");
        let metrics = door.get("/metrics").await;
        assert_eq!(metrics.headers["content-type"], "text/plain; version=0.0.4");
        assert!(door.get("/").await.text.starts_with("<!doctype html>"));
        let head = door.ask("HEAD", "/v1/paths", &[], "").await;
        assert_eq!((head.status, head.text.as_str()), (200, ""));
    }
}

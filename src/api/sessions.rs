//! Sessions: listing them, looking one up, sending to it, closing it.
//!
//! A session that the key may not touch is answered like one that is gone: whether an id exists is
//! nobody's business who could not use it.

use axum::extract::Request;
use axum::{Extension, Json, extract};
use http::Uri;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use utoipa::ToSchema;
use utoipa::openapi::HttpMethod;
use utoipa::openapi::schema::Type;

use crate::api::auth::{Access, Caller};
use crate::api::call::Call;
use crate::api::coverage::Coverage;
use crate::api::problem::{Kind, Problem};
use crate::api::publish::{Delivered, address};
use crate::api::query::Parameters;
use crate::api::{Scope, State, publish};
use crate::proto::ask::{Reach, SessionInfo};
use crate::proto::close::{self, Close};
use crate::proto::msg::Address;
use crate::proto::session_id::SessionId;
use crate::relay::Refusal;
use crate::relay::listing::Query;

const ROUTE: &str = "/v1/sessions";
const ROUTE_ONE: &str = "/v1/sessions/{id}";

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// The close code when none is asked for: the first of those free for applications (RFC 6455,
/// 7.4.2).
const CODE_DEFAULT: usize = 4000;

/// RFC 3339 with milliseconds, UTC.
const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// One client's open connection.
#[derive(Debug, Serialize, ToSchema)]
struct Session {
    id: String,
    /// The concrete path it opened.
    path: String,
    /// The pod that holds it.
    pod: String,
    /// Since when: RFC 3339, UTC, milliseconds.
    opened: String,
    /// Where it comes from: `address:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    remote: Option<String>,
    /// The WebSocket subprotocol that was agreed on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    subprotocol: Option<String>,
}

/// A part of the sessions that there are.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Sessions)]
struct Listing {
    sessions: Vec<Session>,
    /// To be given back for the next part; null after the last.
    #[schema(required = true)]
    cursor: Option<String>,
    #[serde(flatten)]
    coverage: Coverage,
}

/// A session was closed.
#[derive(Debug, Serialize, ToSchema)]
struct Closed {
    /// `closed`.
    result: &'static str,
}

pub fn calls() -> Vec<Call> {
    let read = Access::Scopes(&[Scope::Sessions]);
    vec![
        Call::get(ROUTE, read, list, "list_sessions", "List sessions")
            .describe("A session that is open during the whole walk appears exactly once.")
            .query("path", Type::String, "Only of this path, concrete or configured.")
            .query("limit", Type::Integer, "How many at most, 1–1000; 100 when not said.")
            .query("cursor", Type::String, "Where the part before this one ended.")
            .answers::<Listing>(200, "Some sessions, and where to go on.")
            .refuses(&[Kind::BadParameter, Kind::ForbiddenPath, Kind::UnknownPath])
            .refuses(&[Kind::Overloaded, Kind::Unavailable, Kind::OutcomeUnknown]),
        Call::get(ROUTE_ONE, read, look_up, "get_session", "Look one session up")
            .part("id", "The session's id.")
            .answers::<Session>(200, "It is open.")
            .refuses(&[Kind::BadParameter])
            .refuses(publish::SEND_PROBLEMS),
        Call::new(
            HttpMethod::Post,
            ROUTE_ONE,
            Access::Scopes(&[Scope::Publish]),
            send,
            "send_to_session",
            "Send a msg to one session",
        )
        .describe("Its path's `wholemsg` says what becomes of the msg.")
        .part("id", "The session's id.")
        .takes(&publish::body_types())
        .answers::<Delivered>(200, "The session has it, or its outbox.")
        .refuses(publish::BODY_PROBLEMS)
        .refuses(publish::SEND_PROBLEMS),
        Call::new(HttpMethod::Delete, ROUTE_ONE, read, kick, "close_session", "Close one session")
            .part("id", "The session's id.")
            .query("code", Type::Integer, "1000, 1008 or 4000–4999; 4000 when not said.")
            .query("reason", Type::String, "At most 123 bytes, for the client.")
            .answers::<Closed>(200, "It was told to go.")
            .refuses(&[Kind::BadParameter])
            .refuses(publish::SEND_PROBLEMS),
    ]
}

async fn list(
    extract::State(state): extract::State<State>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<Listing>, Problem> {
    let mut parameters = Parameters::parse(request.uri(), &["path", "limit", "cursor"])?;
    let limit = parameters.take_number("limit", LIMIT_DEFAULT, 1, LIMIT_MAX)?;
    let after = match parameters.take("cursor") {
        Some(cursor) => Some(SessionId::parse(&cursor).ok_or_else(|| bad_cursor(&cursor))?),
        None => None,
    };
    let path = parameters.take("path");
    if let Some(path) = &path {
        caller.may_touch(path)?;
        let paths = state.relay.paths();
        if paths.named(path).is_none() && paths.resolve(path).is_none() {
            return Err(publish::unknown(&paths, &caller, path));
        }
    }
    let query = Query { path, after, limit, grant: caller.grant.clone() };
    let page = state.relay.list(query).await?;
    Ok(Json(Listing {
        sessions: page.sessions.into_iter().map(Session::from).collect(),
        cursor: page.cursor.map(|cursor| cursor.to_string()),
        coverage: Coverage::new(&page.missing, &caller.grant),
    }))
}

async fn look_up(
    extract::State(state): extract::State<State>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<Session>, Problem> {
    Parameters::parse(request.uri(), &[])?;
    let id = SessionId::parse(named(request.uri())).ok_or(Refusal::Gone)?;
    Ok(Json(state.relay.look_up(id, caller.grant).await?.into()))
}

async fn send(
    extract::State(state): extract::State<State>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<Delivered>, Problem> {
    let (parts, body) = request.into_parts();
    Parameters::parse(&parts.uri, &[])?;
    let (mut msg, _held) = publish::read(&state, &parts.headers, body).await?;
    address(&mut msg, named(&parts.uri).to_owned(), "the URL")?;
    let Address::One(id) = msg.session else { return Err(Refusal::Gone.into()) };
    let id = SessionId::parse(&id).ok_or(Refusal::Gone)?;
    state.relay.room().await?;
    let traceparent = publish::traceparent(&parts.headers);
    state.relay.unicast(id, Reach::Granted(caller.grant), msg.content, traceparent).await?;
    Ok(Json(Delivered::YES))
}

async fn kick(
    extract::State(state): extract::State<State>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<Closed>, Problem> {
    let mut parameters = Parameters::parse(request.uri(), &["code", "reason"])?;
    let code = parameters.take_number("code", CODE_DEFAULT, 0, usize::from(u16::MAX))?;
    let code = u16::try_from(code).ok().filter(|&code| close::is_kickable(code));
    let refused = |detail: &str| Problem::new(Kind::BadParameter, detail);
    let code = code.ok_or_else(|| refused("code is 1000, 1008 or 4000–4999"))?;
    let reason = parameters.take("reason").unwrap_or_default();
    if reason.len() > close::REASON_BYTES_MAX {
        return Err(refused("reason has at most 123 bytes"));
    }
    let id = SessionId::parse(named(request.uri())).ok_or(Refusal::Gone)?;
    state.relay.close(id, caller.grant, Close::new(code, reason)).await?;
    Ok(Json(Closed { result: "closed" }))
}

/// The id in the URL, raw: an id has no character that would need encoding.
fn named(uri: &Uri) -> &str {
    uri.path().rsplit('/').next().unwrap_or_default()
}

fn bad_cursor(cursor: &str) -> Problem {
    let detail = format!("{cursor:?} is no cursor: give back one that a listing gave");
    Problem::new(Kind::BadParameter, detail)
}

impl From<SessionInfo> for Session {
    fn from(info: SessionInfo) -> Session {
        Session {
            id: info.id.to_string(),
            path: info.path.to_string(),
            pod: info.id.pod.to_string(),
            opened: rfc3339(info.opened_ms),
            remote: info.remote.map(|remote| remote.to_string()),
            subprotocol: info.subprotocol,
        }
    }
}

/// Unix milliseconds as text. A time that no calendar holds is told as the epoch.
fn rfc3339(unix_ms: u64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000);
    time.unwrap_or(OffsetDateTime::UNIX_EPOCH).format(TIME).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fixture::Door;

    #[track_caller]
    fn time(unix_ms: u64, expected: &str) {
        assert_eq!(rfc3339(unix_ms), expected);
    }

    #[test]
    fn times_have_milliseconds() {
        time(0, "1970-01-01T00:00:00.000Z");
        time(1_700_000_000_007, "2023-11-14T22:13:20.007Z");
        time(u64::MAX, "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_session_is_told_with_its_pod() {
        let info = SessionInfo {
            id: SessionId::MIN,
            path: crate::proto::path::Path::parse("/ws").expect("a path"),
            opened_ms: 0,
            remote: None,
            subprotocol: None,
        };
        let told = serde_json::to_value(Session::from(info)).expect("strings only");
        assert_eq!(told["id"], "a".repeat(40));
        assert_eq!(told["pod"], "a".repeat(13));
        assert!(told.get("remote").is_none());
    }
    async fn check(method: &str, target: &str, body: &'static str, expected: &str) {
        let headers = [("content-type", "application/json")];
        let answer = Door::keyless().ask(method, target, &headers, body).await;
        assert_eq!(answer.slug(), expected, "{method} {target} {body}: {}", answer.text);
    }

    #[tokio::test]
    async fn an_id_that_is_none_of_ours_is_gone() {
        for id in ["x", "%61", &"a".repeat(40), &"A".repeat(40), &"x".repeat(5000)] {
            let target = format!("/v1/sessions/{id}");
            check("GET", &target, "", "session-gone").await;
            check("DELETE", &target, "", "session-gone").await;
            check("POST", &target, r#"{"payload":1}"#, "session-gone").await;
        }
    }

    #[tokio::test]
    async fn what_is_wrong_with_the_request_is_told_before() {
        check("GET", "/v1/sessions/x?a=b", "", "bad-parameter").await;
        check("POST", "/v1/sessions/x?session=x", "{}", "bad-parameter").await;
        check("POST", "/v1/sessions/x", "{", "not-json").await;
        check("POST", "/v1/sessions/x", "[]", "not-an-object").await;
        // Whether that is nothing to send, its owner would know.
        check("POST", "/v1/sessions/x", "{}", "session-gone").await;
        let other = r#"{"payload":1,"_session":{"type":"websocket","id":"y"}}"#;
        check("POST", "/v1/sessions/x", other, "session-mismatch").await;
        check("POST", "/v1/sessions/y", other, "session-gone").await;
    }

    #[tokio::test]
    async fn a_close_has_a_code_that_is_free_and_a_reason_that_fits() {
        for code in ["1000", "1008", "4000", "4999"] {
            let target = format!("/v1/sessions/x?code={code}&reason=bye%20now");
            check("DELETE", &target, "", "session-gone").await;
        }
        for code in ["", "0", "999", "1001", "1006", "3000", "5000", "69536", "1e3", "-1"] {
            let target = format!("/v1/sessions/x?code={code}");
            check("DELETE", &target, "", "bad-parameter").await;
        }
        let reason = |text: &str, count| format!("/v1/sessions/x?reason={}", text.repeat(count));
        check("DELETE", &reason("x", 123), "", "session-gone").await;
        check("DELETE", &reason("x", 124), "", "bad-parameter").await;
        check("DELETE", &reason("%C3%A9", 62), "", "bad-parameter").await;
    }

    #[tokio::test]
    async fn a_listing_tells_where_to_go_on_and_who_is_missing() {
        let door = Door::keyless();
        let listing = door.get("/v1/sessions?path=/ws/rooms/{room}&limit=1").await.json();
        let expected =
            r#"{"sessions":[],"cursor":null,"complete":true,"missing":[],"missing_sessions":0}"#;
        assert_eq!(listing.to_string(), expected);
        let cursor = SessionId::MIN;
        for (query, expected) in [
            (format!("path=/ws/rooms/1&limit=1000&cursor={cursor}"), "200"),
            ("path=/nowhere".to_owned(), "unknown-path"),
            ("path=".to_owned(), "unknown-path"),
            ("limit=1001".to_owned(), "bad-parameter"),
            ("limit=0".to_owned(), "bad-parameter"),
            ("cursor=x".to_owned(), "bad-parameter"),
            ("page=2".to_owned(), "bad-parameter"),
        ] {
            let answer = door.get(&format!("/v1/sessions?{query}")).await;
            assert_eq!(answer.slug(), expected, "{query}");
        }
        let headers = [("authorization", "Bearer sessions")];
        let answer = Door::keyed().ask("GET", "/v1/sessions?path=/other", &headers, "").await;
        assert_eq!(answer.slug(), "forbidden-path");
    }
}

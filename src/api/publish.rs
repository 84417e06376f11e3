//! Publishing one msg to a path: to all of its sessions, or to the one that the msg names.

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json, extract};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::HttpMethod;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};

use crate::api::auth::{Access, Caller};
use crate::api::body::{Form, Whole};
use crate::api::call::Call;
use crate::api::problem::{Kind, Problem};
use crate::api::query::Parameters;
use crate::api::{Scope, State, body};
use crate::proto::ask::Reach;
use crate::proto::msg::{Address, Msg};
use crate::proto::path::Path;
use crate::proto::paths::{Configured, Paths};
use crate::proto::session_id::SessionId;
use crate::proto::traceparent::Traceparent;
use crate::relay::{Receipt, Refusal};

const PREFIX: &str = "/v1/publish";

const HINT: &str = r#"curl --json '{"payload":"hi"}' http://…/v1/publish/ws"#;

/// The forms of a body that is one msg.
pub const FORMS: &[Form] = &[Form::Json, Form::Text, Form::Binary];

/// What a body that is one msg may be refused for.
pub const BODY_PROBLEMS: &[Kind] = &[
    Kind::NotJson,
    Kind::NotAnObject,
    Kind::NotUtf8,
    Kind::BadParameter,
    Kind::UnreadableBody,
    Kind::BodyTimeout,
    Kind::TooBig,
    Kind::UnsupportedType,
    Kind::BadSession,
    Kind::SessionMismatch,
    Kind::BadBuffer,
    Kind::NothingToSend,
];

/// What sending may end in.
pub const SEND_PROBLEMS: &[Kind] = &[
    Kind::SessionGone,
    Kind::OutboxFull,
    Kind::Overloaded,
    Kind::Unavailable,
    Kind::OutcomeUnknown,
];

/// A broadcast was taken.
#[derive(Debug, Serialize, ToSchema)]
pub struct Accepted {
    /// Names the message; a UUID of version 7.
    id: String,
    /// Subscriptions that got it: a hint, 0 when nobody is there.
    receivers: u64,
    /// What to look at when nobody is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    hint: Option<String>,
}

/// A unicast was put on the socket, or into the outbox of an open session.
#[derive(Debug, Serialize, ToSchema)]
pub struct Delivered {
    /// `delivered`.
    result: &'static str,
}

impl Delivered {
    pub const YES: Delivered = Delivered { result: "delivered" };
}

pub fn calls() -> Vec<Call> {
    let call = |route| {
        Call::new(
            HttpMethod::Post,
            route,
            Access::Scopes(&[Scope::Publish]),
            publish,
            if route == PREFIX_ROOT { "publish_root" } else { "publish" },
            "Publish a msg to a path",
        )
        .describe(
            "To every session of the concrete path, or to the one that `_session` (or `session`) \
             names. The path is the raw rest of the URL: nothing is decoded.",
        )
        .query("session", Type::String, "The id of one session: send to that one only.")
        .takes(&body_types())
        .answers::<Accepted>(202, "The broadcast was taken.")
        .answers::<Delivered>(200, "The session has it, or its outbox.")
        .refuses(&[Kind::ForbiddenPath, Kind::UnknownPath])
        .refuses(BODY_PROBLEMS)
        .refuses(SEND_PROBLEMS)
    };
    // axum's wildcard is never empty, and a path may well be `/`.
    vec![
        call("/v1/publish/{*path}").part("path", "The concrete path, without its first slash."),
        call(PREFIX_ROOT),
    ]
}

const PREFIX_ROOT: &str = "/v1/publish/";

/// What a body that is one msg looks like, by its content type.
pub fn body_types() -> [(&'static str, Schema); 3] {
    let text = ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some("The payload: a text frame."))
        .build();
    let binary = ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))
        .description(Some("The payload: a binary frame."))
        .build();
    [
        (Form::Json.as_str(), msg_schema()),
        (Form::Text.as_str(), text.into()),
        (Form::Binary.as_str(), binary.into()),
    ]
}

pub fn msg_schema() -> Schema {
    let session = ObjectBuilder::new()
        .schema_type(schema_or_null(Type::Object))
        .description(Some("Absent or null: every session of the path. Else that one."))
        .property(
            "type",
            ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["websocket"])),
        )
        .property("id", ObjectBuilder::new().schema_type(Type::String))
        .required("type")
        .required("id");
    let payload = ObjectBuilder::new().schema_type(utoipa::openapi::schema::SchemaType::AnyValue);
    ObjectBuilder::new()
        .description(Some(
            "The msg. A string payload becomes a text frame as it is, \
             {\"type\":\"Buffer\",\"data\":…} a binary frame, anything else its JSON as text.",
        ))
        .property("payload", payload)
        .property("_session", session)
        .build()
        .into()
}

fn schema_or_null(kind: Type) -> utoipa::openapi::schema::SchemaType {
    utoipa::openapi::schema::SchemaType::from_iter([kind, Type::Null])
}

async fn publish(
    extract::State(state): extract::State<State>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let raw = parts.uri.path().strip_prefix(PREFIX).unwrap_or_default();
    let mut parameters = Parameters::parse(&parts.uri, &["session"])?;
    let target = Target::resolve(&state.relay.paths(), &caller, raw)?;
    let (mut msg, _held) = read(&state, &parts.headers, body).await?;
    let traceparent = traceparent(&parts.headers);
    if let Some(id) = parameters.take("session") {
        address(&mut msg, id, "?session=")?;
    }
    target.check(&msg)?;
    state.relay.room().await?;
    Ok(match msg.session {
        Address::All => {
            let receipt =
                state.relay.publish(target.path.clone(), msg.content, traceparent).await?;
            let accepted = accepted(&state, &caller, &target.path, receipt);
            (StatusCode::ACCEPTED, Json(accepted)).into_response()
        }
        Address::One(id) => {
            let id = SessionId::parse(&id).ok_or(Refusal::Gone)?;
            state.relay.unicast(id, Reach::Path(target.path), msg.content, traceparent).await?;
            Json(Delivered::YES).into_response()
        }
    })
}

/// Reads a body that is one msg. What comes beside it counts it until it is dropped.
pub async fn read(
    state: &State,
    headers: &HeaderMap,
    body: axum::body::Body,
) -> Result<(Msg, Whole), Problem> {
    let form = body::form(headers, FORMS, HINT)?;
    let bytes_max = state.config.publish_bytes_max;
    let whole = body::whole(body, headers, &state.bodies, bytes_max, "publish_bytes_max").await?;
    let msg = body::msg(form, whole.bytes.clone())?;
    Ok((msg, whole))
}

/// Whose call a request belongs to. What is malformed, or there twice, is as if it were not there
/// (W3C Trace Context, 3.2.2 and 4.3).
pub fn traceparent(headers: &HeaderMap) -> Option<Traceparent> {
    let mut values = headers.get_all("traceparent").iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    Traceparent::parse(value.to_str().ok()?)
}

/// Gives a msg the session that the URL names, unless it names another one itself.
pub fn address(msg: &mut Msg, id: String, place: &str) -> Result<(), Problem> {
    if let Address::One(own) = &msg.session
        && *own != id
    {
        let detail = format!("the msg's _session is not that of {place}: leave one of them out");
        return Err(Problem::new(Kind::SessionMismatch, detail));
    }
    msg.session = Address::One(id);
    Ok(())
}

/// Where a msg goes.
pub struct Target {
    pub path: Path,
    wholemsg: bool,
}

impl Target {
    /// Refuses what the caller may not touch before it tells whether that exists.
    pub fn resolve(paths: &Paths, caller: &Caller, raw: &str) -> Result<Target, Problem> {
        caller.may_touch(raw)?;
        match paths.resolve(raw) {
            Some((path, configured)) => Ok(Target { path, wholemsg: configured.wholemsg }),
            None => Err(unknown(paths, caller, raw)),
        }
    }

    /// Whether there is something to send on this path.
    pub fn check(&self, msg: &Msg) -> Result<(), Problem> {
        match msg.content.is_nothing(self.wholemsg) {
            false => Ok(()),
            true => Err(Refusal::Nothing.into()),
        }
    }
}

/// A path that is not configured, with those that are, as far as the caller may know them.
pub fn unknown(paths: &Paths, caller: &Caller, raw: &str) -> Problem {
    const NAMED_MAX: usize = 5;
    let text = |one: &Configured| one.pattern.text().clone();
    let granted: Vec<_> =
        paths.iter().map(|one| text(one)).filter(|text| caller.grant.allows(text)).collect();
    let named = granted[..granted.len().min(NAMED_MAX)].join(", ");
    let known = match granted.len() {
        // Its globs may well cover some concrete paths of a pattern.
        0 => "this key covers no configured path as a whole".to_owned(),
        count if count > NAMED_MAX => {
            format!("configured are {named} and {} more", count - NAMED_MAX)
        }
        _ => format!("configured are {named}"),
    };
    let raw: String = raw.chars().take(200).collect();
    let detail = format!("{raw:?} is not configured (the case and every slash count); {known}");
    Problem::new(Kind::UnknownPath, detail)
}

/// The answer to a broadcast; with a hint when nobody was there.
pub fn accepted(state: &State, caller: &Caller, path: &Path, receipt: Receipt) -> Accepted {
    let hint = (receipt.receivers == 0).then(|| {
        match state.relay.nearest(path, |near| caller.grant.allows(near.path.as_str())) {
            Some(nearest) => format!(
                "nobody is on {path}; the nearest path with clients is {} ({})",
                nearest.path, nearest.sessions
            ),
            None => format!("nobody is on {path}"),
        }
    });
    Accepted { id: receipt.id.to_string(), receivers: receipt.receivers, hint }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fixture::{Door, PUBLISH_BYTES_MAX};

    async fn check(target: &str, content_type: &str, body: impl Into<Vec<u8>>, expected: &str) {
        let body = body.into();
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let answer = Door::keyless().post(target, content_type, body).await;
        assert_eq!(answer.slug(), expected, "{target} {content_type} {shown}: {}", answer.text);
    }

    #[tokio::test]
    async fn a_broadcast_that_nobody_hears_is_taken_and_says_so() {
        let answer = Door::keyless().post("/v1/publish/ws/a", "json", r#"{"payload":1}"#).await;
        let told = answer.json();
        assert_eq!(answer.status, 202);
        assert_eq!(told["receivers"], 0);
        assert!(told["id"].as_str().is_some_and(|id| id.len() == 36));
        assert!(told["hint"].as_str().is_some_and(|hint| hint.contains("/ws/a")), "{told}");
    }

    #[test]
    fn an_unknown_path_tells_what_the_key_may_know() {
        let mut paths = Paths::default();
        for text in ["/rooms/{room}", "/other"] {
            let pattern = crate::proto::paths::Pattern::parse(text).expect("a pattern");
            paths.add(Configured::new(pattern)).expect("not there yet");
        }
        let check = |glob: &str, told: &str| {
            let glob = crate::proto::grant::Glob::parse(glob).expect("a glob");
            let caller = Caller { grant: crate::proto::grant::Grant::Globs([glob].into()) };
            let problem = unknown(&paths, &caller, "/rooms/7/").written(String::new());
            let detail = serde_json::to_value(problem).expect("strings only")["detail"].to_string();
            assert!(detail.ends_with(&format!("; {told}\"")), "{detail}");
        };
        check("/rooms/*", "configured are /rooms/{room}");
        check("**", "configured are /rooms/{room}, /other");
        check("/rooms/7*", "this key covers no configured path as a whole");
    }

    #[tokio::test]
    async fn a_path_is_the_raw_rest_of_the_url() {
        for good in ["/ws/a", "/", "/ws/rooms/1", "/ws/rooms/a%2Fb", "/ws/rooms/%C3%A9", "/other"] {
            check(&format!("/v1/publish{good}"), "text", "x", "202").await;
        }
        for bad in ["/ws/A", "/ws/a/", "/ws%2Fa", "//", "/ws/rooms/", "/ws/rooms/{room}", "/ws/%61"]
        {
            check(&format!("/v1/publish{bad}"), "text", "x", "unknown-path").await;
        }
        let long = format!("/v1/publish/{}", "x".repeat(3000));
        let answer = Door::keyless().post(&long, "text", "x").await;
        assert_eq!(answer.slug(), "unknown-path");
        let detail = answer.json()["detail"].as_str().expect("text").to_owned();
        assert!(detail.len() < 400 && detail.contains("/ws/rooms/{room}"), "{detail}");
    }

    #[tokio::test]
    async fn the_content_type_decides() {
        let path = "/v1/publish/ws/a";
        check(path, "json", r#"{"payload":"x"}"#, "202").await;
        check(path, "application/json; charset=utf-8", r#"{"payload":"x"}"#, "202").await;
        check(path, "text", "{", "202").await;
        check(path, "binary", b"\xff\x00".to_vec(), "202").await;
        check(path, "text; charset=latin1", "x", "unsupported-type").await;
        check(path, "application/x-www-form-urlencoded", "x", "unsupported-type").await;
        check(path, "ndjson", "{}", "unsupported-type").await;
        let answer = Door::keyless().ask("POST", path, &[], "{}").await;
        assert_eq!((answer.status, answer.slug().as_str()), (415, "unsupported-type"));
        assert!(answer.text.contains("curl --json"), "{}", answer.text);
    }

    #[tokio::test]
    async fn a_bad_body_is_refused() {
        let path = "/v1/publish/ws/a";
        check(path, "json", "", "not-json").await;
        check(path, "json", "{\"payload\":", "not-json").await;
        check(path, "json", b"{\"payload\":\"\xff\"}".to_vec(), "not-json").await;
        check(path, "json", "[1]", "not-an-object").await;
        check(path, "json", "null", "not-an-object").await;
        check(path, "text", b"\xff".to_vec(), "not-utf8").await;
        check(path, "text", "", "nothing-to-send").await;
        check(path, "json", "{}", "nothing-to-send").await;
        check(path, "json", r#"{"payload":""}"#, "nothing-to-send").await;
        check(path, "json", r#"{"payload":{"type":"Buffer","data":7}}"#, "bad-buffer").await;
        check(path, "json", r#"{"payload":1,"_session":"x"}"#, "bad-session").await;
        check(path, "json", r#"{"payload":1,"_session":{}}"#, "bad-session").await;
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_and_one_of_the_limit_is_not() {
        let path = "/v1/publish/ws/a";
        check(path, "text", "x".repeat(PUBLISH_BYTES_MAX), "202").await;
        check(path, "text", "x".repeat(PUBLISH_BYTES_MAX + 1), "too-big").await;
        let announced =
            [("content-type", "text/plain"), ("content-length", "99999999999999999999")];
        let answer = Door::keyless().ask("POST", path, &announced, "x").await;
        assert_eq!(answer.slug(), "202", "a length that is none is hyper's to refuse");
        let announced = [("content-type", "text/plain"), ("content-length", "1001")];
        let answer = Door::keyless().ask("POST", path, &announced, "x").await;
        assert_eq!(answer.slug(), "too-big");
        assert!(answer.text.contains("publish_bytes_max") && answer.text.contains("1000"));
    }

    #[tokio::test]
    async fn a_session_may_be_named_in_the_msg_or_in_the_url() {
        let id = SessionId::MIN.to_string();
        let msg =
            |id: &str| format!(r#"{{"payload":1,"_session":{{"type":"websocket","id":"{id}"}}}}"#);
        let path = "/v1/publish/ws/a";
        let one = format!("{path}?session={id}");
        check(path, "json", msg(&id), "session-gone").await;
        check(path, "json", msg("nobody's"), "session-gone").await;
        check(path, "json", r#"{"payload":1,"_session":null}"#, "202").await;
        check(&one, "text", "x", "session-gone").await;
        check(&one, "json", msg(&id), "session-gone").await;
        check(&one, "json", r#"{"payload":1}"#, "session-gone").await;
        check(&one, "json", msg("nobody's"), "session-mismatch").await;
        check(&one, "text", "", "nothing-to-send").await;
        check(&format!("{path}?session="), "text", "x", "session-gone").await;
        check(&format!("{path}?sessoin={id}"), "text", "x", "bad-parameter").await;
        check(&format!("{one}&session={id}"), "text", "x", "bad-parameter").await;
    }

    #[tokio::test]
    async fn a_key_publishes_to_its_paths_only() {
        let door = Door::keyed();
        let headers = [("authorization", "Bearer publish"), ("content-type", "text/plain")];
        for (path, expected) in [
            ("/ws/a", "202"),
            ("/ws/rooms/1", "202"),
            ("/ws/none", "unknown-path"),
            ("/other", "forbidden-path"),
            ("/", "forbidden-path"),
            ("/none", "forbidden-path"),
        ] {
            let answer = door.ask("POST", &format!("/v1/publish{path}"), &headers, "x").await;
            assert_eq!(answer.slug(), expected, "{path}");
            if expected == "unknown-path" {
                assert!(!answer.text.contains("/other"), "a path that the key may not know");
            }
        }
    }
}

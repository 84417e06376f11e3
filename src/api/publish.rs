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
use crate::proto::msg::{Address, Msg};
use crate::proto::path::Path;
use crate::proto::paths::{Configured, Paths};
use crate::proto::session_id::SessionId;
use crate::proto::ask::Reach;
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
    if let Some(id) = parameters.take("session") {
        address(&mut msg, id, "?session=")?;
    }
    target.check(&msg)?;
    state.relay.room().await?;
    Ok(match msg.session {
        Address::All => {
            let receipt = state.relay.publish(target.path.clone(), msg.content).await?;
            let accepted = accepted(&state, &caller, &target.path, receipt);
            (StatusCode::ACCEPTED, Json(accepted)).into_response()
        }
        Address::One(id) => {
            let id = SessionId::parse(&id).ok_or(Refusal::Gone)?;
            state.relay.unicast(id, Reach::Path(target.path), msg.content).await?;
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
        match msg.content.frame(self.wholemsg) {
            Some(_) => Ok(()),
            None => Err(Refusal::Nothing.into()),
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
        0 => "no path that this key may touch is".to_owned(),
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
        let nearest = state.relay.nearest(path);
        match nearest.filter(|nearest| caller.grant.allows(nearest.path.as_str())) {
            Some(nearest) => format!(
                "nobody is on {path}; the nearest path with clients is {} ({})",
                nearest.path, nearest.sessions
            ),
            None => format!("nobody is on {path}"),
        }
    });
    Accepted { id: receipt.id.to_string(), receivers: receipt.receivers, hint }
}

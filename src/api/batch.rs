//! Publishing many: a JSON array, or NDJSON that is read and answered while it comes.
//!
//! Items are begun in their order, each taking its place in its path when it is begun; the answers
//! are waited for side by side, a bounded number at once, and given in the same order. A bad item
//! has a problem of its own and stops nothing.

use std::borrow::Cow;
use std::pin::Pin;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::{Extension, extract};
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa::openapi::content::Content;
use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::{HttpMethod, Ref};

use crate::api::auth::{Access, Caller};
use crate::api::body::{Form, Pieces};
use crate::api::call::Call;
use crate::api::items::{Array, Items, Lines, too_big};
use crate::api::problem::{Kind, Problem, Written};
use crate::api::publish::{Accepted, Delivered, Target};
use crate::api::query::Parameters;
use crate::api::{Scope, State, body, publish};
use crate::proto::ask::Reach;
use crate::proto::msg::{Address, Msg};
use crate::proto::session_id::SessionId;
use crate::proto::traceparent::Traceparent;
use crate::relay::Refusal;

/// Items begun and not answered yet, for each request.
const IN_FLIGHT_MAX: usize = 256;

const ROUTE: &str = "/v1/publish";

const HINT: &str = r#"curl --json '[{"path":"/ws","msg":{"payload":"hi"}}]' http://…/v1/publish"#;

/// Problems of a whole batch.
const BATCH_PROBLEMS: &[Kind] = &[
    Kind::NotJson,
    Kind::NotUtf8,
    Kind::BadParameter,
    Kind::UnreadableBody,
    Kind::BodyTimeout,
    Kind::TooBig,
    Kind::UnsupportedType,
    Kind::Unavailable,
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with path and msg")]
struct Item<'a> {
    #[serde(borrow)]
    path: Cow<'a, str>,
    #[serde(borrow)]
    msg: &'a RawValue,
}

/// What became of one item.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = ItemOutcome)]
enum Outcome {
    Accepted {
        status: u16,
        #[serde(flatten)]
        accepted: Accepted,
    },
    Delivered {
        status: u16,
        #[serde(flatten)]
        delivered: Delivered,
    },
    Refused {
        status: u16,
        problem: Written,
    },
}

/// An item that was begun, or refused.
type Begun = Pin<Box<dyn Future<Output = Outcome> + Send>>;

pub fn calls() -> Vec<Call> {
    let item = || {
        ObjectBuilder::new()
            .property("path", ObjectBuilder::new().schema_type(Type::String))
            .property("msg", publish::msg_schema())
            .required("path")
            .required("msg")
            .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)))
    };
    let outcome = || Ref::from_schema_name(Outcome::name());
    let outcomes = ArrayBuilder::new().items(outcome());
    let answered =
        "What became of each item, in their order: 202, 200, or the status of its problem.";
    let call = Call::new(
        HttpMethod::Post,
        ROUTE,
        Access::Scopes(&[Scope::Publish]),
        batch,
        "publish_batch",
        "Publish many msgs",
    )
    .describe(
        "Begun and answered in order, pipelined, not atomic; a bad item never stops the others. \
         NDJSON is answered while it comes: read while you write. A batch that is cut off by a \
         limit ends with a problem for the item it was cut off at.",
    )
    .takes(&[
        (Form::Json.as_str(), ArrayBuilder::new().items(item()).build().into()),
        (Form::Ndjson.as_str(), item().build().into()),
    ])
    .answers_with(200, answered, Form::Json.as_str(), Content::new(Some(outcomes)))
    .answers_with(200, answered, Form::Ndjson.as_str(), Content::new(Some(outcome())))
    .names::<Outcome>()
    .refuses(BATCH_PROBLEMS);
    vec![call]
}

async fn batch(
    extract::State(state): extract::State<State>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    Parameters::parse(&parts.uri, &[])?;
    let form = body::form(&parts.headers, &[Form::Json, Form::Ndjson], HINT)?;
    let traceparent = publish::traceparent(&parts.headers);
    let door = Door { state: state.clone(), caller, traceparent };
    let (bytes_max, limit) = (state.config.batch_bytes_max, "batch_bytes_max");
    let body = if form == Form::Json {
        let whole = body::whole(body, &parts.headers, &state.bodies, bytes_max, limit).await?;
        let items = Array::open(whole)?;
        let results = results(door, items).enumerate().map(|(index, result)| {
            let mut text = if index == 0 { Vec::new() } else { b",".to_vec() };
            text.extend_from_slice(&result);
            Bytes::from(text)
        });
        let open = stream::once(std::future::ready(Bytes::from_static(b"[")));
        let close = stream::once(std::future::ready(Bytes::from_static(b"]")));
        stream_body(open.chain(results).chain(close))
    } else {
        let pieces = Pieces::open(body, &parts.headers, &state.bodies, bytes_max, limit).await?;
        let mut lines = Lines::new(pieces, state.config.publish_bytes_max);
        if body::expects_continue(&parts.headers) {
            // 100 Continue is sent when the body is asked for, and not after the answer's head.
            lines.fill().await?;
        }
        stream_body(results(door, lines).map(|mut result| {
            result.push(b'\n');
            Bytes::from(result)
        }))
    };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(form.as_str()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn stream_body(chunks: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    Body::from_stream(chunks.map(Ok::<_, std::convert::Infallible>))
}

/// The written outcomes, in the order of the items.
fn results(door: Door, items: impl Items) -> impl Stream<Item = Vec<u8>> + Send {
    let begun = stream::unfold((door, items, 0), |(door, mut items, index)| async move {
        let begun = match items.next().await? {
            Ok(text) => door.begin(&text, index).await,
            Err(problem) => Box::pin(std::future::ready(refused(problem, index))),
        };
        Some((begun, (door, items, index + 1)))
    });
    begun
        .buffered(IN_FLIGHT_MAX)
        .map(|outcome| serde_json::to_vec(&outcome).expect("strings and numbers only"))
}

/// Who publishes, and through what.
#[derive(Clone)]
struct Door {
    state: State,
    caller: Caller,
    /// Of the request, and so of each item.
    traceparent: Option<Traceparent>,
}

impl Door {
    /// Begins one item: when this returns, it has its place.
    async fn begin(&self, text: &[u8], index: usize) -> Begun {
        match self.try_begin(text, index).await {
            Ok(begun) => begun,
            Err(problem) => Box::pin(std::future::ready(refused(problem, index))),
        }
    }

    async fn try_begin(&self, text: &[u8], index: usize) -> Result<Begun, Problem> {
        let item = parse(text)?;
        let msg_bytes_max = self.state.config.publish_bytes_max;
        if item.msg.get().len() > msg_bytes_max {
            return Err(too_big(msg_bytes_max));
        }
        let relay = &self.state.relay;
        let target = Target::resolve(&relay.paths(), &self.caller, &item.path)?;
        let msg = Msg::parse(item.msg.get().as_bytes())?;
        target.check(&msg)?;
        relay.room().await?;
        let door = self.clone();
        Ok(match msg.session {
            Address::All => {
                let receipt = relay.publish(target.path.clone(), msg.content, door.traceparent);
                Box::pin(async move {
                    match receipt.await {
                        Ok(receipt) => {
                            let Door { state, caller, .. } = &door;
                            let accepted = publish::accepted(state, caller, &target.path, receipt);
                            Outcome::Accepted { status: 202, accepted }
                        }
                        Err(refusal) => refused(refusal.into(), index),
                    }
                })
            }
            Address::One(id) => {
                let id = SessionId::parse(&id).ok_or(Refusal::Gone)?;
                let verdict =
                    relay.unicast(id, Reach::Path(target.path), msg.content, door.traceparent);
                Box::pin(async move {
                    match verdict.await {
                        Ok(()) => Outcome::Delivered { status: 200, delivered: Delivered::YES },
                        Err(refusal) => refused(refusal.into(), index),
                    }
                })
            }
        })
    }
}

fn parse(text: &[u8]) -> Result<Item<'_>, Problem> {
    let bad = |what: &dyn std::fmt::Display| {
        let detail = format!("an item is {{\"path\":\"/…\",\"msg\":{{…}}}} and no more: {what}");
        Problem::new(Kind::BadItem, detail)
    };
    let text = body::text(text)?;
    let item: Item<'_> = serde_json::from_str(text).map_err(|error| match error.is_data() {
        true => {
            // Of lines and columns an item has too few to count.
            let text = error.to_string();
            bad(&text.split(" at line ").next().unwrap_or(&text))
        }
        false => Problem::new(Kind::NotJson, format!("an item is one JSON object: {error}")),
    })?;
    // serde would take an array of the members, too.
    if text.trim_ascii_start().starts_with('{') { Ok(item) } else { Err(bad(&"it is an array")) }
}

fn refused(problem: Problem, index: usize) -> Outcome {
    let status = problem.kind.status().as_u16();
    Outcome::Refused { status, problem: problem.written(format!("{ROUTE}#{index}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fixture::{BATCH_BYTES_MAX, Door, PUBLISH_BYTES_MAX};
    use serde::de::IgnoredAny;
    use serde_json::Value;

    /// What became of the items, as status and slug; the receipts' ids are their own.
    async fn outcomes(content_type: &str, body: impl Into<Body>) -> Vec<String> {
        let answer = Door::keyless().post("/v1/publish", content_type, body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert!(answer.headers["content-type"].to_str().expect("text").ends_with(content_type));
        let items: Vec<Value> = match content_type {
            "json" => answer.json().as_array().expect("an array").clone(),
            _ => {
                answer.text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
            }
        };
        let told = |(index, item): (usize, &Value)| {
            let Some(problem) = item.get("problem") else {
                assert_eq!(item["receivers"], 0);
                return item["status"].to_string();
            };
            assert_eq!(item["status"], problem["status"]);
            assert_eq!(problem["instance"], format!("/v1/publish#{index}"));
            let slug = problem["type"].as_str().and_then(|kind| kind.strip_prefix("/problems/"));
            slug.expect("one of ours").to_owned()
        };
        items.iter().enumerate().map(told).collect()
    }

    /// Each item is tried alone and between two good ones, in both forms.
    async fn item(text: &str, expected: &str) {
        let good = r#"{"path":"/ws/a","msg":{"payload":1}}"#;
        let lines = format!("{good}\n{text}\n{good}");
        assert_eq!(outcomes("ndjson", lines).await, ["202", expected, "202"], "{text}");
        if serde_json::from_str::<IgnoredAny>(text).is_ok() {
            let array = format!("[{good},{text},{good}]");
            assert_eq!(outcomes("json", array).await, ["202", expected, "202"], "{text}");
        }
    }

    #[tokio::test]
    async fn a_bad_item_stops_no_other() {
        item(r#"{"msg":{"payload":null},"path":"/ws/rooms/x"}"#, "202").await;
        item(r#"{"path":"\u002fws/a","msg":{"payload":1}}"#, "202").await;
        item(r#"{"path":"/ws/a"}"#, "bad-item").await;
        item(r#"{"msg":{}}"#, "bad-item").await;
        item(r#"{"path":"/ws/a","msg":{"payload":1},"more":1}"#, "bad-item").await;
        item(r#"{"path":"/ws/a","path":"/ws/a","msg":{"payload":1}}"#, "bad-item").await;
        item(r#"{"path":7,"msg":{"payload":1}}"#, "bad-item").await;
        item("[]", "bad-item").await;
        item("7", "bad-item").await;
        item("{", "not-json").await;
        item(r#"{"path":"/ws/a","msg":{}} {}"#, "not-json").await;
        item(r#"["/ws/a",{"payload":1}]"#, "bad-item").await;
        item(r#"{"path":"/ws/none","msg":{"payload":1}}"#, "unknown-path").await;
        item(r#"{"path":"","msg":{"payload":1}}"#, "unknown-path").await;
        item(r#"{"path":"/ws/a","msg":[]}"#, "not-an-object").await;
        item(r#"{"path":"/ws/a","msg":{}}"#, "nothing-to-send").await;
        item(r#"{"path":"/ws/a","msg":{"payload":1,"_session":7}}"#, "bad-session").await;
        let gone =
            r#"{"path":"/ws/a","msg":{"payload":1,"_session":{"type":"websocket","id":"x"}}}"#;
        item(gone, "session-gone").await;
        let long = |count| {
            let text = "x".repeat(count - r#"{"payload":""}"#.len());
            format!(r#"{{"path":"/ws/a","msg":{{"payload":"{text}"}}}}"#)
        };
        item(&long(PUBLISH_BYTES_MAX), "202").await;
        item(&long(PUBLISH_BYTES_MAX + 1), "too-big").await;
        item(&long(PUBLISH_BYTES_MAX + 9000), "too-big").await;
        let not_utf8 = b"{\"path\":\"/ws/a\",\"msg\":{\"payload\":\"\xff\"}}".to_vec();
        assert_eq!(outcomes("ndjson", not_utf8).await, ["not-utf8"]);
    }

    #[test]
    fn a_bad_item_is_told_in_words() {
        #[track_caller]
        fn check(text: &str, what: &str) {
            let problem = parse(text.as_bytes()).err().expect("a bad item");
            let detail = problem.written(String::new());
            let detail = serde_json::to_value(detail).expect("strings only")["detail"].to_string();
            assert!(detail.contains(what) && !detail.contains(" line "), "{text}: {detail}");
            assert!(!detail.contains("struct"), "{text}: {detail}");
        }
        check("7", "invalid type: integer `7`, expected an object with path and msg\"");
        check("\"x\"", "expected an object with path and msg\"");
        check("{}", "missing field `path`\"");
        check("{\"path\":\"/a\",\"msg\":{},\"more\":1}", "unknown field `more`");
        check("[]", "path and msg");
    }

    #[tokio::test]
    async fn a_batch_that_is_none_is_refused_as_a_whole() {
        assert_eq!(outcomes("json", " [ ] ").await, [""; 0]);
        assert_eq!(outcomes("ndjson", "\n \r\n").await, [""; 0]);
        let door = Door::keyless();
        let good = r#"{"path":"/ws/a","msg":{"payload":1}}"#;
        for (content_type, body, expected) in [
            ("json", good.to_owned(), "not-json"),
            ("json", format!("[{good}"), "not-json"),
            ("json", String::new(), "not-json"),
            ("json", " ".repeat(BATCH_BYTES_MAX + 1), "too-big"),
            ("text", good.to_owned(), "unsupported-type"),
        ] {
            let answer = door.post("/v1/publish", content_type, body).await;
            assert_eq!(answer.slug(), expected, "{}", answer.text);
        }
        let answer = door.post("/v1/publish?session=x", "ndjson", good).await;
        assert_eq!(answer.slug(), "bad-parameter");
        let length = (BATCH_BYTES_MAX + 1).to_string();
        let announced = [("content-type", "application/x-ndjson"), ("content-length", &*length)];
        assert_eq!(door.ask("POST", "/v1/publish", &announced, good).await.slug(), "too-big");
    }

    #[tokio::test]
    async fn many_items_are_answered_in_order() {
        let mut items = String::new();
        let mut expected = Vec::new();
        for index in 0..400 {
            let (path, outcome) = [("/ws/a", "202"), ("/no", "unknown-path")][index % 7 / 6];
            items += &format!("{{\"path\":\"{path}\",\"msg\":{{\"payload\":1}}}}\n");
            expected.push(outcome);
        }
        assert_eq!(outcomes("ndjson", items.clone()).await, expected);
        let array = format!("[{}]", items.trim_end().replace('\n', ","));
        assert_eq!(outcomes("json", array).await, expected);
    }

    #[tokio::test]
    async fn a_key_publishes_items_to_its_paths_only() {
        let headers =
            [("authorization", "Bearer publish"), ("content-type", "application/x-ndjson")];
        let body = r#"{"path":"/other","msg":{"payload":1}}"#;
        let answer = Door::keyed().ask("POST", "/v1/publish", &headers, body).await;
        assert_eq!(answer.json()["problem"]["type"], "/problems/forbidden-path");
    }
}

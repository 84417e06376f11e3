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
use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream::{self, Stream, StreamExt};
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;
use utoipa::openapi::content::Content;
use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::{HttpMethod, Ref};

use crate::api::auth::{Access, Caller};
use crate::api::body::{Form, Pieces, Whole};
use crate::api::call::Call;
use crate::api::problem::{Kind, Problem, Written};
use crate::api::publish::{Accepted, Delivered, Target};
use crate::api::query::Parameters;
use crate::api::{Scope, State, body, publish};
use crate::proto::msg::{Address, Msg};
use crate::proto::session_id::SessionId;
use crate::proto::ask::Reach;
use crate::relay::Refusal;

/// Items begun and not answered yet, for each request.
const IN_FLIGHT_MAX: usize = 256;

/// What an item may have around its msg: the path of at most 1 KiB and the members' names.
const AROUND_MSG_BYTES_MAX: usize = 8 * 1024;

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
#[serde(deny_unknown_fields)]
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
    let door = Door { state: state.clone(), caller };
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

/// Where items come from, one after another: its text, or why there is none. An error does not
/// end it by itself.
trait Items: Send + 'static {
    fn next(&mut self) -> impl Future<Output = Option<Result<Bytes, Problem>>> + Send;
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
                let receipt = relay.publish(target.path.clone(), msg.content);
                Box::pin(async move {
                    match receipt.await {
                        Ok(receipt) => {
                            let Door { state, caller } = &door;
                            let accepted = publish::accepted(state, caller, &target.path, receipt);
                            Outcome::Accepted { status: 202, accepted }
                        }
                        Err(refusal) => refused(refusal.into(), index),
                    }
                })
            }
            Address::One(id) => {
                let id = SessionId::parse(&id).ok_or(Refusal::Gone)?;
                let verdict = relay.unicast(id, Reach::Path(target.path), msg.content);
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
    let text = body::text(text)?;
    serde_json::from_str(text).map_err(|error| {
        if error.is_data() {
            let detail =
                format!("an item is {{\"path\":\"/…\",\"msg\":{{…}}}} and no more: {error}");
            return Problem::new(Kind::BadItem, detail);
        }
        Problem::new(Kind::NotJson, format!("an item is one JSON object: {error}"))
    })
}

fn refused(problem: Problem, index: usize) -> Outcome {
    let status = problem.kind.status().as_u16();
    Outcome::Refused { status, problem: problem.written(format!("{ROUTE}#{index}")) }
}

fn too_big(msg_bytes_max: usize) -> Problem {
    let detail = format!(
        "the msg is larger than {msg_bytes_max} bytes: make it smaller, or raise [api] \
         publish_bytes_max"
    );
    Problem::new(Kind::TooBig, detail)
}

/// The elements of a JSON array that was read as a whole.
struct Array {
    /// From the next element on; good JSON, as was checked before.
    rest: Bytes,
    _held: Option<OwnedSemaphorePermit>,
}

impl Array {
    /// Checks the whole, so that nothing is begun of an array that is none.
    fn open(whole: Whole) -> Result<Array, Problem> {
        let Whole { bytes, held } = whole;
        let text = body::text(&bytes)?;
        // Elements without a size: the check holds no memory, however many there are.
        serde_json::from_str::<Vec<IgnoredAny>>(text).map_err(|error| {
            let detail = format!(
                "the body is a JSON array of {{\"path\":…,\"msg\":{{…}}}} (one msg goes to \
                 /v1/publish/…): {error}"
            );
            Problem::new(Kind::NotJson, detail)
        })?;
        let start = bytes.iter().position(|&byte| byte == b'[').map_or(bytes.len(), |at| at + 1);
        Ok(Array { rest: bytes.slice(start..), _held: held })
    }
}

impl Items for Array {
    async fn next(&mut self) -> Option<Result<Bytes, Problem>> {
        let between = |byte: &u8| b" \t\r\n,".contains(byte);
        let start = self.rest.iter().position(|byte| !between(byte))?;
        self.rest.advance(start);
        let mut elements =
            serde_json::Deserializer::from_slice(&self.rest).into_iter::<&RawValue>();
        // The closing bracket is no value: it ends the walk.
        elements.next()?.ok()?;
        let end = elements.byte_offset();
        Some(Ok(self.rest.split_to(end)))
    }
}

/// The lines of an NDJSON body, while they come. A line holds one item; empty ones are skipped.
struct Lines {
    pieces: Pieces,
    line_bytes_max: usize,
    msg_bytes_max: usize,
    buffer: BytesMut,
    held: Option<OwnedSemaphorePermit>,
    /// So much of the buffer has no line's end.
    scanned: usize,
    /// The rest of a line that was refused is thrown away.
    skipping: bool,
    ended: bool,
}

impl Lines {
    fn new(pieces: Pieces, msg_bytes_max: usize) -> Lines {
        Lines {
            pieces,
            line_bytes_max: msg_bytes_max.saturating_add(AROUND_MSG_BYTES_MAX),
            msg_bytes_max,
            buffer: BytesMut::new(),
            held: None,
            scanned: 0,
            skipping: false,
            ended: false,
        }
    }

    /// Takes in one more piece, unless the body has ended.
    async fn fill(&mut self) -> Result<(), Problem> {
        if self.ended {
            return Ok(());
        }
        match self.pieces.next().await {
            Ok(Some((piece, held))) => {
                self.buffer.extend_from_slice(&piece);
                match &mut self.held {
                    Some(all) => all.merge(held),
                    none => *none = Some(held),
                }
                Ok(())
            }
            Ok(None) => {
                self.ended = true;
                Ok(())
            }
            Err(problem) => {
                self.ended = true;
                self.cut(self.buffer.len());
                Err(problem)
            }
        }
    }

    /// Takes the first bytes out of the buffer and of the budget.
    fn cut(&mut self, bytes: usize) -> Bytes {
        self.scanned = 0;
        if let Some(held) = &mut self.held {
            drop(held.split(bytes));
        }
        self.buffer.split_to(bytes).freeze()
    }
}

impl Items for Lines {
    async fn next(&mut self) -> Option<Result<Bytes, Problem>> {
        loop {
            let unseen = &self.buffer[self.scanned..];
            if let Some(at) = unseen.iter().position(|&byte| byte == b'\n') {
                let line = self.cut(self.scanned + at + 1);
                if std::mem::take(&mut self.skipping) || line.trim_ascii().is_empty() {
                    continue;
                }
                return Some(Ok(line));
            }
            self.scanned = self.buffer.len();
            if self.skipping {
                self.cut(self.buffer.len());
            } else if self.buffer.len() > self.line_bytes_max {
                self.cut(self.buffer.len());
                self.skipping = true;
                return Some(Err(too_big(self.msg_bytes_max)));
            }
            if self.ended {
                let last = self.cut(self.buffer.len());
                return (!last.trim_ascii().is_empty()).then_some(Ok(last));
            }
            if let Err(problem) = self.fill().await {
                return Some(Err(problem));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::body::Budget;
    use proptest::prelude::*;

    async fn all(mut items: impl Items) -> Vec<Result<String, Kind>> {
        let mut found = Vec::new();
        while let Some(item) = items.next().await {
            let text = |bytes: Bytes| String::from_utf8_lossy(&bytes).trim().to_owned();
            found.push(item.map(text).map_err(|problem| problem.kind));
        }
        found
    }

    #[track_caller]
    fn array(text: &str, expected: Option<&[&str]>) {
        let whole = Whole { bytes: Bytes::copy_from_slice(text.as_bytes()), held: None };
        let found = Array::open(whole).ok().map(|array| {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            runtime.expect("a runtime").block_on(all(array))
        });
        let expected: Option<Vec<_>> =
            expected.map(|texts| texts.iter().map(|text| Ok((*text).to_owned())).collect());
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn an_array_is_walked_without_being_built() {
        array("[]", Some(&[]));
        array(" [ ] ", Some(&[]));
        array("[1,2.50,\"a,]\"]", Some(&["1", "2.50", "\"a,]\""]));
        array("[{\"a\":[1,{}]} ,\n[2],null]", Some(&["{\"a\":[1,{}]}", "[2]", "null"]));
        array("[true,false]", Some(&["true", "false"]));
        array("{}", None);
        array("[1,]", None);
        array("[1 2]", None);
        array("[1]]", None);
        array("[1", None);
        array("", None);
    }

    async fn lines(
        pieces: Vec<Vec<u8>>,
        msg_bytes_max: usize,
        total: usize,
    ) -> Vec<Result<String, Kind>> {
        let budget = Budget::new(1 << 20);
        let pieces = pieces.into_iter().map(Ok::<_, std::io::Error>);
        let body = Body::from_stream(stream::iter(pieces.collect::<Vec<_>>()));
        let pieces = Pieces::open(body, &http::HeaderMap::new(), &budget, total, "limit").await;
        let mut lines = Lines::new(pieces.expect("nothing was announced"), msg_bytes_max);
        lines.line_bytes_max = msg_bytes_max;
        all(lines).await
    }

    #[tokio::test]
    async fn a_line_over_the_limit_stops_no_other() {
        let found = lines(vec![b"ab\n\r\n123456\nc\r".to_vec(), b"\nd".to_vec()], 10, 99).await;
        let text = |text: &str| Ok(text.to_owned());
        assert_eq!(found, [text("ab"), text("123456"), text("c"), text("d")]);
        let long: Vec<_> =
            [&b"a\n"[..], b"12345678901", b"234567", b"8\nb\n"].map(Vec::from).into();
        let found = lines(long, 10, 99).await;
        assert_eq!(found, [text("a"), Err(Kind::TooBig), text("b")]);
        let found = lines(vec![b"a\nb\n".to_vec(), b"c\nd\n".to_vec()], 10, 6).await;
        assert_eq!(found, [text("a"), text("b"), Err(Kind::TooBig)]);
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_they_come(text in "[a-c\n]{0,40}", cut in 1usize..7) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let pieces = text.as_bytes().chunks(cut).map(Vec::from).collect();
            let found = runtime.expect("a runtime").block_on(lines(pieces, 50, 50));
            let expected: Vec<_> =
                text.lines().filter(|line| !line.is_empty()).map(|line| Ok(line.to_owned())).collect();
            prop_assert_eq!(found, expected);
        }
    }
}

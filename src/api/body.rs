//! Bodies as they come in: their content type, their limits, their pace.
//!
//! Nothing is read before it is known to be wanted, nothing beyond its limit is kept, and what all
//! requests hold together is bounded too. A body that stands still in the middle of something is given up.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::api::problem::{Kind, Problem};
use crate::proto::content_type::{charsets, is_utf8};
use crate::proto::msg::{Address, Content, Msg};

/// How long a body may stand still.
const STALL: Duration = Duration::from_secs(30);

/// How long a body that is read as a whole may take: 64 MiB at 2 Mbit/s.
const WHOLE: Duration = Duration::from_secs(270);

/// How long a body that is too big is read on and thrown away, so that its sender, who mostly
/// looks for the answer only then, gets it instead of a reset connection.
const DISCARD: Duration = Duration::from_secs(2);

/// In which form a body comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Json,
    Ndjson,
    Text,
    Binary,
}

impl Form {
    pub fn as_str(self) -> &'static str {
        match self {
            Form::Json => "application/json",
            Form::Ndjson => "application/x-ndjson",
            Form::Text => "text/plain",
            Form::Binary => "application/octet-stream",
        }
    }
}

/// The form that the headers announce; one of `taken`, or 415 with `hint`.
pub fn form(headers: &HeaderMap, taken: &[Form], hint: &str) -> Result<Form, Problem> {
    let refused = |what: &str| {
        let types: Vec<_> = taken.iter().map(|form| form.as_str()).collect();
        let detail = format!("{what}: send {}, as in: {hint}", types.join(", "));
        Problem::new(Kind::UnsupportedType, detail)
    };
    if headers.get_all(CONTENT_ENCODING).iter().any(|coding| coding != "identity") {
        return Err(refused("a body with a Content-Encoding is not taken"));
    }
    let mut given = headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return Err(refused("one Content-Type is needed"));
    };
    let value = value.to_str().map_err(|_| refused("the Content-Type is not readable"))?;
    let essence = value.split(';').next().unwrap_or_default().trim();
    let Some(&form) = taken.iter().find(|form| form.as_str().eq_ignore_ascii_case(essence)) else {
        return Err(refused(&format!("{essence:?} is not taken here")));
    };
    match charsets(value).find(|charset| !is_utf8(charset)) {
        Some(charset) if form != Form::Binary => {
            Err(refused(&format!("the charset {charset:?} is not taken, only utf-8")))
        }
        _ => Ok(form),
    }
}

/// One msg in one of the forms of a body that is one msg.
pub fn msg(form: Form, body: Bytes) -> Result<Msg, Problem> {
    let content = match form {
        Form::Json | Form::Ndjson => return Ok(Msg::parse(&body)?),
        Form::Text => Content::text(text(&body)?.to_owned()),
        Form::Binary => Content::binary(body),
    };
    Ok(Msg { content, session: Address::All })
}

pub fn text(body: &[u8]) -> Result<&str, Problem> {
    simdutf8::compat::from_utf8(body).map_err(|error| {
        let detail = format!(
            "byte {} is not UTF-8: send text as UTF-8, anything else as application/octet-stream",
            error.valid_up_to()
        );
        Problem::new(Kind::NotUtf8, detail)
    })
}

/// What all bodies together may hold.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Semaphore>);

impl Budget {
    pub fn new(bytes_max: usize) -> Budget {
        Budget(Arc::new(Semaphore::new(bytes_max.min(Semaphore::MAX_PERMITS))))
    }

    fn hold(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let count = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.0.clone().try_acquire_many_owned(count).map_err(|_| {
            let detail = "not sent: this pod is reading as many bodies as it can hold; try again \
                          later";
            Problem::new(Kind::Unavailable, detail)
        })
    }
}

/// A body, whole.
#[derive(Debug)]
pub struct Whole {
    pub bytes: Bytes,
    /// Its part of the budget, to be kept as long as the bytes.
    pub held: Option<OwnedSemaphorePermit>,
}

/// Reads a body of at most `bytes_max`; `limit` is the setting's name.
pub async fn whole(
    body: Body,
    headers: &HeaderMap,
    budget: &Budget,
    bytes_max: usize,
    limit: &str,
) -> Result<Whole, Problem> {
    let mut pieces = Pieces::open(body, headers, budget, bytes_max, limit).await?;
    let deadline = Instant::now() + WHOLE;
    let slow = |_| Problem::new(Kind::BodyTimeout, "the body took too long: send it faster");
    let first = timeout_at(deadline, pieces.next()).await.map_err(slow)??;
    let Some((first, mut held)) = first else {
        return Ok(Whole { bytes: Bytes::new(), held: None });
    };
    let Some((second, more)) = timeout_at(deadline, pieces.next()).await.map_err(slow)?? else {
        return Ok(Whole { bytes: first, held: Some(held) });
    };
    let mut all = BytesMut::from(first);
    all.extend_from_slice(&second);
    held.merge(more);
    while let Some((piece, more)) = timeout_at(deadline, pieces.next()).await.map_err(slow)?? {
        all.extend_from_slice(&piece);
        held.merge(more);
    }
    Ok(Whole { bytes: all.freeze(), held: Some(held) })
}

/// Bytes of a body, and their part of the budget.
pub type Piece = (Bytes, OwnedSemaphorePermit);

/// A body, piece by piece.
#[derive(Debug)]
pub struct Pieces {
    body: Body,
    budget: Budget,
    seen: usize,
    bytes_max: usize,
    /// The setting that says so.
    limit: String,
    /// How long it may stand still.
    pub stall: Duration,
}

impl Pieces {
    /// Refuses a body that announces more than `bytes_max`, before any of it is asked for.
    pub async fn open(
        body: Body,
        headers: &HeaderMap,
        budget: &Budget,
        bytes_max: usize,
        limit: &str,
    ) -> Result<Pieces, Problem> {
        let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let announced = announced.and_then(|text| text.parse::<u64>().ok());
        let (budget, limit) = (budget.clone(), limit.to_owned());
        let mut pieces = Pieces { body, budget, seen: 0, bytes_max, limit, stall: STALL };
        if announced.is_some_and(|bytes| bytes > bytes_max as u64) {
            // Whoever waits for 100 Continue has sent nothing, and reading would ask for it.
            if !expects_continue(headers) {
                pieces.discard().await;
            }
            return Err(pieces.too_big());
        }
        Ok(pieces)
    }

    /// The next piece, never empty; `None` after the last. Safe to cancel.
    pub async fn next(&mut self) -> Result<Option<Piece>, Problem> {
        let stall = self.stall;
        let stalled = |_| {
            let detail = format!("nothing of the body came for {} s", stall.as_secs());
            Problem::new(Kind::BodyTimeout, detail)
        };
        timeout(stall, self.whenever()).await.map_err(stalled)?
    }

    /// The same, however long it takes.
    pub async fn whenever(&mut self) -> Result<Option<Piece>, Problem> {
        loop {
            let frame = match self.body.frame().await {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    let detail = format!("the body ended in the middle: {error}");
                    return Err(Problem::new(Kind::UnreadableBody, detail));
                }
                None => return Ok(None),
            };
            let Ok(bytes) = frame.into_data() else { continue };
            if bytes.is_empty() {
                continue;
            }
            self.seen = self.seen.saturating_add(bytes.len());
            if self.seen > self.bytes_max {
                self.discard().await;
                return Err(self.too_big());
            }
            let held = self.budget.hold(bytes.len())?;
            return Ok(Some((bytes, held)));
        }
    }

    fn too_big(&self) -> Problem {
        let detail = format!(
            "the body is larger than {} bytes: send less at once, or raise [limits] {}",
            self.bytes_max, self.limit
        );
        Problem::new(Kind::TooBig, detail)
    }

    async fn discard(&mut self) {
        let rest = async { while let Some(Ok(_)) = self.body.frame().await {} };
        // Whether it ended in time makes no difference to the answer.
        let _ = timeout(DISCARD, rest).await;
    }
}

/// Whether the sender waits for `100 Continue` with the body.
pub fn expects_continue(headers: &HeaderMap) -> bool {
    headers.contains_key(EXPECT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[Form] = &[Form::Json, Form::Text, Form::Binary];

    #[track_caller]
    fn check(content_type: &str, expected: Option<Form>) {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, content_type.parse().expect("a header"));
        assert_eq!(form(&headers, ALL, "").ok(), expected, "{content_type}");
    }

    #[test]
    fn the_content_type_is_the_form() {
        check("application/json", Some(Form::Json));
        check("Application/JSON ; charset=\"UTF-8\"", Some(Form::Json));
        check("text/plain;charset=utf-8", Some(Form::Text));
        check("text/plain; charset=us-ascii; format=flowed", Some(Form::Text));
        check("application/octet-stream", Some(Form::Binary));
        check("application/octet-stream; charset=latin1", Some(Form::Binary));
        check("text/plain; charset=iso-8859-1", None);
        check("application/json; charset=utf-16", None);
        check("application/x-ndjson", None);
        check("application/x-www-form-urlencoded", None);
        check("text/html", None);
        check("", None);
        check(";", None);
    }

    #[test]
    fn a_doubled_or_coded_type_is_refused() {
        let mut headers = HeaderMap::new();
        assert!(form(&headers, ALL, "").is_err());
        headers.insert(CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
        assert!(form(&headers, ALL, "").is_ok());
        headers.insert(CONTENT_ENCODING, http::HeaderValue::from_static("gzip"));
        assert!(form(&headers, ALL, "").is_err());
        headers.remove(CONTENT_ENCODING);
        headers.append(CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
        assert!(form(&headers, ALL, "").is_err());
    }

    async fn read(
        pieces: &[&'static str],
        bytes_max: usize,
        budget: &Budget,
    ) -> Result<Whole, Kind> {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok::<_, std::io::Error>(*piece)).collect();
        let body = Body::from_stream(futures_util::stream::iter(pieces));
        whole(body, &HeaderMap::new(), budget, bytes_max, "limit").await.map_err(|error| error.kind)
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit_and_the_budget() {
        let budget = Budget::new(8);
        let bytes = |whole: Result<Whole, Kind>| whole.map(|whole| whole.bytes.to_vec());
        assert_eq!(bytes(read(&[], 4, &budget).await), Ok(b"".to_vec()));
        assert_eq!(bytes(read(&["", "abcd"], 4, &budget).await), Ok(b"abcd".to_vec()));
        assert_eq!(bytes(read(&["a", "b", "cd"], 4, &budget).await), Ok(b"abcd".to_vec()));
        assert_eq!(bytes(read(&["abc", "de"], 4, &budget).await), Err(Kind::TooBig));
        let first = read(&["abcd", "ef"], 9, &budget).await;
        assert_eq!(bytes(read(&["abc"], 4, &budget).await), Err(Kind::Unavailable));
        drop(first);
        assert_eq!(bytes(read(&["abc"], 4, &budget).await), Ok(b"abc".to_vec()));
    }

    #[tokio::test]
    async fn a_body_that_stands_still_is_given_up() {
        let silence = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        let mut pieces = Pieces {
            body: Body::from_stream(silence),
            budget: Budget::new(8),
            seen: 0,
            bytes_max: 4,
            limit: String::new(),
            stall: Duration::from_millis(5),
        };
        assert_eq!(pieces.next().await.err().map(|problem| problem.kind), Some(Kind::BodyTimeout));
    }
}

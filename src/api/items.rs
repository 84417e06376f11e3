//! The items of a batch, one after another: out of an array that is there, or out of lines that
//! still come.
//!
//! Neither form is ever taken apart as a whole, so what a batch holds is its bytes; of lines, those
//! of one.

use bytes::{Buf, Bytes, BytesMut};
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;

use crate::api::body;
use crate::api::body::{Pieces, Whole};
use crate::api::problem::{Kind, Problem};

/// What an item may have around its msg: the path of at most 1 KiB and the members' names.
const AROUND_MSG_BYTES_MAX: usize = 8 * 1024;

/// Where items come from, one after another: its text, or why there is none. An error does not
/// end it by itself.
pub trait Items: Send + 'static {
    fn next(&mut self) -> impl Future<Output = Option<Result<Bytes, Problem>>> + Send;
}

/// The elements of a JSON array that was read as a whole.
pub struct Array {
    /// From the next element on; good JSON, as was checked before.
    rest: Bytes,
    _held: Option<OwnedSemaphorePermit>,
}

impl Array {
    /// Checks the whole, so that nothing is begun of an array that is none.
    pub fn open(whole: Whole) -> Result<Array, Problem> {
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
pub struct Lines {
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
    pub fn new(pieces: Pieces, msg_bytes_max: usize) -> Lines {
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
    pub async fn fill(&mut self) -> Result<(), Problem> {
        if self.ended {
            return Ok(());
        }
        // Whoever publishes line by line may have nothing to say for hours.
        let piece = match self.buffer.is_empty() && !self.skipping {
            true => self.pieces.whenever().await,
            false => self.pieces.next().await,
        };
        match piece {
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

/// An item whose msg is larger than one may be.
pub fn too_big(msg_bytes_max: usize) -> Problem {
    let detail = format!(
        "the msg is larger than {msg_bytes_max} bytes: make it smaller, or raise [limits] \
         publish_bytes_max"
    );
    Problem::new(Kind::TooBig, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::body::Budget;
    use axum::body::Body;
    use futures_util::{StreamExt, stream};
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

    #[tokio::test]
    async fn silence_between_lines_is_no_stall_and_within_one_it_is() {
        let pause = std::time::Duration::from_millis(200);
        let pieces = stream::iter([&b"a\n"[..], b"b\nc", b"d\n"]).then(move |piece| async move {
            tokio::time::sleep(pause).await;
            Ok::<_, std::io::Error>(piece)
        });
        let budget = Budget::new(1 << 20);
        let body = Body::from_stream(pieces);
        let pieces = Pieces::open(body, &http::HeaderMap::new(), &budget, 99, "limit").await;
        let mut pieces = pieces.expect("nothing was announced");
        pieces.stall = pause / 10;
        let found = all(Lines::new(pieces, 10)).await;
        let text = |text: &str| Ok(text.to_owned());
        assert_eq!(found, [text("a"), text("b"), Err(Kind::BodyTimeout)]);
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

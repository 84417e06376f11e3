//! One HTTP exchange with a backend: a request out, an answer in, both bounded in time and size.
//!
//! No redirect is followed: where events go is for the configuration to say. Certificates of `https`
//! targets are verified against the authorities of the system. An answer is read up to a bound and no
//! further.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, RETRY_AFTER};
use http::response::Parts;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioTimer;

use crate::authorities;
use crate::backend::webhook::leave::{Connector, MayLeave};
use crate::lifecycle::Lifecycle;
use crate::proto::traceparent::Traceparent;
use crate::proto::webhook::label::Label;

/// How long a connection may take to be made: who is there answers sooner.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a connection that nobody uses is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Room for the head of an answer.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// For all targets; keeps connections for those who ask again.
pub struct Client {
    http: legacy::Client<HttpsConnector<Connector>, Full<Bytes>>,
}

/// What a backend said.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    /// `None`: it was larger than was asked for.
    pub body: Option<Bytes>,
    /// What the request was a part of, and what comes of this answer is.
    pub traceparent: Option<Traceparent>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No byte of the request left.
    #[error("cannot connect: {0}")]
    Unreachable(String),
    /// It may have arrived.
    #[error("{0}")]
    Lost(String),
    #[error("no answer within {0:?}")]
    Late(Duration),
}

/// Connections are tasks, and tasks are known.
#[derive(Clone)]
struct Tasks(Lifecycle);

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let closing = self.0.closing().clone();
        self.0.spawn(async move {
            tokio::select! {
                _ = task => {}
                () = closing.cancelled() => {}
            }
        });
    }
}

impl Client {
    /// `idle_max`: connections to one target that are kept while nobody uses them.
    /// Where the system knows no authorities, every `https` target is refused. Nothing is written
    /// while `may_leave` says no.
    pub fn new(lifecycle: &Lifecycle, idle_max: usize, may_leave: MayLeave) -> Client {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let tls = authorities::client().with_root_certificates(authorities::of_system());
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls.with_no_client_auth())
            .https_or_http()
            .enable_http1()
            .wrap_connector(Connector { tcp, may_leave });
        let http = legacy::Client::builder(Tasks(lifecycle.clone()))
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(idle_max)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .build(connector);
        Client { http }
    }

    /// Sends and reads all of it, within `limit`. The answer's body is read up to so many bytes.
    pub async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        body_bytes_max: usize,
        limit: Duration,
    ) -> Result<Answer, Failure> {
        let exchange = async {
            let response = self.http.request(request).await.map_err(|error| {
                let cause = deepest(&error);
                match error.is_connect() {
                    true => Failure::Unreachable(cause),
                    false => Failure::Lost(cause),
                }
            })?;
            read(response, body_bytes_max).await
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::Late(limit)),
        }
    }
}

async fn read(response: Response<Incoming>, bytes_max: usize) -> Result<Answer, Failure> {
    let (head, mut body) = response.into_parts();
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::Lost(deepest(&error)))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > bytes_max {
            return Ok(told(head, None));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(told(head, Some(bytes.freeze())))
}

fn told(head: Parts, body: Option<Bytes>) -> Answer {
    Answer { status: head.status.as_u16(), headers: head.headers, body, traceparent: None }
}

impl Answer {
    /// What it says of its body.
    pub fn label(&self) -> Label<'_> {
        // What cannot be read is no encoding that is known, either.
        let encodings = self.headers.get_all(CONTENT_ENCODING).iter();
        let encodings = encodings.map(|one| one.to_str().unwrap_or("?")).collect();
        Label { content_type: self.text(CONTENT_TYPE), encodings }
    }

    /// Its body, where that is for somebody to read: nothing, if it is too large or encoded.
    pub fn said(&self) -> Bytes {
        let body = self.body.clone().filter(|_| self.label().encoding().is_none());
        body.unwrap_or_default()
    }

    pub fn retry_after(&self) -> Option<&str> {
        self.text(RETRY_AFTER)
    }

    pub fn text(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// What went wrong in the end: the outer errors only say where.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn nothing_of_an_event_goes_out_once_it_may_not_leave_whatever_its_body_and_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let held = Arc::new(AtomicBool::new(true));
        let is_held = held.clone();
        let may_leave: MayLeave = Arc::new(move || is_held.load(Ordering::SeqCst));
        let client = Client::new(&Lifecycle::default(), 1, may_leave);
        let post = async |body: &'static [u8]| {
            let request = Request::post(format!("http://{addr}/")).body(Full::from(body));
            client.exchange(request.expect("a good request"), 1_000, Duration::from_secs(10)).await
        };
        // Whatever comes over two connections: one that is kept, and a new one.
        let arrived = async {
            let (mut kept, _) = listener.accept().await.expect("a connection");
            let mut bytes = Vec::new();
            while !bytes.ends_with(b"first") {
                let read = kept.read_buf(&mut bytes).await.expect("a connection that lives");
                assert_ne!(read, 0, "{bytes:?}");
            }
            kept.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("an open connection");
            let error = kept.read_to_end(&mut bytes).await.expect_err("no orderly end");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            let (mut new, _) = listener.accept().await.expect("another connection");
            let error = new.read_to_end(&mut bytes).await.expect_err("no orderly end");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            bytes
        };
        let posts = async {
            assert!(matches!(post(b"first").await, Ok(Answer { status: 204, .. })));
            held.store(false, Ordering::SeqCst);
            for body in [&b""[..], b"an event"] {
                let outcome = post(body).await;
                assert!(matches!(outcome, Err(Failure::Lost(_))), "{outcome:?}");
            }
        };
        let ((), arrived) = tokio::join!(posts, arrived);
        assert!(arrived.ends_with(b"first"), "{}", String::from_utf8_lossy(&arrived));
    }
}

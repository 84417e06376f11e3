//! One HTTP exchange with a backend: a request out, an answer in, both bounded in time and size.
//!
//! No redirect is followed: where events go is for the configuration to say. Certificates of `https`
//! targets are verified against the authorities of the system. An answer is read up to a bound and no
//! further.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, RETRY_AFTER};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioTimer;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::crypto::ring;

use crate::authorities;
use crate::backend::webhook::leave::Guarded;
use crate::lifecycle::Lifecycle;

/// How long a connection may take to be made: who is there answers sooner.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a connection that nobody uses is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Room for the head of an answer.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// For all targets; keeps connections for those who ask again.
pub struct Client {
    http: legacy::Client<HttpsConnector<HttpConnector>, Guarded>,
}

/// What a backend said.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    /// `None`: it was larger than was asked for.
    pub body: Option<Bytes>,
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
    /// Where the system knows no authorities, every `https` target is refused.
    pub fn new(lifecycle: &Lifecycle, idle_max: usize) -> Client {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls())
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
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
        request: Request<Guarded>,
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

fn tls() -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the default versions are those of this provider")
        .with_root_certificates(authorities::of_system())
        .with_no_client_auth()
}

async fn read(response: Response<Incoming>, bytes_max: usize) -> Result<Answer, Failure> {
    let (head, mut body) = response.into_parts();
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::Lost(deepest(&error)))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > bytes_max {
            return Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: None });
        }
        bytes.extend_from_slice(&data);
    }
    let body = Some(bytes.freeze());
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
}

impl Answer {
    pub fn content_type(&self) -> Option<&str> {
        self.text(CONTENT_TYPE)
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
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn nothing_of_an_event_goes_out_once_it_may_not_leave() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let lifecycle = Lifecycle::default();
        let client = Client::new(&lifecycle, 1);
        let body = Guarded::new(Bytes::from_static(b"an event"), Arc::new(|| false));
        let request = Request::post(format!("http://{addr}/")).body(body).expect("a good request");
        let exchange = client.exchange(request, 1_000, Duration::from_secs(10));
        let arrived = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.expect("an end");
            bytes
        };
        let (outcome, arrived) = tokio::join!(exchange, arrived);
        assert!(matches!(outcome, Err(Failure::Lost(_))), "{outcome:?}");
        assert_eq!(arrived, b"");
    }
}

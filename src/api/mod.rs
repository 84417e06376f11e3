//! The publishers' door: HTTP in, the relay out.
//!
//! Each noun has its file and lists its calls there; `router` mounts them, the OpenAPI document
//! describes them. What holds for all of them: nobody gets past `auth` unseen, every error is a
//! `problem::Problem`, every body, wait and connection has a limit, and nothing is decided here
//! that the relay decides: this door parses, asks and answers.

mod auth;
mod batch;
mod body;
mod call;
mod console;
mod coverage;
mod events;
#[cfg(test)]
mod fixture;
mod health;
mod items;
mod openapi;
mod paths;
mod patience;
mod problem;
mod publish;
mod query;
mod router;
mod sessions;
mod silence;
mod upstreams;

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http_body_util::BodyExt;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::api::body::Budget;
use crate::api::patience::Patient;
use crate::api::silence::{Connection, Silent};
use crate::complaints::Complaints;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::proto::grant::Grant;
use crate::relay::Relay;

/// Connections at once that ask nothing; beyond, the one that has been silent longest is closed.
const SILENT_MAX: usize = 1024;

/// Calls at once, from a caller that was let in to the end of the answer. Probes need no place:
/// whether a pod lives is not for its callers to decide.
const CALLS_MAX: usize = 1024;

/// How long a call waits for a place.
const PLACE_TIMEOUT: Duration = Duration::from_secs(1);

/// Event streams at once; the other half of the places stays for publishers.
const LISTENERS_MAX: usize = CALLS_MAX / 2;

/// Whole bodies that all requests together may hold, in batches of the limit's size.
const BODIES_MAX: usize = 4;

/// What hyper holds of one connection's head or body: 1 KiB for each header, and as much again
/// for the target.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

const HEADERS_MAX: usize = 64;

/// How long an answer may find no taker.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long requests in flight may take when the pod leaves.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// After a failed accept, mostly for want of file descriptors: until some were given back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub listen: SocketAddr,
    /// Without any, the listener binds loopback only and answers loopback names only.
    pub keys: Vec<Key>,
    /// One msg as it arrives.
    pub publish_bytes_max: usize,
    /// One batch as it arrives.
    pub batch_bytes_max: usize,
}

/// Who may call: known by the SHA-256 of the bearer token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub name: String,
    pub sha256: [u8; 32],
    pub scopes: Vec<Scope>,
    pub grant: Grant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Publish,
    Sessions,
    Events,
    Metrics,
    /// All of them.
    Admin,
}

/// What the calls share. Cheap to clone.
#[derive(Clone)]
pub struct State(Arc<Shared>);

pub struct Shared {
    config: Config,
    relay: Arc<Relay>,
    metrics: Arc<Metrics>,
    lifecycle: Lifecycle,
    /// What bodies may hold, all together.
    bodies: Budget,
    /// One permit for each call.
    places: Arc<Semaphore>,
    /// One permit for each event stream.
    listeners: Arc<Semaphore>,
    /// The OpenAPI document.
    document: Bytes,
}

impl State {
    pub fn new(
        config: Config,
        relay: Arc<Relay>,
        metrics: Arc<Metrics>,
        lifecycle: Lifecycle,
    ) -> State {
        let bytes_max = config.batch_bytes_max.max(config.publish_bytes_max);
        let document =
            openapi::document(router::calls()).to_json().expect("strings and lists only");
        State(Arc::new(Shared {
            config,
            relay,
            metrics,
            lifecycle,
            bodies: Budget::new(bytes_max.saturating_mul(BODIES_MAX)),
            places: Arc::new(Semaphore::new(CALLS_MAX)),
            listeners: Arc::new(Semaphore::new(LISTENERS_MAX)),
            document: document.into(),
        }))
    }
}

impl Deref for State {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// Answers whoever connects, until the pod leaves: while it drains as always, after that the
/// requests in flight only.
pub async fn serve(listener: TcpListener, state: State) {
    accept(listener, state, Silent::new(SILENT_MAX)).await;
}

async fn accept(listener: TcpListener, state: State, silent: Silent) {
    let router = router::router(state.clone());
    let closing = state.lifecycle.closing().clone();
    let complaints = Complaints::default();
    loop {
        let accepted = tokio::select! {
            () = closing.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, _)) => {
                let lifecycle = state.lifecycle.clone();
                let served = serve_one(socket, silent.connect(), router.clone(), lifecycle);
                state.lifecycle.spawn(served);
            }
            Err(error) => {
                if complaints.are_due() {
                    tracing::warn!(%error, "the API cannot accept");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_one(socket: TcpStream, client: Connection, router: Router, lifecycle: Lifecycle) {
    let (leaving, closing) = (lifecycle.leaving().clone(), lifecycle.closing().clone());
    // Without it the system joins small answers at the cost of time; nothing else hangs on it.
    let _ = socket.set_nodelay(true);
    let (router, asker) = (TowerToHyperService::new(router), client.clone());
    let answer = service_fn(move |request| {
        let asking = asker.ask();
        let answer = router.call(request);
        let leaving = leaving.clone();
        async move {
            let mut response = answer.await?;
            if leaving.is_cancelled() {
                // Whoever keeps connections asks another pod next.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, std::convert::Infallible>(response.map(|body| kept(body, asking)))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Silence is timed here: hyper has one time for an idle connection and for a head.
        .header_read_timeout(None)
        .max_buf_size(BUFFER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(
            TokioIo::new(Patient::new(socket, WRITE_TIMEOUT, client.clone())),
            answer,
        );
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = client.overdue() => None,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            timeout(LEAVE_TIMEOUT, connection).await.ok()
        }
    };
    if let Some(Err(error)) = ended {
        tracing::debug!(%error, "an API connection ended");
    }
}

/// The body, with something that goes when it does.
fn kept(body: Body, kept: impl Send + 'static) -> Body {
    Body::new(body.map_err(move |error| {
        let _ = &kept;
        error
    }))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::api::fixture::{PUBLISH_BYTES_MAX, state};

    /// A connection to a door of its own, and what makes it leave.
    async fn connect() -> (TcpStream, Lifecycle) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let state = state(Vec::new());
        let lifecycle = state.lifecycle.clone();
        lifecycle.spawn(serve(listener, state));
        (TcpStream::connect(addr).await.expect("it listens"), lifecycle)
    }

    /// What comes until it has this text, or the end.
    async fn read_until(socket: &mut TcpStream, text: &str) -> String {
        let mut all = Vec::new();
        let reading = async {
            while !String::from_utf8_lossy(&all).contains(text) {
                if socket.read_buf(&mut all).await.expect("it can be read") == 0 {
                    break;
                }
            }
        };
        timeout(Duration::from_secs(10), reading).await.expect("an answer in time");
        String::from_utf8(all).expect("text")
    }

    async fn say(socket: &mut TcpStream, text: &str) {
        socket.write_all(text.as_bytes()).await.expect("it can be written");
    }

    const POST: &str = "POST /v1/publish/ws/a HTTP/1.1\r\nhost: localhost\r\n";

    #[tokio::test]
    async fn a_connection_carries_one_publish_after_another() {
        let (mut socket, _lifecycle) = connect().await;
        for text in ["one", "two", ""] {
            let length = text.len();
            let head = format!("{POST}content-type: text/plain\r\ncontent-length: {length}");
            say(&mut socket, &format!("{head}\r\n\r\n{text}")).await;
            let answer = read_until(&mut socket, "}").await;
            let status = if text.is_empty() { "422" } else { "202" };
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        }
    }

    #[tokio::test]
    async fn whoever_sends_too_much_gets_to_read_why() {
        let (mut socket, _lifecycle) = connect().await;
        let length = 3 << 20;
        let head = format!("{POST}content-type: text/plain\r\ncontent-length: {length}\r\n\r\n");
        say(&mut socket, &head).await;
        say(&mut socket, &"x".repeat(length)).await;
        let answer = read_until(&mut socket, "}").await;
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("too-big"), "{answer}");
        let expect = "content-type: text/plain\r\nexpect: 100-continue\r\n";
        say(&mut socket, &format!("{POST}{expect}content-length: {length}\r\n\r\n")).await;
        let answer = read_until(&mut socket, "}").await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    }

    #[tokio::test]
    async fn lines_are_answered_while_more_may_come() {
        for (expect, status) in [("", "200"), ("expect: 100-continue\r\n", "100")] {
            let (mut socket, _lifecycle) = connect().await;
            let head = "POST /v1/publish HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: \
                        chunked\r\ncontent-type: application/x-ndjson\r\n";
            say(&mut socket, &format!("{head}{expect}\r\n")).await;
            let answer = read_until(&mut socket, "\r\n\r\n").await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            for path in ["/ws/a", "/none"] {
                let line = format!("{{\"path\":\"{path}\",\"msg\":{{\"payload\":1}}}}\n");
                say(&mut socket, &format!("{:x}\r\n{line}\r\n", line.len())).await;
                let answer = read_until(&mut socket, "}\n").await;
                assert!(answer.contains(if path == "/none" { "404" } else { "202" }), "{answer}");
            }
            let line = format!("\"{}\"", "x".repeat(PUBLISH_BYTES_MAX + 10_000));
            say(&mut socket, &format!("{:x}\r\n{line}\r\n", line.len())).await;
            assert!(read_until(&mut socket, "}\n").await.contains("413"));
            say(&mut socket, "0\r\n\r\n").await;
            assert!(read_until(&mut socket, "0\r\n\r\n").await.ends_with("0\r\n\r\n"));
        }
    }

    #[tokio::test]
    async fn the_silent_are_in_nobodys_way() {
        const SILENT_MAX: usize = 20;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let state = state(Vec::new());
        state.lifecycle.clone().spawn(accept(listener, state, Silent::new(SILENT_MAX)));
        let mut socket = TcpStream::connect(addr).await.expect("it listens");
        say(&mut socket, "GET /v1/events/ws/a HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        read_until(&mut socket, ":\n\n").await;
        let mut silent = Vec::new();
        for _ in 0..SILENT_MAX + 20 {
            let mut socket = TcpStream::connect(addr).await.expect("it listens");
            say(&mut socket, "GET /").await;
            silent.push(socket);
        }
        let mut probe = TcpStream::connect(addr).await.expect("it listens");
        say(&mut probe, "GET /livez HTTP/1.1\r\n\r\n").await;
        assert!(read_until(&mut probe, "}").await.starts_with("HTTP/1.1 200 "));
        assert_eq!(silent[0].read(&mut [0]).await.unwrap_or(0), 0, "the oldest had to go");
        let last = silent.len() - 1;
        assert!(silent[last].try_read(&mut [0]).is_err(), "the others are still waited for");
        say(&mut silent[last], "livez HTTP/1.1\r\n\r\n").await;
        let answer = read_until(&mut silent[last], "}").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(socket.try_read(&mut [0]).is_err(), "a call is not silent");
    }

    #[tokio::test]
    async fn a_call_takes_a_place_and_a_probe_none() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let state = state(Vec::new());
        let places = state.places.clone();
        state.lifecycle.clone().spawn(serve(listener, state));
        let mut socket = TcpStream::connect(addr).await.expect("it listens");
        let ask = |target| format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        say(&mut socket, &ask("/v1/events/ws/a")).await;
        read_until(&mut socket, ":\n\n").await;
        assert_eq!(places.available_permits(), CALLS_MAX - 1);
        let all = u32::try_from(CALLS_MAX - 1).expect("it is small");
        let _all = places.acquire_many(all).await.expect("they are free");
        let mut other = TcpStream::connect(addr).await.expect("it listens");
        say(&mut other, &ask("/livez")).await;
        assert!(read_until(&mut other, "}").await.starts_with("HTTP/1.1 200 "));
        say(&mut other, &ask("/v1/paths")).await;
        assert!(read_until(&mut other, "}").await.starts_with("HTTP/1.1 503 "));
        drop(socket);
        say(&mut other, &ask("/v1/paths")).await;
        assert!(read_until(&mut other, "missing_sessions\":0}").await.starts_with("HTTP/1.1 200 "));
    }

    #[tokio::test]
    async fn streams_end_well_when_the_pod_leaves() {
        let (mut socket, lifecycle) = connect().await;
        say(&mut socket, "GET /v1/events/ws/a HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        assert!(read_until(&mut socket, ":\n\n").await.starts_with("HTTP/1.1 200 "));
        lifecycle.closing().cancel();
        let rest = read_until(&mut socket, "\0").await;
        assert!(rest.ends_with("0\r\n\r\n"), "{rest}");
    }

    #[tokio::test]
    async fn what_is_not_http_is_refused() {
        for head in [
            "\0\0\0\r\n\r\n",
            "GET / HTTP/9.9\r\n\r\n",
            "GET\r\n\r\n",
            "GET /\u{1} HTTP/1.1\r\n\r\n",
        ] {
            let (mut socket, _lifecycle) = connect().await;
            say(&mut socket, head).await;
            let answer = read_until(&mut socket, "\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{head:?}: {answer}");
        }
        let (mut socket, _lifecycle) = connect().await;
        let many = "x: y\r\n".repeat(HEADERS_MAX + 1);
        say(&mut socket, &format!("GET /livez HTTP/1.1\r\n{many}\r\n")).await;
        assert!(read_until(&mut socket, "\r\n\r\n").await.starts_with("HTTP/1.1 431 "));
    }
}

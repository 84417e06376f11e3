//! The publishers' door: HTTP in, the relay out.
//!
//! Each noun has its file and lists its calls there; [`router`] mounts them, the OpenAPI document
//! describes them. What holds for all of them: nobody gets past [`auth`] unseen, every error is a
//! [`problem::Problem`], every body, wait and connection has a limit, and nothing is decided here
//! that the relay decides: this door parses, asks and answers.

mod auth;
mod batch;
mod body;
mod call;
mod console;
mod events;
mod health;
mod openapi;
mod paths;
mod patience;
mod problem;
mod publish;
mod query;
mod sessions;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::routing::MethodRouter;
use axum::{Router, extract, middleware};
use bytes::Bytes;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::api::auth::Access;
use crate::api::body::Budget;
use crate::api::call::Call;
use crate::api::patience::Patient;
use crate::api::problem::{Kind, Problem};
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::proto::grant::Grant;
use crate::relay::Relay;

/// Connections at once; more wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 1024;

/// Event streams at once; the other half of the connections stays for publishers.
const LISTENERS_MAX: usize = CONNECTIONS_MAX / 2;

/// Whole bodies that all requests together may hold, in batches of the limit's size.
const BODIES_MAX: usize = 4;

/// From the first wait for a request to the end of its head; an idle connection is closed then.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

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
        let document = openapi::document(calls()).to_json().expect("strings and lists only");
        State(Arc::new(Shared {
            config,
            relay,
            metrics,
            lifecycle,
            bodies: Budget::new(bytes_max.saturating_mul(BODIES_MAX)),
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
    let router = router(state.clone());
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let closing = state.lifecycle.closing();
    loop {
        let accepted = async {
            let place = connections.clone().acquire_owned().await;
            (place.expect("it is never closed"), listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = closing.cancelled() => return,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((socket, _)) => {
                let connection = connection(socket, router.clone(), closing.clone());
                state.lifecycle.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the API cannot accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(socket: TcpStream, router: Router, closing: CancellationToken) {
    // Without it the system joins small answers at the cost of time; nothing else hangs on it.
    let _ = socket.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(
            TokioIo::new(Patient::new(socket, WRITE_TIMEOUT)),
            TowerToHyperService::new(router),
        );
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            timeout(LEAVE_TIMEOUT, connection).await.ok()
        }
    };
    if let Some(Err(error)) = ended {
        tracing::debug!(%error, "an API connection ended");
    }
}

/// Every call there is.
fn calls() -> Vec<Call> {
    [
        publish::calls(),
        batch::calls(),
        sessions::calls(),
        paths::calls(),
        events::calls(),
        health::calls(),
        openapi::calls(),
        console::calls(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn router(state: State) -> Router {
    let mut routes = BTreeMap::<&str, MethodRouter<State>>::new();
    for call in calls() {
        let (state, access) = (state.clone(), call.access);
        let admit = move |request, next| auth::admit(state.clone(), access, request, next);
        let handler = call.handler.route_layer(middleware::from_fn(admit));
        let route = routes.remove(call.route).unwrap_or_default();
        routes.insert(call.route, route.merge(handler));
    }
    let mut router = Router::new();
    for (route, handlers) in routes {
        router = router.route(route, handlers.fallback(wrong_method));
    }
    router.fallback(unknown_route).with_state(state).layer(middleware::from_fn(problem::finish))
}

async fn wrong_method(extract::State(state): extract::State<State>, request: Request) -> Problem {
    let (parts, _) = request.into_parts();
    if let Err(problem) = auth::caller(&state.config, Access::Key, &parts) {
        return problem;
    }
    let detail = format!("{} is not for this call; Allow says what is", parts.method);
    Problem::new(Kind::MethodNotAllowed, detail)
}

async fn unknown_route(extract::State(state): extract::State<State>, request: Request) -> Problem {
    let (parts, _) = request.into_parts();
    match auth::caller(&state.config, Access::Key, &parts) {
        Ok(_) => Problem::new(
            Kind::UnknownRoute,
            "there is no such call: GET /openapi.json lists them, and publishing is POST \
             /v1/publish/…",
        ),
        Err(problem) => problem,
    }
}

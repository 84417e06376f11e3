//! The clients' door: listener, TLS, upgrade; hands the raw socket to its shard.
//!
//! hyper reads one request per connection and writes one answer; fastwebsockets makes the 101;
//! then the socket leaves the runtime for the shard that its session belongs to, and nothing of the
//! handshake stays behind. Handshakes have bounds of their own (how many at once, how many a
//! second, how long), so that a storm of them does not reach those who are connected.
//!
//! A connection that was accepted has a place, and for a moment a *turn*. Places are many, since
//! most of those who hold one are waited for. Turns are few: what a handshake has its shard do
//! stands in one queue with the broadcasts, and a thousand of them at once would be tens of
//! milliseconds that every message waits.

pub mod encrypted;
pub mod handshake;
pub mod tls;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastwebsockets::upgrade::{UpgradeFut, upgrade};
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::backend::webhook::lanes::Whose;
use crate::complaints::Complaints;
use crate::gateway::encrypted::Encrypted;
use crate::gateway::handshake::{Refusal, Wanted};
use crate::gateway::tls::Certificate;
use crate::hub::command::{Greeting, Newcomer};
use crate::hub::socket::Socket;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::proto::millis::millis;
use crate::proto::pacing::Bucket;
use crate::proto::paths::Origins;
use crate::relay::Relay;
use crate::relay::attachment::{Attachment, Unattached};
use crate::relay::webhooks::Turned;
use crate::trace::span::{Kind, Span, Tracer};

/// Room for the head of one handshake: cookies and tokens of a browser fit, a flood does not.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Headers of one handshake.
const HEADERS_MAX: usize = 64;

/// Seconds after which a client that was turned away for now may come again.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("2");

/// How long the kernel goes on sending to a peer that acknowledges nothing: it finds the dead
/// where no heartbeat can.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// Handshakes at once, for each processor, that are being worked at. Enough to keep it busy; more make
/// none of them faster (`cargo bench --bench fanout -- --rows rush`).
const TURNS_EACH: usize = 16;

/// How long a turn lasts at most: a client that is on the spot needs less, and nobody is to wait
/// longer for one that says nothing, or for a broker.
const TURN: Duration = Duration::from_millis(10);

/// How long to leave the listener alone after it failed: out of descriptors, usually.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub listen: SocketAddr,
    pub tls: Option<Tls>,
    /// For the paths that say nothing of their own.
    pub origins: Origins,
    /// From the accepted socket to the answered request, TLS included.
    pub handshake_timeout: Duration,
    /// Connections at once that have not been upgraded yet; more wait in the listener's backlog.
    pub handshakes_max: usize,
    /// Handshakes begun a second; more are answered 429. `None`: no limit.
    pub handshakes_per_second: Option<u32>,
}

/// PEM files; read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// What every connection shares.
pub struct Gateway {
    config: Config,
    relay: Arc<Relay>,
    metrics: Arc<Metrics>,
    tracer: Tracer,
    certificate: Option<Certificate>,
    pace: Option<Mutex<Bucket>>,
    started: Instant,
}

impl Gateway {
    pub fn new(
        config: Config,
        relay: Arc<Relay>,
        metrics: Arc<Metrics>,
        tracer: Tracer,
        lifecycle: &Lifecycle,
    ) -> Result<Gateway, tls::Unusable> {
        let files = config.tls.clone();
        let certificate = files.map(|files| Certificate::watch(files, lifecycle)).transpose()?;
        let pace = config.handshakes_per_second.map(|rate| Mutex::new(Bucket::new(rate, 0)));
        let started = Instant::now();
        Ok(Gateway { config, relay, metrics, tracer, certificate, pace, started })
    }

    /// Accepts until the pod drains.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, lifecycle: Lifecycle) {
        let places = Arc::new(Semaphore::new(self.config.handshakes_max));
        let processors = available_parallelism().map_or(1, usize::from);
        let turns = Arc::new(Semaphore::new(TURNS_EACH * processors));
        let complaints = Complaints::default();
        loop {
            let accept = async {
                let place = places.clone().acquire_owned().await;
                let turn = turns.clone().acquire_owned().await;
                (place, turn, listener.accept().await)
            };
            let (place, turn, accepted) = tokio::select! {
                accepted = accept => accepted,
                () = lifecycle.draining().cancelled() => return,
            };
            let (Ok(place), Ok(turn)) = (place, turn) else { return };
            match accepted {
                Ok((stream, remote)) => {
                    let connection = self.clone().connection(stream, remote, place, turn);
                    let closing = lifecycle.closing().clone();
                    lifecycle.spawn(async move {
                        tokio::select! {
                            () = connection => {}
                            () = closing.cancelled() => {}
                        }
                    });
                }
                Err(error) => {
                    if complaints.are_due() {
                        tracing::warn!(%error, "cannot accept a connection");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        remote: SocketAddr,
        _place: OwnedSemaphorePermit,
        turn: OwnedSemaphorePermit,
    ) {
        let limit = self.config.handshake_timeout;
        let mut handshake = pin!(self.handshake(stream, remote));
        let mut outcome = tokio::time::timeout(limit.min(TURN), &mut handshake).await;
        drop(turn);
        if outcome.is_err() {
            outcome = tokio::time::timeout(limit.saturating_sub(TURN), handshake).await;
        }
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                self.metrics.handshake("broken");
                tracing::debug!(%remote, %error, "a handshake broke off");
            }
            Err(_) => {
                self.metrics.handshake("timeout");
                tracing::debug!(%remote, "a handshake took too long");
            }
        }
    }

    async fn handshake(&self, stream: TcpStream, remote: SocketAddr) -> io::Result<()> {
        prepare(&stream)?;
        match &self.certificate {
            None => self.upgrade(stream, remote, plain).await,
            Some(certificate) => {
                let stream = Encrypted::accept(stream, certificate.config()).await?;
                self.upgrade(stream, remote, Encrypted::into_socket).await
            }
        }
    }

    /// Answers one request; on a 101, hands the stream's socket to its shard.
    async fn upgrade<S>(
        &self,
        stream: S,
        remote: SocketAddr,
        raw: fn(S) -> io::Result<Socket>,
    ) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let upgraded = Mutex::new(None);
        let service = service_fn(|request| async {
            let answer = self.answer(request, remote).await;
            let (response, session) = answer.unwrap_or_else(|refusal| {
                self.metrics.handshake(refusal.result());
                (refused(&refusal), None)
            });
            *upgraded.lock().unwrap_or_else(PoisonError::into_inner) = session;
            Ok::<_, Infallible>(response)
        });
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.config.handshake_timeout)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await
            .map_err(io::Error::other)?;
        let session = upgraded.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(Session { upgrade, attachment, mut greeting, mut span }) = session {
            let socket = upgrade.await.map_err(io::Error::other)?.into_inner().into_inner();
            let parts = socket
                .downcast::<TokioIo<S>>()
                .map_err(|_| io::Error::other("the upgraded stream is not the accepted one"))?;
            greeting.read = parts.read_buf;
            attachment.open(raw(parts.io.into_inner())?, greeting);
            self.metrics.handshake("accepted");
            span.number("http.response.status_code", 101);
        }
        Ok(())
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        remote: SocketAddr,
    ) -> Result<(Response<Full<Bytes>>, Option<Session>), Refusal> {
        let paths = self.relay.paths();
        let mut wanted = handshake::read(&request, &paths, &self.config.origins)?;
        if let Some(pace) = &self.pace {
            let now_ms = millis(self.started.elapsed());
            if !pace.lock().unwrap_or_else(PoisonError::into_inner).take(now_ms) {
                return Err(Refusal::TooOften);
            }
        }
        let mut span = self.tracer.span(Kind::Handshake, wanted.trace.as_ref());
        span.text("pathcast.path", wanted.configured.pattern.text());
        wanted.greeting.traceparent = span.context();
        // Without one each of its events begins a trace of its own: what lasts as long as a session is of
        // use to nobody who did not ask for it.
        wanted.trace = wanted.trace.and(span.context());
        match self.let_in(request, remote, wanted).await {
            Ok((response, session)) => Ok((response, Some(Session { span, ..session }))),
            Err(refusal) => {
                span.number("http.response.status_code", refusal.status().as_u16().into());
                span.fail(&refusal.result());
                Err(refusal)
            }
        }
    }

    /// Gives a client its place, and the answer that says so.
    async fn let_in(
        &self,
        mut request: Request<Incoming>,
        remote: SocketAddr,
        wanted: Wanted,
    ) -> Result<(Response<Full<Bytes>>, Session), Refusal> {
        let Wanted { path, configured, agreement, mut greeting, trace, offered } = wanted;
        let (deflates, trace) = (agreement.is_some(), trace.map(Box::new));
        let newcomer =
            Newcomer { path: path.clone(), configured: configured.clone(), deflates, trace };
        let attached = Attachment::begin(&self.relay, newcomer).await;
        let attachment = attached.map_err(|unattached| match unattached {
            Unattached::Removed => Refusal::UnknownPath,
            Unattached::Full => Refusal::Unavailable("this server is full; try again"),
            Unattached::TooManyPaths => {
                Refusal::Unavailable("there are too many paths of this kind; try again")
            }
            Unattached::Leaving => LEAVING,
            Unattached::Broker => {
                Refusal::Unavailable("this server cannot reach its broker; try again")
            }
        })?;
        let session = attachment.id();
        let introduced = self.relay.introduce(
            Whose { session, path, configured },
            remote,
            &mut greeting,
            &offered,
        );
        introduced.await.map_err(turned_away)?;
        // A backend takes its time, and meanwhile the sessions may have begun to be closed.
        if self.relay.is_draining() {
            return Err(LEAVING);
        }
        let (response, upgrade) = upgrade(&mut request)
            .map_err(|_| Refusal::Malformed("the handshake cannot be answered"))?;
        let mut response = response.map(|_| Full::default());
        if let Some(subprotocol) = &greeting.subprotocol
            && let Ok(value) = HeaderValue::from_str(subprotocol)
        {
            response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, value);
        }
        if let Some(agreement) = agreement {
            let value = HeaderValue::from_static(agreement.answer());
            response.headers_mut().insert(header::SEC_WEBSOCKET_EXTENSIONS, value);
        }
        Ok((response, Session { upgrade, attachment, greeting, span: Span::default() }))
    }
}

const LEAVING: Refusal = Refusal::Unavailable("this server is leaving; try again");

/// A session whose 101 is on its way.
struct Session {
    upgrade: UpgradeFut,
    attachment: Attachment,
    greeting: Greeting,
    span: Span,
}

fn turned_away(turned: Turned) -> Refusal {
    match turned {
        Turned::Away { status, line, retry_after } => Refusal::Vetoed {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN),
            line,
            retry_after: retry_after.and_then(|text| HeaderValue::from_str(&text).ok()),
        },
        Turned::Unanswered => Refusal::Unanswered,
        Turned::Ended => LEAVING,
    }
}

fn refused(refusal: &Refusal) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{}\n", refusal.line())));
    *response.status_mut() = refusal.status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    // One request per connection. Only here: a 101 says `Connection: upgrade` and nothing else.
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    match refusal.status() {
        StatusCode::UPGRADE_REQUIRED => {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
        }
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        _ => {}
    }
    if let Refusal::Vetoed { retry_after: Some(retry_after), .. } = refusal {
        headers.insert(header::RETRY_AFTER, retry_after.clone());
    }
    response
}

/// Joined writes want no waiting for more, and a dead peer wants to be found.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(USER_TIMEOUT))
}

fn plain(stream: TcpStream) -> io::Result<Socket> {
    Ok(Socket::plain(stream.into_std()?))
}

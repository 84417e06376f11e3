//! A webhook backend in the test process: it writes down what it is asked, and answers as it is told to.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::gateway::Gateway;
use super::wait::eventually;

/// A request as it came, whole.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: Method,
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

pub type Answer = Response<Body>;
type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;
type Behaviour = Arc<dyn Fn(Asked) -> Answering + Send + Sync>;

pub struct Backend {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    asked: Mutex<Vec<Asked>>,
    behaviour: Mutex<Behaviour>,
}

impl Asked {
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).unwrap_or_else(|| panic!("no {name}: {self:?}"));
        value.to_str().expect("headers are ASCII")
    }

    pub fn kind(&self) -> &str {
        self.header("ce-type").strip_prefix("pathcast.").expect("of ours")
    }

    pub fn seq(&self) -> u64 {
        self.header("ce-seq").parse().expect("a number")
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Backend {
    /// One that takes everything and says nothing.
    pub async fn start() -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let shared = Shared { asked: Mutex::default(), behaviour: Mutex::new(always(204)) };
        let (addr, shared) = (listener.local_addr().expect("it is bound"), Arc::new(shared));
        let serving = tokio::spawn(serve(listener, shared.clone()));
        Backend { addr, shared, serving }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook?a=b", self.addr)
    }

    /// Answers like this from now on.
    pub fn answer<F: Future<Output = Answer> + Send + 'static>(
        &self,
        answer: impl Fn(Asked) -> F + Send + Sync + 'static,
    ) {
        let behaviour: Behaviour = Arc::new(move |asked| Box::pin(answer(asked)));
        *self.shared.behaviour.lock().expect("nobody panicked") = behaviour;
    }

    /// Everything that does not wait for anything.
    pub fn say(&self, answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) {
        self.answer(move |asked| std::future::ready(answer(&asked)));
    }

    /// From now on answers those that are meant with 204 once it is sent `true`, all others at once.
    pub fn hold(
        &self,
        is_meant: impl Fn(&Asked) -> bool + Send + Sync + 'static,
    ) -> watch::Sender<bool> {
        let (go, gone) = watch::channel(false);
        self.answer(move |asked| {
            let (mut gone, is_meant) = (gone.clone(), is_meant(&asked));
            async move {
                if is_meant {
                    let _ = gone.wait_for(|gone| *gone).await;
                }
                status(204)
            }
        });
        go
    }

    /// Answers nothing, ever.
    pub fn hang(&self) {
        self.answer(|_| std::future::pending());
    }

    /// As a crash would: every connection breaks, and nobody listens.
    pub async fn kill(&mut self) {
        self.serving.abort();
        let _ = (&mut self.serving).await;
    }

    /// Begins anew after `kill`, at the same address.
    pub async fn restart(&mut self) {
        let addr = self.addr;
        let listener = eventually("the port", async || TcpListener::bind(addr).await.ok()).await;
        self.serving = tokio::spawn(serve(listener, self.shared.clone()));
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().expect("nobody panicked").clone()
    }

    /// Everything asked of this type.
    pub fn of(&self, kind: &str) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.kind() == kind).collect()
    }

    /// Waits until so many of this type were asked.
    pub async fn wait(&self, kind: &str, count: usize) -> Vec<Asked> {
        eventually(&format!("{count} of {kind}"), async || {
            Some(self.of(kind)).filter(|asked| asked.len() >= count)
        })
        .await
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// An answer with nothing in it.
pub fn status(status: u16) -> Answer {
    Response::builder().status(status).body(Body::empty()).expect("a good answer")
}

pub fn answer(status: u16, content_type: &str, body: impl Into<Body>) -> Answer {
    let answer = Response::builder().status(status).header("content-type", content_type);
    answer.body(body.into()).expect("a good answer")
}

fn always(code: u16) -> Behaviour {
    Arc::new(move |_| Box::pin(std::future::ready(status(code))))
}

/// Dropped, it breaks every connection.
async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let shared = shared.clone();
                connections.spawn(async move {
                    let service = service_fn(|request| take(request, &shared));
                    let served = http1::Builder::new();
                    let _ = served.serve_connection(TokioIo::new(stream), service).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn take(request: Request<Incoming>, shared: &Shared) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return Ok(status(400)) };
    let target = head.uri.to_string();
    let (method, headers) = (head.method, head.headers);
    let asked = Asked { method, target, headers, body: body.to_bytes() };
    shared.asked.lock().expect("nobody panicked").push(asked.clone());
    let behaviour = shared.behaviour.lock().expect("nobody panicked").clone();
    Ok(behaviour(asked).await)
}

/// A gateway with a plain path and one with `wholemsg`, both of that backend.
pub async fn start(backend: &Backend, settings: &str, policy: &str) -> Gateway {
    let url = backend.url();
    Gateway::start(&format!(
        r#"
{settings}
[[path]]
path = "/ws"
subprotocols = ["v1"]
backend = {{ webhook = "{url}"{policy} }}
[[path]]
path = "/ws/whole/{{room}}"
wholemsg = true
backend = {{ webhook = "{url}" }}
[[path]]
path = "/ws/other"
"#
    ))
    .await
}

/// The counter of events for webhooks that came to this.
pub fn series(result: &str) -> String {
    format!("pathcast_backend_events_total{{backend=\"webhook\",result=\"{result}\"}}")
}

/// Waits until the gateway has logged all of these.
pub async fn logged(gateway: &Gateway, texts: &[&str]) {
    eventually(&format!("{texts:?} in the log"), async || {
        let log = gateway.log();
        texts.iter().all(|text| log.contains(text)).then_some(())
    })
    .await;
}

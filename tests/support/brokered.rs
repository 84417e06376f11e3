//! A pod that is nothing but its broker: it writes down what reaches it, in order.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pathcast::broker::redis::{Address, Config, Redis};
use pathcast::broker::{Broker, Failure, Letter, Pending, Publication, Receiver};
use pathcast::lifecycle::Lifecycle;
use pathcast::metrics::Metrics;
use pathcast::proto::ask::{Answer, Ask, Reach};
use pathcast::proto::grant::Grant;
use pathcast::proto::msg::Content;
use pathcast::proto::path::Path;
use pathcast::proto::session_id::{PodId, SessionId};
use pathcast::proto::telling::{Place, Told, What};
use pathcast::proto::traceparent::Traceparent;
use uuid::Uuid;

use super::redis::Redis as Server;
use super::wait::{eventually, within};

/// Short, so that a pod is known to be dead before a test loses its patience.
/// What a stranger may publish at once.
pub const PUBLISH_BYTES_MAX: usize = 100_000;

pub const LEASE_TTL: Duration = Duration::from_secs(1);

/// A configured path of every pod.
pub const CONFIGURED: &str = "/ws/{here}";

/// What reached a pod.
#[derive(Clone, Default)]
pub struct Heard {
    lines: Arc<Mutex<Vec<String>>>,
    wanted: Arc<Mutex<HashSet<Path>>>,
    tapped: Arc<Mutex<Vec<String>>>,
}

/// A broker of many pods, with what its pod heard.
pub struct Pod {
    pub id: PodId,
    pub broker: Arc<dyn Broker>,
    pub heard: Heard,
    pub metrics: Arc<Metrics>,
    pub lifecycle: Lifecycle,
}

impl Heard {
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("nobody panicked").clone()
    }

    pub fn clear(&self) {
        self.lines.lock().expect("nobody panicked").clear();
    }

    /// Waits until so many lines were heard, then tells them.
    pub async fn wait(&self, count: usize) -> Vec<String> {
        eventually(&format!("{count} lines"), async || {
            Some(self.lines()).filter(|lines| lines.len() >= count)
        })
        .await
    }

    /// From now on somebody here wants that path.
    pub fn want(&self, path: &Path) {
        self.wanted.lock().expect("nobody panicked").insert(path.clone());
    }

    /// The taps that were seen last.
    pub fn tapped(&self) -> Vec<String> {
        self.tapped.lock().expect("nobody panicked").clone()
    }

    fn note(&self, line: String) {
        self.lines.lock().expect("nobody panicked").push(line);
    }
}

impl Receiver for Heard {
    fn published(&self, _: &Path) {}

    fn broadcast(&self, path: &Path, content: &Content, _: Option<&Traceparent>) -> bool {
        self.note(format!("{path} {}", text(content)));
        self.wanted.lock().expect("nobody panicked").contains(path)
    }

    fn upstream(&self, name: &str, content: Content) {
        self.note(format!("upstream {name} {}", text(&content)));
    }

    fn ask(&self, ask: Ask, _: Option<&Traceparent>) -> Pending<Answer> {
        let answer = match ask {
            Ask::Unicast { content, .. } => {
                self.note(format!("unicast {}", text(&content)));
                Answer::Delivered
            }
            Ask::Census => Answer::Census(Vec::new()),
            _ => Answer::Gone,
        };
        Box::pin(async { Ok(answer) })
    }

    fn gap(&self) {
        self.note("gap".to_owned());
    }

    fn told(&self, configured: &str, told: Told) {
        let Told { from, place: Place { stretch, number }, what } = told;
        let what = match what {
            What::Event { id, kind, path, json } => {
                let json = String::from_utf8(json.to_vec()).expect("a text");
                format!("{id} {} {path} {json}", kind.as_str())
            }
            What::Beat => "beat".to_owned(),
            What::Last => "last".to_owned(),
        };
        self.note(format!("{configured} {from} {stretch}:{number} {what}"));
    }

    fn configured(&self) -> Vec<Arc<str>> {
        vec![CONFIGURED.into(), "/ws/untapped".into()]
    }

    fn tapped(&self, taps: &[(Arc<str>, Duration)]) {
        let tapped = taps.iter().map(|(configured, _)| configured.to_string()).collect();
        *self.tapped.lock().expect("nobody panicked") = tapped;
    }
}

impl Pod {
    /// A pod on that Redis, with its link up.
    pub async fn start(id: PodId, server: &Server) -> Pod {
        Pod::start_at(id, &server.url()).await
    }

    pub async fn start_at(id: PodId, url: &str) -> Pod {
        let heard = Heard::default();
        let metrics = Arc::new(Metrics::new().expect("families have names of their own"));
        let lifecycle = Lifecycle::default();
        let config = Config {
            address: Address::parse(url).expect("a good URL"),
            prefix: "pathcast".into(),
            lease_ttl: LEASE_TTL,
            publish_bytes_max: PUBLISH_BYTES_MAX,
            ask_timeout: Duration::from_secs(2),
        };
        let broker = Redis::start(config, id, heard.clone(), metrics.clone(), &lifecycle);
        let broker = Arc::new(broker.expect("a good address"));
        let pod = Pod { id, broker, heard, metrics, lifecycle };
        pod.up().await;
        pod
    }

    pub fn is_up(&self) -> bool {
        self.metrics.broker.up.get() == 1
    }

    /// Waits until the link is up.
    pub async fn up(&self) {
        eventually("the link to Redis", async || self.is_up().then_some(())).await;
    }

    pub async fn subscribe(&self, path: &Path) {
        self.heard.want(path);
        in_time(self.broker.subscribe(path)).await.expect("subscribed");
    }

    pub fn publish(&self, path: &Path, text: impl ToString) -> Pending<u64> {
        publish(&*self.broker, path, text)
    }

    pub async fn unicast(&self, pod: PodId, text: impl ToString) -> Result<Answer, Failure> {
        in_time(self.broker.ask(unicast(pod, text))).await
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.lifecycle.closing().cancel();
    }
}

/// Publishes a text.
pub fn publish(broker: &dyn Broker, path: &Path, text: impl ToString) -> Pending<u64> {
    broker.publish(Publication {
        id: Uuid::now_v7(),
        path: path.clone(),
        content: Content::text(text.to_string()),
        traceparent: None,
    })
}

/// A unicast to some session of that pod.
pub fn unicast(pod: PodId, text: impl ToString) -> Letter {
    let to = SessionId { pod, ..SessionId::MIN };
    let reach = Reach::Granted(Grant::All);
    Letter::new(pod, Ask::Unicast { to, reach, content: Content::text(text.to_string()) })
}

pub async fn in_time<T>(pending: Pending<T>) -> Result<T, Failure> {
    within("an answer of the broker", pending).await
}

pub fn path(text: &str) -> Path {
    Path::parse(text).expect("a good path")
}

fn text(content: &Content) -> String {
    let (_, bytes) = content.frame(false).expect("something to send");
    String::from_utf8(bytes.to_vec()).expect("a text")
}

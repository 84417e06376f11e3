//! A collector of spans: rotel, a real OTLP receiver, as a child process that prints what it gets.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use super::gateway::keep_log;
use super::redis::free_port;
use super::wait::{eventually, until};

const AGENT: &str = "import rotel, os; print(os.path.dirname(rotel.__file__) + '/rotel-agent')";

pub struct Collector {
    child: Child,
    /// Where it takes spans over gRPC.
    pub port: u16,
    printed: Arc<Mutex<String>>,
    /// For what it writes; gone with it.
    _dir: tempfile::TempDir,
}

/// A span as it was received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received {
    pub name: String,
    pub trace: String,
    pub id: String,
    /// Empty where the trace begins.
    pub parent: String,
    pub kind: String,
    /// Of the process it came from.
    pub resource: BTreeMap<String, String>,
    pub attributes: BTreeMap<String, String>,
}

impl Collector {
    pub fn start() -> Collector {
        let python = Command::new("python3").args(["-c", AGENT]).output().expect("python3 runs");
        let agent = String::from_utf8(python.stdout).expect("text");
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let (port, other) = (free_port(), free_port());
        let mut command = Command::new(agent.trim());
        command.args(["start", "--exporter", "blackhole"]);
        command.args(["--debug-log", "traces", "--debug-log-verbosity", "detailed"]);
        command.args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{port}")]);
        command.args(["--otlp-http-endpoint", &format!("127.0.0.1:{other}")]);
        command.arg("--pid-file").arg(dir.path().join("pid"));
        command.arg("--log-file").arg(dir.path().join("log"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("rotel is installed: tests/run.sh does that");
        let stdout = child.stdout.take().expect("stdout was piped");
        let printed = Arc::new(Mutex::new(String::new()));
        let keep = printed.clone();
        std::thread::spawn(move || keep_log(stdout, &keep));
        until("a collector that listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Collector { child, port, printed, _dir: dir }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What has been received so far.
    pub fn spans(&self) -> Vec<Received> {
        read(&self.printed.lock().expect("no holder of it panics"))
    }

    /// The spans of a trace, once there are so many.
    pub async fn trace(&self, trace: &str, count: usize) -> Vec<Received> {
        eventually(&format!("{count} spans of {trace}"), async || {
            let spans = self.spans().into_iter().filter(|span| span.trace == trace);
            Some(spans.collect::<Vec<_>>()).filter(|spans| spans.len() >= count)
        })
        .await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the collector got:\n{:#?}\n---", self.spans());
        }
    }
}

/// What stands behind a name and a colon, line by line; attributes as `-> name: Type(value)`.
fn read(printed: &str) -> Vec<Received> {
    let (mut spans, mut resource) = (Vec::<Received>::new(), BTreeMap::new());
    let mut is_resource = false;
    for line in printed.lines().map(str::trim) {
        if line.starts_with("ResourceSpans #") {
            resource.clear();
            is_resource = true;
        } else if line.starts_with("Span #") {
            is_resource = false;
            spans.push(Received { resource: resource.clone(), ..Received::default() });
        }
        let Some((name, value)) = line.split_once(':') else { continue };
        let (name, value) = (name.trim(), value.trim());
        if let Some(attribute) = name.strip_prefix("-> ") {
            let inner = value.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
            let (attribute, inner) = (attribute.to_owned(), inner.unwrap_or(value).to_owned());
            match spans.last_mut().filter(|_| !is_resource) {
                Some(span) => span.attributes.insert(attribute, inner),
                None => resource.insert(attribute, inner),
            };
        } else if let Some(span) = spans.last_mut().filter(|_| !is_resource) {
            match name {
                "Trace ID" => span.trace = value.to_owned(),
                "Parent ID" => span.parent = value.to_owned(),
                "ID" => span.id = value.to_owned(),
                "Name" => span.name = value.to_owned(),
                "Kind" => span.kind = value.to_owned(),
                _ => {}
            }
        }
    }
    spans
}

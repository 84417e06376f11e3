//! A gateway as its users have it: the binary, a configuration file, two listeners, signals.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use rustix::process::{Resource, Signal};
use serde_json::Value;

use super::client::{self, Client};
use super::events::Events;
use super::process;
use super::wait::{DEADLINE, eventually, poll_pause, within};

/// Both listeners on ports that the kernel chooses.
pub const DOORS: &str = "[clients]\nlisten = \"127.0.0.1:0\"\n[api]\nlisten = \"127.0.0.1:0\"\n";

/// The build under test.
const BINARY: &str = env!("CARGO_BIN_EXE_pathcast");

pub struct Gateway {
    child: Child,
    /// Holds the configuration; gone with the gateway.
    _dir: tempfile::TempDir,
    log: Arc<Mutex<String>>,
    pub config_file: PathBuf,
    /// The clients' door.
    pub clients: SocketAddr,
    /// The publishers' door, as the start of a URL.
    pub api: String,
    pub http: reqwest::Client,
}

/// What the publishers' door said.
#[derive(Debug, Clone)]
pub struct Said {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Said {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

impl Gateway {
    /// Starts one with [`DOORS`] and the rest of a configuration.
    pub async fn start(rest: &str) -> Gateway {
        Gateway::start_whole(&format!("{DOORS}{rest}"), &[]).await
    }

    /// As [`Gateway::start`], of the build whose path `PATHCAST_PEER` names; of this one if it is
    /// not set.
    pub async fn start_peer(rest: &str) -> Gateway {
        let peer = std::env::var_os("PATHCAST_PEER").unwrap_or_else(|| BINARY.into());
        Gateway::start_binary(&peer, &format!("{DOORS}{rest}"), &[]).await
    }

    /// Starts one with a whole configuration and additional environment variables.
    pub async fn start_whole(config: &str, environment: &[(&str, &str)]) -> Gateway {
        Gateway::start_binary(BINARY.as_ref(), config, environment).await
    }

    /// Starts one that logs to there.
    pub async fn start_logging_to(log: impl Into<Stdio>, rest: &str) -> Gateway {
        let (dir, config_file) = write_config(&format!("{DOORS}{rest}"));
        let mut command = command(BINARY.as_ref(), &config_file, &[]);
        command.stderr(log);
        Gateway::run(command, dir, config_file).await
    }

    /// Starts one that may open so many files.
    pub async fn start_with_files(files: u32, rest: &str) -> Gateway {
        let (dir, config_file) = write_config(&format!("{DOORS}{rest}"));
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -n $0 && exec \"$@\""]).arg(files.to_string()).arg(BINARY);
        Gateway::run(complete(shell, &config_file, &[]), dir, config_file).await
    }

    async fn start_binary(binary: &OsStr, config: &str, environment: &[(&str, &str)]) -> Gateway {
        let (dir, config_file) = write_config(config);
        let mut command = command(binary, &config_file, environment);
        // Only who tests leaving waits for it.
        if binary == BINARY && !config.contains("[drain]") {
            command.env("PATHCAST__DRAIN__SETTLE", "off").env("PATHCAST__DRAIN__WINDOW", "off");
        }
        Gateway::run(command, dir, config_file).await
    }

    async fn run(mut command: Command, dir: tempfile::TempDir, config_file: PathBuf) -> Gateway {
        raise_files_limit();
        let mut child = command.spawn().expect("the built binary starts");

        let log = Arc::new(Mutex::new(String::new()));
        if let Some(stderr) = child.stderr.take() {
            let keep = Arc::clone(&log);
            std::thread::spawn(move || keep_log(stderr, &keep));
        }
        let stdout = child.stdout.take().expect("stdout was piped");
        let (say, said) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Nobody listens after the addresses are known; the pipe is emptied all the same.
                let _ = say.send(line);
            }
        });

        let (mut clients, mut api) = (None, None);
        let addresses = tokio::task::spawn_blocking(move || {
            while clients.is_none() || api.is_none() {
                let line = said.recv_timeout(DEADLINE).ok()?;
                clients = clients.or_else(|| address_after(&line, "clients"));
                api = api.or_else(|| address_after(&line, "api"));
            }
            clients.zip(api)
        });
        let addresses = addresses.await.expect("waiting for lines does not panic");
        let Some((clients, api)) = addresses else {
            let _ = child.kill();
            let status = child.wait();
            let log = log.lock().expect("no holder of the log panics");
            let config = std::fs::read_to_string(&config_file).expect("it was written");
            panic!("no addresses on stdout; ended with {status:?}, and said:\n{log}\n{config}");
        };
        // Whatever a developer's environment says of proxies, this is loopback.
        let http = reqwest::Client::builder().no_proxy().build().expect("a plain client is built");
        let api = format!("http://{api}");
        Gateway { child, _dir: dir, log, config_file, clients, api, http }
    }

    /// Opens a WebSocket; a refusal is a failed test.
    pub async fn open(&self, path: &str) -> Client {
        client::open(self.clients, path).await
    }

    /// Opens a WebSocket and learns its session id from a listener of that path.
    pub async fn open_known(&self, path: &str, events: &mut Events) -> (Client, String) {
        let client = self.open(path).await;
        let session = events.session_from(client.local).await;
        (client, session)
    }

    /// Publishes a msg, given as JSON text.
    pub async fn publish(&self, path: &str, msg: impl Into<String>) -> Said {
        self.post(&format!("/v1/publish{path}"), "application/json", msg.into()).await
    }

    /// Publishes and insists on the 202.
    pub async fn broadcast(&self, path: &str, msg: impl Into<String>) {
        let said = self.publish(path, msg).await;
        assert_eq!(said.status, 202, "{}", said.text);
    }

    pub async fn post(
        &self,
        target: &str,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> Said {
        send(self.call("POST", target).header("content-type", content_type).body(body)).await
    }

    pub async fn fetch(&self, target: &str) -> Said {
        send(self.call("GET", target)).await
    }

    /// A request at the publishers' door, to be completed and sent.
    pub fn call(&self, method: &str, target: &str) -> reqwest::RequestBuilder {
        let method = method.parse().expect("a method");
        self.http.request(method, format!("{}{target}", self.api))
    }

    /// Takes another configuration into place at once, as an editor or a ConfigMap does.
    pub fn replace_config(&self, config: &str) {
        replace(&self.config_file, config);
    }

    /// Hears the events of a path from now on.
    pub async fn listen(&self, path: &str) -> Events {
        let request = self.call("GET", &format!("/v1/events{path}"));
        let response = within("a stream of events", request.send()).await;
        let response = response.expect("the publishers' door answers");
        assert_eq!(response.status(), 200, "listening to {path}");
        Events::new(response)
    }

    /// Waits until it takes clients and publishers, which with Redis is when it has reached that.
    pub async fn ready(&self) {
        let is_ready = async {
            while self.fetch("/readyz").await.status != 200 {
                poll_pause().await;
            }
        };
        within("a pod that is ready", is_ready).await;
    }

    /// The value of one series of its metrics, labels in their order; 0 when there is none.
    pub async fn counted(&self, series: &str) -> u64 {
        let metrics = self.fetch("/metrics").await.text;
        let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().expect("a number"))
    }

    pub fn signal(&self, signal: Signal) {
        process::signal(&self.child, signal);
    }

    /// Waits for the end of the process.
    pub async fn exit(&mut self) -> ExitStatus {
        eventually("the gateway's end", async || {
            self.child.try_wait().expect("an own child can be waited for")
        })
        .await
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("an own child can be waited for").is_none()
    }

    /// Resident memory, in bytes.
    pub fn rss_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .expect("a running child has a status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
        let kib: u64 = kib.and_then(|kib| kib.parse().ok()).expect("VmRSS is in kB");
        kib * 1024
    }

    /// Processor time so far, of all threads.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))
            .expect("a running child has a state");
        // Behind the name, which may hold anything, they are the 12th and 13th (proc(5)).
        let (_, fields) = stat.rsplit_once(')').expect("the name is in parentheses");
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
        Duration::from_millis(ticks * 10)
    }

    pub fn log(&self) -> String {
        self.log.lock().expect("no holder of the log panics").clone()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let ended = self.child.try_wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the gateway ({ended:?} before it was killed) said:\n{}---", self.log());
        }
    }
}

/// What a gateway says on stderr that cannot start with this configuration.
pub async fn fail_to_start(config: &str) -> String {
    let (dir, config_file) = write_config(config);
    let log = dir.path().join("stderr");
    let stderr = std::fs::File::create(&log).expect("a temporary file can be written");
    let child = command(BINARY.as_ref(), &config_file, &[]).stderr(stderr).spawn();
    let mut child = child.expect("the built binary starts");
    let ended = tokio::time::timeout(DEADLINE, async {
        loop {
            match child.try_wait().expect("an own child can be waited for") {
                Some(status) => return status,
                None => poll_pause().await,
            }
        }
    });
    let ended = ended.await;
    let _ = child.kill();
    let said = std::fs::read_to_string(&log).expect("it was created");
    assert!(ended.is_ok_and(|status| !status.success()), "it started with {config}: {said}");
    said
}

fn write_config(config: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let config_file = dir.path().join("pathcast.toml");
    std::fs::write(&config_file, config).expect("a temporary file can be written");
    (dir, config_file)
}

fn command(binary: &OsStr, config_file: &Path, environment: &[(&str, &str)]) -> Command {
    complete(Command::new(binary), config_file, environment)
}

fn complete(mut command: Command, config_file: &Path, environment: &[(&str, &str)]) -> Command {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PATHCAST")) {
        command.env_remove(name);
    }
    command.arg("--config").arg(config_file).envs(environment.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Sends a request of the caller's making.
pub async fn send(request: reqwest::RequestBuilder) -> Said {
    let response = within("an answer", request.send()).await.expect("the publishers' door answers");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = within("an answer's body", response.text()).await.expect("the body is whole");
    Said { status, headers, text }
}

/// Thousands of sockets need more files than many systems grant at first.
fn raise_files_limit() {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(Resource::Nofile, limit).expect("up to the maximum is allowed");
}

/// Puts a file in the place of another, so that nobody sees half of it.
pub fn replace(file: &Path, text: &str) {
    let next = file.with_extension("next");
    std::fs::write(&next, text).expect("a file can be written");
    std::fs::rename(&next, file).expect("a file can be renamed");
}

fn address_after(line: &str, mark: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(mark)?;
    let (_, rest) = rest.split_once("://")?;
    let end = rest.find(|char: char| " /\"".contains(char)).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// Keeps what a child says. Takes bytes, not lines: what a crash left half written counts most.
pub fn keep_log(mut from: impl Read, log: &Mutex<String>) {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        let text = String::from_utf8_lossy(&bytes[..read]);
        log.lock().expect("no holder of the log panics").push_str(&text);
    }
}

//! A server under load: a child process, ended with its owner.

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use pathcast::cli::load::crowd::Crowd;
use pathcast::cli::load::line::Trust;
use pathcast::cli::load::publisher::Publisher;
use tempfile::TempDir;

use crate::certificate;
use crate::limit::Limit;
use crate::process::Process;

/// How long a server may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(10);

/// The path of the crowd.
pub const CROWD: &str = "/crowd";

/// The path beside it, with a single client.
pub const ASIDE: &str = "/aside";

/// A path with a webhook, where there is one.
pub const HOOKED: &str = "/hooked";

/// A pattern, for crowds with a path for each client.
pub const ROOMS: &str = "/rooms/{room}";

/// What clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Plain,
    Tls,
}

#[derive(Debug, Clone)]
pub struct Setup {
    pub shards: usize,
    /// Processors, as `taskset` takes them; `None`: all.
    pub cpus: Option<String>,
    pub door: Door,
    /// Of the crowd's path, in seconds.
    pub heartbeat_s: u64,
    /// Where its Redis is, if it has one.
    pub redis: Option<String>,
    /// Of the shards, as it is written.
    pub join_pause: &'static str,
    /// Further settings of the crowd's path.
    pub crowd: &'static str,
    /// Where the webhook of one more path is, if there is one.
    pub webhook: Option<SocketAddr>,
}

pub struct Server {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
    pub clients: SocketAddr,
    pub api: SocketAddr,
    pub process: Process,
    /// If clients speak TLS.
    trust: Option<Trust>,
    /// Of the settings, if it has any.
    folder: Option<TempDir>,
}

impl Setup {
    /// As a file of settings, in a folder that goes with its value.
    fn write(&self) -> anyhow::Result<(TempDir, PathBuf)> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("bench.toml");
        std::fs::write(&file, settings(self))?;
        Ok((folder, file))
    }
}

impl Server {
    /// Starts a gateway on free ports; when this returns, its doors are open.
    pub fn gateway(program: &Path, setup: &Setup) -> anyhow::Result<Server> {
        let (folder, file) = setup.write()?;
        let mut trust = None;
        if let Door::Tls = setup.door {
            let path = folder.path();
            let (cert, key) = (path.join("tls.crt"), path.join("tls.key"));
            trust = Some(certificate::write(&cert, &key)?);
            let (cert, key) = (cert.display(), key.display());
            let section = format!("[clients.tls]\ncert = \"{cert}\"\nkey = \"{key}\"\n");
            let mut settings = std::fs::OpenOptions::new().append(true).open(&file)?;
            settings.write_all(section.as_bytes())?;
        }
        let mut command = pinned(program, setup.cpus.as_deref());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PATHCAST") {
                command.env_remove(name);
            }
        }
        command.arg("--config").arg(&file);
        let mut server = Server::start(command)?;
        server.trust = trust;
        server.folder = Some(folder);
        Ok(server)
    }

    /// Starts a gateway within this very program, which counts its allocations.
    pub fn counted(setup: &Setup) -> anyhow::Result<Server> {
        let (folder, file) = setup.write()?;
        let mut command = pinned(&std::env::current_exe()?, setup.cpus.as_deref());
        command.args(["--bench", "--counted"]).arg(&file).stdin(Stdio::piped());
        let mut server = Server::start(command)?;
        server.folder = Some(folder);
        Ok(server)
    }

    /// Starts a limit, which is this very program with another job.
    pub fn limit(limit: Limit, cpus: Option<&str>) -> anyhow::Result<Server> {
        let mut command = pinned(&std::env::current_exe()?, cpus);
        let name = limit.to_possible_value().context("every limit has a name")?;
        command.args(["--bench", "--limit", name.get_name()]);
        Server::start(command)
    }

    fn start(mut command: Command) -> anyhow::Result<Server> {
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let said = BufReader::new(child.stdout.take().context("no output")?).lines();
        // taskset becomes the program it starts, so this is the server's own number.
        let process = Process(child.id());
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Server {
            child,
            said,
            clients: nowhere,
            api: nowhere,
            process,
            trust: None,
            folder: None,
        };
        while server.clients.port() == 0 || server.api.port() == 0 {
            let Some(line) = server.said.next() else {
                server.child.wait()?;
                anyhow::bail!("the server did not start");
            };
            let line = line?;
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("clients"), Some(url)) => server.clients = address(url)?,
                (Some("api"), Some(url)) => server.api = address(url)?,
                _ => {}
            }
        }
        Ok(server)
    }

    /// Clients that speak as it does; nobody yet.
    pub fn crowd(&self) -> anyhow::Result<Crowd> {
        Crowd::new(self.trust.clone())
    }

    /// A figure of its own, without labels.
    pub fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let answer = Publisher::connect(self.api, None)?.get("/metrics")?;
        answer.check(200)?;
        let value = answer.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("no metric {name}"))?.trim().parse()?)
    }

    /// How often a counted gateway has allocated.
    pub fn allocations(&mut self) -> anyhow::Result<u64> {
        let input = self.child.stdin.as_mut().context("it does not count")?;
        input.write_all(b"\n")?;
        Ok(self.said.next().context("it has ended")??.parse()?)
    }

    /// The ids of the sessions on `path`.
    pub fn sessions(&self, path: &str) -> anyhow::Result<Vec<String>> {
        let mut publisher = Publisher::connect(self.api, None)?;
        let answer = publisher.get(&format!("/v1/sessions?limit=1000&path={path}"))?;
        answer.check(200)?;
        let page: serde_json::Value = serde_json::from_str(&answer.body)?;
        let sessions = page["sessions"].as_array().context("no sessions")?;
        let id = |one: &serde_json::Value| one["id"].as_str().map(str::to_owned);
        sessions.iter().map(id).collect::<Option<_>>().context("a session without id")
    }

    /// Waits until it takes clients.
    pub fn ready(&self) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        while Publisher::connect(self.api, None)?.get("/readyz")?.status != 200 {
            ensure!(Instant::now() < until, "the server is not ready");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; what it leaves open, the system closes.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Started on these processors.
pub fn pinned(program: &Path, cpus: Option<&str>) -> Command {
    let mut command = match cpus {
        Some(cpus) => {
            let mut command = Command::new("taskset");
            command.args(["-c", cpus]).arg(program);
            command
        }
        None => Command::new(program),
    };
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

fn settings(setup: &Setup) -> String {
    let Setup { shards, heartbeat_s, redis, join_pause, crowd, webhook, .. } = setup;
    let broker = redis.as_ref().map(|url| format!("[broker]\nurl = \"{url}\"\n"));
    let broker = broker.unwrap_or_default();
    let hooked = webhook.map(|addr| {
        format!("[[path]]\npath = \"{HOOKED}\"\nbackend = {{ webhook = \"http://{addr}/\" }}\n")
    });
    let hooked = hooked.unwrap_or_default();
    format!(
        r#"
[clients]
listen = "127.0.0.1:0"
[api]
listen = "127.0.0.1:0"
[hub]
shards = {shards}
join_pause = "{join_pause}"
[log]
level = "warn"
{broker}
[[path]]
path = "{CROWD}"
heartbeat = "{heartbeat_s}s"
{crowd}
[[path]]
path = "{ASIDE}"
[[path]]
path = "{ROOMS}"
concrete_paths_max = 20000
{hooked}"#
    )
}

/// Of a URL without a path.
fn address(url: &str) -> anyhow::Result<SocketAddr> {
    let (_, address) = url.split_once("://").context("not a URL")?;
    address.parse().with_context(|| format!("{address} is no address"))
}

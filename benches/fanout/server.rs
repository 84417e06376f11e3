//! A server under load: a child process, ended with its owner.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use pathcast::cli::load::publisher::Publisher;
use tempfile::TempDir;

use crate::limit::Limit;
use crate::process::Process;

/// The path of the crowd.
pub const CROWD: &str = "/crowd";

/// The path beside it, with a single client.
pub const ASIDE: &str = "/aside";

#[derive(Debug, Clone)]
pub struct Setup {
    pub shards: usize,
    /// Processors, as `taskset` takes them; `None`: all.
    pub cpus: Option<String>,
    /// Of the crowd's path.
    pub heartbeat: String,
}

pub struct Server {
    child: Child,
    pub clients: SocketAddr,
    pub api: SocketAddr,
    pub process: Process,
    /// Of the settings, if it has any.
    _folder: Option<TempDir>,
}

impl Server {
    /// Starts a gateway on free ports; when this returns, its doors are open.
    pub fn gateway(program: &Path, setup: &Setup) -> anyhow::Result<Server> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("bench.toml");
        std::fs::write(&file, settings(setup))?;
        let mut command = pinned(program, setup.cpus.as_deref());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PATHCAST") {
                command.env_remove(name);
            }
        }
        command.arg("--config").arg(&file);
        Server::start(command, Some(folder))
    }

    /// Starts a limit, which is this very program with another job.
    pub fn limit(limit: Limit, cpus: Option<&str>) -> anyhow::Result<Server> {
        let mut command = pinned(&std::env::current_exe()?, cpus);
        let name = limit.to_possible_value().context("every limit has a name")?;
        command.args(["--bench", "--limit", name.get_name()]);
        Server::start(command, None)
    }

    fn start(mut command: Command, folder: Option<TempDir>) -> anyhow::Result<Server> {
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        // taskset becomes the program it starts, so this is the server's own number.
        let process = Process(child.id());
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Server { child, clients: nowhere, api: nowhere, process, _folder: folder };
        while server.clients.port() == 0 || server.api.port() == 0 {
            let Some(line) = lines.next() else {
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

    /// A figure of its own, without labels.
    pub fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let answer = Publisher::connect(self.api, None)?.get("/metrics")?;
        answer.check(200)?;
        let value = answer.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("no metric {name}"))?.trim().parse()?)
    }

    /// The id of the only session on `path`.
    pub fn session(&self, path: &str) -> anyhow::Result<String> {
        let answer =
            Publisher::connect(self.api, None)?.get(&format!("/v1/sessions?path={path}"))?;
        answer.check(200)?;
        let page: serde_json::Value = serde_json::from_str(&answer.body)?;
        let sessions = page["sessions"].as_array().context("no sessions")?;
        ensure!(sessions.len() == 1, "{} sessions on {path}", sessions.len());
        Ok(sessions[0]["id"].as_str().context("a session without id")?.to_owned())
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
fn pinned(program: &Path, cpus: Option<&str>) -> Command {
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
    let Setup { shards, heartbeat, .. } = setup;
    format!(
        r#"
[clients]
listen = "127.0.0.1:0"
[api]
listen = "127.0.0.1:0"
[hub]
shards = {shards}
[log]
level = "warn"
[[path]]
path = "{CROWD}"
heartbeat = "{heartbeat}"
[[path]]
path = "{ASIDE}"
"#
    )
}

/// Of a URL without a path.
fn address(url: &str) -> anyhow::Result<SocketAddr> {
    let (_, address) = url.split_once("://").context("not a URL")?;
    address.parse().with_context(|| format!("{address} is no address"))
}

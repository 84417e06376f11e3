//! The gateway under load: a child process with settings of its own, ended with its owner.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::load::process::Process;
use crate::load::publisher::Publisher;

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

pub struct Gateway {
    child: Child,
    pub clients: SocketAddr,
    pub api: SocketAddr,
    pub process: Process,
    _folder: TempDir,
}

impl Gateway {
    /// Starts `program` on free ports; when this returns, its doors are open.
    pub fn start(program: &Path, setup: &Setup) -> anyhow::Result<Gateway> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("bench.toml");
        std::fs::write(&file, settings(setup))?;
        let mut command = match &setup.cpus {
            Some(cpus) => {
                let mut command = Command::new("taskset");
                command.args(["-c", cpus]).arg(program);
                command
            }
            None => Command::new(program),
        };
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PATHCAST") {
                command.env_remove(name);
            }
        }
        command.arg("--config").arg(&file).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {program:?}"))?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        // taskset becomes the program it starts, so this is the gateway's own number.
        let process = Process(child.id());
        let mut gateway = Gateway {
            child,
            clients: SocketAddr::from(([127, 0, 0, 1], 0)),
            api: SocketAddr::from(([127, 0, 0, 1], 0)),
            process,
            _folder: folder,
        };
        while gateway.clients.port() == 0 || gateway.api.port() == 0 {
            let Some(line) = lines.next() else {
                gateway.child.wait()?;
                anyhow::bail!("the gateway did not start");
            };
            let line = line?;
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("clients"), Some(url)) => gateway.clients = address(url)?,
                (Some("api"), Some(url)) => gateway.api = address(url)?,
                _ => {}
            }
        }
        Ok(gateway)
    }

    /// A figure of its own, without labels.
    pub fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let answer = Publisher::connect(self.api)?.get("/metrics")?;
        answer.check(200)?;
        let value = answer.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("no metric {name}"))?.trim().parse()?)
    }

    /// The id of the only session on `path`.
    pub fn session(&self, path: &str) -> anyhow::Result<String> {
        let answer = Publisher::connect(self.api)?.get(&format!("/v1/sessions?path={path}"))?;
        answer.check(200)?;
        let page: serde_json::Value = serde_json::from_str(&answer.body)?;
        let sessions = page["sessions"].as_array().context("no sessions")?;
        ensure!(sessions.len() == 1, "{} sessions on {path}", sessions.len());
        Ok(sessions[0]["id"].as_str().context("a session without id")?.to_owned())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended by itself; what it leaves open, the system closes.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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

//! A Redis of the test's own: a `redis-server` child that keeps nothing on disk, unless it is to.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use super::process;
use super::resp::Connection;
use super::wait::until;

const CLI: &str = "redis-cli is installed: tests/run.sh does that";

#[derive(Debug)]
pub struct Redis {
    child: Child,
    pub port: u16,
    /// Further arguments of its command line.
    settings: Vec<String>,
    /// Its working directory; gone with it.
    dir: tempfile::TempDir,
}

impl Redis {
    /// On a port that was free just now.
    pub fn start() -> Redis {
        Redis::start_with(Vec::new())
    }

    /// One that knows after `restart` all that it has ever answered.
    pub fn start_durable() -> Redis {
        let settings = ["--appendonly", "yes", "--appendfsync", "always"];
        Redis::start_with(settings.map(str::to_owned).into())
    }

    /// With further arguments, as in `["--tls-port", "6380"]`.
    pub fn start_with(settings: Vec<String>) -> Redis {
        let port = free_port();
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        Redis { child: spawn(port, &settings, &dir), port, settings, dir }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A connection that is kept.
    pub async fn connect(&self) -> Connection {
        Connection::open(self.port).await
    }

    /// Ends it, as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().expect("an own child can be killed");
        self.child.wait().expect("an own child can be waited for");
    }

    /// Begins anew after `kill`, at the same address, empty unless it is durable.
    pub fn restart(&mut self) {
        self.child = spawn(self.port, &self.settings, &self.dir);
        // It listens before it has read what it wrote down.
        until("a Redis that has read it", || !self.command(&["PING"]).starts_with("LOADING"));
    }

    pub fn signal(&self, signal: Signal) {
        process::signal(&self.child, signal);
    }

    /// Publishes any bytes, as a stranger might: how many subscriptions got them.
    #[track_caller]
    pub fn publish(&self, channel: &str, bytes: &[u8]) -> u64 {
        let mut command = Command::new("redis-cli");
        command.arg("-p").arg(self.port.to_string()).args(["-x", "PUBLISH", channel]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect(CLI);
        let mut stdin = child.stdin.take().expect("stdin was piped");
        stdin.write_all(bytes).expect("redis-cli reads");
        drop(stdin);
        let output = child.wait_with_output().expect("an own child can be waited for");
        let said = String::from_utf8(output.stdout).expect("text");
        said.trim_end().parse().unwrap_or_else(|_| panic!("{channel}: {said}"))
    }

    /// Runs one command as an administrator at a terminal would.
    #[track_caller]
    pub fn command(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.arg("-p").arg(self.port.to_string()).args(arguments);
        let output = command.stdin(Stdio::null()).output().expect(CLI);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on at the moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

fn spawn(port: u16, settings: &[String], dir: &tempfile::TempDir) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.args(["--appendonly", "no", "--daemonize", "no", "--dir"]).arg(dir.path());
    command.args(settings);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("redis-server is installed: tests/run.sh does that");
    until("a Redis that listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    child
}

//! A Redis of the bench's own, and a publisher that speaks to it as a stranger would.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pathcast::cli::load::run::Outlet;

use crate::server::pinned;

const PATIENCE: Duration = Duration::from_secs(5);

pub struct Redis {
    child: Child,
    pub address: SocketAddr,
}

impl Redis {
    /// On a port that was free just now; it keeps nothing on disk.
    pub fn start(cpus: Option<&str>) -> anyhow::Result<Redis> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = pinned(Path::new("redis-server"), cpus);
        let port = address.port().to_string();
        command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        let child = command.stdout(Stdio::null()).spawn().context("cannot start redis-server")?;
        let redis = Redis { child, address };
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            ensure!(Instant::now() < until, "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(redis)
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `PUBLISH`es msgs with a binary payload on one path's channel, pipelined.
pub struct Stranger {
    stream: TcpStream,
    channel: String,
    command: Vec<u8>,
    received: Vec<u8>,
    awaited: usize,
}

impl Stranger {
    pub fn connect(redis: &Redis, path: &str) -> anyhow::Result<Stranger> {
        let stream = TcpStream::connect(redis.address)?;
        stream.set_nodelay(true)?;
        Ok(Stranger {
            stream,
            channel: format!("pathcast:out:{path}"),
            command: Vec::new(),
            received: Vec::new(),
            awaited: 0,
        })
    }
}

impl Outlet for Stranger {
    fn begin(&mut self, message: &[u8]) -> anyhow::Result<()> {
        let data = STANDARD.encode(message);
        let msg = format!(r#"{{"payload":{{"type":"Buffer","data":"{data}"}}}}"#);
        let Stranger { command, channel, .. } = self;
        command.clear();
        write!(
            command,
            "*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n${}\r\n{msg}\r\n",
            channel.len(),
            msg.len()
        )?;
        self.stream.write_all(command)?;
        self.awaited += 1;
        Ok(())
    }

    fn settle(&mut self) -> anyhow::Result<()> {
        self.stream.set_nonblocking(true)?;
        let mut buffer = [0; 4096];
        let read = self.stream.read(&mut buffer);
        self.stream.set_nonblocking(false)?;
        match read {
            Ok(0) => bail!("Redis hung up"),
            Ok(n) => self.received.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        while let Some(end) = self.received.windows(2).position(|two| two == b"\r\n") {
            let line: Vec<u8> = self.received.drain(..end + 2).collect();
            ensure!(line.first() == Some(&b':'), "Redis said {}", line.escape_ascii());
            self.awaited -= 1;
        }
        Ok(())
    }
}

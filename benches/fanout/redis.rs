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

use crate::process::Process;
use crate::server::pinned;

const PATIENCE: Duration = Duration::from_secs(5);

pub struct Redis {
    child: Child,
    pub address: SocketAddr,
    pub process: Process,
}

impl Redis {
    /// On a port that was free just now; it keeps nothing on disk.
    pub fn start(cpus: Option<&str>) -> anyhow::Result<Redis> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = pinned(Path::new("redis-server"), cpus);
        let port = address.port().to_string();
        command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        let child = command.stdout(Stdio::null()).spawn().context("cannot start redis-server")?;
        let process = Process(child.id());
        let redis = Redis { child, address, process };
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

/// Subscribers to one path's channel that read and do nothing else, and who publishes to them.
pub struct Audience {
    stranger: Stranger,
    subscribers: Vec<TcpStream>,
    message: Vec<u8>,
    buffer: Vec<u8>,
}

impl Audience {
    pub fn gather(redis: &Redis, path: &str, count: usize) -> anyhow::Result<Audience> {
        let stranger = Stranger::connect(redis, path)?;
        let channel = &stranger.channel;
        let ask = format!("*2\r\n$9\r\nSUBSCRIBE\r\n${}\r\n{channel}\r\n", channel.len());
        // Told the name of the channel and how many it has now, which is one.
        let told = format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{channel}\r\n:1\r\n", channel.len());
        let mut subscribers = Vec::new();
        for _ in 0..count {
            let mut stream = TcpStream::connect(redis.address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(ask.as_bytes())?;
            let mut answer = vec![0; told.len()];
            stream.read_exact(&mut answer)?;
            ensure!(answer == told.as_bytes(), "Redis said {}", answer.escape_ascii());
            subscribers.push(stream);
        }
        Ok(Audience { stranger, subscribers, message: Vec::new(), buffer: Vec::new() })
    }

    /// `count` messages of `bytes`, so many `at_once`; until all have heard them.
    pub fn hear(&mut self, count: usize, at_once: usize, bytes: usize) -> anyhow::Result<()> {
        self.message.resize(bytes, b'x');
        for _ in 0..count / at_once {
            for _ in 0..at_once {
                self.stranger.begin(&self.message)?;
            }
            // As the command has it, by another name of the same length.
            self.buffer.resize(self.stranger.command.len() * at_once, 0);
            for subscriber in &mut self.subscribers {
                subscriber.read_exact(&mut self.buffer).context("a message did not come")?;
                ensure!(self.buffer.starts_with(b"*3\r\n$7\r\nmessage\r\n"), "no message");
            }
            while self.stranger.awaited > 0 {
                self.stranger.settle()?;
            }
        }
        Ok(())
    }
}

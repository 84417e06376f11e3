//! A publisher: one keep-alive connection to the API, raw HTTP/1.1, pipelined where that is asked.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::cli::load::run::Outlet;

/// Longer than the server lets anybody wait.
const TIMEOUT: Duration = Duration::from_secs(15);

pub struct Publisher {
    stream: TcpStream,
    /// What every request says: where it goes, and who asks.
    headers: String,
    request: Vec<u8>,
    received: Vec<u8>,
    awaited: usize,
}

pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Publisher {
    /// `key`: of the API, if it asks for one.
    pub fn connect(api: SocketAddr, key: Option<&str>) -> anyhow::Result<Publisher> {
        let stream = TcpStream::connect_timeout(&api, TIMEOUT).context("cannot reach the API")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let mut headers = format!("Host: {api}\r\n");
        if let Some(key) = key {
            headers.push_str(&format!("Authorization: Bearer {key}\r\n"));
        }
        Ok(Publisher { stream, headers, request: Vec::new(), received: Vec::new(), awaited: 0 })
    }

    pub fn get(&mut self, target: &str) -> anyhow::Result<Answer> {
        let request = format!("GET {target} HTTP/1.1\r\n{}\r\n", self.headers);
        self.stream.write_all(request.as_bytes())?;
        self.awaited += 1;
        self.answer()
    }

    /// Sends a binary payload and leaves the answer for later.
    pub fn begin(&mut self, target: &str, payload: &[u8]) -> anyhow::Result<()> {
        self.request.clear();
        write!(
            self.request,
            "POST {target} HTTP/1.1\r\n{}Content-Type: application/octet-stream\r\n\
             Content-Length: {}\r\n\r\n",
            self.headers,
            payload.len()
        )?;
        self.request.extend_from_slice(payload);
        self.stream.write_all(&self.request)?;
        self.awaited += 1;
        Ok(())
    }

    /// Waits for the next answer.
    pub fn answer(&mut self) -> anyhow::Result<Answer> {
        loop {
            if let Some(answer) = self.take()? {
                return Ok(answer);
            }
            ensure!(self.read()?, "no answer within {TIMEOUT:?}");
        }
    }

    /// Takes the answers that are there; each has to have `status`.
    pub fn expect(&mut self, status: u16) -> anyhow::Result<()> {
        self.stream.set_nonblocking(true)?;
        let outcome = self.take_all(status);
        self.stream.set_nonblocking(false)?;
        outcome
    }

    fn take_all(&mut self, status: u16) -> anyhow::Result<()> {
        while self.awaited > 0 {
            match self.take()? {
                Some(answer) => answer.check(status)?,
                None if !self.read()? => break,
                None => {}
            }
        }
        Ok(())
    }

    /// Requests whose answers have not been taken.
    pub fn awaited(&self) -> usize {
        self.awaited
    }

    /// Whether something came, in the time that the socket is given.
    fn read(&mut self) -> anyhow::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => bail!("the API hung up"),
            Ok(n) => self.received.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).context("cannot read from the API"),
        }
        Ok(true)
    }

    fn take(&mut self) -> anyhow::Result<Option<Answer>> {
        let end = self.received.windows(4).position(|four| four == b"\r\n\r\n");
        let Some(end) = end.map(|at| at + 4) else { return Ok(None) };
        let head = std::str::from_utf8(&self.received[..end])?;
        let status = head.get(9..12).context("no status")?.parse()?;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())
        });
        let whole = end + length.context("an answer without a length")??;
        let Some(body) = self.received.get(end..whole) else { return Ok(None) };
        let body = String::from_utf8(body.to_vec())?;
        self.received.drain(..whole);
        self.awaited -= 1;
        Ok(Some(Answer { status, body }))
    }
}

/// A publisher to one path.
pub struct ToPath {
    pub publisher: Publisher,
    target: String,
}

impl ToPath {
    pub fn new(publisher: Publisher, path: &str) -> ToPath {
        ToPath { publisher, target: format!("/v1/publish{path}") }
    }
}

impl Outlet for ToPath {
    fn begin(&mut self, message: &[u8]) -> anyhow::Result<()> {
        self.publisher.begin(&self.target, message)
    }

    fn settle(&mut self) -> anyhow::Result<()> {
        self.publisher.expect(202)
    }
}

impl Answer {
    pub fn check(&self, status: u16) -> anyhow::Result<()> {
        ensure!(self.status == status, "the API answered {}: {}", self.status, self.body);
        Ok(())
    }
}

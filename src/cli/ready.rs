//! Asks a gateway on this machine whether it is ready, as `GET /readyz` tells.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// For each step: connecting, asking, every piece of the answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// More than any answer takes.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Asks the gateway whose API listens on `api`.
///
/// # Errors
/// It is not ready, or does not answer; a text that says which.
pub fn ask(api: SocketAddr) -> Result<String, String> {
    let unreachable = |error: io::Error| format!("no gateway answers on {api}: {error}");
    let answer = fetch(api).map_err(unreachable)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap_or_default();
    match status {
        "200" => Ok("ready\n".to_owned()),
        _ => Err(format!("not ready: {status} {}", body.trim())),
    }
}

fn fetch(api: SocketAddr) -> io::Result<String> {
    let ip = match api.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip, api.port()), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

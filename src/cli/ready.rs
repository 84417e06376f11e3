//! Asks a gateway on this machine whether it is ready, as `GET /readyz` tells.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// For all of it, connecting included: less than whoever asks for health is given (`Dockerfile`).
const TIMEOUT: Duration = Duration::from_secs(4);

/// More than any answer takes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Asks the gateway whose API listens on `api`.
///
/// # Errors
/// It is not ready, or does not answer; a text that says which.
pub fn ask(api: SocketAddr) -> Result<String, String> {
    let unreachable = |error: io::Error| match error.kind() {
        // The former is how a socket says the latter.
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            format!("no gateway answers on {api}: no answer in time")
        }
        _ => format!("no gateway answers on {api}: {error}"),
    };
    let answer = fetch(api).map_err(unreachable)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap_or_default();
    match status {
        "200" => Ok("ready\n".to_owned()),
        "" => Err(format!("no gateway answers on {api}: what does speaks no HTTP")),
        _ => Err(format!("not ready: {status} {}", body.trim())),
    }
}

fn fetch(api: SocketAddr) -> io::Result<String> {
    let ip = match api.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let deadline = Instant::now() + TIMEOUT;
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip, api.port()), TIMEOUT)?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    while answer.len() < ANSWER_BYTES_MAX {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece)? {
            0 => break,
            read => answer.extend_from_slice(&piece[..read]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

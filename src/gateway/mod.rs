//! The clients' door: listener, TLS, upgrade; hands the raw socket to its shard.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::proto::paths::Origins;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub listen: SocketAddr,
    pub tls: Option<Tls>,
    /// For the paths that say nothing of their own.
    pub origins: Origins,
    /// From the accepted socket to the answered request, TLS included.
    pub handshake_timeout: Duration,
    /// Connections at once that have not been upgraded yet; more wait in the listener's backlog.
    pub handshakes_max: usize,
    /// Handshakes begun a second; more are answered 429. `None`: no limit.
    pub handshakes_per_second: Option<u32>,
}

/// PEM files; read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
}

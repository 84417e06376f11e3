//! The publishers' door: HTTP in, the relay out.

use std::net::SocketAddr;

use crate::proto::grant::Grant;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub listen: SocketAddr,
    /// Without any, the listener binds loopback only and answers loopback names only.
    pub keys: Vec<Key>,
    /// One msg as it arrives.
    pub publish_bytes_max: usize,
    /// One batch as it arrives.
    pub batch_bytes_max: usize,
}

/// Who may call: known by the SHA-256 of the bearer token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub name: String,
    pub sha256: [u8; 32],
    pub scopes: Vec<Scope>,
    pub grant: Grant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Publish,
    Sessions,
    Events,
    Metrics,
    Admin,
}
pub struct State;
impl State {
    pub fn new(
        _: Config,
        _: std::sync::Arc<crate::relay::Relay>,
        _: std::sync::Arc<crate::metrics::Metrics>,
        _: crate::lifecycle::Lifecycle,
    ) -> State {
        State
    }
}
pub async fn serve(_l: tokio::net::TcpListener, _s: State) {}

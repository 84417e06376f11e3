//! This pod's sessions.

use std::time::Duration;

use crate::proto::path::Path;
use crate::proto::session_id::SessionId;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Threads that own sessions, 1–256.
    pub shards: usize,
    /// Sessions at once on this pod, handshakes that were given one included.
    pub sessions_max: usize,
    /// The largest message a client may send, fragments together.
    pub message_bytes_max: usize,
    /// What may wait for one socket, not counting the message that found it empty.
    pub outbox_bytes_max: usize,
    /// What may wait for all sockets of this pod.
    pub outbox_total_bytes_max: usize,
    /// What clients' unfinished messages may hold, all together.
    pub inbound_total_bytes_max: usize,
    /// What may wait in front of one shard.
    pub mailbox_bytes_max: usize,
    /// How long a socket may take nothing of a waiting outbox.
    pub slow_after: Duration,
    /// How long a closed session may take for its part of the close handshake.
    pub close_timeout: Duration,
}

/// What a look-up tells of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    pub id: SessionId,
    pub path: Path,
    /// Unix time in milliseconds.
    pub opened_ms: u64,
    pub remote: Option<std::net::SocketAddr>,
    pub subprotocol: Option<String>,
}

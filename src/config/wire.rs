//! The settings as they are written: one struct per section, with the defaults.
//!
//! What is said here once becomes the reader, the JSON Schema (its descriptions are these
//! comments), the list of known keys and variables, and what `pathcast check` prints. Unknown keys
//! and wrong types never get here: they are found by the schema, which knows a better answer.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::unit::{Interval, Pause, Period, Size, Threshold};
use crate::trace::Format;

/// The settings of pathcast. Any single value of a section can also be set by the environment
/// variable PATHCAST__SECTION__KEY, which beats the file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "pathcast")]
#[serde(deny_unknown_fields, default)]
pub struct Wire {
    pub clients: Clients,
    pub api: Api,
    pub broker: Broker,
    pub webhook: Webhook,
    pub limits: Limits,
    pub hub: Hub,
    pub log: Log,
    pub drain: Drain,
    pub kubernetes: Kubernetes,
    /// The paths that clients may open. At least one.
    pub path: Vec<Path>,
    /// Remote WebSocket servers to connect to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upstream: Vec<Upstream>,
}

/// The listener that clients open their WebSockets at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Clients {
    /// Address and port; port 0 takes any free one.
    pub listen: String,
    /// Whose web pages may connect: "same-host" (the Origin's host is the Host of the request,
    /// ports ignored), "*" (anybody's, alone), or origins such as "https://app.example". A request
    /// without Origin is always allowed.
    pub origins: Vec<String>,
    /// Certificate and key for wss://; absent: plain ws://.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Tls")]
    pub tls: Option<Tls>,
    /// From the accepted socket to the answered request, TLS included.
    pub handshake_timeout: Period,
}

/// PEM files; read again when they change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the certificate chain.
    pub cert: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

/// The listener for publishers, metrics and health; never on the clients' port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// Address and port; port 0 takes any free one. Only a loopback address without any key.
    pub listen: String,
    /// Who may call. Without any key everybody on this machine may.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<Key>,
}

/// Who may call the API, by `Authorization: Bearer`. Exactly one of sha256, key_file and key_env
/// says what the key is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// What logs call it.
    pub name: String,
    /// The SHA-256 of the key, 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub sha256: Option<String>,
    /// A file that holds the key itself, at least 16 bytes; white space around it does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PathBuf")]
    pub key_file: Option<PathBuf>,
    /// An environment variable that holds the key itself, at least 16 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub key_env: Option<String>,
    /// What the key may do.
    pub scopes: Vec<Scope>,
    /// Which paths it may do it to: "*" stands for any characters of one segment, "**" for any at
    /// all, "*" alone for every path.
    #[serde(default = "every_path")]
    pub paths: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    Publish,
    Sessions,
    Events,
    Metrics,
    Admin,
}

/// The way to all pods: through one Redis, or in memory for a single process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Broker {
    /// Where the Redis is that all pods share, as in "redis://user:password@host:6379/0", or
    /// "rediss://…" for TLS. Absent: this process is alone, and keeps everything in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub url: Option<String>,
    /// PEM file with the certificates of the authorities that a "rediss://" server is believed by.
    /// Absent: those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PathBuf")]
    pub ca: Option<PathBuf>,
    /// PEM file with the certificate by which this pod shows a "rediss://" server who it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PathBuf")]
    pub cert: Option<PathBuf>,
    /// PEM file with the private key of that certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PathBuf")]
    pub key: Option<PathBuf>,
    /// What the names of channels and keys in Redis begin with; the same on all pods.
    pub prefix: String,
    /// How long a pod is believed to live after it was last heard of; the same on all pods.
    pub lease_ttl: Period,
    /// How long Redis may be away before this pod is not ready.
    pub unready_after: Period,
    /// How long an answer about one session may take before the publisher is told 504.
    pub unicast_timeout: Period,
    /// Into how many streams the events of one path are parted, by session; the same on all pods.
    #[schemars(range(min = 1, max = 1024))]
    pub stream_partitions: u32,
    /// How many entries of one stream a group of readers may be behind before the stream counts as
    /// full.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub stream_backlog_max: u64,
}

/// The webhooks that paths name: how they are signed, and how patient pathcast is with them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Webhook {
    /// How long one request may take, from its first byte to the last one of the answer.
    pub timeout: Period,
    /// How long a client waits for the answer to its connect; without one it is refused with 503.
    pub connect_limit: Period,
    /// Requests for messages that are under way at once, to one URL.
    #[schemars(range(min = 1, max = 10_000))]
    pub in_flight: usize,
    /// The same for connects.
    #[schemars(range(min = 1, max = 10_000))]
    pub connects_in_flight: usize,
    /// The same for disconnects.
    #[schemars(range(min = 1, max = 10_000))]
    pub disconnects_in_flight: usize,
    /// Whether each URL is asked by OPTIONS whether it wants events before it gets any.
    pub validate: bool,
    /// In whose name it is asked.
    pub origin: String,
    /// What requests are signed with; every one of them signs. Without any they are not signed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secret: Vec<Secret>,
}

/// What requests to webhooks are signed with. Exactly one of key, key_file and key_env says it: "whsec_"
/// and 24 to 64 bytes in base64.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Secret {
    /// The secret itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub key: Option<String>,
    /// A file that holds the secret; white space around it does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PathBuf")]
    pub key_file: Option<PathBuf>,
    /// An environment variable that holds the secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub key_env: Option<String>,
}

/// What may be how large, how many, how slow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The largest message a client may send, fragments together; a larger one closes it with 1009.
    pub message_bytes_max: Size,
    /// The largest msg a publisher may send; a larger one is answered 413.
    pub publish_bytes_max: Size,
    /// The largest batch of msgs a publisher may send.
    pub batch_bytes_max: Size,
    /// The largest frame a msg may become.
    pub frame_bytes_max: Size,
    /// What may wait for one session, not counting the message that found nothing waiting; more
    /// closes it with 1013.
    pub outbox_bytes_max: Size,
    /// What may wait for all sessions of this pod together.
    pub outbox_total_bytes_max: Size,
    /// What the unfinished messages of all clients of this pod may hold together.
    pub inbound_total_bytes_max: Size,
    /// What may wait in front of one shard.
    pub mailbox_bytes_max: Size,
    /// How long a client may take not one byte of what waits for it before it is closed with 1013.
    pub slow_after: Period,
    /// How long a client may take to answer a close frame before its connection is cut.
    pub close_timeout: Period,
    /// Sessions at once on this pod; more are answered 503.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub sessions_max: usize,
    /// With more sessions than this the pod is not ready; those it has stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions_soft_max: Option<usize>,
    /// How long a session may last, give or take 15 %, before it is closed with 1012; "off": for ever.
    pub session_age_max: Interval,
    /// Connections at once whose handshake is not done; more wait in the listener's backlog.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub handshakes_max: usize,
    /// Handshakes begun a second; more are answered 429. Absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(min = 1, max = 1_000_000))]
    pub handshakes_per_second: Option<u32>,
    /// Concrete paths of one pattern that this pod holds at once; patterns may say their own.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub concrete_paths_max: usize,
}

/// The sessions of this pod.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Hub {
    /// Threads that share the sessions. Absent: as many as there are processors for this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "usize", range(min = 1, max = 256))]
    pub shards: Option<usize>,
    /// How long a shard waits for more messages before it sends those that came, but only while the
    /// last time there were several; at most 10 ms.
    pub join_pause: Pause,
}

/// What is logged, to standard error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Lines for people or for machines.
    pub format: Format,
    /// Off, error, warn, info, debug or trace, for everything or by module, as in
    /// "info,pathcast::hub=debug".
    pub level: String,
}

/// Leaving in good order, on SIGTERM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// How long this pod still takes new clients while others learn that it is not ready any more.
    pub settle: Interval,
    /// Over what time its sessions are closed, evenly; "off": all at once.
    pub window: Interval,
    /// Clients that are closed all at once are told to come back after a random time up to this one.
    pub retry_after: Period,
    /// How long the flush of what waits for clients may take at most.
    pub timeout: Period,
}

/// What a pod on Kubernetes tells of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Kubernetes {
    /// Whether the pod writes its number of sessions as its deletion cost, so that those with the fewest are
    /// removed first. Needs POD_NAME and POD_NAMESPACE, and an account that may patch pods.
    pub deletion_cost: bool,
    /// The folder with the token and the authority of the pod's account.
    pub account: String,
}

/// One path that clients may open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Path {
    /// Exact ("/ws/sensors"), or a pattern with a name in braces for a whole segment
    /// ("/ws/rooms/{room}").
    pub path: String,
    /// Whether the whole msg travels as JSON, or its payload alone.
    #[serde(default)]
    pub wholemsg: bool,
    /// Data messages go back to their sender; they cause no event. For trying out.
    #[serde(default)]
    pub echo: bool,
    /// How often a silent client is pinged; two beats without a byte close it.
    #[serde(default = "thirty_seconds")]
    pub heartbeat: Interval,
    /// How long a session may pass without a data message either way before it is closed.
    #[serde(default = "off")]
    pub idle: Interval,
    /// The first one that a client offers and that stands here is taken.
    #[serde(default)]
    pub subprotocols: Vec<String>,
    /// From what size on messages are deflated for clients that offer permessage-deflate; clients
    /// may then deflate theirs.
    #[serde(default = "never")]
    pub compress: Threshold,
    /// Whose web pages may connect, in place of clients.origins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<String>")]
    pub origins: Option<Vec<String>>,
    /// What becomes of a client that may have missed messages: nothing, or it is closed with 1012
    /// and comes back.
    #[serde(default)]
    pub on_gap: OnGap,
    /// What becomes of broadcasts that a client does not take in time: they wait until
    /// limits.outbox_bytes_max is reached, and then the client is closed with 1013, or the oldest
    /// are dropped; or only the latest waits.
    #[serde(default)]
    pub slow: Slow,
    /// How far apart broadcasts are sent at least, so that those which come in between go out
    /// together; at most 1 s.
    #[serde(default = "off")]
    pub flush_interval: Interval,
    /// Concrete paths of this pattern that this pod holds at once, in place of
    /// limits.concrete_paths_max.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "usize", range(min = 1, max = 10_000_000))]
    pub concrete_paths_max: Option<usize>,
    /// Where the events of this path's sessions go, besides to listeners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Backend")]
    pub backend: Option<Backend>,
}

/// Where the events of a path's sessions go, besides to listeners.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// Whether every event is appended to a stream in Redis.
    #[serde(default)]
    pub stream: bool,
    /// What becomes of messages when too many wait for Redis, or too many of a stream are unread:
    /// the clients that send them are not read until there is room, or the oldest are dropped.
    #[serde(default)]
    pub on_full: OnFull,
    /// The URL that every event is posted to, http or https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub webhook: Option<String>,
    /// What becomes of an event that the webhook does not take: it is posted until it does, or after
    /// retry_for it is given up, or its session is closed as well.
    #[serde(default)]
    pub on_error: OnError,
    /// What becomes of a client whose connect the webhook does not answer.
    #[serde(default)]
    pub on_connect_error: OnConnectError,
    /// How long an event is posted again before it is given up, unless on_error is "retry".
    #[serde(default = "one_minute")]
    pub retry_for: Period,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    #[default]
    Retry,
    Drop,
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnConnectError {
    #[default]
    Refuse,
    Accept,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    #[default]
    Backpressure,
    DropOldest,
}

/// One remote WebSocket server; one pod at a time is its client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// What it is called in URLs, events, metrics and the names of channels.
    pub name: String,
    /// Where it is, as in "wss://feed.example/stream?key=value".
    pub url: String,
    /// Further headers of the handshake, as in "X-Api-Key: 123".
    #[serde(default)]
    pub headers: Vec<String>,
    /// Subprotocols that are offered; the server has to choose one of them.
    #[serde(default)]
    pub subprotocols: Vec<String>,
    /// Whether the whole msg travels as JSON, or its payload alone.
    #[serde(default)]
    pub wholemsg: bool,
    /// How often a silent server is pinged; two beats without a byte end the connection.
    #[serde(default = "thirty_seconds")]
    pub heartbeat: Interval,
    /// PEM file with the certificates of the authorities that a "wss://" server is believed by.
    /// Absent: those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PathBuf")]
    pub ca: Option<PathBuf>,
    /// Whether the certificate of a "wss://" server is verified.
    #[serde(default = "yes")]
    pub verify: bool,
    /// A file that holds the token for `Authorization: Bearer`; read at each attempt to connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PathBuf")]
    pub token_file: Option<PathBuf>,
    /// A path to which everything that it sends is broadcast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub to: Option<String>,
    /// How long to wait at most before the second attempt to connect; doubled with each further one.
    #[serde(default = "quarter_second")]
    pub reconnect_min: Period,
    /// How long to wait at most before any attempt.
    #[serde(default = "half_minute")]
    pub reconnect_max: Period,
    /// What may wait to be sent to it; more is answered 503.
    #[serde(default = "four_mebibytes")]
    pub queue_bytes_max: Size,
    /// Where its events go, besides to listeners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "UpstreamBackend")]
    pub backend: Option<UpstreamBackend>,
}

/// Where the events of an upstream go, besides to listeners.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamBackend {
    /// Whether every event is appended to a stream in Redis.
    #[serde(default)]
    pub stream: bool,
    /// What becomes of messages when too many of the stream are unread: the server is not read until
    /// there is room, or the oldest are dropped.
    #[serde(default)]
    pub on_full: OnFull,
    /// The URL that every event is posted to, http or https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub webhook: Option<String>,
    /// What becomes of an event that the webhook does not take: it is posted until it does, or after
    /// retry_for it is given up.
    #[serde(default)]
    pub on_error: OnUpstreamError,
    /// How long an event is posted again before it is given up, unless on_error is "retry".
    #[serde(default = "one_minute")]
    pub retry_for: Period,
}

/// To close the connection would help nobody: the next one brings the next event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnUpstreamError {
    #[default]
    Retry,
    Drop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnGap {
    #[default]
    Ignore,
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Slow {
    #[default]
    Close,
    DropOldest,
    Latest,
}

impl Default for Clients {
    fn default() -> Clients {
        Clients {
            listen: "0.0.0.0:8080".into(),
            origins: vec!["same-host".into()],
            tls: None,
            handshake_timeout: seconds(10),
        }
    }
}

impl Default for Api {
    fn default() -> Api {
        Api { listen: "127.0.0.1:8081".into(), key: Vec::new() }
    }
}

impl Default for Broker {
    fn default() -> Broker {
        Broker {
            url: None,
            ca: None,
            cert: None,
            key: None,
            prefix: "pathcast".into(),
            lease_ttl: seconds(15),
            unready_after: seconds(30),
            unicast_timeout: seconds(2),
            stream_partitions: 8,
            stream_backlog_max: 100_000,
        }
    }
}

impl Default for Webhook {
    fn default() -> Webhook {
        Webhook {
            timeout: seconds(10),
            connect_limit: seconds(5),
            in_flight: 64,
            connects_in_flight: 32,
            disconnects_in_flight: 32,
            validate: false,
            origin: "pathcast".into(),
            secret: Vec::new(),
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            message_bytes_max: mebibytes(1),
            publish_bytes_max: mebibytes(8),
            batch_bytes_max: mebibytes(64),
            frame_bytes_max: mebibytes(4),
            outbox_bytes_max: mebibytes(4),
            outbox_total_bytes_max: mebibytes(512),
            inbound_total_bytes_max: mebibytes(256),
            mailbox_bytes_max: mebibytes(64),
            slow_after: seconds(10),
            close_timeout: seconds(2),
            sessions_max: 100_000,
            sessions_soft_max: None,
            session_age_max: off(),
            handshakes_max: 1024,
            handshakes_per_second: None,
            concrete_paths_max: 10_000,
        }
    }
}

impl Default for Log {
    fn default() -> Log {
        Log { format: Format::Human, level: "info".into() }
    }
}

impl Default for Kubernetes {
    fn default() -> Kubernetes {
        let account = "/var/run/secrets/kubernetes.io/serviceaccount".into();
        Kubernetes { deletion_cost: false, account }
    }
}

impl Default for Drain {
    fn default() -> Drain {
        Drain {
            settle: Interval(Some(Duration::from_secs(5))),
            window: Interval(Some(Duration::from_secs(10))),
            retry_after: seconds(5),
            timeout: seconds(10),
        }
    }
}

fn every_path() -> Vec<String> {
    vec!["*".into()]
}

fn yes() -> bool {
    true
}

fn quarter_second() -> Period {
    Period(Duration::from_millis(250))
}

fn half_minute() -> Period {
    seconds(30)
}

fn four_mebibytes() -> Size {
    mebibytes(4)
}

fn thirty_seconds() -> Interval {
    Interval(Some(Duration::from_secs(30)))
}

fn one_minute() -> Period {
    seconds(60)
}

fn never() -> Threshold {
    Threshold(None)
}

fn off() -> Interval {
    Interval(None)
}

fn seconds(seconds: u64) -> Period {
    Period(Duration::from_secs(seconds))
}

fn mebibytes(mebibytes: usize) -> Size {
    Size(mebibytes << 20)
}

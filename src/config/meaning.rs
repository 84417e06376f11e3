//! From what is written to what it means: each part's own `Config`, or the first fault.
//!
//! Here is everything that the schema cannot say: addresses, origins, patterns, and what does not
//! go together.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::Path;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::api;
use crate::broker;
use crate::broker::redis::Address;
use crate::broker::redis::tls::{Flaw, Identity, Tls};
use crate::config::fault::{At, Fault};
use crate::config::schema::nearest;
use crate::config::{Drain, Settings, Source, bounded, keys, upstreams, webhooks, wire};
use crate::gateway;
use crate::hub;
use crate::kubernetes;
use crate::proto::paths::{Configured, Invalid, OnFull, OnGap, Origins, Paths, Pattern, Slow};
use crate::relay;
use crate::trace;

/// As many shards as a machine could want; also the schema's bound.
const SHARDS_MAX: usize = 256;

/// Below this one slow answer of a Redis that lives would be taken for a death.
const LEASE_TTL_MIN: Duration = Duration::from_secs(3);

/// Longer, and messages would be late rather than together.
const FLUSH_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// All authorities that a system knows take a quarter of it.
const PEM_BYTES_MAX: u64 = 1 << 20;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// `written` tells whether a setting was written at all, so that a default is never blamed.
pub fn settings(
    mut wire: wire::Wire,
    source: &Source,
    written: &dyn Fn(&At) -> bool,
) -> Result<Settings, Fault> {
    let gateway = gateway(&wire)?;
    let api = api(&wire, source)?;
    apart(gateway.listen, api.listen, written)?;
    holds(&wire.limits, written)?;
    webhooks::answers_in_time(&wire, written)?;
    let parallel = std::thread::available_parallelism().map_or(1, NonZero::get);
    let shards = *wire.hub.shards.get_or_insert(parallel.min(SHARDS_MAX));
    let limits = &wire.limits;
    let paths = paths(&wire)?;
    Ok(Settings {
        gateway,
        api,
        hub: hub::Config {
            shards,
            sessions_max: limits.sessions_max,
            session_age_max: limits.session_age_max.0,
            message_bytes_max: limits.message_bytes_max.0,
            frame_bytes_max: limits.frame_bytes_max.0,
            outbox_bytes_max: limits.outbox_bytes_max.0,
            outbox_total_bytes_max: limits.outbox_total_bytes_max.0,
            inbound_total_bytes_max: limits.inbound_total_bytes_max.0,
            mailbox_bytes_max: limits.mailbox_bytes_max.0,
            slow_after: limits.slow_after.0,
            close_timeout: limits.close_timeout.0,
            join_pause: wire.hub.join_pause.0,
        },
        relay: relay::Config {
            frame_bytes_max: limits.frame_bytes_max.0,
            unicast_timeout: wire.broker.unicast_timeout.0,
            unready_after: wire.broker.unready_after.0,
            sessions_soft_max: limits.sessions_soft_max,
        },
        broker: redis(&wire.broker, wire.limits.publish_bytes_max.0)?,
        stream_partitions: wire.broker.stream_partitions,
        webhook: webhooks::config(&wire.webhook, limits.frame_bytes_max.0, source)?,
        stream_backlog_max: wire.broker.stream_backlog_max,
        upstreams: upstreams::upstreams(&wire, &paths)?,
        paths,
        log: log(&wire.log)?,
        drain: Drain {
            settle: wire.drain.settle.0.unwrap_or_default(),
            window: wire.drain.window.0.unwrap_or_default(),
            retry_after: wire.drain.retry_after.0,
            timeout: wire.drain.timeout.0,
        },
        kubernetes: kubernetes(&wire.kubernetes, source)?,
        source: None,
        wire,
    })
}

/// `None`: the memory broker.
fn redis(
    written: &wire::Broker,
    publish_bytes_max: usize,
) -> Result<Option<broker::redis::Config>, Fault> {
    let at = |key| At::keys(["broker", key]);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".:_-".contains(&byte);
    if written.prefix.is_empty() || !written.prefix.bytes().all(is_plain) {
        let what = format!("{:?} cannot begin the names of channels", written.prefix);
        let advice = "letters, digits and any of \".:_-\"";
        return Err(Fault::value(at("prefix"), what).advise(advice));
    }
    if written.lease_ttl.0 < LEASE_TTL_MIN {
        let what = "a pod that is merely busy would be taken for dead";
        return Err(Fault::value(at("lease_ttl"), what).advise("at least \"3s\""));
    }
    let address = written.url.as_ref().map(|url| {
        // It may hold a password, so it is not shown.
        Address::parse(url).map_err(|error| {
            Fault::value(at("url"), format!("this is not the URL of a Redis: {error}")).advise(
                "as in \"redis://127.0.0.1:6379\"; @ / : # % in a password are written as %40 …",
            )
        })
    });
    let Some(address) = secured(address.transpose()?, written)? else { return Ok(None) };
    Ok(Some(broker::redis::Config {
        address,
        prefix: written.prefix.clone(),
        lease_ttl: written.lease_ttl.0,
        publish_bytes_max,
        ask_timeout: written.unicast_timeout.0,
    }))
}

/// The address with what stands in the files for TLS.
fn secured(address: Option<Address>, written: &wire::Broker) -> Result<Option<Address>, Fault> {
    let at = |key| At::keys(["broker", key]);
    let address = match address {
        Some(address) if address.is_secured() => address,
        address => {
            let files = [("ca", &written.ca), ("cert", &written.cert), ("key", &written.key)];
            let Some((key, _)) = files.into_iter().find(|(_, file)| file.is_some()) else {
                return Ok(address);
            };
            let what = "this says nothing without TLS to Redis";
            return Err(Fault::value(at(key), what).advise("url = \"rediss://…\", with two s"));
        }
    };
    let identity = match (&written.cert, &written.key) {
        (None, None) => None,
        (Some(cert), Some(key)) => {
            Some(Identity { cert: pem(cert, at("cert"))?, key: pem(key, at("key"))? })
        }
        (Some(_), None) => {
            let what = "a certificate is of no use without its key";
            return Err(Fault::value(at("cert"), what).advise("add key = \"…\", a PEM file too"));
        }
        (None, Some(_)) => {
            let what = "a key is of no use without its certificate";
            return Err(Fault::value(at("key"), what).advise("add cert = \"…\", a PEM file too"));
        }
    };
    let authority = written.ca.as_ref().map(|ca| pem(ca, at("ca"))).transpose()?;
    let secured = address.secured(Tls { authority, identity });
    secured.map(Some).map_err(|flaw| {
        let key = match flaw {
            Flaw::Authority(_) => "ca",
            Flaw::Cert(_) => "cert",
            Flaw::Key(_) => "key",
        };
        let advice = "PEM files: text with lines such as -----BEGIN CERTIFICATE-----";
        Fault::value(at(key), flaw.to_string()).advise(advice)
    })
}

pub fn pem(file: &Path, at: At) -> Result<Vec<u8>, Fault> {
    bounded(file, PEM_BYTES_MAX).map_err(|error| {
        Fault::value(at, format!("{} cannot be read: {error}", file.display()))
            .advise("a PEM file that this process may read")
    })
}

/// What has to hold the largest of something else.
fn holds(limits: &wire::Limits, written: &dyn Fn(&At) -> bool) -> Result<(), Fault> {
    let pairs = [
        (
            ("mailbox_bytes_max", limits.mailbox_bytes_max),
            ("frame_bytes_max", limits.frame_bytes_max),
        ),
        (
            ("inbound_total_bytes_max", limits.inbound_total_bytes_max),
            ("message_bytes_max", limits.message_bytes_max),
        ),
    ];
    for ((outer, outer_size), (inner, inner_size)) in pairs {
        if outer_size.0 < inner_size.0 {
            let [outer_at, inner_at] = [outer, inner].map(|key| At::keys(["limits", key]));
            let at = if written(&outer_at) { outer_at } else { inner_at };
            let what = format!("{outer} ({outer_size}) is smaller than {inner} ({inner_size})");
            let advice = format!("the largest would never fit: raise {outer} or lower {inner}");
            return Err(Fault::value(at, what).advise(advice));
        }
    }
    let at = At::keys(["limits", "sessions_soft_max"]);
    match limits.sessions_soft_max {
        Some(0) => Err(Fault::value(at, "a pod with one session would never be ready")
            .advise("leave it out for no such limit")),
        Some(soft) if soft > limits.sessions_max => {
            let what = format!("{soft} is more than sessions_max ({})", limits.sessions_max);
            Err(Fault::value(at, what).advise("the soft limit lies below it"))
        }
        _ => Ok(()),
    }
}

/// Where the cluster's API is, its pods learn from their environment.
fn kubernetes(
    written: &wire::Kubernetes,
    source: &Source,
) -> Result<Option<kubernetes::Config>, Fault> {
    if !written.deletion_cost {
        return Ok(None);
    }
    let variable = |name: &str| {
        let found = source.env.iter().find(|(key, value)| key == name && !value.is_empty());
        found.map(|(_, value)| value.clone()).ok_or_else(|| {
            let at = At::keys(["kubernetes", "deletion_cost"]);
            Fault::value(at, format!("the environment variable {name} is not set")).advise(
                "only pods have it: POD_NAME and POD_NAMESPACE from fieldRef, the others by Kubernetes",
            )
        })
    };
    let port = variable("KUBERNETES_SERVICE_PORT")?;
    Ok(Some(kubernetes::Config {
        host: variable("KUBERNETES_SERVICE_HOST")?,
        port: port.parse().map_err(|_| {
            let at = At::keys(["kubernetes", "deletion_cost"]);
            Fault::value(at, format!("KUBERNETES_SERVICE_PORT is no port: {port:?}"))
        })?,
        namespace: variable("POD_NAMESPACE")?,
        pod: variable("POD_NAME")?,
        account: written.account.clone().into(),
    }))
}

fn gateway(wire: &wire::Wire) -> Result<gateway::Config, Fault> {
    let clients = &wire.clients;
    Ok(gateway::Config {
        listen: address(&clients.listen, At::keys(["clients", "listen"]))?,
        tls: clients
            .tls
            .as_ref()
            .map(|tls| gateway::Tls { cert: tls.cert.clone(), key: tls.key.clone() }),
        origins: origins(&clients.origins, &At::keys(["clients", "origins"]))?,
        handshake_timeout: clients.handshake_timeout.0,
        handshakes_max: wire.limits.handshakes_max,
        handshakes_per_second: wire.limits.handshakes_per_second,
    })
}

fn api(wire: &wire::Wire, source: &Source) -> Result<api::Config, Fault> {
    let at = At::keys(["api", "listen"]);
    let listen = address(&wire.api.listen, at.clone())?;
    let keys = keys::keys(&wire.api.key, source)?;
    if keys.is_empty() && !listen.ip().to_canonical().is_loopback() {
        let what = format!("without a key the API would be open to everybody who reaches {listen}");
        let advice = format!("add an [[api.key]], or bind 127.0.0.1:{}", listen.port());
        return Err(Fault::value(at, what).advise(advice));
    }
    Ok(api::Config {
        listen,
        keys,
        publish_bytes_max: wire.limits.publish_bytes_max.0,
        batch_bytes_max: wire.limits.batch_bytes_max.0,
    })
}

/// The two listeners, on addresses that can both be bound.
fn apart(clients: SocketAddr, api: SocketAddr, written: &dyn Fn(&At) -> bool) -> Result<(), Fault> {
    let (one, two) = (clients.ip().to_canonical(), api.ip().to_canonical());
    let same = one == two || one.is_unspecified() || two.is_unspecified();
    if clients.port() != api.port() || clients.port() == 0 || !same {
        return Ok(());
    }
    let [clients_at, api_at] = ["clients", "api"].map(|section| At::keys([section, "listen"]));
    let (blamed, other) = match written(&api_at) {
        true => (api_at, clients_at),
        false => (clients_at, api_at),
    };
    let what = format!("clients and the API would both listen on port {}", api.port());
    Err(Fault::value(blamed, what).advise("give them different ports").against(other))
}

fn address(text: &str, at: At) -> Result<SocketAddr, Fault> {
    text.parse().map_err(|_| {
        let fault = Fault::value(at, format!("{text:?} is not an address and a port"));
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        match (host, port.parse::<u16>()) {
            ("", Ok(port)) => fault.advise(format!("for all interfaces: \"0.0.0.0:{port}\"")),
            ("localhost", Ok(port)) => fault
                .advise(format!("names are not looked up; for this machine: \"127.0.0.1:{port}\"")),
            _ if text.parse::<std::net::IpAddr>().is_ok() => {
                let with = match text.contains(':') {
                    true => format!("[{text}]:8080"),
                    false => format!("{text}:8080"),
                };
                fault.advise(format!("a port is missing: \"{with}\""))
            }
            _ => {
                fault.advise("an IP address and a port, as in \"127.0.0.1:8080\" or \"[::1]:8080\"")
            }
        }
    })
}

fn origins(written: &[String], at: &At) -> Result<Origins, Fault> {
    if let Some(any) = written.iter().position(|origin| origin == "*") {
        return match written.len() {
            1 => Ok(Origins::Any),
            _ => Err(Fault::value(
                at.index(any),
                "\"*\" allows every origin, the others say nothing",
            )
            .advise("leave \"*\" out, or leave it alone")),
        };
    }
    let mut same_host = false;
    let mut origins = Vec::new();
    for (index, text) in written.iter().enumerate() {
        match text.as_str() {
            "same-host" => same_host = true,
            _ => origins.push(origin(text).map_err(|advice| {
                Fault::value(at.index(index), format!("{text:?} is not an origin")).advise(advice)
            })?),
        }
    }
    Ok(Origins::Listed { same_host, origins })
}

/// As browsers send it: lower case, without the scheme's own port. The error is advice.
fn origin(text: &str) -> Result<String, String> {
    let example = "an origin is a scheme and a host, as in \"https://app.example\", \
                   or one of the words \"same-host\" and \"*\"";
    let text = text.to_ascii_lowercase();
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(match nearest(&text, ["same-host"]) {
            Some(word) => format!("did you mean {word:?}?"),
            None => example.into(),
        });
    };
    if rest.contains('*') {
        return Err("there are no wildcards: list each origin, or allow all with [\"*\"]".into());
    }
    if let Some((origin, _)) = rest.split_once('/') {
        return Err(format!("an origin ends after the host: \"{scheme}://{origin}\""));
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"/?#@,\\\"<>".contains(&byte);
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let named = !host.is_empty() && host.bytes().all(plain) && (bracketed || !host.contains(':'));
    let schemed = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let number = port.map(|port| port.parse::<u16>());
    if !named || !schemed || matches!(number, Some(Err(_) | Ok(0))) {
        return Err(example.into());
    }
    Ok(match (scheme, number) {
        (_, None) | ("http", Some(Ok(80))) | ("https", Some(Ok(443))) => {
            format!("{scheme}://{host}")
        }
        (_, Some(port)) => format!("{scheme}://{host}:{}", port.unwrap_or_default()),
    })
}

fn paths(wire: &wire::Wire) -> Result<Paths, Fault> {
    let root = At::keys(["path"]);
    if wire.path.is_empty() {
        return Err(Fault::value(root, "there is no path that clients could open")
            .advise("add one: [[path]] and below it path = \"/ws\""));
    }
    let mut paths = Paths::default();
    for (index, written) in wire.path.iter().enumerate() {
        let at = root.index(index);
        let invalid = |error| invalid(error, &wire.path[..=index]);
        let pattern = Pattern::parse(&written.path).map_err(invalid)?;
        let concrete_paths_max = written.concrete_paths_max;
        paths
            .add(Configured {
                pattern,
                wholemsg: written.wholemsg,
                echo: written.echo,
                heartbeat: written.heartbeat.0,
                idle: written.idle.0,
                subprotocols: subprotocols(&written.subprotocols, &at.key("subprotocols"))?,
                compress_from_bytes: written.compress.0,
                origins: match &written.origins {
                    Some(written) => Some(origins(written, &at.key("origins"))?),
                    None => None,
                },
                on_gap: match written.on_gap {
                    wire::OnGap::Ignore => OnGap::Ignore,
                    wire::OnGap::Close => OnGap::Close,
                },
                slow: match written.slow {
                    wire::Slow::Close => Slow::Close,
                    wire::Slow::DropOldest => Slow::DropOldest,
                    wire::Slow::Latest => Slow::Latest,
                },
                flush_interval: flush_interval(wire, written, &at)?,
                concrete_paths_max: concrete_paths_max.unwrap_or(wire.limits.concrete_paths_max),
                stream: stream(wire, written, &at)?,
                on_full: written.backend.as_ref().map_or(Ok(OnFull::Backpressure), |backend| {
                    on_full(backend.stream, backend.on_full, &at.key("backend"))
                })?,
                webhook: webhooks::webhook(written, &at.key("backend"))?,
            })
            .map_err(invalid)?;
    }
    Ok(paths)
}

fn flush_interval(
    wire: &wire::Wire,
    path: &wire::Path,
    at: &At,
) -> Result<Option<Duration>, Fault> {
    let Some(interval) = path.flush_interval.0 else { return Ok(None) };
    let fault = |what: String| Fault::value(at.key("flush_interval"), what);
    if interval > FLUSH_INTERVAL_MAX {
        return Err(fault("that is no interval but a delay".into()).advise("at most \"1s\""));
    }
    let patience = wire.broker.unicast_timeout;
    if interval >= patience.0 {
        let what = format!("a unicast behind what waits would be given up after {patience}");
        let advice = "set it below `unicast_timeout` of [broker]";
        return Err(fault(what).advise(advice));
    }
    Ok(Some(interval))
}

/// Whether the events of a path go to streams.
fn stream(wire: &wire::Wire, path: &wire::Path, at: &At) -> Result<bool, Fault> {
    let Some(backend) = &path.backend else { return Ok(false) };
    let at = at.key("backend");
    if path.echo {
        let what = "a path with `echo` has no message events for a backend";
        return Err(Fault::value(at, what).advise("leave one of the two out"));
    }
    if backend.stream && wire.broker.url.is_none() {
        let what = "streams are kept in Redis, and there is none";
        let advice = "set `url` in [broker], as in \"redis://127.0.0.1:6379\"; or leave `stream` \
                      out and listen to GET /v1/events/{path}";
        return Err(Fault::value(at.key("stream"), what).advise(advice));
    }
    Ok(backend.stream)
}

/// What becomes of messages that a stream has no room for.
pub fn on_full(stream: bool, written: wire::OnFull, at: &At) -> Result<OnFull, Fault> {
    match written {
        wire::OnFull::DropOldest if !stream => {
            let what = "`on_full` speaks of a stream, and there is none";
            let advice = "add `stream = true`, or leave it out";
            Err(Fault::value(at.key("on_full"), what).advise(advice))
        }
        wire::OnFull::DropOldest => Ok(OnFull::DropOldest),
        wire::OnFull::Backpressure => Ok(OnFull::Backpressure),
    }
}

/// Why the last of these paths is refused.
fn invalid(error: Invalid, written: &[wire::Path]) -> Fault {
    let at = |index| At::keys(["path"]).index(index).key("path");
    let last = written.len() - 1;
    let text = &written[last].path;
    let first = |other: &str| written.iter().position(|one| one.path == other).unwrap_or(last);
    match &error {
        Invalid::Twice => {
            Fault::value(at(last), format!("{text:?} {error}")).against(at(first(text)))
        }
        Invalid::Overlaps(other) => {
            Fault::value(at(last), format!("{text:?} {error}")).against(at(first(other)))
        }
        Invalid::Path(_) | Invalid::Braces => {
            let fault = Fault::value(at(last), format!("{text:?} is not a path: {error}"));
            match Pattern::parse(&format!("/{text}")) {
                Ok(pattern) if !text.starts_with('/') => {
                    fault.advise(format!("did you mean \"{}\"?", pattern.text()))
                }
                _ => fault,
            }
        }
    }
}

/// Names as they stand in `Sec-WebSocket-Protocol`: tokens (RFC 9110, 5.6.2), each once.
pub fn subprotocols(written: &[String], at: &At) -> Result<Vec<String>, Fault> {
    let mut seen = HashSet::new();
    for (index, name) in written.iter().enumerate() {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) {
            let what = format!("{name:?} is no name of a subprotocol");
            return Err(Fault::value(at.index(index), what)
                .advise("letters, digits and !#$%&'*+-.^_`|~, as in \"graphql-transport-ws\""));
        }
        if !seen.insert(name) {
            return Err(Fault::value(at.index(index), format!("{name:?} stands here twice")));
        }
    }
    Ok(written.to_vec())
}

fn log(log: &wire::Log) -> Result<trace::Config, Fault> {
    let fault = |what: String| Fault::value(At::keys(["log", "level"]), what);
    let example =
        "one of off, error, warn, info, debug, trace, or by module: \"info,pathcast::hub=debug\"";
    // `EnvFilter` takes a mistyped level for the name of a module and logs nothing of the rest.
    let levels = log.level.split(',').map(|directive| directive.rsplit('=').next().unwrap_or(""));
    for level in levels.filter(|_| !log.level.contains('[')) {
        if !LEVELS.contains(&level.trim().to_ascii_lowercase().as_str()) {
            let fault = fault(format!("{level:?} is not a level"));
            return Err(match nearest(&level.to_ascii_lowercase(), LEVELS) {
                Some(nearest) => fault.advise(format!("did you mean {nearest:?}?")),
                None => fault.advise(example),
            });
        }
    }
    match EnvFilter::builder().parse(&log.level) {
        Ok(_) => Ok(trace::Config { format: log.format, level: log.level.clone() }),
        Err(error) => Err(fault(format!("{:?}: {error}", log.level)).advise(example)),
    }
}

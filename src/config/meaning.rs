//! From what is written to what it means: each part's own `Config`, or the first fault.
//!
//! Here is what the schema cannot say: addresses, limits, and what does not go together. The larger parts
//! have files of their own.

use std::net::SocketAddr;
use std::num::NonZero;

use tracing_subscriber::EnvFilter;

use crate::api;
use crate::config::brokers::redis;
use crate::config::fault::{At, Fault};
use crate::config::origins::origins;
use crate::config::paths::paths;
use crate::config::schema::nearest;
use crate::config::{Drain, Settings, Source, keys, upstreams, webhooks, wire};
use crate::gateway;
use crate::hub;
use crate::kubernetes;
use crate::proto::webhook::url::Url;
use crate::relay;
use crate::trace::{logs, span};

/// As many shards as a machine could want; also the schema's bound.
const SHARDS_MAX: usize = 256;

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
        trace: trace(&wire.trace)?,
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
        let found = source.variable(name).filter(|value| !value.is_empty());
        found.map(str::to_owned).ok_or_else(|| {
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

fn trace(written: &wire::Trace) -> Result<span::Config, Fault> {
    let at = |key| At::keys(["trace", key]);
    if let Some(text) = &written.otlp {
        let url = Url::parse(text).ok();
        // gRPC names the path itself.
        if !url.is_some_and(|url| url.uri().path_and_query().is_none_or(|rest| rest == "/")) {
            // It may hold a password, so it is not shown.
            let what = "this is not the address of a collector";
            let advice =
                "its OTLP port for gRPC, without a path: \"http://collector:4317\", or https";
            return Err(Fault::value(at("otlp"), what).advise(advice));
        }
    }
    if written.service.trim().is_empty() {
        let what = "a collector wants a name";
        return Err(Fault::value(at("service"), what).advise("as in \"pathcast\""));
    }
    let wire::Trace { otlp, sample, service } = written.clone();
    Ok(span::Config { otlp, sample, service })
}

fn log(log: &wire::Log) -> Result<logs::Config, Fault> {
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
        Ok(_) => Ok(logs::Config { format: log.format, level: log.level.clone() }),
        Err(error) => Err(fault(format!("{:?}: {error}", log.level)).advise(example)),
    }
}

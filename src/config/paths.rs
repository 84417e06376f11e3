//! The paths that clients open: patterns that are apart from each other, and what holds for each.

use std::collections::HashSet;
use std::time::Duration;

use crate::config::fault::{At, Fault};
use crate::config::origins::origins;
use crate::config::{webhooks, wire};
use crate::proto::paths::{Configured, Invalid, OnFull, OnGap, Paths, Pattern, Slow};

/// Longer, and messages would be late rather than together.
const FLUSH_INTERVAL_MAX: Duration = Duration::from_secs(1);

pub fn paths(wire: &wire::Wire) -> Result<Paths, Fault> {
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
        let is_streamed = written.backend.as_ref().is_some_and(|backend| backend.stream);
        if written.echo && written.backend.is_some() {
            let what = "a path with `echo` has no message events for a backend";
            return Err(Fault::value(at.key("backend"), what).advise("leave one of the two out"));
        }
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
                stream: stream(is_streamed, wire, &at.key("backend"), "/v1/events/{path}")?,
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

/// Whether events go to streams, as a backend at this place asks for. `listening`: the call that tells them
/// without.
pub fn stream(asked: bool, wire: &wire::Wire, at: &At, listening: &str) -> Result<bool, Fault> {
    if asked && wire.broker.url.is_none() {
        let what = "streams are kept in Redis, and there is none";
        let advice = format!(
            "set `url` in [broker], as in \"redis://127.0.0.1:6379\"; or leave `stream` out and \
             listen to GET {listening}"
        );
        return Err(Fault::value(at.key("stream"), what).advise(advice));
    }
    Ok(asked)
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

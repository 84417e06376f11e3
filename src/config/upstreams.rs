//! The upstreams: from what was written to what each needs to be dialled, or the first fault.

use std::sync::Arc;
use std::time::Duration;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};

use crate::config::fault::{At, Fault};
use crate::config::files::pem;
use crate::config::paths::{on_full, stream, subprotocols};
use crate::config::webhooks::upstream_webhook;
use crate::config::wire;
use crate::proto::backoff::Backoff;
use crate::proto::path::Path;
use crate::proto::paths::{OnFull, Paths};
use crate::proto::upstream::Name;
use crate::proto::url::{self, Invalid, Purpose};
use crate::relay::desk;
use crate::upstream::connection::Terms;
use crate::upstream::dial::Remote;
use crate::upstream::tls::{self, Trust};
use crate::upstream::{self, Config, Written};

/// What is about the connection and about a body, besides what pathcast writes itself: it asks for an
/// upgrade, and has no body.
const OF_THE_HANDSHAKE: [HeaderName; 10] = [
    HOST,
    CONNECTION,
    UPGRADE,
    CONTENT_LENGTH,
    TRANSFER_ENCODING,
    TE,
    TRAILER,
    EXPECT,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Where a server is, of a URL.
struct Place {
    host: String,
    port: u16,
    authority: String,
    target: String,
    is_secured: bool,
}

pub fn upstreams(wire: &wire::Wire, paths: &Paths) -> Result<Vec<upstream::Config>, Fault> {
    let root = At::keys(["upstream"]);
    let mut configs: Vec<Config> = Vec::new();
    for (index, written) in wire.upstream.iter().enumerate() {
        let at = root.index(index);
        let name = Name::parse(&written.name).map_err(|error| {
            let what = format!("{:?} cannot name an upstream: {error}", written.name);
            Fault::value(at.key("name"), what)
        })?;
        if let Some(first) = configs.iter().position(|other| other.desk.name == name) {
            let what = format!("there is another upstream named {:?}", written.name);
            let fault = Fault::value(at.key("name"), what);
            return Err(fault.against(root.index(first).key("name")));
        }
        if written.reconnect_min.0 > written.reconnect_max.0 {
            let what = format!(
                "reconnect_min ({}) is longer than reconnect_max ({})",
                written.reconnect_min, written.reconnect_max
            );
            return Err(Fault::key(at.clone(), what).advise("swap them"));
        }
        let is_streamed = written.backend.as_ref().is_some_and(|backend| backend.stream);
        let at_backend = at.key("backend");
        let stream = stream(is_streamed, wire, &at_backend, "/v1/upstreams/{name}/events")?;
        let on_full = written.backend.as_ref().map_or(Ok(OnFull::Backpressure), |backend| {
            on_full(backend.stream, backend.on_full, &at_backend)
        })?;
        let webhook = written.backend.as_ref();
        let webhook = webhook.map(|backend| upstream_webhook(backend, &at_backend)).transpose()?;
        configs.push(Config {
            desk: desk::Config {
                name,
                wholemsg: written.wholemsg,
                queue_bytes_max: written.queue_bytes_max.0,
                frame_bytes_max: wire.limits.frame_bytes_max.0,
                stream,
                on_full,
                webhook: webhook.flatten().map(Arc::new),
                patience: patience(wire.broker.unicast_timeout.0),
            },
            remote: remote(wire, written, &at)?,
            terms: Terms {
                wholemsg: written.wholemsg,
                to: written.to.as_ref().map(|to| path(to, paths, &at.key("to"))).transpose()?,
                heartbeat: written.heartbeat.0,
            },
            reconnect: Backoff { first: written.reconnect_min.0, most: written.reconnect_max.0 },
            written: whole(written, &at)?,
        });
    }
    Ok(configs)
}

/// What tells one upstream from another: its settings, and the certificates they name, as they are now.
/// A token is read at each attempt to connect, so it is not among them.
fn whole(written: &wire::Upstream, at: &At) -> Result<Written, Fault> {
    let ca = written.ca.as_ref().map(|ca| pem(ca, at.key("ca"))).transpose()?;
    Ok(Written(format!("{written:?} {ca:?}")))
}

/// Whoever publishes is to be told "queued" before his own patience ends, which is twice that.
fn patience(answer_timeout: Duration) -> Duration {
    answer_timeout / 2
}

fn remote(wire: &wire::Wire, written: &wire::Upstream, at: &At) -> Result<Remote, Fault> {
    let place = place(&written.url, &at.key("url"))?;
    let said = [("ca", written.ca.is_some()), ("verify", !written.verify)];
    if let Some((key, _)) = said.into_iter().find(|&(_, is_said)| is_said && !place.is_secured) {
        let what = "this says nothing without TLS to the server";
        return Err(Fault::value(at.key(key), what).advise("url = \"wss://…\", with two s"));
    }
    let trust = match (&written.ca, written.verify) {
        (None, true) => Trust::System,
        (Some(ca), true) => Trust::Authority(pem(ca, at.key("ca"))?),
        (None, false) => Trust::Anybody,
        (Some(_), false) => {
            let what = "an authority says nothing where nothing is verified";
            return Err(Fault::value(at.key("ca"), what).advise("leave one of the two out"));
        }
    };
    let tls = place.is_secured.then(|| {
        let key = if written.ca.is_some() { "ca" } else { "url" };
        tls::client(trust).map_err(|what| Fault::value(at.key(key), what))
    });
    let headers = written.headers.iter().enumerate();
    let has_token = written.token_file.is_some();
    let headers =
        headers.map(|(index, line)| header(line, has_token, &at.key("headers").index(index)));
    Ok(Remote {
        host: place.host,
        port: place.port,
        authority: place.authority,
        target: place.target,
        tls: tls.transpose()?,
        headers: headers.collect::<Result<_, _>>()?,
        subprotocols: subprotocols(&written.subprotocols, &at.key("subprotocols"))?,
        token_file: written.token_file.clone(),
        message_bytes_max: wire.limits.message_bytes_max.0,
    })
}

/// It may hold a key, so it is not shown.
fn place(text: &str, at: &At) -> Result<Place, Fault> {
    let fault =
        |invalid: Invalid| Fault::value(at.clone(), invalid.to_string()).advise(invalid.advice());
    let uri = url::parse(text, Purpose::Upstream).map_err(fault)?;
    let authority = uri.authority().ok_or_else(|| fault(Invalid::Malformed(Purpose::Upstream)))?;
    let is_secured = uri.scheme_str().is_some_and(|scheme| scheme.eq_ignore_ascii_case("wss"));
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let port = authority.port_u16().unwrap_or(if is_secured { 443 } else { 80 });
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    Ok(Place { host, port, authority: authority.to_string(), target, is_secured })
}

/// `Name: value`. The value may be a secret, so it is not shown.
fn header(line: &str, has_token: bool, at: &At) -> Result<(HeaderName, HeaderValue), Fault> {
    let fault = |what: &str| {
        Fault::value(at.clone(), what).advise("a name and a value, as in \"X-Api-Key: 123\"")
    };
    let (name, value) = line.split_once(':').ok_or_else(|| fault("this is not a header"))?;
    let name: HeaderName =
        name.trim().parse().map_err(|_| fault("this is not the name of a header"))?;
    let mut value: HeaderValue =
        value.trim().parse().map_err(|_| fault("this is not the value of a header"))?;
    value.set_sensitive(true);
    let is_own = OF_THE_HANDSHAKE.contains(&name)
        || name.as_str().starts_with("sec-websocket-")
        || name.as_str().starts_with("pathcast-");
    if is_own {
        let fault = Fault::value(
            at.clone(),
            "this header belongs to the handshake, which pathcast writes itself",
        );
        return Err(fault.advise("leave it out; `url` and `subprotocols` say what is in it"));
    }
    if name == AUTHORIZATION && has_token {
        let fault = Fault::value(at.clone(), "`token_file` makes this header, too");
        return Err(fault.advise("leave one of the two out"));
    }
    if name == AUTHORIZATION && value.as_bytes().is_empty() {
        return Err(fault("this header is empty"));
    }
    Ok((name, value))
}

fn path(to: &str, paths: &Paths, at: &At) -> Result<Path, Fault> {
    paths.resolve(to).map(|(path, _)| path).ok_or_else(|| {
        let what = format!("{to:?} is no path that clients can open");
        Fault::value(at.clone(), what)
            .advise("the `path` of a [[path]], or one concrete path of a pattern")
    })
}

//! Who may call: keys with scopes and paths; without any key, this machine only.
//!
//! Without a key the API can be reached from loopback only, but so can a web page that runs on
//! this machine: it may send a POST anywhere, or make a name of its own resolve to 127.0.0.1. So
//! `Host` has to be a name that only loopback has, and an `Origin` has to be the API's own.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::request::Parts;
use http::uri::Authority;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::api::problem::{Kind, Problem};
use crate::api::{Config, Key, PLACE_TIMEOUT, Scope, State, kept};
use crate::proto::grant::Grant;

/// What a call demands of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing: the kubelet has no key, and calls by the pod's address.
    Probe,
    /// No key, since a browser cannot send one with the first request: a page without data.
    Page,
    /// Any key.
    Key,
    /// A key with one of these scopes.
    Scopes(&'static [Scope]),
}

/// Who calls, once admitted.
#[derive(Debug, Clone)]
pub struct Caller {
    pub grant: Grant,
}

impl Caller {
    /// For a path that the request names.
    pub fn may_touch(&self, path: &str) -> Result<(), Problem> {
        if self.grant.allows(path) {
            return Ok(());
        }
        let detail = format!("the paths of this key do not cover {path}: use another key");
        Err(Problem::new(Kind::ForbiddenPath, detail))
    }
}

impl Scope {
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Publish => "publish",
            Scope::Sessions => "sessions",
            Scope::Events => "events",
            Scope::Metrics => "metrics",
            Scope::Admin => "admin",
        }
    }
}

/// The layer of every call: lets the request through with its [`Caller`] beside it.
pub async fn admit(state: State, access: Access, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    match caller(&state.config, access, &parts) {
        Ok(caller) => {
            parts.extensions.insert(caller);
            let place = match access {
                Access::Probe => None,
                _ => match place(&state).await {
                    Ok(place) => Some(place),
                    Err(problem) => return problem.into_response(),
                },
            };
            let response = next.run(Request::from_parts(parts, body)).await;
            response.map(|body| kept(body, place))
        }
        Err(problem) => problem.into_response(),
    }
}

/// A place for one call.
async fn place(state: &State) -> Result<OwnedSemaphorePermit, Problem> {
    let place = timeout(PLACE_TIMEOUT, state.places.clone().acquire_owned()).await;
    let place = place.ok().and_then(Result::ok);
    place.ok_or_else(|| {
        let detail = "not sent: this pod has as many calls in hand as it can; try again later";
        Problem::new(Kind::Unavailable, detail)
    })
}

/// Who calls, if he may.
pub fn caller(config: &Config, access: Access, parts: &Parts) -> Result<Caller, Problem> {
    let everything = Caller { grant: Grant::All };
    if access == Access::Probe {
        return Ok(everything);
    }
    if config.keys.is_empty() {
        check_host_and_origin(parts)?;
        return Ok(everything);
    }
    if access == Access::Page {
        return Ok(everything);
    }
    let key = key(&config.keys, parts)?;
    if let Access::Scopes(scopes) = access
        && !scopes.iter().any(|&scope| has_scope(key, scope))
    {
        let scopes: Vec<_> = scopes.iter().map(|scope| scope.as_str()).collect();
        let detail = format!("the key {:?} lacks the scope {}", key.name, scopes.join(" or "));
        return Err(Problem::new(Kind::ForbiddenScope, detail));
    }
    Ok(Caller { grant: key.grant.clone() })
}

fn has_scope(key: &Key, scope: Scope) -> bool {
    key.scopes.iter().any(|&one| one == scope || one == Scope::Admin)
}

/// The key whose token the request bears. Takes the same time whichever it is, or none.
fn key<'a>(keys: &'a [Key], parts: &Parts) -> Result<&'a Key, Problem> {
    let unauthorized = |detail: &str| Problem::new(Kind::Unauthorized, detail);
    let mut given = parts.headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return Err(unauthorized("send one header `Authorization: Bearer TOKEN`"));
    };
    let Some((scheme, token)) = split_once(value.as_bytes(), b' ') else {
        return Err(unauthorized("the header is `Authorization: Bearer TOKEN`"));
    };
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Err(unauthorized("the scheme is Bearer: `Authorization: Bearer TOKEN`"));
    }
    let hash: [u8; 32] = Sha256::digest(token.trim_ascii()).into();
    let mut found = None;
    for key in keys {
        let equal: Choice = key.sha256.ct_eq(&hash);
        if equal.into() {
            found = Some(key);
        }
    }
    found.ok_or_else(|| unauthorized("no key is known for this token: is it the right one?"))
}

fn split_once(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == separator)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

fn check_host_and_origin(parts: &Parts) -> Result<(), Problem> {
    let refused = || {
        Problem::new(
            Kind::ForbiddenHost,
            "without [[api.key]] the API answers to 127.0.0.1, [::1] and localhost only: call it \
             by one of these, or configure a key",
        )
    };
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().map_err(|_| refused())?,
        _ => return Err(refused()),
    };
    // In absolute form the target outranks the header (RFC 9112, 3.2.2): both have to be right.
    let target = parts.uri.authority().map(Authority::as_str);
    if !is_loopback(host) || !target.is_none_or(is_loopback) {
        return Err(refused());
    }
    let own = format!("http://{host}");
    for origin in parts.headers.get_all(ORIGIN) {
        if !origin.as_bytes().eq_ignore_ascii_case(own.as_bytes()) {
            return Err(Problem::new(
                Kind::ForbiddenOrigin,
                "without [[api.key]] no web page but the console may call the API: call it from a \
                 program, or configure a key",
            ));
        }
    }
    Ok(())
}

/// Whether `host[:port]` is a name that only loopback has.
fn is_loopback(host: &str) -> bool {
    // By hand: `Authority` takes `[::1].example.com` for the host `[::1]`.
    let end = match host.starts_with('[') {
        true => host.find(']').map(|at| at + 1),
        false => host.find(':'),
    };
    let (name, port) = host.split_at(end.unwrap_or(host.len()));
    let is_number = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_number) {
        return false;
    }
    if let Some(literal) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return literal.parse::<Ipv6Addr>().is_ok_and(|addr| addr.is_loopback());
    }
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<Ipv4Addr>().is_ok_and(|addr| addr.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::proto::grant::Glob;

    fn config(keys: Vec<Key>) -> Config {
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        Config { listen, keys, publish_bytes_max: 100, batch_bytes_max: 1000 }
    }

    fn key(name: &str, scopes: &[Scope]) -> Key {
        let grant = Grant::Globs(Arc::new([Glob::parse("/ws/*").expect("a glob")]));
        let sha256 = Sha256::digest(name).into();
        Key { name: name.into(), sha256, scopes: scopes.into(), grant }
    }

    fn ask(config: &Config, access: Access, headers: &[(&str, &str)]) -> Result<Caller, Kind> {
        let mut request = Request::builder().uri("/v1/paths");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("a good request").into_parts();
        caller(config, access, &parts).map_err(|problem| problem.kind)
    }

    #[track_caller]
    fn keyless(headers: &[(&str, &str)], expected: Option<Kind>) {
        let config = config(Vec::new());
        let admin = Access::Scopes(&[Scope::Admin]);
        assert_eq!(ask(&config, admin, headers).err(), expected, "{headers:?}");
        assert_eq!(ask(&config, Access::Page, headers).err(), expected, "{headers:?}");
        assert_eq!(ask(&config, Access::Probe, headers).err(), None, "{headers:?}");
    }

    #[test]
    fn without_keys_only_loopback_names_are_answered() {
        keyless(&[("host", "localhost")], None);
        keyless(&[("host", "LocalHost:8081")], None);
        keyless(&[("host", "127.0.0.1:1")], None);
        keyless(&[("host", "127.8.9.1")], None);
        keyless(&[("host", "[::1]")], None);
        keyless(&[("host", "[::1]:8081")], None);
        let host = Some(Kind::ForbiddenHost);
        keyless(&[], host);
        keyless(&[("host", "")], host);
        keyless(&[("host", "example.com")], host);
        keyless(&[("host", "localhost.example.com")], host);
        keyless(&[("host", "127.0.0.1.example.com")], host);
        keyless(&[("host", "10.0.0.1:8081")], host);
        keyless(&[("host", "0.0.0.0")], host);
        keyless(&[("host", "2130706433")], host);
        keyless(&[("host", "[::]:8081")], host);
        keyless(&[("host", "[::ffff:10.0.0.1]")], host);
        keyless(&[("host", "localhost@example.com")], host);
        keyless(&[("host", "example.com@localhost")], host);
        keyless(&[("host", "localhost"), ("host", "example.com")], host);
        keyless(&[("host", "a b")], host);
        for odd in ["[::1].example.com", "[::1]x", "[::1]:", "[::1", "::1", "[::1]:1:2", "[::1]:x"]
        {
            keyless(&[("host", odd)], host);
        }
        for odd in ["localhost:x", "localhost:", "localhost:1@example.com", "127.0.0.1:+1"] {
            keyless(&[("host", odd)], host);
        }
    }

    #[test]
    fn without_keys_an_origin_is_the_apis_own() {
        let own = ("host", "localhost:8081");
        keyless(&[own, ("origin", "http://localhost:8081")], None);
        let origin = Some(Kind::ForbiddenOrigin);
        keyless(&[own, ("origin", "null")], origin);
        keyless(&[own, ("origin", "https://localhost:8081")], origin);
        keyless(&[own, ("origin", "http://localhost:8080")], origin);
        keyless(&[own, ("origin", "http://localhost")], origin);
        keyless(&[own, ("origin", "http://127.0.0.1:8081")], origin);
        keyless(&[own, ("origin", "http://example.com")], origin);
        keyless(&[own, ("origin", "http://localhost:8081"), ("origin", "null")], origin);
    }

    #[track_caller]
    fn keyed(access: Access, authorization: &str, expected: Option<Kind>) {
        let config = config(vec![
            key("publisher", &[Scope::Publish]),
            key("admin", &[Scope::Admin]),
            key("none", &[]),
        ]);
        let headers = [("authorization", authorization), ("host", "api.example.com")];
        assert_eq!(ask(&config, access, &headers).err(), expected, "{authorization}");
    }

    #[test]
    fn a_key_opens_what_its_scopes_say() {
        let publish = Access::Scopes(&[Scope::Publish]);
        let either = Access::Scopes(&[Scope::Sessions, Scope::Publish]);
        let metrics = Access::Scopes(&[Scope::Metrics]);
        keyed(publish, "Bearer publisher", None);
        keyed(publish, "bearer   publisher", None);
        keyed(either, "Bearer publisher", None);
        keyed(metrics, "Bearer publisher", Some(Kind::ForbiddenScope));
        keyed(metrics, "Bearer admin", None);
        keyed(publish, "Bearer admin", None);
        keyed(publish, "Bearer none", Some(Kind::ForbiddenScope));
        keyed(Access::Key, "Bearer none", None);
        for bad in ["Bearer x", "Bearer ", "Bearer", "Basic publisher", "publisher", ""] {
            keyed(publish, bad, Some(Kind::Unauthorized));
            keyed(Access::Key, bad, Some(Kind::Unauthorized));
            keyed(Access::Page, bad, None);
            keyed(Access::Probe, bad, None);
        }
    }

    #[test]
    fn a_missing_or_doubled_key_is_no_key() {
        let config = config(vec![key("publisher", &[Scope::Publish])]);
        let one = ("authorization", "Bearer publisher");
        assert!(ask(&config, Access::Key, &[]).is_err());
        assert!(ask(&config, Access::Key, &[one, one]).is_err());
        let caller = ask(&config, Access::Key, &[one]).expect("a good key");
        assert!(caller.may_touch("/ws/a").is_ok());
        assert!(caller.may_touch("/other").is_err());
    }
}

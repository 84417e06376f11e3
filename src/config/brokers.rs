//! The broker: the address of its Redis, with what stands in the files for TLS, or the first fault.

use std::time::Duration;

use crate::broker::redis::tls::{Flaw, Identity, Tls};
use crate::broker::redis::{Address, Config};
use crate::config::fault::{At, Fault};
use crate::config::files::pem;
use crate::config::wire;

/// Below this one slow answer of a Redis that lives would be taken for a death.
const LEASE_TTL_MIN: Duration = Duration::from_secs(3);

/// `None`: the memory broker.
pub fn redis(written: &wire::Broker, publish_bytes_max: usize) -> Result<Option<Config>, Fault> {
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
    Ok(Some(Config {
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

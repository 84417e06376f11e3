//! The keys of the API: from what was written, or from where a secret is kept, to its SHA-256.
//!
//! A secret lives here only as long as its hash takes; it is in no error.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::api;
use crate::config::fault::{At, Fault};
use crate::config::files::bounded;
use crate::config::{Source, wire};
use crate::proto::grant::{Glob, Grant};

/// Shorter ones can be guessed.
const SECRET_BYTES_MIN: usize = 16;

/// A bearer token has to fit into a request's head, with room for everything else.
const SECRET_BYTES_MAX: usize = 4096;

pub fn keys(written: &[wire::Key], source: &Source) -> Result<Vec<api::Key>, Fault> {
    let mut keys: Vec<api::Key> = Vec::new();
    for (index, key) in written.iter().enumerate() {
        let at = |index: usize| At::keys(["api", "key"]).index(index);
        let sha256 = hash(key, &at(index), source)?;
        if key.name.trim().is_empty() {
            return Err(Fault::value(at(index).key("name"), "a key needs a name, for the logs"));
        }
        if let Some(first) = keys.iter().position(|other| other.name == key.name) {
            let what = format!("there is another key named {:?}", key.name);
            let fault = Fault::value(at(index).key("name"), what);
            return Err(fault.against(at(first).key("name")));
        }
        if let Some(first) = keys.iter().position(|other| other.sha256 == sha256) {
            let what = format!("the keys {:?} and {:?} are the same", keys[first].name, key.name);
            let advice =
                "give each its own: what a key may do would depend on which is found first";
            return Err(Fault::key(at(index), what).advise(advice).against(at(first)));
        }
        if key.scopes.is_empty() {
            return Err(Fault::value(
                at(index).key("scopes"),
                "a key without scopes may do nothing",
            )
            .advise(
                "scopes = [\"publish\"], or any of publish, sessions, events, metrics, admin",
            ));
        }
        keys.push(api::Key {
            name: key.name.clone(),
            sha256,
            scopes: scopes(&key.scopes),
            grant: grant(&key.paths, &at(index).key("paths"))?,
        });
    }
    Ok(keys)
}

fn hash(key: &wire::Key, at: &At, source: &Source) -> Result<[u8; 32], Fault> {
    let one = "exactly one of sha256, key_file and key_env says what the key is";
    match (&key.sha256, &key.key_file, &key.key_env) {
        (Some(hex), None, None) => digits(hex).ok_or_else(|| {
            let found = match hex.chars().count() {
                64 => "not all of these are".into(),
                count => format!("these are {count} characters"),
            };
            let what = format!("a sha256 is 64 hexadecimal digits, {found}");
            Fault::value(at.key("sha256"), what).advise(
                "printf %s \"$KEY\" | sha256sum makes one; \
                     key_file and key_env take the key itself",
            )
        }),
        (None, Some(path), None) => file(path, &at.key("key_file")),
        (None, None, Some(name)) => {
            let at = at.key("key_env");
            let Some(secret) = source.variable(name) else {
                let what = "there is no such environment variable";
                return Err(Fault::value(at, what)
                    .advise("key_env is the name of the variable that holds the key"));
            };
            secret_hash(secret.as_bytes(), at)
        }
        (None, None, None) => {
            let what = format!("the key {:?} has no key", key.name);
            Err(Fault::key(at.clone(), what).advise(one))
        }
        (sha256, file, _) => {
            // The later one in the order of the documentation is the one too many.
            let last = if key.key_env.is_some() { "key_env" } else { "key_file" };
            let first = match (sha256, file) {
                (Some(_), _) => "sha256",
                _ => "key_file",
            };
            let what = format!("{first} and {last} say both what the key {:?} is", key.name);
            Err(Fault::key(at.key(last), what).advise(one).against(at.key(first)))
        }
    }
}

fn file(path: &Path, at: &At) -> Result<[u8; 32], Fault> {
    // White space around the secret is allowed, so a file may be a little larger.
    match bounded(path, 2 * SECRET_BYTES_MAX as u64) {
        Ok(secret) => secret_hash(&secret, at.clone()),
        Err(error) => {
            let what = format!("the key cannot be read from {}: {error}", path.display());
            Err(Fault::value(at.clone(), what))
        }
    }
}

fn secret_hash(secret: &[u8], at: At) -> Result<[u8; 32], Fault> {
    let secret = secret.trim_ascii();
    if secret.len() < SECRET_BYTES_MIN {
        let what =
            format!("the key has {} bytes, at least {SECRET_BYTES_MIN} are needed", secret.len());
        return Err(Fault::value(at, what).advise("openssl rand -hex 32 makes a good one"));
    }
    if secret.len() > SECRET_BYTES_MAX {
        let what = format!("the key has more than {SECRET_BYTES_MAX} bytes");
        return Err(Fault::value(at, what));
    }
    if !secret.iter().all(u8::is_ascii_graphic) {
        let what = "the key has characters that cannot be sent in a request's head";
        return Err(Fault::value(at, what).advise("use letters and digits, one line"));
    }
    Ok(Sha256::digest(secret).into())
}

fn digits(hex: &str) -> Option<[u8; 32]> {
    let hex = hex.as_bytes();
    if hex.len() != 64 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks(2)) {
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

fn scopes(written: &[wire::Scope]) -> Vec<api::Scope> {
    let scope = |scope: &wire::Scope| match scope {
        wire::Scope::Publish => api::Scope::Publish,
        wire::Scope::Sessions => api::Scope::Sessions,
        wire::Scope::Events => api::Scope::Events,
        wire::Scope::Metrics => api::Scope::Metrics,
        wire::Scope::Admin => api::Scope::Admin,
    };
    written.iter().map(scope).collect()
}

fn grant(globs: &[String], at: &At) -> Result<Grant, Fault> {
    if globs.is_empty() {
        return Err(Fault::value(at.clone(), "a key without paths may do nothing")
            .advise("paths = [\"*\"] stands for every path"));
    }
    let parse = |(index, glob): (usize, &String)| {
        Glob::parse(glob).map_err(|error| {
            Fault::value(at.index(index), format!("{glob:?} is no glob: {error}"))
                .advise("for example \"/ws/sensors\", \"/ws/rooms/*\" or \"*\"")
        })
    };
    let globs: Vec<Glob> = globs.iter().enumerate().map(parse).collect::<Result<_, _>>()?;
    match globs.iter().any(|glob| Glob::parse("*").as_ref() == Ok(glob)) {
        true => Ok(Grant::All),
        false => Ok(Grant::Globs(Arc::from(globs))),
    }
}

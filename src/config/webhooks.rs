//! Webhooks: how requests are signed and sent, and where the events of a path or an upstream go.
//!
//! A secret lives here only as text until it is a key; it is in no error.

use std::path::Path;

use crate::backend::webhook::Config;
use crate::config::fault::{At, Fault};
use crate::config::files::bounded;
use crate::config::{Source, wire};
use crate::proto::webhook::signature::{Invalid, Secret};
use crate::proto::webhook::url::Url;
use crate::proto::webhook::{OnConnectError, OnError, Webhook};

/// A secret is a hundred characters at most; the rest is white space, or not a secret.
const SECRET_FILE_BYTES_MAX: u64 = 4096;

/// More than two are needed only for a moment; and each costs a signature for every event.
const SECRETS_MAX: usize = 8;

/// How requests are made. `answer_bytes_max`: what may become a frame.
pub fn config(
    written: &wire::Webhook,
    answer_bytes_max: usize,
    source: &Source,
) -> Result<Config, Fault> {
    let at = At::keys(["webhook"]);
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if written.origin.is_empty() || !written.origin.bytes().all(is_name) {
        let what = format!("{:?} is not the name of a host", written.origin);
        return Err(Fault::value(at.key("origin"), what)
            .advise("letters, digits and any of \".-_\", as in \"gateway.example.com\""));
    }
    if written.secret.len() > SECRETS_MAX {
        let what = format!("there are more than {SECRETS_MAX} secrets");
        return Err(
            Fault::key(at.key("secret"), what).advise("while one replaces another, two are enough")
        );
    }
    let secrets = written.secret.iter().enumerate();
    let secrets = secrets.map(|(index, one)| secret(one, &at.key("secret").index(index), source));
    Ok(Config {
        secrets: secrets.collect::<Result<_, _>>()?,
        timeout: written.timeout.0,
        connect_limit: written.connect_limit.0,
        in_flight: written.in_flight,
        connects_in_flight: written.connects_in_flight,
        disconnects_in_flight: written.disconnects_in_flight,
        validate: written.validate,
        origin: written.origin.clone(),
        answer_bytes_max,
    })
}

/// A client whose backend does not answer has to be told so before its handshake has taken too long.
/// Only where clients wait for a backend; `written` as for all settings.
pub fn answers_in_time(wire: &wire::Wire, written: &dyn Fn(&At) -> bool) -> Result<(), Fault> {
    let (inner, outer) = (wire.webhook.connect_limit, wire.clients.handshake_timeout);
    let has_webhook =
        |path: &wire::Path| path.backend.as_ref().is_some_and(|one| one.webhook.is_some());
    if inner.0 < outer.0 || !wire.path.iter().any(has_webhook) {
        return Ok(());
    }
    let [limit, timeout] =
        [["webhook", "connect_limit"], ["clients", "handshake_timeout"]].map(At::keys);
    let what = format!(
        "connect_limit of [webhook] ({inner}) is not below handshake_timeout of [clients] ({outer})"
    );
    Err(Fault::value(if written(&limit) { limit } else { timeout }, what).advise(
        "a client whose backend is slow would be cut off without an answer: lower connect_limit, or \
         raise handshake_timeout",
    ))
}

/// Where the events of a path are posted to.
pub fn webhook(path: &wire::Path, at: &At) -> Result<Option<Webhook>, Fault> {
    let Some(backend) = &path.backend else { return Ok(None) };
    let Some(text) = &backend.webhook else { return Ok(None) };
    Ok(Some(Webhook {
        url: url(text, at)?,
        on_error: match backend.on_error {
            wire::OnError::Retry => OnError::Retry,
            wire::OnError::Drop => OnError::Drop,
            wire::OnError::Close => OnError::Close,
        },
        on_connect_error: match backend.on_connect_error {
            wire::OnConnectError::Refuse => OnConnectError::Refuse,
            wire::OnConnectError::Accept => OnConnectError::Accept,
        },
        retry_for: backend.retry_for.0,
    }))
}

/// Where the events of an upstream are posted to.
pub fn upstream_webhook(
    backend: &wire::UpstreamBackend,
    at: &At,
) -> Result<Option<Webhook>, Fault> {
    let Some(text) = &backend.webhook else { return Ok(None) };
    Ok(Some(Webhook {
        url: url(text, at)?,
        on_error: match backend.on_error {
            wire::OnUpstreamError::Retry => OnError::Retry,
            wire::OnUpstreamError::Drop => OnError::Drop,
        },
        // Its connection is there when that is told.
        on_connect_error: OnConnectError::Accept,
        retry_for: backend.retry_for.0,
    }))
}

fn url(text: &str, at: &At) -> Result<Url, Fault> {
    Url::parse(text).map_err(|invalid| {
        // It may hold a password, so it is not shown.
        Fault::value(at.key("webhook"), invalid.to_string()).advise(invalid.advice())
    })
}

fn secret(written: &wire::Secret, at: &At, source: &Source) -> Result<Secret, Fault> {
    let one = "exactly one of key, key_file and key_env says what the secret is";
    let (key, text) = match (&written.key, &written.key_file, &written.key_env) {
        (Some(text), None, None) => ("key", text.clone()),
        (None, Some(path), None) => ("key_file", file(path, &at.key("key_file"))?),
        (None, None, Some(name)) => {
            let Some(text) = source.variable(name) else {
                let what = "there is no such environment variable";
                return Err(Fault::value(at.key("key_env"), what)
                    .advise("key_env is the name of the variable that holds the secret"));
            };
            ("key_env", text.to_owned())
        }
        (None, None, None) => return Err(Fault::key(at.clone(), "a secret is empty").advise(one)),
        _ => return Err(Fault::key(at.clone(), "a secret is told twice").advise(one)),
    };
    Secret::parse(text.trim()).map_err(|invalid: Invalid| {
        Fault::value(at.key(key), invalid.to_string())
            .advise("echo whsec_$(openssl rand -base64 32) makes a good one")
    })
}

fn file(path: &Path, at: &At) -> Result<String, Fault> {
    let read = bounded(path, SECRET_FILE_BYTES_MAX).map_err(|error| error.to_string());
    let text = read.and_then(|bytes| String::from_utf8(bytes).map_err(|_| "it is no text".into()));
    text.map_err(|error| {
        let what = format!("the secret cannot be read from {}: {error}", path.display());
        Fault::value(at.clone(), what)
    })
}

//! The origins whose pages may open a path.

use crate::config::fault::{At, Fault};
use crate::config::schema::nearest;
use crate::proto::paths::Origins;

pub fn origins(written: &[String], at: &At) -> Result<Origins, Fault> {
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

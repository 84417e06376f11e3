//! Text and environment turned into each part's own `Config`; the only reader of both.
//!
//! The way of a setting: the file is parsed and every value's place kept (`document`), variables
//! are laid over it (`variables`), keys, types and ranges are held against the schema
//! (`schema`), the text becomes the wire structs (`wire`, `unit`), and these get their
//! meaning (`meaning`, and a file for each larger part of them). Whatever goes wrong on the way is told once, at its place
//! (`fault`), without secrets (`excerpt`). Nothing of the wire gets out: the parts see their own types only.

mod brokers;
mod document;
mod excerpt;
mod fault;
mod files;
mod keys;
mod meaning;
mod origins;
mod paths;
mod schema;
mod unit;
mod upstreams;
mod variables;
mod webhooks;
mod wire;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::api;
use crate::backend::webhook;
use crate::broker;
use crate::config::document::Document;
use crate::config::fault::{Fault, Step};
use crate::config::files::bounded;
use crate::config::schema::Schema;
use crate::config::wire::Wire;
use crate::gateway;
use crate::gateway::tls;
use crate::hub;
use crate::kubernetes;
use crate::proto::paths::Paths;
use crate::relay;
use crate::trace::{logs, span};
use crate::upstream;

/// The largest file that is taken for settings; more than that is a mistake, or a device.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The variable of `api.listen`.
const API_LISTEN: &str = "PATHCAST__API__LISTEN";

/// The settings without a file: the memory broker and one open path.
const NO_FILE: &str = "[[path]]\npath = \"/ws\"\n";

/// Everything that can be set, checked, with the defaults filled in.
#[derive(Debug, Clone)]
pub struct Settings {
    pub gateway: gateway::Config,
    pub api: api::Config,
    pub hub: hub::Config,
    pub relay: relay::Config,
    /// `None`: the memory broker.
    pub broker: Option<broker::redis::Config>,
    pub webhook: webhook::Config,
    /// Into how many streams the events of one path are parted.
    pub stream_partitions: u32,
    /// How many entries of one stream may be unread before it counts as full.
    pub stream_backlog_max: u64,
    /// At least one.
    pub paths: Paths,
    pub upstreams: Vec<upstream::Config>,
    pub log: logs::Config,
    pub trace: span::Config,
    pub drain: Drain,
    /// `None`: Kubernetes is told nothing.
    pub kubernetes: Option<kubernetes::Config>,
    /// The file they came from.
    pub source: Option<PathBuf>,
    /// As they would be written; the secrets are still in here.
    wire: Wire,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// How long new clients are still taken once this pod is not ready any more.
    pub settle: Duration,
    /// Over what time the sessions are closed.
    pub window: Duration,
    /// The upper end of the random time after which clients are told to come back.
    pub retry_after: Duration,
    /// How long the flush may take at most.
    pub timeout: Duration,
}

/// Where settings come from; can be read again.
#[derive(Clone, Default)]
pub struct Source {
    /// `None`: the settings without a file.
    pub path: Option<PathBuf>,
    /// All variables, in any order. May hold secrets, so there is no `Debug`.
    pub env: Vec<(String, String)>,
}

/// Why there are no settings: the whole text for a person, several lines, with the place, an
/// excerpt and advice. It shows no secrets and does not end with a line break.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Source {
    /// A variable of the environment.
    fn variable(&self, name: &str) -> Option<&str> {
        self.env.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// The environment of this process, and the file that was asked for: by the argument, else by
    /// `PATHCAST_CONFIG` if that is not empty. No file is looked for anywhere: settings never come
    /// as a surprise.
    pub fn from_env(argument: Option<PathBuf>) -> Source {
        let named = || std::env::var_os("PATHCAST_CONFIG").filter(|path| !path.is_empty());
        let path = argument.or_else(|| named().map(PathBuf::from));
        // What is not UTF-8 is kept, mangled: it is refused where it is used, not overlooked.
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let env = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
        Source { path, env }
    }
}

/// Reads the settings. The error's `Display` is the whole text for the person who wrote them: the
/// first thing wrong, in the order of the file.
pub fn load(source: &Source) -> Result<Settings, Error> {
    match &source.path {
        Some(path) => understand(&path.display().to_string(), &file(path)?, source),
        None => understand("settings", NO_FILE, source),
    }
}

/// Where the gateway of these settings has its API. As long as that can be read, nothing else in them
/// is judged: a gateway that runs goes on with what it had before they were changed for the worse.
pub fn api_listen(source: &Source) -> Result<SocketAddr, Error> {
    let refused = match load(source) {
        Ok(settings) => return Ok(settings.api.listen),
        Err(refused) => refused,
    };
    let of_file = || {
        let values: toml::Table = match &source.path {
            Some(path) => toml::from_str(&file(path).ok()?).ok()?,
            None => toml::Table::new(),
        };
        match values.get("api").and_then(|api| api.get("listen")) {
            Some(listen) => listen.as_str().map(str::to_owned),
            None => Some(Wire::default().api.listen),
        }
    };
    let mut env = source.env.iter();
    let variable = env.find(|(name, _)| name.eq_ignore_ascii_case(API_LISTEN));
    let listen = variable.map(|(_, value)| value.clone()).or_else(of_file);
    listen.and_then(|listen| listen.parse().ok()).ok_or(refused)
}

/// The settings of a text, which errors call by this name.
fn understand(name: &str, text: &str, source: &Source) -> Result<Settings, Error> {
    let mut document = Document::parse(name, text)?;
    let schema = Schema::new();
    variables::lay_over(&mut document, &schema, &source.env)?;
    let tell = |fault: &Fault| document.error(fault);
    let faults = schema.check(document.values());
    if let Some(first) = faults.iter().min_by_key(|fault| document.position(fault)) {
        return Err(tell(first));
    }
    let wire = read(document.values()).map_err(|fault| tell(&fault))?;
    let mut settings =
        meaning::settings(wire, source, &|at| document.has(at)).map_err(|fault| tell(&fault))?;
    settings.source.clone_from(&source.path);
    Ok(settings)
}

/// The same, and what the settings only name has to be good, too: the files of the certificate.
pub fn check(source: &Source) -> Result<Settings, Error> {
    let settings = load(source)?;
    if let Some(files) = &settings.gateway.tls {
        tls::verify(files).map_err(|error| {
            Error(format!("[clients.tls]: cannot use the certificate: {error}"))
        })?;
    }
    Ok(settings)
}

/// The JSON Schema of the settings, as text that ends with a line break.
pub fn schema() -> String {
    Schema::new().text()
}

impl Settings {
    /// The settings in effect as TOML, secrets hidden: unless there were some, it loads as the same
    /// settings.
    pub fn to_toml(&self) -> String {
        let from = match &self.source {
            Some(path) => format!("# The settings in effect, from {}\n\n", path.display()),
            None => "# The settings in effect, without a file\n\n".into(),
        };
        let text = toml::to_string(&self.shown()).expect("texts, numbers and tables fit into TOML");
        from + &text
    }

    /// The same as JSON.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(&self.shown())
            .expect("texts, numbers and tables fit into JSON");
        text.push('\n');
        text
    }

    fn shown(&self) -> Wire {
        let mut wire = self.wire.clone();
        for key in &mut wire.api.key {
            if let Some(sha256) = &mut key.sha256 {
                *sha256 = "…hidden…".into();
            }
        }
        for secret in &mut wire.webhook.secret {
            if let Some(key) = &mut secret.key {
                *key = "…hidden…".into();
            }
        }
        if let Some((scheme, address)) = wire
            .broker
            .url
            .as_ref()
            .and_then(|url| Some((url.split_once("://")?.0, url.rsplit_once('@')?.1)))
        {
            wire.broker.url = Some(format!("{scheme}://…hidden…@{address}"));
        }
        for upstream in &mut wire.upstream {
            for header in &mut upstream.headers {
                let name = header.split(':').next().unwrap_or_default();
                *header = format!("{name}: …hidden…");
            }
        }
        let backends =
            wire.path.iter_mut().filter_map(|path| path.backend.as_mut()?.webhook.as_mut());
        let upstreams = wire.upstream.iter_mut().flat_map(|upstream| {
            let webhook = upstream.backend.as_mut().and_then(|backend| backend.webhook.as_mut());
            [Some(&mut upstream.url), webhook].into_iter().flatten()
        });
        for url in wire.broker.url.iter_mut().chain(backends).chain(upstreams) {
            // Many a server takes its key there.
            if let Some((place, _)) = url.split_once('?') {
                *url = format!("{place}?…hidden…");
            }
        }
        wire
    }
}

/// The wire structs of a document that the schema has no complaint about.
fn read(values: &toml::Table) -> Result<Wire, Fault> {
    let values = toml::Value::Table(values.clone());
    serde_path_to_error::deserialize(values).map_err(|error| {
        use serde_path_to_error::Segment;
        let step = |segment: &Segment| match segment {
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Enum { .. } | Segment::Unknown => None,
        };
        let at = fault::At(error.path().iter().filter_map(step).collect());
        Fault::value(at, error.inner().message())
    })
}

fn file(path: &Path) -> Result<String, Error> {
    let shown = path.display();
    let bytes = bounded(path, FILE_BYTES_MAX)
        .map_err(|error| Error(format!("{shown}: the settings cannot be read: {error}")))?;
    let valid = String::from_utf8(bytes);
    valid.map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.split(|byte| *byte == b'\n').count();
        Error(format!("{shown}:{line}: this is not text: TOML is written in UTF-8"))
    })
}

#[cfg(test)]
mod tests;

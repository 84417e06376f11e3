//! Logs, to standard error: standard output belongs to what a person asked for.

use std::io::IsTerminal;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub format: Format,
    /// Directives of `tracing_subscriber::EnvFilter`, as `info` or `pathcast=debug,warn`.
    pub level: String,
}

/// For people, or for machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Human,
    Json,
}

/// From now on, logs go out.
pub fn init(config: &Config) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(&config.level)?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Fails only where a test has begun to log before.
    let _ = match config.format {
        Format::Human => logs.with_target(false).try_init(),
        Format::Json => logs.json().flatten_event(true).try_init(),
    };
    Ok(())
}

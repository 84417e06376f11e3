//! What can be typed after `pathcast`.

pub mod bench;
pub mod check;
pub mod load;
pub mod ready;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// A WebSocket gateway that scales sideways: publish to a path and every client of it, on every
/// pod, gets it; name a session and that one client does.
#[derive(Debug, Parser)]
#[command(name = "pathcast", version, max_term_width = 100)]
pub struct Cli {
    /// The file with the settings (TOML). Else the one that PATHCAST_CONFIG names; else the
    /// defaults: one open path, /ws.
    // The environment is read where the settings are.
    #[arg(long, short, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum Command {
    /// Start the gateway (also what happens without a command).
    Serve,
    /// Check the settings and print those in effect, secrets hidden.
    Check(check::Args),
    /// Put a load on one path of a running gateway, and see how long messages take.
    Bench(bench::Args),
}

impl Cli {
    /// What to do.
    pub fn command(&self) -> Command {
        self.command.clone().unwrap_or(Command::Serve)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[track_caller]
    fn check(line: &str, expected: Option<(Command, Option<&str>)>) {
        let parsed = Cli::try_parse_from(line.split(' ')).ok();
        let parsed = parsed.map(|cli| (cli.command(), cli.config));
        assert_eq!(parsed, expected.map(|(command, file)| (command, file.map(PathBuf::from))));
    }

    #[test]
    fn serve_is_what_happens_without_a_command() {
        <Cli as CommandFactory>::command().debug_assert();
        let checks = |schema, json| Command::Check(check::Args { schema, json, ready: false });
        check("pathcast", Some((Command::Serve, None)));
        check("pathcast serve", Some((Command::Serve, None)));
        check("pathcast --config a.toml", Some((Command::Serve, Some("a.toml"))));
        check("pathcast --config a.toml check", Some((checks(false, false), Some("a.toml"))));
        check("pathcast check --config a.toml", Some((checks(false, false), Some("a.toml"))));
        check("pathcast check --json", Some((checks(false, true), None)));
        check("pathcast check --schema", Some((checks(true, false), None)));
        check("pathcast check --schema --json", None);
        let ready = check::Args { schema: false, json: false, ready: true };
        check("pathcast check --ready", Some((Command::Check(ready), None)));
        check("pathcast check --ready --json", None);
        check("pathcast start", None);
        check("pathcast check a.toml", None);
    }
}

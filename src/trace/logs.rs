//! Logs, to standard error: standard output belongs to what a person asked for.
//!
//! One event is one line, whatever is in it: a name or a reason that a client chose could else look like a
//! line of ours, move a terminal's cursor, or turn the line about. Lines for people are written by a field
//! formatter of our own, since the library's leaves line breaks as they are; as JSON it escapes what JSON wants
//! escaped, and what is left of the rest when it is written.

use std::fmt::{self, Debug, Write};
use std::io::{self, IsTerminal};

use serde::{Deserialize, Serialize};
use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

use crate::trace::lines;

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

/// Why there can be no log.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("log.level: {0}")]
    Level(#[from] ParseError),
    #[error("the log cannot be written: {0}")]
    Thread(#[from] io::Error),
}

/// From now on, logs go out.
pub fn init(config: &Config) -> Result<(), Unusable> {
    let filter = EnvFilter::try_new(&config.level)?;
    let lines = lines::start()?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(move || lines);
    // Fails only where a test has begun to log before.
    let _ = match config.format {
        Format::Human => logs.with_target(false).fmt_fields(for_people()).try_init(),
        Format::Json => {
            logs.json().flatten_event(true).with_writer(move || JsonLine(lines)).try_init()
        }
    };
    Ok(())
}

/// `what happened name=value name=value`, on one line.
fn for_people() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    let write = |out: &mut Writer<'_>, field: &Field, value: &dyn Debug| match field.name() {
        "message" => write!(OneLine(out), "{value:?}"),
        // Where a line of the `log` crate stood in its code.
        name if name.starts_with("log.") => Ok(()),
        name => write!(OneLine(out), "{}={value:?}", name.trim_start_matches("r#")),
    };
    debug_fn(write).delimited(" ")
}

/// What is not to be seen, or turns the line about: controls, line and paragraph separators, and what
/// reorders text (Unicode, `Bidi_Control`).
fn is_tricky(char: char) -> bool {
    match char {
        '\u{2028}'..='\u{202e}' => true,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2066}'..='\u{2069}' => true,
        char => char.is_control(),
    }
}

/// Writes on, with everything escaped that is tricky.
struct OneLine<'a, W>(&'a mut W);

impl<W: Write> Write for OneLine<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, char)) = rest.char_indices().find(|&(_, char)| is_tricky(char)) {
            write!(self.0, "{}{}", &rest[..at], char.escape_default())?;
            rest = &rest[at + char.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

/// Writes lines of JSON on, the rest of what is tricky escaped as JSON has it. A line is written as a whole, and
/// ends with the only control character that is left in it.
struct JsonLine<W>(W);

impl<W: io::Write> io::Write for JsonLine<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let is_left = |char: char| is_tricky(char) && char != '\n';
        if text.contains(is_left) {
            let escape = |char: char| match is_left(char) {
                true => format!("\\u{:04x}", u32::from(char)),
                false => char.to_string(),
            };
            self.0.write_all(text.chars().map(escape).collect::<String>().as_bytes())?;
        } else {
            self.0.write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing::subscriber::with_default;

    const HOSTILE: &str = "x\r\n2026-01-01T00:00:00Z ERROR forged\u{1b}[2J\u{9b}31m\u{7f}é\
                           \u{2028}\u{202e}\u{200f}\u{61c}";

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nobody panicked").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Written {
        /// The only line, in which nothing is tricky.
        #[track_caller]
        fn line(&self) -> String {
            let written = self.0.lock().expect("nobody panicked").clone();
            let text = String::from_utf8(written).expect("text");
            let line = text.strip_suffix('\n').expect("a whole line");
            assert!(!line.contains(char::is_control), "{line:?}");
            assert!(!line.contains(['\u{2028}', '\u{202e}', '\u{200f}', '\u{61c}']), "{line:?}");
            line.to_owned()
        }
    }

    /// In every place of a line where a text of a client's could stand.
    fn tell_hostile() {
        tracing::warn!(path = HOSTILE, origin = %HOSTILE, agent = ?HOSTILE, "a reason: {HOSTILE}");
    }

    #[test]
    fn a_line_for_people_stays_one_line_whatever_is_in_it() {
        let written = Written::default();
        let writer = written.clone();
        let logs = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .with_target(false)
            .fmt_fields(for_people())
            .finish();
        with_default(logs, tell_hostile);
        let line = written.line();
        assert!(line.contains(r"WARN a reason: x\r\n2026"), "{line}");
        assert!(line.contains(r"origin=x\r\n2026-01-01T00:00:00Z ERROR forged\u{1b}[2J"), "{line}");
    }

    #[test]
    fn a_line_for_machines_is_one_object_whatever_is_in_it() {
        let written = Written::default();
        let writer = written.clone();
        let logs = tracing_subscriber::fmt()
            .with_writer(move || JsonLine(writer.clone()))
            .json()
            .flatten_event(true)
            .finish();
        with_default(logs, tell_hostile);
        let line = written.line();
        assert!(line.contains('é'), "{line:?}");
        let told: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&told["path"], &told["origin"]), (&HOSTILE.into(), &HOSTILE.into()));
        assert_eq!(told["message"], format!("a reason: {HOSTILE}"));
    }
}

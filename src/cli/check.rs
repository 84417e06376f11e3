//! `pathcast check`: says whether the settings are good, and what they come to.
//!
//! Settings live on a higher floor, so whoever calls hands in how to get each text.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub struct Args {
    /// Print the JSON Schema of the settings, for editors.
    #[arg(long, conflicts_with = "json")]
    pub schema: bool,

    /// Print the settings in effect as JSON.
    #[arg(long)]
    pub json: bool,

    /// Ask the gateway that runs here with these settings whether it is ready: a health command for
    /// where no shell or HTTP client is.
    #[arg(long, conflicts_with_all = ["schema", "json"])]
    pub ready: bool,
}

/// What can be printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The settings in effect, as TOML.
    Toml,
    /// The same, as JSON.
    Json,
    /// The JSON Schema; needs no settings.
    Schema,
    /// What the gateway that runs says of itself.
    Ready,
}

/// Prints what was asked for to `out`, or why it cannot be to `err`. The code is 0 or 1 (2 is
/// clap's, for a line it does not understand).
pub fn run<E: Display>(
    args: Args,
    text: impl FnOnce(Form) -> Result<String, E>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> ExitCode {
    let form = match args {
        Args { schema: true, .. } => Form::Schema,
        Args { json: true, .. } => Form::Json,
        Args { ready: true, .. } => Form::Ready,
        Args { schema: false, json: false, ready: false } => Form::Toml,
    };
    let written = match text(form) {
        Ok(text) => out.write_all(text.as_bytes()).and_then(|()| out.flush()),
        Err(error) => {
            // If standard error is closed too, the code is all that is left to say it with.
            let _ = writeln!(err, "{error}");
            return ExitCode::FAILURE;
        }
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(args: Args, text: Result<&str, &str>, expected: (ExitCode, &str, &str)) -> Form {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut asked = None;
        let text = |form| {
            asked = Some(form);
            text.map(String::from)
        };
        let code = run(args, text, &mut out, &mut err);
        let (out, err) = (String::from_utf8_lossy(&out), String::from_utf8_lossy(&err));
        assert_eq!((code, &*out, &*err), expected);
        asked.expect("a text is always asked for")
    }

    #[test]
    fn good_settings_are_printed_and_bad_ones_told_apart() {
        let args = |schema, json| Args { schema, json, ready: false };
        let good = (ExitCode::SUCCESS, "a = 1\n", "");
        assert_eq!(check(args(false, false), Ok("a = 1\n"), good), Form::Toml);
        assert_eq!(check(args(false, true), Ok("a = 1\n"), good), Form::Json);
        assert_eq!(check(args(true, false), Ok("a = 1\n"), good), Form::Schema);
        let ready = Args { ready: true, ..args(false, false) };
        assert_eq!(check(ready, Ok("a = 1\n"), good), Form::Ready);
        check(args(false, false), Err("f:1:1: no"), (ExitCode::FAILURE, "", "f:1:1: no\n"));
    }
}

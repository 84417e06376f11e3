//! The text of the settings, and where in it each value stands.
//!
//! Values are checked apart from the text, by their place in the tree ([`At`]); only here a place
//! becomes a line and a column, or the name of the variable that set it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::Error;
use crate::config::fault::{At, Fault, Half, Step};

/// Words that make a line's values too delicate for an error message: it ends in logs.
const SECRET_WORDS: &[&str] = &["sha256", "secret", "token", "passw", "bearer"];

pub struct Document {
    /// What errors call it: the file's path as it was given.
    name: String,
    text: String,
    spans: HashMap<At, Span>,
    values: toml::Table,
    /// Values that came from variables, by the variable.
    variables: HashMap<At, String>,
}

/// Where `key = value` stands, in bytes of the text. An element of a list is its own key.
#[derive(Clone)]
struct Span {
    key: Range<usize>,
    value: Range<usize>,
}

impl Document {
    pub fn parse(name: &str, text: &str) -> Result<Document, Error> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).to_string();
        let syntax = |error: toml::de::Error| syntax(name, &text, &error);
        let tree = DeTable::parse(&text).map_err(syntax)?;
        let mut spans = HashMap::new();
        index_table(tree.get_ref(), &At::root(), &mut spans);
        drop(tree);
        let values = toml::from_str(&text).map_err(syntax)?;
        Ok(Document { name: name.into(), text, spans, values, variables: HashMap::new() })
    }

    pub fn values(&self) -> &toml::Table {
        &self.values
    }

    /// Puts the value of a variable where the file's value was, or would have been. Fails with the
    /// name of the variable that was there before, if one was, or when a value of the file is in
    /// the way; the check of types tells about that one.
    pub fn set(&mut self, at: &At, variable: &str, value: toml::Value) -> Result<(), String> {
        if let Some(before) = self.variables.insert(at.clone(), variable.into()) {
            return Err(before);
        }
        let mut table = &mut self.values;
        let mut steps = at.0.iter().peekable();
        while let Some(Step::Key(key)) = steps.next() {
            if steps.peek().is_none() {
                table.insert(key.clone(), value);
                break;
            }
            let inner = table.entry(key.clone()).or_insert_with(|| toml::Table::new().into());
            match inner {
                toml::Value::Table(inner) => table = inner,
                _ => break,
            }
        }
        Ok(())
    }

    /// Whether a setting was written, in the file or in a variable.
    pub fn has(&self, at: &At) -> bool {
        self.variables.contains_key(at) || self.spans.contains_key(at)
    }

    /// Orders faults as a reader of the file meets them; those of variables come first.
    pub fn position(&self, fault: &Fault) -> usize {
        if self.variable(&fault.at).is_some() {
            return 0;
        }
        self.span(&fault.at, fault.half).map_or(usize::MAX, |span| span.start)
    }

    /// The fault with its place.
    pub fn error(&self, fault: &Fault) -> Error {
        let mut notes: Vec<String> = fault.advice.iter().cloned().collect();
        if let Some(other) = &fault.other {
            // Nothing around it will do: it may be a default, which stands nowhere.
            notes.push(match (self.variables.get(other), self.spans.get(other)) {
                (Some(variable), _) => format!("the other one is the variable {variable}"),
                (None, Some(span)) => {
                    let (line, column) = line_and_column(&self.text, span.value.start);
                    format!("the other one is in line {line}, column {column}")
                }
                (None, None) => format!("the other one is the default of `{other}`"),
            });
        }
        if let Some(variable) = self.variable(&fault.at) {
            return Error(with_notes(format!("{variable}: {}", fault.what), "", &notes));
        }
        match self.span(&fault.at, fault.half) {
            Some(span) => Error(excerpt(&self.name, &self.text, span, &fault.what, &notes)),
            None => Error(with_notes(format!("{}: {}", self.name, fault.what), "", &notes)),
        }
    }

    /// The variable that set this, or something within it that is nowhere in the file.
    fn variable(&self, at: &At) -> Option<&String> {
        let within = |(set, _): &(&At, &String)| set.0.starts_with(&at.0);
        match self.variables.get(at) {
            None if self.spans.contains_key(at) || at.0.is_empty() => None,
            None => match self.variables.iter().filter(within).map(|(_, name)| name).min() {
                None => self.variable(&At(at.0[..at.0.len() - 1].to_vec())),
                within => within,
            },
            exact => exact,
        }
    }

    /// Of the setting; or, where it is missing, of what it is missing from.
    fn span(&self, at: &At, half: Half) -> Option<Range<usize>> {
        if let Some(span) = self.spans.get(at) {
            return Some(match half {
                Half::Key => span.key.clone(),
                Half::Value => span.value.clone(),
            });
        }
        let outer = at.0.split_last()?.1;
        self.span(&At(outer.to_vec()), Half::Key)
    }
}

fn index_table(table: &DeTable<'_>, at: &At, spans: &mut HashMap<At, Span>) {
    for (key, value) in table {
        index(value, key.span(), at.key(key.get_ref()), spans);
    }
}

fn index(value: &Spanned<DeValue<'_>>, key: Range<usize>, at: At, spans: &mut HashMap<At, Span>) {
    match value.get_ref() {
        DeValue::Table(table) => index_table(table, &at, spans),
        DeValue::Array(array) => {
            for (place, element) in array.iter().enumerate() {
                index(element, element.span(), at.index(place), spans);
            }
        }
        _ => {}
    }
    spans.insert(at, Span { key, value: value.span() });
}

/// What the parser could not read, in words for those who do not write TOML every day.
fn syntax(name: &str, text: &str, error: &toml::de::Error) -> Error {
    let span = error.span().unwrap_or(0..0);
    let message = error.message();
    let (number, _) = line_and_column(text, span.start);
    let line = text.lines().nth(number - 1).unwrap_or("");
    let key = line.split_once('=').map_or("key", |(key, _)| key.trim());
    let quoted = || vec![format!("a text stands in quotes: {key} = \"…\"")];
    let (what, notes) = match message {
        _ if message.starts_with("string values must be quoted") => {
            ("quotes are missing", quoted())
        }
        _ if message.starts_with("invalid float") || message.starts_with("invalid integer") => {
            ("this is not a number", quoted())
        }
        _ if message.starts_with("invalid boolean") => {
            ("this is not a value", vec!["true and false are written small".into()])
        }
        _ if message.starts_with("key with no value") => (
            "an `=` is missing",
            vec!["settings are written as key = value, under a [section]".into()],
        ),
        _ if message.contains("as i128") => ("this number is too large", Vec::new()),
        _ => (message, Vec::new()),
    };
    Error(excerpt(name, text, span, what, &notes))
}

/// The message with file, line and column before it, and the line with a caret under the place.
fn excerpt(
    name: &str,
    text: &str,
    span: Range<usize>,
    what: impl std::fmt::Display,
    notes: &[String],
) -> String {
    let (number, column) = line_and_column(text, span.start);
    let line = text.lines().nth(number - 1).unwrap_or("");
    let shown: String = guarded(line).replace('\t', " ");
    let marked = text.get(span).unwrap_or("").lines().next().unwrap_or("").chars().count();
    // Never past the end of what is shown: a hidden value is shorter than the real one.
    let indent = (column - 1).min(shown.chars().count());
    let carets = "^".repeat(marked.clamp(1, (shown.chars().count() - indent).max(1)));
    let margin = " ".repeat(number.to_string().len());
    let mut out = format!("{name}:{number}:{column}: {what}");
    // Writing to a String cannot fail.
    let _ = write!(out, "\n{margin} |\n{number} | {shown}\n{margin} | {:indent$}{carets}", "");
    with_notes(out, &margin, notes)
}

fn with_notes(mut text: String, margin: &str, notes: &[String]) -> String {
    for note in notes {
        text.push_str(&format!("\n{margin} = {note}"));
    }
    text
}

/// The line without the values that look like secrets. A plain `key` may be one too: it is what
/// somebody writes who does not know of `key_file`; and a URL may hold a password.
fn guarded(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let plain_key = lower.trim_start().strip_prefix("key").map(str::trim_start);
    let is_url = lower.contains("://") && lower.contains('@');
    let word = match is_url || plain_key.is_some_and(|rest| rest.starts_with('=')) {
        true => Some(0),
        false => SECRET_WORDS.iter().filter_map(|word| lower.find(word)).min(),
    };
    match word.and_then(|word| line[word..].find('=').map(|equals| word + equals)) {
        Some(equals) => format!("{} …hidden…", &line[..=equals]),
        None => line.into(),
    }
}

/// Both from 1; the column counts characters.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}

//! A line of the settings as an error may show it: without secrets, since errors end in logs.
//!
//! In what belongs to the API every value is hidden but those of a few keys: the secret stands
//! there whatever the mistyped key is called. Elsewhere a line is hidden that looks like one. The
//! text may be no TOML at all, so it is read loosely, and only up to the line.

use std::ops::Range;

/// Stands where a value is not shown.
const HIDDEN: &str = "…hidden…";

/// Keys of the API whose values are no secrets.
const SHOWN_KEYS: &[&str] = &["listen", "name", "scopes", "paths", "key_file", "key_env"];

/// Words that make a line's values too delicate for an error message.
const SECRET_WORDS: &[&str] = &["sha256", "secret", "token", "passw", "bearer"];

/// What ends a word that has no quotes.
const DELIMITERS: &[char] = &[' ', '\t', '\r', '\n', '=', ',', '[', ']', '{', '}', '#', '"', '\''];

/// A line, and which part of it is meant, in characters.
#[derive(Debug, PartialEq, Eq)]
pub struct Excerpt {
    pub line: String,
    pub marked: Range<usize>,
}

/// The line in which `span` begins; `span` is in bytes of the text.
pub fn excerpt(text: &str, span: Range<usize>) -> Excerpt {
    let start = text.get(..span.start).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
    let end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let mut reader = Reader { text, at: 0, is_api: false, line: Shown::new(start..end, span) };
    let is_api = reader.read();
    let shown = reader.line;
    let line = match is_api {
        true => shown.out,
        false => guarded(&text[start..end]),
    };
    let line = line.trim_end_matches('\r').replace('\t', " ");
    // Never past the end of what is shown: a hidden value is shorter than the real one.
    let chars = line.chars().count();
    let indent = shown.marked.start.min(chars);
    let until = shown.marked.end.clamp(indent + 1, chars.max(indent + 1));
    Excerpt { line, marked: indent..until }
}

/// The line without the values that look like secrets. A plain `key` may be one too: it is what
/// somebody writes who does not know of `key_file`; and a URL may hold a password, or a query with one.
fn guarded(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let plain_key = lower.trim_start().strip_prefix("key").map(str::trim_start);
    let is_url = lower.contains("://") && lower.contains(['@', '?']);
    let word = match is_url || plain_key.is_some_and(|rest| rest.starts_with('=')) {
        true => Some(0),
        false => SECRET_WORDS.iter().filter_map(|word| lower.find(word)).min(),
    };
    match word.and_then(|word| line[word..].find('=').map(|equals| word + equals)) {
        Some(equals) => format!("{} {HIDDEN}", &line[..=equals]),
        None => line.into(),
    }
}

/// The line while it is put together, and where the mark came to stand in it.
struct Shown {
    line: Range<usize>,
    span: Range<usize>,
    out: String,
    marked: Range<usize>,
}

impl Shown {
    fn new(line: Range<usize>, span: Range<usize>) -> Shown {
        Shown { line, span, out: String::new(), marked: 0..0 }
    }

    /// Adds what the line has of a token.
    fn add(&mut self, text: &str, token: Range<usize>, is_hidden: bool) {
        let part = token.start.max(self.line.start)..token.end.min(self.line.end);
        if part.is_empty() {
            return;
        }
        let before = self.out.chars().count();
        let column = |at: usize| match is_hidden {
            true => before,
            false => before + text[part.start..at].chars().count(),
        };
        if part.contains(&self.span.start) {
            self.marked.start = column(self.span.start);
        }
        let width = match is_hidden {
            true => HIDDEN.chars().count(),
            false => text[part.clone()].chars().count(),
        };
        if self.span.start < part.end && self.span.end > part.start {
            self.marked.end = match is_hidden || self.span.end >= part.end {
                true => before + width,
                false => column(self.span.end),
            };
        }
        self.out.push_str(if is_hidden { HIDDEN } else { &text[part] });
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// Whether the section, or the key at its top, is the API's.
    is_api: bool,
    line: Shown,
}

impl<'a> Reader<'a> {
    /// Reads up to the end of the line; whether that is the API's.
    fn read(&mut self) -> bool {
        let is_api = |name: &str| {
            name.trim_start_matches(['[', ' ', '\t', '"', '\''])
                .to_ascii_lowercase()
                .starts_with("api")
        };
        let mut in_section = false;
        let mut key = "";
        let mut is_value = false;
        let mut open = Vec::new();
        let mut begins = true;
        let mut was_api = false;
        while self.at < self.line.line.end.max(1).min(self.text.len()) {
            let rest = &self.text[self.at..];
            let start = self.at;
            let token = token(rest);
            self.at += token.len();
            let mut is_hidden = false;
            let first = token.chars().next().unwrap_or('\n');
            match first {
                '\n' => {
                    if open.is_empty() {
                        (key, is_value, begins) = ("", false, true);
                        self.is_api = in_section;
                    }
                }
                ' ' | '\t' | '\r' | '#' => {}
                '[' if begins && open.is_empty() => {
                    let header = rest.lines().next().unwrap_or("");
                    in_section = is_api(header);
                    self.is_api = in_section;
                    self.at = start + header.len();
                }
                '[' | '{' => {
                    open.push(first);
                    if first == '{' {
                        (key, is_value) = ("", false);
                    }
                }
                ']' | '}' => {
                    open.pop();
                    is_value = true;
                }
                ',' => {
                    if open.last() == Some(&'{') {
                        (key, is_value) = ("", false);
                    }
                }
                '=' => is_value = true,
                _ => {
                    let name = token.trim_matches(['"', '\'']);
                    let next = self.text[self.at..].trim_start_matches([' ', '\t']);
                    let is_quoted = token.starts_with(['"', '\'']);
                    let is_key = !is_value
                        && match is_quoted {
                            true => next.starts_with(['=', '.']),
                            false => (key.is_empty() || name.starts_with('.')) && is_bare_key(name),
                        };
                    if is_key {
                        if open.is_empty() && key.is_empty() {
                            self.is_api = in_section || is_api(name);
                        }
                        key = name;
                    } else {
                        let last = key.rsplit('.').next().unwrap_or("").to_ascii_lowercase();
                        is_value = true;
                        is_hidden = self.is_api && !SHOWN_KEYS.contains(&last.as_str());
                    }
                }
            }
            if !matches!(first, '\n' | ' ' | '\t' | '\r') {
                begins = false;
            }
            was_api = self.is_api;
            self.line.add(self.text, start..self.at, is_hidden);
        }
        was_api
    }
}

fn is_bare_key(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

/// The first token of a text that is not empty; of strings, with their quotes.
fn token(text: &str) -> &str {
    let first = text.chars().next().unwrap_or(' ');
    match first {
        '#' => text.split('\n').next().unwrap_or(text),
        '"' | '\'' => {
            let triple = ["\"\"\"", "'''"].into_iter().find(|triple| text.starts_with(*triple));
            quoted(text, triple.unwrap_or(&text[..1]))
        }
        _ if DELIMITERS.contains(&first) => &text[..first.len_utf8()],
        _ => &text[..text.find(DELIMITERS).unwrap_or(text.len())],
    }
}

/// A string that begins with `quote`, up to its end; a short one ends with its line at the latest.
fn quoted<'a>(text: &'a str, quote: &str) -> &'a str {
    let mut at = quote.len();
    while let Some(next) = text[at..].chars().next() {
        if text[at..].starts_with(quote) {
            return &text[..at + quote.len()];
        }
        if next == '\n' && quote.len() == 1 {
            return &text[..at];
        }
        at += next.len_utf8();
        if next == '\\' && quote.starts_with('"') {
            // The line's end is never part of an escape in a short string.
            at += text[at..].chars().next().filter(|&next| next != '\n').map_or(0, char::len_utf8);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The line that has the first `@`, which is where the span begins; it ends at the second.
    #[track_caller]
    fn check(text: &str, line: &str, marked: &str) {
        let start = text.find('@').expect("a span");
        let text = text.replacen('@', "", 1);
        let end = text.find('@').expect("a span");
        let shown = excerpt(&text.replacen('@', "", 1), start..end);
        assert_eq!(shown.line, line, "{text}");
        let Range { start, end } = shown.marked;
        let found: String = shown.line.chars().skip(start).take(end - start).collect();
        assert_eq!(found, marked, "{text}");
    }

    #[test]
    fn what_may_be_a_secret_is_hidden() {
        check("[api]\n@api_key@ = \"x\"", "api_key = …hidden…", "api_key");
        check("[api]\napi_key = @\"x\"@", "api_key = …hidden…", "…hidden…");
        check("[api]\nkeyy = @x@", "keyy = …hidden…", "…hidden…");
        check("[[api.key]]\nname = \"a\"\n@keyy@ = 'x'", "keyy = …hidden…", "keyy");
        check("[[api.key]]\n@keyy \"x\"@", "keyy …hidden…", "keyy …hidden…");
        check("[[api.key]]\n@keyy: x@", "…hidden… …hidden…", "…hidden… …hidden…");
        check(
            "[ api ]\nkey = [{ name = \"a\", @k@ = \"x\" }]",
            "key = [{ name = \"a\", k = …hidden… }]",
            "k",
        );
        check(
            "[ api ]\nkey = [{ k = \"x\", name = @\"a\"@ }]",
            "key = [{ k = …hidden…, name = \"a\" }]",
            "\"a\"",
        );
        check("api = { @keyy@ = \"x\" }", "api = { keyy = …hidden… }", "keyy");
        check("api.@keyy@ = \"x\"", "api.keyy = …hidden…", "keyy");
        check("[\"api\"]\n\"api key\" = @\"x\"@", "\"api key\" = …hidden…", "…hidden…");
        check("[api]\nk = \"\"\"\nx\n@y@\"\"\"", "…hidden…", "…hidden…");
        check("[api]\nk = [\n \"[a]\",\n @\"x\"@ ]", " …hidden… ]", "…hidden…");
    }

    #[test]
    fn what_is_no_secret_is_shown() {
        check("[api]\n@listen@ = \"x\"", "listen = \"x\"", "listen");
        check("[[api.key]]\nscopes = [\"a\", @\"b\"@]", "scopes = [\"a\", \"b\"]", "\"b\"");
        check("[[api.key]]\nscopes = [\n \"a\",\n @\"b\"@]", " \"b\"]", "\"b\"");
        check("[[api.key]]\nkey_file = @\"/f\"@ # f", "key_file = \"/f\" # f", "\"/f\"");
        check("[[@api.keyy@]]", "[[api.keyy]]", "api.keyy");
        check("[api]\nk = \"x\"\n[hub]\n@k@ = \"x\"", "k = \"x\"", "k");
        check("[hub]\nk = \"[api]\"\n@k@ = \"x\"", "k = \"x\"", "k");
        check("[hub]\n\té = @1@", " é = 1", "1");
        check("[broker]\npassword = @\"x\"@", "password = …hidden…", "…hi");
    }

    proptest! {
        #[test]
        fn any_text_has_an_excerpt(text in "[\\[\\]{}\"'=,.#\\\\ \n\ra-cé]{0,60}", from in 0usize..60) {
            let from = (0..=from.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
            let api = format!("[api]\n{text}");
            let _ = excerpt(&api, from.unwrap_or(0) + 6..api.len());
            let shown = excerpt(&text, from.unwrap_or(0)..text.len());
            prop_assert!(shown.marked.start < shown.marked.end);
        }
    }
}

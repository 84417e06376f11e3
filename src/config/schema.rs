//! Which settings exist: the JSON Schema, and the check of a document against it.
//!
//! The schema comes from the wire structs and is the one that editors get, so what an editor
//! accepts and what pathcast accepts are the same: keys, types, words, ranges. Quantities and
//! everything with a meaning are checked later.

use serde_json::Value as Json;
use toml::Value;

use crate::config::fault::{At, Fault, Step};
use crate::config::wire::Wire;
use crate::proto::spelling::distance;

/// Sections, and keys of a path, that the plans have and this version has not.
const LATER: &[&str] = &["auth"];

/// What a value has to be, as far as its schema says.
pub struct Schema(Json);

impl Schema {
    pub fn new() -> Schema {
        let settings = schemars::generate::SchemaSettings::draft2020_12()
            .with(|settings| settings.inline_subschemas = true);
        Schema(settings.into_generator().into_root_schema_for::<Wire>().to_value())
    }

    /// The schema as JSON text.
    pub fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(&self.0).expect("a JSON value has a text");
        text.push('\n');
        text
    }

    /// Everything in the document that the schema has no place for.
    pub fn check(&self, values: &toml::Table) -> Vec<Fault> {
        let mut faults = Vec::new();
        self.check_table(&self.0, values, &At::root(), &mut faults);
        faults
    }

    /// The value of a variable, typed as its setting wants it.
    pub fn typed(&self, keys: &[&str], text: &str) -> Result<Value, Untyped> {
        let node = keys.iter().try_fold(&self.0, |node, key| node.get("properties")?.get(*key));
        let Some(node) = node else { return Err(Untyped::Unknown) };
        match kind(node) {
            "string" => Ok(Value::String(text.into())),
            "integer" => text.parse().map(Value::Integer).map_err(|_| {
                Untyped::Wrong(format!("{text:?} is not {}", expected(node, keys.last().copied())))
            }),
            "number" => text.parse().map(Value::Float).map_err(|_| {
                Untyped::Wrong(format!("{text:?} is not {}", expected(node, keys.last().copied())))
            }),
            "boolean" => text.parse().map(Value::Boolean).map_err(|_| {
                Untyped::Wrong(format!("{text:?} is not {}", expected(node, keys.last().copied())))
            }),
            _ => Err(Untyped::NotSingle),
        }
    }

    /// Every single value of a section, by its keys: what a variable can set.
    pub fn scalars(&self) -> Vec<Vec<String>> {
        let mut found = Vec::new();
        self.walk(&mut |keys, node| {
            if !keys.contains(&"[]") && !matches!(kind(node), "object" | "array") {
                found.push(keys.iter().map(|key| key.to_string()).collect());
            }
        });
        found
    }

    /// Every setting with its schema; `[]` stands for the elements of a list of tables.
    fn walk(&self, visit: &mut dyn FnMut(&[&str], &Json)) {
        fn step<'a>(
            node: &'a Json,
            keys: &mut Vec<&'a str>,
            visit: &mut dyn FnMut(&[&str], &Json),
        ) {
            for (key, node) in properties(node) {
                keys.push(key);
                visit(keys, node);
                step(node, keys, visit);
                if let Some(element) = node.get("items") {
                    keys.push("[]");
                    step(element, keys, visit);
                    keys.pop();
                }
                keys.pop();
            }
        }
        step(&self.0, &mut Vec::new(), visit);
    }

    fn check_value(&self, node: &Json, value: &Value, at: &At, faults: &mut Vec<Fault>) {
        let name = at.0.iter().rev().find_map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Index(_) => None,
        });
        match (kind(node), value) {
            ("object", Value::Table(table)) => self.check_table(node, table, at, faults),
            ("array", Value::Array(array)) => {
                let element = node.get("items").unwrap_or(&Json::Null);
                for (index, value) in array.iter().enumerate() {
                    self.check_value(element, value, &at.index(index), faults);
                }
            }
            ("integer", Value::Integer(number)) => {
                let bound = |name| node.get(name).and_then(Json::as_i64);
                let low = bound("minimum").is_some_and(|low| *number < low);
                let high = bound("maximum").is_some_and(|high| *number > high);
                if low || high {
                    let what = format!("{number} is not {}", expected(node, name));
                    faults.push(Fault::value(at.clone(), what));
                }
            }
            ("number", Value::Integer(_) | Value::Float(_)) => {
                let number = match value {
                    Value::Integer(number) => *number as f64,
                    value => value.as_float().unwrap_or(f64::NAN),
                };
                let bound = |name, none| node.get(name).and_then(Json::as_f64).unwrap_or(none);
                let range = bound("minimum", f64::NEG_INFINITY)..=bound("maximum", f64::INFINITY);
                if !range.contains(&number) {
                    let what = format!("{number} is not {}", expected(node, name));
                    faults.push(Fault::value(at.clone(), what));
                }
            }
            ("string", Value::String(text)) => {
                let words = words(node);
                if !words.is_empty() && !words.contains(&text.as_str()) {
                    let fault = Fault::value(
                        at.clone(),
                        format!("{text:?} is not {}", expected(node, name)),
                    );
                    faults.push(match nearest(text, words) {
                        Some(word) => fault.advise(format!("did you mean {word:?}?")),
                        None => fault,
                    });
                }
            }
            // Quantities tell about their units themselves.
            ("string", _) if node.get("pattern").is_some() => {}
            ("boolean", Value::Boolean(_)) => {}
            ("array", Value::Table(_)) if is_table(node.get("items")) => {
                let what = format!("`{at}` is a list of tables");
                faults.push(
                    Fault::key(at.clone(), what)
                        .advise(format!("write two brackets each time: [[{at}]]")),
                );
            }
            ("object", Value::Array(_)) => {
                let what = format!("`{at}` is one table, not a list");
                faults.push(
                    Fault::key(at.clone(), what).advise(format!("write one bracket: [{at}]")),
                );
            }
            ("object" | "array" | "string" | "integer" | "number" | "boolean", _) => {
                let what = format!(
                    "expected {}, found {}",
                    expected(node, name),
                    article(value.type_str())
                );
                let advice = match node.get("items") {
                    Some(element) if is_table(Some(element)) => {
                        let keys: Vec<_> = properties(element).map(|(key, _)| key).collect();
                        Some(format!("write [[{at}]], and below it any of {}", keys.join(", ")))
                    }
                    _ => example(node, value),
                };
                faults.push(Fault { advice, ..Fault::value(at.clone(), what) });
            }
            _ => {}
        }
    }

    fn check_table(&self, node: &Json, table: &toml::Table, at: &At, faults: &mut Vec<Fault>) {
        for (key, value) in table {
            match node.get("properties").and_then(|known| known.get(key)) {
                Some(node) => self.check_value(node, value, &at.key(key), faults),
                None => faults.push(self.unknown(node, at, key)),
            }
        }
        let required = node.get("required").and_then(Json::as_array).into_iter().flatten();
        for key in required.filter_map(Json::as_str).filter(|key| !table.contains_key(*key)) {
            let what = format!("{} needs `{key}`", section(at));
            let described = node.pointer(&format!("/properties/{key}/description"));
            let described = described.and_then(Json::as_str);
            let advice = described.map(|text| format!("{key}: {}", text.replace('\n', " ")));
            let fault = Fault::key(at.key(key), what);
            faults.push(Fault { advice, ..fault });
        }
    }

    fn unknown(&self, node: &Json, at: &At, key: &str) -> Fault {
        let what = match at.0.is_empty() {
            true => format!("unknown section or key `{key}`"),
            false => format!("unknown key `{key}` in {}", section(at)),
        };
        let fault = Fault::key(at.key(key), what);
        let is_of_a_path = at.0.first() == Some(&Step::Key("path".into()));
        if LATER.contains(&key) && (at.0.is_empty() || is_of_a_path) {
            return fault.advise(format!("`{key}` comes with a later version"));
        }
        let known: Vec<&str> = properties(node).map(|(key, _)| key).collect();
        if let Some(nearest) = nearest(key, known.iter().copied()) {
            return fault.advise(format!("did you mean `{nearest}`?"));
        }
        let longer: Vec<String> = known
            .iter()
            .filter(|known| key.len() >= 3 && known.starts_with(key))
            .map(|known| format!("`{known}`"))
            .collect();
        if !longer.is_empty() {
            return fault.advise(format!("did you mean {}?", longer.join(" or ")));
        }
        let mut homes = Vec::new();
        self.walk(&mut |keys, node| {
            if let [home @ .., last] = keys
                && *last == key
                && !home.is_empty()
                && !is_table(node.get("items"))
            {
                homes.push(home_name(home));
            }
        });
        match homes.is_empty() {
            true => fault.advise(format!("known here: {}", known.join(", "))),
            false => fault.advise(format!("`{key}` belongs to {}", homes.join(" or "))),
        }
    }
}

/// Why a variable sets nothing.
pub enum Untyped {
    Unknown,
    /// A list or a table.
    NotSingle,
    /// A sentence: it is not what the setting wants.
    Wrong(String),
}

/// The known word that somebody most likely meant, if any is near enough.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item: AsRef<str> + 'a>) -> Option<String> {
    let near = |known: &str| (distance(word, known), known.to_string());
    let (distance, known) = known.into_iter().map(|known| near(known.as_ref())).min()?;
    let length = word.chars().count();
    // Of a short word, half is enough to become another one.
    let is_near = distance <= 1 + length.min(known.len()) / 4 && 2 * distance < length;
    is_near.then_some(known)
}

fn properties(node: &Json) -> impl Iterator<Item = (&str, &Json)> {
    let known = node.get("properties").and_then(Json::as_object);
    known.into_iter().flatten().map(|(key, node)| (key.as_str(), node))
}

fn kind(node: &Json) -> &str {
    node.get("type").and_then(Json::as_str).unwrap_or("")
}

fn words(node: &Json) -> Vec<&str> {
    node.get("enum")
        .and_then(Json::as_array)
        .into_iter()
        .flatten()
        .filter_map(Json::as_str)
        .collect()
}

fn is_table(node: Option<&Json>) -> bool {
    node.is_some_and(|node| kind(node) == "object")
}

/// How it could be written.
fn example(node: &Json, found: &Value) -> Option<String> {
    match (kind(node), found) {
        ("integer" | "number" | "boolean", Value::String(text))
            if text.parse::<Value>().is_ok() =>
        {
            Some("without the quotes".into())
        }
        ("object", _) => None,
        _ => node.get("default").map(|default| format!("for example {default}")),
    }
}

/// A schema in words.
fn expected(node: &Json, name: Option<&str>) -> String {
    let words = words(node);
    if !words.is_empty() {
        let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
        return format!("one of {}", quoted.join(", "));
    }
    let bound = |name| node.get(name).and_then(Json::as_i64);
    match kind(node) {
        "integer" => match (bound("minimum"), bound("maximum")) {
            (Some(low), Some(high)) if high < i64::from(u32::MAX) => {
                format!("a whole number from {low} to {high}")
            }
            (Some(low), _) => format!("a whole number from {low} up"),
            _ => "a whole number".into(),
        },
        "number" => match (node.get("minimum"), node.get("maximum")) {
            (Some(low), Some(high)) => format!("a number from {low} to {high}"),
            _ => "a number".into(),
        },
        "boolean" => "true or false".into(),
        "string" => "a text in quotes".into(),
        "array" if is_table(node.get("items")) => match name {
            Some(name) => format!("a list of tables, each beginning with a [[…{name}]]"),
            None => "a list of tables".into(),
        },
        "array" => "a list, as in [\"…\", \"…\"]".into(),
        _ => "a table".into(),
    }
}

fn article(kind: &str) -> String {
    let vowel = kind.starts_with(['a', 'i']);
    format!("{} {kind}", if vowel { "an" } else { "a" })
}

/// A table as the file calls it.
fn section(at: &At) -> String {
    let mut keys = Vec::new();
    for step in &at.0 {
        keys.push(match step {
            Step::Key(key) => key.as_str(),
            Step::Index(_) => "[]",
        });
    }
    home_name(&keys)
}

fn home_name(keys: &[&str]) -> String {
    let names: Vec<&str> = keys.iter().copied().filter(|key| *key != "[]").collect();
    match keys.last() {
        Some(&"[]") => format!("[[{}]]", names.join(".")),
        _ => format!("[{}]", names.join(".")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> String {
        let path = format!("{}/docs/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    #[test]
    fn the_published_schema_is_current() {
        let refresh = "cargo run --quiet -- check --schema > docs/config.schema.json";
        assert!(file("config.schema.json") == Schema::new().text(), "refresh it: {refresh}");
    }

    /// In the table of its section, the row of a key begins with the key and has the default next.
    #[test]
    fn every_key_is_documented_with_its_default() {
        let docs = file("configuration.md");
        Schema::new().walk(&mut |keys, node| {
            let [home @ .., key] = keys else { return };
            if home.is_empty() || is_table(Some(node)) || is_table(node.get("items")) {
                let names: Vec<&str> = keys.iter().copied().filter(|key| *key != "[]").collect();
                let heading = format!("[{}]", names.join("."));
                assert!(docs.contains(&heading), "docs/configuration.md has no {heading}");
                return;
            }
            let heading = format!("\n## `{}`", home_name(home));
            let section = docs.split(&heading).nth(1);
            let section =
                section.unwrap_or_else(|| panic!("docs/configuration.md has no {heading}"));
            let section = section.split("\n## ").next().unwrap_or("");
            let row = section.lines().find(|line| line.starts_with(&format!("| `{key}` |")));
            let row = row.unwrap_or_else(|| panic!("no row for `{key}` under {heading}"));
            let default = match node.get("default") {
                Some(Json::Array(array)) => {
                    let items: Vec<String> = array.iter().map(Json::to_string).collect();
                    format!("| `[{}]` |", items.join(", "))
                }
                Some(default) => format!("| `{default}` |"),
                None => "| ".into(),
            };
            let told = row.contains(&default);
            assert!(told, "the default of `{key}` under {heading} is {default}: {row}");
        });
    }

    /// The complete example of the documentation, in its only block that begins with a comment.
    #[test]
    fn the_example_of_the_documentation_is_valid_and_complete() {
        let docs = file("configuration.md");
        let example = docs.split("```toml\n# ").nth(1).and_then(|rest| rest.split("```").next());
        let example = format!("# {}", example.expect("there is an example"));
        let values: toml::Table = toml::from_str(&example).expect("the example is TOML");
        assert_eq!(Schema::new().check(&values), []);
        Schema::new().walk(&mut |keys, node| {
            let key = keys.last().copied().unwrap_or_default();
            let written =
                example.contains(&format!("{key} = ")) || example.contains(&format!("{key}]"));
            assert!(written || kind(node) == "object", "the example lacks {keys:?}");
        });
    }

    #[test]
    fn the_nearest_word_is_near() {
        #[track_caller]
        fn check(word: &str, expected: Option<&str>) {
            let known = ["listen", "origins", "tls", "handshake_timeout", "path"];
            assert_eq!(nearest(word, known).as_deref(), expected, "{word}");
        }
        check("lisen", Some("listen"));
        check("Listen", Some("listen"));
        check("lsiten", Some("listen"));
        check("origin", Some("origins"));
        check("paths", Some("path"));
        check("handshaketimeout", Some("handshake_timeout"));
        check("tsl", Some("tls"));
        check("auth", None);
        check("echo", None);
        check("certificate", None);
        check("", None);
    }
}

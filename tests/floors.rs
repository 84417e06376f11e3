//! The house keeps its floors: a module imports only lower ones, the rules stay pure, and what is
//! fenced into one module stays there.
//!
//! Reads the source as text, up to a file's tests, without comments.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Each module of the crate and the floor it stands on.
const FLOORS: &[(&str, u8)] = &[
    ("proto", 0),
    ("lifecycle", 1),
    ("metrics", 1),
    ("trace", 1),
    ("authorities", 1),
    ("clock", 1),
    ("complaints", 1),
    ("guarded", 1),
    ("watch", 1),
    ("kubernetes", 2),
    ("hub", 2),
    ("broker", 2),
    ("backend", 2),
    ("relay", 3),
    ("gateway", 4),
    ("api", 4),
    ("upstream", 4),
    ("cli", 4),
    ("config", 5),
    ("app", 6),
];

/// What no rule in `proto` may know: a runtime, a socket, a thread, a clock.
const IMPURE: &[&str] = &[
    "tokio",
    "mio",
    "socket2",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "std::thread",
    "Instant::now",
    "SystemTime",
    "async fn",
    "async move",
    "async {",
    ".await",
];

/// Texts that may stand in one module only.
const FENCED: &[(&str, &str)] = &[
    ("tokio::spawn", "lifecycle"),
    ("task::spawn", "lifecycle"),
    ("spawn_blocking", "trace"),
    ("prometheus::", "metrics"),
    ("fastwebsockets::", "gateway"),
    ("tungstenite::", "upstream"),
    ("redis::", "broker"),
    ("notify::", "watch"),
    ("opentelemetry::", "trace"),
    ("opentelemetry_sdk::", "trace"),
    ("opentelemetry_otlp::", "trace"),
];

struct File {
    /// Below `src/`.
    name: String,
    /// The module of the crate that it is, or is part of.
    module: String,
    /// Without comments and tests.
    code: String,
}

/// Every file but `main.rs`, which stands above all floors, and files of tests.
fn files() -> Vec<File> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&source, &source, &mut files);
    assert!(files.len() > 10, "the source is read: {} files", files.len());
    files
}

fn collect(folder: &Path, source: &Path, files: &mut Vec<File>) {
    let entries = std::fs::read_dir(folder).expect("the source can be read");
    for entry in entries.map(|entry| entry.expect("the source can be read").path()) {
        if entry.is_dir() {
            collect(&entry, source, files);
            continue;
        }
        let name = entry.strip_prefix(source).expect("it is within the source");
        let name = name.to_str().expect("names are ASCII").to_owned();
        if name.ends_with(".rs") && name != "main.rs" && !name.ends_with("/tests.rs") {
            let module = name.split('/').next().unwrap_or_default().trim_end_matches(".rs");
            let text = std::fs::read_to_string(&entry).expect("the source can be read");
            files.push(File { module: module.into(), code: code_of(&text), name });
        }
    }
}

/// Comments become nothing; tests come last in a file and are cut off.
fn code_of(text: &str) -> String {
    let before_tests = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines = before_tests.lines().map(|line| {
        let comment = line.find("//").filter(|&at| !line[..at].ends_with(':'));
        comment.map_or(line, |at| &line[..at])
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The paths after `crate::` in a text, each up to two names long.
fn imports(code: &str) -> BTreeSet<(String, String)> {
    code.match_indices("crate::")
        .filter(|(at, _)| !code[..*at].ends_with(is_word))
        .map(|(at, mark)| {
            let rest = &code[at + mark.len()..];
            let mut names = rest
                .split("::")
                .map(|part| part.chars().take_while(|&char| is_word(char)).collect::<String>());
            (names.next().unwrap_or_default(), names.next().unwrap_or_default())
        })
        .collect()
}

fn is_word(char: char) -> bool {
    char.is_ascii_alphanumeric() || char == '_'
}

/// Whether a text stands in the code as words of its own.
fn has(code: &str, wanted: &str) -> bool {
    code.match_indices(wanted).any(|(at, _)| {
        let starts = !wanted.starts_with(is_word) || !code[..at].ends_with(is_word);
        let ends = !wanted.ends_with(is_word) || !code[at + wanted.len()..].starts_with(is_word);
        starts && ends
    })
}

#[track_caller]
fn check(faults: Vec<String>) {
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_module_imports_only_lower_floors() {
    let floors: BTreeMap<&str, u8> = FLOORS.iter().copied().collect();
    let mut faults = Vec::new();
    for file in files().iter().filter(|file| file.name != "lib.rs") {
        let Some(own) = floors.get(file.module.as_str()) else {
            faults.push(format!("{}: {} has no floor yet", file.name, file.module));
            continue;
        };
        for (import, _) in imports(&file.code) {
            match floors.get(import.as_str()) {
                _ if import == file.module => {}
                Some(floor) if floor < own => {}
                Some(floor) => {
                    faults.push(format!("{} [{own}] imports {import} [{floor}]", file.name));
                }
                None => faults.push(format!("{}: `crate::{import}` is no module", file.name)),
            }
        }
    }
    check(faults);
}

#[test]
fn paths_are_written_in_full_and_things_have_one_name() {
    let mut faults = Vec::new();
    for file in files() {
        for short_cut in ["super::", "crate::{", "crate::*", "pub use", "pub(crate) use"] {
            if has(&file.code, short_cut) {
                faults.push(format!("{}: {short_cut}", file.name));
            }
        }
    }
    check(faults);
}

#[test]
fn rules_are_pure() {
    let mut faults = Vec::new();
    for file in files().iter().filter(|file| file.module == "proto") {
        for impure in IMPURE.iter().filter(|impure| has(&file.code, impure)) {
            faults.push(format!("{}: {impure}", file.name));
        }
    }
    check(faults);
}

#[test]
fn rules_do_not_go_in_circles() {
    let files = files();
    let name = |file: &File| file.name.trim_end_matches(".rs").split('/').nth(1).map(str::to_owned);
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.module == "proto") {
        let Some(own) = name(file) else { continue };
        let within = imports(&file.code).into_iter().filter(|(module, _)| module == "proto");
        uses.entry(own.clone())
            .or_default()
            .extend(within.map(|(_, rule)| rule).filter(|rule| *rule != own));
    }
    // What uses nothing that is left can be taken away; what remains is a circle.
    while let Some(free) = uses
        .iter()
        .find(|(_, used)| used.iter().all(|rule| !uses.contains_key(rule)))
        .map(|(rule, _)| rule.clone())
    {
        uses.remove(&free);
    }
    assert!(uses.is_empty(), "these use each other: {uses:?}");
}

#[test]
fn what_is_fenced_stays_in_its_module() {
    let mut faults = Vec::new();
    for file in files() {
        for (text, module) in FENCED {
            // Our own module of that name may be spoken of.
            let code = file.code.replace("broker::redis::", "");
            if file.module != *module && has(&code, text) {
                faults.push(format!("{}: {text} belongs to {module}", file.name));
            }
        }
    }
    check(faults);
}

#[track_caller]
fn check_imports(code: &str, expected: &[(&str, &str)]) {
    let expected = expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
    assert_eq!(imports(code), expected.collect(), "{code}");
}

#[test]
fn imports_are_found() {
    check_imports("use crate::proto::path::Path;", &[("proto", "path")]);
    check_imports("fn a() -> crate::hub::Config {}", &[("hub", "Config")]);
    check_imports("use crate::api;", &[("api", "")]);
    check_imports("use other_crate::api;", &[]);
    assert_eq!(code_of("a // crate::b\n#[cfg(test)]\nmod tests { c }"), "a ");
    assert_eq!(code_of("\"http://x\""), "\"http://x\"");
    assert!(has("x = tokio::spawn(y)", "tokio") && !has("my_tokio", "tokio"));
}

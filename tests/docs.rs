//! The documentation names what there is: every metric, call, slug and cause, and no broken link.

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use pathcast::metrics::Metrics;
use pathcast::proto::close::Cause;
use support::gateway::Gateway;

fn read(file: impl AsRef<Path>) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Every text between backquotes that holds nothing but one word.
fn words(text: &str) -> BTreeSet<String> {
    let inside = text.split('`').skip(1).step_by(2);
    let is_word = |word: &&str| {
        !word.is_empty() && word.chars().all(|char| char.is_alphanumeric() || "_-".contains(char))
    };
    inside.filter(is_word).map(str::to_owned).collect()
}

/// What stands between two texts, each time.
fn between<'a>(text: &'a str, before: &'a str, after: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(before).skip(1).filter_map(move |rest| Some(rest.split_once(after)?.0))
}

#[test]
fn every_family_of_metrics_is_documented_and_no_other() {
    let metrics = Metrics::new().expect("families have names of their own");
    let path = metrics.path(&"/ws".into());
    path.sessions.inc();
    path.ended(1000, Cause::Client);
    metrics.handshake("accepted");
    metrics.upstream("feed");
    metrics.unicasts.delivered.inc();
    let text = metrics.encode();
    let counted: BTreeSet<_> = between(&text, "# TYPE ", " ").map(str::to_owned).collect();
    let documented: BTreeSet<_> = read("docs/metrics.md")
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
        .collect();
    assert_eq!(documented, counted);
}

#[test]
fn every_slug_is_documented_and_no_other() {
    let code = read("src/api/problem.rs");
    let known: BTreeSet<_> = between(&code, "(\"", "\", S::").collect();
    assert!(known.len() > 20, "{known:?}");
    let guide = read("docs/api.md");
    let (_, table) = guide.split_once("| slug |").expect("a table of slugs");
    let (table, _) = table.split_once("\n\n").expect("something after it");
    let documented: BTreeSet<_> = between(table, "\n| `", "`").collect();
    assert_eq!(documented, known);
}

#[tokio::test]
async fn every_call_is_documented() {
    let gateway = Gateway::start("[[path]]\npath = \"/ws\"\n").await;
    let reference = gateway.fetch("/openapi.json").await.json();
    let guide = read("docs/api.md");
    for (route, calls) in reference["paths"].as_object().expect("an object") {
        // The call for the path `/` stands beside that for all others.
        let route = match route.as_str() {
            "/v1/publish/" | "/v1/events/" => format!("{route}{{path…}}"),
            route => route.replace("{path}", "{path…}"),
        };
        for method in calls.as_object().expect("an object").keys() {
            let call = format!("`{} {route}`", method.to_uppercase());
            assert!(guide.contains(&call), "{call}");
        }
    }
}

#[test]
fn every_cause_is_documented() {
    let documented = words(&read("docs/events.md"));
    for cause in [
        Cause::Client,
        Cause::Network,
        Cause::Idle,
        Cause::Heartbeat,
        Cause::Protocol,
        Cause::TooBig,
        Cause::Slow,
        Cause::Kick,
        Cause::Auth,
        Cause::Drain,
        Cause::Gap,
        Cause::Server,
        Cause::PodLost,
    ] {
        assert!(documented.contains(cause.as_str()), "{cause}");
    }
}

#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages: Vec<PathBuf> = Vec::new();
    for folder in ["", "docs", "docs/decisions", "integrations/node-red"] {
        let files = std::fs::read_dir(root.join(folder)).expect("a folder of this project");
        pages.extend(files.flatten().map(|file| file.path()));
    }
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    assert!(pages.len() >= 10, "{pages:?}");
    for page in pages {
        let text = read(&page);
        for link in between(&text, "](", ")").filter(|link| !link.starts_with("http")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().expect("a page is in a folder").join(file),
            };
            assert!(target.exists(), "{}: {link}", page.display());
            let found = anchor.is_empty() || anchors(&read(&target)).contains(anchor);
            assert!(found, "{}: no heading for {link}", page.display());
        }
    }
}

/// The names that headings get where these pages are shown.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let name = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|char| char.is_alphanumeric() || " -_".contains(*char));
        kept.map(|char| if char == ' ' { '-' } else { char }).collect()
    };
    headings.map(name).collect()
}

//! Autobahn's test suite, run by kosoku against an `echo` path: all core cases, and of those for
//! deflated messages as many as fit into a test. CONTRIBUTING.md has the command for all of them.

mod support;

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;
use support::gateway::Gateway;

/// All of the suite but performance (9) and compression (12, 13).
const CORE_CASES: usize = 247;

/// Cases of 1,000 deflated messages each: five kinds of content in some sizes, whole and in fragments,
/// and each way to offer.
///
/// Not among them are those in which some messages come back as they are, which any endpoint may
/// choose (RFC 7692, 6.1) and pathcast does with what does not become smaller, and with what is
/// larger than 64 KiB: kosoku 0.1.0 hands such a message to the case as the wrong type and counts
/// an error of its own ("Strings must be encoded before hashing"). These are 1, 2, 10 and 15 to 18 of
/// each group, and some more of 12.2, 12.4 and 12.5.
const DEFLATE_CASES: [&str; 16] = [
    "12.1.4", "12.1.11", "12.2.6", "12.2.11", "12.3.5", "12.3.11", "12.4.5", "12.5.7", "13.1.4",
    "13.1.11", "13.2.4", "13.2.11", "13.4.4", "13.6.4", "13.7.4", "13.7.11",
];

/// These demand a window of 9 bits, which is declined: they go on without the extension, or rather
/// end at once.
const DECLINED_CASES: [&str; 2] = ["13.3.4", "13.5.4"];

const MISSING: &str = "kosoku is needed to run Autobahn's cases; install it with \
                       `python3 -m pip install kosoku==0.1.0`, or run tests/run.sh, which does";

/// Runs the suite with these choices; what it found of each case.
async fn run(compress: &str, choices: &[&str]) -> BTreeMap<String, Value> {
    let path = format!("[[path]]\npath = \"/ws/echo\"\necho = true\ncompress = \"{compress}\"\n");
    let gateway = Gateway::start(&path).await;
    let reports = tempfile::tempdir().expect("a temporary directory can be made");
    let mut suite = Command::new("kosoku");
    suite.args(["-m", "fuzzingclient", &format!("ws://{}/ws/echo", gateway.clients)]);
    suite.args(choices).args(["-p", "4", "-o"]).arg(reports.path());
    let output = tokio::task::spawn_blocking(move || suite.output());
    let output = support::wait::within_time(
        std::time::Duration::from_secs(120),
        "the end of Autobahn's cases",
        output,
    );
    let output = output.await.expect("waiting does not panic");
    let output = output.unwrap_or_else(|error| panic!("{MISSING} ({error})"));
    let said = String::from_utf8_lossy(&output.stderr);

    let index = std::fs::read_to_string(reports.path().join("index.json"));
    let index = index.unwrap_or_else(|error| panic!("no report ({error}); {MISSING}\n{said}"));
    let index: BTreeMap<String, BTreeMap<String, Value>> =
        serde_json::from_str(&index).expect("the report is JSON, by agent and case");
    index.into_values().flatten().collect()
}

/// Each behaved, while open and when closing, as one of these words says.
#[track_caller]
fn check<'a>(cases: impl IntoIterator<Item = (&'a String, &'a Value)>, good: &[&str]) -> usize {
    let mut count = 0;
    let mut bad = Vec::new();
    for (id, case) in cases {
        count += 1;
        let is = |member: &str, words: &[&str]| {
            case[member].as_str().is_some_and(|word| words.contains(&word))
        };
        if !is("behavior", good) || !is("behaviorClose", &["OK", "INFORMATIONAL"]) {
            bad.push(format!("{id}: {}, close {}", case["behavior"], case["behaviorClose"]));
        }
    }
    assert!(bad.is_empty(), "{} of {count} fail:\n{}", bad.len(), bad.join("\n"));
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn autobahns_core_cases_all_pass() {
    let cases = run("off", &["-x", "9.*", "-x", "12.*", "-x", "13.*"]).await;
    let count = check(&cases, &["OK", "INFORMATIONAL"]);
    assert_eq!(count, CORE_CASES, "every core case ran");
}

#[tokio::test(flavor = "multi_thread")]
async fn autobahns_cases_of_deflated_messages_pass() {
    let all = DEFLATE_CASES.into_iter().chain(DECLINED_CASES);
    let choices: Vec<&str> = all.flat_map(|id| ["-i", id]).collect();
    let cases = run("64B", &choices).await;
    let is_declined = |id: &str| DECLINED_CASES.contains(&id);
    let taken = check(cases.iter().filter(|(id, _)| !is_declined(id)), &["OK"]);
    assert_eq!(taken, DEFLATE_CASES.len(), "every one ran");
    let declined = check(cases.iter().filter(|(id, _)| is_declined(id)), &["UNIMPLEMENTED"]);
    assert_eq!(declined, DECLINED_CASES.len(), "every one ran");
}

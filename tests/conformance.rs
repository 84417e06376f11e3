//! The core cases of Autobahn's test suite, run by kosoku against an `echo` path.

mod support;

use std::process::Command;

use serde_json::Value;
use support::gateway::Gateway;

/// All of the suite but performance (9) and compression (12, 13).
const CORE_CASES: usize = 247;

const MISSING: &str = "kosoku is needed to run Autobahn's cases; install it with \
                       `python3 -m pip install kosoku==0.1.0`, or run tests/run.sh, which does";

#[tokio::test(flavor = "multi_thread")]
async fn autobahns_core_cases_all_pass() {
    let gateway = Gateway::start("[[path]]\npath = \"/ws/echo\"\necho = true\n").await;
    let reports = tempfile::tempdir().expect("a temporary directory can be made");
    let mut suite = Command::new("kosoku");
    suite.args(["-m", "fuzzingclient", &format!("ws://{}/ws/echo", gateway.clients)]);
    suite.args(["-x", "9.*", "-x", "12.*", "-x", "13.*", "-p", "4", "-o"]).arg(reports.path());
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
    let index: Value = serde_json::from_str(&index).expect("the report is JSON");
    let agents = index.as_object().expect("the report is by agent");
    let cases: Vec<(&String, &Value)> =
        agents.values().filter_map(Value::as_object).flatten().collect();
    let bad: Vec<String> = cases
        .iter()
        .filter(|(_, case)| !is_good(case, "behavior") || !is_good(case, "behaviorClose"))
        .map(|(id, case)| format!("{id}: {}, close {}", case["behavior"], case["behaviorClose"]))
        .collect();
    assert!(bad.is_empty(), "{} of {} fail:\n{}", bad.len(), cases.len(), bad.join("\n"));
    assert_eq!(cases.len(), CORE_CASES, "every core case ran");
}

fn is_good(case: &Value, member: &str) -> bool {
    matches!(case[member].as_str(), Some("OK" | "INFORMATIONAL"))
}

//! Node-RED's behaviour, recorded, played back at our doors (`tests/nodered/README.md`).
//!
//! `PATHCAST_CASES=FILE` plays another file of the same form.

#[path = "../support/mod.rs"]
mod support;

mod json;
mod play;
mod stage;
mod streams;
mod value;

use std::sync::Arc;

use futures_util::StreamExt;
use stage::{Door, Way};
use support::redis::Redis;

/// Gateways at once: playing a case is mostly waiting for a process to start.
const AT_ONCE: usize = 12;

/// In the file that comes with the project; a cut file shall not pass.
const RECORDED: usize = 169;

/// Of those, how many publish.
const PUBLISHING: usize = 113;

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_case_plays_as_node_red_did() {
    let lines = recorded();
    report(play_all(&lines, Way::OnePod).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_case_plays_as_node_red_did_across_pods() {
    let lines = recorded();
    report(play_all(&lines, many(Door::OtherPod, Door::OtherPod)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_case_plays_as_node_red_did_into_streams() {
    let lines = recorded();
    report(play_all(&lines, many(Door::OtherPod, Door::Redis)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_case_that_publishes_plays_as_node_red_did_through_redis() {
    let lines = publishing();
    report(play_all(&lines, many(Door::Redis, Door::OtherPod)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_case_that_publishes_plays_as_node_red_did_past_all_pods() {
    let lines = publishing();
    report(play_all(&lines, many(Door::Redis, Door::Redis)).await);
}

/// Pods on a Redis of their own.
fn many(published: Door, heard: Door) -> Way {
    Way::Many { redis: Arc::new(Redis::start()), published, heard }
}

/// The cases in which something is published.
fn publishing() -> Vec<String> {
    let mut lines = recorded();
    lines.retain(|line| line.contains(r#""op":"publish"#) || line.contains(r#""op": "publish"#));
    assert!(std::env::var_os("PATHCAST_CASES").is_some() || lines.len() == PUBLISHING);
    lines
}

/// The cases, one a line.
fn recorded() -> Vec<String> {
    let other = std::env::var_os("PATHCAST_CASES");
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nodered/cases.jsonl");
    let file = other.clone().unwrap_or_else(|| own.into());
    let cases = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file:?}: {error}"));
    let lines = cases.lines().filter(|line| !line.trim().is_empty());
    let lines: Vec<String> = lines.map(str::to_owned).collect();
    assert!(other.is_some() || lines.len() == RECORDED, "{own} is whole");
    lines
}

#[track_caller]
fn report(played: Vec<Played>) {
    let all = played.len();
    let failures: Vec<String> = played.into_iter().filter_map(failure).collect();
    let failed = failures.len();
    assert!(failures.is_empty(), "{failed} of {all} cases differ:\n{}", failures.join("\n"));
    println!("{all} cases passed");
}

/// Not recorded: what the recorded ones do not use, in the same form.
#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_step_and_value_can_be_played() {
    let lines: Vec<String> = include_str!("forms.jsonl").lines().map(str::to_owned).collect();
    report(play_all(&lines, Way::OnePod).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_case_that_expects_something_else_is_told() {
    let lines: Vec<String> = include_str!("wrong.jsonl").lines().map(str::to_owned).collect();
    for (line, played) in play_all(&lines, Way::OnePod).await {
        let case = &lines[line - 1];
        assert!(failure((line, played)).is_some(), "this passed: {case}");
    }
}

/// Plays cases, several at once; the outcomes in the order of the lines, which count from 1.
async fn play_all(lines: &[String], way: Way) -> Vec<Played> {
    let playing = lines.iter().enumerate().map(|(index, line)| {
        let (line, way) = (line.clone(), way.clone());
        async move { (index + 1, tokio::spawn(async move { play::play(&line, &way).await }).await) }
    });
    let playing = futures_util::stream::iter(playing.collect::<Vec<_>>());
    let played: Vec<Played> = playing.buffered(AT_ONCE).collect().await;
    assert_eq!(played.len(), lines.len(), "every line is played");
    played
}

type Played = (usize, Result<Result<play::Outcome, String>, tokio::task::JoinError>);

fn failure((line, played): Played) -> Option<String> {
    match played {
        Ok(Ok(outcome)) if outcome.differences.is_empty() => None,
        Ok(Ok(play::Outcome { id, differences, log })) => {
            let last: Vec<&str> = log.lines().rev().take(5).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            Some(format!(
                "line {line}, {id}:\n  {}\n  log: {}",
                differences.join("\n  "),
                last.join("\n       ")
            ))
        }
        Ok(Err(error)) => Some(format!("line {line}: cannot be played: {error}")),
        Err(panic) => Some(format!("line {line}: {panic}")),
    }
}

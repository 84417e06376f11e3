//! Paths whose rounds begin some time apart: a lone message goes at once, a stream of them is
//! joined, and nothing else changes.

mod support;

use std::io::Read;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pathcast::proto::paths::Configured;
use serde_json::json;
use support::gateway::Gateway;
use support::pod::{Deaf, Pod, roomy};
use support::wait::DEADLINE;

const INTERVAL_MS: u64 = 500;

/// Messages that follow the first one.
const MORE: u64 = 20;

/// Longer than any wait in these tests: what comes before it did not wait for it.
const NEVER: Duration = Duration::from_secs(10 * DEADLINE.as_secs());

async fn start(interval_ms: u64) -> Gateway {
    Gateway::start(&format!(
        "[hub]\nshards = 1\n[[path]]\npath = \"/ws\"\nflush_interval = \"{interval_ms}ms\"\n"
    ))
    .await
}

#[tokio::test]
async fn a_lone_message_goes_at_once_and_those_that_follow_go_together() {
    let gateway = start(INTERVAL_MS).await;
    let mut client = gateway.open("/ws").await;
    let begun = Instant::now();
    gateway.broadcast("/ws", r#"{"payload":"0"}"#).await;
    client.expect_text("0").await;
    assert!(begun.elapsed() < Duration::from_millis(INTERVAL_MS), "{:?}", begun.elapsed());

    for number in 1..=MORE {
        gateway.broadcast("/ws", json!({"payload": number}).to_string()).await;
    }
    for number in 1..=MORE {
        client.expect_text(&number.to_string()).await;
    }
    let elapsed_ms = begun.elapsed().as_millis() as u64;
    assert!(elapsed_ms >= INTERVAL_MS, "they waited for each other: {elapsed_ms} ms");
    let rounds = gateway.counted("pathcast_fanout_seconds_count").await;
    assert!(rounds <= 1 + elapsed_ms / INTERVAL_MS, "{rounds} rounds in {elapsed_ms} ms");
}

#[tokio::test]
async fn a_unicast_and_a_close_keep_their_place_behind_what_waits() {
    let gateway = start(INTERVAL_MS).await;
    let mut events = gateway.listen("/ws").await;
    let (mut client, session) = gateway.open_known("/ws", &mut events).await;
    gateway.broadcast("/ws", r#"{"payload":"at once"}"#).await;
    gateway.broadcast("/ws", r#"{"payload":"first"}"#).await;
    let to = json!({"type": "websocket", "id": session});
    let unicast = json!({"payload": "second", "_session": to}).to_string();
    assert_eq!(gateway.publish("/ws", unicast).await.json()["result"], "delivered");
    gateway.broadcast("/ws", r#"{"payload":"third"}"#).await;
    let kick = gateway.call("DELETE", &format!("/v1/sessions/{session}"));
    assert!(support::gateway::send(kick).await.status < 300);
    for text in ["at once", "first", "second", "third"] {
        client.expect_text(text).await;
    }
    assert_eq!(client.message().await.close_code(), Some(4000));
}

#[tokio::test]
async fn a_path_that_rests_costs_no_processor_time() {
    let gateway = start(1000).await;
    let mut client = gateway.open("/ws").await;
    gateway.broadcast("/ws", r#"{"payload":"at once"}"#).await;
    client.expect_text("at once").await;
    gateway.broadcast("/ws", r#"{"payload":"later"}"#).await;
    let (begun, before) = (Instant::now(), gateway.cpu_time());
    client.expect_text("later").await;
    let (elapsed, spent) = (begun.elapsed(), gateway.cpu_time() - before);
    assert!(spent < elapsed / 4, "{spent:?} of {elapsed:?}");
}

/// A pod with paths that rest for ever, and a client on each that was sent something before.
fn resting(paths: usize) -> (Pod, Vec<TcpStream>) {
    let mut config = roomy(1);
    config.mailbox_bytes_max = 1 << 20;
    let mut pod = Pod::start(config, Arc::new(Deaf));
    let rests = Configured { flush_interval: Some(NEVER), ..Configured::clone(&pod.configured) };
    pod.configured = Arc::new(rests);
    let mut clients: Vec<_> = (0..paths).map(|number| pod.join(number).0).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        assert!(pod.broadcast(number, "at once"));
        let mut heard = [0; 9];
        client.read_exact(&mut heard).expect("the first one does not wait");
    }
    (pod, clients)
}

fn expect(client: &mut TcpStream, bytes: usize) {
    client.read_exact(&mut vec![0; bytes + 4]).expect("it goes long before the interval is over");
}

#[test]
fn what_fills_a_round_does_not_wait() {
    let (pod, mut clients) = resting(1);
    for _ in 0..3 {
        assert!(pod.broadcast(0, &"x".repeat(60_000)));
    }
    expect(&mut clients[0], 60_000);
    expect(&mut clients[0], 60_000);
}

#[test]
fn paths_do_not_rest_while_too_much_waits_on_all_of_them() {
    let (pod, mut clients) = resting(12);
    for number in 0..clients.len() {
        assert!(pod.broadcast(number, &"x".repeat(60_000)));
    }
    // A quarter of the mailbox may rest: four of these.
    for client in &mut clients[..8] {
        expect(client, 60_000);
    }
}

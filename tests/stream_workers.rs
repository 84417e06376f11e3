//! Programs that read streams: the consumer that the examples show, as processes of their own, killed
//! and stopped, against gateways that wait for them.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::client::{Client, Heard};
use support::gateway::Gateway;
use support::redis::Redis;
use support::wait::{eventually, poll_pause, within_time};
use support::workers::{Handled, Worker, count_handled, handled};

/// For the takeover of a killed worker's streams, and ten thousand events in Python.
const LONG: Duration = Duration::from_secs(60);

const HELD: &str = "pathcast_backend_held_sessions{backend=\"stream\"}";

async fn start(server: &Redis, broker: &str, path: &str) -> Gateway {
    let url = server.url();
    let settings = format!(
        "[broker]\nurl = \"{url}\"\n{broker}\n[[path]]\npath = \"/ws\"\nbackend.stream = true\n{path}\n"
    );
    let gateway = Gateway::start(&settings).await;
    gateway.ready().await;
    gateway
}

/// Waits until so many connects and messages were handled, each id once.
async fn handled_whole(server: &Redis, ids: usize) -> Vec<Handled> {
    let begun = Instant::now();
    loop {
        let mut all = handled(server, 0);
        all.retain(|one| one.kind != "disconnect");
        let distinct = all.iter().map(|one| &one.id).collect::<BTreeSet<_>>().len();
        assert!(distinct <= ids, "nothing is made up");
        if distinct == ids {
            return all;
        }
        assert!(begun.elapsed() < LONG, "{distinct} of {ids} events were handled in {LONG:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The first time that each event of a session was handled is in the order of `seq`, without a hole.
#[track_caller]
fn check_order(all: &[Handled], sessions: usize) {
    let mut firsts: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for one in all {
        let seqs = firsts.entry(&one.session).or_default();
        if !seqs.contains(&one.seq) {
            seqs.push(one.seq);
        }
    }
    assert_eq!(firsts.len(), sessions);
    for (session, seqs) in firsts {
        assert!(seqs.iter().copied().eq(0..seqs.len() as u64), "{session}: {seqs:?}");
    }
}

/// Waits until that many sessions, or more, are not read.
async fn held(pod: &Gateway, sessions: u64) {
    let are_held = async {
        while pod.counted(HELD).await < sessions {
            poll_pause().await;
        }
    };
    within_time(LONG, "held sessions", are_held).await;
}

async fn say(client: &mut Client, texts: std::ops::Range<u64>) {
    for number in texts {
        client.writer.text(&number.to_string()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_workers_share_the_streams_and_one_that_is_killed_loses_nothing() {
    const CLIENTS: usize = 100;
    const MESSAGES: u64 = 100;
    let server = Redis::start();
    let pods = [start(&server, "", "").await, start(&server, "", "").await];
    let mut workers: Vec<_> = (0..3).map(|_| Worker::start(&server, "/ws", "group", 0)).collect();
    let owners = || server.command(&["KEYS", "pathcast:in:/ws:*:owner:group"]);
    let owned = || {
        let keys = owners();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for key in keys.lines() {
            *counts.entry(server.command(&["GET", key])).or_default() += 1;
        }
        counts.into_values().collect::<BTreeSet<_>>()
    };
    eventually("each has its share", async || (owned() == [2, 3].into()).then_some(())).await;
    let mut talking = Vec::new();
    for number in 0..CLIENTS {
        let mut client = pods[number % 2].open("/ws").await;
        talking.push(tokio::spawn(async move {
            for number in 0..MESSAGES {
                client.writer.text(&number.to_string()).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            client
        }));
    }
    eventually("the middle", async || (count_handled(&server) > 3_000).then_some(())).await;
    workers[0].kill();
    let mut clients = Vec::new();
    for talking in talking {
        clients.push(talking.await.expect("it talked"));
    }
    let all = handled_whole(&server, CLIENTS * (MESSAGES as usize + 1)).await;
    check_order(&all, CLIENTS);
    let workers: BTreeSet<_> = all.iter().map(|one| &one.worker).collect();
    assert_eq!(workers.len(), 3);
    // What all have read and acknowledged is kept for nobody.
    eventually("empty streams", async || {
        let lengths = (0..8).map(|n| server.command(&["XLEN", &format!("pathcast:in:/ws:{n}")]));
        lengths.into_iter().all(|length| length == "0").then_some(())
    })
    .await;
    drop(clients);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_over_its_bound_holds_the_clients_and_trims_nothing_unread() {
    const CLIENTS: usize = 4;
    const MESSAGES: u64 = 300;
    /// So that no client's and no socket's buffers take all of them.
    const MESSAGE_BYTES: usize = 40_000;
    const BACKLOG_MAX: u64 = 100;
    let server = Redis::start();
    let broker = format!("stream_partitions = 2\nstream_backlog_max = {BACKLOG_MAX}");
    let pod = start(&server, &broker, "heartbeat = \"1s\"").await;
    let keys = [0, 1].map(|partition| format!("pathcast:in:/ws:{partition}"));
    for key in &keys {
        server.command(&["XGROUP", "CREATE", key, "group", "0", "MKSTREAM"]);
    }
    let mut talking = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = pod.open("/ws").await;
        talking.push(tokio::spawn(async move {
            let text = "x".repeat(MESSAGE_BYTES);
            for _ in 0..MESSAGES {
                client.writer.text_whenever(&text).await;
            }
            client
        }));
    }
    held(&pod, CLIENTS as u64).await;
    let result =
        |result| format!("pathcast_backend_events_total{{backend=\"stream\",result=\"{result}\"}}");
    let length = |key: &String| server.command(&["XLEN", key]).parse::<u64>().expect("a number");
    let before = eventually("all that was read is there", async || {
        let lengths = keys.each_ref().map(length);
        let taken = pod.counted(&result("taken")).await;
        (lengths.iter().sum::<u64>() == taken).then_some(lengths)
    })
    .await;
    let rss_before = pod.rss_bytes();
    // Three heartbeats and more, in which nothing is to happen.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let after = keys.each_ref().map(length);
    assert_eq!(before, after, "nobody is read, nothing is trimmed");
    let most = *after.iter().max().expect("two");
    // What was read of each at once may be over the bound.
    let bounds = BACKLOG_MAX + 1..=BACKLOG_MAX + 2 * CLIENTS as u64;
    assert!(bounds.contains(&most), "{after:?}");
    assert!(pod.rss_bytes() < rss_before + (8 << 20), "memory is flat");
    assert_eq!(pod.counted("pathcast_stream_backlog{path=\"/ws\"}").await, most);
    assert_eq!(pod.counted("pathcast_sessions{path=\"/ws\"}").await, CLIENTS as u64);
    assert!(talking.iter().all(|talking| !talking.is_finished()), "clients are not read");

    let _workers = [0, 1].map(|_| Worker::start(&server, "/ws", "group", 0));
    let mut clients = Vec::new();
    for talking in talking {
        clients.push(within_time(LONG, "a client", talking).await.expect("it talked"));
    }
    let events = MESSAGES as usize + 1;
    let all = handled_whole(&server, CLIENTS * events).await;
    check_order(&all, CLIENTS);
    eventually("nobody is held", async || (pod.counted(HELD).await == 0).then_some(())).await;
    assert_eq!(pod.counted(&result("dropped")).await, 0);
    drop(clients);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_stopped_in_mid_burst_loses_nothing_and_keeps_the_order() {
    const CLIENTS: usize = 10;
    /// So that more comes in a few seconds than may wait in the pod.
    const MESSAGE_BYTES: usize = 20_000;
    let server = Redis::start();
    let pod = start(&server, "", "heartbeat = \"1s\"").await;
    let _worker = Worker::start(&server, "/ws", "group", 0);
    let is_enough = Arc::new(AtomicBool::new(false));
    let mut talking = Vec::new();
    for _ in 0..CLIENTS {
        let (mut client, is_enough) = (pod.open("/ws").await, is_enough.clone());
        talking.push(tokio::spawn(async move {
            let (text, mut said) = ("x".repeat(MESSAGE_BYTES), 0);
            while !is_enough.load(Ordering::Relaxed) {
                client.writer.text_whenever(&text).await;
                said += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            (client, said)
        }));
    }
    eventually("the middle", async || (count_handled(&server) > 500).then_some(())).await;
    server.signal(Signal::STOP);
    let up = "pathcast_broker_up";
    eventually("a link that is down", async || (pod.counted(up).await == 0).then_some(())).await;
    held(&pod, 1).await;
    is_enough.store(true, Ordering::Relaxed);
    server.signal(Signal::CONT);
    let (mut clients, mut events) = (Vec::new(), CLIENTS);
    for talking in talking {
        let (client, said) = within_time(LONG, "a client", talking).await.expect("it talked");
        clients.push(client);
        events += said;
    }
    let all = handled_whole(&server, events).await;
    check_order(&all, CLIENTS);
    assert_eq!(pod.counted(HELD).await, 0);
    drop(clients);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_messages_of_a_full_stream_go_where_the_path_says_so() {
    const MESSAGES: u64 = 5_000;
    const BACKLOG_MAX: u64 = 100;
    let server = Redis::start();
    let broker = format!("stream_partitions = 1\nstream_backlog_max = {BACKLOG_MAX}");
    let pod = start(&server, &broker, "backend.on_full = \"drop_oldest\"").await;
    let key = "pathcast:in:/ws:0";
    server.command(&["XGROUP", "CREATE", key, "group", "0", "MKSTREAM"]);
    let mut client = pod.open("/ws").await;
    say(&mut client, 0..MESSAGES).await;
    let dropped = "pathcast_backend_events_total{backend=\"stream\",result=\"dropped\"}";
    let expected = MESSAGES + 1 - BACKLOG_MAX;
    eventually("all but the newest are dropped", async || {
        (pod.counted(dropped).await == expected).then_some(())
    })
    .await;
    assert_eq!(server.command(&["XLEN", key]), BACKLOG_MAX.to_string());
    let newest = server.command(&["XREVRANGE", key, "+", "-", "COUNT", "1"]);
    assert!(newest.contains(&format!("-{MESSAGES}\n")), "{newest}");
    eventually("it is logged", async || pod.log().contains("dropped").then_some(())).await;
}

/// The program of the documentation, twice.
#[tokio::test(flavor = "multi_thread")]
async fn the_documented_backend_goes_on_where_a_killed_one_was() {
    let docs = std::fs::read_to_string("docs/backends.md").expect("the documentation is there");
    let (_, section) = docs.split_once("\n## Redis Streams\n").expect("a section of its own");
    let program = section.split("```python\n").nth(1).and_then(|rest| rest.split("```").next());
    let server = Redis::start();
    let pod = start(&server, "", "").await;
    let program = program.expect("a program").replace("http://127.0.0.1:8081", &pod.api);
    let program = program.replace("redis://127.0.0.1:6379", &server.url());
    let program = program.replace("/ws/api", "/ws");
    let mut workers = [0, 1].map(|_| Worker::run(&program));
    let mut clients = [pod.open("/ws").await, pod.open("/ws").await];
    for round in 0..3 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.writer.text(&format!("{number} {round}")).await;
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let answer = |round| Heard::Text(format!(r#"{{"you said":"{number} {round}"}}"#));
            let mut heard = client.message().await;
            while round > 0 && heard == answer(round - 1) {
                // It was answered and not acknowledged when the worker was killed.
                heard = client.message().await;
            }
            assert_eq!(heard, answer(round));
        }
        if round == 0 {
            // The other one has all streams when its lease has expired.
            workers[0].kill();
        }
    }
}

//! Streams that take no more: what is dropped then, and what never is; and a key that is no stream.

mod support;

use std::time::{Duration, Instant};

use support::gateway::Gateway;
use support::redis::Redis;
use support::wait::{eventually, poll_pause};

const KEY: &str = "pathcast:in:/ws:0";

async fn start(server: &Redis) -> Gateway {
    let url = server.url();
    let gateway = Gateway::start(&format!(
        "[broker]\nurl = \"{url}\"\nstream_partitions = 1\nstream_backlog_max = 100\n\
         [[path]]\npath = \"/ws\"\nbackend = {{ stream = true, on_full = \"drop_oldest\" }}\n"
    ))
    .await;
    gateway.ready().await;
    gateway
}

fn series(result: &str) -> String {
    format!("pathcast_backend_events_total{{backend=\"stream\",result=\"{result}\"}}")
}

/// What is in the stream, in its order: of each entry its type, and its session.
fn kinds(server: &Redis) -> Vec<(String, String)> {
    let range = server.command(&["-2", "--json", "XRANGE", KEY, "-", "+"]);
    let range: Vec<(String, Vec<String>)> = serde_json::from_str(&range).expect("entries");
    let of = |(_, fields): (String, Vec<String>)| {
        let field = |name| {
            let at = fields.iter().step_by(2).position(|field| field == name);
            fields[2 * at.expect("each has one") + 1].clone()
        };
        (field("type"), field("session"))
    };
    range.into_iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_full_stream_messages_are_dropped_and_every_connect_and_disconnect_stays() {
    let server = Redis::start();
    server.command(&["XGROUP", "CREATE", KEY, "never-reads", "0", "MKSTREAM"]);
    let pod = start(&server).await;
    for _ in 0..3 {
        pod.open("/ws").await.leave().await;
    }
    let mut client = pod.open("/ws").await;
    for number in 0..1_000 {
        client.writer.text(&number.to_string()).await;
    }
    client.leave().await;
    eventually("a stream within its bound", async || {
        let ended = kinds(&server).iter().filter(|(kind, _)| kind == "disconnect").count();
        let length: u64 = server.command(&["XLEN", KEY]).parse().expect("a number");
        let is_settled = pod.counted(&series("taken")).await == 1_008 && length == 100;
        (ended == 4 && is_settled).then_some(())
    })
    .await;
    // Each is counted, when the pod hears that it went.
    eventually("the count", async || (pod.counted(&series("dropped")).await == 908).then_some(()))
        .await;
    let left = kinds(&server);
    let of = |wanted: &str| left.iter().filter(|(kind, _)| kind == wanted).collect::<Vec<_>>();
    let sessions = |kind| of(kind).into_iter().map(|(_, session)| session).collect::<Vec<_>>();
    assert_eq!((of("connect").len(), of("message").len()), (4, 92));
    assert_eq!(sessions("connect"), sessions("disconnect"));
    // The last ones, in front of the end of who sent them.
    assert!(left[7..99].iter().all(|(kind, _)| kind == "message"), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_no_stream_is_named_now_and_then_and_left_alone_while_nothing_is_to_be_written()
 {
    let server = Redis::start();
    server.command(&["SET", KEY, "something else"]);
    let pod = start(&server).await;
    let mut client = pod.open("/ws").await;
    for round in 1..=5 {
        client.writer.text("?").await;
        eventually("what is refused", async || {
            (pod.counted(&series("refused")).await > round).then_some(())
        })
        .await;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(500) {
            poll_pause().await;
        }
    }
    client.leave().await;
    eventually("its end", async || (pod.counted(&series("refused")).await == 7).then_some(()))
        .await;
    let log = pod.log();
    assert!(log.contains(&format!("Redis refused XLEN {KEY}: ")), "{log}");
    assert!(log.contains("of /ws, part 0"), "{log}");
    let complaints = log.lines().filter(|line| line.contains("ERROR")).count();
    assert_eq!(complaints, 2, "{log}");
    // Two looks may be under way.
    let looks = || -> u64 {
        let stats = server.command(&["INFO", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_xlen:calls="));
        let calls = line.and_then(|line| line.split(',').next()).expect("it was asked");
        calls.parse().expect("a number")
    };
    let (begun, before) = (Instant::now(), looks());
    while begun.elapsed() < Duration::from_secs(4) {
        assert!(looks() <= before + 2, "it is looked at again and again");
        poll_pause().await;
    }
    // Mended, it is a stream as any other.
    server.command(&["DEL", KEY]);
    pod.open("/ws").await.leave().await;
    eventually("a session", async || {
        let kinds: Vec<_> = kinds(&server).into_iter().map(|(kind, _)| kind).collect();
        (kinds == ["connect", "disconnect"]).then_some(())
    })
    .await;
}

//! Paths with a stream: every event of every pod is in it, at least once, in the order of its session.

mod support;

use std::collections::{BTreeMap, HashMap};

use rustix::process::Signal;
use serde_json::{Map, Value, json};
use support::client::Request;
use support::gateway::Gateway;
use support::redis::Redis;
use support::wait::eventually;

const PARTITIONS: u64 = 4;

async fn start(server: &Redis) -> Gateway {
    let url = server.url();
    let settings = format!(
        r#"
[broker]
url = "{url}"
stream_partitions = {PARTITIONS}
[[path]]
path = "/ws"
subprotocols = ["v1"]
backend = {{ stream = true }}
[[path]]
path = "/ws/whole/{{room}}"
wholemsg = true
backend = {{ stream = true }}
[[path]]
path = "/ws/other"
"#
    );
    let gateway = Gateway::start(&settings).await;
    eventually("a pod that is ready", async || {
        (gateway.fetch("/readyz").await.status == 200).then_some(())
    })
    .await;
    gateway
}

type Entry = BTreeMap<String, String>;

/// Everything in the streams of a configured path, each in its order.
fn entries(server: &Redis, configured: &str) -> Vec<Entry> {
    let mut found = Vec::new();
    for partition in 0..PARTITIONS {
        let key = format!("pathcast:in:{configured}:{partition}");
        let range = server.command(&["-2", "--json", "XRANGE", &key, "-", "+"]);
        let range: Vec<(String, Vec<String>)> = serde_json::from_str(&range).expect("entries");
        for (_, fields) in range {
            let pairs = fields.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone()));
            let entry = pairs.collect::<Entry>();
            assert_eq!(fields.len(), 2 * entry.len(), "each name once: {fields:?}");
            assert_eq!(partition_of(&entry["session"]), partition, "{entry:?}");
            found.push(entry);
        }
    }
    found
}

/// As the documentation tells it: FNV-1a, 64 bits, of the session's id.
fn partition_of(session: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    session.bytes().fold(0xcbf2_9ce4_8422_2325, step) % PARTITIONS
}

/// An entry as the event that it stands for.
fn event(entry: &Entry) -> Value {
    let member = |(name, text): (&String, &String)| {
        let value = match name.as_str() {
            "seq" | "code" => json!(text.parse::<u64>().expect("a number")),
            "msg" => serde_json::from_str(text).expect("JSON"),
            _ => json!(text),
        };
        (name.clone(), value)
    };
    Value::Object(entry.iter().map(member).collect::<Map<_, _>>())
}

/// Of each session the `seq`s of its entries, in order, those that came again left out.
fn first_occurrences(entries: &[Entry]) -> HashMap<String, Vec<u64>> {
    let mut sessions: HashMap<String, Vec<u64>> = HashMap::new();
    for entry in entries {
        let seqs = sessions.entry(entry["session"].clone()).or_default();
        let seq = entry["seq"].parse().expect("a number");
        if !seqs.contains(&seq) {
            seqs.push(seq);
        }
    }
    sessions
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_is_the_event_of_its_id_member_by_member() {
    let server = Redis::start();
    let (a, b) = (start(&server).await, start(&server).await);
    let mut plain = a.listen("/ws").await;
    let mut whole = a.listen("/ws/whole/{room}").await;
    let mut told = Vec::new();
    for pod in [&a, &b] {
        let request = Request::upgrade("/ws?a=%20&b")
            .header("Origin", "http://pathcast.test")
            .header("Sec-WebSocket-Protocol", "v1")
            .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let mut one = support::client::ask(pod.clients, &request).await.expect("the path is open");
        one.writer.text("line\nbreak \"é\" \u{1f600}").await;
        one.writer.binary(&[0, 10, 255]).await;
        one.writer.close(Some(4001), "said\n\"bye\"").await;
        let mut two = pod.open("/ws/whole/1").await;
        two.writer.text(r#" {"payload":1.50e3,"topic":"t","big":12345678901234567890} "#).await;
        two.writer.text("no json").await;
        two.writer.binary(b"\x00\xff").await;
        two.writer.binary(br#"[1,"a"]"#).await;
        two.writer.close(None, "").await;
        for (events, count) in [(&mut plain, 4), (&mut whole, 6)] {
            for _ in 0..count {
                told.push(events.next().await);
            }
        }
        // Nobody reads what is not to be kept.
        pod.open("/ws/other").await.writer.text("x").await;
    }
    let found = eventually("all entries", async || {
        let found = [entries(&server, "/ws"), entries(&server, "/ws/whole/{room}")].concat();
        (found.len() >= told.len()).then_some(found)
    })
    .await;
    assert_eq!(found.len(), told.len());
    for told in &told {
        let same: Vec<_> = found.iter().filter(|entry| entry["id"] == told.id).collect();
        let [entry] = same[..] else { panic!("{told:?} {same:?}") };
        assert_eq!(event(entry), told.json());
        if let Some(msg) = entry.get("msg") {
            assert!(told.data.ends_with(&format!("\"msg\":{msg}}}")), "byte for byte: {told:?}");
        }
    }
    let traced = found.iter().filter(|entry| entry.contains_key("traceparent")).count();
    assert_eq!(traced, 2 * 4, "all of those that came within a trace");
    let keys = server.command(&["KEYS", "pathcast:in:/ws/other:*"]);
    assert_eq!(keys, "");
    for seqs in first_occurrences(&found).values() {
        assert!(seqs.is_sorted() && seqs[0] == 0, "{seqs:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_dies_in_mid_burst_loses_no_event_and_no_order() {
    const CLIENTS: usize = 8;
    const MESSAGES: u64 = 1_500;
    let mut server = Redis::start_durable();
    let pods = [start(&server).await, start(&server).await];
    let mut talking = Vec::new();
    for number in 0..CLIENTS {
        let mut client = pods[number % 2].open("/ws").await;
        talking.push(tokio::spawn(async move {
            for number in 0..MESSAGES {
                client.writer.text(&number.to_string()).await;
                if number % 100 == 0 {
                    // So that the burst lasts longer than a restart.
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
            client
        }));
    }
    let length = |server: &Redis| entries(server, "/ws").len();
    for round in 1..=2 {
        eventually("a burst", async || (length(&server) > round * 500).then_some(())).await;
        server.kill();
        for pod in &pods {
            eventually("a link that is down", async || {
                let metrics = pod.fetch("/metrics").await.text;
                metrics.contains("pathcast_broker_up 0").then_some(())
            })
            .await;
        }
        server.restart();
    }
    let mut clients = Vec::new();
    for talking in talking {
        clients.push(talking.await.expect("it talked"));
    }
    for client in &mut clients {
        client.writer.close(Some(1000), "").await;
    }
    let expected: Vec<u64> = (0..=MESSAGES + 1).collect();
    let sessions = eventually("every event", async || {
        let sessions = first_occurrences(&entries(&server, "/ws"));
        let is_whole = |seqs: &Vec<u64>| seqs.len() == expected.len();
        (sessions.len() == CLIENTS && sessions.values().all(is_whole)).then_some(sessions)
    })
    .await;
    for seqs in sessions.values() {
        assert_eq!(seqs, &expected);
    }
    for pod in &pods {
        let metrics = pod.fetch("/metrics").await.text;
        for result in ["dropped", "refused"] {
            let line = format!(
                "pathcast_backend_events_total{{backend=\"stream\",result=\"{result}\"}} 0"
            );
            assert!(metrics.contains(&line), "{metrics}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_redis_refuses_stops_no_other() {
    let server = Redis::start();
    let pod = start(&server).await;
    let mut allowed = pod.open("/ws").await;
    let mut refused = pod.open("/ws/whole/1").await;
    eventually("both connects", async || {
        let found = [entries(&server, "/ws"), entries(&server, "/ws/whole/{room}")].concat();
        (found.len() == 2).then_some(())
    })
    .await;
    let keys = ["lease:*", "pods", "tap:*", "roster:*", "claim:*", "in:/ws:*"]
        .map(|key| format!("~pathcast:{key}"));
    let user = ["ACL", "SETUSER", "default", "resetkeys"].into_iter();
    let user: Vec<_> = user.chain(keys.iter().map(String::as_str)).collect();
    assert_eq!(server.command(&user), "OK");
    for number in 0..100 {
        refused.writer.text("nobody will read this").await;
        allowed.writer.text(&number.to_string()).await;
    }
    let found = eventually("every allowed event", async || {
        let found = entries(&server, "/ws");
        (found.len() >= 101).then_some(found)
    })
    .await;
    let seqs: Vec<_> = found.iter().map(|entry| entry["seq"].parse::<usize>()).collect();
    assert_eq!(seqs, (0..=100).map(Ok).collect::<Vec<_>>());
    let series =
        |result| format!("pathcast_backend_events_total{{backend=\"stream\",result=\"{result}\"}}");
    eventually("what is refused", async || {
        (pod.counted(&series("refused")).await == 100).then_some(())
    })
    .await;
    let log = pod.log();
    assert!(log.contains("of /ws/whole/{room}") && log.contains("no right"), "{log}");

    // What there is no room for at the moment waits.
    assert_eq!(server.command(&["CONFIG", "SET", "maxmemory", "1"]), "OK");
    allowed.writer.text("later").await;
    eventually("an attempt", async || pod.log().contains("OOM").then_some(())).await;
    assert_eq!(entries(&server, "/ws").len(), 101);
    assert_eq!(server.command(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    eventually("what waited", async || (entries(&server, "/ws").len() == 102).then_some(())).await;
    assert_eq!(pod.counted(&series("refused")).await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_leaves_writes_every_disconnect_first() {
    let server = Redis::start();
    let mut pod = start(&server).await;
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(pod.open("/ws").await);
    }
    // A client sees its 101 a moment before the pod does.
    eventually("every connect", async || (entries(&server, "/ws").len() == 50).then_some(())).await;
    pod.signal(Signal::TERM);
    for client in &mut clients {
        assert_eq!(client.closing().await.close_code(), Some(1012));
    }
    assert!(pod.exit().await.success(), "{}", pod.log());
    let found = entries(&server, "/ws");
    let gone =
        found.iter().filter(|entry| entry["type"] == "disconnect" && entry["cause"] == "drain");
    assert_eq!((found.len(), gone.count()), (100, 50));
}

//! Clients that send thousands of tiny messages at once to backends that take none: what waits is bounded, nothing
//! is dropped, and everything comes in its order, once, to each backend of a path.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;
use support::backend::{Backend, series};
use support::client::Client;
use support::gateway::Gateway;
use support::redis::Redis;
use support::wait::{eventually, poll_pause, within_time};
use support::wire;

const MIB: u64 = 1 << 20;

/// Held because of a stream.
const HELD: &str = "pathcast_backend_held_sessions{backend=\"stream\"}";

/// So many messages in one piece, numbered from there on.
fn burst(from: usize, count: usize) -> Vec<u8> {
    let text = |number: usize| wire::frame(true, wire::TEXT, number.to_string().as_bytes());
    (from..from + count).flat_map(text).collect()
}

fn stream_series(result: &str) -> String {
    series(result).replace("webhook", "stream")
}

async fn start(server: &Redis, paths: &str, broker: &str) -> Gateway {
    let url = server.url();
    let gateway = Gateway::start(&format!(
        "[webhook]\ntimeout = \"1h\"\n[broker]\nurl = \"{url}\"\nstream_partitions = 1\n\
         {broker}\n{paths}"
    ))
    .await;
    gateway.ready().await;
    gateway
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_at_once_waits_unread_when_its_webhook_takes_no_more() {
    const CLIENTS: usize = 4;
    const MESSAGES: usize = 1_000;
    let backend = Backend::start().await;
    let url = backend.url();
    let gateway = Gateway::start(&format!(
        "[webhook]\ntimeout = \"1h\"\n[[path]]\npath = \"/ws\"\n\
         backend = {{ webhook = \"{url}\" }}\n"
    ))
    .await;
    let go = backend.hold(|asked| asked.kind() == "message");
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = gateway.open("/ws").await;
        client.writer.raw(&burst(0, MESSAGES)).await;
        clients.push(client);
    }
    // The end of each is behind all that, and unread.
    for client in &mut clients {
        client.writer.close(Some(1000), "").await;
    }
    backend.wait("message", CLIENTS).await;
    // One is under way, 64 wait, and the one for which it was held.
    let event_bytes = 256 + 4;
    let waiting = gateway.counted("pathcast_webhook_waiting_bytes").await;
    assert!(waiting <= (CLIENTS * 66 * event_bytes) as u64, "{waiting} bytes wait");
    go.send_replace(true);
    let gone = backend.wait("disconnect", CLIENTS).await;
    assert!(gone.iter().all(|gone| gone.json()["cause"] == "client"));
    let mut heard: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for asked in backend.of("message") {
        let session = asked.header("ce-sessionid").to_owned();
        heard.entry(session).or_default().push(asked.text().to_owned());
    }
    let expected: Vec<_> = (0..MESSAGES).map(|number| number.to_string()).collect();
    assert_eq!(heard.len(), CLIENTS);
    assert!(heard.values().all(|texts| *texts == expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_floods_a_stream_while_redis_is_away_fills_no_memory_and_loses_nothing() {
    const CLIENTS: usize = 300;
    let server = Redis::start();
    let path = "[[path]]\npath = \"/ws\"\nbackend = { stream = true }\n";
    let gateway = start(&server, path, "").await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(gateway.open("/ws").await);
    }
    let taken = stream_series("taken");
    eventually("every connect", async || {
        (gateway.counted(&taken).await == CLIENTS as u64).then_some(())
    })
    .await;
    server.signal(Signal::STOP);
    let before = gateway.rss_bytes();
    // More than one read takes of each.
    let piece = burst(0, 4_000);
    for client in &mut clients {
        client.writer.raw(&piece).await;
    }
    eventually("sessions that are not read", async || {
        (gateway.counted(HELD).await == CLIENTS as u64).then_some(())
    })
    .await;
    assert_eq!(gateway.counted(&stream_series("dropped")).await, 0);
    // What is held before it is read costs nothing; the rest is half a kilobyte for a message.
    let grown = gateway.rss_bytes().saturating_sub(before);
    assert!(grown < 128 * MIB, "{} MiB more", grown / MIB);
}

/// An id, and names and texts in turn.
type Entry = (String, Vec<String>);

/// What a group is given of a stream until it has so many events, in their order. More than `length_max` are
/// never in it.
async fn read(server: &Redis, key: &str, count: usize, length_max: usize) -> Vec<(u64, String)> {
    let mut found = Vec::new();
    let all = async {
        while found.len() < count {
            let length: usize = server.command(&["XLEN", key]).parse().expect("a number");
            assert!(length <= length_max, "{length} entries are unread");
            let given = ["-2", "--json", "XREADGROUP", "GROUP", "group", "me", "COUNT", "200"];
            let given = server.command(&[&given[..], &["NOACK", "STREAMS", key, ">"]].concat());
            let given: Option<Vec<(String, Vec<Entry>)>> =
                serde_json::from_str(&given).expect("entries");
            for (_, fields) in given.into_iter().flatten().flat_map(|(_, entries)| entries) {
                let field = |name| {
                    let at = fields.iter().position(|field| field == name);
                    fields[at.expect("each has one") + 1].clone()
                };
                found.push((field("seq").parse().expect("a number"), field("type")));
            }
            poll_pause().await;
        }
    };
    within_time(Duration::from_secs(60), "all of a stream", all).await;
    found
}

/// All events of a session that said so much and left.
fn whole(messages: usize) -> Vec<(u64, String)> {
    let kind = |seq: usize| match seq {
        0 => "connect",
        seq if seq <= messages => "message",
        _ => "disconnect",
    };
    (0..messages + 2).map(|seq| (seq as u64, kind(seq).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_backend_of_a_path_gets_every_event_once_and_each_holds_for_itself() {
    const MESSAGES: usize = 600;
    let server = Redis::start();
    let backend = Backend::start().await;
    let url = backend.url();
    let paths = format!(
        "[[path]]\npath = \"/both\"\nbackend = {{ webhook = \"{url}\", stream = true }}\n\
         [[path]]\npath = \"/ws\"\nbackend = {{ stream = true }}\n"
    );
    let gateway = start(&server, &paths, "stream_backlog_max = 100\n").await;
    let group = |command: &[&str]| server.command(command);
    let key = "pathcast:in:/both:0";
    group(&["XGROUP", "CREATE", key, "group", "0", "MKSTREAM"]);
    let go = backend.hold(|asked| asked.kind() == "message");
    let mut client = gateway.open("/both").await;
    let mut other = gateway.open("/ws").await;
    client.writer.raw(&burst(0, MESSAGES)).await;
    client.writer.close(Some(1000), "").await;
    backend.wait("message", 1).await;
    // The webhook holds it. Its stream takes what was told until then, and all of the others.
    other.writer.raw(&burst(0, MESSAGES)).await;
    other.leave().await;
    eventually("the stream of the other one", async || {
        let last = group(&["XREVRANGE", "pathcast:in:/ws:0", "+", "-", "COUNT", "1"]);
        last.contains(&format!("\nseq\n{}\n", MESSAGES + 1)).then_some(())
    })
    .await;
    let told = eventually("what was told", async || {
        let length: usize = group(&["XLEN", key]).parse().expect("a number");
        (length > 60).then_some(length)
    })
    .await;
    assert!(told <= 70, "it is held: {told}");

    // The webhook goes on, until the stream holds as well: the group reads nothing.
    go.send_replace(true);
    eventually("a session that its stream holds", async || {
        (gateway.counted(HELD).await == 1).then_some(())
    })
    .await;
    eventually("a webhook that has all that was told", async || {
        (gateway.counted("pathcast_webhook_waiting_bytes").await == 0).then_some(())
    })
    .await;
    let length: usize = group(&["XLEN", key]).parse().expect("a number");
    assert!((100..=110).contains(&length), "{length}");
    assert_eq!(backend.of("message").len() + 1, length, "and its connect");
    assert_eq!(gateway.counted(HELD).await, 1, "the other hold is still there");

    assert_eq!(read(&server, key, MESSAGES + 2, 110).await, whole(MESSAGES));
    backend.wait("disconnect", 1).await;
    let asked = backend.asked();
    let asked: Vec<_> = asked.iter().map(|one| (one.seq(), one.kind().to_owned())).collect();
    assert_eq!(asked, whole(MESSAGES));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_session_goes_on_where_it_was_however_often_it_is_held() {
    const MESSAGES: usize = 3_000;
    let server = Redis::start();
    let path = "[[path]]\npath = \"/ws\"\nbackend = { stream = true }\n";
    let gateway = start(&server, path, "stream_backlog_max = 50\n").await;
    let key = "pathcast:in:/ws:0";
    server.command(&["XGROUP", "CREATE", key, "group", "0", "MKSTREAM"]);
    let mut client = gateway.open("/ws").await;
    client.writer.raw(&burst(0, MESSAGES)).await;
    client.writer.close(Some(1000), "").await;
    assert_eq!(read(&server, key, MESSAGES + 2, 60).await, whole(MESSAGES));
}

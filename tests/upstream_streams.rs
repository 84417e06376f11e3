//! An upstream whose events go to a stream that nobody reads: it is read no further, or loses its
//! oldest messages, as its settings say.

mod support;

use serde_json::Value;
use support::gateway::Gateway;
use support::redis::Redis;
use support::remote::{Manner, Remote};
use support::wait::{eventually, poll_pause};
use tokio_tungstenite::tungstenite::Message;

const BACKLOG_MAX: usize = 50;

/// What a full stream holds beside its bound: the message that found it full, a connect and a
/// disconnect.
const BEYOND: usize = 3;

const HELD: &str = "pathcast_backend_held_sessions{backend=\"stream\"}";
const BACKLOG: &str = "pathcast_stream_backlog{path=\"feed\"}";

struct Stage {
    server: Redis,
    remote: Remote,
    config: String,
    key: String,
}

impl Stage {
    /// A remote server, and a group that has everything to read.
    fn new(remote: Remote, server: Redis, on_full: &str) -> Stage {
        let config = format!(
            "[[path]]\npath = \"/ws\"\n[broker]\nurl = \"{}\"\nstream_partitions = 1\nstream_backlog_max = {BACKLOG_MAX}\n\
             [[upstream]]\nname = \"feed\"\nurl = \"{}\"\nheartbeat = \"1s\"\n\
             reconnect_min = \"20ms\"\nreconnect_max = \"100ms\"\n\
             backend = {{ stream = true{on_full} }}\n",
            server.url(),
            remote.url()
        );
        let key = "pathcast:in:feed:0".to_owned();
        server.command(&["XGROUP", "CREATE", &key, "one", "0", "MKSTREAM"]);
        Stage { server, remote, config, key }
    }

    async fn start(on_full: &str) -> (Stage, Gateway) {
        let stage = Stage::new(Remote::start(Manner::Open).await, Redis::start(), on_full);
        let pod = stage.pod().await;
        stage.remote.wait_opened(1).await;
        (stage, pod)
    }

    async fn pod(&self) -> Gateway {
        let pod = Gateway::start(&self.config).await;
        pod.ready().await;
        pod
    }

    /// The remote says so many numbers, from 0 on.
    fn flood(&self, count: usize) {
        for number in 0..count {
            self.remote.say(number.to_string());
        }
    }

    fn length(&self) -> usize {
        self.server.command(&["XLEN", &self.key]).parse().expect("a number")
    }

    /// The numbers in the stream, or those that the group reads and acknowledges.
    fn numbers(&self, command: &[&str]) -> Vec<usize> {
        let said = self.server.command(command);
        let numbers = said.lines().filter_map(|line| {
            let msg: Value = serde_json::from_str(line).ok()?;
            msg["payload"].as_str()?.parse().ok()
        });
        numbers.collect()
    }

    fn left(&self) -> Vec<usize> {
        self.numbers(&["XRANGE", &self.key, "-", "+"])
    }

    fn read(&self) -> Vec<usize> {
        let read = ["XREADGROUP", "GROUP", "one", "a", "COUNT", "10", "NOACK"];
        self.numbers(&[&read[..], &["STREAMS", &self.key, ">"]].concat())
    }

    /// Waits until it is full, and makes sure that it stays as it is.
    async fn is_full_and_stays_so(&self, pod: &Gateway) {
        eventually("an upstream that is held", async || {
            (pod.counted(HELD).await == 1 && self.length() > BACKLOG_MAX).then_some(())
        })
        .await;
        let beats = self.pings();
        while self.pings() < beats + 3 {
            let length = self.length();
            assert!(length <= BACKLOG_MAX + BEYOND, "{length} entries at a bound of {BACKLOG_MAX}");
            poll_pause().await;
        }
    }

    fn pings(&self) -> usize {
        self.remote.said().into_iter().filter(Message::is_ping).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_not_read_while_its_stream_is_full_and_nothing_is_lost() {
    let (stage, pod) = Stage::start("").await;
    stage.flood(500);
    stage.is_full_and_stays_so(&pod).await;
    let backlog = usize::try_from(pod.counted(BACKLOG).await).expect("a small number");
    assert!((BACKLOG_MAX..=BACKLOG_MAX + BEYOND).contains(&backlog), "{backlog}");
    // The other way is open.
    let said = pod.post("/v1/upstreams/feed", "text/plain", "hello").await;
    assert_eq!((said.status, stage.remote.opened()), (200, 1));
    let mut read = Vec::new();
    eventually("all that was said", async || {
        read.extend(stage.read());
        (read.len() == 500).then_some(())
    })
    .await;
    assert!(read.iter().copied().eq(0..500), "{read:?}");
    assert_eq!(stage.remote.opened(), 1, "one connection lived through it");
    assert_eq!(
        pod.counted("pathcast_backend_events_total{backend=\"stream\",result=\"dropped\"}").await,
        0
    );
    eventually("an upstream that is read", async || (pod.counted(HELD).await == 0).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_over_finds_the_stream_full() {
    let (stage, pod) = Stage::start("").await;
    stage.flood(200);
    stage.is_full_and_stays_so(&pod).await;
    let next = stage.pod().await;
    pod.signal(rustix::process::Signal::TERM);
    stage.remote.wait_opened(2).await;
    stage.flood(200);
    stage.is_full_and_stays_so(&next).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_messages_go_where_the_upstream_says_so() {
    let (stage, pod) = Stage::start(", on_full = \"drop_oldest\"").await;
    stage.flood(2_000);
    eventually("the newest messages alone", async || {
        let is_whole = stage.left().last() == Some(&1_999);
        (is_whole && stage.length() <= BACKLOG_MAX).then_some(())
    })
    .await;
    let left = stage.left();
    assert!(left.iter().copied().eq(2_000 - left.len()..2_000), "{left:?}");
    let dropped = "pathcast_backend_events_total{backend=\"stream\",result=\"dropped\"}";
    eventually("those that went, counted", async || {
        (pod.counted(dropped).await >= 1_950).then_some(())
    })
    .await;
    assert_eq!((pod.counted(HELD).await, stage.remote.opened()), (0, 1));
}

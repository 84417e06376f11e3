//! Streams are trimmed to what some group has not acknowledged, and never below that.

mod support;

use std::sync::Arc;

use pathcast::proto::paths::OnFull::{self, Backpressure, DropOldest};
use pathcast::proto::session_id::PodId;
use pathcast::proto::stream::{Backlog, Entry, Part};
use support::brokered::{CONFIGURED, Pod, in_time};
use support::redis::Redis;

const KEY: &str = "pathcast:in:/ws/{here}:0";

struct Stage {
    server: Redis,
    pod: Pod,
}

fn part() -> Part {
    Part { configured: Arc::from(CONFIGURED), partition: 0 }
}

impl Stage {
    /// A stream with entries of the numbers from 1 on, and groups that want all of them.
    async fn start(entries: usize, groups: &[&str]) -> Stage {
        let server = Redis::start();
        for group in groups {
            server.command(&["XGROUP", "CREATE", KEY, group, "0", "MKSTREAM"]);
        }
        let pod = Pod::start(PodId([1; 8]), &server).await;
        let entry = |number: usize| {
            let Part { configured, partition } = part();
            let fields = vec![("id", number.to_string()), ("type", "message".to_owned())];
            Entry { configured, partition, fields }
        };
        let entries: Vec<_> = (1..=entries).map(entry).collect();
        in_time(pod.broker.append(&entries)).await.expect("appended");
        Stage { server, pod }
    }

    /// Reads so many for the group, in the name of one of its consumers: the ids of their entries.
    fn read(&self, group: &str, consumer: &str, count: usize) -> Vec<String> {
        let count = count.to_string();
        let read = ["XREADGROUP", "GROUP", group, consumer, "COUNT", &count, "STREAMS", KEY, ">"];
        let said = self.server.command(&read);
        // The key, then id, two names and values of each.
        said.lines().skip(1).step_by(5).map(str::to_owned).collect()
    }

    fn acknowledge(&self, group: &str, ids: &[String]) {
        let ids = ids.iter().map(String::as_str);
        self.server.command(&["XACK", KEY, group].into_iter().chain(ids).collect::<Vec<_>>());
    }

    async fn trim(&self, backlog_max: u64, on_full: OnFull) -> Backlog {
        let trimmed = self.pod.broker.trim(&part(), backlog_max, on_full);
        in_time(trimmed).await.expect("Redis lives")
    }

    /// The numbers of the entries that are left.
    #[track_caller]
    fn left(&self, backlog: Backlog) -> Vec<usize> {
        let range = self.server.command(&["XRANGE", KEY, "-", "+"]);
        let numbers = range.lines().skip(2).step_by(5);
        let left: Vec<usize> = numbers.map(|number| number.parse().expect("a number")).collect();
        assert_eq!(backlog.length, left.len() as u64);
        left
    }
}

fn numbers(from: usize, to: usize) -> Vec<usize> {
    (from..=to).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_group_has_not_acknowledged_is_kept_for_it() {
    let stage = Stage::start(10, &["one", "two"]).await;
    let unread = |unread| Backlog { unread, length: unread, dropped: 0 };
    assert_eq!(stage.trim(3, Backpressure).await, unread(10));
    // Read and not acknowledged by somebody who may be dead.
    let dead = stage.read("one", "dead", 2);
    let read = stage.read("one", "living", 8);
    stage.acknowledge("one", &read);
    let all = stage.read("two", "living", 10);
    stage.acknowledge("two", &all);
    let backlog = stage.trim(3, Backpressure).await;
    assert_eq!((backlog, stage.left(backlog)), (unread(10), numbers(1, 10)));
    stage.acknowledge("one", &dead[..1]);
    let backlog = stage.trim(3, Backpressure).await;
    assert_eq!((backlog, stage.left(backlog)), (unread(9), numbers(2, 10)));
    stage.acknowledge("one", &dead);
    assert_eq!(stage.trim(3, Backpressure).await, unread(0));
    // A group that comes later is owed what comes later.
    stage.server.command(&["XGROUP", "CREATE", KEY, "three", "0"]);
    assert_eq!(stage.trim(3, Backpressure).await, unread(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_reads_without_acknowledging_each_still_keeps_the_first() {
    let stage = Stage::start(6, &["one"]).await;
    let ids = stage.read("one", "a", 6);
    stage.acknowledge("one", &ids[1..]);
    let backlog = stage.trim(100, Backpressure).await;
    assert_eq!((backlog.unread, stage.left(backlog)), (6, numbers(1, 6)));
    stage.acknowledge("one", &ids[..1]);
    assert_eq!(stage.trim(100, Backpressure).await, Backlog::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_go_where_they_may_and_are_counted() {
    let stage = Stage::start(10, &["one"]).await;
    let ids = stage.read("one", "a", 2);
    stage.acknowledge("one", &ids);
    let backlog = stage.trim(5, DropOldest).await;
    assert_eq!(backlog, Backlog { unread: 5, length: 5, dropped: 3 });
    assert_eq!(stage.left(backlog), numbers(6, 10));
    assert_eq!(stage.trim(5, DropOldest).await, Backlog { dropped: 0, ..backlog });
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_group_the_last_minute_stays() {
    let stage = Stage::start(10, &[]).await;
    let hour_ago = (pathcast::clock::unix_ms() - 3_600_000).to_string();
    stage.server.command(&["DEL", KEY]);
    stage.server.command(&["XADD", KEY, &hour_ago, "id", "1", "type", "message"]);
    for number in 2..=8 {
        let entry = ["XADD", KEY, "*", "id", &number.to_string(), "type", "message"];
        stage.server.command(&entry);
    }
    let backlog = stage.trim(100, Backpressure).await;
    assert_eq!((backlog.unread, stage.left(backlog)), (0, numbers(2, 8)));
    let backlog = stage.trim(5, Backpressure).await;
    assert_eq!((backlog.dropped, stage.left(backlog)), (0, numbers(4, 8)));
    stage.server.command(&["DEL", KEY]);
    assert_eq!(stage.trim(5, Backpressure).await, Backlog::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn connects_and_disconnects_stay_however_many_and_messages_behind_them_go() {
    let stage = Stage::start(0, &["one"]).await;
    let append = async |kind: &str, count: usize, bytes: usize| {
        let entry = |number: usize| {
            let Part { configured, partition } = part();
            let msg = "x".repeat(bytes);
            let fields = vec![("id", number.to_string()), ("type", kind.to_owned()), ("msg", msg)];
            Entry { configured, partition, fields }
        };
        let entries: Vec<_> = (0..count).map(entry).collect();
        in_time(stage.pod.broker.append(&entries)).await.expect("appended");
    };
    let found = |unread, dropped| Backlog { unread, length: unread, dropped };
    append("connect", 2_500, 0).await;
    append("message", 20, 1 << 20).await;
    append("disconnect", 20, 0).await;
    append("message", 30, 0).await;
    append("connect", 1, 0).await;
    assert_eq!(stage.trim(2_530, DropOldest).await, found(2_530, 41));
    assert_eq!(stage.trim(10, DropOldest).await, found(2_521, 9));
    assert_eq!(stage.trim(10, DropOldest).await, found(2_521, 0));
    append("message", 2, 0).await;
    assert_eq!(stage.trim(2_522, DropOldest).await, found(2_522, 1));
    assert_eq!(stage.trim(2_522, DropOldest).await, found(2_522, 0));
    // And what is behind the place up to which it was walked.
    append("message", 1, 0).await;
    assert_eq!(stage.trim(0, DropOldest).await, found(2_521, 2));
}

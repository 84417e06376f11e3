//! One pod at a time holds an upstream, whatever happens to that pod: after the first frame of one
//! holder at most one of the holder before it arrives, and somebody takes over in time.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use support::gateway::Gateway;
use support::proxy::Proxy;
use support::redis::Redis;
use support::remote::{Manner, Remote, Seen, What};
use support::wait::{eventually, within_time};
use tokio::task::JoinHandle;

/// What a kill may cost: the key's life, the margin after it, a look, a handshake.
const KILLED_MAX: Duration = Duration::from_secs(12);

/// What a drain may cost.
const DRAINED_MAX: Duration = Duration::from_secs(1);

fn config(redis: &str, remote: &Remote) -> String {
    format!(
        "[broker]\nurl = \"{redis}\"\n[[path]]\npath = \"/ws\"\n\
         [[upstream]]\nname = \"feed\"\nurl = \"{}\"\n",
        remote.url()
    )
}

/// Two pods, each with a way to Redis of its own; the first one holds the upstream.
struct Stage {
    server: Redis,
    remote: Remote,
    ways: Vec<Proxy>,
    pods: Vec<Arc<Gateway>>,
}

/// Publishes to the upstream at some pod without a pause, numbered; on its own connection for each.
struct Publishing {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Stage {
    async fn set() -> Stage {
        let (server, remote) = (Redis::start(), Remote::start(Manner::Open).await);
        let mut stage = Stage { server, remote, ways: Vec::new(), pods: Vec::new() };
        for number in 0..2 {
            let way = Proxy::start(stage.server.port).await;
            let pod = Gateway::start(&config(&way.url(), &stage.remote)).await;
            pod.ready().await;
            if number == 0 {
                stage.remote.wait_opened(1).await;
            }
            stage.ways.push(way);
            stage.pods.push(Arc::new(pod));
        }
        stage
    }

    /// Frames straight into the pods by `PUBLISH`, and calls at each of them.
    fn publish(&self) -> Publishing {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = Vec::new();
        for (number, pod) in self.pods.iter().enumerate() {
            for lane in 0..4 {
                let (pod, stop, sent) = (pod.clone(), stop.clone(), sent.clone());
                tasks.push(tokio::spawn(async move {
                    let mut count = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let body = json!({"payload": format!("{number} {lane} {count}")});
                        count += 1;
                        let call = pod.call("POST", "/v1/upstreams/feed").json(&body);
                        // A pod that was killed or stands still does not answer.
                        let call = call.timeout(Duration::from_secs(3)).send().await;
                        match call {
                            Ok(answer) if answer.status() == 200 => {
                                sent.fetch_add(1, Ordering::Relaxed);
                            }
                            _ => tokio::time::sleep(Duration::from_millis(20)).await,
                        }
                    }
                }));
            }
        }
        Publishing { stop, sent, tasks }
    }

    /// When the first frame of that epoch came, after that moment.
    async fn taken_over(&self, epoch: u64, since: Instant) -> Duration {
        let taken = eventually(&format!("a frame of epoch {epoch}"), async || {
            self.remote.seen().into_iter().find(|seen| seen.epoch == epoch && is_frame(seen))
        })
        .await;
        taken.at - since
    }
}

impl Publishing {
    /// Waits for so many more that were sent.
    async fn go_on(&self, count: usize) {
        let from = self.sent.load(Ordering::Relaxed);
        eventually(&format!("{count} more frames sent"), async || {
            (self.sent.load(Ordering::Relaxed) >= from + count).then_some(())
        })
        .await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            within_time(Duration::from_secs(10), "a publisher's end", task).await.expect("it ends");
        }
    }
}

fn is_frame(seen: &Seen) -> bool {
    matches!(&seen.what, What::Said(message) if message.is_text())
}

/// After the first frame of an epoch at most one of any before it.
#[track_caller]
fn one_holder_at_a_time(seen: &[Seen]) {
    let frames: Vec<_> = seen.iter().filter(|seen| is_frame(seen)).collect();
    let mut epochs = BTreeMap::new();
    for (at, frame) in frames.iter().enumerate() {
        epochs.entry(frame.epoch).or_insert(at);
    }
    for (&epoch, &first) in &epochs {
        let late = frames[first..].iter().filter(|frame| frame.epoch < epoch).count();
        assert!(late <= 1, "{late} frames of holders before, after the first of epoch {epoch}");
    }
    let counts: Vec<_> = epochs
        .keys()
        .map(|&epoch| (epoch, frames.iter().filter(|frame| frame.epoch == epoch).count()))
        .collect();
    println!("frames by epoch: {counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_killed_is_followed_within_twelve_seconds() {
    let stage = Stage::set().await;
    let publishing = stage.publish();
    publishing.go_on(50).await;
    stage.pods[0].signal(Signal::KILL);
    let since = Instant::now();
    let taken = stage.taken_over(2, since).await;
    println!("taken over {taken:.2?} after a kill");
    assert!(taken < KILLED_MAX, "{taken:?}");
    publishing.go_on(50).await;
    publishing.end().await;
    one_holder_at_a_time(&stage.remote.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_leaves_is_followed_within_a_second() {
    let stage = Stage::set().await;
    let publishing = stage.publish();
    publishing.go_on(50).await;
    stage.pods[0].signal(Signal::TERM);
    let since = Instant::now();
    let taken = stage.taken_over(2, since).await;
    println!("taken over {taken:.2?} after a drain");
    assert!(taken < DRAINED_MAX, "{taken:?}");
    publishing.go_on(50).await;
    publishing.end().await;
    one_holder_at_a_time(&stage.remote.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_stood_still_past_its_lease_writes_no_more() {
    let stage = Stage::set().await;
    let publishing = stage.publish();
    publishing.go_on(50).await;
    stage.pods[0].signal(Signal::STOP);
    let since = Instant::now();
    // What it finds when it goes on, and must not write then.
    let mut redis = stage.server.connect().await;
    for number in 0..200 {
        let msg = format!("{{\"payload\":\"stale {number}\"}}");
        assert_eq!(redis.publish("pathcast:up:feed", msg.as_bytes()).await, 1);
    }
    let taken = stage.taken_over(2, since).await;
    println!("taken over {taken:.2?} after a stop");
    assert!(taken < KILLED_MAX, "{taken:?}");
    publishing.go_on(20).await;
    stage.pods[0].signal(Signal::CONT);
    // Its connection is reset as soon as it knows.
    eventually("the end of the first connection", async || {
        let seen = stage.remote.seen();
        seen.iter().any(|seen| seen.connection == 0 && seen.what == What::Ended).then_some(())
    })
    .await;
    publishing.go_on(50).await;
    publishing.end().await;
    one_holder_at_a_time(&stage.remote.seen());
    let log = stage.pods[0].log();
    assert!(log.contains("lost the upstream"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_redis_cannot_hear_resets_its_connection_before_another_takes_it() {
    let stage = Stage::set().await;
    let publishing = stage.publish();
    publishing.go_on(50).await;
    // Neither end is told.
    stage.ways[0].half_open();
    let since = Instant::now();
    let ended = eventually("the end of the first connection", async || {
        let seen = stage.remote.seen();
        seen.into_iter().find(|seen| seen.connection == 0 && seen.what == What::Ended)
    })
    .await;
    let ended = ended.at - since;
    let taken = stage.taken_over(2, since).await;
    println!("reset {ended:.2?}, taken over {taken:.2?} after a cut");
    assert!(ended < taken && taken < KILLED_MAX, "{ended:?} {taken:?}");
    stage.ways[0].heal();
    publishing.go_on(50).await;
    publishing.end().await;
    one_holder_at_a_time(&stage.remote.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_forgot_everything_leaves_one_holder() {
    let mut stage = Stage::set().await;
    let publishing = stage.publish();
    publishing.go_on(20).await;
    stage.server.kill();
    stage.server.restart();
    let taken = stage.taken_over(2, Instant::now()).await;
    println!("taken again {taken:.2?} after an emptied Redis");
    publishing.go_on(20).await;
    publishing.end().await;
    one_holder_at_a_time(&stage.remote.seen());
}

//! Ten thousand rooms over two gateways, and all who are in them come and go at once: subscriptions
//! follow, whatever they took is given back, and no series of metrics comes of it.

mod support;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use support::client::{Client, Request, ask};
use support::gateway::Gateway;
use support::pods::{is_ready, start};
use support::redis::Redis;
use support::wait::{eventually, within_time};

const ROOMS: usize = 10_000;

/// Handshakes at once.
const AT_ONCE: usize = 100;

/// How soon everything works again after a broken link (docs/redis.md).
const BACK: Duration = Duration::from_secs(3);

/// Often enough to hit while clients come, seldom enough to let links come back in between.
const KILL_EVERY: Duration = Duration::from_millis(400);

/// What is held when nobody is there.
#[derive(Debug)]
struct Rest {
    redis_bytes: u64,
    pods_bytes: [u64; 2],
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_rooms_come_and_go_and_leave_nothing_behind() {
    let server = Redis::start();
    let pods = [start(&server, "").await, start(&server, "").await];
    // One of each pod has come and gone.
    for pod in &pods {
        drop(pod.open(&room(0, 0)).await);
    }
    rest(&server, &pods).await;
    let series_before = series(&pods).await;

    let mut clients = fill(&pods, 1).await;
    everybody_hears(&server, &pods, 1, &mut clients).await;
    let killed = Instant::now();
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    within_time(BACK, "all subscriptions", join_all(pods.iter().map(is_back))).await;
    eprintln!("{ROOMS} rooms subscribed again after {:?}", killed.elapsed());
    everybody_hears(&server, &pods, 1, &mut clients).await;
    drop(clients);
    let first = rest(&server, &pods).await;
    assert_eq!(series(&pods).await, series_before, "no client's name becomes a series");

    // The same again, of other rooms, while the links break.
    let mut clients = tokio::select! {
        clients = fill(&pods, 2) => clients,
        never = kill_again_and_again(&server) => match never {},
    };
    join_all(pods.iter().map(|pod| is_ready(pod, 200))).await;
    everybody_hears(&server, &pods, 2, &mut clients).await;
    drop(clients);
    let second = rest(&server, &pods).await;

    eprintln!("{first:?}, then {second:?}");
    // A tenth of what the channels took.
    assert!(second.redis_bytes < first.redis_bytes + 200_000, "{first:?}, then {second:?}");
    for (first, second) in first.pods_bytes.into_iter().zip(second.pods_bytes) {
        // What an allocator keeps differs by less than that; rooms that stayed would be more.
        assert!(second < first + (3 << 20), "{first}, then {second}");
    }
}

fn room(round: usize, number: usize) -> String {
    format!("/ws/rooms/{round}-{number}")
}

/// A client in each room, with the one pod or the other in turn. Who is told to come back does.
async fn fill(pods: &[Gateway; 2], round: usize) -> Vec<Client> {
    let begun = Instant::now();
    let open = async |number: usize| {
        let (pod, request) = (&pods[number % 2], Request::upgrade(&room(round, number)));
        eventually("a place", async || match ask(pod.clients, &request).await {
            Ok(client) => Some(client),
            Err(answer) => {
                assert_eq!(answer.status, 503, "{answer:?}");
                None
            }
        })
        .await
    };
    let clients = stream::iter(0..ROOMS).map(open).buffered(AT_ONCE).collect().await;
    eprintln!("{ROOMS} clients in {:?}", begun.elapsed());
    clients
}

async fn kill_again_and_again(server: &Redis) -> Infallible {
    let mut killing = tokio::time::interval(KILL_EVERY);
    loop {
        killing.tick().await;
        server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    }
}

/// Each room is published to, at a pod that has only every other one; and each is subscribed to once.
async fn everybody_hears(
    server: &Redis,
    pods: &[Gateway; 2],
    round: usize,
    clients: &mut [Client],
) {
    // The last kill may have been just now.
    eventually("every room subscribed to, and pods that are up", async || {
        let up = async |pod: &Gateway| pod.counted("pathcast_broker_up").await == 1;
        let are_up = up(&pods[0]).await && up(&pods[1]).await;
        (are_up && channels(server) == ROOMS).then_some(())
    })
    .await;
    let items = |number| json!({"path": room(round, number), "msg": {"payload": number}});
    let body = Value::Array((0..ROOMS).map(items).collect()).to_string();
    let said = pods[0].post("/v1/publish", "application/json", body).await;
    for (number, (answer, client)) in
        said.json().as_array().expect("an array back").iter().zip(clients).enumerate()
    {
        assert_eq!((&answer["status"], &answer["receivers"]), (&json!(202), &json!(1)), "{answer}");
        client.expect_text(&format!(r#"{{"payload":{number}}}"#)).await;
    }
}

/// The link broke, and is up again: then all that is wanted is subscribed to.
async fn is_back(pod: &Gateway) {
    eventually("a link that is up again", async || {
        let gaps = pod.counted("pathcast_broker_gaps_total").await;
        (gaps == 1 && pod.counted("pathcast_broker_up").await == 1).then_some(())
    })
    .await;
}

/// What the pods measure, without the figures.
async fn series(pods: &[Gateway; 2]) -> [BTreeSet<String>; 2] {
    let of = async |pod: &Gateway| {
        let metrics = pod.fetch("/metrics").await.text;
        let lines = metrics.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
    };
    [of(&pods[0]).await, of(&pods[1]).await]
}

fn channels(server: &Redis) -> usize {
    server.command(&["PUBSUB", "CHANNELS", "pathcast:out:*"]).lines().count()
}

/// Waits until the pods hear nothing but their inboxes, and looks what is held then.
async fn rest(server: &Redis, pods: &[Gateway; 2]) -> Rest {
    eventually("the last subscription's end", async || (channels(server) == 0).then_some(())).await;
    let listed = server.command(&["CLIENT", "LIST", "TYPE", "pubsub"]);
    assert_eq!(listed.lines().filter(|line| line.contains(" sub=1 ")).count(), 2, "{listed}");
    assert_eq!(listed.lines().count(), 2, "{listed}");
    let info = server.command(&["INFO", "memory"]);
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    let used = used.and_then(|used| used.trim().parse().ok());
    let redis_bytes = used.expect("Redis tells what it uses");
    Rest { redis_bytes, pods_bytes: [pods[0].rss_bytes(), pods[1].rss_bytes()] }
}

//! What a pod believes about Redis, about other pods and about itself when something is amiss: a pod
//! that stands still, a right that is missing, a master that is none any more.

mod support;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::json;
use support::client::{Request, ask};
use support::gateway::Gateway;
use support::proxy::Proxy;
use support::redis::Redis;
use support::wait::{eventually, poll_pause};

const PATHS: &str = "[[path]]\npath = \"/ws/{room}\"\n";

/// How soon everything works again when it can (docs/redis.md).
const BACK: Duration = Duration::from_secs(3);

/// A gateway at that URL, ready. `settings` are further ones of the broker.
async fn start(url: &str, settings: &str) -> Gateway {
    let gateway = Gateway::start(&format!("[broker]\nurl = \"{url}\"\n{settings}{PATHS}")).await;
    is_up(&gateway, 1).await;
    gateway
}

async fn is_up(gateway: &Gateway, up: u8) {
    let line = format!("pathcast_broker_up {up}");
    eventually(&line, async || {
        gateway.fetch("/metrics").await.text.lines().any(|said| said == line).then_some(())
    })
    .await;
}

async fn is_told(gateway: &Gateway, what: &str) {
    eventually(what, async || gateway.log().contains(what).then_some(())).await;
}

/// The value of a metric without labels, or with these.
async fn count(gateway: &Gateway, metric: &str) -> u64 {
    let text = gateway.fetch("/metrics").await.text;
    let line = text.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{metric} in {text}")).parse().expect("a number")
}

async fn handshake(gateway: &Gateway, path: &str) -> u16 {
    match ask(gateway.clients, &Request::upgrade(path)).await {
        Ok(_) => 101,
        Err(answer) => answer.status,
    }
}

fn msg(payload: &str) -> String {
    json!({"payload": payload}).to_string()
}

fn to(session: &str, payload: &str) -> String {
    json!({"payload": payload, "_session": {"type": "websocket", "id": session}}).to_string()
}

/// Redis goes on counting a machine without power as a receiver for minutes; a process that stands
/// still looks the same from outside.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_stands_still_is_unknown_then_gone_and_then_back() {
    let server = Redis::start();
    let (lease, patience) = (Duration::from_secs(3), Duration::from_millis(500));
    let settings = "lease_ttl = \"3s\"\nunicast_timeout = \"500ms\"\n";
    let (a, b) = (start(&server.url(), settings).await, start(&server.url(), settings).await);
    let mut events = b.listen("/ws/1").await;
    let (mut client, session) = b.open_known("/ws/1", &mut events).await;
    assert_eq!(a.publish("/ws/1", to(&session, "before")).await.status, 200);
    client.expect_text("before").await;
    // A proof takes a whole lease time of watching.
    let watched = Instant::now();
    eventually("a lease time", async || (watched.elapsed() > lease).then_some(())).await;

    b.signal(Signal::STOP);
    let stopped = Instant::now();
    let mut unknown = 0;
    loop {
        match a.publish("/ws/1", to(&session, "late")).await.status {
            410 => break,
            status => assert_eq!(status, 504),
        }
        unknown += 1;
        assert!(stopped.elapsed() < lease + Duration::from_secs(1) + patience, "{unknown} times");
        poll_pause().await;
    }
    assert!(unknown >= 2, "nobody is gone at once");
    // Not even one more is written to it, and many who ask cost nothing.
    let asked = Instant::now();
    for _ in 0..100 {
        assert_eq!(a.publish("/ws/1", to(&session, "late")).await.status, 410);
    }
    assert!(asked.elapsed() < patience * 100 / 4, "{:?}", asked.elapsed());

    b.signal(Signal::CONT);
    let back = Instant::now();
    eventually("a session that is back", async || {
        let status = a.publish("/ws/1", to(&session, "after")).await.status;
        (status == 200).then_some(())
    })
    .await;
    assert!(back.elapsed() < BACK, "{:?}", back.elapsed());
    client.expect_text("after").await;
    assert_eq!(count(&b, "pathcast_unicast_total{result=\"late\"}").await, unknown);
    is_told(&b, "this pod's lease had lapsed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_path_hurts_nobody_else() {
    let server = Redis::start();
    let docs = std::fs::read_to_string("docs/redis.md").expect("the documentation is there");
    let rights = docs.lines().find_map(|line| line.strip_prefix("ACL SETUSER pathcast "));
    let rights = rights.expect("the documentation tells them");
    let user = |rights: &str| {
        let command = [&["ACL", "SETUSER", "pathcast"], &rights.split(' ').collect::<Vec<_>>()[..]];
        assert_eq!(server.command(&command.concat()), "OK");
    };
    let some = "&pathcast:pod:* &pathcast:out:/ws/open &pathcast:out:/ws/too";
    user(&rights.replace("&pathcast:*", some));
    let url = server.url().replace("redis://", "redis://pathcast:a-long-password@");
    let pod = start(&url, "").await;
    let mut open = pod.open("/ws/open").await;

    // Asked for together with one that is allowed.
    let (refused, too) = tokio::join!(handshake(&pod, "/ws/shut"), handshake(&pod, "/ws/too"));
    assert_eq!((refused, too), (503, 101));
    is_told(&pod, "Redis refuses pathcast:out:/ws/shut").await;
    is_told(&pod, "&pathcast:out:/ws/shut").await;
    pod.broadcast("/ws/open", msg("one")).await;
    open.expect_text("one").await;
    assert_eq!(count(&pod, "pathcast_broker_up").await, 1);
    // A right that is given is found by the next client.
    user("&pathcast:out:/ws/shut");
    let mut shut = pod.open("/ws/shut").await;
    pod.broadcast("/ws/shut", msg("two")).await;
    shut.expect_text("two").await;
    assert_eq!(count(&pod, "pathcast_broker_gaps_total").await, 0);

    // No channel at all: Redis disconnects those of that user who hear one.
    user("resetchannels");
    is_up(&pod, 0).await;
    assert_eq!(pod.publish("/ws/open", msg("x")).await.status, 503);
    assert_eq!(handshake(&pod, "/ws/open").await, 503);
    is_told(&pod, "Redis is away: Redis refuses pathcast:").await;
    // All but one path with a session: still better no pod than a deaf one.
    user(some);
    is_told(&pod, "Redis is away: Redis refuses pathcast:out:/ws/shut").await;
    assert_eq!(pod.publish("/ws/open", msg("x")).await.status, 503);
    // Nor do those who come for what nobody ever heard keep it down.
    user("resetchannels");
    let hammering = async {
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            join_all((0..8).map(|room| {
                let path = format!("/ws/never{room}");
                async { handshake(&pod, &{ path }).await }
            }))
            .await;
        }
    };
    let allowing = async { user("&pathcast:pod:* &pathcast:out:/ws/open &pathcast:out:/ws/shut") };
    tokio::join!(hammering, allowing);
    is_up(&pod, 1).await;
    user("&pathcast:*");
    let given = Instant::now();
    is_up(&pod, 1).await;
    assert!(given.elapsed() < BACK, "{:?}", given.elapsed());
    for (path, client) in [("/ws/open", &mut open), ("/ws/shut", &mut shut)] {
        pod.broadcast(path, msg("again")).await;
        client.expect_text("again").await;
    }
    assert_eq!(handshake(&pod, "/ws/new").await, 101);
    assert_eq!(count(&pod, "pathcast_broker_gaps_total").await, 1);
}

/// What a pod publishes may fill its way to Redis; what it lives of does not wait behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_way_to_redis_is_full_is_neither_dead_nor_deaf() {
    const PUBLISHERS: usize = 40;
    let server = Redis::start();
    let proxy = Proxy::narrow(server.port, 8_000_000).await;
    let settings = "lease_ttl = \"3s\"\n";
    let busy = start(&proxy.url(), settings).await;
    let other = start(&server.url(), settings).await;
    let mut events = busy.listen("/ws/1").await;
    let (_client, session) = busy.open_known("/ws/1", &mut events).await;

    let begun = Instant::now();
    let span = Duration::from_secs(8);
    let large = msg(&"x".repeat(1 << 20));
    let publishing = join_all((0..PUBLISHERS).map(async |_| {
        let (mut statuses, mut slowest) = (Vec::new(), Duration::ZERO);
        while begun.elapsed() < span {
            let asked = Instant::now();
            // Nobody is there: only the way is full.
            statuses.push(busy.publish("/ws/nobody", large.as_str()).await.status);
            slowest = slowest.max(asked.elapsed());
        }
        (statuses, slowest)
    }));
    let watching = async {
        let mut delivered = 0;
        while begun.elapsed() < span {
            let status = other.publish("/ws/1", to(&session, "x")).await.status;
            assert!([200, 504].contains(&status), "{status} of an open session");
            delivered += u32::from(status == 200);
            let listed = other.fetch("/v1/sessions?path=/ws/1").await.json();
            let sees = listed["sessions"].as_array().is_some_and(|all| all.len() == 1);
            assert!(sees || listed["complete"] != json!(true), "{listed}");
            poll_pause().await;
        }
        delivered
    };
    let (published, delivered) = tokio::join!(publishing, watching);
    assert!(delivered > 3, "{delivered}");
    for (statuses, slowest) in published {
        assert!(statuses.iter().all(|status| [202, 503].contains(status)), "{statuses:?}");
        // Its turn comes within two seconds, or not at all; its own second of the way comes on top.
        assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    }
    assert_eq!(count(&busy, "pathcast_broker_gaps_total").await, 0);
    assert!(!busy.log().contains("lease"), "{}", busy.log());
}

/// A full Redis still carries messages. It takes no leases, and then their absence proves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_takes_no_leases_still_carries_and_nobody_is_declared_dead() {
    let server = Redis::start();
    let settings = "lease_ttl = \"3s\"\n";
    let (a, b) = (start(&server.url(), settings).await, start(&server.url(), settings).await);
    let mut events = b.listen("/ws/1").await;
    let (mut client, session) = b.open_known("/ws/1", &mut events).await;
    // Those who would be believed, if they said so.
    let watched = Instant::now();
    eventually("a lease time", async || (watched.elapsed().as_secs() > 3).then_some(())).await;
    assert_eq!(server.command(&["CONFIG", "SET", "maxmemory", "1"]), "OK");
    eventually("leases that have gone", async || {
        let status = a.publish("/ws/1", to(&session, "one")).await.status;
        assert_eq!(status, 200);
        client.expect_text("one").await;
        let listed = a.fetch("/v1/sessions").await;
        let is_whole = listed.status == 200 && listed.json()["sessions"] != json!([]);
        assert!(is_whole || listed.status == 503, "{}", listed.text);
        (server.command(&["KEYS", "pathcast:lease:*"]).is_empty()).then_some(())
    })
    .await;
    assert_eq!(a.fetch("/v1/sessions").await.status, 503);

    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    eventually("both again", async || {
        let status = a.publish("/ws/1", to(&session, "two")).await.status;
        assert!([200, 503, 504].contains(&status), "{status} of an open session");
        (status == 200).then_some(())
    })
    .await;
    client.until_text("two").await;
    assert_eq!(server.command(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    eventually("leases again", async || {
        let listed = a.fetch("/v1/sessions").await;
        (listed.status == 200 && listed.json()["sessions"] != json!([])).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_became_a_replica_is_left() {
    let (old, new) = (Redis::start(), Redis::start());
    // A user that may not ask for the role finds out by what a replica does not do.
    old.command(&["ACL", "SETUSER", "mute", "on", ">secret", "~*", "&*", "+@all", "-role"]);
    let mute = old.url().replace("redis://", "redis://mute:secret@");
    let pods = [start(&old.url(), "").await, start(&mute, "lease_ttl = \"3s\"\n").await];
    let reasons = ["it is no master but a slave", "ReadOnly"];
    for _ in 0..2 {
        assert_eq!(old.command(&["REPLICAOF", "127.0.0.1", &new.port.to_string()]), "OK");
        for (pod, why) in pods.iter().zip(reasons) {
            is_up(pod, 0).await;
            assert_eq!(pod.publish("/ws/1", msg("x")).await.status, 503);
            is_told(pod, why).await;
        }
        assert_eq!(old.command(&["REPLICAOF", "NO", "ONE"]), "OK");
        for pod in &pods {
            is_up(pod, 1).await;
            pod.broadcast("/ws/1", msg("x")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_that_does_not_fit_is_a_gap_and_with_the_documented_room_it_is_none() {
    const MESSAGES: usize = 64;
    let server = Redis::start();
    let (a, b) = (start(&server.url(), "").await, start(&server.url(), "").await);
    let mut quiet = b.open("/ws/quiet").await;
    let large = msg(&"x".repeat(1 << 20));
    for gaps in [1, 0] {
        let before = count(&b, "pathcast_broker_gaps_total").await;
        let burst = b.open("/ws/burst").await;
        // More than Redis keeps for a pod that does not read, and the sockets with it.
        b.signal(Signal::STOP);
        for _ in 0..MESSAGES {
            a.broadcast("/ws/burst", large.as_str()).await;
        }
        b.signal(Signal::CONT);
        drop(burst);
        eventually("a broadcast that arrives", async || {
            let said = a.publish("/ws/quiet", msg("after")).await;
            (said.status == 202 && said.json()["receivers"] == json!(1)).then_some(())
        })
        .await;
        quiet.expect_text("after").await;
        is_up(&b, 1).await;
        assert_eq!(count(&b, "pathcast_broker_gaps_total").await - before, gaps);
        assert_eq!(count(&a, "pathcast_broker_gaps_total").await, 0);
        let docs = std::fs::read_to_string("docs/redis.md").expect("the documentation is there");
        let room = docs.lines().find_map(|line| {
            line.strip_prefix("CONFIG SET client-output-buffer-limit \"")?.strip_suffix('"')
        });
        let room = room.expect("the documentation tells it");
        let set = ["CONFIG", "SET", "client-output-buffer-limit", room];
        assert_eq!(server.command(&set), "OK");
    }
}

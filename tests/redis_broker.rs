//! Pods on one Redis: what they hear of each other and of strangers, and what happens when Redis, or
//! the way to it, breaks.

mod support;

use std::time::{Duration, Instant};

use pathcast::broker::{Failure, Letter, Peer};
use pathcast::proto::ask::{Answer, Ask};
use pathcast::proto::envelope::{Body, Envelope};
use pathcast::proto::event::Kind;
use pathcast::proto::paths::OnFull;
use pathcast::proto::roster::{Backends, Member};
use pathcast::proto::session_id::{PodId, SessionId};
use pathcast::proto::stream::Entry;
use pathcast::proto::stream::Fate::{Refused, Taken};
use pathcast::proto::telling::{Place, What};
use rustix::process::Signal;
use support::brokered::{CONFIGURED, LEASE_TTL, PUBLISH_BYTES_MAX, Pod, in_time, path, unicast};
use support::redis::Redis;
use support::wait::{eventually, within_time};
use uuid::Uuid;

const A: PodId = PodId(*b"pod-aaaa");
const B: PodId = PodId(*b"pod-bbbb");

const AWAY: Result<u64, Failure> = Err(Failure::Unavailable("Redis is away"));

/// How soon everything works again after Redis did (docs/redis.md).
const BACK: Duration = Duration::from_secs(3);

async fn two() -> (Redis, Pod, Pod) {
    let server = Redis::start();
    let (a, b) = (Pod::start(A, &server).await, Pod::start(B, &server).await);
    (server, a, b)
}

/// Waits until pods are up, and sees that they hear each other, then forgets what they heard. What
/// was published before may still come meanwhile.
async fn works_again(pods: &[&Pod]) {
    for pod in pods {
        pod.up().await;
    }
    for pod in pods {
        pod.heard.clear();
    }
    let here = path("/ws/here");
    for (number, pod) in pods.iter().enumerate() {
        let published = pod.publish(&here, format!("again {number}"));
        assert_eq!(in_time(published).await, Ok(pods.len() as u64));
    }
    let expected: Vec<_> =
        (0..pods.len()).map(|number| format!("/ws/here again {number}")).collect();
    for pod in pods {
        eventually("what was published again", async || {
            let mut lines = pod.heard.lines();
            lines.retain(|line| line.starts_with("/ws/here again"));
            (lines.len() >= expected.len()).then(|| assert_eq!(lines, expected))
        })
        .await;
        assert_eq!(pods[0].unicast(pod.id, "x").await, Ok(Answer::Delivered));
        pod.heard.clear();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pods_hear_all_broadcasts_in_one_order_and_a_unicast_reaches_one() {
    let (_server, a, b) = two().await;
    let here = path("/ws/here");
    a.subscribe(&here).await;
    b.subscribe(&here).await;
    let mut published = Vec::new();
    for number in 0..300 {
        published.push(a.publish(&here, format!("a{number}")));
        published.push(b.publish(&here, format!("b{number}")));
    }
    for published in published {
        assert_eq!(in_time(published).await, Ok(2));
    }
    let heard = a.heard.wait(600).await;
    assert_eq!(b.heard.wait(600).await, heard);
    for own in ["/ws/here a", "/ws/here b"] {
        let numbers: Vec<usize> =
            heard.iter().filter_map(|line| line.strip_prefix(own)?.parse().ok()).collect();
        assert_eq!(numbers, (0..300).collect::<Vec<_>>());
    }

    a.heard.clear();
    b.heard.clear();
    assert_eq!(a.unicast(B, 1).await, Ok(Answer::Delivered));
    assert_eq!(b.heard.lines(), ["unicast 1"]);
    assert_eq!(a.heard.lines(), [""; 0]);
    let mut pods = in_time(a.broker.pods()).await.expect("Redis answers");
    pods.sort_by_key(|peer| peer.pod);
    // Of itself it knows better than its last renewal.
    assert_eq!(
        pods,
        [(A, 1), (B, 0)].map(|(pod, sessions)| Peer { pod, sessions: Some(sessions) })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_publish_json_and_what_is_malformed_is_counted() {
    let (server, a, b) = two().await;
    let here = path("/ws/here");
    a.subscribe(&here).await;
    b.subscribe(&here).await;
    let channel = "pathcast:out:/ws/here";
    assert_eq!(server.publish(channel, b" \n{\"payload\":\"one\"}"), 2);
    let to_b = SessionId { pod: B, ..SessionId::MIN };
    let unicast = format!(r#"{{"payload":"two","_session":{{"type":"websocket","id":"{to_b}"}}}}"#);
    server.publish(channel, unicast.as_bytes());
    let nobody = r#"{"payload":"x","_session":{"type":"websocket","id":"nobody"}}"#;
    server.publish(channel, nobody.as_bytes());
    server.publish(channel, b"hello");
    server.publish(channel, b"");
    server.publish(channel, b"\x01\x01cut");
    server.publish(channel, b"{\"payload\":");
    server.publish(channel, br#"{"payload":"x","_session":7}"#);
    let large = "x".repeat(PUBLISH_BYTES_MAX);
    server.publish(channel, format!(r#"{{"payload":"{large}"}}"#).as_bytes());
    server.publish(&format!("pathcast:pod:{A}"), br#"{"payload":"x"}"#);
    server.publish(channel, br#"{"payload":"three"}"#);
    assert_eq!(b.heard.wait(3).await, ["/ws/here one", "unicast two", "/ws/here three"]);
    assert_eq!(a.heard.wait(2).await, ["/ws/here one", "/ws/here three"]);
    assert_eq!(b.metrics.broker.malformed.get(), 6);
    assert_eq!(a.metrics.broker.malformed.get(), 7);
    works_again(&[&a, &b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_comes_too_late_is_dropped_and_counted() {
    let (server, a, b) = two().await;
    let time = server.command(&["TIME"]);
    let now_ms: u64 =
        time.lines().next().expect("seconds").parse::<u64>().expect("a number") * 1000;
    let ask = |sent_ms, ask| {
        let body = Body::Ask { from: A, correlation: 1, sent_ms, age_limit_ms: 2_000, ask };
        Envelope { id: Uuid::nil(), published_ms: 0, traceparent: None, body }.encode()
    };
    let inbox = format!("pathcast:pod:{B}");
    assert_eq!(server.publish(&inbox, &ask(now_ms - 5_000, unicast(B, "late").ask)), 1);
    server.publish(&inbox, &ask(now_ms + 1_000, unicast(B, "in time").ask));
    assert_eq!(b.heard.wait(1).await, ["unicast in time"]);
    assert_eq!(b.metrics.unicasts.late.get(), 1);
    assert_eq!(
        in_time(a.broker.ask(Letter::new(B, Ask::Census))).await,
        Ok(Answer::Census(vec![]))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_gone_only_when_its_lease_is() {
    let (server, a, b) = two().await;
    let lease = format!("pathcast:lease:{B}");
    assert_eq!(server.command(&["GET", &lease]), r#"{"sessions":0,"paths":0}"#);
    b.lifecycle.closing().cancel();
    eventually("a pod that took its leave", async || {
        (server.command(&["EXISTS", &lease]) == "0").then_some(())
    })
    .await;
    assert_eq!(server.command(&["SMEMBERS", "pathcast:pods"]), A.text());

    // As if it had been killed: nobody listens, but the lease is still there.
    server.command(&["SET", &lease, "{}", "PX", "4000"]);
    assert_eq!(a.unicast(B, 1).await, Err(Failure::Unknown));
    let begun = Instant::now();
    eventually("a proof", async || match a.unicast(B, 1).await {
        Ok(Answer::Gone) => Some(()),
        other => {
            assert_eq!(other, Err(Failure::Unknown));
            None
        }
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(4));

    // Whoever was cut off from Redis himself proves nothing until he has watched for a lease time.
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    eventually("a broken link", async || (!a.is_up()).then_some(())).await;
    a.up().await;
    let back = Instant::now();
    assert_eq!(a.unicast(B, 1).await, Ok(Answer::Gone));
    assert!(back.elapsed() > LEASE_TTL / 2, "{:?}", back.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_subscription_is_a_gap_and_heals() {
    let (server, a, b) = two().await;
    let here = path("/ws/here");
    a.subscribe(&here).await;
    b.subscribe(&here).await;
    for round in 1..=3 {
        server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        for pod in [&a, &b] {
            assert_eq!(pod.heard.wait(1).await, ["gap"]);
            assert_eq!(pod.metrics.broker.gaps.get(), round);
        }
        works_again(&[&a, &b]).await;
    }
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    assert_eq!(a.heard.wait(1).await, ["gap"]);
    assert_eq!(b.heard.wait(1).await, ["gap"]);
    works_again(&[&a, &b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_comes_back_empty_serves_again_within_three_seconds() {
    let (mut server, a, b) = two().await;
    let here = path("/ws/here");
    a.subscribe(&here).await;
    b.subscribe(&here).await;
    let many: Vec<_> = (0..10_000).map(|number| path(&format!("/ws/rooms/{number}"))).collect();
    let subscribed: Vec<_> = many.iter().map(|path| a.broker.subscribe(path)).collect();
    for subscribed in subscribed {
        in_time(subscribed).await.expect("subscribed");
    }
    server.kill();
    for pod in [&a, &b] {
        eventually("a link that is down", async || (!pod.is_up()).then_some(())).await;
        assert_eq!(in_time(pod.publish(&here, "x")).await, AWAY);
        let subscribed = in_time(pod.broker.subscribe(&path("/ws/new"))).await;
        assert_eq!(subscribed, Err(Failure::Unavailable("Redis is away")));
        pod.broker.unsubscribe(&path("/ws/new"));
    }
    // Long enough that every pod waits as long as it ever does between two attempts.
    tokio::time::sleep(Duration::from_secs(3)).await;
    server.restart();
    within_time(BACK, "both pods", async {
        a.up().await;
        b.up().await;
    })
    .await;
    assert_eq!(a.heard.lines(), ["gap"]);
    assert_eq!(in_time(b.publish(&many[9_999], "x")).await, Ok(1));
    works_again(&[&a, &b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_stands_still_is_found_out_and_used_again() {
    let (server, a, b) = two().await;
    let here = path("/ws/here");
    a.subscribe(&here).await;
    b.subscribe(&here).await;
    server.signal(Signal::STOP);
    let stopped = Instant::now();
    // Written, and not answered: nobody knows.
    assert_eq!(in_time(a.publish(&here, "x")).await, Err(Failure::Unknown));
    assert_eq!(a.unicast(B, "x").await, Err(Failure::Unavailable("Redis is away")));
    assert!(stopped.elapsed() < Duration::from_secs(4), "{:?}", stopped.elapsed());
    eventually("the other pod to notice", async || (!b.is_up()).then_some(())).await;
    assert_eq!(in_time(b.publish(&here, "x")).await, AWAY);
    tokio::time::sleep(Duration::from_secs(5).saturating_sub(stopped.elapsed())).await;
    server.signal(Signal::CONT);
    within_time(BACK, "both pods", async {
        a.up().await;
        b.up().await;
    })
    .await;
    works_again(&[&a, &b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_may_not_subscribe_is_down_until_it_may() {
    let (server, a, _b) = two().await;
    let here = path("/ws/here");
    a.subscribe(&here).await;
    server.command(&["ACL", "SETUSER", "default", "resetchannels"]);
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    eventually("a link that is down", async || (!a.is_up()).then_some(())).await;
    assert_eq!(in_time(a.publish(&here, "x")).await, AWAY);
    // It stays down, however often it tries.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!a.is_up());
    server.command(&["ACL", "SETUSER", "default", "allchannels"]);
    within_time(BACK, "the pod", a.up()).await;
    works_again(&[&a]).await;
}

/// The line of the documentation that makes a user for pathcast.
#[tokio::test(flavor = "multi_thread")]
async fn the_documented_rights_are_enough_and_no_more_than_that() {
    let server = Redis::start();
    let docs = std::fs::read_to_string("docs/redis.md").expect("the documentation is there");
    let rights = docs.lines().find_map(|line| line.strip_prefix("ACL SETUSER pathcast "));
    let mut command = vec!["ACL", "SETUSER", "pathcast"];
    command.extend(rights.expect("the documentation tells them").split(' '));
    server.command(&command);
    let url = server.url().replace("redis://", "redis://pathcast:a-long-password@");
    let pod = Pod::start_at(A, &url).await;
    pod.subscribe(&path("/ws/here")).await;
    works_again(&[&pod]).await;
    assert_eq!(in_time(pod.broker.pods()).await, Ok(vec![Peer { pod: A, sessions: Some(1) }]));
    in_time(pod.broker.tap(&CONFIGURED.into())).await.expect("tapped");
    assert_eq!(in_time(pod.broker.append(&[entry(0, 1)])).await, Ok(vec![Taken]));
    let key = format!("pathcast:in:{CONFIGURED}:1");
    server.command(&["XGROUP", "CREATE", &key, "group", "0"]);
    server.command(&["XREADGROUP", "GROUP", "group", "a", "STREAMS", &key, ">"]);
    let trimmed = pod.broker.trim(&entry(0, 1).part(), 1, OnFull::Backpressure);
    assert_eq!(in_time(trimmed).await.expect("trimmed").unread, 1);
    server.command(&["XADD", &key, "*", "type", "message"]);
    let trimmed = pod.broker.trim(&entry(0, 1).part(), 1, OnFull::DropOldest);
    assert_eq!(in_time(trimmed).await.expect("trimmed").dropped, 1);
    let tenures = pod.broker.tenures();
    let grip = in_time(tenures.seize("feed", 7)).await.expect("seized").expect("nobody has it");
    assert_eq!((grip.epoch, in_time(tenures.renew("feed")).await), (8, Ok(true)));
    let seen = in_time(tenures.look("feed")).await.expect("seen");
    assert_eq!((seen.holder, seen.epoch, seen.is_released), (Some(A), Some(8), false));
    in_time(tenures.release("feed", grip)).await.expect("released");
    let seen = in_time(tenures.look("feed")).await.expect("seen");
    assert_eq!((seen.holder, seen.epoch, seen.is_released), (None, Some(8), true));
    assert_eq!(in_time(tenures.renew("feed")).await, Ok(false));
    let dry_run =
        |command: &[&str]| server.command(&[&["ACL", "DRYRUN", "pathcast"], command].concat());
    assert_eq!(dry_run(&["SET", "pathcast:lease:x", "y"]), "OK");
    assert!(dry_run(&["SET", "other", "y"]).contains("no permissions"));
    assert!(dry_run(&["PUBLISH", "other", "y"]).contains("no permissions"));
    assert!(dry_run(&["FLUSHALL"]).contains("no permissions"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_pod_tells_the_other_hears_in_order() {
    let (_server, a, b) = two().await;
    in_time(a.broker.tap(&CONFIGURED.into())).await.expect("tapped");
    let tell = |number| {
        let (id, json) = (format!("x-{number}"), format!("{{\"n\":{number}}}").into());
        let what = What::Event { id, kind: Kind::Message, path: path("/ws/here"), json };
        b.broker.tell(CONFIGURED, Place { stretch: 3, number }, what)
    };
    let told: Vec<_> = (0..300).map(tell).collect();
    for told in told.into_iter().rev() {
        in_time(told).await.expect("told");
    }
    let line = |number| {
        format!("{CONFIGURED} {B} 3:{number} x-{number} message /ws/here {{\"n\":{number}}}")
    };
    assert_eq!(a.heard.wait(300).await, (0..300).map(line).collect::<Vec<_>>());
    assert_eq!(b.heard.lines(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_is_seen_by_all_and_lapses() {
    let (server, a, b) = two().await;
    assert_eq!(b.heard.tapped(), [""; 0]);
    let tap = format!("pathcast:tap:{CONFIGURED}");
    for _ in 0..2 {
        in_time(a.broker.tap(&CONFIGURED.into())).await.expect("tapped");
    }
    a.broker.untap(&CONFIGURED.into());
    // Who comes later has seen it before anything else.
    let late = Pod::start(PodId(*b"pod-late"), &server).await;
    assert_eq!(late.heard.tapped(), [CONFIGURED]);
    eventually("a tap that is seen", async || (b.heard.tapped() == [CONFIGURED]).then_some(()))
        .await;
    // It is renewed while somebody listens, also when Redis forgets it.
    server.command(&["DEL", &tap]);
    eventually("a new tap", async || (server.command(&["EXISTS", &tap]) == "1").then_some(()))
        .await;
    a.broker.untap(&CONFIGURED.into());
    eventually("a tap that lapses", async || b.heard.tapped().is_empty().then_some(())).await;
    assert_eq!(server.command(&["EXISTS", &tap]), "0");
    // The channel lingers as long as a path does.
    let subscribed = || server.command(&["PUBSUB", "CHANNELS", "pathcast:ev:*"]);
    eventually("one channel less", async || subscribed().is_empty().then_some(())).await;
}

fn entry(number: usize, partition: u32) -> Entry {
    let fields = vec![("id", number.to_string()), ("msg", format!("{{\"payload\":{number}}}"))];
    Entry { configured: CONFIGURED.into(), partition, fields }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_always_among_the_pods() {
    let (server, a, _b) = two().await;
    for _ in 0..20 {
        server.command(&["DEL", "pathcast:pods", &format!("pathcast:lease:{A}")]);
        let pods = in_time(a.broker.pods()).await.expect("pods");
        let own: Vec<_> = pods.iter().filter(|peer| peer.pod == A).collect();
        assert_eq!(own, [&Peer { pod: A, sessions: Some(0) }]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_pod_is_claimed_by_one_that_lives_until_its_ends_have_been_told() {
    const C: PodId = PodId(*b"pod-c---");
    const D: PodId = PodId(*b"pod-d---");
    let server = Redis::start();
    let a = Pod::start(A, &server).await;
    let c = Pod::start(C, &server).await;
    let session = |pod| SessionId { pod, ..SessionId::MIN };
    let backends = Backends { stream: true, webhook: true };
    let member = Member { configured: CONFIGURED.into(), path: path("/ws/1"), backends };
    for pod in [B, D] {
        let (roster, id) = (format!("pathcast:roster:{pod}"), session(pod).to_string());
        server.command(&["HSET", &roster, &id, &member.text()]);
    }
    let pods = |command| server.command(&[command, "pathcast:pods", &B.to_string()]);
    let claimed = async |pod: &Pod| in_time(pod.broker.claim()).await.expect("Redis is there");
    let claims = async |pod: &Pod, expected| {
        let found = async || (claimed(pod).await == [expected]).then_some(());
        eventually("a claim", found).await;
    };

    pods("SADD");
    claims(&a, B).await;
    // This one would know as well, and sees that it is taken care of.
    server.command(&["SADD", "pathcast:pods", &D.to_string()]);
    claims(&c, D).await;
    assert_eq!(claimed(&c).await, [D]);
    // One that comes back just now is not dead. (The claim would keep it from that.)
    let lease = format!("pathcast:lease:{B}");
    server.command(&["SET", &lease, "{}"]);
    assert_eq!(claimed(&a).await, []);
    server.command(&["DEL", &lease]);
    assert_eq!(claimed(&a).await, [B]);

    let orphans = in_time(a.broker.orphans(B, 0)).await.expect("Redis is there");
    assert_eq!((orphans.members, orphans.next), (vec![(session(B), member)], None));
    let mut owed = a.broker.adopt(session(B), 2).expect("nobody tells it yet");
    assert!(a.broker.adopt(session(B), 2).is_none(), "it is told once");
    a.broker.settle(&session(B));
    assert_eq!(claimed(&a).await, [B], "one backend has not taken it yet");
    assert!(futures_util::FutureExt::now_or_never(&mut owed).is_none());
    a.broker.settle(&session(B));
    assert_eq!(in_time(owed).await, Ok(()));
    assert_eq!(pods("SISMEMBER"), "1");
    assert_eq!(claimed(&a).await, []);
    assert_eq!(pods("SISMEMBER"), "0");

    // A claim lasts as long as its owner.
    drop(c);
    claims(&a, D).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_appended_to_in_order_all_or_none() {
    let mut server = Redis::start();
    let pod = Pod::start(A, &server).await;
    let key = |partition| format!("pathcast:in:{CONFIGURED}:{partition}");
    let appended = |entries: Vec<Entry>| in_time(pod.broker.append(&entries));
    assert_eq!(
        appended((0..300).map(|n| entry(n, n as u32 % 2)).collect()).await,
        Ok(vec![Taken; 300])
    );
    for partition in [0, 1] {
        let range = server.command(&["XRANGE", &key(partition), "-", "+"]);
        // Id, name, value, name, value.
        let lines: Vec<_> = range.lines().collect();
        let numbers: Vec<usize> =
            lines.chunks(5).map(|entry| entry[2].parse().expect("a number")).collect();
        let expected = (0..300).filter(|n| n % 2 == partition as usize);
        assert_eq!(numbers, expected.collect::<Vec<_>>());
        assert_eq!(
            (lines[1], lines[3], lines[9]),
            ("id", "msg", &*format!("{{\"payload\":{}}}", partition + 2))
        );
    }

    // What somebody else has made of a key is no stream; the others are not held up by it.
    server.command(&["SET", &key(2), "mine"]);
    let mixed = vec![entry(0, 2), entry(1, 3), entry(2, 2), entry(3, 3)];
    assert_eq!(appended(mixed).await, Ok(vec![Refused, Taken, Refused, Taken]));
    assert_eq!(server.command(&["XLEN", &key(3)]), "2");
    // Refused for now: none was appended.
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = Err(Failure::Unavailable("Redis refused it"));
    assert_eq!(appended(vec![entry(0, 4)]).await, refused);
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(server.command(&["XLEN", &key(4)]), "0");
    assert_eq!(appended(vec![entry(0, 4)]).await, Ok(vec![Taken]));
    // Without the right to transactions nothing is repeated for ever.
    server.command(&["ACL", "SETUSER", "default", "-multi"]);
    assert_eq!(appended(vec![entry(0, 5), entry(0, 2)]).await, Ok(vec![Taken, Refused]));
    server.kill();
    eventually("a link that is down", async || (!pod.is_up()).then_some(())).await;
    let away = Err(Failure::Unavailable("Redis is away"));
    assert_eq!(appended(vec![entry(0, 6)]).await, away);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_without_sessions_is_left_after_a_while() {
    let server = Redis::start();
    let pod = Pod::start(A, &server).await;
    let (here, kept) = (path("/ws/here"), path("/ws/kept"));
    pod.subscribe(&here).await;
    pod.subscribe(&kept).await;
    pod.broker.unsubscribe(&here);
    pod.broker.unsubscribe(&kept);
    let subscribed = || server.command(&["PUBSUB", "CHANNELS", "pathcast:out:*"]);
    // A client that comes back meanwhile finds its path as it was.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(subscribed().lines().count(), 2);
    in_time(pod.broker.subscribe(&kept)).await.expect("subscribed");
    eventually("one path less", async || (subscribed().lines().count() == 1).then_some(())).await;
    assert_eq!(subscribed(), "pathcast:out:/ws/kept");
    pod.subscribe(&here).await;
    assert_eq!(in_time(pod.publish(&here, "again")).await, Ok(1));
    assert_eq!(pod.heard.wait(1).await, ["/ws/here again"]);
}

//! Whatever becomes of a pod, each of its sessions that backends heard of has its end told, by that pod
//! or by a survivor, and by no pod that was taken for dead.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use pathcast::broker::Failure;
use pathcast::proto::session_id::PodId;
use pathcast::proto::stream::Entry;
use pathcast::proto::telling::{Place, What};
use rustix::process::Signal;
use support::brokered::{Pod, in_time};
use support::client::Client;
use support::gateway::Gateway;
use support::redis::Redis;
use support::wait::{eventually, poll_pause};

/// The shortest there is.
const LEASE: Duration = Duration::from_secs(3);

const PARTITIONS: usize = 2;

const SETTINGS: &str = r#"stream_partitions = 2
lease_ttl = "3s"
[[path]]
path = "/ws"
backend = { stream = true }
[[path]]
path = "/ws/rooms/{room}"
backend = { stream = true }
[[path]]
path = "/ws/other"
"#;

async fn start(server: &Redis) -> Gateway {
    let url = server.url();
    let gateway = Gateway::start(&format!("[broker]\nurl = \"{url}\"\n{SETTINGS}")).await;
    gateway.ready().await;
    gateway
}

type Fields = BTreeMap<String, String>;

/// Everything in all streams.
fn streamed(server: &Redis) -> Vec<Fields> {
    let mut found = Vec::new();
    for configured in ["/ws", "/ws/rooms/{room}"] {
        for partition in 0..PARTITIONS {
            let key = format!("pathcast:in:{configured}:{partition}");
            let range = server.command(&["-2", "--json", "XRANGE", &key, "-", "+"]);
            let range: Vec<(String, Vec<String>)> = serde_json::from_str(&range).expect("entries");
            let fields = |(_, fields): &(String, Vec<String>)| -> Fields {
                fields.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
            };
            found.extend(range.iter().map(fields));
        }
    }
    found
}

fn of_kind(entries: &[Fields], kind: &str) -> Vec<Fields> {
    entries.iter().filter(|entry| entry["type"] == kind).cloned().collect()
}

fn sessions(entries: &[Fields]) -> BTreeSet<String> {
    entries.iter().map(|entry| entry["session"].clone()).collect()
}

/// Clients on a path, whose connects are in the stream: and their sessions.
async fn crowd(
    server: &Redis,
    pod: &Gateway,
    path: &str,
    count: usize,
) -> (Vec<Client>, BTreeSet<String>) {
    let before = sessions(&of_kind(&streamed(server), "connect"));
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(pod.open(path).await);
    }
    let connected = eventually("every connect", async || {
        let mut connected = sessions(&of_kind(&streamed(server), "connect"));
        connected.retain(|session| !before.contains(session));
        (connected.len() >= count).then_some(connected)
    });
    let connected = connected.await;
    assert_eq!(connected.len(), count);
    (clients, connected)
}

/// The pod of these sessions: an id begins with its pod's.
fn pod_of(sessions: &BTreeSet<String>) -> String {
    sessions.first().expect("there are some")[..13].to_owned()
}

async fn ends(server: &Redis, count: usize) -> Vec<Fields> {
    eventually(&format!("{count} ends"), async || {
        let ends = of_kind(&streamed(server), "disconnect");
        (sessions(&ends).len() >= count).then_some(ends)
    })
    .await
}

async fn rostered(server: &Redis, pod: &str, count: usize) {
    let roster = format!("pathcast:roster:{pod}");
    eventually(&format!("a roster of {count}"), async || {
        (server.command(&["HLEN", &roster]) == count.to_string()).then_some(())
    })
    .await;
}

/// Nobody's end is told for so long.
async fn nobody_ends(server: &Redis, time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        let ends = of_kind(&streamed(server), "disconnect");
        assert!(ends.is_empty(), "{ends:?}");
        poll_pause().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ends_of_a_killed_pods_sessions_are_told_by_one_survivor() {
    let server = Redis::start();
    let lost = start(&server).await;
    let survivors = [start(&server).await, start(&server).await];
    let (mut clients, mut open) = crowd(&server, &lost, "/ws", 220).await;
    let (_in_room, in_room) = crowd(&server, &lost, "/ws/rooms/7", 100).await;
    let (_living, living) = crowd(&server, &survivors[0], "/ws", 3).await;
    let _unheard = lost.open("/ws/other").await;
    let pod = pod_of(&open);
    rostered(&server, &pod, 320).await;
    // These tell their ends themselves.
    for client in &mut clients[..20] {
        client.writer.close(Some(1000), "").await;
    }
    let own = ends(&server, 20).await;
    rostered(&server, &pod, 300).await;
    let mut listening = survivors[1].listen("/ws").await;
    lost.signal(Signal::KILL);

    let told = ends(&server, 320).await;
    open.extend(in_room);
    assert_eq!(sessions(&told), open);
    assert_eq!(told.len(), 320, "each once");
    let lost_ones: Vec<_> = told.iter().filter(|end| end["cause"] == "pod_lost").collect();
    assert_eq!((own.len(), lost_ones.len()), (20, 300));
    for end in &lost_ones {
        assert_eq!(end["id"], format!("{}-end", end["session"]));
        assert_eq!((end["pod"].as_str(), end["code"].as_str()), (pod.as_str(), "1006"));
        assert_eq!((end["reason"].as_str(), end["seq"].as_str()), ("", "4294967295"));
    }
    assert_eq!(lost_ones.iter().filter(|end| end["path"] == "/ws/rooms/7").count(), 100);
    // Listeners are told too, on whichever pod.
    let heard = listening.until(|event| event.kind == "disconnect").await;
    assert_eq!((heard.text("cause"), heard.text("pod")), ("pod_lost".to_owned(), pod.clone()));

    let pods = async || {
        let known = server.command(&["SMEMBERS", "pathcast:pods"]);
        (known.lines().count() == 2 && !known.contains(&pod)).then_some(())
    };
    eventually("a pod that is forgotten", pods).await;
    assert_eq!(server.command(&["EXISTS", &format!("pathcast:roster:{pod}")]), "0");
    // The dead one would find that out.
    let claim = server.command(&["TTL", &format!("pathcast:claim:{pod}")]);
    assert!(claim.parse::<u64>().is_ok_and(|seconds| seconds > 23 * 3_600), "{claim}");
    rostered(&server, &pod_of(&living), 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_stood_still_and_was_claimed_begins_anew_and_tells_nothing_of_before() {
    let server = Redis::start();
    let stopped = start(&server).await;
    let _survivor = start(&server).await;
    let (mut clients, sessions_before) = crowd(&server, &stopped, "/ws", 10).await;
    let mut unheard = stopped.open("/ws/other").await;
    let pod = pod_of(&sessions_before);
    stopped.signal(Signal::STOP);
    for client in &mut clients {
        client.writer.text("unheard of").await;
    }
    let told = ends(&server, 10).await;
    assert_eq!((sessions(&told), told.len()), (sessions_before, 10));
    let of_it = || streamed(&server).into_iter().filter(|entry| entry["pod"] == pod);
    let when_told: Vec<_> = of_it().collect();
    stopped.signal(Signal::CONT);
    for client in clients.iter_mut().chain([&mut unheard]) {
        assert_eq!(client.closing().await.close_code(), Some(1012));
    }

    eventually("another pod in its place", async || {
        (stopped.log().matches("serving pod=").count() == 2).then_some(())
    })
    .await;
    stopped.ready().await;
    let (_clients, sessions_after) = crowd(&server, &stopped, "/ws", 5).await;
    assert_ne!(pod_of(&sessions_after), pod);
    assert_eq!(of_it().collect::<Vec<_>>(), when_told);
    assert!(stopped.log().contains("taken for dead"), "{}", stopped.log());
    rostered(&server, &pod_of(&sessions_after), 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_pod_that_is_to_leave_does_not_begin_anew() {
    let server = Redis::start();
    // Its clients answer no close, so that giving up takes its time.
    let url = server.url();
    let settings =
        format!("[limits]\nclose_timeout = \"1m\"\n[broker]\nurl = \"{url}\"\n{SETTINGS}");
    let mut stopped = Gateway::start(&settings).await;
    stopped.ready().await;
    let _survivor = start(&server).await;
    let (_clients, _) = crowd(&server, &stopped, "/ws", 3).await;
    stopped.signal(Signal::STOP);
    ends(&server, 3).await;
    stopped.signal(Signal::CONT);
    let says = async |what: &str| {
        eventually(what, async || stopped.log().contains(what).then_some(())).await;
    };
    says("taken for dead").await;
    stopped.signal(Signal::TERM);
    says("no other pod begins in its place").await;
    // And whoever insists does not wait.
    stopped.signal(Signal::TERM);
    assert_eq!(stopped.exit().await.code(), Some(0));
    assert_eq!(stopped.log().matches("serving pod=").count(), 1, "{}", stopped.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_claimed_while_it_leaves_closes_its_sessions_at_once_and_goes() {
    let server = Redis::start();
    let url = server.url();
    let drain = "[drain]\nsettle = \"1m\"\nwindow = \"1m\"\ntimeout = \"1m\"";
    let settings = format!("{drain}\n[broker]\nurl = \"{url}\"\n{SETTINGS}");
    let mut stopped = Gateway::start(&settings).await;
    stopped.ready().await;
    let _survivor = start(&server).await;
    let (mut clients, _) = crowd(&server, &stopped, "/ws", 3).await;
    stopped.signal(Signal::TERM);
    eventually("a pod that leaves", async || stopped.log().contains("leaving").then_some(())).await;
    stopped.signal(Signal::STOP);
    for client in &mut clients {
        client.writer.text("unheard of").await;
    }
    ends(&server, 3).await;
    stopped.signal(Signal::CONT);
    for client in &mut clients {
        assert_eq!(client.closing().await.close_code(), Some(1012));
    }
    assert_eq!(stopped.exit().await.code(), Some(0));
    assert!(stopped.log().contains("taken for dead"), "{}", stopped.log());
    assert_eq!(of_kind(&streamed(&server), "message"), Vec::<Fields>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_stood_still_and_was_not_claimed_goes_on() {
    let server = Redis::start();
    let alone = start(&server).await;
    let (mut clients, sessions_before) = crowd(&server, &alone, "/ws", 3).await;
    let lease = format!("pathcast:lease:{}", pod_of(&sessions_before));
    alone.signal(Signal::STOP);
    for client in &mut clients {
        client.writer.text("late").await;
    }
    eventually("a lease that has lapsed", async || {
        (server.command(&["EXISTS", &lease]) == "0").then_some(())
    })
    .await;
    alone.signal(Signal::CONT);
    let said = async || (of_kind(&streamed(&server), "message").len() == 3).then_some(());
    eventually("what they said", said).await;
    // Whoever comes now sees a pod that lives.
    let _other = start(&server).await;
    nobody_ends(&server, 2 * LEASE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_survivor_goes_on_where_the_first_one_died() {
    let server = Redis::start();
    let lost = start(&server).await;
    let mut survivors = Vec::new();
    for _ in 0..2 {
        let survivor = start(&server).await;
        let (clients, sessions) = crowd(&server, &survivor, "/ws", 1).await;
        survivors.push((survivor, clients, pod_of(&sessions)));
    }
    let (_clients, open) = crowd(&server, &lost, "/ws", 1_200).await;
    let claim = format!("pathcast:claim:{}", pod_of(&open));
    rostered(&server, &pod_of(&open), 1_200).await;
    let mut redis = server.connect().await;
    lost.signal(Signal::KILL);
    while redis.call(&[b"EXISTS", claim.as_bytes()]).await == support::resp::Reply::Number(0) {
        tokio::task::yield_now().await;
    }
    // So that it does not come to its end: what has no room waits.
    redis.call(&[b"CONFIG", b"SET", b"maxmemory", b"1"]).await;
    let first = server.command(&["GET", &claim]);
    let at = survivors.iter().position(|(_, _, pod)| *pod == first).expect("one of them");
    let (claimer, _, _) = survivors.swap_remove(at);
    claimer.signal(Signal::KILL);
    assert_eq!(server.command(&["CONFIG", "SET", "maxmemory", "0"]), "OK");

    // The claimer's own session is lost too.
    let told = ends(&server, 1_201).await;
    let (lost_ones, others): (Vec<_>, Vec<_>) =
        told.into_iter().partition(|end| open.contains(&end["session"]));
    assert_eq!(sessions(&lost_ones), open);
    assert_eq!(sessions(&others).len(), 1);
    assert_eq!(others[0]["pod"], first);
    rostered(&server, &pod_of(&open), 0).await;
    assert_eq!(server.command(&["GET", &claim]), survivors[0].2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_comes_back_empty_is_told_again_whose_ends_are_owed() {
    let mut server = Redis::start();
    let lost = start(&server).await;
    let _survivor = start(&server).await;
    let (_clients, open) = crowd(&server, &lost, "/ws", 20).await;
    server.kill();
    server.restart();
    rostered(&server, &pod_of(&open), 20).await;
    nobody_ends(&server, 2 * LEASE).await;
    lost.signal(Signal::KILL);
    assert_eq!(sessions(&ends(&server, 20).await), open);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_dies_of_a_redis_that_was_away_for_longer_than_all_leases() {
    let server = Redis::start();
    let pods = [start(&server).await, start(&server).await];
    let (mut here, _) = crowd(&server, &pods[0], "/ws", 5).await;
    let (mut there, _) = crowd(&server, &pods[1], "/ws", 5).await;
    server.signal(Signal::STOP);
    tokio::time::sleep(3 * LEASE).await;
    server.signal(Signal::CONT);
    nobody_ends(&server, 2 * LEASE).await;
    for client in here.iter_mut().chain(&mut there) {
        client.writer.text("still there").await;
    }
    let said = async || (of_kind(&streamed(&server), "message").len() == 10).then_some(());
    eventually("what they said", said).await;
    nobody_ends(&server, Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_leaves_owes_nothing_and_what_it_could_not_tell_is_told_by_another() {
    let server = Redis::start();
    let mut leaver = start(&server).await;
    let (_clients, open) = crowd(&server, &leaver, "/ws", 30).await;
    leaver.signal(Signal::TERM);
    assert!(leaver.exit().await.success(), "{}", leaver.log());
    assert_eq!(sessions(&ends(&server, 30).await), open);
    let left = server.command(&["KEYS", "pathcast:[rlc]*"]);
    assert_eq!((left.as_str(), server.command(&["SCARD", "pathcast:pods"]).as_str()), ("", "0"));

    let mut mute = start(&server).await;
    let (_clients, open) = crowd(&server, &mute, "/ws", 30).await;
    let pod = pod_of(&open);
    // What has no room waits, and then nobody waits for it any more.
    assert_eq!(server.command(&["CONFIG", "SET", "maxmemory", "1"]), "OK");
    mute.signal(Signal::TERM);
    eventually("its leaving", async || mute.log().contains("leaving").then_some(())).await;
    mute.signal(Signal::TERM);
    mute.exit().await;
    assert_eq!(server.command(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    rostered(&server, &pod, 30).await;
    let _survivor = start(&server).await;
    let told = ends(&server, 60).await;
    assert_eq!(told.iter().filter(|end| open.contains(&end["session"])).count(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_gets_past_a_claim_however_late_it_is_taken() {
    let server = Redis::start();
    let pod = Pod::start(PodId(*b"claimed-"), &server).await;
    let fields = vec![("id", "event".to_owned())];
    let entry = Entry { configured: "/ws".into(), partition: 0, fields };
    assert!(in_time(pod.broker.append(std::slice::from_ref(&entry))).await.is_ok());
    // Its lease is held, as far as it can know.
    server.command(&["SET", &format!("pathcast:claim:{}", pod.id), "other"]);
    let appended = in_time(pod.broker.append(std::slice::from_ref(&entry))).await;
    assert!(matches!(appended, Err(Failure::Unavailable(_))), "{appended:?}");
    assert_eq!(server.command(&["XLEN", "pathcast:in:/ws:0"]), "1");
    assert!(pod.lifecycle.claimed().is_cancelled());
    // Nor does it come back to life.
    server.command(&["DEL", &format!("pathcast:lease:{}", pod.id)]);
    eventually("a link that is given up", async || (!pod.is_up()).then_some(())).await;
    assert_eq!(server.command(&["EXISTS", &format!("pathcast:lease:{}", pod.id)]), "0");

    // What other pods' listeners would hear does not either.
    let pod = Pod::start(PodId(*b"silent--"), &server).await;
    let tell = || in_time(pod.broker.tell("/ws", Place::FIRST, What::Beat));
    assert_eq!(tell().await, Ok(()));
    server.command(&["SET", &format!("pathcast:claim:{}", pod.id), "other"]);
    let told = tell().await;
    assert!(matches!(told, Err(Failure::Unavailable(_))), "{told:?}");
    assert!(pod.lifecycle.claimed().is_cancelled());
}

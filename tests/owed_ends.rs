//! Whatever becomes of a client, its pod, or Redis: a webhook hears of the end of every session that it may
//! have heard of, and of none that lives.

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::backend::{Asked, Backend, answer, logged, status};
use support::client::{self, Client, Request};
use support::gateway::{DOORS, Gateway};
use support::redis::Redis;
use support::wait::{eventually, poll_pause};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// The shortest there is.
const LEASE: Duration = Duration::from_secs(3);

/// One path with a webhook, one with a stream too, and one with another webhook.
async fn start(server: &Redis, backend: &Backend, other: &Backend, settings: &str) -> Gateway {
    start_whole(server, backend, other, &format!("{DOORS}{settings}")).await
}

/// The same, with clients that may take hours to come in.
async fn start_patient(
    server: &Redis,
    backend: &Backend,
    other: &Backend,
    settings: &str,
) -> Gateway {
    let doors = DOORS.replace("[api]", "handshake_timeout = \"2h\"\n[api]");
    start_whole(server, backend, other, &format!("{doors}{settings}")).await
}

async fn start_whole(
    server: &Redis,
    backend: &Backend,
    other: &Backend,
    settings: &str,
) -> Gateway {
    let (redis, url, other) = (server.url(), backend.url(), other.url());
    let whole = format!(
        r#"
{settings}
[broker]
url = "{redis}"
lease_ttl = "3s"
stream_partitions = 1
[[path]]
path = "/ws/{{room}}"
backend = {{ webhook = "{url}" }}
[[path]]
path = "/both"
backend = {{ webhook = "{url}", stream = true }}
[[path]]
path = "/other"
backend = {{ webhook = "{other}" }}
"#
    );
    let gateway = Gateway::start_whole(&whole, &[]).await;
    gateway.ready().await;
    gateway
}

/// Clients that the backend has let in.
async fn crowd(pod: &Gateway, path: &str, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(pod.open(path).await);
    }
    clients
}

fn sessions(asked: &[Asked]) -> BTreeSet<String> {
    asked.iter().map(|asked| asked.header("ce-sessionid").to_owned()).collect()
}

/// How many ends are owed, by all pods.
fn owed(server: &Redis) -> usize {
    let rosters = server.command(&["KEYS", "pathcast:roster:*"]);
    let length = |roster| server.command(&["HLEN", roster]).parse::<usize>().expect("a number");
    rosters.lines().map(length).sum()
}

async fn owes(server: &Redis, count: usize) {
    eventually(&format!("{count} ends that are owed"), async || {
        (owed(server) == count).then_some(())
    })
    .await;
}

/// Sessions whose disconnect is in the stream.
fn streamed_ends(server: &Redis) -> Vec<String> {
    let range = server.command(&["-2", "--json", "XRANGE", "pathcast:in:/both:0", "-", "+"]);
    let range: Vec<(String, Vec<String>)> = serde_json::from_str(&range).expect("entries");
    let field = |fields: &[String], name| {
        let at = fields.iter().step_by(2).position(|field| field == name);
        at.map(|at| fields[2 * at + 1].clone())
    };
    let ends =
        range.iter().filter(|(_, fields)| field(fields, "type").as_deref() == Some("disconnect"));
    ends.filter_map(|(_, fields)| field(fields, "session")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ends_of_a_killed_pods_sessions_are_posted_by_a_survivor_to_each_of_their_backends() {
    let server = Redis::start();
    let (backend, other) = (Backend::start().await, Backend::start().await);
    let lost = start(&server, &backend, &other, "").await;
    let survivors =
        [start(&server, &backend, &other, "").await, start(&server, &backend, &other, "").await];
    let _in_room = crowd(&lost, "/ws/7", 30).await;
    let connected = sessions(&backend.of("connect"));
    let _of_both = crowd(&lost, "/both", 30).await;
    let of_both: BTreeSet<_> =
        sessions(&backend.of("connect")).difference(&connected).cloned().collect();
    let mut living = crowd(&survivors[0], "/both", 3).await;
    owes(&server, 63).await;
    lost.signal(Signal::KILL);

    let ends = backend.wait("disconnect", 60).await;
    owes(&server, 3).await;
    assert_eq!(ends.len(), 60, "each once");
    assert_eq!(sessions(&ends), connected.union(&of_both).cloned().collect());
    for end in &ends {
        assert_eq!(end.header("ce-id"), format!("{}-end", end.header("ce-sessionid")));
        let (cause, code) = (end.json()["cause"].clone(), end.json()["code"].clone());
        assert_eq!((cause, code), ("pod_lost".into(), 1006.into()));
        assert!(end.header("ce-sessionid").starts_with(end.header("ce-pod")));
    }
    assert_eq!(ends.iter().filter(|end| end.header("ce-path") == "/ws/7").count(), 30);
    let streamed = streamed_ends(&server);
    assert_eq!((streamed.len(), streamed.into_iter().collect()), (30, of_both));
    for client in &mut living {
        client.leave().await;
    }
    owes(&server, 0).await;
    assert_eq!((backend.of("disconnect").len(), streamed_ends(&server).len()), (63, 33));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_backend_keeps_its_own_ends_owed_and_nobody_elses() {
    let server = Redis::start();
    let (backend, mut dead) = (Backend::start().await, Backend::start().await);
    let first = start(&server, &backend, &dead, "").await;
    let second = start(&server, &backend, &dead, "").await;
    let survivor = start(&server, &backend, &dead, "").await;
    let _clients = [
        crowd(&first, "/other", 10).await,
        crowd(&first, "/both", 20).await,
        crowd(&second, "/other", 10).await,
        crowd(&second, "/ws/1", 20).await,
    ];
    let known = sessions(&dead.of("connect"));
    owes(&server, 60).await;
    dead.kill().await;
    for pod in [&first, &second] {
        pod.signal(Signal::KILL);
    }
    backend.wait("disconnect", 40).await;
    owes(&server, 20).await;
    assert_eq!(streamed_ends(&server).len(), 20);
    let waiting = survivor.counted("pathcast_webhook_waiting_bytes").await;
    assert!(waiting > 0);
    // However often the roster is read meanwhile, each end waits once.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(12) {
        assert!(survivor.counted("pathcast_webhook_waiting_bytes").await <= waiting);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    dead.restart().await;
    owes(&server, 0).await;
    let ends = dead.of("disconnect");
    assert_eq!((ends.len(), sessions(&ends)), (20, known));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_whose_webhook_a_survivor_does_not_know_is_left_to_one_that_does() {
    let server = Redis::start();
    let (backend, other) = (Backend::start().await, Backend::start().await);
    let lost = start(&server, &backend, &other, "").await;
    let _clients = [crowd(&lost, "/ws/1", 5).await, crowd(&lost, "/other", 5).await];
    owes(&server, 10).await;
    let (redis, url) = (server.url(), other.url());
    let mut ignorant = Gateway::start(&format!(
        "[broker]\nurl = \"{redis}\"\nlease_ttl = \"3s\"\n[[path]]\npath = \"/other\"\n\
         backend = {{ webhook = \"{url}\" }}\n"
    ))
    .await;
    ignorant.ready().await;
    lost.signal(Signal::KILL);
    other.wait("disconnect", 5).await;
    owes(&server, 5).await;
    logged(&ignorant, &["this pod has no webhook for their paths"]).await;
    let _knows = start(&server, &backend, &other, "").await;
    ignorant.signal(Signal::TERM);
    assert!(ignorant.exit().await.success(), "{}", ignorant.log());
    backend.wait("disconnect", 5).await;
    owes(&server, 0).await;
    assert_eq!((backend.of("disconnect").len(), other.of("disconnect").len()), (5, 5));
}

/// A client that asks to be let in, and may go before it is answered.
async fn ask(pod: &Gateway, path: &str) -> TcpStream {
    let mut socket = TcpStream::connect(pod.clients).await.expect("the door listens");
    socket.write_all(&Request::upgrade(path).bytes()).await.expect("the door reads");
    socket
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_whose_client_never_came_is_followed_by_its_end_which_is_owed_until_it_is_taken()
{
    let server = Redis::start();
    let (backend, other) = (Backend::start().await, Backend::start().await);
    let settings = "[webhook]\ntimeout = \"1h\"\nconnect_limit = \"1h\"\n";
    let pod = start_patient(&server, &backend, &other, settings).await;
    let (go, gone) = tokio::sync::watch::channel("");
    backend.answer(move |asked| {
        let (mut gone, kind) = (gone.clone(), asked.kind().to_owned());
        async move {
            let _ = gone.wait_for(|gone| gone.contains(&kind)).await;
            status(204)
        }
    });
    for (round, path) in ["/ws/1", "/both"].into_iter().enumerate() {
        go.send_replace("");
        let client = ask(&pod, path).await;
        let connect = backend.wait("connect", round + 1).await.pop().expect("one more");
        drop(client);
        // And other sessions that came and went since.
        let gone = "pathcast_handshakes_total{result=\"broken\"}";
        eventually("a client that went away", async || {
            (pod.counted(gone).await == round as u64 + 1).then_some(())
        })
        .await;
        crowd(&pod, "/other", 1).await[0].leave().await;
        other.wait("disconnect", round + 1).await;
        owes(&server, 1).await;
        // It is let in, its end is under way, and not taken yet.
        go.send_replace("connect");
        let end = backend.wait("disconnect", round + 1).await.pop().expect("one more");
        assert_eq!(end.header("ce-sessionid"), connect.header("ce-sessionid"));
        assert_eq!((end.seq(), end.json()["cause"].as_str()), (1, Some("network")));
        owes(&server, 1).await;
        go.send_replace("connect disconnect");
        owes(&server, 0).await;
    }
    // The stream has heard of none of them.
    assert_eq!(streamed_ends(&server), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_killed_while_a_client_is_let_in_leaves_its_end_to_a_survivor() {
    let server = Redis::start();
    let (backend, other) = (Backend::start().await, Backend::start().await);
    let settings = "[webhook]\nconnect_limit = \"1h\"";
    let lost = start_patient(&server, &backend, &other, settings).await;
    let _survivor = start(&server, &backend, &other, "").await;
    backend.answer(|asked| async move {
        match asked.kind() {
            "connect" => std::future::pending().await,
            _ => status(204),
        }
    });
    // One waits, and one has gone away meanwhile.
    let (_waits, goes) = (ask(&lost, "/both").await, ask(&lost, "/ws/1").await);
    let known = sessions(&backend.wait("connect", 2).await);
    drop(goes);
    let gone = "pathcast_handshakes_total{result=\"broken\"}";
    eventually("a client that went away", async || (lost.counted(gone).await == 1).then_some(()))
        .await;
    crowd(&lost, "/other", 1).await[0].leave().await;
    other.wait("disconnect", 1).await;
    owes(&server, 2).await;
    lost.signal(Signal::KILL);
    let ends = backend.wait("disconnect", 2).await;
    assert_eq!(sessions(&ends), known);
    assert!(ends.iter().all(|end| end.json()["cause"] == "pod_lost"), "{ends:?}");
    owes(&server, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_is_owed_nothing_unless_the_backend_may_believe_otherwise() {
    let server = Redis::start();
    let (backend, mut other) = (Backend::start().await, Backend::start().await);
    let settings =
        "[webhook]\ntimeout = \"1s\"\nconnect_limit = \"300ms\"\n[limits]\nsessions_max = 2\n";
    let pod = start(&server, &backend, &other, settings).await;
    let refused = async |path: &str| {
        let answer = client::ask(pod.clients, &Request::upgrade(path)).await;
        answer.err().map(|answer| answer.status)
    };
    backend.say(|_| answer(403, "text/plain", "not you"));
    assert_eq!([refused("/ws/1").await, refused("/both").await], [Some(403); 2]);
    other.kill().await;
    assert_eq!(refused("/other").await, Some(503));
    owes(&server, 0).await;
    assert_eq!(backend.of("disconnect").len(), 0);

    // No word in time: it may have let them in.
    backend.hang();
    for path in ["/ws/1", "/both"] {
        assert_eq!(refused(path).await, Some(503));
    }
    backend.say(|_| status(204));
    let ends = sessions(&backend.wait("disconnect", 2).await);
    owes(&server, 0).await;
    assert!(ends.is_subset(&sessions(&backend.of("connect"))));
    // A pod that is full offers nothing.
    let _clients = crowd(&pod, "/both", 2).await;
    let asked = backend.of("connect").len();
    assert_eq!(refused("/both").await, Some(503));
    assert_eq!(backend.of("connect").len(), asked);
    owes(&server, 2).await;
    assert_eq!(streamed_ends(&server), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_stood_still_and_was_claimed_says_nothing_more_to_webhooks_and_listeners() {
    let server = Redis::start();
    let (backend, other) = (Backend::start().await, Backend::start().await);
    let stopped = start(&server, &backend, &other, "").await;
    let survivor = start(&server, &backend, &other, "").await;
    let mut here = stopped.listen("/both").await;
    let mut there = survivor.listen("/both").await;
    let mut clients = crowd(&stopped, "/both", 10).await;
    let known = sessions(&backend.of("connect"));
    for client in &mut clients {
        client.writer.text("before").await;
    }
    backend.wait("message", 10).await;
    stopped.signal(Signal::STOP);
    for client in &mut clients {
        for text in ["", "while it stands still"] {
            client.writer.text(text).await;
        }
    }
    let ends = backend.wait("disconnect", 10).await;
    assert_eq!(sessions(&ends), known);
    let heard = backend.asked().len();
    stopped.signal(Signal::CONT);
    for client in &mut clients {
        assert_eq!(client.closing().await.close_code(), Some(1012));
    }
    eventually("another pod in its place", async || {
        (stopped.log().matches("serving pod=").count() == 2).then_some(())
    })
    .await;
    stopped.ready().await;
    assert_eq!(backend.asked().len(), heard, "{:?}", backend.asked().split_off(heard));
    while let Some(event) = here.next_whenever().await {
        let is_of_before = event.kind != "message" || event.json()["msg"]["payload"] == "before";
        assert!(is_of_before && event.kind != "disconnect", "{event:?}");
    }
    // What it could not say is told by the others alone: each end once.
    let mut ended = BTreeSet::new();
    while ended.len() < 10 {
        let event = there.next().await;
        let is_of_before = event.kind != "message" || event.json()["msg"]["payload"] == "before";
        assert!(is_of_before, "{event:?}");
        if event.kind == "disconnect" {
            assert_eq!(event.text("cause"), "pod_lost");
            assert!(ended.insert(event.text("session")));
        }
    }
    let mut clients = crowd(&stopped, "/both", 3).await;
    for client in &mut clients {
        client.leave().await;
    }
    let after = backend.wait("disconnect", 13).await;
    assert!(sessions(&after[10..]).is_disjoint(&known));
    owes(&server, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_living_sessions_end_is_posted_after_a_redis_that_was_away_for_longer_than_all_leases() {
    let server = Redis::start();
    let (backend, other) = (Backend::start().await, Backend::start().await);
    let pods =
        [start(&server, &backend, &other, "").await, start(&server, &backend, &other, "").await];
    let mut clients = crowd(&pods[0], "/both", 5).await;
    clients.extend(crowd(&pods[1], "/ws/1", 5).await);
    server.signal(Signal::STOP);
    tokio::time::sleep(2 * LEASE).await;
    for client in &mut clients {
        client.writer.text("while it was away").await;
    }
    tokio::time::sleep(LEASE).await;
    assert_eq!(backend.of("message").len(), 0, "no event leaves a pod without a lease");
    server.signal(Signal::CONT);
    let heard = sessions(&backend.wait("message", 10).await);
    assert_eq!(heard, sessions(&backend.of("connect")));
    let begun = Instant::now();
    while begun.elapsed() < 2 * LEASE {
        assert_eq!(backend.of("disconnect").len(), 0);
        poll_pause().await;
    }
    assert_eq!(streamed_ends(&server), [""; 0]);
    for client in &mut clients {
        client.leave().await;
    }
    let ends = backend.wait("disconnect", 10).await;
    assert!(ends.iter().all(|end| end.json()["cause"] == "client"), "{ends:?}");
    owes(&server, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_emptied_while_the_link_is_up_is_told_again_which_ends_are_owed() {
    let server = Redis::start();
    let (backend, other) = (Backend::start().await, Backend::start().await);
    let lost = start(&server, &backend, &other, "").await;
    let _survivor = start(&server, &backend, &other, "").await;
    let mut clients = crowd(&lost, "/ws/1", 3).await;
    owes(&server, 3).await;
    assert_eq!(server.command(&["FLUSHALL"]), "OK");
    clients.extend(crowd(&lost, "/ws/1", 1).await);
    owes(&server, 4).await;
    logged(&lost, &["Redis has lost what this pod kept there"]).await;
    // The roster alone, too.
    let roster = server.command(&["KEYS", "pathcast:roster:*"]);
    server.command(&["DEL", &roster]);
    owes(&server, 4).await;
    let known = sessions(&backend.of("connect"));
    lost.signal(Signal::KILL);
    assert_eq!(sessions(&backend.wait("disconnect", 4).await), known);
    owes(&server, 0).await;
}

//! Owners of sessions that lose Redis again and again, or stand still: who asks for their sessions is
//! told what is known, and never that a session is gone which is open.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::gateway::{Gateway, send};
use support::ledger::{Entry, Ledger};
use support::pods::{msg, start, to};
use support::redis::Redis;
use support::resident::Resident;
use support::wait::eventually;
use tokio::task::JoinSet;

/// Of each owner.
const SESSIONS: usize = 50;

/// Unicasts are asked for in batches, at a pace that makes 1,000 of them a second.
const BATCH: usize = 10;
const PACE: Duration = Duration::from_millis(10);
const BATCHES: usize = 500;

/// Long enough for a link to come back, so that each kill hits.
const KILL_EVERY: Duration = Duration::from_millis(300);

/// So many kills hit owners only: for longer than a lease of 2 s.
const OWNERS_ALONE: usize = 12;

const GAPS: &str = "pathcast_broker_gaps_total";
const LATE: &str = "pathcast_unicast_total{result=\"late\"}";

#[tokio::test(flavor = "multi_thread")]
async fn killed_subscriptions_make_no_session_gone_and_no_verdict_wrong() {
    let server = Redis::start();
    let asked = Arc::new(start(&server, "lease_ttl = \"3s\"\nunicast_timeout = \"1s\"\n").await);
    let (mut owners, mut residents) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let owner = start(&server, "lease_ttl = \"3s\"\n").await;
        residents.extend(Resident::open_many(&owner, "/ws", SESSIONS).await);
        owners.push(owner);
    }
    let ledger = Ledger::default();
    let sessions = residents.iter().map(|resident| resident.session.clone()).collect();
    let publishing = tokio::spawn(publish_all(asked.clone(), sessions, ledger.clone()));
    let mut killing = tokio::time::interval(KILL_EVERY);
    let mut kills = 0;
    while !publishing.is_finished() {
        killing.tick().await;
        kills += match subscribed_to_paths(&server).first() {
            // The owner that has been there longest, so each in turn. Who asks finds nobody there
            // for a moment, and has itself been there for longer than a lease.
            Some(owner) if kills < OWNERS_ALONE => kill(&server, &["ID", owner]),
            // Everybody, and so the answers that are on their way.
            _ => kill(&server, &["TYPE", "pubsub"]),
        };
    }
    publishing.await.expect("every batch is answered");

    for resident in &residents {
        eventually("the last unicast", async || {
            let said = asked.publish("/ws", to(&resident.session, "end")).await;
            (said.status == 200).then_some(())
        })
        .await;
        eventually("its arrival", async || {
            resident.texts().iter().any(|text| text == "end").then_some(())
        })
        .await;
        assert!(resident.is_open());
    }
    ledger.check(&residents);
    let [delivered, unsent, unknown] = [200, 503, 504].map(|status| ledger.count(status));
    eprintln!("{kills} kills: {delivered} delivered, {unsent} not sent, {unknown} unknown");
    assert_eq!(delivered + unsent + unknown, BATCH * BATCHES);
    assert!(delivered > BATCH * BATCHES / 2, "{delivered}");
    let mut gaps = 0;
    for owner in &owners {
        gaps += owner.counted(GAPS).await;
    }
    assert!(gaps >= 10, "the killing has to hurt: {gaps} gaps");
}

/// Asks for unicasts to all of the sessions in turn, and notes what becomes of them.
async fn publish_all(asked: Arc<Gateway>, sessions: Vec<String>, ledger: Ledger) {
    let mut pace = tokio::time::interval(PACE);
    let mut batches = JoinSet::new();
    for batch in 0..BATCHES {
        pace.tick().await;
        // A step that is prime to their number: neighbours are of different owners.
        let numbers: Vec<_> = (batch * BATCH..(batch + 1) * BATCH).collect();
        let addressee = |number: usize| number * 51 % (2 * SESSIONS);
        let items = numbers.iter().map(|&number| {
            let session = json!({"type": "websocket", "id": sessions[addressee(number)]});
            json!({"path": "/ws", "msg": {"payload": number.to_string(), "_session": session}})
        });
        let body = Value::Array(items.collect()).to_string();
        let request = asked.call("POST", "/v1/publish");
        let request = request.header("content-type", "application/json").body(body);
        let ledger = ledger.clone();
        batches.spawn(async move {
            let begun = Instant::now();
            let said = send(request).await;
            assert_eq!(said.status, 200, "{}", said.text);
            let answers = said.json();
            let answers = answers.as_array().expect("an array back for an array");
            for (number, answer) in numbers.into_iter().zip(answers) {
                ledger.note(Entry {
                    payload: number.to_string(),
                    pod: 0,
                    to: Some(addressee(number)),
                    begun,
                    status: answer["status"].as_u64().expect("a status") as u16,
                });
            }
        });
    }
    batches.join_all().await;
}

/// The connections that hear a path beside their pod's inbox.
fn subscribed_to_paths(server: &Redis) -> Vec<String> {
    let listed = server.command(&["CLIENT", "LIST", "TYPE", "pubsub"]);
    let hears_paths = |line: &&str| !line.contains(" sub=1 ");
    let id = |line: &str| Some(line.strip_prefix("id=")?.split_once(' ')?.0.to_owned());
    listed.lines().filter(hears_paths).filter_map(id).collect()
}

/// How many it were: all at once count as one.
fn kill(server: &Redis, which: &[&str]) -> usize {
    let killed = server.command(&[&["CLIENT", "KILL"], which].concat());
    usize::from(killed != "0")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_stood_still_beyond_its_lease_delivers_nothing_late_and_goes_on() {
    let server = Redis::start();
    let settings = "lease_ttl = \"3s\"\nunicast_timeout = \"400ms\"\n";
    let (a, b) = (start(&server, settings).await, start(&server, settings).await);
    let here = Resident::open_many(&a, "/ws", 1).await.remove(0);
    let there = Resident::open_many(&b, "/ws", 1).await.remove(0);
    let pods = server.command(&["SMEMBERS", "pathcast:pods"]);
    let pod = pods.lines().find(|pod| there.session.starts_with(pod)).expect("it has a lease");
    let lease = format!("pathcast:lease:{pod}");
    let is_leased = || server.command(&["EXISTS", &lease]) == "1";
    let unicast =
        async |session: &str, payload: &str| a.publish("/ws", to(session, payload)).await.status;
    assert_eq!(unicast(&there.session, "before").await, 200);

    b.signal(Signal::STOP);
    let stopped = Instant::now();
    let (mut asked, mut unleased) = (0, None::<Instant>);
    // Long enough after the lease for some to be asked for then.
    while unleased.is_none_or(|since| since.elapsed() < Duration::from_millis(1_200)) {
        match unicast(&there.session, &format!("late {asked}")).await {
            504 => {}
            410 => assert!(!is_leased(), "gone while its lease lives"),
            status => panic!("{status}"),
        }
        asked += 1;
        if unleased.is_none() && !is_leased() {
            unleased = Some(Instant::now());
        }
        // Nobody else waits for it.
        assert_eq!(unicast(&here.session, "here").await, 200);
        a.broadcast("/ws", msg("to who is there")).await;
    }
    assert!(stopped.elapsed() > Duration::from_secs(2));
    // The youngest one, too, is to be older than its limit by more than two clocks may differ.
    tokio::time::sleep(Duration::from_millis(200)).await;
    b.signal(Signal::CONT);

    eventually("a lease again", async || is_leased().then_some(())).await;
    eventually("a delivery", async || match unicast(&there.session, "after").await {
        200 => Some(()),
        status => {
            assert!([503, 504].contains(&status), "{status}");
            None
        }
    })
    .await;
    for number in 0..20 {
        assert_eq!(unicast(&there.session, &format!("after {number}")).await, 200);
    }
    b.broadcast("/ws", msg("all is well")).await;
    for resident in [&here, &there] {
        eventually("a broadcast", async || {
            resident.texts().iter().any(|text| text == "all is well").then_some(())
        })
        .await;
        assert!(resident.is_open());
    }
    let texts = there.texts();
    let late: Vec<_> = texts.iter().filter(|text| text.starts_with("late")).collect();
    assert!(late.is_empty(), "{late:?}");
    // Read and dropped; or dropped with a connection that broke when it stood still.
    let dropped = b.counted(LATE).await;
    assert!(dropped > 0 || b.counted(GAPS).await > 0);
    eprintln!("{asked} asked, {dropped} dropped late");
}

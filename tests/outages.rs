//! Two gateways, clients at both and publishers that never rest, while Redis, or the way to it, is
//! away: sessions stay, nobody is told a wrong thing, and all is well again within three seconds.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::Signal;
use support::client::{Client, Request, ask};
use support::gateway::Gateway;
use support::ledger::{Entry, Ledger};
use support::pods::{is_ready, msg, start_at};
use support::proxy::Proxy;
use support::redis::Redis;
use support::resident::Resident;
use support::traffic::Traffic;
use support::wait::eventually;

const BOTH: &[usize] = &[0, 1];

/// How soon everything works again after Redis did (docs/redis.md).
const BACK: Duration = Duration::from_secs(3);

/// What a busy machine may add to that: its processors are the tests' own, too.
const BUSY: Duration = Duration::from_secs(1);

/// Pods that wait shorter than any outage here until they are not ready, and are believed dead
/// sooner than most outages end.
const HASTY: &str = "unready_after = \"2s\"\nlease_ttl = \"3s\"\n";

/// Three pings missed, one each second, and some time to come back.
const DEAF_AT_MOST: Duration = Duration::from_secs(6);

/// Answers in a row after which it does work.
const STREAK: usize = 10;

const GAPS: &str = "pathcast_broker_gaps_total";

struct Trial {
    pods: Arc<Vec<Gateway>>,
    residents: Vec<Resident>,
    /// One at each pod, on a path with `on_gap = "close"`.
    strict: Vec<Client>,
    traffic: Traffic,
}

impl Trial {
    /// A gateway on each of these ways to one Redis.
    async fn start(urls: [&str; 2], settings: &str) -> Trial {
        let (mut pods, mut residents, mut strict) = (Vec::new(), Vec::new(), Vec::new());
        for url in urls {
            let pod = start_at(url, settings).await;
            residents.extend(Resident::open_many(&pod, "/ws", 2).await);
            strict.push(pod.open("/ws/strict").await);
            pods.push(pod);
        }
        let pods = Arc::new(pods);
        let sessions = residents.iter().map(|resident| resident.session.clone()).collect();
        let traffic = Traffic::start(pods.clone(), "/ws", sessions);
        let trial = Trial { pods, residents, strict, traffic };
        trial.works(Instant::now()).await;
        trial
    }

    /// Waits until these pods know that Redis is away, and looks at what they say of it then.
    async fn is_away(&self, pods: &[usize]) {
        join_all(pods.iter().map(|&pod| tells_that_it_is_away(&self.pods[pod]))).await;
    }

    /// Waits until everything works, which it has to from `BACK` after `since` on. Tells since when
    /// it did.
    async fn works(&self, since: Instant) -> Instant {
        let works_since = eventually("publishing that works", async || {
            let entries = self.traffic.ledger.entries();
            let streak = |pod, unicast| {
                let of_pod = |entry: &&Entry| {
                    entry.begun >= since && entry.pod == pod && entry.to.is_some() == unicast
                };
                let mut answers: Vec<_> = entries.iter().filter(of_pod).collect();
                answers.sort_by_key(|entry| entry.begun);
                let bad = answers.iter().rposition(|entry| ![200, 202].contains(&entry.status));
                let streak = &answers[bad.map_or(0, |bad| bad + 1)..];
                streak.first().filter(|_| streak.len() >= STREAK).map(|first| first.begun)
            };
            let streaks = [streak(0, false), streak(0, true), streak(1, false), streak(1, true)];
            streaks.into_iter().collect::<Option<Vec<_>>>()?.into_iter().max()
        })
        .await;
        for pod in &*self.pods {
            is_ready(pod, 200).await;
            drop(pod.open("/ws").await);
        }
        // What is published from then on is broadcast to everybody again.
        let heard_by_all = |entry: &Entry| {
            self.residents.iter().all(|resident| resident.texts().contains(&entry.payload))
        };
        eventually("broadcasts that everybody gets", async || {
            let entries = self.traffic.ledger.entries();
            entries
                .iter()
                .filter(|entry| entry.begun >= works_since && entry.to.is_none())
                .all(heard_by_all)
                .then_some(())
        })
        .await;
        let took = works_since.duration_since(since);
        eprintln!("worked again after {took:?}");
        assert!(took < BACK + BUSY, "{took:?}");
        works_since
    }

    async fn gaps(&self) -> [u64; 2] {
        [self.pods[0].counted(GAPS).await, self.pods[1].counted(GAPS).await]
    }

    /// The whole story is told: nobody was told a wrong thing, and all sessions are those from the
    /// beginning, but for those that a gap had to close.
    async fn end(self) -> Ledger {
        let gaps = self.gaps().await;
        for ((client, gaps), pod) in self.strict.into_iter().zip(gaps).zip(&*self.pods) {
            is_as_its_gaps_say(client, gaps, pod).await;
        }
        let ledger = self.traffic.end().await;
        assert!(self.residents.iter().all(Resident::is_open), "a session ended");
        ledger.check(&self.residents);
        ledger
    }
}

/// A client that minds gaps was closed if there was one, and is as it was if there was none.
async fn is_as_its_gaps_say(mut client: Client, gaps: u64, pod: &Gateway) {
    if gaps == 0 {
        pod.broadcast("/ws/strict", msg("still there")).await;
        return client.expect_text("still there").await;
    }
    let close = client.closing().await;
    assert_eq!(close.close_code(), Some(1012), "{close:?}");
}

async fn tells_that_it_is_away(pod: &Gateway) {
    eventually("a pod that knows", async || {
        (pod.counted("pathcast_broker_up").await == 0).then_some(())
    })
    .await;
    let refused = pod.publish("/ws", msg("not sent")).await;
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(pod.fetch("/readyz").await.status, 200, "it may be away for a while");
    let refused = ask(pod.clients, &Request::upgrade("/ws")).await.err().expect("a refusal");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.header("retry-after").is_some());
    is_ready(pod, 503).await;
    assert_eq!(pod.fetch("/livez").await.status, 200);
}

/// All that these pods were asked for in that time was refused as it should be.
#[track_caller]
fn check_refused(ledger: &Ledger, pods: &[usize], from: Instant, until: Instant) {
    let during =
        |entry: &Entry| pods.contains(&entry.pod) && entry.begun >= from && entry.begun < until;
    let refused: Vec<_> = ledger.entries().into_iter().filter(during).collect();
    for entry in &refused {
        assert!([503, 504].contains(&entry.status), "{entry:?}");
    }
    assert!(refused.iter().any(|entry| entry.status == 503), "nobody was told that it is away");
}

/// An outage that is over no sooner than that.
async fn outlast(begun: Instant, outage: Duration) {
    tokio::time::sleep(outage.saturating_sub(begun.elapsed())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_was_dead_for_longer_than_a_lease_comes_back_empty() {
    let mut server = Redis::start();
    let proxy = Proxy::start(server.port).await;
    let trial = Trial::start([&server.url(), &proxy.url()], HASTY).await;
    server.kill();
    let begun = Instant::now();
    trial.is_away(BOTH).await;
    outlast(begun, Duration::from_secs(4)).await;
    let returned = Instant::now();
    proxy.refuse();
    server.restart();
    // One comes back sooner, and finds no lease of the other: which proves nothing yet.
    is_ready(&trial.pods[0], 200).await;
    outlast(Instant::now(), Duration::from_secs(1)).await;
    proxy.heal();
    trial.works(Instant::now()).await;
    assert_eq!(trial.gaps().await, [1, 1]);
    check_refused(&trial.end().await, BOTH, begun, returned);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_stood_still_goes_on() {
    let server = Redis::start();
    let trial = Trial::start([&server.url(), &server.url()], HASTY).await;
    server.signal(Signal::STOP);
    let begun = Instant::now();
    trial.is_away(BOTH).await;
    outlast(begun, Duration::from_secs(5)).await;
    let returned = Instant::now();
    server.signal(Signal::CONT);
    trial.works(returned).await;
    assert_eq!(trial.gaps().await, [1, 1]);
    check_refused(&trial.end().await, BOTH, begun, returned);
}

/// Until the pause is over, whatever Redis is asked for waits: all of it, or what changes something.
async fn outlasts_a_pause(mode: &str) {
    let server = Redis::start();
    let trial = Trial::start([&server.url(), &server.url()], HASTY).await;
    let begun = Instant::now();
    let pause = Duration::from_secs(5);
    server.command(&["CLIENT", "PAUSE", &pause.as_millis().to_string(), mode]);
    let paused = Instant::now();
    trial.is_away(BOTH).await;
    outlast(paused, pause).await;
    trial.works(begun + pause).await;
    assert_eq!(trial.gaps().await, [1, 1]);
    check_refused(&trial.end().await, BOTH, paused, begun + pause / 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_pauses_its_clients_is_away_as_long() {
    outlasts_a_pause("ALL").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_pauses_what_writes_is_away_as_long() {
    outlasts_a_pause("WRITE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_may_not_subscribe_any_more_are_away_until_they_may() {
    let server = Redis::start();
    let trial = Trial::start([&server.url(), &server.url()], HASTY).await;
    // Redis disconnects those who are subscribed to what they may not be.
    server.command(&["ACL", "SETUSER", "default", "resetchannels"]);
    let begun = Instant::now();
    trial.is_away(BOTH).await;
    let returned = Instant::now();
    server.command(&["ACL", "SETUSER", "default", "allchannels"]);
    trial.works(Instant::now()).await;
    assert_eq!(trial.gaps().await, [1, 1]);
    check_refused(&trial.end().await, BOTH, begun, returned);
}

/// Cut off shorter than a lease: a pod that lives is not taken for dead.
const PATIENT: &str = "unready_after = \"2s\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_cut_off_tells_so_while_the_other_goes_on() {
    let server = Redis::start();
    let proxy = Proxy::start(server.port).await;
    let trial = Trial::start([&server.url(), &proxy.url()], PATIENT).await;

    // Nobody tells it: what it writes is taken, and nothing ever comes back.
    proxy.half_open();
    let mute = Instant::now();
    trial.is_away(&[1]).await;
    goes_on(&trial.pods[0]).await;
    outlast(mute, Duration::from_secs(5)).await;
    let heard = Instant::now();
    proxy.heal();
    trial.works(heard).await;
    assert_eq!(trial.gaps().await, [0, 1]);

    // It is told, again and again.
    proxy.refuse();
    proxy.cut();
    let cut = Instant::now();
    trial.is_away(&[1]).await;
    goes_on(&trial.pods[0]).await;
    let taken = Instant::now();
    proxy.heal();
    trial.works(taken).await;
    assert_eq!(trial.gaps().await, [0, 2]);

    let ledger = trial.end().await;
    check_refused(&ledger, &[1], mute, heard);
    check_refused(&ledger, &[1], cut, taken);
    let broadcasts = |entry: &Entry| entry.pod == 0 && entry.to.is_none();
    for entry in ledger.entries().into_iter().filter(broadcasts) {
        assert_eq!(entry.status, 202, "{entry:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_and_not_answered_is_unknown_since_it_may_arrive() {
    let server = Redis::start();
    let proxy = Proxy::start(server.port).await;
    let trial = Trial::start([&server.url(), &proxy.url()], PATIENT).await;
    proxy.swallow_answers();
    trial.is_away(&[1]).await;
    let healed = Instant::now();
    proxy.heal();
    trial.works(healed).await;
    assert_eq!(trial.gaps().await, [0, 1]);
    // That nothing arrived that was told to be "not sent" is looked at here.
    let ledger = trial.end().await;
    assert!(ledger.count(504) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_hears_nothing_any_more_finds_that_out_by_itself() {
    let server = Redis::start();
    let proxy = Proxy::start(server.port).await;
    let trial = Trial::start([&server.url(), &proxy.url()], PATIENT).await;
    // The one that subscribes, and came this way; the one that publishes goes on.
    let listed = server.command(&["CLIENT", "LIST", "TYPE", "pubsub"]);
    let ports = listed.lines().filter_map(|line| {
        let (_, rest) = line.split_once(" addr=127.0.0.1:")?;
        rest.split_once(' ')?.0.parse().ok()
    });
    let begun = Instant::now();
    ports.for_each(|port| proxy.half_open_from(port));
    eventually("a gap", async || (trial.gaps().await == [0, 1]).then_some(())).await;
    assert!(begun.elapsed() < DEAF_AT_MOST, "{:?}", begun.elapsed());
    trial.works(Instant::now()).await;
    let ledger = trial.end().await;
    assert!(ledger.count(504) > 0, "what it was asked meanwhile is unknown");
}

async fn goes_on(pod: &Gateway) {
    assert_eq!(pod.fetch("/readyz").await.status, 200);
    let mut late = pod.open("/ws").await;
    pod.broadcast("/ws", msg("to who came late")).await;
    late.until_text("to who came late").await;
}

//! Clients that do not read, on paths that do something else about it than closing them: what is
//! left out, what never is, and that nobody else notices.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use support::client::{Client, Heard, Request, ask_on, connect_narrow, open};
use support::gateway::Gateway;
use support::resident::Resident;
use support::wait::{eventually, poll_pause, within};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const OUTBOX_BYTES_MAX: usize = 128 * 1024;

/// Messages that fill what the kernels take on behalf of a client that sleeps.
const FILLING_BYTES: usize = 32 * 1024;

/// More than any kernel takes, in those messages.
const FILLING_MAX: usize = 2000;

const SMALL_BYTES: usize = 16 * 1024;

/// Two hundred times what the outbox takes, in small messages.
const SMALL_COUNT: usize = 1600;

/// Each so many broadcasts there is a unicast.
const UNICAST_EVERY: usize = 100;

/// What the gateway may grow by meanwhile: a third of what passes those who sleep.
const GROWTH_BYTES_MAX: u64 = 8 << 20;

/// A gateway with a path for each policy.
async fn start(slow_after: &str) -> Gateway {
    let mut config = format!(
        "[hub]\nshards = 1\n[limits]\noutbox_bytes_max = \"{OUTBOX_BYTES_MAX}B\"\n\
         slow_after = \"{slow_after}\"\n[[path]]\npath = \"/ws/calm\"\n"
    );
    for slow in ["close", "drop-oldest", "latest"] {
        config += &format!("[[path]]\npath = \"/ws/{slow}\"\nslow = \"{slow}\"\n");
    }
    Gateway::start(&config).await
}

async fn open_narrow(addr: SocketAddr, path: &str) -> Client {
    let socket = connect_narrow(addr).await;
    ask_on(socket, &Request::upgrade(path)).await.expect("the path is open")
}

fn broadcast(number: usize, size: usize) -> String {
    format!("{number:06}{}", "x".repeat(size))
}

/// Broadcasts, from 0 on, until a client that sleeps takes nothing more, kernels included; how many.
async fn fill(gateway: &Gateway, path: &str) -> usize {
    for number in 0..FILLING_MAX {
        gateway
            .broadcast(path, json!({"payload": broadcast(number, FILLING_BYTES)}).to_string())
            .await;
        if gateway.counted("pathcast_outbox_bytes").await > 0 {
            // What is on its way between the kernels arrives meanwhile, and makes room once more.
            let mut last = (0, 0);
            eventually("an outbox that stays as it is", async || {
                let waiting = gateway.counted("pathcast_outbox_bytes").await;
                last = if last.0 == waiting { (waiting, last.1 + 1) } else { (waiting, 0) };
                (last.1 == 10).then_some(())
            })
            .await;
            return number + 1;
        }
    }
    panic!("nothing ever waits for a client that sleeps");
}

/// What a client heard that slept meanwhile.
struct Slept {
    broadcasts: Vec<usize>,
    /// Each with the broadcast that it was published behind, and the last one heard before it.
    unicasts: Vec<(usize, usize, usize)>,
    published: usize,
    dropped: u64,
}

async fn sleep_and_wake(slow: &str) -> Slept {
    let gateway = start("60s").await;
    let path = format!("/ws/{slow}");
    let mut events = gateway.listen(&path).await;
    let mut sleeper = open_narrow(gateway.clients, &path).await;
    let session = events.session_from(sleeper.local).await;
    let reader = Resident::open(&gateway, &path, &mut events).await;

    let mut published = fill(&gateway, &path).await;
    let before = gateway.rss_bytes();
    let mut most = 0;
    for small in 0..SMALL_COUNT {
        let payload = broadcast(published, SMALL_BYTES);
        gateway.broadcast(&path, json!({"payload": payload}).to_string()).await;
        published += 1;
        if small % UNICAST_EVERY == 0 {
            let to = json!({"type": "websocket", "id": session});
            let payload = format!("u {} {}", small / UNICAST_EVERY, published - 1);
            let msg = json!({"payload": payload, "_session": to}).to_string();
            let said = gateway.publish(&path, msg).await;
            assert_eq!(said.status, 200, "broadcasts do not stand in its way: {}", said.text);
        }
        most = most.max(gateway.rss_bytes());
    }
    let growth = most.saturating_sub(before);
    assert!(growth < GROWTH_BYTES_MAX, "{growth} bytes");
    let texts = eventually("everything, for one who reads", async || {
        Some(reader.texts()).filter(|texts| texts.len() == published)
    });
    for (number, text) in texts.await.iter().enumerate() {
        assert_eq!(text[..6], format!("{number:06}"));
    }
    let series = format!("pathcast_undelivered_total{{path=\"{path}\",reason=\"dropped\"}}");
    let dropped = gateway.counted(&series).await;

    let mut heard = Slept { broadcasts: Vec::new(), unicasts: Vec::new(), published, dropped };
    while heard.broadcasts.last() != Some(&(published - 1)) {
        let message = sleeper.message().await;
        let Heard::Text(text) = message else { panic!("{message:?}") };
        match text.strip_prefix("u ").and_then(|rest| rest.split_once(' ')) {
            Some((number, behind)) => {
                let [number, behind] = [number, behind].map(|text| text.parse().expect("digits"));
                let last = heard.broadcasts.last().copied().unwrap_or(0);
                heard.unicasts.push((number, behind, last));
            }
            None => heard.broadcasts.push(text[..6].parse().expect("digits")),
        }
    }
    gateway.broadcast(&path, json!({"payload": "and on it goes"}).to_string()).await;
    sleeper.expect_text("and on it goes").await;
    heard
}

impl Slept {
    /// What holds under both policies; how many broadcasts came behind the only jump.
    fn check(&self) -> usize {
        let jumps = self.broadcasts.windows(2).enumerate();
        let jumps: Vec<_> = jumps.filter(|(_, pair)| pair[1] != pair[0] + 1).collect();
        assert_eq!(self.broadcasts[0], 0);
        let [(at, pair)] = jumps[..] else { panic!("one jump, not {jumps:?}") };
        assert!(pair[1] > pair[0], "order holds: {pair:?}");
        assert_eq!(self.broadcasts.len() as u64 + self.dropped, self.published as u64);
        let numbers: Vec<_> = self.unicasts.iter().map(|&(number, ..)| number).collect();
        assert_eq!(
            numbers,
            (0..SMALL_COUNT / UNICAST_EVERY).collect::<Vec<_>>(),
            "no unicast is lost"
        );
        for &(number, behind, last) in &self.unicasts {
            assert!(last <= behind, "unicast {number} came behind {last}, not {behind}");
            let next = self.broadcasts.iter().find(|&&broadcast| broadcast > last);
            assert!(next.is_none_or(|&next| next > behind), "unicast {number} overtook {next:?}");
        }
        self.broadcasts.len() - at - 1
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wakes_up_on_drop_oldest_hears_the_end_whole_and_every_unicast() {
    let heard = sleep_and_wake("drop-oldest").await;
    let rest = heard.check();
    let fit = OUTBOX_BYTES_MAX / (SMALL_BYTES + 10);
    assert!((fit - 2..=fit).contains(&rest), "{rest} of {fit} that fit");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wakes_up_on_latest_hears_the_newest_and_every_unicast() {
    let heard = sleep_and_wake("latest").await;
    assert_eq!(heard.check(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_at_all_is_closed_whatever_the_policy() {
    let gateway = start("1s").await;
    for path in ["/ws/drop-oldest", "/ws/latest"] {
        let mut events = gateway.listen(path).await;
        let sleeper = open_narrow(gateway.clients, path).await;
        let session = events.session_from(sleeper.local).await;
        fill(&gateway, path).await;
        let gone = events.disconnect_of(&session).await;
        assert_eq!((gone["code"].as_u64(), gone["cause"].as_str()), (Some(1013), Some("slow")));
    }
}

/// How long a broadcast takes to reach everybody.
const OTHERS: usize = 999;
const ROUNDS: usize = 50;
const PAYLOAD_BYTES: usize = 8 * 1024;

/// Opens so many clients on a path that read all the time, and broadcasts to them one at a time; of the
/// times until all had it the median, and what nine of ten stay below.
async fn time_rounds(gateway: &Gateway, path: &str) -> [Duration; 2] {
    let heard = Arc::new(Semaphore::new(0));
    let mut others = JoinSet::new();
    for _ in 0..OTHERS {
        let mut client = open(gateway.clients, path).await;
        let heard = heard.clone();
        others.spawn(async move {
            for number in 0..ROUNDS {
                client.expect_text(&broadcast(number, PAYLOAD_BYTES)).await;
                heard.add_permits(1);
            }
        });
    }
    let mut times = Vec::new();
    for number in 0..ROUNDS {
        let msg = json!({"payload": broadcast(number, PAYLOAD_BYTES)}).to_string();
        let begun = Instant::now();
        gateway.broadcast(path, msg).await;
        let all = heard.acquire_many(OTHERS as u32);
        within("a broadcast for everybody", all).await.expect("it is open").forget();
        times.push(begun.elapsed());
    }
    others.join_all().await;
    times.sort();
    [times[ROUNDS / 2], times[ROUNDS * 9 / 10]]
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_one_who_never_reads_whatever_the_policy() {
    let gateway = start("60s").await;
    let calm = time_rounds(&gateway, "/ws/calm").await;
    for slow in ["close", "drop-oldest", "latest"] {
        let path = format!("/ws/{slow}");
        let mut events = gateway.listen(&path).await;
        let sleeper = open_narrow(gateway.clients, &path).await;
        let session = events.session_from(sleeper.local).await;
        fill(&gateway, &path).await;
        let before = gateway.rss_bytes();
        let times = time_rounds(&gateway, &path).await;
        let growth = gateway.rss_bytes().saturating_sub(before);
        println!("{slow}: {times:?} for {OTHERS} others, {calm:?} without; {growth} bytes more");
        for (time, calm) in times.into_iter().zip(calm) {
            assert!(time < 3 * calm + Duration::from_millis(20), "{slow}: {time:?}, not {calm:?}");
        }
        assert!(growth < GROWTH_BYTES_MAX, "{slow}: {growth} bytes");
        if slow == "close" {
            let gone = events.disconnect_of(&session).await;
            assert_eq!(gone["code"], 1013);
        } else {
            let there = gateway.fetch(&format!("/v1/sessions/{session}")).await;
            assert_eq!(there.status, 200, "{slow}: it is still there");
            drop(sleeper);
            events.disconnect_of(&session).await;
        }
        while gateway.counted(&format!("pathcast_sessions{{path=\"{path}\"}}")).await > 0 {
            poll_pause().await;
        }
    }
}

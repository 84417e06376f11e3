//! A rush at the clients' door: who comes too fast or too many waits, or is told when to come again,
//! and those who are inside notice nothing.

mod support;

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use support::client::{Request, ask};
use support::gateway::{DOORS, Gateway};
use support::resident::Resident;
use support::wait::{eventually, within};
use tokio::net::TcpStream;

const PATHS: &str = "[[path]]\npath = \"/ws\"\n[[path]]\npath = \"/ws/rush\"\n";

/// Clients of a rush.
const RUSH: usize = 2_000;

async fn start(limits: &str) -> Gateway {
    Gateway::start(&format!("[hub]\nshards = 1\n[limits]\n{limits}\n{PATHS}")).await
}

/// Publishes one message after the other to those who were there before, until `rush` is over; each
/// is to be with them before the next one is published.
async fn live_traffic_during<T>(
    gateway: &Gateway,
    residents: &[Resident],
    rush: impl Future<Output = T>,
) -> T {
    let mut published = Vec::new();
    let traffic = async {
        loop {
            let text = format!("message {}", published.len());
            gateway.broadcast("/ws", format!(r#"{{"payload":"{text}"}}"#)).await;
            published.push(text);
            eventually("a message at everybody", async || {
                let has = |resident: &Resident| resident.texts().len() == published.len();
                residents.iter().all(has).then_some(())
            })
            .await;
        }
    };
    let came = tokio::select! {
        came = within("the end of the rush", rush) => came,
        never = traffic => never,
    };
    // The last one may have been on its way.
    gateway.broadcast("/ws", r#"{"payload":"the last"}"#).await;
    for resident in residents {
        eventually("the last message", async || {
            resident.texts().last().is_some_and(|last| last == "the last").then_some(())
        })
        .await;
        let texts = resident.texts();
        assert!(texts.len() > 1 && resident.is_open(), "{texts:?}");
        let numbered = texts[..texts.len() - 1].iter().enumerate();
        for (number, text) in numbered {
            assert_eq!(*text, format!("message {number}"), "{texts:?}");
        }
    }
    came
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rush_gets_in_while_live_traffic_goes_on() {
    let gateway = start("handshakes_max = 64").await;
    let residents = Resident::open_many(&gateway, "/ws", 20).await;
    let rush = stream::iter(0..RUSH).map(async |_| gateway.open("/ws/rush").await);
    let rush = rush.buffer_unordered(500).collect::<Vec<_>>();
    let mut came = live_traffic_during(&gateway, &residents, rush).await;
    assert_eq!(came.len(), RUSH);
    gateway.broadcast("/ws/rush", r#"{"payload":"welcome"}"#).await;
    for client in &mut came {
        client.expect_text("welcome").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_rushes_beyond_the_rate_is_told_429_while_live_traffic_goes_on() {
    const RATE: usize = 100;
    let gateway = start(&format!("handshakes_per_second = {RATE}")).await;
    let residents = Resident::open_many(&gateway, "/ws", 20).await;
    let rush = stream::iter(0..RUSH)
        .map(async |_| ask(gateway.clients, &Request::upgrade("/ws/rush")).await);
    let rush = rush.buffer_unordered(500).collect::<Vec<_>>();
    let begun = Instant::now();
    let came = live_traffic_during(&gateway, &residents, rush).await;
    let seconds = begun.elapsed().as_secs() as usize + 1;
    let (open, refused): (Vec<_>, Vec<_>) = came.into_iter().partition(Result::is_ok);
    assert!(open.len() <= RATE * (seconds + 1), "{} came in within {seconds} s", open.len());
    assert!(!refused.is_empty(), "{} came in", open.len());
    for answer in refused.into_iter().filter_map(Result::err) {
        let retry_after = answer.header("retry-after").and_then(|text| text.parse::<u32>().ok());
        assert!(answer.status == 429 && retry_after.is_some_and(|s| s > 0), "{answer:?}");
    }
    eventually("a place later", async || {
        ask(gateway.clients, &Request::upgrade("/ws/rush")).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_all_handshakes_taken_waits_and_is_let_in() {
    let config = format!(
        "[limits]\nhandshakes_max = 2\n{PATHS}\n{}",
        DOORS.replace("[api]", "handshake_timeout = \"2s\"\n[api]")
    );
    let gateway = Gateway::start_whole(&config, &[]).await;
    let residents = Resident::open_many(&gateway, "/ws", 3).await;
    let silent = async || TcpStream::connect(gateway.clients).await.expect("the door listens");
    let _silent = (silent().await, silent().await);
    let waiting = async {
        let begun = Instant::now();
        let mut client = gateway.open("/ws/rush").await;
        let waited = begun.elapsed();
        gateway.broadcast("/ws/rush", r#"{"payload":"welcome"}"#).await;
        client.expect_text("welcome").await;
        waited
    };
    let waited = live_traffic_during(&gateway, &residents, waiting).await;
    // Until the time of the silent ones was up.
    assert!(waited > Duration::from_millis(1500), "let in after {waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_say_nothing_keep_nobody_out_while_there_are_places() {
    let gateway = start("").await;
    let residents = Resident::open_many(&gateway, "/ws", 3).await;
    let silent = (0..600).map(|_| TcpStream::connect(gateway.clients));
    let _silent = futures_util::future::try_join_all(silent).await.expect("the door listens");
    let begun = Instant::now();
    let come = async { gateway.open("/ws/rush").await };
    let mut client = live_traffic_during(&gateway, &residents, come).await;
    // They may stay for ten.
    assert!(begun.elapsed() < Duration::from_secs(5), "let in after {:?}", begun.elapsed());
    gateway.broadcast("/ws/rush", r#"{"payload":"welcome"}"#).await;
    client.expect_text("welcome").await;
}

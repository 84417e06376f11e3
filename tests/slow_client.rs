//! A client that does not read: others get everything at once, memory is bounded, and the slow
//! one is told 1013 when it looks again.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use support::client::{Client, Heard, Request, ask_on, connect_narrow};
use support::gateway::{Gateway, Said};
use support::wait::{DEADLINE, poll_pause};

/// Small enough to be reached soon.
const OUTBOX_BYTES_MAX: usize = 256 * 1024;

/// Larger than what the outbox takes in one piece, smaller than what kernels take.
const PAYLOAD_BYTES: usize = 32 * 1024;

/// Far more than an outbox and both kernels' buffers: 64 MiB.
const BROADCASTS: usize = 2048;

/// What the gateway may grow by while 64 MiB pass a client that takes none of it.
const GROWTH_BYTES_MAX: u64 = 24 << 20;

async fn start(slow_after: &str) -> Gateway {
    Gateway::start(&format!(
        "[hub]\nshards = 1\n[limits]\noutbox_bytes_max = \"{OUTBOX_BYTES_MAX}B\"\n\
         slow_after = \"{slow_after}\"\n[[path]]\npath = \"/ws\"\n"
    ))
    .await
}

async fn open_narrow(addr: SocketAddr, path: &str) -> Client {
    let socket = connect_narrow(addr).await;
    ask_on(socket, &Request::upgrade(path)).await.expect("the path is open")
}

fn payload(number: usize) -> String {
    format!("{number:06}{}", "x".repeat(PAYLOAD_BYTES))
}

async fn unicast(gateway: &Gateway, session: &str, payload: &str) -> Said {
    let session = json!({"type": "websocket", "id": session});
    gateway.publish("/ws", json!({"payload": payload, "_session": session}).to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_never_reads_disturbs_nobody_and_ends_with_1013() {
    let gateway = start("10s").await;
    let mut events = gateway.listen("/ws").await;
    let slow = open_narrow(gateway.clients, "/ws").await;
    let session = events.session_from(slow.local).await;
    let mut others = Vec::new();
    for _ in 0..5 {
        let mut client = gateway.open("/ws").await;
        others.push(tokio::spawn(async move {
            for number in 0..BROADCASTS {
                client.expect_text(&payload(number)).await;
            }
        }));
    }

    let before = gateway.rss_bytes();
    let mut most = 0;
    for number in 0..BROADCASTS {
        gateway.broadcast("/ws", json!({"payload": payload(number)}).to_string()).await;
        most = most.max(gateway.rss_bytes());
    }
    for other in others {
        other.await.expect("everybody else gets everything");
    }
    let growth = most.saturating_sub(before);
    assert!(growth < GROWTH_BYTES_MAX, "{growth} bytes");
    println!("64 MiB past a client that reads nothing: {} KiB", growth / 1024);

    let gone = events.disconnect_of(&session).await;
    assert_eq!((gone["code"].as_u64(), gone["cause"].as_str()), (Some(1013), Some("slow")));
    assert_eq!(unicast(&gateway, &session, "too late").await.status, 410);

    check_reads_up_to_1013(slow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unicast_to_a_full_outbox_is_answered_and_slowness_ends_the_session() {
    let gateway = start("2s").await;
    let mut events = gateway.listen("/ws").await;
    let slow = open_narrow(gateway.clients, "/ws").await;
    let session = events.session_from(slow.local).await;

    let begun = Instant::now();
    let (mut delivered, mut refused) = (0, 0);
    let last = loop {
        let said = unicast(&gateway, &session, &payload(delivered)).await;
        match said.status {
            200 => delivered += 1,
            429 => {
                refused += 1;
                poll_pause().await;
            }
            other => break other,
        }
        assert!(delivered < BROADCASTS, "the outbox has no bound");
        assert!(begun.elapsed() < DEADLINE, "slowness has no end");
    };
    assert_eq!(last, 410, "after {delivered} delivered and {refused} refused");
    assert!(refused > 0, "a full outbox is told");
    let gone = events.disconnect_of(&session).await;
    assert_eq!((gone["code"].as_u64(), gone["cause"].as_str()), (Some(1013), Some("slow")));
    check_reads_up_to_1013(slow).await;
}

/// What was in flight comes first, whole and in order; then the reason.
async fn check_reads_up_to_1013(mut slow: Client) {
    let mut number = 0;
    loop {
        match slow.message().await {
            Heard::Text(text) => {
                assert!(text == payload(number), "message {number} is {:?}", text.get(..20));
                number += 1;
            }
            close @ Heard::Close(_) => {
                assert_eq!(close.close_code(), Some(1013), "after {number} messages");
                return;
            }
            other => panic!("{other:?} after {number} messages"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_one_who_takes_no_answers_is_not_read_his_silence_means_nothing() {
    const BEAT: Duration = Duration::from_millis(200);
    /// More than both kernels take in each direction.
    const MESSAGES: usize = 800;
    let beat_ms = BEAT.as_millis();
    let gateway = Gateway::start(&format!(
        "[limits]\nslow_after = \"60s\"\n\
         [[path]]\npath = \"/ws\"\necho = true\nheartbeat = \"{beat_ms}ms\"\n"
    ))
    .await;
    let Client { mut reader, mut writer, .. } = open_narrow(gateway.clients, "/ws").await;
    let written = Arc::new(AtomicUsize::new(0));
    let counted = written.clone();
    let writing = tokio::spawn(async move {
        for number in 0..MESSAGES {
            writer.text(&payload(number)).await;
            counted.fetch_add(1, Ordering::Relaxed);
        }
        writer
    });
    // Nobody reads him any more when nothing more is taken of what he writes.
    let (mut last, mut since) = (0, Instant::now());
    while since.elapsed() < 5 * BEAT {
        let now = written.load(Ordering::Relaxed);
        if now > last {
            (last, since) = (now, Instant::now());
        }
        poll_pause().await;
    }
    assert!(last < MESSAGES, "he was read without an end");
    assert_eq!(gateway.counted("pathcast_sessions{path=\"/ws\"}").await, 1);
    let mut number = 0;
    while number < MESSAGES {
        match reader.next().await {
            Heard::Text(text) => {
                assert!(text == payload(number), "message {number} is {:?}", text.get(..20));
                number += 1;
            }
            Heard::Ping(_) => {}
            other => panic!("{other:?} after {number} messages"),
        }
    }
    writing.await.expect("everything was taken");
}

//! Everything has a limit: what fits exactly passes, what is over is told so, and there is room
//! again afterwards.

mod support;

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::json;
use support::client::{Client, Heard, Request, ask, ask_on, connect_narrow};
use support::gateway::{DOORS, Gateway};
use support::wait::eventually;
use support::wire;

const PATHS: &str = "[[path]]\npath = \"/ws\"\n[[path]]\npath = \"/ws/echo\"\necho = true\n\
                     [[path]]\npath = \"/ws/rooms/{room}\"\n";

async fn start(limits: &str) -> Gateway {
    Gateway::start(&format!("[hub]\nshards = 2\n[limits]\n{limits}\n{PATHS}")).await
}

async fn status(gateway: &Gateway, path: &str) -> (u16, Option<String>) {
    match ask(gateway.clients, &Request::upgrade(path)).await {
        Ok(_) => (101, None),
        Err(answer) => {
            assert_eq!(answer.body.trim_end().lines().count(), 1, "one line: {answer:?}");
            (answer.status, answer.header("retry-after").map(str::to_owned))
        }
    }
}

#[track_caller]
fn check_unavailable((status, retry_after): (u16, Option<String>), expected: u16) {
    assert_eq!(status, expected);
    let seconds = retry_after.and_then(|text| text.parse::<u32>().ok());
    assert!(seconds.is_some_and(|seconds| seconds > 0), "Retry-After tells seconds: {seconds:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_beyond_the_rate_are_told_429() {
    let gateway = start("handshakes_per_second = 5").await;
    let begun = Instant::now();
    let mut open = Vec::new();
    let refused = loop {
        match ask(gateway.clients, &Request::upgrade("/ws")).await {
            Ok(client) => open.push(client),
            Err(answer) => break answer,
        }
        assert!(open.len() <= 5 + 5 * (begun.elapsed().as_secs() as usize + 1), "no limit");
    };
    assert_eq!(refused.status, 429, "{refused:?}");
    assert!(open.len() >= 5, "only {} came in", open.len());
    let again = eventually("a handshake a moment later", async || {
        ask(gateway.clients, &Request::upgrade("/ws")).await.ok()
    });
    let mut again = again.await;
    gateway.broadcast("/ws", r#"{"payload":"x"}"#).await;
    again.expect_text("x").await;
    open[0].expect_text("x").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_beyond_the_limit_are_told_503_and_find_room_after_a_close() {
    let gateway = start("sessions_max = 3").await;
    let mut open: Vec<Client> = Vec::new();
    for _ in 0..3 {
        open.push(gateway.open("/ws").await);
    }
    check_unavailable(status(&gateway, "/ws").await, 503);
    check_unavailable(status(&gateway, "/ws/rooms/1").await, 503);
    // Knocking in vain takes no place.
    for _ in 0..20 {
        check_unavailable(status(&gateway, "/ws").await, 503);
    }
    let mut leaving = open.remove(0);
    leaving.leave().await;
    let again =
        eventually("room", async || ask(gateway.clients, &Request::upgrade("/ws")).await.ok());
    open.push(again.await);
    gateway.broadcast("/ws", r#"{"payload":"all of us"}"#).await;
    for client in &mut open {
        client.expect_text("all of us").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_storm_of_handshakes_gets_past_the_limit() {
    let gateway = start("sessions_max = 20").await;
    let storm = futures_util::stream::iter(0..200)
        .map(async |_| ask(gateway.clients, &Request::upgrade("/ws")).await);
    let answers: Vec<_> = storm.buffer_unordered(100).collect().await;
    let (open, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert!(open.len() <= 20, "{} sessions", open.len());
    assert!(open.len() >= 18, "only {} sessions", open.len());
    for answer in refused {
        assert_eq!(answer.err().map(|answer| answer.status), Some(503));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concrete_paths_beyond_the_limit_are_told_503_until_one_is_left() {
    let gateway = start("concrete_paths_max = 2\nsessions_max = 5").await;
    let (mut one, _two) = (gateway.open("/ws/rooms/1").await, gateway.open("/ws/rooms/2").await);
    // Knocking in vain takes no place.
    for _ in 0..10 {
        check_unavailable(status(&gateway, "/ws/rooms/3").await, 503);
    }
    let _more = (gateway.open("/ws/rooms/2").await, gateway.open("/ws").await);
    one.leave().await;
    eventually("room for another path", async || {
        ask(gateway.clients, &Request::upgrade("/ws/rooms/3")).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_without_messages_is_closed_as_idle() {
    let gateway =
        Gateway::start("[[path]]\npath = \"/ws\"\nidle = \"1s\"\nheartbeat = \"300ms\"\n");
    let gateway = gateway.await;
    let mut events = gateway.listen("/ws").await;
    let (mut idle, session) = gateway.open_known("/ws", &mut events).await;
    let (mut busy, other) = gateway.open_known("/ws", &mut events).await;
    let begun = Instant::now();
    let talk = async {
        while begun.elapsed() < Duration::from_millis(1300) {
            busy.writer.text("still here").await;
            support::wait::poll_pause().await;
        }
        begun.elapsed()
    };
    // Pings and pongs are no messages.
    let (_, close) = futures_util::future::join(talk, idle.closing()).await;
    assert_eq!(close.close_code(), Some(1001));
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    let gone = events.until(|event| event.kind == "disconnect").await.json();
    assert_eq!(gone["session"], json!(session), "the busy one, {other}, stays: {gone}");
    assert_eq!((&gone["cause"], &gone["code"]), (&json!("idle"), &json!(1001)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_the_default_limit_passes_and_a_byte_more_does_not() {
    const MAX: usize = 1 << 20;
    let gateway = start("").await;
    let message = vec![b'x'; MAX];
    let text = String::from_utf8(message.clone()).expect("it is ASCII");
    let halves = [message[..MAX / 2].to_vec(), message[MAX / 2..].to_vec()];
    let mut client = gateway.open("/ws/echo").await;
    client.writer.text(&text).await;
    assert!(client.message().await == Heard::Text(text.clone()));
    client.writer.fragments(wire::TEXT, &halves).await;
    assert!(client.message().await == Heard::Text(text));
    let empty_ends = [Vec::new(), message, Vec::new(), Vec::new()];
    client.writer.fragments(wire::BINARY, &empty_ends).await;
    assert!(matches!(client.message().await, Heard::Binary(back) if back.len() == MAX));

    let over = [vec![b'x'; MAX / 2], vec![b'x'; MAX / 2], vec![b'x']];
    client.writer.fragments(wire::TEXT, &over).await;
    assert_eq!(client.closing().await.close_code(), Some(1009));
    let mut client = gateway.open("/ws/echo").await;
    client.writer.raw(&wire::head(true, wire::TEXT, MAX as u64 + 1)).await;
    assert_eq!(client.closing().await.close_code(), Some(1009));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_msg_or_batch_of_its_limit_passes_and_a_byte_more_does_not() {
    const PUBLISH: usize = 10_000;
    const BATCH: usize = 20_000;
    let limits = format!("publish_bytes_max = \"{PUBLISH}B\"\nbatch_bytes_max = \"{BATCH}B\"");
    let gateway = &start(&limits).await;
    let check = async |target: &str, kind: &str, body: String, status: u16| {
        let said = gateway.post(target, kind, body).await;
        assert_eq!(said.status, status, "{target} {kind}: {}", said.text);
        said
    };
    for (over, status) in [(0, 202), (1, 413), (1_000_000, 413)] {
        let bytes = PUBLISH + over;
        check("/v1/publish/ws", "text/plain", "x".repeat(bytes), status).await;
        check("/v1/publish/ws", "application/octet-stream", "x".repeat(bytes), status).await;
        let msg = json!({"payload": "x".repeat(bytes - 14)}).to_string();
        assert_eq!(msg.len(), bytes);
        let said = check("/v1/publish/ws", "application/json", msg, status).await;
        if status == 413 {
            assert!(said.text.contains("[limits] publish_bytes_max"), "{}", said.text);
        }
        // Without a length that would tell beforehand.
        let chunks = vec![b'x'; bytes];
        let chunks = chunks.chunks(4_000).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec()));
        let body = futures_util::stream::iter(chunks.collect::<Vec<_>>());
        let body = reqwest::Body::wrap_stream(body);
        let said = gateway.post("/v1/publish/ws", "text/plain", body).await;
        assert_eq!(said.status, status, "in chunks: {}", said.text);
    }
    let item = |bytes: usize| {
        let around = json!({"path": "/ws", "msg": {"payload": ""}}).to_string().len();
        json!({"path": "/ws", "msg": {"payload": "x".repeat(bytes - around)}}).to_string()
    };
    for (over, status) in [(0, 200), (1, 413)] {
        let first = item(PUBLISH);
        let array = format!("[{},{}]", first, item(BATCH + over - first.len() - 3));
        assert_eq!(array.len(), BATCH + over);
        let said = check("/v1/publish", "application/json", array, status).await;
        match status {
            200 => assert!(said.json().as_array().is_some_and(|all| all.len() == 2)),
            _ => assert!(said.text.contains("[limits] batch_bytes_max"), "{}", said.text),
        }
    }
    // An item is a msg: it has the msg's limit.
    let own = item(PUBLISH + 5_000);
    let said = check("/v1/publish", "application/json", format!("[{own}]"), 200).await;
    assert_eq!(said.json()[0]["status"], 413, "{}", said.text);
    assert!(said.text.contains("[limits] publish_bytes_max"), "{}", said.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_of_its_limit_passes_and_a_byte_more_does_not() {
    const FRAME: usize = 5_000;
    let gateway = start(&format!("frame_bytes_max = \"{FRAME}B\"")).await;
    let mut events = gateway.listen("/ws").await;
    let (mut client, session) = gateway.open_known("/ws", &mut events).await;
    for (over, broadcast, unicast) in [(0, 202, 200), (1, 413, 413)] {
        let payload = "é".repeat(FRAME / 2) + &"x".repeat(over);
        let said = gateway.publish("/ws", json!({"payload": payload}).to_string()).await;
        assert_eq!(said.status, broadcast, "{}", said.text);
        let target = format!("/v1/sessions/{session}");
        let said = gateway.post(&target, "text/plain", payload.clone()).await;
        assert_eq!(said.status, unicast, "{}", said.text);
        let target = format!("/v1/publish/ws?session={session}");
        let said = gateway.post(&target, "text/plain", payload.clone()).await;
        assert_eq!(said.status, unicast, "{}", said.text);
        let items = json!([{"path": "/ws", "msg": {"payload": payload}}]).to_string();
        let said = gateway.post("/v1/publish", "application/json", items).await;
        assert_eq!(said.json()[0]["status"], broadcast, "{}", said.text);
        if over == 0 {
            for _ in 0..4 {
                client.expect_text(&payload).await;
            }
        }
    }
    gateway.broadcast("/ws", r#"{"payload":"nothing came of the others"}"#).await;
    client.expect_text("nothing came of the others").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_unfinished_messages_hold_together_is_bounded() {
    let limits = "message_bytes_max = \"1MiB\"\ninbound_total_bytes_max = \"4MiB\"";
    let gateway = start(limits).await;
    let mut open = gateway.open("/ws/echo").await;
    let mut events = gateway.listen("/ws").await;
    let before = gateway.rss_bytes();
    let begin = [wire::head(true, wire::BINARY, 1 << 20), vec![0; 1_000_000]].concat();
    let mut clients = Vec::new();
    for _ in 0..30 {
        let mut client = gateway.open("/ws").await;
        client.writer.raw(&begin).await;
        clients.push(client);
    }
    for _ in 0..20 {
        let refused = events.until(|event| event.kind == "disconnect").await.json();
        assert_eq!(refused["code"], 1013, "{refused}");
    }
    let growth = gateway.rss_bytes().saturating_sub(before);
    assert!(growth < 20 << 20, "{growth} bytes");
    drop(clients);
    let whole = "x".repeat(1 << 20);
    open.writer.text(&whole).await;
    assert!(open.message().await == Heard::Text(whole));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_all_sockets_together_is_bounded() {
    const TOTAL: u64 = 16 << 20;
    const SLEEPERS: usize = 150;
    /// Kernels take more than half of it, and what is left of it for each is begun, so it is kept.
    const PAYLOAD_BYTES: usize = 4_000_000;
    let gateway =
        start(&format!("outbox_total_bytes_max = \"{TOTAL}B\"\nslow_after = \"60s\"")).await;
    let mut sleepers = Vec::new();
    for _ in 0..SLEEPERS {
        let socket = connect_narrow(gateway.clients).await;
        sleepers.push(ask_on(socket, &Request::upgrade("/ws")).await.expect("the path is open"));
    }
    let msg = json!({"payload": "x".repeat(PAYLOAD_BYTES)}).to_string();
    let before = gateway.rss_bytes();
    let mut most = before;
    let mut sessions = u64::MAX;
    while sessions > 0 {
        gateway.broadcast("/ws", msg.clone()).await;
        let mut last = (0, 0);
        eventually("an outbox that stays as it is", async || {
            let waiting = gateway.counted("pathcast_outbox_bytes").await;
            most = most.max(gateway.rss_bytes());
            last = if last.0 == waiting { (waiting, last.1 + 1) } else { (waiting, 0) };
            (last.1 == 10).then_some(())
        })
        .await;
        sessions = gateway.counted("pathcast_sessions{path=\"/ws\"}").await;
    }
    let growth = most - before;
    println!("{} KiB for {SLEEPERS} who sleep", growth / 1024);
    assert!(growth < 4 * TOTAL, "{growth} bytes");
    // They are told why when they wake up, and nobody else is the poorer for it.
    sleepers.truncate(5);
    for sleeper in &mut sleepers {
        assert_eq!(sleeper.closing().await.close_code(), Some(1013));
    }
    let mut awake = gateway.open("/ws").await;
    gateway.broadcast("/ws", msg).await;
    assert!(awake.message().await == Heard::Text("x".repeat(PAYLOAD_BYTES)));
    eventually("nothing that waits", async || {
        (gateway.counted("pathcast_outbox_bytes").await == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_the_limit_fits_whatever_the_number_of_shards() {
    // As tight as the configuration allows.
    let config = format!(
        "{DOORS}[hub]\nshards = 8\n[limits]\nmessage_bytes_max = \"1MiB\"\n\
         inbound_total_bytes_max = \"1MiB\"\n{PATHS}"
    );
    let gateway = Gateway::start_whole(&config, &[]).await;
    let mut client = gateway.open("/ws/echo").await;
    let text = "x".repeat(1 << 20);
    for _ in 0..2 {
        let frame = wire::frame(true, wire::TEXT, text.as_bytes());
        for piece in frame.chunks(300_000) {
            client.writer.raw(piece).await;
        }
        let heard = client.message().await;
        assert!(heard == Heard::Text(text.clone()), "{:?}", heard.close_code());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_sessions_are_let_in_than_the_open_files_carry_and_probes_are_answered() {
    let gateway = Gateway::start_with_files(200, PATHS).await;
    let mut clients = Vec::new();
    let refused = loop {
        match ask(gateway.clients, &Request::upgrade("/ws")).await {
            Ok(client) => clients.push(client),
            Err(answer) => break answer,
        }
    };
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("2")));
    assert_eq!(clients.len(), 150);
    assert_eq!(gateway.fetch("/livez").await.status, 200);
    assert_eq!(gateway.counted("pathcast_sessions_limit{kind=\"hard\"}").await, 150);
    assert!(gateway.log().contains("lets in 150 sessions"), "{}", gateway.log());
}

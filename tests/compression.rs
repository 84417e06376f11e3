//! permessage-deflate as clients see it: who gets it, what comes through it, and what is refused.

mod support;

use serde_json::{Value, json};
use support::client::{Client, Heard, Request, ask, open};
use support::events::Event;
use support::gateway::{DOORS, Gateway};
use support::wait::eventually;
use support::wire;

const OFFER: &str = "permessage-deflate; client_max_window_bits";
const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// From this size on; the paths without it never.
const FROM_BYTES: usize = 200;

/// More than a shard deflates in its loop.
const LARGE_BYTES: usize = 300_000;

/// What refusing bombs may make the gateway grow by: buffers of the limit's size and the allocator's
/// slack, not the gigabytes that were announced.
const GROWTH_BYTES_MAX: u64 = 24 << 20;

async fn start() -> Gateway {
    let compress = format!("compress = \"{FROM_BYTES}B\"");
    Gateway::start(&format!(
        "[hub]\nshards = 2\n[[path]]\npath = \"/ws\"\n{compress}\n\
         [[path]]\npath = \"/ws/whole\"\nwholemsg = true\n{compress}\n\
         [[path]]\npath = \"/ws/echo\"\necho = true\n{compress}\n\
         [[path]]\npath = \"/ws/plain\"\n"
    ))
    .await
}

/// Opens a path with an offer; with it, what was answered.
async fn offer(gateway: &Gateway, path: &str, offer: &str) -> (Client, Option<String>) {
    let request = Request::upgrade(path).header("Sec-WebSocket-Extensions", offer);
    let client = ask(gateway.clients, &request).await.expect("the path is open");
    let answer = client.answer.header("sec-websocket-extensions").map(str::to_owned);
    (client, answer)
}

async fn open_deflating(gateway: &Gateway, path: &str) -> Client {
    let (client, answer) = offer(gateway, path, OFFER).await;
    assert_eq!(answer.as_deref(), Some(ANSWER));
    client
}

/// A text that can be made smaller.
fn text(number: usize, bytes: usize) -> String {
    let mut text = format!("{number:06} ");
    while text.len() < bytes {
        text += &format!("value {}, ", text.len() * (number + 7) % 1009);
    }
    text.truncate(bytes);
    text
}

fn payload_of(event: Event) -> Value {
    assert_eq!(event.kind, "message");
    event.json()["msg"]["payload"].clone()
}

async fn deflated(client: &mut Client, opcode: u8, message: &[u8]) {
    let payload = wire::deflate(message);
    client.writer.raw(&wire::frame(true, opcode | wire::DEFLATED, &payload)).await;
}

#[tokio::test]
async fn an_offer_is_taken_where_the_path_compresses_and_demands_can_be_met() {
    let gateway = start().await;
    let answer = async |path, text| offer(&gateway, path, text).await.1;
    assert_eq!(answer("/ws", OFFER).await.as_deref(), Some(ANSWER));
    assert_eq!(answer("/ws/plain", OFFER).await, None);
    let small = "permessage-deflate; server_max_window_bits=10";
    assert_eq!(answer("/ws", small).await, None, "and the connection is open");
    let either = format!("{small}, {OFFER}");
    assert_eq!(answer("/ws", &either).await.as_deref(), Some(ANSWER));
    assert_eq!(open(gateway.clients, "/ws").await.answer.header("sec-websocket-extensions"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_gets_the_same_deflated_or_not() {
    let gateway = start().await;
    let sizes =
        [10, FROM_BYTES - 1, FROM_BYTES, 5_000, 60_000, LARGE_BYTES, 20, 4_000_000, 30, 900];
    let mut clients = Vec::new();
    for path in ["/ws", "/ws/whole"] {
        for number in 0..6 {
            clients.push(match number % 2 {
                0 => (path, false, gateway.open(path).await),
                _ => (path, true, open_deflating(&gateway, path).await),
            });
        }
    }
    for path in ["/ws", "/ws/whole"] {
        for (number, bytes) in sizes.into_iter().enumerate() {
            gateway.broadcast(path, json!({"payload": text(number, bytes)}).to_string()).await;
        }
    }
    for (path, deflates, client) in &mut clients {
        for (number, bytes) in sizes.into_iter().enumerate() {
            let payload = text(number, bytes);
            let expected = match *path {
                "/ws" => payload,
                _ => json!({"payload": payload}).to_string(),
            };
            let heard = client.message().await;
            assert!(heard == Heard::Text(expected), "{bytes} bytes on {path}");
        }
        // On the other path two more are large enough with what is around them.
        let enough = sizes.iter().filter(|&&bytes| bytes >= FROM_BYTES - 14).count();
        let expected = match (*deflates, *path) {
            (false, _) => 0,
            (true, "/ws") => enough - 1,
            (true, _) => enough,
        };
        assert_eq!(client.reader.inflated, expected, "on {path}");
    }
    let before = gateway.counted("pathcast_deflate_bytes_total{side=\"before\"}").await;
    let after = gateway.counted("pathcast_deflate_bytes_total{side=\"after\"}").await;
    let published: usize = 2 * sizes.iter().sum::<usize>();
    // What is small each of the two shards may have deflated.
    assert!(before < 2 * published as u64 - 4_000_000, "{before} of {published}");
    assert!(after < before / 2, "{after} of {before}");
    let delivered = gateway.counted("pathcast_delivery_bytes_total").await;
    assert!(delivered < 9 * published as u64 / 2, "{delivered}: what went out, not what came in");
}

#[tokio::test]
async fn a_unicast_is_deflated_unless_it_is_large() {
    let gateway = start().await;
    let mut events = gateway.listen("/ws").await;
    let mut client = open_deflating(&gateway, "/ws").await;
    let session = events.session_from(client.local).await;
    let session = json!({"type": "websocket", "id": session});
    for (number, (bytes, inflated)) in
        [(50, 0), (5_000, 1), (LARGE_BYTES, 1), (900, 2)].into_iter().enumerate()
    {
        let payload = text(number, bytes);
        let msg = json!({"payload": payload, "_session": session}).to_string();
        assert_eq!(gateway.publish("/ws", msg).await.status, 200);
        client.expect_text(&payload).await;
        assert_eq!(client.reader.inflated, inflated, "{bytes} bytes");
    }
}

#[tokio::test]
async fn what_a_client_deflates_is_heard_as_it_was() {
    let gateway = start().await;
    let mut events = gateway.listen("/ws").await;
    let mut client = open_deflating(&gateway, "/ws").await;
    events.session_from(client.local).await;
    let payload = text(1, 50_000);
    deflated(&mut client, wire::TEXT, payload.as_bytes()).await;
    assert_eq!(payload_of(events.next().await), payload);
    client.writer.text("as it is").await;
    assert_eq!(payload_of(events.next().await), "as it is");
    let whole = wire::deflate(payload.as_bytes());
    let (first, second) = whole.split_at(whole.len() / 2);
    client.writer.raw(&wire::frame(false, wire::TEXT | wire::DEFLATED, first)).await;
    client.writer.ping(b"between").await;
    client.writer.raw(&wire::frame(true, 0, second)).await;
    assert_eq!(payload_of(events.next().await), payload);
    assert_eq!(client.reader.next().await, Heard::Pong("between".into()));
}

#[tokio::test]
async fn an_echo_comes_back_deflated_with_the_same_opcode_and_bytes() {
    let gateway = start().await;
    let mut client = open_deflating(&gateway, "/ws/echo").await;
    let payload = text(1, 10_000);
    deflated(&mut client, wire::TEXT, payload.as_bytes()).await;
    client.expect_text(&payload).await;
    deflated(&mut client, wire::BINARY, payload.as_bytes()).await;
    assert_eq!(client.message().await, Heard::Binary(payload.clone().into()));
    deflated(&mut client, wire::TEXT, b"").await;
    client.expect_text("").await;
    let large = text(2, LARGE_BYTES);
    deflated(&mut client, wire::TEXT, large.as_bytes()).await;
    client.expect_text(&large).await;
    assert_eq!(client.reader.inflated, 2);
    let mut plain = gateway.open("/ws/echo").await;
    plain.writer.text(&payload).await;
    plain.expect_text(&payload).await;
}

#[tokio::test]
async fn a_changed_compress_holds_for_new_sessions_and_each_goes_on_as_agreed() {
    let paths = |compress: &str| format!("[[path]]\npath = \"/ws\"\ncompress = \"{compress}\"\n");
    let gateway = Gateway::start(&paths("200B")).await;
    let mut clients = vec![open_deflating(&gateway, "/ws").await];
    for (count, compress) in ["off", "1kB", "off"].into_iter().enumerate() {
        gateway.replace_config(&format!("{DOORS}{}", paths(compress)));
        eventually("the new configuration", async || {
            let log = gateway.log();
            (log.matches("took the configuration again").count() > count).then_some(())
        })
        .await;
        let (client, answer) = offer(&gateway, "/ws", OFFER).await;
        assert_eq!(answer.is_some(), compress != "off", "{compress}");
        clients.push(client);
    }
    let mut events = gateway.listen("/ws").await;
    for bytes in [100, 5_000, LARGE_BYTES] {
        gateway.broadcast("/ws", json!({"payload": text(1, bytes)}).to_string()).await;
    }
    for (client, inflated) in clients.iter_mut().zip([2, 0, 2, 0]) {
        for bytes in [100, 5_000, LARGE_BYTES] {
            client.expect_text(&text(1, bytes)).await;
        }
        assert_eq!(client.reader.inflated, inflated);
        let payload = text(2, 900);
        match inflated {
            0 => client.writer.text(&payload).await,
            _ => deflated(client, wire::TEXT, payload.as_bytes()).await,
        }
        // The last client's connect may still be told.
        let told = events.until(|event| event.kind == "message").await;
        assert_eq!(payload_of(told), payload);
    }
}

#[tokio::test]
async fn a_bomb_is_refused_and_costs_hardly_anything() {
    let gateway = start().await;
    let mut others = open_deflating(&gateway, "/ws/echo").await;
    // 100 MB in 100 kB.
    let bomb = wire::deflate(&vec![0; 100_000_000]);
    assert!(bomb.len() < 110_000, "{}", bomb.len());
    let before = gateway.rss_bytes();
    for _ in 0..20 {
        let mut client = open_deflating(&gateway, "/ws/echo").await;
        client.writer.raw(&wire::frame(true, wire::BINARY | wire::DEFLATED, &bomb)).await;
        assert_eq!(client.closing().await.close_code(), Some(1009));
    }
    let growth = gateway.rss_bytes().saturating_sub(before);
    assert!(growth < GROWTH_BYTES_MAX, "{growth} bytes");
    // Exactly the limit is no bomb.
    let most = vec![7; 1 << 20];
    deflated(&mut others, wire::BINARY, &most).await;
    assert!(others.message().await == Heard::Binary(most.into()));
}

#[tokio::test]
async fn what_is_spoilt_or_was_not_agreed_on_closes_the_session() {
    let gateway = start().await;
    let good = wire::deflate(b"hello hello hello");
    let spoilt = [&good[..], &[0xff; 9]].concat();
    let bad_text = wire::deflate(b"\xff\xfe");
    let deflated = wire::DEFLATED;
    let cases = [
        (true, wire::frame(true, wire::TEXT | deflated, &spoilt), 1007),
        (true, wire::frame(true, wire::TEXT | deflated, &good[..good.len() / 2]), 1007),
        (true, wire::frame(true, wire::TEXT | deflated, &bad_text), 1007),
        (true, wire::frame(true, wire::PING | deflated, b""), 1002),
        (true, wire::frame(true, wire::TEXT | 0x20, &good), 1002),
        (false, wire::frame(true, wire::TEXT | deflated, &good), 1002),
    ];
    for (agreed, frame, code) in cases {
        let mut client = match agreed {
            true => open_deflating(&gateway, "/ws").await,
            false => gateway.open("/ws").await,
        };
        client.writer.raw(&frame).await;
        assert_eq!(client.closing().await.close_code(), Some(code), "{frame:02x?}");
    }
}

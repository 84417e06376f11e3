//! The opening handshake to the letter: what opens a WebSocket, however it is written, and what
//! does not.

mod support;

use support::client::{self, Answer, Client, Heard, Request, ask, ask_in_pieces};
use support::events::Event;
use support::gateway::Gateway;
use support::wire;
use tokio::net::TcpStream;

const PATHS: &str = r#"
[[path]]
path = "/ws"
subprotocols = ["chat.v1", "chat.v2"]
[[path]]
path = "/ws/echo"
echo = true
[[path]]
path = "/ws/app"
origins = ["https://app.example", "same-host"]
[[path]]
path = "/ws/any"
origins = ["*"]
[[path]]
path = "/ws/only"
origins = ["https://app.example:8443"]
[[path]]
path = "/ws/rooms/{room}"
[[path]]
path = "/ws/rooms/lobby"
wholemsg = true
[[path]]
path = "/ws/{a}/x/{b}"
"#;

async fn start() -> Gateway {
    Gateway::start(PATHS).await
}

async fn check(gateway: &Gateway, request: Request, status: u16) {
    assert_eq!(client::status(gateway.clients, &request).await, status, "{request:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_offered_subprotocol_that_is_configured_is_taken() {
    let gateway = start().await;
    let gateway = &gateway;
    let check = async |offers: &[&str], expected: Option<&str>| {
        let mut events = gateway.listen("/ws").await;
        let mut request = Request::upgrade("/ws");
        for offer in offers {
            request = request.also("Sec-WebSocket-Protocol", offer);
        }
        let client = ask(gateway.clients, &request).await.expect("it opens all the same");
        let named =
            |(name, _): &&(String, String)| name.eq_ignore_ascii_case("sec-websocket-protocol");
        let agreed: Vec<_> =
            client.answer.headers.iter().filter(named).map(|(_, value)| value.as_str()).collect();
        assert_eq!(agreed, expected.as_slice(), "{offers:?}");
        let remote = client.local.to_string();
        // The one before may leave only now.
        let is_ours = |event: &Event| event.kind == "connect" && event.text("remote") == remote;
        let connect = events.until(is_ours).await.json();
        assert_eq!(connect.get("subprotocol").and_then(|it| it.as_str()), expected, "{connect}");
    };
    check(&[], None).await;
    check(&["chat.v1"], Some("chat.v1")).await;
    check(&["chat.v2, chat.v1"], Some("chat.v2")).await;
    check(&["unknown,chat.v2 ,chat.v1"], Some("chat.v2")).await;
    check(&["unknown", "chat.v1", "chat.v2"], Some("chat.v1")).await;
    check(&["CHAT.V1"], None).await;
    check(&["chat"], None).await;
    check(&[""], None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn origins_are_those_of_the_path_or_of_the_listener() {
    let gateway = start().await;
    let gateway = &gateway;
    let from = |path: &str, origin: &str| Request::upgrade(path).header("Origin", origin);
    for path in ["/ws", "/ws/app", "/ws/any", "/ws/only"] {
        check(gateway, Request::upgrade(path), 101).await;
    }
    for same in ["http://pathcast.test", "https://PathCast.test:444"] {
        check(gateway, from("/ws", same), 101).await;
        check(gateway, from("/ws/app", same), 101).await;
        check(gateway, from("/ws/only", same), 403).await;
    }
    check(gateway, from("/ws/app", "https://app.example"), 101).await;
    check(gateway, from("/ws/app", "http://app.example"), 403).await;
    check(gateway, from("/ws/app", "https://app.example:8443"), 403).await;
    check(gateway, from("/ws/app", "https://app.example.evil"), 403).await;
    check(gateway, from("/ws/only", "https://app.example:8443"), 101).await;
    check(gateway, from("/ws", "https://app.example"), 403).await;
    for odd in ["null", "", "app.example", "https://", "pathcast.test", "file://"] {
        check(gateway, from("/ws", odd), 403).await;
        check(gateway, from("/ws/any", odd), 101).await;
    }
    // The port of neither side counts, an IPv6 literal is a host.
    let at = |host: &str, origin: &str| from("/ws", origin).header("Host", host);
    check(gateway, at("pathcast.test:8080", "https://pathcast.test"), 101).await;
    check(gateway, at("[::1]:8080", "http://[::1]:3000"), 101).await;
    check(gateway, at("[::1]:8080", "http://[::2]:8080"), 403).await;
    let two = from("/ws", "http://pathcast.test").also("Origin", "https://evil.example");
    check(gateway, two, 400).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_are_matched_on_their_raw_text() {
    let gateway = start().await;
    let gateway = &gateway;
    for (target, status) in [
        ("/ws", 101),
        ("/ws?", 101),
        ("/ws?a=b&c", 101),
        ("/ws/", 404),
        ("/Ws", 404),
        ("/ws/rooms/a", 101),
        ("/ws/rooms/a%2Fb", 101),
        ("/ws/rooms/%c3%a9", 101),
        ("/ws/rooms/A.b_c~d-9", 101),
        ("/ws/rooms/..", 101),
        ("/ws/rooms/a%2", 404),
        ("/ws/rooms/%zz", 404),
        ("/ws/rooms/a;b", 404),
        ("/ws/rooms/a@b", 404),
        ("/ws/rooms/a/", 404),
        ("/ws/rooms/a?b/c", 101),
        ("/ws/1/x/2", 101),
        ("/ws/1/X/2", 404),
        ("/ws/1/x/", 404),
        ("http://pathcast.test/ws", 101),
    ] {
        check(gateway, Request::upgrade(target), status).await;
    }
    check(gateway, Request::upgrade(&format!("/ws/rooms/{}", "x".repeat(128))), 101).await;
    check(gateway, Request::upgrade(&format!("/ws/rooms/{}", "%C3%A9".repeat(21))), 101).await;
    check(gateway, Request::upgrade(&format!("/ws/rooms/{}", "x".repeat(129))), 404).await;
    check(gateway, Request::upgrade(&format!("/ws/{}", "x".repeat(4000))), 404).await;

    // Each spelling is a path of its own.
    let mut upper = gateway.open("/ws/rooms/%C3%A9").await;
    let mut lower = gateway.open("/ws/rooms/%c3%a9").await;
    gateway.broadcast("/ws/rooms/%C3%A9", r#"{"payload":"upper"}"#).await;
    gateway.broadcast("/ws/rooms/%c3%a9", r#"{"payload":"lower"}"#).await;
    upper.expect_text("upper").await;
    lower.expect_text("lower").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exact_path_beats_the_pattern() {
    let gateway = start().await;
    let (mut lobby, mut room) =
        (gateway.open("/ws/rooms/lobby").await, gateway.open("/ws/rooms/lobby2").await);
    gateway.broadcast("/ws/rooms/lobby", r#"{"payload":"x"}"#).await;
    gateway.broadcast("/ws/rooms/lobby2", r#"{"payload":"y"}"#).await;
    lobby.expect_text(r#"{"payload":"x"}"#).await;
    room.expect_text("y").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_taken_however_they_are_written() {
    let gateway = start().await;
    let gateway = &gateway;
    let good = || Request::upgrade("/ws");
    for connection in
        ["upgrade", "UPGRADE", "keep-alive, Upgrade", "Upgrade , keep-alive", "x,upgrade"]
    {
        check(gateway, good().header("Connection", connection), 101).await;
    }
    check(gateway, good().header("Connection", "keep-alive").also("Connection", "Upgrade"), 101)
        .await;
    for upgrade in ["WEBSOCKET", "WebSocket", "h2c, websocket"] {
        check(gateway, good().header("Upgrade", upgrade), 101).await;
    }
    let mut shouted = good();
    for (name, value) in &mut shouted.headers {
        (*name, *value) = (name.to_ascii_uppercase(), format!("  {value}\t"));
    }
    check(gateway, shouted, 101).await;
    check(gateway, good().header("Content-Length", "0"), 101).await;

    for connection in ["keep-alive", "close", "upgraded", "up grade", ""] {
        check(gateway, good().header("Connection", connection), 426).await;
    }
    for upgrade in ["websockets", "web socket", ""] {
        check(gateway, good().header("Upgrade", upgrade), 426).await;
    }
    for version in ["12", "14", "013", "", "x"] {
        check(gateway, good().header("Sec-WebSocket-Version", version), 426).await;
    }
    check(gateway, good().without("Sec-WebSocket-Version"), 426).await;
    for key in ["", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZQ==dGhlIHNhbXBsZSBub25jZQ=="] {
        check(gateway, good().header("Sec-WebSocket-Key", key), 400).await;
    }
    for doubled in ["Host", "Sec-WebSocket-Key", "Sec-WebSocket-Version"] {
        let value = good().headers.into_iter().find(|(name, _)| name == doubled);
        let (_, value) = value.expect("a good request has it");
        check(gateway, good().also(doubled, &value), 400).await;
    }
    check(gateway, good().without("Host"), 400).await;
    check(gateway, good().version("HTTP/1.0"), 400).await;
    for method in ["HEAD", "OPTIONS", "DELETE", "get"] {
        check(gateway, good().method(method), 405).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offered_extension_is_answered_without() {
    let gateway = start().await;
    for offer in [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits, x-webkit-deflate-frame",
        "none; of=\"these\"",
    ] {
        let request = Request::upgrade("/ws/echo").header("Sec-WebSocket-Extensions", offer);
        // That the answer names none is checked by the client.
        let mut client = ask(gateway.clients, &request).await.expect("the path is open");
        client.writer.text("plain").await;
        client.expect_text("plain").await;
        client.writer.raw(&[0xc1, 0x80, 0, 0, 0, 0]).await;
        assert_eq!(client.message().await.close_code(), Some(1002));
    }
}

async fn in_pieces(gateway: &Gateway, pieces: &[&[u8]]) -> Result<Client, Answer> {
    let socket = TcpStream::connect(gateway.clients).await.expect("the door listens");
    ask_in_pieces(socket, pieces).await
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_may_come_in_the_packet_of_the_handshake() {
    let gateway = start().await;
    let request = Request::upgrade("/ws/echo").bytes();
    let frame = |text: &str| wire::frame(true, wire::TEXT, text.as_bytes());

    let two = [request.clone(), frame("one"), frame("two")].concat();
    let mut client = in_pieces(&gateway, &[&two]).await.expect("the path is open");
    client.expect_text("one").await;
    client.expect_text("two").await;

    let long = "x".repeat(500_000);
    let all = [request.clone(), frame(&long), frame("after")].concat();
    let mut client = in_pieces(&gateway, &[&all]).await.expect("the path is open");
    assert!(client.message().await == Heard::Text(long));
    client.expect_text("after").await;

    let first = frame("cut in two");
    let (head, tail) = first.split_at(5);
    let mut client = in_pieces(&gateway, &[&[&request[..], head].concat()]).await.expect("open");
    client.writer.raw(tail).await;
    client.expect_text("cut in two").await;

    let close = wire::frame(true, wire::CLOSE, &wire::close_payload(Some(1000), "bye"));
    let mut client = in_pieces(&gateway, &[&[&request[..], &close].concat()]).await.expect("open");
    assert_eq!(client.message().await.close_code(), Some(1000));
    assert_eq!(client.reader.next().await, Heard::End);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_may_come_byte_by_byte() {
    let gateway = start().await;
    let request = Request::upgrade("/ws/echo").bytes();
    let frame = wire::frame(true, wire::TEXT, b"slowly");
    let all = [request, frame].concat();
    let bytes: Vec<&[u8]> = all.chunks(1).collect();
    let mut client = in_pieces(&gateway, &bytes).await.expect("the path is open");
    client.expect_text("slowly").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_beyond_measure_is_refused() {
    let gateway = start().await;
    let gateway = &gateway;
    let refused = async |request: Request| {
        let status = client::status(gateway.clients, &request).await;
        assert!((400..500).contains(&status), "{status}");
    };
    let good = || Request::upgrade("/ws");
    check(gateway, good().header("Cookie", &"x".repeat(8_000)), 101).await;
    refused(good().header("Cookie", &"x".repeat(64_000))).await;
    refused((0..200).fold(good(), |one, number| one.also(&format!("X-{number}"), "x"))).await;
    refused(Request::upgrade(&format!("/ws?{}", "x".repeat(70_000)))).await;
}

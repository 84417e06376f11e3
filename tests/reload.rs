//! A configuration that changes under open sessions.

mod support;

use rustix::process::Signal;
use serde_json::json;
use support::client::{self, Client, Request, ask};
use support::gateway::{DOORS, Gateway};
use support::wait::{eventually, within};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

async fn start(paths: &str) -> Gateway {
    Gateway::start(paths).await
}

/// Puts other paths in place and waits until they hold; with a signal or without.
async fn reload(gateway: &Gateway, paths: &str, signal: bool) {
    let took = |log: String| log.matches("took the configuration again").count();
    let before = took(gateway.log());
    gateway.replace_config(&format!("{DOORS}{paths}"));
    if signal {
        gateway.signal(Signal::HUP);
    }
    eventually("the new configuration", async || (took(gateway.log()) > before).then_some(()))
        .await;
}

async fn status(gateway: &Gateway, path: &str) -> u16 {
    client::status(gateway.clients, &Request::upgrade(path)).await
}

async fn open_offering(gateway: &Gateway, offer: &str) -> Client {
    let request = Request::upgrade("/ws").header("Sec-WebSocket-Protocol", offer);
    ask(gateway.clients, &request).await.expect("the path is open")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_nobody_has_opened_counts_zero_sessions() {
    let gateway = start("[[path]]\npath = \"/ws\"\n").await;
    let counts_zero = async |path: &str| {
        let text = gateway.fetch("/metrics").await.text;
        text.contains(&format!("\npathcast_sessions{{path=\"{path}\"}} 0\n"))
    };
    assert!(counts_zero("/ws").await);
    assert!(!counts_zero("/other").await);
    reload(&gateway, "[[path]]\npath = \"/ws\"\n[[path]]\npath = \"/other\"\n", true).await;
    assert!(counts_zero("/other").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_wholemsg_holds_for_new_sessions_and_a_broadcast_reaches_each_in_its_form() {
    let gateway = start("[[path]]\npath = \"/ws\"\n").await;
    let mut events = gateway.listen("/ws").await;
    let (mut plain, its) = gateway.open_known("/ws", &mut events).await;
    reload(&gateway, "[[path]]\npath = \"/ws\"\nwholemsg = true\n", true).await;
    let (mut whole, other) = gateway.open_known("/ws", &mut events).await;

    for number in 0..20 {
        gateway.broadcast("/ws", json!({"payload": number, "topic": "t"}).to_string()).await;
        for session in [&its, &other] {
            let session = json!({"type": "websocket", "id": session});
            let msg = json!({"payload": {"to": number}, "_session": session}).to_string();
            assert_eq!(gateway.publish("/ws", msg).await.status, 200);
        }
    }
    for number in 0..20 {
        plain.expect_text(&number.to_string()).await;
        plain.expect_text(&format!("{{\"to\":{number}}}")).await;
        whole.expect_text(&format!("{{\"payload\":{number},\"topic\":\"t\"}}")).await;
        whole.expect_text(&format!("{{\"payload\":{{\"to\":{number}}}}}")).await;
    }
    // What only one kind can be sent reaches that kind.
    gateway.broadcast("/ws", r#"{"topic":"no payload"}"#).await;
    whole.expect_text(r#"{"topic":"no payload"}"#).await;
    // Each is heard in its own way, too.
    plain.writer.text("{}").await;
    assert_eq!(events.next().await.json()["msg"]["payload"], "{}");
    whole.writer.text(r#"{"topic":1}"#).await;
    assert_eq!(events.next().await.json()["msg"]["topic"], 1);

    reload(&gateway, "[[path]]\npath = \"/ws\"\n", true).await;
    let mut newest = gateway.open("/ws").await;
    gateway.broadcast("/ws", r#"{"payload":"x"}"#).await;
    plain.expect_text("x").await;
    whole.expect_text(r#"{"payload":"x"}"#).await;
    newest.expect_text("x").await;
    assert_eq!(gateway.publish("/ws", r#"{"topic":"no payload"}"#).await.status, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_subprotocols_and_origins_hold_for_new_sessions() {
    let gateway = start("[[path]]\npath = \"/ws\"\nsubprotocols = [\"v1\", \"v2\"]\n").await;
    let mut events = gateway.listen("/ws").await;
    let before = open_offering(&gateway, "v2").await;
    let session = events.session_from(before.local).await;
    let other =
        "[[path]]\npath = \"/ws\"\nsubprotocols = [\"v3\"]\norigins = [\"https://a.example\"]\n";
    reload(&gateway, other, true).await;
    let after = open_offering(&gateway, "v2, v3").await;
    assert_eq!(before.answer.header("sec-websocket-protocol"), Some("v2"));
    assert_eq!(after.answer.header("sec-websocket-protocol"), Some("v3"));
    let looked_up = gateway.fetch(&format!("/v1/sessions/{session}")).await.json();
    assert_eq!(looked_up["subprotocol"], "v2", "{looked_up}");
    for (origin, expected) in [("https://a.example", 101), ("http://pathcast.test", 403)] {
        let request = Request::upgrade("/ws").header("Origin", origin);
        assert_eq!(client::status(gateway.clients, &request).await, expected, "{origin}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_noticed_without_a_signal() {
    let gateway = start("[[path]]\npath = \"/ws\"\n").await;
    let mut client = gateway.open("/ws").await;
    assert_eq!(status(&gateway, "/ws/new").await, 404);
    reload(&gateway, "[[path]]\npath = \"/ws\"\n[[path]]\npath = \"/ws/new\"\n", false).await;
    assert_eq!(status(&gateway, "/ws/new").await, 101);
    // Written over in place as well.
    let config = format!("{DOORS}[[path]]\npath = \"/ws\"\n[[path]]\npath = \"/ws/newer\"\n");
    std::fs::write(&gateway.config_file, config).expect("a file can be written");
    eventually("the newer path", async || {
        (status(&gateway, "/ws/newer").await == 101).then_some(())
    })
    .await;
    gateway.broadcast("/ws", r#"{"payload":"undisturbed"}"#).await;
    client.expect_text("undisturbed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_configuration_keeps_the_old_one_until_it_is_mended() {
    let mut gateway = start("[[path]]\npath = \"/ws\"\n").await;
    let mut client = gateway.open("/ws").await;
    for (count, broken) in
        ["[[path]]\npath = 7\n", "[[path]\n", "", "[[path]]\npath = \"/ws\"\nechoo = true\n"]
            .into_iter()
            .enumerate()
    {
        gateway.replace_config(&format!("{DOORS}{broken}"));
        gateway.signal(Signal::HUP);
        eventually("a word in the log", async || {
            (gateway.log().matches("kept the old configuration").count() > count).then_some(())
        })
        .await;
    }
    std::fs::remove_file(&gateway.config_file).expect("it is there");
    gateway.signal(Signal::HUP);
    eventually("a word in the log", async || {
        gateway.log().contains("cannot be read").then_some(())
    })
    .await;
    assert!(gateway.is_running());
    assert_eq!(gateway.counted("pathcast_configuration_refused").await, 1);
    gateway.broadcast("/ws", r#"{"payload":"undisturbed"}"#).await;
    client.expect_text("undisturbed").await;
    assert_eq!(status(&gateway, "/ws").await, 101);
    reload(&gateway, "[[path]]\npath = \"/ws\"\n[[path]]\npath = \"/ws/new\"\n", false).await;
    assert_eq!(status(&gateway, "/ws/new").await, 101);
    assert_eq!(gateway.counted("pathcast_configuration_refused").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_path_closes_its_sessions_and_no_others() {
    let both = "[[path]]\npath = \"/ws\"\n[[path]]\npath = \"/ws/rooms/{room}\"\n";
    let gateway = start(both).await;
    let mut events = gateway.listen("/ws/rooms/{room}").await;
    let (mut one, its) = gateway.open_known("/ws/rooms/1", &mut events).await;
    let (mut two, _) = gateway.open_known("/ws/rooms/2", &mut events).await;
    let mut stays = gateway.open("/ws").await;
    reload(&gateway, "[[path]]\npath = \"/ws\"\n", true).await;
    assert_eq!(one.closing().await.close_code(), Some(1001));
    assert_eq!(two.closing().await.close_code(), Some(1001));
    let gone = events.disconnect_of(&its).await;
    assert_eq!((&gone["code"], &gone["cause"]), (&json!(1001), &json!("server")));
    assert_eq!(status(&gateway, "/ws/rooms/1").await, 404);
    assert_eq!(gateway.publish("/ws/rooms/1", r#"{"payload":1}"#).await.status, 404);
    assert_eq!(gateway.fetch("/v1/sessions?path=/ws/rooms/1").await.status, 404);
    assert_eq!(gateway.fetch(&format!("/v1/sessions/{its}")).await.status, 410);
    gateway.broadcast("/ws", r#"{"payload":"undisturbed"}"#).await;
    stays.expect_text("undisturbed").await;

    reload(&gateway, both, true).await;
    let mut back = gateway.open("/ws/rooms/1").await;
    gateway.broadcast("/ws/rooms/1", r#"{"payload":"back"}"#).await;
    back.expect_text("back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_removed_while_a_msg_comes_is_not_found() {
    let gateway = start("[[path]]\npath = \"/ws\"\n[[path]]\npath = \"/ws/old\"\n").await;
    let addr = gateway.api.trim_start_matches("http://");
    let mut socket = BufReader::new(TcpStream::connect(addr).await.expect("the door listens"));
    let head = format!(
        "POST /v1/publish/ws/old HTTP/1.1\r\nHost: {addr}\r\nContent-Type: text/plain\r\n\
         Content-Length: 1\r\nExpect: 100-continue\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.expect("it reads");
    let mut line = String::new();
    within("the door wants the body", socket.read_line(&mut line)).await.expect("it answers");
    assert!(line.contains(" 100 "), "{line}");
    reload(&gateway, "[[path]]\npath = \"/ws\"\n", true).await;
    socket.write_all(b"x").await.expect("it reads");
    let mut line = String::new();
    while !line.starts_with("HTTP/1.1 ") {
        line.clear();
        within("the answer", socket.read_line(&mut line)).await.expect("it answers");
    }
    assert!(line.contains(" 404 "), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exact_path_taken_out_of_a_pattern_serves_old_and_new() {
    let pattern = "[[path]]\npath = \"/ws/rooms/{room}\"\n";
    let gateway = start(pattern).await;
    let mut before = gateway.open("/ws/rooms/lobby").await;
    let mut early = gateway.listen("/ws/rooms/lobby").await;
    let with_exact = format!("{pattern}[[path]]\npath = \"/ws/rooms/lobby\"\nwholemsg = true\n");
    reload(&gateway, &with_exact, true).await;
    let mut after = gateway.open("/ws/rooms/lobby").await;
    // Whoever listened to the concrete path goes on hearing all of it.
    assert_eq!(early.next().await.json()["type"], "connect");
    gateway.broadcast("/ws/rooms/lobby", r#"{"payload":"x"}"#).await;
    before.expect_text("x").await;
    after.expect_text(r#"{"payload":"x"}"#).await;
    let listed = gateway.fetch("/v1/sessions?path=/ws/rooms/lobby").await.json();
    assert_eq!(listed["sessions"].as_array().map(Vec::len), Some(2), "{listed}");
    // Each session belongs to the configured path that it came by.
    for (path, session) in [("/ws/rooms/{room}", before), ("/ws/rooms/lobby", after)] {
        let (mut events, mut session) = (gateway.listen(path).await, session);
        session.writer.text("mine").await;
        assert_eq!(events.next().await.json()["msg"]["payload"], "mine", "{path}");
    }
}

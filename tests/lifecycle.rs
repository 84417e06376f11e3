//! From start to end of a gateway: strange environments, reload, silent clients, leaving.

mod support;

use std::process::{Command, Stdio};

use rustix::process::Signal;
use support::client::{Client, Heard, Request, ask};
use support::gateway::{DOORS, Gateway};
use support::wait::{eventually, within};
use tokio::net::TcpStream;

fn config(paths: &[&str]) -> String {
    let paths = paths.iter().map(|path| format!("[[path]]\npath = \"{path}\"\n"));
    format!("{DOORS}{}", paths.collect::<String>())
}

async fn check_served(gateway: &Gateway, client: &mut Client, path: &str) {
    gateway.broadcast(path, "{\"payload\":\"served\"}").await;
    client.expect_text("served").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_sends_everybody_away_in_good_order() {
    let mut gateway = Gateway::start_whole(&config(&["/ws", "/ws/b"]), &[]).await;
    let mut clients = Vec::new();
    for path in ["/ws", "/ws", "/ws/b"] {
        clients.push(gateway.open(path).await);
    }
    gateway.broadcast("/ws", "{\"payload\":\"the last word\"}").await;
    gateway.signal(Signal::TERM);

    for client in &mut clients[..2] {
        client.expect_text("the last word").await;
    }
    for client in &mut clients {
        let close = client.closing().await;
        let Heard::Close(Some((1012, reason))) = &close else { panic!("{close:?}, not 1012") };
        let retry_after_ms = reason.strip_prefix("retry_after_ms=").map(str::parse::<u64>);
        assert!(matches!(retry_after_ms, Some(Ok(_))), "{reason:?}");
        assert_eq!(client.reader.next().await, Heard::End);
    }
    let late = TcpStream::connect(gateway.clients).await;
    if let Ok(socket) = late {
        let answer = support::client::ask_on(socket, &Request::upgrade("/ws")).await;
        let status = answer.map(|_| 101).unwrap_or_else(|answer| answer.status);
        assert!(matches!(status, 0 | 503), "{status} while draining");
    }
    let status = gateway.exit().await;
    assert_eq!(status.code(), Some(0), "{}", gateway.log());
    assert!(TcpStream::connect(gateway.clients).await.is_err(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_does_not_wait_for_clients_that_do_not_answer() {
    let mut gateway = Gateway::start_whole(&config(&["/ws"]), &[]).await;
    let mut mute = gateway.open("/ws").await;
    let _listener = gateway.listen("/ws").await;
    gateway.signal(Signal::TERM);
    loop {
        match mute.reader.next().await {
            close @ Heard::Close(_) => assert_eq!(close.close_code(), Some(1012)),
            Heard::End => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(gateway.exit().await.code(), Some(0), "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_leaves_sends_nothing_new_and_says_so() {
    let rest = "[limits]\nclose_timeout = \"3s\"\n[[path]]\npath = \"/ws\"\n";
    let gateway = Gateway::start(rest).await;
    // It does not answer the close, so the pod waits for it.
    let mut mute = gateway.open("/ws").await;
    let listed = gateway.fetch("/v1/sessions").await.json();
    let session = listed["sessions"][0]["id"].as_str().expect("a session").to_owned();
    gateway.signal(Signal::TERM);
    assert_eq!(mute.reader.next().await.close_code(), Some(1012));
    let unicast =
        format!(r#"{{"payload":"x","_session":{{"type":"websocket","id":"{session}"}}}}"#);
    for msg in [r#"{"payload":"x"}"#, &unicast] {
        let said = gateway.publish("/ws", msg).await;
        assert_eq!(said.status, 503, "{}", said.text);
        assert!(said.headers.contains_key("retry-after"), "{}", said.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_with_the_variables_of_a_service_named_pathcast() {
    let kubernetes = [
        ("PATHCAST_PORT", "tcp://10.0.0.1:8080"),
        ("PATHCAST_SERVICE_HOST", "10.0.0.1"),
        ("PATHCAST_SERVICE_PORT", "8080"),
        ("PATHCAST_SERVICE_PORT_CLIENTS", "8080"),
        ("PATHCAST_SERVICE_PORT_API", "8081"),
        ("PATHCAST_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("PATHCAST_PORT_8080_TCP_PROTO", "tcp"),
        ("PATHCAST_PORT_8080_TCP_PORT", "8080"),
        ("PATHCAST_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("PATHCAST_PORT_8081_TCP", "tcp://10.0.0.1:8081"),
    ];
    let gateway = Gateway::start_whole(&config(&["/ws"]), &kubernetes).await;
    check_served(&gateway, &mut gateway.open("/ws").await, "/ws").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_is_pinged_then_closed_and_one_that_answers_stays() {
    let paths = "[[path]]\npath = \"/ws\"\nheartbeat = \"1s\"\n";
    let gateway = Gateway::start(paths).await;
    let mut events = gateway.listen("/ws").await;
    let (mut silent, session) = gateway.open_known("/ws", &mut events).await;
    let mut answering = gateway.open("/ws").await;
    let answering = tokio::spawn(async move {
        answering.expect_text("served").await;
    });

    let mut pings = 0;
    let last = loop {
        match silent.reader.next().await {
            Heard::Ping(_) => pings += 1,
            other => break other,
        }
    };
    assert!(pings >= 1, "{last:?} without a ping before");
    assert!(matches!(last, Heard::Close(_) | Heard::End), "{last:?}");
    let gone = events.disconnect_of(&session).await;
    assert_eq!(gone["cause"], "heartbeat", "{gone}");

    assert!(!answering.is_finished(), "pongs are signs of life");
    gateway.broadcast("/ws", "{\"payload\":\"served\"}").await;
    within("the one that answers", answering).await.expect("it is served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_opens_and_closes_paths_and_disturbs_nobody_else() {
    let gateway = Gateway::start_whole(&config(&["/ws/stays", "/ws/goes"]), &[]).await;
    let mut events = gateway.listen("/ws/stays").await;
    let (mut staying, session) = gateway.open_known("/ws/stays", &mut events).await;
    let mut going = gateway.open("/ws/goes").await;
    let refused = ask(gateway.clients, &Request::upgrade("/ws/comes")).await;
    assert_eq!(refused.err().map(|answer| answer.status), Some(404));

    // The doors' ports are the kernel's choice: reloading must not move them.
    gateway.replace_config(&config(&["/ws/stays", "/ws/comes"]));
    gateway.signal(Signal::HUP);

    assert_eq!(going.closing().await.close_code(), Some(1001));
    let mut coming = eventually("the added path", async || {
        ask(gateway.clients, &Request::upgrade("/ws/comes")).await.ok()
    })
    .await;
    check_served(&gateway, &mut coming, "/ws/comes").await;
    let refused = ask(gateway.clients, &Request::upgrade("/ws/goes")).await;
    assert_eq!(refused.err().map(|answer| answer.status), Some(404));
    check_served(&gateway, &mut staying, "/ws/stays").await;
    let unicast = format!(
        "{{\"payload\":\"you\",\"_session\":{{\"type\":\"websocket\",\"id\":\"{session}\"}}}}"
    );
    assert_eq!(gateway.publish("/ws/stays", unicast).await.status, 200);
    staying.expect_text("you").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_reload_changes_nothing() {
    let mut gateway = Gateway::start_whole(&config(&["/ws"]), &[]).await;
    let mut client = gateway.open("/ws").await;
    gateway.replace_config("[[path]]\npath = 7\n");
    gateway.signal(Signal::HUP);
    eventually("a word in the log about the bad settings", async || {
        gateway.log().contains("pathcast.toml:2").then_some(())
    })
    .await;
    assert!(gateway.is_running());
    check_served(&gateway, &mut client, "/ws").await;
    check_served(&gateway, &mut gateway.open("/ws").await, "/ws").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_takes_disturbs_nobody() {
    // A disk that is full, and a pipe that nobody empties.
    let full = std::fs::File::options().write(true).open("/dev/full").expect("Linux has it");
    let (_unread, pipe) = std::io::pipe().expect("a pipe can be made");
    check_serves_without_log(full).await;
    check_serves_without_log(pipe).await;
}

async fn check_serves_without_log(log: impl Into<Stdio>) {
    let drain = "[drain]\nsettle = \"off\"\nwindow = \"off\"\n";
    let rest = "[log]\nlevel = \"trace\"\n[[path]]\npath = \"/ws\"\n";
    let mut gateway = Gateway::start_logging_to(log, &format!("{drain}{rest}")).await;
    // More than a pipe holds.
    for _ in 0..300 {
        assert_eq!(gateway.fetch("/v1/nothing").await.status, 404);
    }
    let mut client = gateway.open("/ws").await;
    check_served(&gateway, &mut client, "/ws").await;
    gateway.signal(Signal::TERM);
    assert_eq!(client.closing().await.close_code(), Some(1012));
    assert_eq!(gateway.exit().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_looked_up_for_ever_holds_no_pod_that_leaves() {
    // The resolver reads its aliases from there, and nobody writes any.
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let aliases = dir.path().join("aliases");
    let made = Command::new("mkfifo").arg(&aliases).status().expect("mkfifo runs");
    assert!(made.success());
    let upstream = "[[upstream]]\nname = \"far\"\nurl = \"ws://nowhere/\"\n";
    let config = format!("{}{upstream}", config(&["/ws"]));
    let environment = [("HOSTALIASES", aliases.to_str().expect("a plain name"))];
    let mut gateway = Gateway::start_whole(&config, &environment).await;
    let open = move || std::fs::File::options().write(true).open(aliases);
    let _aliases = within("a look-up", tokio::task::spawn_blocking(open)).await;
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.exit().await.code(), Some(0), "{}", gateway.log());
}

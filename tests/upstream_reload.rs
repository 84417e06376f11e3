//! Upstreams that come, go and change while the gateway runs.

mod support;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::backend::{Backend, status};
use support::events::Events;
use support::gateway::{DOORS, Gateway};
use support::redis::Redis;
use support::remote::{Manner, Remote};
use support::wait::{eventually, within};
use tokio_tungstenite::tungstenite::Message;

fn upstream(name: &str, remote: &Remote, settings: &str) -> String {
    format!(
        "[[upstream]]\nname = \"{name}\"\nurl = \"{}\"\nreconnect_min = \"20ms\"\n\
         reconnect_max = \"100ms\"\n{settings}\n",
        remote.url()
    )
}

const PATHS: &str = "[[path]]\npath = \"/ws\"\n[[path]]\npath = \"/ws/other\"\n";

async fn start(upstreams: &str) -> Gateway {
    Gateway::start(&format!("{PATHS}{upstreams}")).await
}

/// Puts other upstreams in place and waits until the file was read.
async fn reload(gateway: &Gateway, before: &str, upstreams: &str) {
    let took = |log: String| log.matches("took the configuration again").count();
    let taken = took(gateway.log());
    gateway.replace_config(&format!("{DOORS}{before}{PATHS}{upstreams}"));
    gateway.signal(Signal::HUP);
    eventually("the new configuration", async || (took(gateway.log()) > taken).then_some(())).await;
}

/// Waits until all upstreams are connected: their names, in the order of the settings.
async fn connected(gateway: &Gateway) -> Vec<String> {
    eventually("upstreams that are connected", async || {
        let list = gateway.fetch("/v1/upstreams").await.json();
        let upstreams = list["upstreams"].as_array().expect("a list");
        let is_connected = |one: &Value| one["state"] == "connected";
        let names = upstreams.iter().map(|one| one["name"].as_str().expect("a name").to_owned());
        upstreams.iter().all(is_connected).then(|| names.collect())
    })
    .await
}

async fn send(gateway: &Gateway, name: &str, text: &str) -> u16 {
    gateway.post(&format!("/v1/upstreams/{name}"), "text/plain", text.to_owned()).await.status
}

async fn listen(gateway: &Gateway, name: &str) -> Events {
    let request = gateway.call("GET", &format!("/v1/upstreams/{name}/events"));
    Events::new(within("a stream of events", request.send()).await.expect("an answer"))
}

fn close_of(remote: &Remote) -> Option<u16> {
    remote.said().into_iter().find_map(|message| match message {
        Message::Close(Some(frame)) => Some(u16::from(frame.code)),
        _ => None,
    })
}

#[tokio::test]
async fn one_that_is_added_is_connected_to_and_one_that_is_removed_is_left() {
    let (first, second) = (Remote::start(Manner::Open).await, Remote::start(Manner::Open).await);
    let (one, two) = (upstream("one", &first, ""), upstream("two", &second, ""));
    let gateway = start(&one).await;
    assert_eq!(connected(&gateway).await, ["one"]);
    assert_eq!(send(&gateway, "two", "x").await, 404);
    let mut events = listen(&gateway, "one").await;
    first.say("before");
    let before = events.next().await;

    reload(&gateway, "", &format!("{two}{one}")).await;
    assert_eq!(connected(&gateway).await, ["two", "one"]);
    assert_eq!([send(&gateway, "one", "1").await, send(&gateway, "two", "2").await], [200; 2]);
    assert_eq!(second.wait_said(1).await, [Message::text("2")]);
    assert_eq!(first.opened(), 1, "what did not change goes on");

    reload(&gateway, "", &two).await;
    assert_eq!(send(&gateway, "one", "x").await, 404);
    eventually("a farewell", async || close_of(&first)).await;
    assert_eq!(close_of(&first), Some(1001));
    let end = events.until(|event| event.kind == "disconnect").await.json();
    assert_eq!((&end["cause"], &end["code"]), (&json!("server"), &json!(1001)));
    let metrics = gateway.fetch("/metrics").await.text;
    assert!(!metrics.contains("name=\"one\"") && metrics.contains("name=\"two\""), "{metrics}");

    // It comes back, and what it says is not taken for what was said before.
    reload(&gateway, "", &format!("{one}{two}")).await;
    assert_eq!(connected(&gateway).await, ["one", "two"]);
    first.say("after");
    let after = events.until(|event| event.kind == "message").await;
    assert_eq!(after.json()["msg"]["payload"], "after");
    assert!(after.json()["seq"].as_u64() > end["seq"].as_u64());
    assert_ne!(after.id, before.id);
    assert_eq!((first.opened(), second.opened()), (2, 1));
}

#[tokio::test]
async fn one_that_is_changed_is_left_and_connected_to_as_it_is_now() {
    let (old, new) = (Remote::start(Manner::Open).await, Remote::start(Manner::Open).await);
    let gateway = start(&upstream("feed", &old, "to = \"/ws\"")).await;
    let (mut ws, mut other) = (gateway.open("/ws").await, gateway.open("/ws/other").await);
    connected(&gateway).await;
    old.say("one");
    ws.expect_text("one").await;
    reload(&gateway, "", &upstream("feed", &new, "to = \"/ws/other\"\nwholemsg = true")).await;
    new.wait_opened(1).await;
    connected(&gateway).await;
    assert_eq!(send(&gateway, "feed", "hello").await, 200);
    assert_eq!(new.wait_said(1).await, [Message::text(r#"{"payload":"hello"}"#)]);
    new.say(r#"{"payload":"two"}"#);
    other.expect_text("two").await;
    assert_eq!(close_of(&old), Some(1001));
    assert_eq!((old.opened(), new.opened()), (1, 1));

    // What is wrong changes nothing, and neither does what says the same.
    gateway.replace_config(&format!("{DOORS}{PATHS}[[upstream]]\nname = \"feed\"\n"));
    gateway.signal(Signal::HUP);
    eventually("a complaint", async || {
        gateway.log().contains("kept the old configuration").then_some(())
    })
    .await;
    let same = "wholemsg = true\nheartbeat = \"30s\"\nto = \"/ws/other\"";
    reload(&gateway, "", &upstream("feed", &new, same)).await;
    new.say("three");
    other.expect_text("three").await;
    assert_eq!(new.opened(), 1);
}

#[tokio::test]
async fn what_waits_for_a_webhook_that_is_no_more_keeps_nothing_from_the_next() {
    let remote = Remote::start(Manner::Open).await;
    let (mut old, new) = (Backend::start().await, Backend::start().await);
    let with = |backend: &Backend| {
        upstream("feed", &remote, &format!("backend = {{ webhook = \"{}\" }}", backend.url()))
    };
    let gateway = start(&with(&old)).await;
    old.wait("connect", 1).await;
    old.kill().await;
    for number in 0..200 {
        remote.say(number.to_string());
    }
    let waiting = "pathcast_webhook_waiting_bytes";
    eventually("a lane that is full", async || {
        (gateway.counted(waiting).await > 10_000).then_some(())
    })
    .await;
    reload(&gateway, "", &with(&new)).await;
    new.wait("connect", 1).await;
    remote.say("for the new one");
    assert_eq!(new.wait("message", 1).await[0].text(), "for the new one");
    // The old one gets what was read for it, should it come back.
    old.say(|_| status(204));
    old.restart().await;
    old.wait("disconnect", 1).await;
    assert_eq!(old.of("message").last().map(|last| last.seq() < 200), Some(true));
}

#[tokio::test]
async fn pods_that_take_the_settings_one_after_the_other_end_with_one_connection_as_it_is_now() {
    let server = Redis::start();
    let (old, new) = (Remote::start(Manner::Open).await, Remote::start(Manner::Open).await);
    let broker = format!("[broker]\nurl = \"{}\"\n", server.url());
    let config = format!("{broker}{PATHS}{}", upstream("feed", &old, ""));
    let pods = [Gateway::start(&config).await, Gateway::start(&config).await];
    for pod in &pods {
        pod.ready().await;
        connected(pod).await;
    }
    for pod in &pods {
        reload(pod, &broker, &upstream("feed", &new, "")).await;
    }
    let opened = new.wait_opened(1).await;
    assert!(opened.epoch >= 2, "another holder than the first: {opened:?}");
    for (number, pod) in pods.iter().enumerate() {
        eventually("a message that is sent", async || {
            (send(pod, "feed", &number.to_string()).await == 200).then_some(())
        })
        .await;
    }
    let said = new.wait_said(2).await;
    assert_eq!(said, [Message::text("0"), Message::text("1")]);
    eventually("a farewell to the old one", async || close_of(&old)).await;
}

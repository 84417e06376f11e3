//! A listener at one pod hears the clients of all, from now on; and is told when it may have missed
//! something.

mod support;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::client::Client;
use support::events::{Event, Events};
use support::gateway::{DOORS, Gateway};
use support::redis::Redis;
use support::wait::eventually;

/// Paths that nobody has listened to before.
const FRESH: usize = 12;

fn settings(server: &Redis) -> String {
    let url = server.url();
    let mut settings = format!("[broker]\nurl = \"{url}\"\n");
    settings +=
        "[[path]]\npath = \"/ws\"\n[[path]]\npath = \"/ws/rooms/{room}\"\nwholemsg = true\n";
    for number in 0..FRESH {
        settings += &format!("[[path]]\npath = \"/ws/fresh/{number}\"\n");
    }
    settings
}

async fn start(server: &Redis) -> Gateway {
    let gateway = Gateway::start(&settings(server)).await;
    eventually("a pod that is ready", async || {
        (gateway.fetch("/readyz").await.status == 200).then_some(())
    })
    .await;
    gateway
}

/// The value of a family without labels.
async fn metric(gateway: &Gateway, name: &str) -> u64 {
    let metrics = gateway.fetch("/metrics").await.text;
    let value = metrics.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    let value = value.unwrap_or_else(|| panic!("no {name} in {metrics}"));
    value.parse().expect("a whole number")
}

/// The session of the next connect.
async fn came(events: &mut Events) -> String {
    let event = events.next().await;
    assert_eq!((event.kind.as_str(), &event.json()["seq"]), ("connect", &json!(0)), "{event:?}");
    event.text("session")
}

async fn says(client: &mut Client, text: &str, seq: u64, events: &mut [&mut Events]) {
    client.writer.text(text).await;
    for events in events {
        let event = events.next().await;
        let json = event.json();
        assert_eq!((&json["seq"], &json["msg"]["payload"]), (&json!(seq), &json!(text)), "{json}");
    }
}

fn is_gap(event: &Event) -> bool {
    event.kind == "gap"
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_all_pods_are_heard_in_the_order_of_what_they_do() {
    let server = Redis::start();
    let (a, b) = (start(&server).await, start(&server).await);
    let mut all = a.listen("/ws/rooms/{room}").await;
    let mut one = a.listen("/ws/rooms/1").await;
    let mut there = b.listen("/ws/rooms/{room}").await;
    let mut client = b.open("/ws/rooms/1").await;
    let session = came(&mut all).await;
    assert_eq!(came(&mut one).await, session);
    // Told by its own pod, and not a second time through Redis.
    assert_eq!(came(&mut there).await, session);
    let mut other = a.open("/ws/rooms/2").await;
    let near = came(&mut all).await;
    assert_eq!(came(&mut there).await, near);
    for number in 0..200 {
        client.writer.text(&number.to_string()).await;
    }
    client.writer.close(Some(1000), "bye").await;
    for events in [&mut all, &mut one, &mut there] {
        for number in 0..200 {
            let event = events.next().await;
            assert_eq!(event.id, format!("{session}-{}", number + 1));
            assert_eq!(event.json()["msg"]["payload"], json!(number));
        }
        let gone = events.next().await;
        assert_eq!((gone.kind.as_str(), gone.id), ("disconnect", format!("{session}-end")));
    }
    // The other way round.
    says(&mut other, "hi", 1, &mut [&mut all, &mut there]).await;

    // A pod that comes later tells from its first session on.
    let mut late = start(&server).await;
    let mut first = late.open("/ws/rooms/3").await;
    for events in [&mut all, &mut there] {
        came(events).await;
    }
    says(&mut first, "late", 1, &mut [&mut all, &mut there]).await;
    // What happens when it leaves is told before it has left.
    late.signal(Signal::TERM);
    for events in [&mut all, &mut there] {
        let gone = events.next().await.json();
        assert_eq!(
            (&gone["type"], &gone["cause"]),
            (&json!("disconnect"), &json!("drain")),
            "{gone}"
        );
    }
    assert!(late.exit().await.success(), "{}", late.log());
    // Far more often than it could have been silent.
    assert_eq!(metric(&a, "pathcast_event_listeners").await, 2);
    assert_eq!(metric(&a, "pathcast_event_taps").await, 1);
    assert_eq!(metric(&a, "pathcast_events_missed_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missed_from_the_moment_the_head_was_read() {
    let server = Redis::start();
    let (a, b) = (start(&server).await, start(&server).await);
    for number in 0..FRESH {
        let path = format!("/ws/fresh/{number}");
        let mut client = b.open(&path).await;
        client.writer.text("before").await;
        eventually("a message that nobody hears", async || {
            let family = format!("pathcast_messages_in_total{{path=\"{path}\"}}");
            (metric(&b, &family).await == 1).then_some(())
        })
        .await;
        let mut events = a.listen(&path).await;
        says(&mut client, "now", 2, &mut [&mut events]).await;
        let _second = b.open(&path).await;
        came(&mut events).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_whose_pod_died_is_told_nothing_more() {
    let server = Redis::start();
    let (mut a, b) = (start(&server).await, start(&server).await);
    let _events = a.listen("/ws").await;
    assert_eq!(metric(&b, "pathcast_event_taps").await, 1);
    a.signal(Signal::KILL);
    a.exit().await;
    eventually("a tap that lapses", async || {
        (metric(&b, "pathcast_event_taps").await == 0).then_some(())
    })
    .await;
    assert_eq!(server.command(&["EXISTS", "pathcast:tap:/ws"]), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_told_after_the_link_broke_and_all_is_heard_from_then_on() {
    let mut server = Redis::start();
    let (a, b) = (start(&server).await, start(&server).await);
    let mut events = a.listen("/ws").await;
    let mut client = b.open("/ws").await;
    came(&mut events).await;
    for round in 0..3 {
        match round {
            0 => server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]),
            _ => {
                server.kill();
                eventually("a refused listener", async || {
                    let refused = a.fetch("/v1/events/ws/rooms/1").await;
                    (refused.status == 503).then(|| {
                        assert!(refused.headers.contains_key("retry-after"));
                    })
                })
                .await;
                server.restart();
                String::new()
            }
        };
        let gap = events.until(is_gap).await;
        assert_eq!(gap.json(), json!({"missed": null}));
        eventually("the other pod's link", async || {
            (metric(&b, "pathcast_broker_up").await == 1).then_some(())
        })
        .await;
        client.writer.text(&format!("after {round}")).await;
        let event = events.until(|event| !is_gap(event)).await;
        assert_eq!(event.json()["msg"]["payload"], json!(format!("after {round}")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_cannot_be_asked_or_has_died_is_a_gap() {
    let server = Redis::start();
    let (a, mut b) = (start(&server).await, start(&server).await);
    let mut client = b.open("/ws").await;
    b.signal(Signal::STOP);
    // It may be telling, or not: nobody knows.
    let mut events = a.listen("/ws").await;
    assert_eq!(events.next().await.json(), json!({"missed": null}));
    b.signal(Signal::CONT);
    // It finds out by itself, and listeners are told from when on.
    client.writer.text("again").await;
    let mut here = a.open("/ws").await;
    events.until(|event| event.kind == "connect").await;
    eventually("a pod that tells", async || {
        (metric(&b, "pathcast_event_taps").await == 1).then_some(())
    })
    .await;
    client.writer.text("heard").await;
    let heard = |event: &Event| event.json()["msg"]["payload"] == "heard";
    events.until(heard).await;

    b.signal(Signal::KILL);
    b.exit().await;
    assert_eq!(events.until(is_gap).await.json(), json!({"missed": null}));
    says(&mut here, "still here", 1, &mut [&mut events]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_told_to_those_before_when_another_listener_finds_a_pod() {
    const LATER: &str = "[[path]]\npath = \"/ws/later\"\n";
    let server = Redis::start();
    let a = Gateway::start(&(settings(&server) + LATER)).await;
    a.ready().await;
    let b = start(&server).await;
    let mut first = a.listen("/ws/later").await;
    // From here on it has the path, and does not know that somebody listens.
    b.replace_config(&(DOORS.to_owned() + &settings(&server) + LATER));
    b.signal(Signal::HUP);
    let upgrade = support::client::Request::upgrade("/ws/later");
    let mut client = eventually("a path that is new", async || {
        support::client::ask(b.clients, &upgrade).await.ok()
    })
    .await;
    client.writer.text("lost").await;
    let series = "pathcast_messages_in_total{path=\"/ws/later\"}";
    eventually("a message", async || (b.counted(series).await == 1).then_some(())).await;
    let mut second = a.listen("/ws/later").await;
    client.writer.text("heard").await;
    let said = |event: &Event| event.json()["msg"]["payload"].as_str().map(str::to_owned);
    let mut before = Vec::new();
    while before.last().is_none_or(|event| said(event).as_deref() != Some("heard")) {
        before.push(first.next().await);
    }
    let is_told =
        before.iter().any(|event| is_gap(event) || said(event).as_deref() == Some("lost"));
    assert!(is_told, "{before:?}");
    second.until(|event| said(event).as_deref() == Some("heard")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_events_of_a_session_tell_the_trace_that_it_came_within() {
    let server = Redis::start();
    let (a, b) = (start(&server).await, start(&server).await);
    let mut events = a.listen("/ws").await;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (header, expected) in [(traceparent, json!(traceparent)), ("00-x", Value::Null)] {
        let request = support::client::Request::upgrade("/ws").header("traceparent", header);
        let client = support::client::ask(b.clients, &request).await;
        let mut client = client.expect("the path is open");
        client.writer.text("x").await;
        client.writer.close(None, "").await;
        for kind in ["connect", "message", "disconnect"] {
            let event = events.next().await.json();
            assert_eq!((&event["type"], &event["traceparent"]), (&json!(kind), &expected));
        }
    }
}

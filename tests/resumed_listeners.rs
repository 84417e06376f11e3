//! A listener that was cut off comes back with the last event it had: it goes on behind that one, or is told
//! that something is missing.

mod support;

use serde_json::json;
use support::client::Client;
use support::events::{Event, Events};
use support::gateway::Gateway;
use support::redis::Redis;
use support::wait::within;

const PATHS: &str = "[[path]]\npath = \"/ws\"\n[[path]]\npath = \"/ws/rooms/{room}\"\n";

async fn on(server: &Redis) -> Gateway {
    let gateway = Gateway::start(&format!("[broker]\nurl = \"{}\"\n{PATHS}", server.url())).await;
    gateway.ready().await;
    gateway
}

async fn come_back(gateway: &Gateway, path: &str, last: &str) -> Events {
    let request = gateway.call("GET", &format!("/v1/events{path}")).header("last-event-id", last);
    let response = within("a stream of events", request.send()).await;
    Events::new(response.expect("the publishers' door answers"))
}

async fn say(client: &mut Client, texts: std::ops::Range<u32>) {
    for text in texts {
        client.writer.text(&text.to_string()).await;
    }
}

/// The next messages are these; the ids of their events.
async fn expect(events: &mut Events, texts: std::ops::Range<u32>) -> Vec<String> {
    let mut ids = Vec::new();
    for text in texts {
        let event = events.next().await;
        assert_eq!(event.json()["msg"]["payload"], json!(text.to_string()), "{event:?}");
        ids.push(event.id);
    }
    ids
}

fn is_connect(event: &Event) -> bool {
    event.kind == "connect"
}

async fn expect_gap(events: &mut Events) {
    let gap = events.next().await;
    assert_eq!((gap.kind.as_str(), gap.json()), ("gap", json!({"missed": null})));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_comes_back_has_missed_nothing() {
    let gateway = Gateway::start(PATHS).await;
    let mut events = gateway.listen("/ws/rooms/{room}").await;
    let mut client = gateway.open("/ws/rooms/1").await;
    let mut other = gateway.open("/ws/rooms/2").await;
    for _ in 0..2 {
        events.until(is_connect).await;
    }
    say(&mut client, 0..5).await;
    let ids = expect(&mut events, 0..5).await;
    drop(events);
    say(&mut client, 5..10).await;

    for (last, from) in [(&ids[2], 3), (&ids[4], 5)] {
        let mut again = come_back(&gateway, "/ws/rooms/{room}", last).await;
        expect(&mut again, from..10).await;
    }
    // Of the one room only, also for somebody who heard all of them.
    say(&mut other, 100..101).await;
    say(&mut client, 10..11).await;
    let mut one = come_back(&gateway, "/ws/rooms/1", &ids[4]).await;
    expect(&mut one, 5..11).await;
    say(&mut client, 11..12).await;
    expect(&mut one, 11..12).await;
    let mut unknown = come_back(&gateway, "/ws/rooms/1", "nobody's").await;
    expect_gap(&mut unknown).await;
    say(&mut client, 12..13).await;
    expect(&mut unknown, 12..13).await;
    // Without an id, and on another path, it is from now on.
    let mut fresh = come_back(&gateway, "/ws/rooms/1", "").await;
    let mut elsewhere = come_back(&gateway, "/ws", &ids[4]).await;
    expect_gap(&mut elsewhere).await;
    say(&mut client, 13..14).await;
    expect(&mut fresh, 13..14).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_other_pods_told_meanwhile_is_there_and_a_pod_that_heard_nothing_says_so() {
    let server = Redis::start();
    let pods = [on(&server).await, on(&server).await, on(&server).await];
    let mut events = pods[0].listen("/ws").await;
    let mut client = pods[1].open("/ws").await;
    events.until(is_connect).await;
    say(&mut client, 0..3).await;
    let ids = expect(&mut events, 0..3).await;
    drop(events);
    say(&mut client, 3..6).await;
    let mut again = come_back(&pods[0], "/ws", &ids[2]).await;
    expect(&mut again, 3..6).await;
    let mut elsewhere = come_back(&pods[2], "/ws", &ids[2]).await;
    expect_gap(&mut elsewhere).await;
    say(&mut client, 6..9).await;
    let ids = expect(&mut elsewhere, 6..9).await;
    // A pod that heard it too knows it.
    expect(&mut again, 6..9).await;
    drop(again);
    let mut again = come_back(&pods[0], "/ws", &ids[0]).await;
    expect(&mut again, 7..9).await;
}

//! Webhooks of pods that share a Redis: answers go through it, what is given up is kept in it, and nothing
//! leaves a pod that may have been taken for dead.

mod support;

use std::time::Duration;

use support::backend::{Backend, answer, status};
use support::client::Client;
use support::gateway::Gateway;
use support::redis::Redis;
use support::wait::{eventually, poll_pause};

async fn start(server: &Redis, backend: &Backend, policy: &str) -> Gateway {
    let (redis, url) = (server.url(), backend.url());
    let gateway = Gateway::start(&format!(
        "[broker]\nurl = \"{redis}\"\nlease_ttl = \"3s\"\n[[path]]\npath = \"/ws/{{room}}\"\n\
         backend = {{ webhook = \"{url}\"{policy} }}\n"
    ))
    .await;
    gateway.ready().await;
    gateway
}

#[tokio::test]
async fn what_is_given_up_is_kept_in_redis_as_the_event_it_was() {
    let server = Redis::start();
    let backend = Backend::start().await;
    let gateway = start(&server, &backend, "").await;
    let mut events = gateway.listen("/ws/1").await;
    let mut client = gateway.open("/ws/1").await;
    backend.say(|asked| match &asked.body[..] {
        b"good" => answer(200, "text/plain", asked.body.clone()),
        _ => status(422),
    });
    client.writer.text("bad").await;
    client.writer.binary(&[0, 255]).await;
    client.writer.text("good").await;
    client.expect_text("good").await;
    client.leave().await;
    let mut told = Vec::new();
    for _ in 0..5 {
        told.push(events.next().await);
    }
    let dead: Vec<(String, Vec<String>)> = eventually("three dead letters", async || {
        let range = ["-2", "--json", "XRANGE", "pathcast:dead:/ws/{room}", "-", "+"];
        let dead: Vec<_> = serde_json::from_str(&server.command(&range)).expect("entries");
        (dead.len() == 3).then_some(dead)
    })
    .await;
    for ((_, fields), told) in dead.iter().zip([&told[1], &told[2], &told[4]]) {
        let [.., error] = &fields[..] else { panic!("fields") };
        assert_eq!(error, "it answered 422");
        assert_eq!(fields[..4], ["id", &told.id, "type", &told.kind]);
        let event: serde_json::Value = serde_json::from_str(&fields[5]).expect("JSON");
        let (mut event, mut told) = (event, told.json());
        for event in [&mut event, &mut told] {
            event["time"].take();
        }
        assert_eq!(event, told);
    }
}

#[tokio::test]
async fn answers_come_through_redis_and_in_order_with_what_others_publish() {
    let server = Redis::start();
    let backend = Backend::start().await;
    let gateway = start(&server, &backend, "").await;
    let other = start(&server, &backend, "").await;
    let mut client = gateway.open("/ws/1").await;
    backend.say(|asked| answer(200, "text/plain", asked.body.clone()));
    for number in 0..200 {
        client.writer.text(&number.to_string()).await;
    }
    other.broadcast("/ws/1", r#"{"payload":"from another pod"}"#).await;
    let mut answers = Vec::new();
    while answers.len() < 201 {
        match client.message().await {
            support::client::Heard::Text(text) => answers.push(text),
            heard => panic!("{heard:?}"),
        }
    }
    answers.retain(|text| text != "from another pod");
    assert_eq!(answers, (0..200).map(|number| number.to_string()).collect::<Vec<_>>());
}

/// Whether the backend hears the next message soon.
async fn is_heard(client: &mut Client, backend: &Backend, number: &mut usize) -> bool {
    client.writer.text(&number.to_string()).await;
    *number += 1;
    let heard = async {
        while backend.of("message").len() < *number {
            poll_pause().await;
        }
    };
    tokio::time::timeout(Duration::from_millis(500), heard).await.is_ok()
}

#[tokio::test]
async fn a_pod_whose_lease_has_lapsed_posts_nothing_until_it_is_renewed() {
    let mut server = Redis::start();
    let backend = Backend::start().await;
    let gateway = start(&server, &backend, "").await;
    let mut client = gateway.open("/ws/1").await;
    let mut number = 0;
    assert!(is_heard(&mut client, &backend, &mut number).await);
    server.kill();
    eventually("a lease that has lapsed", async || {
        (!is_heard(&mut client, &backend, &mut number).await).then_some(())
    })
    .await;
    let (heard, silence) = (backend.of("message").len(), number);
    for _ in 0..3 {
        assert!(!is_heard(&mut client, &backend, &mut number).await, "it has lapsed");
    }
    assert_eq!(backend.of("message").len(), heard);
    server.restart();
    let asked = backend.wait("message", number).await;
    let texts: Vec<_> = asked.iter().map(|asked| asked.text().to_owned()).collect();
    assert_eq!(texts, (0..number).map(|number| number.to_string()).collect::<Vec<_>>());
    assert!(silence < number);
}

//! Upstreams with a webhook: what a backend is posted of them, and how its answers go out.

mod support;

use std::time::Duration;

use serde_json::json;
use support::backend::{Asked, Backend, answer, logged, series, status};
use support::events::Events;
use support::gateway::{DOORS, Gateway, fail_to_start};
use support::redis::Redis;
use support::remote::{Manner, Remote};
use support::wait::{eventually, poll_pause, within};
use tokio_tungstenite::tungstenite::Message;

fn upstream(remote: &Remote, backend: &Backend, policy: &str) -> String {
    let (url, webhook) = (remote.url(), backend.url());
    format!(
        "[[path]]\npath = \"/ws\"\n[[upstream]]\nname = \"feed\"\nurl = \"{url}\"\n\
         reconnect_min = \"20ms\"\nreconnect_max = \"100ms\"\n\
         backend = {{ webhook = \"{webhook}\"{policy} }}\n"
    )
}

/// A gateway that is connected to that remote, whose events go to that backend.
async fn start(remote: &Remote, backend: &Backend, settings: &str) -> Gateway {
    let config = format!("{}{settings}", upstream(remote, backend, ""));
    let gateway = Gateway::start(&config).await;
    backend.wait("connect", 1).await;
    gateway
}

async fn listen(gateway: &Gateway) -> Events {
    let request = gateway.call("GET", "/v1/upstreams/feed/events");
    let response = within("a stream of events", request.send()).await.expect("an answer");
    assert_eq!(response.status(), 200);
    Events::new(response)
}

fn texts(asked: &[Asked]) -> Vec<&str> {
    asked.iter().map(Asked::text).collect()
}

/// Waits until so many were received from it; what is received before anything can be told.
async fn received(gateway: &Gateway) -> u64 {
    let family = "pathcast_upstream_messages_total{name=\"feed\",result=\"received\"}";
    gateway.counted(family).await
}

#[tokio::test]
async fn an_event_of_an_upstream_is_a_cloud_event_with_the_frame_as_its_body() {
    let (remote, backend) = (Remote::start(Manner::Refuse(503)).await, Backend::start().await);
    let gateway = Gateway::start(&upstream(&remote, &backend, "")).await;
    let mut events = listen(&gateway).await;
    remote.behave(Manner::Open);
    backend.wait("connect", 1).await;
    remote.say("line\nbreak \"é\"");
    remote.say(vec![0, 10, 255]);
    remote.say("");
    backend.wait("message", 3).await;
    remote.behave(Manner::Refuse(503));
    remote.say(Message::Close(None));
    backend.wait("disconnect", 1).await;
    let asked = backend.asked();
    assert_eq!(asked.len(), 5);
    let bodies = ["line\nbreak \"é\"".as_bytes(), &[0, 10, 255], b""];
    let types =
        ["text/plain; charset=utf-8", "application/octet-stream", "text/plain; charset=utf-8"];
    for (number, asked) in asked.iter().enumerate() {
        let told = events.next().await;
        assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/hook?a=b"));
        assert_eq!(asked.kind(), told.kind);
        for (name, value) in [
            ("ce-specversion", "1.0"),
            ("ce-id", &told.id),
            ("ce-source", "/pathcast-upstream/feed"),
            ("ce-subject", "feed"),
            ("ce-upstream", "feed"),
            ("ce-pod", &told.text("pod")),
            ("ce-seq", &number.to_string()),
            ("ce-time", &told.text("time")),
            ("webhook-id", &told.id),
        ] {
            assert_eq!(asked.header(name), value, "{name} of {asked:?}");
        }
        for absent in ["ce-sessionid", "ce-path", "traceparent"] {
            assert_eq!(asked.headers.get(absent), None);
        }
        if (1..=3).contains(&number) {
            assert_eq!(asked.body, bodies[number - 1]);
            assert_eq!(asked.header("content-type"), types[number - 1]);
        } else {
            assert_eq!(asked.header("content-type"), "application/json");
            assert_eq!(asked.json(), told.json());
        }
    }
    assert_eq!(asked[0].json()["remote"], remote.addr.to_string());
    assert_eq!(asked[4].json()["cause"], "client");
}

#[tokio::test]
async fn an_answer_goes_out_on_the_upstream_before_the_next_event_is_posted() {
    let (remote, backend) = (Remote::start(Manner::Open).await, Backend::start().await);
    // Nobody is asked whether an upstream may come.
    backend.say(|_| answer(403, "application/json", r#"{"user":"nobody"}"#));
    let gateway = start(&remote, &backend, "").await;
    backend.say(|asked| match asked.text() {
        "octets" => answer(200, "image/png", "\u{1}"),
        "json" => answer(200, "application/json", r#"{"a": 1.50}"#),
        "nothing" => status(204),
        "accepted" => answer(202, "text/plain", "no answer"),
        "garbage" => answer(200, "text/plain", vec![0xff, 0xfe]),
        _ => answer(200, "text/plain", asked.body.clone()),
    });
    let mut expected = Vec::new();
    for number in 0..100 {
        remote.say(number.to_string());
        expected.push(Message::text(number.to_string()));
    }
    for ask in ["octets", "nothing", "accepted", "garbage", "json"] {
        remote.say(ask);
    }
    expected.extend([Message::binary(vec![1]), Message::text(r#"{"a": 1.50}"#)]);
    assert_eq!(remote.wait_said(102).await, expected);
    logged(&gateway, &["not UTF-8", "upstream=feed"]).await;
    assert_eq!(backend.of("message").len(), 105, "each was asked once");
    assert_eq!(remote.opened(), 1);
}

#[tokio::test]
async fn whole_msgs_are_posted_and_answered_whole() {
    let (remote, backend) = (Remote::start(Manner::Open).await, Backend::start().await);
    let _gateway = start(&remote, &backend, "wholemsg = true\n").await;
    backend.say(|asked| answer(200, "application/json", asked.body.clone()));
    remote.say(r#" {"topic":"t","_session":{"type":"websocket","id":"x"},"payload":1.50e3} "#);
    remote.say("[1]");
    remote.say(vec![0xff]);
    let expected = [
        r#"{"topic":"t","payload":1.50e3}"#,
        r#"{"payload":[1]}"#,
        r#"{"payload":{"type":"Buffer","data":"/w=="}}"#,
    ];
    assert_eq!(remote.wait_said(3).await, expected.map(Message::text));
    let asked = backend.of("message");
    assert_eq!(texts(&asked), expected);
    assert!(asked.iter().all(|asked| asked.header("content-type") == "application/json"));
}

#[tokio::test]
async fn a_backend_that_hangs_stops_the_reading_and_everything_arrives_afterwards() {
    const MESSAGES: usize = 300;
    let (remote, backend) = (Remote::start(Manner::Open).await, Backend::start().await);
    let gateway =
        start(&remote, &backend, "heartbeat = \"200ms\"\n[webhook]\ntimeout = \"1h\"\n").await;
    let before = gateway.rss_bytes();
    let go = backend.hold(|_| true);
    let payload = "x".repeat(100_000);
    for number in 0..MESSAGES {
        remote.say(format!("{number} {payload}"));
    }
    backend.wait("message", 1).await;
    for _ in 0..100 {
        poll_pause().await;
        let received = received(&gateway).await;
        assert!(received < 5, "{received} are read though the backend takes nothing");
    }
    let grown = gateway.rss_bytes().saturating_sub(before);
    assert!(grown < 10 << 20, "{grown} bytes more for a flood of 30 MB");
    assert_eq!(backend.of("message").len(), 1, "one under way at a time");
    // What is sent to it goes out meanwhile.
    let said = gateway.post("/v1/upstreams/feed", "text/plain", "hello").await;
    assert_eq!(said.status, 200, "{}", said.text);
    go.send_replace(true);
    let asked = backend.wait("message", MESSAGES).await;
    for (number, asked) in asked.iter().enumerate() {
        assert!(asked.text().starts_with(&format!("{number} ")), "{:.20}", asked.text());
    }
    assert_eq!(remote.opened(), 1, "its heartbeat stood still");
    assert_eq!(gateway.counted("pathcast_webhook_waiting_bytes").await, 0);
}

#[tokio::test]
async fn what_fails_is_posted_again_or_given_up_as_the_settings_say() {
    let (remote, backend) = (Remote::start(Manner::Open).await, Backend::start().await);
    let policy = ", on_error = \"drop\", retry_for = \"300ms\"";
    let gateway = Gateway::start(&upstream(&remote, &backend, policy)).await;
    backend.wait("connect", 1).await;
    backend.say(|asked| match asked.text() {
        "never" => status(500),
        "refused" => status(422),
        _ => answer(200, "text/plain", asked.body.clone()),
    });
    for text in ["never", "refused", "last"] {
        remote.say(text);
    }
    assert_eq!(remote.wait_said(1).await, [Message::text("last")]);
    logged(&gateway, &["gave up an event: it answered 500", "gave up an event: it answered 422"])
        .await;
    assert_eq!(gateway.counted(&series("dropped")).await, 1);
    assert_eq!(gateway.counted(&series("refused")).await, 1);

    let (remote, mut backend) = (Remote::start(Manner::Open).await, Backend::start().await);
    let _gateway = start(&remote, &backend, "").await;
    backend.kill().await;
    for number in 0..200 {
        remote.say(number.to_string());
    }
    backend.restart().await;
    let asked = backend.wait("message", 200).await;
    let mut heard = texts(&asked);
    heard.dedup();
    assert_eq!(heard, (0..200).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn policies_for_sessions_are_refused_for_upstreams() {
    for (policy, expected) in [
        ("webhook = \"http://a/\", on_error = \"close\"", "close"),
        ("webhook = \"http://a/\", on_connect_error = \"accept\"", "on_connect_error"),
        ("webhook = \"ftp://a/\"", "http or https"),
    ] {
        let said = fail_to_start(&format!(
            "{DOORS}[[path]]\npath = \"/ws\"\n[[upstream]]\nname = \"a\"\nurl = \"ws://a/\"\n\
             backend = {{ {policy} }}\n"
        ))
        .await;
        assert!(said.contains(expected), "{policy}: {said}");
    }
}

#[tokio::test]
async fn a_pod_that_leaves_posts_what_it_has_heard_and_the_next_one_goes_on() {
    let server = Redis::start();
    let (remote, backend) = (Remote::start(Manner::Open).await, Backend::start().await);
    let redis = server.url();
    let config = format!("[broker]\nurl = \"{redis}\"\n{}", upstream(&remote, &backend, ""));
    let mut first = Gateway::start(&config).await;
    backend.wait("connect", 1).await;
    let second = Gateway::start(&config).await;
    second.ready().await;
    backend.answer(|asked| async move {
        poll_pause().await;
        answer(200, "text/plain", asked.body.clone())
    });
    for number in 0..30 {
        remote.say(number.to_string());
    }
    eventually("all of them at the pod", async || (received(&first).await == 30).then_some(()))
        .await;
    first.signal(rustix::process::Signal::TERM);
    assert!(first.exit().await.success(), "{}", first.log());
    backend.wait("connect", 2).await;
    remote.say("last");
    let asked = backend.wait("message", 31).await;
    let mut expected: Vec<_> = (0..30).map(|number| number.to_string()).collect();
    expected.push("last".to_owned());
    assert_eq!(texts(&asked), expected);
    assert_eq!(backend.of("disconnect")[0].json()["cause"], "drain");
    eventually("an answer to the second pod's event", async || {
        remote.said().contains(&Message::text("last")).then_some(())
    })
    .await;
    // What is given up is kept, as it is of paths.
    backend.say(|_| status(422));
    remote.say("bad");
    let dead: Vec<(String, Vec<String>)> = eventually("a dead letter", async || {
        let range = ["-2", "--json", "XRANGE", "pathcast:dead:feed", "-", "+"];
        let dead: Vec<_> = serde_json::from_str(&server.command(&range)).expect("entries");
        (dead.len() == 1).then_some(dead)
    })
    .await;
    let event: serde_json::Value = serde_json::from_str(&dead[0].1[5]).expect("JSON");
    assert_eq!((&event["upstream"], &event["msg"]), (&json!("feed"), &json!({"payload": "bad"})));
}

#[tokio::test]
async fn a_pod_whose_lease_has_lapsed_posts_nothing_of_an_upstream_until_it_is_renewed() {
    let mut server = Redis::start();
    let (remote, backend) = (Remote::start(Manner::Open).await, Backend::start().await);
    let others = Backend::start().await;
    let config = format!(
        "[broker]\nurl = \"{}\"\nlease_ttl = \"3s\"\n{}[[path]]\npath = \"/ws/heard\"\n\
         backend = {{ webhook = \"{}\" }}\n",
        server.url(),
        upstream(&remote, &backend, ""),
        others.url()
    );
    let gateway = Gateway::start(&config).await;
    backend.wait("connect", 1).await;
    let mut client = gateway.open("/ws/heard").await;
    let go = backend.hold(|_| true);
    for number in 0..5 {
        remote.say(number.to_string());
    }
    backend.wait("message", 1).await;
    eventually("all of them at the pod", async || (received(&gateway).await == 5).then_some(()))
        .await;
    server.kill();
    // A session's events tell when the lease has lapsed.
    eventually("a lease that has lapsed", async || {
        let before = others.of("message").len();
        client.writer.text("?").await;
        let heard = async {
            while others.of("message").len() == before {
                poll_pause().await;
            }
        };
        tokio::time::timeout(Duration::from_millis(500), heard).await.is_err().then_some(())
    })
    .await;
    go.send_replace(true);
    for _ in 0..50 {
        poll_pause().await;
        assert_eq!(backend.of("message").len(), 1, "it has lapsed");
    }
    server.restart();
    let asked = backend.wait("message", 5).await;
    assert_eq!(texts(&asked), ["0", "1", "2", "3", "4"]);
}

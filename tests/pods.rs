//! Gateways on one Redis are one gateway: clients at the one, publishers at the other; and each goes
//! on when another, or Redis, does not.

mod support;

use std::time::{Duration, Instant};

use pathcast::proto::ask::Ask;
use pathcast::proto::envelope::{Body, Envelope};
use rustix::process::Signal;
use serde_json::{Value, json};
use support::client::{Heard, Request, ask};
use support::gateway::send;
use support::pods::{is_ready, msg, start, start_peer, to};
use support::redis::Redis;
use support::resp::Connection;
use support::wait::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_reached_from_every_pod() {
    let server = Redis::start();
    let (a, b) = (start(&server, "").await, start_peer(&server).await);
    let mut events = a.listen("/ws").await;
    let (mut here, session) = a.open_known("/ws", &mut events).await;
    let mut events = b.listen("/ws").await;
    let (mut there, far) = b.open_known("/ws", &mut events).await;
    let mut room = a.open("/ws/rooms/1").await;

    let said = b.publish("/ws", msg("to all")).await;
    assert_eq!((said.status, &said.json()["receivers"]), (202, &json!(2)));
    here.expect_text("to all").await;
    there.expect_text("to all").await;
    for (publisher, session, client) in [(&b, &session, &mut here), (&a, &far, &mut there)] {
        let said = publisher.publish("/ws", to(session, "to one")).await;
        assert_eq!((said.status, said.json()), (200, json!({"result": "delivered"})));
        client.expect_text("to one").await;
    }
    server.publish("pathcast:out:/ws", msg("from Redis").as_bytes());
    here.expect_text("from Redis").await;
    there.expect_text("from Redis").await;
    b.broadcast("/ws/rooms/1", r#"{"topic":"t","payload":1.50}"#).await;
    room.expect_text(r#"{"topic":"t","payload":1.50}"#).await;
    // A session is good for its own path only.
    assert_eq!(b.publish("/ws/rooms/1", to(&session, "x")).await.status, 410);

    for gateway in [&a, &b] {
        let page = gateway.fetch("/v1/sessions?path=/ws").await.json();
        assert_eq!((&page["complete"], &page["missing"]), (&json!(true), &json!([])), "{page}");
        let ids: Vec<&Value> =
            page["sessions"].as_array().expect("a list").iter().map(|one| &one["id"]).collect();
        assert_eq!(ids.len(), 2, "{page}");
        assert!(ids.contains(&&json!(session)), "{page}");
        let paths = gateway.fetch("/v1/paths").await;
        assert_eq!(paths.status, 200, "{}", paths.text);
    }
    let found = b.fetch(&format!("/v1/sessions/{session}")).await;
    assert_eq!((found.status, &found.json()["path"]), (200, &json!("/ws")));
    let kicked = send(b.call("DELETE", &format!("/v1/sessions/{session}?code=4001"))).await;
    assert_eq!(kicked.status, 200, "{}", kicked.text);
    assert_eq!(here.closing().await.close_code(), Some(4001));
    assert_eq!(b.publish("/ws", to(&session, "x")).await.status, 410);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_sessions_stay_and_everybody_else_is_told_to_come_back() {
    let mut server = Redis::start();
    let a = start(&server, "unready_after = \"1s\"\n").await;
    let mut client = a.open("/ws").await;
    server.kill();
    eventually("a publisher that is told", async || {
        let said = a.publish("/ws", msg("x")).await;
        assert!([503, 504].contains(&said.status), "{}", said.text);
        (said.status == 503 && said.headers.contains_key("retry-after")).then_some(())
    })
    .await;
    let refused = ask(a.clients, &Request::upgrade("/ws")).await.err().expect("a refusal");
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(a.fetch("/v1/sessions").await.status, 503);
    is_ready(&a, 503).await;
    assert!(a.fetch("/readyz").await.text.contains("the broker has been away"));
    assert_eq!(a.fetch("/livez").await.status, 200);

    server.restart();
    is_ready(&a, 200).await;
    a.broadcast("/ws", msg("again")).await;
    client.expect_text("again").await;
    let mut late = a.open("/ws").await;
    a.broadcast("/ws", msg("late")).await;
    assert_eq!(client.message().await, Heard::Text("late".into()));
    late.expect_text("late").await;
    assert_eq!(a.counted("pathcast_broker_gaps_total").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_a_dead_pod_is_unknown_and_then_gone() {
    let server = Redis::start();
    let settings = "lease_ttl = \"4s\"\nunicast_timeout = \"500ms\"\n";
    let (a, mut b) = (start(&server, settings).await, start(&server, settings).await);
    let mut c = start(&server, settings).await;
    let mut events = b.listen("/ws").await;
    let (_client, killed) = b.open_known("/ws", &mut events).await;
    let mut events = c.listen("/ws").await;
    let (_client, left) = c.open_known("/ws", &mut events).await;
    for session in [&killed, &left] {
        assert_eq!(a.publish("/ws", to(session, "x")).await.status, 200);
    }

    b.signal(Signal::KILL);
    b.exit().await;
    let died = Instant::now();
    assert_eq!(a.publish("/ws", to(&killed, "x")).await.status, 504);
    let page = a.fetch("/v1/sessions").await.json();
    assert_eq!(
        (&page["complete"], page["missing"].as_array().map(Vec::len)),
        (&json!(false), Some(1))
    );
    let gone = async |session: &str| {
        eventually("a proof", async || match a.publish("/ws", to(session, "x")).await.status {
            410 => Some(()),
            status => {
                assert_eq!(status, 504);
                None
            }
        })
        .await;
    };
    // An id begins with its pod's.
    let lease = format!("pathcast:lease:{}", &killed[..13]);
    assert_eq!(server.command(&["EXISTS", &lease]), "1");
    gone(&killed).await;
    assert_eq!(server.command(&["EXISTS", &lease]), "0");
    assert!(died.elapsed() < Duration::from_secs(4 + 1), "{:?}", died.elapsed());
    assert_eq!(a.publish("/ws", to(&killed, "x")).await.status, 410);
    assert_eq!(a.fetch("/v1/sessions").await.json()["complete"], json!(true));

    // Who leaves in good order says so.
    c.signal(Signal::TERM);
    assert!(c.exit().await.success());
    assert_eq!(a.publish("/ws", to(&left, "x")).await.status, 410);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_closes_the_clients_of_a_path_that_says_so() {
    let server = Redis::start();
    let a = start(&server, "").await;
    let mut events = a.listen("/ws/strict").await;
    let (mut strict, session) = a.open_known("/ws/strict", &mut events).await;
    let mut patient = a.open("/ws").await;
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    let closing = strict.closing().await;
    let Heard::Close(Some((1012, reason))) = closing else { panic!("{closing:?}") };
    let ms = reason.strip_prefix("retry_after_ms=").and_then(|ms| ms.parse::<u64>().ok());
    assert!(ms.is_some_and(|ms| ms <= 5_000), "{reason}");
    let told = events.disconnect_of(&session).await;
    assert_eq!((&told["cause"], &told["code"]), (&json!("gap"), &json!(1012)));
    // Whoever comes back has missed nothing since.
    let mut again = a.open("/ws/strict").await;
    for path in ["/ws", "/ws/strict"] {
        a.broadcast(path, msg("after the gap")).await;
    }
    patient.expect_text("after the gap").await;
    again.expect_text("after the gap").await;
    let metrics = a.fetch("/metrics").await.text;
    let closed = "pathcast_sessions_closed_total{code=\"1012\",path=\"/ws/strict\"} 1";
    assert!(metrics.contains(closed), "{metrics}");
}

/// The next envelope that is meant, with its trace context.
async fn trace_of(heard: &mut Connection, meant: impl Fn(&Body) -> bool) -> Option<String> {
    loop {
        let envelope = Envelope::decode(heard.message().await.into()).expect("an envelope");
        if meant(&envelope.body) {
            return envelope.traceparent.map(|traceparent| traceparent.as_str().to_owned());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_context_of_a_publish_goes_with_it() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let server = Redis::start();
    let a = start(&server, "").await;
    let mut events = a.listen("/ws").await;
    let (_client, session) = a.open_known("/ws", &mut events).await;
    let (mut out, mut inbox) = (server.connect().await, server.connect().await);
    out.subscribe("pathcast:out:/ws").await;
    inbox.subscribe(&format!("pathcast:pod:{}", &session[..13])).await;
    let is_unicast = |body: &Body| matches!(body, Body::Ask { ask: Ask::Unicast { .. }, .. });

    for (given, carried) in [
        (&[TRACE][..], Some(TRACE)),
        (&[&TRACE.replace("00-", "7f-")], Some(TRACE)),
        (&[], None),
        (&["00-0-0-01"], None),
        (&[TRACE, TRACE], None),
    ] {
        let traced = |method: &str, target: &str, content_type: &str, body: String| {
            let request = a.call(method, target).header("content-type", content_type).body(body);
            given.iter().fold(request, |request, trace| request.header("traceparent", *trace))
        };
        let ndjson = |msg: String| format!("{{\"path\":\"/ws\",\"msg\":{msg}}}\n");
        let one = to(&session, "one");
        let requests = [
            ("/v1/publish/ws", "application/json", msg("all")),
            ("/v1/publish", "application/x-ndjson", ndjson(msg("all"))),
            ("/v1/publish/ws", "application/json", one.clone()),
            ("/v1/publish", "application/x-ndjson", ndjson(one)),
            (&format!("/v1/sessions/{session}"), "text/plain", "one".into()),
        ];
        for (at, (target, content_type, body)) in requests.into_iter().enumerate() {
            let said = send(traced("POST", target, content_type, body)).await;
            assert!([200, 202].contains(&said.status), "{}", said.text);
            let heard = match at {
                0 | 1 => trace_of(&mut out, |_| true).await,
                _ => trace_of(&mut inbox, is_unicast).await,
            };
            assert_eq!(heard.as_deref(), carried, "{target} with {given:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_strangers_publish_is_counted_and_so_is_what_becomes_nothing() {
    let server = Redis::start();
    let limits = "[limits]\nframe_bytes_max = \"1KiB\"\n";
    let (a, b) = (start(&server, limits).await, start(&server, limits).await);
    let mut events = a.listen("/ws").await;
    let (mut here, session) = a.open_known("/ws", &mut events).await;
    let mut there = b.open("/ws").await;
    let mut stranger = server.connect().await;
    let large = "x".repeat(1025);
    let (gone, small) = (session.replace(&session[14..], &"a".repeat(26)), msg("small"));
    for published in [
        small.clone(),
        msg(&large),
        r#"{"topic":"no payload"}"#.into(),
        to(&session, "to one"),
        to(&session, &large),
        to(&session, ""),
        to(&gone, "to nobody"),
        to("nobody", "to nobody"),
        "no msg".into(),
        r#"{"payload":{"type":"Buffer","data":7}}"#.into(),
    ] {
        assert_eq!(stranger.publish("pathcast:out:/ws", published.as_bytes()).await, 2);
    }
    a.broadcast("/ws", msg("end")).await;
    for (client, expected) in
        [(&mut here, &["small", "to one", "end"][..]), (&mut there, &["small", "end"])]
    {
        for text in expected {
            client.expect_text(text).await;
        }
    }
    let published =
        |source| format!("pathcast_published_total{{path=\"/ws\",source=\"{source}\"}}");
    let undelivered =
        |reason| format!("pathcast_undelivered_total{{path=\"/ws\",reason=\"{reason}\"}}");
    let unicasts = |result| format!("pathcast_unicast_total{{result=\"{result}\"}}");
    for (series, at_a, at_b) in [
        (published("redis"), 3 + 4, 3),
        (published("http"), 1, 0),
        (undelivered("too_big"), 1, 1),
        (undelivered("nothing"), 1, 1),
        (unicasts("delivered"), 1, 0),
        (unicasts("gone"), 1, 0),
        (unicasts("refused"), 2, 0),
        ("pathcast_broker_malformed_total".into(), 2, 2),
    ] {
        for (gateway, expected) in [(&a, at_a), (&b, at_b)] {
            eventually(&format!("{series} {expected}"), async || {
                (gateway.counted(&series).await == expected).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_tell_of_dead_pods_and_wait_for_all_of_them_once() {
    const ANSWER: Duration = Duration::from_secs(1);
    let server = Redis::start();
    let settings = "lease_ttl = \"12s\"\nunicast_timeout = \"1s\"\n";
    let mut pods = Vec::new();
    for _ in 0..5 {
        pods.push(start(&server, settings).await);
    }
    let (mut clients, mut ids) = (Vec::new(), Vec::new());
    for pod in &pods {
        let mut events = pod.listen("/ws").await;
        for _ in 0..2 {
            let (client, session) = pod.open_known("/ws", &mut events).await;
            clients.push(client);
            ids.push(session);
        }
    }
    for session in ids.iter().step_by(2) {
        let lease = format!("pathcast:lease:{}", &session[..13]);
        eventually("a lease with its counts", async || {
            (server.command(&["GET", &lease]) == r#"{"sessions":2,"paths":1}"#).then_some(())
        })
        .await;
    }
    let mut living = pods.split_off(3);
    for mut pod in pods {
        pod.signal(Signal::KILL);
        pod.exit().await;
    }
    let (mut dead, mut alive) = (Vec::new(), ids.split_off(6));
    dead.extend(ids.iter().step_by(2).map(|session| session[..13].to_owned()));
    dead.sort();
    alive.sort();

    let asker = living.pop().expect("two are left");
    for limit in [100, 3] {
        let (mut found, mut missing, mut cursor) = (Vec::new(), Vec::new(), String::new());
        loop {
            let begun = Instant::now();
            let page = asker.fetch(&format!("/v1/sessions?limit={limit}{cursor}")).await.json();
            assert!(begun.elapsed() < 2 * ANSWER, "{:?}", begun.elapsed());
            let now = page["missing"].as_array().expect("a list");
            assert_eq!(page["complete"], json!(now.is_empty()), "{page}");
            assert_eq!(page["missing_sessions"], json!(2 * now.len()), "{page}");
            missing.extend(now.iter().map(|pod| pod.as_str().expect("text").to_owned()));
            let sessions = page["sessions"].as_array().expect("a list");
            found.extend(sessions.iter().map(|one| one["id"].as_str().expect("text").to_owned()));
            let Some(next) = page["cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        found.sort();
        assert_eq!(found, alive, "each once");
        // A walk goes on behind the last session that it told of, so each is missed once.
        missing.sort();
        assert_eq!(missing, dead);
    }
    let begun = Instant::now();
    let paths = asker.fetch("/v1/paths").await.json();
    assert!(begun.elapsed() < 2 * ANSWER, "{:?}", begun.elapsed());
    assert_eq!(paths["paths"][0]["sessions"], json!(4), "{paths}");
    let mut missing: Vec<String> = serde_json::from_value(paths["missing"].clone()).expect("texts");
    missing.sort();
    assert_eq!(missing, dead, "{paths}");
    assert_eq!((&paths["complete"], &paths["missing_sessions"]), (&json!(false), &json!(6)));
}

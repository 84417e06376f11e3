//! Gateways on one Redis are one gateway: clients at the one, publishers at the other; and each goes
//! on when another, or Redis, does not.

mod support;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::client::{Heard, Request, ask};
use support::gateway::send;
use support::pods::{is_ready, msg, start, start_peer, to};
use support::redis::Redis;
use support::wait::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_reached_from_every_pod() {
    let server = Redis::start();
    let (a, b) = (start(&server, "").await, start_peer(&server, "").await);
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

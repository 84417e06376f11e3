//! Sessions at the publishers' door: listed, looked up, sent to, closed.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt;
use serde_json::{Value, json};
use support::client::{Client, Heard, Request, ask};
use support::gateway::{Gateway, Said, send};
use support::wait::eventually;

const PATHS: &str = r#"
[hub]
shards = 3
[[path]]
path = "/ws"
subprotocols = ["v1"]
[[path]]
path = "/ws/whole"
wholemsg = true
[[path]]
path = "/ws/rooms/{room}"
"#;

async fn start() -> Gateway {
    Gateway::start(PATHS).await
}

/// All pages of a listing, one after another.
async fn walk(gateway: &Gateway, query: &str) -> Vec<Value> {
    let mut found = Vec::new();
    let mut target = format!("/v1/sessions?{query}");
    loop {
        let page = gateway.fetch(&target).await;
        assert_eq!(page.status, 200, "{}", page.text);
        let page = page.json();
        assert_eq!((&page["complete"], &page["missing"]), (&json!(true), &json!([])), "{page}");
        found.extend(page["sessions"].as_array().expect("a list").iter().cloned());
        match page["cursor"].as_str() {
            Some(cursor) => target = format!("/v1/sessions?{query}&cursor={cursor}"),
            None => {
                assert!(page["cursor"].is_null(), "{page}");
                return found;
            }
        }
    }
}

fn text(session: &Value, member: &str) -> String {
    session[member].as_str().unwrap_or_else(|| panic!("no {member} in {session}")).to_owned()
}

async fn delete(gateway: &Gateway, id: &str, query: &str) -> Said {
    send(gateway.call("DELETE", &format!("/v1/sessions/{id}{query}"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_under_churn_finds_who_stays_exactly_once() {
    let gateway = start().await;
    let path = |number: usize| ["/ws", "/ws/rooms/a", "/ws/rooms/b"][number % 3];
    let stable = futures_util::stream::iter(0..150).map(|number| gateway.open(path(number)));
    let _stable: Vec<Client> = stable.buffer_unordered(20).collect().await;
    let ids: Vec<String> =
        walk(&gateway, "limit=1000").await.iter().map(|one| text(one, "id")).collect();
    assert_eq!(ids.len(), 150);

    let walked = AtomicBool::new(false);
    let churn = async {
        let mut opened = 0;
        while !walked.load(Ordering::Relaxed) {
            let passing = [gateway.open("/ws").await, gateway.open("/ws/rooms/a").await];
            for mut client in passing {
                client.leave().await;
            }
            opened += 2;
        }
        opened
    };
    let walks = async {
        let mut walks = Vec::new();
        for limit in [1, 7, 50, 149, 150] {
            walks.push(walk(&gateway, &format!("limit={limit}")).await);
        }
        walked.store(true, Ordering::Relaxed);
        walks
    };
    let (opened, walks) = futures_util::future::join(churn, walks).await;
    assert!(opened > 10, "{opened} sessions came and went");
    for found in walks {
        let mut times = BTreeMap::new();
        for one in &found {
            *times.entry(text(one, "id")).or_insert(0) += 1;
        }
        assert!(times.values().all(|&times| times == 1), "nobody twice: {times:?}");
        assert!(ids.iter().all(|id| times.contains_key(id)), "nobody is missing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_is_filtered_by_path_or_pattern() {
    let gateway = start().await;
    let mut clients = Vec::new();
    for path in ["/ws", "/ws/rooms/a", "/ws/rooms/a", "/ws/rooms/b%2Fc", "/ws/whole"] {
        clients.push(gateway.open(path).await);
    }
    let gateway = &gateway;
    let check = async |query: &str, expected: usize| {
        for limit in ["", "limit=1&", "limit=2&"] {
            let found = walk(gateway, &format!("{limit}{query}")).await;
            assert_eq!(found.len(), expected, "{limit}{query}: {found:?}");
        }
    };
    check("", 5).await;
    check("path=/ws", 1).await;
    check("path=/ws/rooms/a", 2).await;
    check("path=/ws/rooms/{room}", 3).await;
    check("path=%2Fws%2Frooms%2F%7Broom%7D", 3).await;
    check("path=/ws/rooms/b%252Fc", 1).await;
    check("path=/ws/rooms/nobody", 0).await;
    for (query, status) in [
        ("path=/nowhere", 404),
        ("path=/ws/rooms/b%2Fc", 404),
        ("path=/ws/rooms/{other}", 404),
        ("limit=0", 400),
        ("limit=x", 400),
        ("cursor=x", 400),
        ("filter=x", 400),
    ] {
        let said = gateway.fetch(&format!("/v1/sessions?{query}")).await;
        assert_eq!(said.status, status, "{query}: {}", said.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_looked_up_while_it_is_open() {
    let gateway = start().await;
    let mut events = gateway.listen("/ws").await;
    let request = Request::upgrade("/ws?q=1").header("Sec-WebSocket-Protocol", "v2, v1");
    let mut client = ask(gateway.clients, &request).await.expect("the path is open");
    let connect = events.next().await.json();
    let id = text(&connect, "session");
    let target = format!("/v1/sessions/{id}");

    let said = gateway.fetch(&target).await;
    assert_eq!(said.status, 200, "{}", said.text);
    let session = said.json();
    assert_eq!(text(&session, "id"), id);
    assert_eq!(text(&session, "path"), "/ws");
    assert_eq!(text(&session, "pod"), text(&connect, "pod"));
    assert_eq!(text(&session, "remote"), client.local.to_string());
    assert_eq!(text(&session, "subprotocol"), "v1");
    let opened = text(&session, "opened");
    assert!(opened.len() == 24 && opened.ends_with('Z'), "{opened}");
    assert_eq!(walk(&gateway, "path=/ws").await, [session]);

    let upper = id.to_uppercase();
    assert_ne!(upper, id);
    for other in [&upper, &id[1..], &format!("{id}a"), "x"] {
        let said = gateway.fetch(&format!("/v1/sessions/{other}")).await;
        assert_eq!(said.status, 410, "{other}: {}", said.text);
    }
    client.leave().await;
    eventually("the session's end", async || {
        (gateway.fetch(&target).await.status == 410).then_some(())
    })
    .await;
    assert!(walk(&gateway, "").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_to_one_session_is_made_for_its_path() {
    let gateway = start().await;
    let mut events = gateway.listen("/ws/whole").await;
    let (mut whole, id) = gateway.open_known("/ws/whole", &mut events).await;
    let mut other = gateway.open("/ws/whole").await;
    let own = json!({"type": "websocket", "id": id});
    let foreign = json!({"type": "websocket", "id": id.to_uppercase()});
    let gateway = &gateway;
    let target = format!("/v1/sessions/{id}");
    let check = async |kind: &str, body: String, status: u16| {
        let said = gateway.post(&target, kind, body.clone()).await;
        assert_eq!(said.status, status, "{kind} {body}: {}", said.text);
        if status == 200 {
            assert_eq!(said.json(), json!({"result": "delivered"}));
        }
    };
    check("application/json", r#"{"topic":"t","payload":1.50}"#.into(), 200).await;
    whole.expect_text(r#"{"topic":"t","payload":1.50}"#).await;
    check("application/json", json!({"payload": "x", "_session": own}).to_string(), 200).await;
    whole.expect_text(r#"{"payload":"x"}"#).await;
    check("application/json", json!({"payload": "x", "_session": null}).to_string(), 200).await;
    whole.expect_text(r#"{"payload":"x"}"#).await;
    check("application/json", "{}".into(), 200).await;
    whole.expect_text("{}").await;
    check("text/plain", "raw".into(), 200).await;
    whole.expect_text(r#"{"payload":"raw"}"#).await;

    check("application/json", json!({"payload": "x", "_session": foreign}).to_string(), 422).await;
    check("application/json", json!({"payload": "x", "_session": {}}).to_string(), 422).await;
    check("application/json", "[]".into(), 400).await;
    check("application/json", "{".into(), 400).await;
    check("application/xml", "<x/>".into(), 415).await;

    let mut events = gateway.listen("/ws").await;
    let (mut plain, id) = gateway.open_known("/ws", &mut events).await;
    let target = format!("/v1/sessions/{id}");
    assert_eq!(gateway.post(&target, "application/json", "{}").await.status, 422);
    assert_eq!(gateway.post(&target, "text/plain", "").await.status, 422);
    assert_eq!(gateway.post(&target, "application/octet-stream", vec![0, 255]).await.status, 200);
    assert_eq!(plain.message().await, Heard::Binary(vec![0, 255].into()));

    gateway.broadcast("/ws/whole", r#"{"payload":"sentinel"}"#).await;
    other.expect_text(r#"{"payload":"sentinel"}"#).await;
    whole.expect_text(r#"{"payload":"sentinel"}"#).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kick_is_seen_by_the_client_and_told_as_such() {
    let gateway = start().await;
    let mut events = gateway.listen("/ws").await;
    let long = "é".repeat(61) + "x";
    let longest = format!("?code=4999&reason={}", "%C3%A9".repeat(61) + "x");
    for (query, code, reason) in [
        ("", 4000, ""),
        ("?code=1000", 1000, ""),
        ("?code=1008&reason=not%20you", 1008, "not you"),
        ("?reason=only+a+reason", 4000, "only a reason"),
        (&longest, 4999, &long),
    ] {
        let (mut client, id) = gateway.open_known("/ws", &mut events).await;
        let said = delete(&gateway, &id, query).await;
        assert_eq!(said.status, 200, "{query}: {}", said.text);
        assert_eq!(client.closing().await, Heard::Close(Some((code, reason.into()))), "{query}");
        assert_eq!(client.reader.next().await, Heard::End);
        let gone = events.disconnect_of(&id).await;
        assert_eq!(gone["cause"], "kick", "{gone}");
        assert_eq!((&gone["code"], &gone["reason"]), (&json!(code), &json!(reason)));
        assert_eq!(delete(&gateway, &id, query).await.status, 410);
        let late = gateway.post(&format!("/v1/sessions/{id}"), "text/plain", "x").await;
        assert_eq!(late.status, 410, "{}", late.text);
    }
    let (mut client, id) = gateway.open_known("/ws", &mut events).await;
    for bad in [
        "?code=999",
        "?code=1001",
        "?code=1005",
        "?code=3000",
        "?code=5000",
        "?code=x",
        "?code=",
        "?why=x",
        &format!("?reason={}", "x".repeat(124)),
        &format!("?reason={}", "%C3%A9".repeat(62)),
    ] {
        let said = delete(&gateway, &id, bad).await;
        assert_eq!(said.status, 400, "{bad}: {}", said.text);
    }
    gateway.broadcast("/ws", r#"{"payload":"still here"}"#).await;
    client.expect_text("still here").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_another_room_is_gone() {
    let gateway = start().await;
    let mut events = gateway.listen("/ws/rooms/{room}").await;
    let (mut client, id) = gateway.open_known("/ws/rooms/a", &mut events).await;
    let msg = json!({"payload": "x", "_session": {"type": "websocket", "id": id, "more": 1}});
    for (path, status) in [("/ws/rooms/b", 410), ("/ws", 410), ("/ws/rooms/a", 200)] {
        let said = gateway.publish(path, msg.to_string()).await;
        assert_eq!(said.status, status, "{path}: {}", said.text);
        let target = format!("/v1/publish{path}?session={id}");
        assert_eq!(gateway.post(&target, "text/plain", "x").await.status, status, "{path}");
    }
    client.expect_text("x").await;
    client.expect_text("x").await;
    gateway.broadcast("/ws/rooms/a", r#"{"payload":"no more of these"}"#).await;
    client.expect_text("no more of these").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_are_listed_with_who_is_there() {
    let gateway = start().await;
    let mut clients = Vec::new();
    for path in ["/ws", "/ws/rooms/a", "/ws/rooms/a", "/ws/rooms/b"] {
        clients.push(gateway.open(path).await);
    }
    for limit in [1, 2, 5, 100] {
        let mut found = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = gateway.fetch(&format!("/v1/paths?limit={limit}{cursor}")).await.json();
            for one in page["paths"].as_array().expect("a list") {
                found.push((text(one, "path"), one["sessions"].as_u64().expect("a number")));
            }
            let Some(next) = page["cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        let expected = [
            ("/ws", 1),
            ("/ws/rooms/a", 2),
            ("/ws/rooms/b", 1),
            ("/ws/rooms/{room}", 3),
            ("/ws/whole", 0),
        ];
        assert_eq!(found, expected.map(|(path, sessions)| (path.to_owned(), sessions)));
    }
    clients.clear();
    eventually("empty rooms to vanish", async || {
        let listing = gateway.fetch("/v1/paths").await;
        (!listing.text.contains("/ws/rooms/a")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn how_even_the_shards_are_is_as_of_now() {
    let gateway = start().await;
    let imbalance = async || gateway.counted("pathcast_shard_imbalance").await;
    let mut clients = vec![gateway.open("/ws").await];
    assert_eq!(imbalance().await, 1);
    clients.extend([gateway.open("/ws").await, gateway.open("/ws").await]);
    let listed = walk(&gateway, "").await;
    assert_eq!(listed.len(), 3);
    for session in &listed {
        delete(&gateway, session["id"].as_str().expect("an id"), "").await;
    }
    drop(clients);
    eventually("three empty shards", async || (imbalance().await == 0).then_some(())).await;
}

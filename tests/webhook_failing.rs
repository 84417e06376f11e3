//! Paths with a webhook that fails, refuses, hangs, or dies: what becomes of the events, and of everybody else.

mod support;

use std::collections::HashMap;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use support::backend::{Answer, Asked, Backend, answer, logged, series, start, status};
use support::client::{self, Client, Heard, Request};
use support::gateway::Gateway;
use support::wait::{eventually, within};

/// The texts of messages as a backend first heard them, by session; checks that their order is that of `seq`.
#[track_caller]
fn first_heard(asked: &[Asked]) -> HashMap<String, Vec<String>> {
    let mut sessions: HashMap<String, Vec<(u64, String)>> = HashMap::new();
    for one in asked.iter().filter(|one| one.kind() == "message") {
        let heard = sessions.entry(one.header("ce-sessionid").to_owned()).or_default();
        if !heard.iter().any(|(seq, _)| *seq == one.seq()) {
            heard.push((one.seq(), one.text().to_owned()));
        }
    }
    let texts = |heard: Vec<(u64, String)>| {
        assert!(heard.is_sorted_by_key(|(seq, _)| *seq), "{heard:?}");
        heard.into_iter().map(|(_, text)| text).collect()
    };
    sessions.into_iter().map(|(session, heard)| (session, texts(heard))).collect()
}

#[tokio::test]
async fn what_fails_is_posted_again_in_order_until_it_is_taken() {
    let backend = Backend::start().await;
    let gateway = start(&backend, "", "").await;
    let mut client = gateway.open("/ws").await;
    let tries = std::sync::Mutex::new(HashMap::<String, usize>::new());
    backend.answer(move |asked| {
        let text = asked.text().to_owned();
        let attempt = {
            let mut tries = tries.lock().expect("nobody panicked");
            let attempt = tries.entry(text.clone()).or_default();
            *attempt += 1;
            *attempt
        };
        let said = match (text.as_str(), attempt) {
            ("500", 1..=3) => status(500),
            ("408", 1) => status(408),
            ("429", 1) => {
                let mut answer = status(429);
                answer.headers_mut().insert("retry-after", "1".parse().expect("a value"));
                answer
            }
            ("cut", 1) => {
                // A body shorter than announced: the connection breaks in the middle.
                let body = Body::from_stream(futures_util::stream::iter([
                    Ok(Bytes::from_static(b"half")),
                    Err(std::io::Error::other("gone")),
                ]));
                Answer::new(body)
            }
            _ => answer(200, "text/plain", text.clone()),
        };
        std::future::ready(said)
    });
    let sent = ["500", "408", "429", "cut", "last"];
    for text in sent {
        client.writer.text(text).await;
    }
    for text in sent {
        client.expect_text(text).await;
    }
    let asked = backend.of("message");
    let texts: Vec<&str> = asked.iter().map(Asked::text).collect();
    let expected = ["500", "500", "500", "500", "408", "408", "429", "429", "cut", "cut", "last"];
    assert_eq!(texts, expected, "one under way at a time, and nothing out of its order");
    let ids: std::collections::BTreeSet<&str> =
        asked.iter().map(|asked| asked.header("webhook-id")).collect();
    assert_eq!(ids.len(), sent.len(), "an event keeps its id");
    let times = |at: usize| asked[at].header("webhook-timestamp").parse::<u64>().expect("seconds");
    assert!(times(7) > times(6), "Retry-After was waited for");
    assert_eq!(gateway.counted(&series("repeated")).await, 6);
}

#[tokio::test]
async fn an_answer_that_never_ends_is_none_and_the_event_is_posted_again() {
    let backend = Backend::start().await;
    let gateway = start(&backend, "[webhook]\ntimeout = \"300ms\"", "").await;
    let mut client = gateway.open("/ws").await;
    backend.say(|_| {
        Answer::new(Body::from_stream(
            futures_util::stream::pending::<Result<Bytes, std::io::Error>>(),
        ))
    });
    client.writer.text("one").await;
    backend.wait("message", 2).await;
    backend.say(|asked| answer(200, "text/plain", asked.body.clone()));
    client.expect_text("one").await;
}

#[tokio::test]
async fn what_is_refused_for_good_is_given_up_and_the_next_one_goes() {
    let elsewhere = Backend::start().await;
    let backend = Backend::start().await;
    let gateway = start(&backend, "", "").await;
    let mut client = gateway.open("/ws").await;
    let url = elsewhere.url();
    backend.say(move |asked| match asked.text() {
        "413" => status(413),
        "404" => status(404),
        "redirect" => {
            let mut answer = status(307);
            answer.headers_mut().insert("location", url.parse().expect("a value"));
            answer
        }
        _ => answer(200, "text/plain", asked.body.clone()),
    });
    for text in ["413", "404", "redirect", "last"] {
        client.writer.text(text).await;
    }
    client.expect_text("last").await;
    assert_eq!(backend.of("message").len(), 4);
    assert_eq!(elsewhere.asked().len(), 0, "no redirect is followed");
    assert_eq!(gateway.counted(&series("refused")).await, 3);
    logged(&gateway, &["gave up an event: it answered 307"]).await;
}

#[tokio::test]
async fn with_drop_an_event_is_given_up_after_its_time_and_with_close_its_session_too() {
    let backend = Backend::start().await;
    let policy = ", on_error = \"drop\", retry_for = \"500ms\"";
    let gateway = start(&backend, "", policy).await;
    let fail = |asked: &Asked| match asked.text() {
        "bad" => status(500),
        _ => answer(200, "text/plain", asked.body.clone()),
    };
    let mut client = gateway.open("/ws").await;
    backend.say(fail);
    for text in ["bad", "good"] {
        client.writer.text(text).await;
    }
    client.expect_text("good").await;
    assert_eq!(gateway.counted(&series("dropped")).await, 1);

    let policy = ", on_error = \"close\", retry_for = \"500ms\"";
    backend.say(|_| status(204));
    let gateway = start(&backend, "", policy).await;
    let mut client = gateway.open("/ws").await;
    backend.say(fail);
    client.writer.text("bad").await;
    assert_eq!(client.closing().await, Heard::Close(Some((1011, "backend".into()))));
    let gone = backend.wait("disconnect", 1).await;
    assert_eq!(gone[0].json()["cause"], "server");
    assert_eq!(gateway.counted(&series("dropped")).await, 1);
}

#[tokio::test]
async fn what_is_given_up_while_its_turn_does_not_come_is_told_with_its_last_answer() {
    let backend = Backend::start().await;
    let gateway = start(&backend, "", ", on_error = \"drop\", retry_for = \"1s\"").await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(gateway.open("/ws").await);
    }
    backend.say(|asked| status(if asked.kind() == "message" { 503 } else { 204 }));
    for client in &mut clients {
        client.writer.text("?").await;
    }
    eventually("four that are given up", async || {
        (gateway.counted(&series("dropped")).await == 4).then_some(())
    })
    .await;
    logged(&gateway, &["gave up an event: it answered 503"]).await;
    let log = gateway.log();
    assert_eq!(log.matches("gave up an event: it answered 503").count(), 4, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_restarted_in_mid_burst_misses_no_message_and_no_order() {
    const CLIENTS: usize = 50;
    const MESSAGES: usize = 200;
    let mut backend = Backend::start().await;
    let gateway = start(&backend, "", "").await;
    let mut talking = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = gateway.open("/ws").await;
        talking.push(tokio::spawn(async move {
            for number in 0..MESSAGES {
                client.writer.text(&number.to_string()).await;
            }
            client
        }));
    }
    for round in 1..=3 {
        backend.wait("message", round * CLIENTS * MESSAGES / 5).await;
        backend.kill().await;
        // As an operator would see it: posts fail before it is back.
        let repeated = gateway.counted(&series("repeated")).await;
        eventually("posts that fail", async || {
            (gateway.counted(&series("repeated")).await > repeated).then_some(())
        })
        .await;
        backend.restart().await;
    }
    for talking in talking {
        within("a client", talking).await.expect("it talked").leave().await;
    }
    backend.wait("disconnect", CLIENTS).await;
    let heard = first_heard(&backend.asked());
    let expected: Vec<String> = (0..MESSAGES).map(|number| number.to_string()).collect();
    assert_eq!(heard.len(), CLIENTS);
    assert!(heard.values().all(|texts| *texts == expected));
    for result in ["dropped", "refused"] {
        assert_eq!(gateway.counted(&series(result)).await, 0, "{result}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_hangs_holds_its_own_sessions_and_nobody_elses() {
    let (hanging, healthy) = (Backend::start().await, Backend::start().await);
    let gateway = Gateway::start(&format!(
        r#"
[webhook]
timeout = "1h"
[[path]]
path = "/ws/slow"
heartbeat = "200ms"
backend = {{ webhook = "{}" }}
[[path]]
path = "/ws/fast"
backend = {{ webhook = "{}" }}
"#,
        hanging.url(),
        healthy.url()
    ))
    .await;
    const MESSAGES: usize = 400;
    let mut slow = gateway.open("/ws/slow").await;
    let go = hanging.hold(|_| true);
    healthy.say(|asked| answer(200, "text/plain", asked.body.clone()));
    for number in 0..MESSAGES {
        slow.writer.text(&number.to_string()).await;
    }
    hanging.wait("message", 1).await;
    // Meanwhile the others come, ask and are answered as if nothing were.
    let mut fast = gateway.open("/ws/fast").await;
    for number in 0..MESSAGES {
        fast.writer.text(&number.to_string()).await;
        fast.expect_text(&number.to_string()).await;
    }
    // Three heartbeats and more without a byte that is read.
    let until = tokio::time::Instant::now() + Duration::from_secs(1);
    let heard = tokio::time::timeout_at(until, slow.reader.next_whenever());
    if let Ok(heard) = heard.await {
        assert!(matches!(heard, Heard::Ping(_)), "{heard:?}");
    }
    assert_eq!(hanging.of("message").len(), 1, "one under way at a time");
    let held = "pathcast_backend_held_sessions{backend=\"webhook\"}";
    assert_eq!(gateway.counted(held).await, 1);
    go.send_replace(true);
    slow.leave().await;
    hanging.wait("disconnect", 1).await;
    let heard = first_heard(&hanging.asked());
    let expected: Vec<String> = (0..MESSAGES).map(|number| number.to_string()).collect();
    assert_eq!(heard.into_values().collect::<Vec<_>>(), [expected]);
    assert_eq!(gateway.counted("pathcast_webhook_waiting_bytes").await, 0);
    assert_eq!(gateway.counted(held).await, 0);
}

/// Innocent clients come, ask and are answered, while `poison` of others fails each time it is posted.
async fn nobody_else_notices(poison: usize, fail: impl Fn() -> Failing + Send + Sync + 'static) {
    const ROUNDS: usize = 20;
    let backend = Backend::start().await;
    let gateway = start(&backend, "[webhook]\ntimeout = \"500ms\"", "").await;
    backend.answer(move |asked| {
        let failing = (asked.text() == "poison").then(&fail);
        async move {
            match failing {
                Some(failing) => failing.await,
                None => answer(200, "text/plain", asked.body.clone()),
            }
        }
    });
    let mut poisoners = Vec::new();
    for _ in 0..poison {
        let mut client = gateway.open("/ws").await;
        client.writer.text("poison").await;
        poisoners.push(client);
    }
    // All of them have failed, and some again.
    eventually("what fails again", async || {
        let poisoned = |asked: &Asked| asked.kind() == "message" && asked.text() == "poison";
        let failed = backend.asked().iter().filter(|asked| poisoned(asked)).count();
        (failed > poison + 2).then_some(())
    })
    .await;
    for round in 0..ROUNDS {
        let mut innocent = gateway.open("/ws").await;
        for number in 0..5 {
            let text = format!("{round}.{number}");
            innocent.writer.text(&text).await;
            innocent.expect_text(&text).await;
        }
        innocent.leave().await;
    }
}

type Failing = std::pin::Pin<Box<dyn Future<Output = Answer> + Send>>;

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_a_backend_always_fails_at_keep_nobody_else_out() {
    nobody_else_notices(20, || Box::pin(std::future::ready(status(500)))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_at_which_a_backend_hangs_keep_nobody_else_out() {
    nobody_else_notices(20, || Box::pin(std::future::pending())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connects_that_a_backend_always_fails_at_keep_nobody_else_out() {
    let backend = Backend::start().await;
    let gateway = start(&backend, "", "").await;
    backend.say(|asked| {
        let crashes = asked.kind() == "connect" && asked.json()["query"] == "crash";
        status(if crashes { 500 } else { 204 })
    });
    let crash = async || loop {
        let refused = client::ask(gateway.clients, &Request::upgrade("/ws?crash")).await;
        assert_eq!(refused.err().map(|answer| answer.status), Some(503));
    };
    let innocents = async {
        for _ in 0..20 {
            gateway.open("/ws").await.leave().await;
        }
    };
    tokio::select! {
        () = innocents => {}
        () = crash() => {}
        () = crash() => {}
        () = crash() => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_flood_a_backend_that_hangs_do_not_fill_the_memory() {
    const CLIENTS: usize = 20;
    const MIB: u64 = 1 << 20;
    let backend = Backend::start().await;
    let gateway = start(&backend, "[webhook]\ntimeout = \"1h\"", "").await;
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(gateway.open("/ws").await);
    }
    backend.hang();
    let before = gateway.rss_bytes();
    let mut flooding = tokio::task::JoinSet::new();
    for mut client in clients {
        flooding.spawn(async move {
            let text = "x".repeat(10_000);
            // As much as the kernel takes, and that many times what a lane may hold.
            for _ in 0..3_000 {
                let written = client.writer.text(&text);
                if tokio::time::timeout(Duration::from_secs(1), written).await.is_err() {
                    return client;
                }
            }
            panic!("it was read all the time");
        });
    }
    let mut held = Vec::new();
    while let Some(client) = flooding.join_next().await {
        held.push(client.expect("it flooded"));
    }
    assert_eq!(held.len(), CLIENTS);
    let waiting = gateway.counted("pathcast_webhook_waiting_bytes").await;
    assert!(waiting < CLIENTS as u64 * MIB / 4, "{waiting} bytes wait");
    let grown = gateway.rss_bytes().saturating_sub(before);
    assert!(grown < 40 * MIB, "{grown} bytes more for {CLIENTS} floods of 30 MB");
}

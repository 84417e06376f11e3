//! Paths with a webhook: the backend says who may come in, and what becomes of clients when it does not.

mod support;

use rustix::process::Signal;
use support::backend::{Asked, Backend, answer, logged, start, status};
use support::client::{self, Heard, Request};
use support::gateway::Gateway;
use support::wait::eventually;

async fn refused(gateway: &Gateway, request: &Request) -> client::Answer {
    client::ask(gateway.clients, request).await.err().expect("a refusal")
}

#[tokio::test]
async fn a_backend_can_veto_a_connect_with_a_status_and_a_line() {
    let backend = Backend::start().await;
    let gateway = start(&backend, "", "").await;
    for (code, body, expected, line) in [
        (403, "no seats left\r\nsecret", 403, "no seats left\n"),
        (401, "who are you?", 401, "who are you?\n"),
        (418, "", 403, "the backend of this path refuses you\n"),
        (429, "slowly\u{1b}[1m", 429, "slowly\n"),
        (413, "\r\n\r\nSet-Cookie: a=b", 403, "Set-Cookie: a=b\n"),
    ] {
        backend.say(move |_| {
            let mut answer = answer(code, "text/plain", body);
            answer.headers_mut().insert("retry-after", "7".parse().expect("a value"));
            answer
        });
        let answer = refused(&gateway, &Request::upgrade("/ws")).await;
        assert_eq!((answer.status, answer.body.as_str()), (expected, line));
        assert_eq!(answer.header("retry-after"), Some("7"));
    }
    assert_eq!(backend.asked().len(), 5, "a veto is asked for once, and is no session");
    let vetoed = "pathcast_handshakes_total{result=\"vetoed\"}";
    assert_eq!(gateway.counted(vetoed).await, 5);
    // Others are not asked, and not refused.
    gateway.open("/ws/other").await.leave().await;
    assert_eq!(backend.asked().len(), 5);
}

#[tokio::test]
async fn a_backend_names_user_and_subprotocol() {
    let backend = Backend::start().await;
    let gateway = start(&backend, "", "").await;
    let mut events = gateway.listen("/ws").await;
    let offering = Request::upgrade("/ws").header("Sec-WebSocket-Protocol", "v1, v2");
    let name = |body: &'static str| backend.say(move |_| answer(200, "application/json", body));
    name(r#"{"user":"jana","subprotocol":"v2"}"#);
    let client = client::ask(gateway.clients, &offering).await.expect("it is let in");
    assert_eq!(client.answer.header("sec-websocket-protocol"), Some("v2"));
    let connect = events.next().await;
    assert_eq!((connect.text("user"), connect.text("subprotocol")), ("jana".into(), "v2".into()));
    drop(client);
    backend.wait("disconnect", 1).await;

    for body in [r#"{"subprotocol":"v3"}"#, r#"{"user":7}"#, "{", "[]"] {
        name(body);
        let before = backend.of("disconnect").len();
        assert_eq!(refused(&gateway, &offering).await.status, 503, "{body}");
        // It has let somebody in who never came.
        let gone = backend.wait("disconnect", before + 1).await.pop().expect("one more");
        let connect = backend.of("connect").pop().expect("it was asked");
        assert_eq!(gone.header("ce-sessionid"), connect.header("ce-sessionid"));
        assert_eq!((gone.seq(), gone.json()["cause"].as_str()), (1, Some("network")));
        assert!(gone.header("ce-id").ends_with("-end"));
    }
    logged(&gateway, &["\"v3\"", "user in its answer"]).await;
    // What is no JSON says nothing, however much it is.
    for body in [b"OK, welcome".to_vec(), vec![b'x'; 20 << 10], vec![0xff]] {
        backend.say(move |_| answer(200, "text/plain", body.clone()));
        gateway.open("/ws").await.leave().await;
    }
}

#[tokio::test]
async fn a_word_that_makes_no_sense_turns_a_client_away_and_is_passed_over_where_errors_accept() {
    let large = || format!("{{\"user\":\"jana\",\"x\":\"{}\"}}", "x".repeat(20 << 10));
    for (policy, is_let_in) in [("", false), (", on_connect_error = \"accept\"", true)] {
        let backend = Backend::start().await;
        let gateway = start(&backend, "", policy).await;
        for body in [large(), "[]".to_owned(), "{".to_owned(), r#"{"user":7}"#.to_owned()] {
            backend.say(move |asked| match asked.kind() {
                "connect" => answer(200, "application/json", body.clone()),
                _ => status(204),
            });
            let outcome = client::ask(gateway.clients, &Request::upgrade("/ws")).await;
            let status = outcome.as_ref().map_or_else(|answer| answer.status, |_| 101);
            assert_eq!(status, if is_let_in { 101 } else { 503 });
        }
        logged(&gateway, &["larger than it may be"]).await;
        // What it chose can be kept to by nobody.
        backend.say(|_| answer(200, "application/json", r#"{"subprotocol":"v9"}"#));
        assert_eq!(refused(&gateway, &Request::upgrade("/ws")).await.status, 503);
    }
}

#[tokio::test]
async fn a_backend_that_does_not_answer_a_connect_turns_clients_away_and_hears_of_their_end() {
    let backend = Backend::start().await;
    let gateway = start(&backend, "[webhook]\nconnect_limit = \"300ms\"", "").await;
    backend.hang();
    let answer = refused(&gateway, &Request::upgrade("/ws")).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("2")));
    assert!(answer.body.starts_with("the backend of this path does not answer"), "{}", answer.body);
    backend.say(|_| status(204));
    let gone = backend.wait("disconnect", 1).await;
    let asked = backend.of("connect");
    assert_eq!(gone[0].header("ce-sessionid"), asked[0].header("ce-sessionid"));
    gateway.open("/ws").await.leave().await;
    assert_eq!(gateway.counted("pathcast_handshakes_total{result=\"backend\"}").await, 1);
}

#[tokio::test]
async fn a_backend_that_is_down_turns_clients_away_and_is_owed_nothing() {
    let mut backend = Backend::start().await;
    let gateway = start(&backend, "[webhook]\nconnect_limit = \"200ms\"", "").await;
    backend.kill().await;
    for _ in 0..8 {
        assert_eq!(refused(&gateway, &Request::upgrade("/ws")).await.status, 503);
    }
    assert_eq!(gateway.counted("pathcast_webhook_waiting_bytes").await, 0);
    backend.restart().await;
    let mut client = eventually("a backend that is found again", async || {
        client::ask(gateway.clients, &Request::upgrade("/ws")).await.ok()
    })
    .await;
    client.leave().await;
    let gone = backend.wait("disconnect", 1).await;
    assert_eq!(gone.len(), 1, "nobody else had come");
}

#[tokio::test]
async fn where_connect_errors_accept_the_backend_hears_of_the_client_later_and_first() {
    let mut backend = Backend::start().await;
    let settings = "[webhook]\nconnect_limit = \"200ms\"";
    let gateway = start(&backend, settings, ", on_connect_error = \"accept\"").await;
    backend.kill().await;
    let mut client = gateway.open("/ws").await;
    client.writer.text("one").await;
    backend.restart().await;
    backend.wait("message", 1).await;
    client.leave().await;
    backend.wait("disconnect", 1).await;
    let seqs: Vec<_> = backend.asked().iter().map(Asked::seq).collect();
    assert_eq!(seqs, [0, 1, 2]);

    // A veto that comes late ends what should not have begun.
    backend.kill().await;
    let mut client = gateway.open("/ws").await;
    backend.say(|asked| match asked.kind() {
        "connect" => answer(403, "text/plain", "not you"),
        _ => status(204),
    });
    backend.restart().await;
    assert_eq!(client.closing().await, Heard::Close(Some((1008, "not you".into()))));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_let_in_to_a_backend_for_which_too_much_waits_whatever_the_path_says() {
    const MIB: usize = 1 << 20;
    let backend = Backend::start().await;
    let settings = "[webhook]\ntimeout = \"1h\"\nconnect_limit = \"200ms\"";
    let gateway = start(&backend, settings, ", on_connect_error = \"accept\"").await;
    let mut clients = Vec::new();
    for _ in 0..64 {
        clients.push(gateway.open("/ws").await);
    }
    backend.hang();
    // Each may have one that fills its lane; 64 MiB are what may wait of all.
    let text = "x".repeat(MIB);
    for client in &mut clients {
        client.writer.text(&text).await;
    }
    eventually("too much that waits", async || {
        let waiting = gateway.counted("pathcast_webhook_waiting_bytes").await;
        (waiting > 64 * MIB as u64).then_some(())
    })
    .await;
    for _ in 0..3 {
        assert_eq!(refused(&gateway, &Request::upgrade("/ws")).await.status, 503);
    }
    backend.say(|_| status(204));
    assert_eq!(backend.of("connect").len(), 64);
}

#[tokio::test]
async fn a_target_is_asked_first_whether_it_wants_events() {
    let backend = Backend::start().await;
    let settings =
        "[webhook]\nvalidate = true\norigin = \"gateway.example\"\nconnect_limit = \"300ms\"";
    let gateway = start(&backend, settings, "").await;
    assert_eq!(refused(&gateway, &Request::upgrade("/ws")).await.status, 503);
    let asked = backend.asked();
    assert!(asked.iter().all(|asked| asked.method == "OPTIONS"), "{asked:?}");
    assert_eq!(asked[0].header("webhook-request-origin"), "gateway.example");
    logged(&gateway, &["did not agree"]).await;
    backend.say(|asked| {
        let mut answer = status(200);
        if asked.method == "OPTIONS" {
            let allowed = "other.example, gateway.example".parse().expect("a value");
            answer.headers_mut().insert("webhook-allowed-origin", allowed);
        }
        answer
    });
    let before = asked.len();
    let mut client = eventually("a target that agrees", async || {
        client::ask(gateway.clients, &Request::upgrade("/ws")).await.ok()
    })
    .await;
    client.writer.text("one").await;
    client.leave().await;
    eventually("the end", async || {
        backend
            .asked()
            .last()
            .filter(|last| last.method == "POST" && last.kind() == "disconnect")
            .cloned()
    })
    .await;
    let methods: Vec<_> =
        backend.asked()[before..].iter().map(|one| one.method.to_string()).collect();
    assert_eq!(methods, ["OPTIONS", "POST", "POST", "POST"], "once is enough");
}

#[test]
fn a_limit_for_connects_that_handshakes_do_not_last_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let file = dir.path().join("pathcast.toml");
    let check = |limit: &str| {
        let settings = format!(
            "[webhook]\nconnect_limit = \"{limit}\"\n[[path]]\npath = \"/ws\"\n\
             backend = {{ webhook = \"http://127.0.0.1:1/\" }}\n"
        );
        std::fs::write(&file, settings).expect("a file can be written");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pathcast"));
        let output = command.arg("--config").arg(&file).arg("check").output();
        let output = output.expect("the built binary starts");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert!(check("5s").0);
    let (is_good, said) = check("10s");
    assert!(!is_good && said.contains("is not below handshake_timeout"), "{said}");
    assert!(said.contains("raise handshake_timeout"), "{said}");
}

#[tokio::test]
async fn a_client_that_may_come_in_when_its_pod_has_closed_the_others_is_sent_elsewhere() {
    let backend = Backend::start().await;
    let go = backend.hold(|asked| asked.kind() == "connect");
    let timeouts =
        "[limits]\nclose_timeout = \"100ms\"\n[drain]\nsettle = \"off\"\nwindow = \"off\"";
    let mut gateway = start(&backend, timeouts, "").await;
    let addr = gateway.clients;
    let late = tokio::spawn(async move { client::ask(addr, &Request::upgrade("/ws")).await });
    backend.wait("connect", 1).await;
    let mut other = gateway.open("/ws/other").await;
    gateway.signal(Signal::TERM);
    // The time to answer a close frame is over: of another, and of that client's, had it got one.
    assert_eq!(other.reader.next().await.close_code(), Some(1012));
    assert_eq!(other.reader.next().await, Heard::End);
    go.send_replace(true);
    let Err(late) = late.await.expect("nothing panics") else { panic!("it was let in") };
    assert_eq!((late.status, late.header("retry-after").is_some()), (503, true));
    backend.wait("disconnect", 1).await;
    assert_eq!(gateway.exit().await.code(), Some(0), "{}", gateway.log());
}

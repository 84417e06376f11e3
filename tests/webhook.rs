//! Paths with a webhook: what a backend is posted, and what its answers do.

mod support;

use std::time::Duration;

use bytes::Bytes;
use support::backend::{Backend, answer, logged, series, start, status};
use support::client::{self, Heard, Request};

#[tokio::test]
async fn an_event_is_a_cloud_event_with_the_frame_as_its_body() {
    let backend = Backend::start().await;
    let gateway = start(&backend, "", "").await;
    let mut events = gateway.listen("/ws").await;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = Request::upgrade("/ws?a=%20&b")
        .header("Origin", "http://pathcast.test")
        .header("Sec-WebSocket-Protocol", "v2, v1")
        .header("traceparent", traceparent);
    let mut client = client::ask(gateway.clients, &request).await.expect("the path is open");
    client.writer.text("line\nbreak \"é\"").await;
    client.writer.binary(&[0, 10, 255]).await;
    client.writer.text("").await;
    client.writer.close(Some(4001), "bye").await;
    let mut told = Vec::new();
    for _ in 0..5 {
        told.push(events.next().await);
    }
    backend.wait("disconnect", 1).await;
    let asked = backend.asked();
    assert_eq!(asked.len(), 5);
    let bodies = ["line\nbreak \"é\"".as_bytes(), &[0, 10, 255], b""];
    let types =
        ["text/plain; charset=utf-8", "application/octet-stream", "text/plain; charset=utf-8"];
    for (number, (asked, told)) in asked.iter().zip(&told).enumerate() {
        assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/hook?a=b"));
        let session = told.text("session");
        assert_eq!(asked.kind(), told.kind);
        for (name, value) in [
            ("ce-specversion", "1.0"),
            ("ce-id", &told.id),
            ("ce-source", "/pathcast/ws"),
            ("ce-subject", &session),
            ("ce-sessionid", &session),
            ("ce-path", "/ws"),
            ("ce-pod", &told.text("pod")),
            ("ce-seq", &number.to_string()),
            ("webhook-id", &told.id),
        ] {
            assert_eq!(asked.header(name), value, "{name} of {asked:?}");
        }
        assert_eq!(asked.header("ce-time").len(), "2026-11-22T07:01:46.648Z".len());
        assert!(asked.header("webhook-timestamp").parse::<u64>().is_ok());
        assert_eq!(asked.headers.get("webhook-signature"), None, "there is no secret");
        assert_eq!(asked.header("traceparent"), traceparent);
        if (1..=3).contains(&number) {
            assert_eq!(asked.body, bodies[number - 1]);
            assert_eq!(asked.header("content-type"), types[number - 1]);
        } else {
            assert_eq!(asked.header("content-type"), "application/json");
            let (mut event, mut told) = (asked.json(), told.json());
            // The backend was asked before the client was let in.
            for event in [&mut event, &mut told] {
                event["time"].take();
            }
            assert_eq!(event, told);
        }
    }
    assert_eq!(asked[0].json()["subprotocol"], "v1");
    assert_eq!(asked[4].json()["code"], 4001);
}

#[tokio::test]
async fn on_a_wholemsg_path_the_body_is_the_msg_and_so_is_the_answer() {
    let backend = Backend::start().await;
    let gateway = start(&backend, "", "").await;
    backend.say(|asked| match asked.kind() {
        "message" => answer(200, "application/json", asked.body.clone()),
        _ => status(200),
    });
    let mut client = gateway.open("/ws/whole/7").await;
    let connect = backend.wait("connect", 1).await.remove(0);
    let session = connect.header("ce-sessionid").to_owned();
    let own = format!(r#""_session":{{"type":"websocket","id":"{session}"}}"#);
    for (sent, body, heard) in [
        (
            r#" {"payload":1.50e3,"topic":"t"} "#,
            r#"{"payload":1.50e3,"topic":"t","#,
            r#"{"payload":1.50e3,"topic":"t"}"#,
        ),
        ("no json", r#"{"payload":"no json","#, r#"{"payload":"no json"}"#),
        (r#"[1,"a"]"#, r#"{"payload":[1,"a"],"#, r#"{"payload":[1,"a"]}"#),
    ] {
        client.writer.text(sent).await;
        client.expect_text(heard).await;
        let asked = backend.of("message").pop().expect("it was asked");
        assert_eq!(asked.header("content-type"), "application/json");
        assert_eq!(asked.text(), format!("{body}{own}}}"));
        assert_eq!(asked.header("ce-path"), "/ws/whole/7");
    }
    for (content_type, body, heard) in [
        ("text/plain", "hi", r#"{"payload":"hi"}"#),
        ("application/octet-stream", "\0", r#"{"payload":{"type":"Buffer","data":"AA=="}}"#),
        ("application/json", " 7 ", r#"{"payload":7}"#),
    ] {
        backend.say(move |_| answer(200, content_type, body));
        client.writer.text("?").await;
        client.expect_text(heard).await;
    }
    // Whose answer it is needs not be said, and nobody else can be meant.
    backend.say(|_| status(204));
    let mut other = gateway.open("/ws/whole/7").await;
    let others = backend.wait("connect", 2).await.pop().expect("another one");
    let meant = format!(r#"{{"type":"websocket","id":"{}"}}"#, others.header("ce-sessionid"));
    for session in ["7", r#""x""#, "null", r#"{"type":"websocket"}"#, meant.as_str()] {
        let body = format!(r#"{{"_session":{session},"payload":"to the asker"}}"#);
        backend.say(move |_| answer(200, "application/json", body.clone()));
        client.writer.text("?").await;
        client.expect_text(r#"{"payload":"to the asker"}"#).await;
    }
    backend.say(|_| answer(200, "text/plain", "yes"));
    other.writer.text("?").await;
    other.expect_text(r#"{"payload":"yes"}"#).await;
}

#[tokio::test]
async fn an_answer_in_another_encoding_or_charset_is_refused_and_the_log_says_why() {
    let backend = Backend::start().await;
    let gateway = start(&backend, "", "").await;
    backend.say(|asked| match (asked.kind(), asked.text()) {
        ("message", "gzip") => {
            let mut answer = answer(200, "text/plain", vec![0x1f, 0x8b, 8]);
            answer.headers_mut().insert("content-encoding", "gzip".parse().expect("a value"));
            answer
        }
        ("message", "as it is") => {
            let mut answer = answer(200, "text/plain; charset=\"UTF-8\"", "as it is");
            answer.headers_mut().insert("content-encoding", "identity".parse().expect("a value"));
            answer
        }
        ("message", charset) => answer(200, &format!("text/plain; charset={charset}"), "abc"),
        _ => status(204),
    });
    let mut client = gateway.open("/ws").await;
    for ask in ["gzip", "iso-8859-1", "as it is", "us-ascii"] {
        client.writer.text(ask).await;
    }
    client.expect_text("as it is").await;
    client.expect_text("abc").await;
    let why = ["has the Content-Encoding \"gzip\"", "has the charset \"iso-8859-1\""];
    logged(&gateway, &why).await;
    assert_eq!(backend.of("message").len(), 4, "each was taken");
}

#[tokio::test]
async fn an_answer_goes_to_the_asker_alone_and_its_content_type_picks_the_frame() {
    let backend = Backend::start().await;
    let gateway = start(&backend, "[limits]\nframe_bytes_max = \"1MiB\"", "").await;
    backend.say(|asked| match (asked.kind(), asked.text()) {
        ("message", "text") => answer(200, "text/plain", "a text"),
        ("message", "json") => answer(200, "application/json", r#"{"a": 1.50}"#),
        ("message", "octets") => answer(200, "image/png", "\u{1}"),
        ("message", "nothing") => status(204),
        ("message", "empty") => answer(200, "text/plain", ""),
        ("message", "accepted") => answer(202, "text/plain", "no reply"),
        ("message", "garbage") => answer(200, "text/plain", vec![0xff, 0xfe]),
        ("message", "large") => answer(200, "text/plain", vec![b'x'; 10 << 20]),
        ("message", "fits") => answer(200, "text/plain", vec![b'x'; 1 << 20]),
        _ => status(200),
    });
    let (mut client, mut other) = (gateway.open("/ws").await, gateway.open("/ws").await);
    for ask in
        ["garbage", "large", "nothing", "empty", "accepted", "text", "json", "octets", "fits"]
    {
        client.writer.text(ask).await;
    }
    client.expect_text("a text").await;
    client.expect_text(r#"{"a": 1.50}"#).await;
    assert_eq!(client.message().await, Heard::Binary(Bytes::from_static(&[1])));
    client.expect_text(&"x".repeat(1 << 20)).await;
    other.writer.text("text").await;
    other.expect_text("a text").await;
    // Each was asked once: what is answered badly was taken all the same.
    assert_eq!(backend.of("message").len(), 10);
    logged(&gateway, &["not UTF-8", "larger than 1048576 bytes"]).await;
    assert_eq!(gateway.counted(&series("taken")).await, 12);
}

#[tokio::test]
async fn a_pod_that_leaves_tells_its_backends_of_every_end_first() {
    let backend = Backend::start().await;
    let mut gateway = start(&backend, "", "").await;
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(gateway.open("/ws").await);
    }
    backend.answer(|_| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        status(204)
    });
    for client in &mut clients {
        client.writer.text("one").await;
        client.writer.text("two").await;
    }
    backend.wait("message", 1).await;
    gateway.signal(rustix::process::Signal::TERM);
    for client in &mut clients {
        assert_eq!(client.closing().await.close_code(), Some(1012));
    }
    assert!(gateway.exit().await.success(), "{}", gateway.log());
    let gone = backend.of("disconnect");
    assert_eq!(gone.len(), 30);
    assert!(gone.iter().all(|gone| gone.json()["cause"] == "drain"));
    assert_eq!(backend.of("connect").len(), 30);
}

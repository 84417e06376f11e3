//! Traces: what a publisher, a client or a backend began goes on through the pods, as a real collector sees it;
//! and lines of the log, which nobody outside can forge.

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::backend::{Asked, Backend, answer, logged, status};
use support::client::{self, Client, Request};
use support::collector::{Collector, Received};
use support::gateway::{DOORS, Gateway, fail_to_start, send};
use support::redis::Redis;
use support::tls::Certificate;
use support::wait::{eventually, within};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PUBLISHER: &str = "b7ad6b7169203331";
const CLIENT: &str = "00f067aa0ba902b7";

fn traceparent(parent: &str) -> String {
    format!("00-{TRACE}-{parent}-01")
}

/// A pod with spans of everything, unless `trace` says less.
async fn start(otlp: &str, trace: &str, rest: &str) -> Gateway {
    let gateway = Gateway::start(&format!("[trace]\notlp = \"{otlp}\"\n{trace}\n{rest}")).await;
    gateway.ready().await;
    gateway
}

async fn publish(gateway: &Gateway, text: &'static str, traceparent: &str) {
    let call = gateway.call("POST", "/v1/publish/ws").header("content-type", "text/plain");
    let said = send(call.header("traceparent", traceparent).body(text)).await;
    assert_eq!(said.status, 202, "{}", said.text);
}

async fn open_traced(gateway: &Gateway, traceparent: &str) -> Client {
    let request = Request::upgrade("/ws").header("traceparent", traceparent);
    client::ask(gateway.clients, &request).await.expect("the path is open")
}

/// A collector that is away while the socket is held: that is bound, and listens to nobody.
fn away() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().expect("a socket can be made");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let otlp = format!("http://{}", socket.local_addr().expect("it is bound"));
    (socket, otlp)
}

/// Those of that name below that one.
fn below<'a>(spans: &'a [Received], name: &str, parent: &str) -> Vec<&'a Received> {
    spans.iter().filter(|span| span.name == name && span.parent == parent).collect()
}

/// The only one.
#[track_caller]
fn only<'a>(spans: &'a [Received], name: &str, parent: &str) -> &'a Received {
    let found = below(spans, name, parent);
    assert_eq!(found.len(), 1, "{name} below {parent} in {spans:#?}");
    found[0]
}

fn pods(spans: &[&Received]) -> BTreeSet<String> {
    spans.iter().map(|span| span.resource["service.instance.id"].clone()).collect()
}

/// What the backend was told to be its parent.
fn parent_of(asked: &Asked) -> String {
    let fields: Vec<&str> = asked.header("traceparent").split('-').collect();
    assert_eq!((fields[1], fields[3]), (TRACE, "01"));
    fields[2].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_goes_from_a_publisher_through_two_pods_to_a_webhook_and_on_from_there() {
    let (redis, collector, backend) = (Redis::start(), Collector::start(), Backend::start().await);
    backend.say(|asked| match asked.kind() {
        "message" => answer(200, "text/plain", "taken"),
        _ => status(204),
    });
    let (server, hook) = (redis.url(), backend.url());
    let rest = format!(
        "[broker]\nurl = \"{server}\"\n[[path]]\npath = \"/ws\"\nbackend = {{ webhook = \"{hook}\" }}\n"
    );
    let a = start(&collector.url(), "", &rest).await;
    let b = start(&collector.url(), "", &rest).await;
    let mut here = a.open("/ws").await;
    let mut there = open_traced(&b, &traceparent(CLIENT)).await;

    // A publisher reaches clients on both pods; one of them, of the same trace, tells its backend.
    publish(&a, "news", &traceparent(PUBLISHER)).await;
    here.expect_text("news").await;
    there.expect_text("news").await;
    there.writer.text("heard").await;
    there.expect_text("taken").await;
    let asked = backend.wait("message", 1).await.remove(0);
    // The backend publishes as a part of what it was asked.
    publish(&a, "more", asked.header("traceparent")).await;
    here.expect_text("more").await;
    there.expect_text("more").await;

    let spans = collector.trace(TRACE, 10).await;
    assert_eq!(spans.len(), 10, "{spans:#?}");
    let first = only(&spans, "publish", PUBLISHER);
    let told = below(&spans, "fan-out", &first.id);
    assert_eq!(pods(&told).len(), 2, "{spans:#?}");
    assert!(pods(&told).contains(&first.resource["service.instance.id"]));
    for fan_out in told {
        assert_eq!(fan_out.attributes["pathcast.path"], "/ws");
        assert_eq!(fan_out.attributes["pathcast.sessions"], "1");
        assert_eq!(fan_out.attributes["pathcast.bytes"], "6", "a head of two bytes, and the text");
        assert_eq!(fan_out.resource["service.name"], "pathcast");
    }
    assert_eq!(first.attributes["pathcast.kind"], "broadcast");
    assert_eq!(first.attributes["pathcast.receivers"], "2");

    let handshake = only(&spans, "handshake", CLIENT);
    assert_eq!(handshake.attributes["http.response.status_code"], "101");
    let hooks = below(&spans, "webhook", &handshake.id);
    assert_eq!(hooks.len(), 2, "{spans:#?}");
    let hook = |kind: &str| {
        let found = hooks.iter().find(|hook| hook.attributes["pathcast.event"] == kind);
        *found.expect("one of each")
    };
    assert_eq!(hook("connect").attributes["http.response.status_code"], "204");
    let message = hook("message");
    assert_eq!(message.attributes["http.response.status_code"], "200");
    assert_eq!(message.kind, "SPAN_KIND_CLIENT");
    // What the backend hears is what the collector knows.
    assert_eq!(parent_of(&asked), message.id);
    let connects = backend.of("connect");
    let connect = connects.iter().find(|asked| asked.header("traceparent").contains(TRACE));
    assert_eq!(parent_of(connect.expect("of the traced client")), hook("connect").id);
    let told = connect.expect("of the traced client").json();
    assert_eq!(told["traceparent"], format!("00-{TRACE}-{}-01", handshake.id));

    // Its answer, and what it published.
    let reply = only(&spans, "unicast", &message.id);
    assert_eq!(reply.attributes["pathcast.result"], "delivered");
    let second = only(&spans, "publish", &message.id);
    assert_eq!(pods(&below(&spans, "fan-out", &second.id)).len(), 2, "{spans:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unicast_is_a_span_at_the_door_and_one_at_its_owner() {
    let (redis, collector) = (Redis::start(), Collector::start());
    let rest = format!("[broker]\nurl = \"{}\"\n[[path]]\npath = \"/ws\"\n", redis.url());
    let a = start(&collector.url(), "", &rest).await;
    let b = start(&collector.url(), "", &rest).await;
    let mut events = b.listen("/ws").await;
    let (mut client, session) = b.open_known("/ws", &mut events).await;
    let call = a.call("POST", &format!("/v1/publish/ws?session={session}"));
    let call = call.header("content-type", "text/plain").body("you");
    let said = send(call.header("traceparent", traceparent(PUBLISHER))).await;
    assert_eq!(said.status, 200, "{}", said.text);
    client.expect_text("you").await;
    let spans = collector.trace(TRACE, 2).await;
    let publish = only(&spans, "publish", PUBLISHER);
    let unicast = only(&spans, "unicast", &publish.id);
    assert_eq!(pods(&[publish, unicast]).len(), 2);
    for span in [publish, unicast] {
        assert_eq!(span.attributes["pathcast.path"], "/ws");
        assert_eq!(span.attributes["pathcast.result"], "delivered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_sampled_leaves_no_span_and_its_context_goes_on_as_it_came() {
    let (collector, backend) = (Collector::start(), Backend::start().await);
    let rest =
        format!("[[path]]\npath = \"/ws\"\nbackend = {{ webhook = \"{}\" }}\n", backend.url());
    let gateway = start(&collector.url(), "sample = 0", &rest).await;
    let unsampled = format!("00-{TRACE}-{CLIENT}-00");
    let mut client = open_traced(&gateway, &unsampled).await;
    publish(&gateway, "quiet", &unsampled).await;
    client.expect_text("quiet").await;
    client.writer.text("quiet, too").await;
    for kind in ["connect", "message"] {
        let asked = backend.wait(kind, 1).await.remove(0);
        assert_eq!(asked.header("traceparent"), unsampled);
    }
    // One that begins here says that nobody keeps a record of it.
    let mut other = gateway.open("/ws").await;
    other.writer.text("x").await;
    let message = backend.wait("message", 2).await.remove(1);
    assert!(message.header("traceparent").ends_with("-00"));
    // A publisher's word counts for more than the ratio.
    publish(&gateway, "loud", &traceparent(PUBLISHER)).await;
    other.expect_text("loud").await;
    collector.trace(TRACE, 2).await;
    let spans = collector.spans();
    let names: BTreeSet<&str> = spans.iter().map(|span| &*span.name).collect();
    assert_eq!((names, spans.len()), (BTreeSet::from(["publish", "fan-out"]), 2), "{spans:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_not_sampled_stays_so_with_all_that_it_sends() {
    let backend = Backend::start().await;
    let rest =
        format!("[[path]]\npath = \"/ws\"\nbackend = {{ webhook = \"{}\" }}\n", backend.url());
    let (_socket, otlp) = away();
    let gateway = start(&otlp, "", &rest).await;
    let unsampled = format!("00-{TRACE}-{CLIENT}-00");
    let mut client = open_traced(&gateway, &unsampled).await;
    client.writer.text("x").await;
    client.leave().await;
    for kind in ["connect", "message", "disconnect"] {
        let asked = backend.wait(kind, 1).await.remove(0);
        assert_eq!(asked.header("traceparent"), unsampled, "{kind}");
    }
}

/// A pod that has begun to send a span to a collector that takes connections and says nothing, with another
/// one that waits.
async fn start_sending(rest: &str) -> (Gateway, TcpListener, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let otlp = format!("http://{}", listener.local_addr().expect("it is bound"));
    let gateway = start(&otlp, "", &format!("{rest}[[path]]\npath = \"/ws\"\n")).await;
    publish(&gateway, "x", &traceparent(PUBLISHER)).await;
    let (connection, _) = within("the exporter", listener.accept()).await.expect("it comes");
    publish(&gateway, "y", &traceparent(PUBLISHER)).await;
    (gateway, listener, connection)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_holds_a_pod_for_seconds() {
    let (mut gateway, _listener, _connection) = start_sending("").await;
    let begun = Instant::now();
    gateway.signal(Signal::TERM);
    assert!(gateway.exit().await.success());
    // Both batches would take 10 s.
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(9), "{took:?}\n{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_does_not_hold_a_pod_that_was_told_three_times() {
    let limits =
        "[limits]\nclose_timeout = \"10m\"\n[drain]\nsettle = \"10m\"\ntimeout = \"10m\"\n";
    let (mut gateway, _listener, _connection) = start_sending(limits).await;
    // It does not answer the close, so that the pod is still there when it is told again.
    let _mute = gateway.open("/ws").await;
    for said in ["not ready any more", "leaving faster"] {
        gateway.signal(Signal::TERM);
        logged(&gateway, &[said]).await;
    }
    let begun = Instant::now();
    gateway.signal(Signal::TERM);
    assert!(gateway.exit().await.success());
    // The last spans would have 3 s.
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(2_900), "{took:?}\n{}", gateway.log());
    assert!(gateway.log().contains("left at once"), "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_spans_have_been_sent_when_a_pod_has_gone() {
    let collector = Collector::start();
    let mut gateway = start(&collector.url(), "", "[[path]]\npath = \"/ws\"\n").await;
    let mut client = gateway.open("/ws").await;
    publish(&gateway, "last words", &traceparent(PUBLISHER)).await;
    client.expect_text("last words").await;
    gateway.signal(Signal::TERM);
    assert!(gateway.exit().await.success());
    collector.trace(TRACE, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_is_one_line_in_the_log_and_holds_nobody() {
    let (_socket, otlp) = away();
    let mut gateway = start(&otlp, "", "[[path]]\npath = \"/ws\"\n").await;
    let mut client = gateway.open("/ws").await;
    eventually("20 lost spans", async || {
        publish(&gateway, "all the same", &traceparent(PUBLISHER)).await;
        client.expect_text("all the same").await;
        let lost = gateway.counted("pathcast_spans_total{result=\"lost\"}").await;
        (lost >= 20).then_some(())
    })
    .await;
    logged(&gateway, &["the collector does not take spans"]).await;
    assert_eq!(gateway.log().matches("collector").count(), 1, "{}", gateway.log());
    gateway.signal(Signal::TERM);
    assert!(gateway.exit().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_behind_tls_is_believed_by_the_authorities_of_the_system() {
    let (collector, certificate) = (Collector::start(), Certificate::new());
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    certificate.write(&cert, &key);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let (acceptor, plain) = (certificate.acceptor_of(&[b"h2"]), collector.port);
    let passing = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let inner = TcpStream::connect(("127.0.0.1", plain)).await;
            let mut inner = inner.expect("the collector listens");
            tokio::spawn(async move { copy_bidirectional(&mut stream, &mut inner).await });
        }
    });
    let config =
        format!("{DOORS}[trace]\notlp = \"https://localhost:{port}\"\n[[path]]\npath = \"/ws\"\n");
    let authorities = cert.to_str().expect("a plain name");
    let gateway = Gateway::start_whole(&config, &[("SSL_CERT_FILE", authorities)]).await;
    publish(&gateway, "sealed", &traceparent(PUBLISHER)).await;
    collector.trace(TRACE, 1).await;
    passing.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_none_of_a_collector_is_refused_with_a_word_of_advice() {
    for otlp in ["collector:4317", "grpc://collector:4317", "http://collector:4317/v1/traces", ""] {
        let said = fail_to_start(&format!(
            "{DOORS}[trace]\notlp = \"{otlp}\"\n[[path]]\npath = \"/ws\"\n"
        ))
        .await;
        assert!(said.contains("http://collector:4317\""), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_and_no_backend_can_forge_a_line_of_the_log() {
    const FORGED: &str = "\r\n2026-01-01T00:00:00.000000Z ERROR forged\u{1b}[31m";
    for format in ["human", "json"] {
        let backend = Backend::start().await;
        backend.say(|asked| match asked.kind() {
            "message" => answer(200, "application/json", format!("{{{FORGED}")),
            "connect" if asked.text().contains("forged=") => {
                let named = serde_json::json!({ "subprotocol": FORGED });
                answer(200, "application/json", named.to_string())
            }
            _ => status(204),
        });
        let url = backend.url();
        let mut gateway = Gateway::start(&format!(
            "[log]\nformat = \"{format}\"\nlevel = \"trace\"\n\
             [[path]]\npath = \"/ws\"\nwholemsg = true\nbackend = {{ webhook = \"{url}\" }}\n"
        ))
        .await;
        let mut client = gateway.open("/ws").await;
        let hostile = Request::upgrade("/ws?forged=%0A%1B[31m")
            .header("User-Agent", "\u{9b}31m\tforged")
            .header("Sec-WebSocket-Protocol", "forged\u{9b}");
        assert_eq!(client::status(gateway.clients, &hostile).await, 503);
        let hostile = Request::upgrade("/ws/%0d%0aforged").header("Origin", "http://\u{9b}forged");
        assert_eq!(client::status(gateway.clients, &hostile).await, 404);
        client.writer.text(&format!("{{{FORGED}")).await;
        backend.wait("message", 1).await;
        logged(&gateway, &["dropped a backend's answer", "a backend chose the subprotocol"]).await;
        client.writer.close(Some(4000), FORGED).await;
        backend.wait("disconnect", 1).await;
        gateway.signal(Signal::TERM);
        assert!(gateway.exit().await.success());
        let log = gateway.log();
        assert!(log.contains("forged"), "what was tried was logged:\n{log}");
        for line in log.lines() {
            assert!(!line.contains(|char: char| char.is_control()), "{line:?}");
            match format {
                "json" => drop(serde_json::from_str::<serde_json::Value>(line).expect("JSON")),
                _ => assert!(line.starts_with("20") && !line.starts_with("2026-01-01"), "{line:?}"),
            }
        }
    }
}

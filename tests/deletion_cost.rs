//! A pod on Kubernetes writes down how many sessions it has, so that the emptiest are removed first.

mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::gateway::{DOORS, Gateway, fail_to_start};
use support::tls::Certificate;
use support::wait::{eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const PATH: &str = "[[path]]\npath = \"/ws\"\n";

const TAKEN: &str = "200 OK";

/// A cluster's API, as far as it is asked here: it answers each request with that status, and keeps the last
/// one that it took.
async fn cluster(
    certificate: &Certificate,
    mut status: impl FnMut(&str) -> &'static str + Send + 'static,
) -> (u16, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let (acceptor, asked) = (certificate.acceptor(), Arc::new(Mutex::new(String::new())));
    let heard = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut bytes = [0; 4096];
            let mut request = String::new();
            while !request.ends_with("}}}") {
                let read = stream.read(&mut bytes).await.expect("a request");
                assert_ne!(read, 0, "a whole one: {request}");
                request.push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
            let status = status(&request);
            if status == TAKEN {
                *heard.lock().expect("nobody panicked") = request;
            }
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}");
            stream.write_all(answer.as_bytes()).await.expect("it is read");
        }
    });
    (port, asked)
}

/// A pod with an account there.
async fn pod(certificate: &Certificate, port: u16) -> (Gateway, tempfile::TempDir) {
    let account = tempfile::tempdir().expect("a temporary directory can be made");
    certificate.write(&account.path().join("ca.crt"), &account.path().join("key"));
    std::fs::write(account.path().join("token"), "secret-token\n").expect("it can be written");
    let folder = account.path().display();
    let config =
        format!("{DOORS}[kubernetes]\ndeletion_cost = true\naccount = \"{folder}\"\n{PATH}");
    let port = port.to_string();
    let environment = [
        ("KUBERNETES_SERVICE_HOST", "localhost"),
        ("KUBERNETES_SERVICE_PORT", port.as_str()),
        ("POD_NAMESPACE", "chat"),
        ("POD_NAME", "pathcast-7"),
    ];
    (Gateway::start_whole(&config, &environment).await, account)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_writes_its_sessions_as_its_deletion_cost() {
    let certificate = Certificate::new();
    // It takes nothing at first, and fewer sessions never: they may take their time to come.
    let mut is_up = false;
    let (port, asked) = cluster(&certificate, move |asked| {
        match std::mem::replace(&mut is_up, true) && asked.contains("\"2\"") {
            true => TAKEN,
            false => "503 Service Unavailable",
        }
    })
    .await;
    let (gateway, _account) = pod(&certificate, port).await;
    let (_one, _two) = (gateway.open("/ws").await, gateway.open("/ws").await);
    let request = eventually("what the pod says of itself", async || {
        Some(asked.lock().expect("nobody panicked").clone()).filter(|asked| !asked.is_empty())
    })
    .await;
    let (head, body) = request.split_once("\r\n\r\n").expect("a head");
    assert!(
        head.starts_with("PATCH /api/v1/namespaces/chat/pods/pathcast-7 HTTP/1.1\r\n"),
        "{head}"
    );
    for line in ["authorization: Bearer secret-token", "content-type: application/merge-patch+json"]
    {
        assert!(head.lines().any(|one| one == line), "{head}");
    }
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    let cost = &body["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"];
    assert_eq!(cost, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_that_is_not_allowed_the_log_says_so_and_nothing_else_happens() {
    let certificate = Certificate::new();
    let (port, _asked) = cluster(&certificate, |_| "403 Forbidden").await;
    let (gateway, _account) = pod(&certificate, port).await;
    eventually("a warning", async || gateway.log().contains("may not `patch` pods").then_some(()))
        .await;
    assert!(!gateway.log().contains("secret-token"), "{}", gateway.log());
    gateway.open("/ws").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_does_not_answer_holds_no_pod_that_leaves() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let (mut gateway, _account) = pod(&Certificate::new(), port).await;
    let (_connection, _) = within("a call", listener.accept()).await.expect("it comes");
    let begun = Instant::now();
    gateway.signal(Signal::TERM);
    assert!(gateway.exit().await.success());
    // The call would have 10 s.
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn elsewhere_than_on_kubernetes_it_is_a_mistake() {
    let said = fail_to_start(&format!("{DOORS}[kubernetes]\ndeletion_cost = true\n{PATH}")).await;
    assert!(said.contains("KUBERNETES_SERVICE_PORT is not set"), "{said}");
}

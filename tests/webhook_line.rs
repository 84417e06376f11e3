//! Webhooks on the line: certificates that are believed or not, and servers that speak something else.

mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use support::backend::{Backend, answer, logged};
use support::client::{self, Request};
use support::gateway::{DOORS, Gateway};
use support::tls::Certificate;
use support::wait::eventually;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

/// Answers everything with a word, over TLS; its port.
async fn encrypted(certificate: &Certificate) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let (addr, acceptor) = (listener.local_addr(), certificate.acceptor());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(async |_| {
                    Ok::<_, Infallible>(answer(200, "text/plain", Body::from("over TLS")))
                });
                let served = http1::Builder::new();
                let _ = served.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    addr.expect("it is bound").port()
}

#[tokio::test]
async fn an_https_backend_is_called_if_its_certificate_is_believed_and_only_then() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let certificate = Certificate::new();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    certificate.write(&cert, &key);
    let port = encrypted(&certificate).await;
    let settings = |host: &str| {
        format!(
            "{DOORS}[webhook]\nconnect_limit = \"500ms\"\n[[path]]\npath = \"/ws\"\n\
             backend = {{ webhook = \"https://{host}:{port}/\" }}\n"
        )
    };
    let cert = cert.to_str().expect("a name in ASCII");
    let believing = [("SSL_CERT_FILE", cert), ("SSL_CERT_DIR", "/nonexistent")];
    let gateway = Gateway::start_whole(&settings("localhost"), &believing).await;
    let mut client = gateway.open("/ws").await;
    client.writer.text("?").await;
    client.expect_text("over TLS").await;
    // Another name than that in the certificate, and a certificate of an authority nobody knows.
    for (host, environment) in [("127.0.0.1", &believing[..]), ("localhost", &[])] {
        let gateway = Gateway::start_whole(&settings(host), environment).await;
        let answer = client::ask(gateway.clients, &Request::upgrade("/ws")).await;
        assert_eq!(answer.err().map(|answer| answer.status), Some(503), "{host}");
        logged(&gateway, &["invalid peer certificate"]).await;
    }
}

#[tokio::test]
async fn what_is_no_http_is_no_answer() {
    let backend = Backend::start().await;
    backend.say(|asked| answer(200, "text/plain", asked.body.clone()));
    // In front of the backend: until told otherwise it answers nonsense, or hangs up.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let (is_good, behind) = (Arc::new(AtomicBool::new(true)), backend.addr);
    let state = is_good.clone();
    tokio::spawn(async move {
        for number in 0.. {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            if !state.load(Ordering::SeqCst) {
                let nonsense: [&[u8]; 3] = [b"SSH-2.0-x\r\n", b"", b"HTTP/1.1 200 OK\r\nConte"];
                let _ = stream.write_all(nonsense[number % 3]).await;
                continue;
            }
            tokio::spawn(async move {
                let Ok(mut backend) = TcpStream::connect(behind).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut backend).await;
            });
        }
    });
    let gateway = Gateway::start(&format!(
        "[[path]]\npath = \"/ws\"\nbackend = {{ webhook = \"http://127.0.0.1:{port}/\" }}\n"
    ))
    .await;
    is_good.store(false, Ordering::SeqCst);
    let refused = client::ask(gateway.clients, &Request::upgrade("/ws")).await;
    assert_eq!(refused.err().map(|answer| answer.status), Some(503));
    is_good.store(true, Ordering::SeqCst);
    let mut client = eventually("a backend that speaks HTTP", async || {
        client::ask(gateway.clients, &Request::upgrade("/ws")).await.ok()
    })
    .await;
    client.writer.text("at last").await;
    client.expect_text("at last").await;
}

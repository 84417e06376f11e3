//! Webhooks on the line: certificates that are believed or not, and servers that speak something else.

mod support;

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use support::backend::{Backend, answer, logged, series};
use support::client::{self, Request};
use support::gateway::{DOORS, Gateway};
use support::tls::Certificate;
use support::wait::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
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

/// One request as it comes, with its body; `None` at the connection's end.
async fn request(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.parse().expect("a number"));
            if bytes.len() >= end + 4 + length {
                return Some((head, String::from_utf8_lossy(&bytes[end + 4..]).into_owned()));
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

#[tokio::test]
async fn a_message_that_is_answered_with_nonsense_is_posted_again_in_its_order() {
    const NONSENSE: [&[u8]; 6] = [
        b"",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200 OK\r\nConte",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnot a length\r\n",
        b"HTTP/1.1 2OO OK\r\n\r\n",
    ];
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let kept = heard.clone();
    tokio::spawn(async move {
        // Each message gets one piece of nonsense first, each time another one, and then its due.
        let answered = Arc::new(Mutex::new(Vec::new()));
        while let Ok((mut stream, _)) = listener.accept().await {
            let (kept, answered) = (kept.clone(), answered.clone());
            tokio::spawn(async move {
                while let Some((head, body)) = request(&mut stream).await {
                    let mut answer = &b"HTTP/1.1 204 No Content\r\n\r\n"[..];
                    if head.contains("ce-type: pathcast.message") {
                        kept.lock().expect("nobody panicked").push(body.clone());
                        let mut answered = answered.lock().expect("nobody panicked");
                        if !answered.contains(&body) {
                            answer = NONSENSE[answered.len()];
                            answered.push(body);
                        }
                    }
                    let is_good = answer.starts_with(b"HTTP/1.1 204");
                    if stream.write_all(answer).await.is_err() || !is_good {
                        return;
                    }
                }
            });
        }
    });
    let gateway = Gateway::start(&format!(
        "[[path]]\npath = \"/ws\"\nbackend = {{ webhook = \"http://127.0.0.1:{port}/\" }}\n"
    ))
    .await;
    let mut client = gateway.open("/ws").await;
    let sent: Vec<_> = (0..NONSENSE.len()).map(|number| number.to_string()).collect();
    for text in &sent {
        client.writer.text(text).await;
    }
    let expected: Vec<_> = sent.iter().flat_map(|text| [text.clone(), text.clone()]).collect();
    eventually("each message twice", async || {
        (heard.lock().expect("nobody panicked").len() >= expected.len()).then_some(())
    })
    .await;
    client.leave().await;
    eventually("each event once, with the connect and the disconnect", async || {
        (gateway.counted(&series("taken")).await == sent.len() as u64 + 2).then_some(())
    })
    .await;
    assert_eq!(*heard.lock().expect("nobody panicked"), expected);
}

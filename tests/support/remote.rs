//! A remote WebSocket server, as upstreams have them: it writes down who connected and every frame
//! that came, with the epoch of whoever sent it, and behaves as the test wants.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures_util::{SinkExt, StreamExt};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::wait::eventually;

/// What it does to those who come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manner {
    /// Reads everything, and says what the test says.
    Open,
    /// Answers the handshake with this status.
    Refuse(u16),
    /// Answers it with something that is no HTTP.
    Garbage,
    /// Never answers it.
    Mute,
    /// Opens, and closes at once with this code.
    Close(u16),
    /// Opens, says a close frame with this code and "bye", and keeps the connection.
    Linger(u16),
    /// Opens, and reads nothing.
    Deaf,
}

/// What it saw.
#[derive(Debug, Clone)]
pub struct Seen {
    pub at: Instant,
    /// Counts the connections.
    pub connection: usize,
    /// What the handshake said.
    pub epoch: u64,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The target, and the headers in lower case.
    Opened(String, Vec<(String, String)>),
    Said(Message),
    Ended,
}

#[derive(Clone)]
struct Shared {
    seen: Arc<Mutex<Vec<Seen>>>,
    manner: watch::Receiver<Manner>,
    words: broadcast::Sender<Message>,
    tls: Option<TlsAcceptor>,
}

pub struct Remote {
    pub addr: SocketAddr,
    shared: Shared,
    manner: watch::Sender<Manner>,
    accepting: JoinHandle<()>,
}

impl Remote {
    pub async fn start(manner: Manner) -> Remote {
        Remote::start_at("127.0.0.1:0", manner, None).await
    }

    /// With TLS, by the certificate and the key in these PEM files.
    pub async fn start_secured(cert: &Path, key: &Path) -> Remote {
        let cert = CertificateDer::from_pem_file(cert).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(key).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider knows both versions")
            .with_no_client_auth()
            .with_single_cert(vec![cert], key)
            .expect("they belong together");
        Remote::start_at("127.0.0.1:0", Manner::Open, Some(Arc::new(config).into())).await
    }

    pub async fn start_at(addr: &str, manner: Manner, tls: Option<TlsAcceptor>) -> Remote {
        let listener = TcpListener::bind(addr).await.expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let (manner, watched) = watch::channel(manner);
        let shared = Shared {
            seen: Arc::default(),
            manner: watched,
            words: broadcast::channel(1 << 16).0,
            tls,
        };
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Remote { addr, shared, manner, accepting }
    }

    pub fn url(&self) -> String {
        let scheme = if self.shared.tls.is_some() { "wss" } else { "ws" };
        format!("{scheme}://localhost:{}/feed?key=a%20b", self.addr.port())
    }

    /// How those are treated who come from now on; of those who are there, a deaf one reads again.
    pub fn behave(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }

    /// Says this to everybody who is there.
    pub fn say(&self, message: impl Into<Message>) {
        // Nobody may be there.
        let _ = self.shared.words.send(message.into());
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("nobody panicked").clone()
    }

    /// What was said to it, by whomever, in the order of its coming.
    pub fn said(&self) -> Vec<Message> {
        let said = self.seen().into_iter().filter_map(|seen| match seen.what {
            What::Said(message) => Some(message),
            _ => None,
        });
        said.collect()
    }

    /// How many connections were opened.
    pub fn opened(&self) -> usize {
        self.seen().iter().filter(|seen| matches!(seen.what, What::Opened(..))).count()
    }

    /// Waits until so many connections were opened; the last one.
    pub async fn wait_opened(&self, count: usize) -> Seen {
        eventually(&format!("{count} connections of an upstream"), async || {
            let seen = self.seen().into_iter();
            let opened: Vec<_> =
                seen.filter(|seen| matches!(seen.what, What::Opened(..))).collect();
            (opened.len() >= count).then(|| opened[opened.len() - 1].clone())
        })
        .await
    }

    /// Waits until so many messages came; all of them.
    pub async fn wait_said(&self, count: usize) -> Vec<Message> {
        eventually(&format!("{count} messages to an upstream"), async || {
            Some(self.said()).filter(|said| said.len() >= count)
        })
        .await
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    fn note(&self, connection: usize, epoch: u64, what: What) {
        let seen = Seen { at: Instant::now(), connection, epoch, what };
        self.seen.lock().expect("nobody panicked").push(seen);
    }
}

async fn accept(listener: TcpListener, shared: Shared) {
    for connection in 0.. {
        let (socket, _) = listener.accept().await.expect("a listener goes on");
        socket.set_nodelay(true).expect("a connected socket takes options");
        let shared = shared.clone();
        tokio::spawn(async move {
            match shared.tls.clone() {
                None => greet(socket, connection, shared).await,
                Some(tls) => {
                    // Whoever does not believe the certificate hangs up.
                    if let Ok(socket) = tls.accept(socket).await {
                        greet(socket, connection, shared).await;
                    }
                }
            }
        });
    }
}

async fn greet<S>(mut socket: S, connection: usize, shared: Shared)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let manner = shared.manner.borrow().clone();
    let answer = match manner {
        Manner::Refuse(status) => {
            format!("HTTP/1.1 {status} No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        }
        Manner::Garbage => "\u{1}\u{2}what?\r\n\r\n".to_owned(),
        Manner::Mute => return std::future::pending().await,
        _ => return serve(socket, connection, shared, manner).await,
    };
    // Read first: what lies unread would reset the connection.
    let _ = socket.read(&mut [0; 4096]).await;
    let _ = socket.write_all(answer.as_bytes()).await;
    let _ = socket.shutdown().await;
}

async fn serve<S>(socket: S, connection: usize, shared: Shared, manner: Manner)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut words = shared.words.subscribe();
    let mut epoch = 0;
    #[expect(clippy::result_large_err, reason = "the crate's own signature")]
    let answer = |request: &Request, mut response: Response| {
        let headers = request.headers().iter();
        let text = |value: &http::HeaderValue| value.to_str().expect("text").to_owned();
        let headers: Vec<_> =
            headers.map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
        let of = |name: &str| {
            headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        };
        epoch = of("pathcast-upstream-epoch").and_then(|text| text.parse().ok()).unwrap_or(0);
        if let Some(offered) = of("sec-websocket-protocol") {
            let last = offered.rsplit(',').next().unwrap_or_default().trim().to_owned();
            let last = last.parse().expect("a good name");
            response.headers_mut().insert("sec-websocket-protocol", last);
        }
        shared.note(connection, epoch, What::Opened(request.uri().to_string(), headers));
        Ok(response)
    };
    let Ok(mut socket) = accept_hdr_async(socket, answer).await else { return };
    if let Manner::Close(code) = manner {
        let frame = CloseFrame { code: code.into(), reason: "go away".into() };
        let _ = socket.close(Some(frame)).await;
    }
    if let Manner::Linger(code) = manner {
        // Raw, since the crate sends no code that may not be sent.
        let frame = [&[0x88, 5][..], &code.to_be_bytes(), b"bye"].concat();
        let mut socket = socket.into_inner();
        let _ = socket.write_all(&frame).await;
        while socket.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {}
        return shared.note(connection, epoch, What::Ended);
    }
    if manner == Manner::Deaf {
        let mut manner = shared.manner.clone();
        let _ = manner.wait_for(|manner| *manner != Manner::Deaf).await;
    }
    loop {
        tokio::select! {
            said = socket.next() => match said {
                Some(Ok(message)) => shared.note(connection, epoch, What::Said(message)),
                Some(Err(_)) | None => break,
            },
            Ok(word) = words.recv() => {
                if socket.send(word).await.is_err() {
                    break;
                }
            }
        }
    }
    shared.note(connection, epoch, What::Ended);
}

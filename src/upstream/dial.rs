//! Dialling: a connection to a remote WebSocket server, from its name to its 101.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    AUTHORIZATION, CONNECTION, HOST, HeaderName, HeaderValue, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Request, StatusCode};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tokio_util::io::InspectReader;

use crate::clock::BootTime;
use crate::guarded::Guarded;
use crate::upstream::ear::Ear;
use crate::upstream::lease::Lease;

/// From the look-up of the name to the 101.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// What was written and not taken by then is not sent any more.
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// What is read at once.
const READ_BYTES: usize = 16 << 10;

/// A token has to fit into a request's head.
const TOKEN_BYTES_MAX: u64 = 8 << 10;

/// The header that tells the remote server which holder of the upstream it speaks with.
const EPOCH: HeaderName = HeaderName::from_static("pathcast-upstream-epoch");

/// Where a remote server is, and how it is asked.
#[derive(Debug, Clone)]
pub struct Remote {
    /// Without brackets.
    pub host: String,
    pub port: u16,
    /// As it stands in the `Host` header.
    pub authority: String,
    /// Path and query.
    pub target: String,
    /// `None`: without TLS.
    pub tls: Option<Arc<ClientConfig>>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub subprotocols: Vec<String>,
    /// Holds the token of `Authorization: Bearer`; read at each attempt.
    pub token_file: Option<PathBuf>,
    /// What the remote server may send at once, fragments together.
    pub message_bytes_max: usize,
}

/// An open connection.
pub struct Dialled {
    pub socket: WebSocketStream<Box<dyn Stream>>,
    pub addr: SocketAddr,
    pub subprotocol: Option<String>,
}

/// With TLS or without.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("the token of {0} cannot be used: {1}")]
    Token(PathBuf, io::Error),
    #[error("{0} is no name that a certificate could have")]
    Name(String),
    #[error("TLS failed: {0}")]
    Tls(io::Error),
    #[error("the handshake was answered {0}")]
    Refused(StatusCode),
    #[error("the handshake failed: {0}")]
    Handshake(Box<Error>),
    #[error("no answer to the handshake within {DIAL_TIMEOUT:?}")]
    Timeout,
}

impl Remote {
    pub async fn dial(
        &self,
        epoch: u64,
        lease: &Arc<Lease>,
        ear: &Arc<Ear>,
    ) -> Result<Dialled, Fault> {
        let dialled = tokio::time::timeout(DIAL_TIMEOUT, self.begin(epoch, lease, ear));
        dialled.await.unwrap_or(Err(Fault::Timeout))
    }

    async fn begin(
        &self,
        epoch: u64,
        lease: &Arc<Lease>,
        ear: &Arc<Ear>,
    ) -> Result<Dialled, Fault> {
        let request = self.request(epoch).await?;
        let socket = TcpStream::connect((self.host.as_str(), self.port)).await;
        let socket = socket.map_err(Fault::Connect)?;
        let addr = socket.peer_addr().map_err(Fault::Connect)?;
        socket.set_nodelay(true).map_err(Fault::Connect)?;
        let options = socket2::SockRef::from(&socket);
        options.set_tcp_user_timeout(Some(USER_TIMEOUT)).map_err(Fault::Connect)?;
        let (lease, ear) = (lease.clone(), ear.clone());
        let guarded = Guarded::new(socket, Arc::new(move || lease.is_held(BootTime::now())));
        // Below TLS: the first byte of a record that has not come whole is a sign of life as well.
        let heard = InspectReader::new(guarded, move |bytes: &[u8]| ear.hear(bytes));
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(heard),
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone());
                let name = name.map_err(|_| Fault::Name(self.host.clone()))?;
                let connector = TlsConnector::from(tls.clone());
                Box::new(connector.connect(name, heard).await.map_err(Fault::Tls)?)
            }
        };
        // Each frame is a write of its own: of those that were not written none has begun.
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(self.message_bytes_max))
            .max_frame_size(Some(self.message_bytes_max));
        let opened = client_async_with_config(request, stream, Some(config)).await;
        let (socket, response) = opened.map_err(|error| match error {
            Error::Http(response) => Fault::Refused(response.status()),
            error => Fault::Handshake(Box::new(error)),
        })?;
        let subprotocol = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
        let subprotocol = subprotocol.and_then(|name| name.to_str().ok()).map(str::to_owned);
        Ok(Dialled { socket, addr, subprotocol })
    }

    async fn request(&self, epoch: u64) -> Result<Request<()>, Fault> {
        let scheme = if self.tls.is_some() { "wss" } else { "ws" };
        let uri = format!("{scheme}://{}{}", self.authority, self.target);
        let mut request = Request::builder()
            .uri(uri)
            .header(HOST, &self.authority)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, generate_key())
            .header(EPOCH, epoch);
        if !self.subprotocols.is_empty() {
            request = request.header(SEC_WEBSOCKET_PROTOCOL, self.subprotocols.join(", "));
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(file) = &self.token_file {
            let token = token(file).await.map_err(|error| Fault::Token(file.clone(), error))?;
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(());
        request.map_err(|error| Fault::Handshake(Box::new(Error::HttpFormat(error))))
    }
}

async fn token(file: &Path) -> io::Result<HeaderValue> {
    let mut token = Vec::new();
    let opened = tokio::fs::File::open(file).await?;
    opened.take(TOKEN_BYTES_MAX + 1).read_to_end(&mut token).await?;
    if u64::try_from(token.len()).is_ok_and(|bytes| bytes > TOKEN_BYTES_MAX) {
        return Err(io::Error::other(format!("it is larger than {TOKEN_BYTES_MAX} bytes")));
    }
    let token = token.trim_ascii();
    if token.is_empty() {
        // As a file is between being emptied and being written.
        return Err(io::Error::other("it is empty"));
    }
    let mut bearer = b"Bearer ".to_vec();
    bearer.extend_from_slice(token);
    let mut value = HeaderValue::from_bytes(&bearer)
        .map_err(|_| io::Error::other("it cannot be sent in a request's head"))?;
    value.set_sensitive(true);
    Ok(value)
}

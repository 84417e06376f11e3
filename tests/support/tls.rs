//! TLS as clients speak it: certificates made on the spot, each trusted by whom the test wants.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::client::{Answer, Client, Request, ask_over};
use super::gateway::replace;
use super::wait::within;

/// A certificate of its own authority, for `localhost`.
pub struct Certificate {
    cert: CertificateDer<'static>,
    cert_pem: String,
    key_pem: String,
}

/// One client, over several connections.
pub struct Visitor {
    connector: TlsConnector,
}

impl Certificate {
    pub fn new() -> Certificate {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
        let made = made.expect("a certificate can be made");
        Certificate {
            cert: made.cert.der().clone(),
            cert_pem: made.cert.pem(),
            key_pem: made.signing_key.serialize_pem(),
        }
    }

    /// Puts certificate and key into these files, one after the other.
    pub fn write(&self, cert: &Path, key: &Path) {
        replace(cert, &self.cert_pem);
        replace(key, &self.key_pem);
    }

    /// What a server shows who has this certificate.
    pub fn acceptor(&self) -> TlsAcceptor {
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).expect("an own key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|config| {
                config.with_no_client_auth().with_single_cert(vec![self.cert.clone()], key)
            });
        TlsAcceptor::from(Arc::new(config.expect("key and certificate were made together")))
    }

    /// The same for a server of these protocols (ALPN).
    pub fn acceptor_of(&self, protocols: &[&[u8]]) -> TlsAcceptor {
        let mut config = ServerConfig::clone(self.acceptor().config());
        config.alpn_protocols = protocols.iter().map(|&protocol| protocol.into()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Connects as somebody who trusts this certificate and no other.
    pub async fn connect(
        &self,
        addr: SocketAddr,
        version: &'static SupportedProtocolVersion,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        self.visitor(version).connect(addr).await
    }

    /// Somebody who trusts this certificate and no other, and keeps the tickets he is given.
    pub fn visitor(&self, version: &'static SupportedProtocolVersion) -> Visitor {
        let mut roots = RootCertStore::empty();
        roots.add(self.cert.clone()).expect("an own certificate is well-formed");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .expect("the provider knows both versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Visitor { connector: TlsConnector::from(Arc::new(config)) }
    }
}

impl Visitor {
    pub async fn connect(&self, addr: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = within("connect", TcpStream::connect(addr)).await.expect("the door listens");
        let name = ServerName::try_from("localhost").expect("a good name");
        within("the TLS handshake", self.connector.connect(name, socket)).await
    }
}

/// Sends a request over TLS; a WebSocket, or what the door said instead.
pub async fn ask(stream: TlsStream<TcpStream>, request: &Request) -> Result<Client, Answer> {
    let local = stream.get_ref().0.local_addr().expect("a connected socket has an address");
    let (read, write) = tokio::io::split(stream);
    ask_over(read, write, local, &[&request.bytes()]).await
}

//! What a client's bytes go through: the bare socket, or TLS on it.
//!
//! Each TLS handshake is a whole one: nobody resumes, and everybody checks the server's
//! certificate against the one it was told to trust.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

use anyhow::{Context, ensure};
use mio::net::TcpStream;
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};

/// Clear text that is taken out of TLS at once: as much as a record holds.
const CLEAR_BYTES: usize = 16 * 1024;

/// Plain costs what the bare socket does, but for one look at which it is.
pub enum Line {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

pub struct Tls {
    stream: TcpStream,
    connection: ClientConnection,
}

/// Whom the clients of a run believe.
#[derive(Debug, Clone)]
pub struct Trust {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Trust {
    /// In this certificate and no other, for the server of this name.
    pub fn only(cert: CertificateDer<'static>, name: &str) -> anyhow::Result<Trust> {
        let mut roots = RootCertStore::empty();
        roots.add(cert).context("this certificate cannot be trusted")?;
        let provider = Arc::new(ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        let name = ServerName::try_from(name.to_owned())?;
        Ok(Trust { config: Arc::new(config), name })
    }
}

impl Line {
    /// On a connected socket; TLS begins with the first bytes that are sent.
    pub fn new(stream: TcpStream, trust: Option<&Trust>) -> anyhow::Result<Line> {
        let Some(Trust { config, name }) = trust else { return Ok(Line::Plain(stream)) };
        let connection = ClientConnection::new(config.clone(), name.clone())?;
        Ok(Line::Tls(Box::new(Tls { stream, connection })))
    }

    pub fn stream(&mut self) -> &mut TcpStream {
        match self {
            Line::Plain(stream) => stream,
            Line::Tls(tls) => &mut tls.stream,
        }
    }

    /// What is said before the handshake of TLS is over goes out with its end.
    pub fn write_all(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        match self {
            Line::Plain(stream) => stream.write_all(bytes)?,
            Line::Tls(tls) => {
                tls.connection.writer().write_all(bytes)?;
                tls.flush()?;
            }
        }
        Ok(())
    }
}

impl Tls {
    /// Where to put what is read from the socket, and where clear text comes to lie meanwhile.
    pub fn halves(buffer: &mut [u8]) -> (&mut [u8], &mut [u8]) {
        buffer.split_at_mut(buffer.len() - CLEAR_BYTES)
    }

    /// Clear text from what was `received`, as much as there is room for; 0 bytes when all of it
    /// was taken.
    pub fn open(&mut self, received: &mut &[u8], clear: &mut [u8]) -> anyhow::Result<usize> {
        loop {
            match self.connection.reader().read(clear) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                opened => return Ok(opened?),
            }
            if received.is_empty() {
                self.flush()?;
                return Ok(0);
            }
            ensure!(self.connection.read_tls(received)? > 0, "a TLS record is too long");
            self.connection.process_new_packets().context("the server's TLS is wrong")?;
        }
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.stream)?;
        }
        Ok(())
    }
}

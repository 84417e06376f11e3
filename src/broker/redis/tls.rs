//! TLS to Redis: whose certificates are believed, and how this pod shows who it is.
//!
//! Everything is parsed here once, so that a mistake is told with the settings and not at the first
//! connection. Certificates are always verified: there is no setting that says otherwise.

use redis::{Client, ClientTlsConfig, ConnectionAddr, TlsCertificates};
use rustls::crypto::ring;
use rustls::{Error, RootCertStore};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use crate::authorities;
use crate::broker::redis::Address;

/// What the files hold, in PEM.
#[derive(Clone, Default)]
pub struct Tls {
    /// The authorities that are believed; absent: those of the system.
    pub authority: Option<Vec<u8>>,
    pub identity: Option<Identity>,
}

/// A certificate with the chain up to the authority, and its key.
#[derive(Clone)]
pub struct Identity {
    pub cert: Vec<u8>,
    pub key: Vec<u8>,
}

/// Which part cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("there is no certificate of an authority in it: {0}")]
    Authority(String),
    #[error("there is no certificate in it that can be used: {0}")]
    Cert(String),
    #[error("there is no private key for the certificate in it: {0}")]
    Key(String),
}

impl Address {
    /// Whether TLS is spoken there.
    pub fn is_secured(&self) -> bool {
        matches!(self.0.addr(), ConnectionAddr::TcpTls { .. })
    }

    /// The same place, with this.
    ///
    /// # Errors
    /// What is in `tls` cannot be used.
    pub fn secured(self, tls: Tls) -> Result<Address, Flaw> {
        verify(&tls)?;
        let client_tls = tls
            .identity
            .map(|Identity { cert, key }| ClientTlsConfig { client_cert: cert, client_key: key });
        let certificates = TlsCertificates { client_tls, root_cert: tls.authority };
        let client = Client::build_with_tls(self.0, certificates);
        let client = client.map_err(|error| Flaw::Authority(error.to_string()))?;
        Ok(Address(client.get_connection_info().clone()))
    }
}

/// The crate's TLS takes the process' own choice of cryptography: the one that the clients' door
/// uses too.
pub fn choose_cryptography() {
    // Chosen before is as good.
    let _ = ring::default_provider().install_default();
}

fn verify(tls: &Tls) -> Result<(), Flaw> {
    let roots = match &tls.authority {
        Some(pem) => authorities::of_pem(pem).map_err(Flaw::Authority)?,
        None => RootCertStore::empty(),
    };
    let Some(Identity { cert, key }) = &tls.identity else { return Ok(()) };
    let chain = authorities::certificates(cert).map_err(Flaw::Cert)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| Flaw::Key(error.to_string()))?;
    authorities::client()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map(drop)
        .map_err(|error| match error {
            Error::InvalidCertificate(flaw) => Flaw::Cert(flaw.to_string()),
            error => Flaw::Key(error.to_string()),
        })
}

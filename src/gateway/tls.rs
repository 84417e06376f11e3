//! The certificate of the clients' listener, read again when its files change.
//!
//! Reading and parsing happen in a task of their own, never in a handshake. Files that cannot be
//! used leave the certificate that is in use where it is, and say so.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::gateway::Tls;
use crate::lifecycle::Lifecycle;
use crate::watch::Changes;

/// For a client that comes back with one connection.
const TICKETS: usize = 1;

#[derive(Clone)]
pub struct Certificate {
    current: Arc<ArcSwap<ServerConfig>>,
}

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("cannot read {0}: {1}")]
    Pem(String, rustls_pki_types::pem::Error),
    #[error("there is no certificate in {0}")]
    Empty(String),
    #[error("the certificate in {0} and the key in {1} do not fit together: {2}")]
    Pair(String, String, rustls::Error),
    #[error("cannot make a key for tickets: {0}")]
    Tickets(rustls::Error),
}

impl Certificate {
    /// Reads the files once, then watches them until the pod drains.
    pub fn watch(files: Tls, lifecycle: &Lifecycle) -> Result<Certificate, Unusable> {
        let mut changes = Changes::of(vec![files.cert.clone(), files.key.clone()]);
        let current = Arc::new(ArcSwap::from_pointee(load(&files)?));
        let certificate = Certificate { current: current.clone() };
        let draining = lifecycle.draining().clone();
        lifecycle.spawn(async move {
            loop {
                tokio::select! {
                    () = changes.next() => {}
                    () = draining.cancelled() => return,
                }
                match load(&files) {
                    Ok(config) => {
                        current.store(Arc::new(config));
                        tracing::info!(cert = %files.cert.display(), "took a new certificate");
                    }
                    Err(error) => tracing::error!(%error, "kept the old certificate"),
                }
            }
        });
        Ok(certificate)
    }

    /// For a handshake that begins now.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }
}

/// Whether a listener could start with these files.
pub fn verify(files: &Tls) -> Result<(), Unusable> {
    load(files).map(drop)
}

fn load(files: &Tls) -> Result<ServerConfig, Unusable> {
    let of = |path: &Path| path.display().to_string();
    let chain = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| Unusable::Pem(of(&files.cert), error))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| Unusable::Pem(of(&files.key), error))?;
    if chain.is_empty() {
        return Err(Unusable::Empty(of(&files.cert)));
    }
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| Unusable::Pair(of(&files.cert), of(&files.key), error))?;
    // Whoever comes back with a ticket of this pod is spared a signature, which is most of a handshake
    // where the key is RSA. All that it says is in the ticket: nothing is kept for those who left.
    config.ticketer = ring::Ticketer::new().map_err(Unusable::Tickets)?;
    config.send_tls13_tickets = TICKETS;
    // A WebSocket is opened over HTTP/1.1 here; a browser that prefers another has to be told.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

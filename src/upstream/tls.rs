//! TLS to upstreams: whose certificates are believed.

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use crate::authorities;

/// Who is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The authorities of the system.
    System,
    /// Those whose certificates are in this PEM.
    Authority(Vec<u8>),
    /// Anybody: what is sent may be read and changed by whoever is on the way.
    Anybody,
}

/// # Errors
/// A text that says what cannot be used.
pub fn client(trust: Trust) -> Result<Arc<ClientConfig>, String> {
    let builder = authorities::client();
    let roots = match trust {
        Trust::Anybody => {
            let verifier = Arc::new(Credulous(builder.crypto_provider().clone()));
            let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
            return Ok(Arc::new(builder.with_no_client_auth()));
        }
        Trust::System => authorities::of_system(),
        Trust::Authority(pem) => authorities::of_pem(&pem)
            .map_err(|why| format!("there is no certificate of an authority in it: {why}"))?,
    };
    match roots.is_empty() {
        true => Err("this system has no certificate of an authority".to_owned()),
        false => Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth())),
    }
}

/// Believes every certificate; that whoever shows it has its key is made sure of.
#[derive(Debug)]
struct Credulous(Arc<CryptoProvider>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

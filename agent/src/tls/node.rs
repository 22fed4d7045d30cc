//! For the kubelet of this node: its certificate may be for the address that is asked, or for the node's name, which is
//! all that one which the kubelet made for itself has.

use std::{path::Path, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{
    files::{Contents, TlsError},
    provider,
};

/// Believed where `ca` signed the certificate, for the name that is asked for or for `node`. Reads the file.
pub fn to_a_node(ca: &Path, node: &str) -> Result<ClientConfig, TlsError> {
    let unusable = |why: String| TlsError::Unusable { cert: ca.to_owned(), why };
    let roots = Arc::new(Contents::read([ca])?.roots(ca)?);
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|e| unusable(e.to_string()))?;
    let verifier = OrNode { verifier, node: ServerName::try_from(node.to_owned()).ok() };
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

#[derive(Debug)]
struct OrNode {
    verifier: Arc<WebPkiServerVerifier>,
    node: Option<ServerName<'static>>,
}

impl ServerCertVerifier for OrNode {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        asked: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let named = |name| self.verifier.verify_server_cert(own, between, name, ocsp, now);
        match (named(asked), &self.node) {
            (
                Err(Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                )),
                Some(node),
            ) => named(node),
            (verified, _) => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

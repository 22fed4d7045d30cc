//! Which certificates the collector believes, and who they name.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::{
    Identity,
    identity::IdentityError,
    server::{ApiServers, Kubelets, Others},
};

/// Checks a certificate, and that it names nobody or somebody: what it says is heard before the handshake is done, so
/// that the other side is told when it will not do.
#[derive(Debug)]
pub(super) struct Verifier {
    ours: Arc<dyn ClientCertVerifier>,
    others: Option<OfOthers>,
    /// which authorities would do
    hints: Vec<DistinguishedName>,
}

/// Certificates of an authority that is not ours.
#[derive(Debug)]
pub(super) struct OfOthers {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    pub(super) others: Others,
}

impl Verifier {
    pub(super) fn new(ours: Arc<dyn ClientCertVerifier>, others: Option<OfOthers>) -> Self {
        let all = [Some(&ours), others.as_ref().map(|others| &others.verifier)];
        let hints = all.into_iter().flatten().flat_map(|verifier| verifier.root_hint_subjects()).cloned();
        Self { hints: hints.collect(), ours, others }
    }

    /// Who a chain of certificates names: ours by its URI, others by their subject, and neither the other way.
    pub(super) fn identify(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Identity, Error> {
        let named = |identity: Result<_, IdentityError>| {
            identity.map_err(|e| CertificateError::Other(OtherError(Arc::new(e))).into())
        };
        let Err(error) = self.ours.verify_client_cert(own, between, now) else {
            return named(Identity::of_certificate(own));
        };
        let Some(OfOthers { verifier, others }) = &self.others else { return Err(error) };
        verifier.verify_client_cert(own, between, now)?;
        named(match others {
            Others::Kubelets(Kubelets { ca: _, cluster }) => Identity::of_kubelet(own, cluster),
            Others::ApiServers(ApiServers { ca: _, cluster, names }) => {
                Identity::of_api_server(own, cluster, names)
            }
        })
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.identify(own, between, now).map(|_identity| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.ours.verify_tls12_signature(message, own, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.ours.verify_tls13_signature(message, own, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.ours.supported_verify_schemes()
    }
}

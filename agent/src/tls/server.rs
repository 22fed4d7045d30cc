//! The side of the collector: whoever connects must have a certificate of the authority, and is who that says.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    CertificateError, Error, ServerConfig,
    pki_types::UnixTime,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::TLS13,
};
use tokio::{net::TcpStream, task, time};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::{
    ALPN,
    files::{Contents, Files, Fingerprint, Own, TlsError, expiry},
    peer::Peer,
    provider,
    verifier::{OfKubelets, Verifier},
};
use crate::telemetry::{
    Emit as _,
    tls::{FilesLoaded, FilesRefused},
};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// And how often it is said how long the certificate can still be used: every so many looks.
const TELL_EXPIRY: u32 = 720;

/// Kubelets' own certificates, which agents may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubelets {
    /// who signs them; of no certificate of this authority anything but the node's name is believed
    pub ca: PathBuf,
    /// the cluster that they are nodes of
    pub cluster: String,
}

/// Certificate, key and authorities of the collector.
#[derive(Debug)]
pub struct ServerTls {
    files: Files,
    kubelets: Option<Kubelets>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// of what was tried last, whether or not it could be used
    tried: Option<Fingerprint>,
    loaded: Arc<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    verifier: Arc<Verifier>,
    own: Own,
}

/// Why somebody who connects is sent away.
#[derive(Debug, thiserror::Error)]
pub enum Unwelcome {
    /// no certificate
    #[error("no certificate: give one with --tls-cert and --tls-key")]
    NoCertificate,
    /// {0}
    #[error("{0}")]
    Certificate(String),
    /// {0}
    #[error("{0}")]
    Handshake(String),
    /// it takes too long
    #[error("the handshake was not done within {} s", _0.as_secs())]
    Slow(Duration),
    /// too many at once
    #[error("more than {0} connections that are not done with their handshake")]
    Handshakes(usize),
    /// too many at once
    #[error("more than {0} connections")]
    Connections(usize),
}

impl Unwelcome {
    /// For the metric.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Certificate(_) => "certificate",
            Self::Handshake(_) => "handshake",
            Self::Slow(_) => "slow_handshake",
            Self::Handshakes(_) | Self::Connections(_) => "connections",
        }
    }
}

impl ServerTls {
    /// Reads the files.
    pub fn load(files: Files, kubelets: Option<Kubelets>) -> Result<Self, TlsError> {
        let contents = read(&files, kubelets.as_ref())?;
        let loaded = Loaded::new(&files, kubelets.as_ref(), &contents)?;
        files.tell(&loaded.own);
        let state = State { tried: Some(contents.fingerprint()), loaded: Arc::new(loaded) };
        Ok(Self { files, kubelets, state: Mutex::new(state) })
    }

    /// Looks at the files every few seconds, until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut looks = 0u32;
        while stop.run_until_cancelled(time::sleep(LOOK)).await.is_some() {
            let this = self.clone();
            looks = looks.wrapping_add(1);
            let tell = looks.is_multiple_of(TELL_EXPIRY);
            // A panic is told by its hook; the next look is another one.
            _ = task::spawn_blocking(move || {
                this.refresh();
                if tell {
                    this.loaded().own.tell_expiry(&this.files.cert);
                }
            })
            .await;
        }
    }

    /// Looks whether the files have changed. Connections from now on use what is there, if it can be used. Blocks.
    pub fn refresh(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let contents = match read(&self.files, self.kubelets.as_ref()) {
            Ok(contents) => contents,
            Err(error) => {
                if state.tried.take().is_some() {
                    FilesRefused { error: &error }.emit();
                }
                return;
            }
        };
        let fingerprint = Some(contents.fingerprint());
        if state.tried == fingerprint {
            return;
        }
        state.tried = fingerprint;
        match Loaded::new(&self.files, self.kubelets.as_ref(), &contents) {
            Ok(loaded) => {
                FilesLoaded { cert: &self.files.cert }.emit();
                self.files.tell(&loaded.own);
                state.loaded = Arc::new(loaded);
            }
            Err(error) => FilesRefused { error: &error }.emit(),
        }
    }

    fn loaded(&self) -> Arc<Loaded> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).loaded.clone()
    }

    /// Says hello to somebody who has connected, and finds out who it is. Whoever is sent away has been told why; the
    /// connection is there for them to read it.
    pub async fn welcome(
        &self,
        address: IpAddr,
        stream: TcpStream,
    ) -> Result<(TlsStream<TcpStream>, Peer), (Unwelcome, Option<TcpStream>)> {
        let loaded = self.loaded();
        let accepted = TlsAcceptor::from(loaded.config.clone()).accept(stream).into_fallible().await;
        let stream = accepted.map_err(|(error, stream)| (unwelcome(error), Some(stream)))?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let Some((own, between)) = chain.split_first() else { return Err((Unwelcome::NoCertificate, None)) };
        let identity = loaded.verifier.identify(own, between, UnixTime::now());
        let identity = identity.map_err(|e| (objection(&e), None))?;
        let expires = expiry(own);
        Ok((stream, Peer { address, identity, expires }))
    }
}

impl Loaded {
    fn new(files: &Files, kubelets: Option<&Kubelets>, contents: &Contents) -> Result<Self, TlsError> {
        let own = files.own(contents)?;
        let kubelets = match kubelets {
            Some(Kubelets { ca, cluster }) => {
                Some(OfKubelets { verifier: verifier(contents, ca)?, cluster: cluster.clone() })
            }
            None => None,
        };
        let verifier = Arc::new(Verifier::new(verifier(contents, &files.ca)?, kubelets));
        let unusable = |e: Error| TlsError::Unusable { cert: files.cert.clone(), why: e.to_string() };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(verifier.clone())
            .with_single_cert(own.chain.clone(), own.key.clone_key())
            .map_err(unusable)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A session taken up again would go by a certificate that may not be good any more.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), verifier, own })
    }
}

fn read(files: &Files, kubelets: Option<&Kubelets>) -> Result<Contents, TlsError> {
    Contents::read(files.paths().into_iter().chain(kubelets.map(|kubelets| &*kubelets.ca)))
}

/// Believes certificates of the authorities in this file.
fn verifier(contents: &Contents, path: &Path) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(contents.roots(path)?), provider())
        .build()
        .map_err(|e| TlsError::Authority { path: path.to_owned(), why: e.to_string() })
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unwelcome(error: io::Error) -> Unwelcome {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => objection(error),
        None => Unwelcome::Handshake(error.to_string()),
    }
}

fn objection(error: &Error) -> Unwelcome {
    match error {
        Error::NoCertificatesPresented => Unwelcome::NoCertificate,
        Error::InvalidCertificate(CertificateError::Other(why)) => Unwelcome::Certificate(why.to_string()),
        Error::InvalidCertificate(why) => Unwelcome::Certificate(format!("its certificate: {why}")),
        Error::InvalidMessage(_) => Unwelcome::Handshake("it does not speak TLS".to_owned()),
        Error::AlertReceived(alert) => {
            Unwelcome::Handshake(format!("it refuses our certificate ({alert:?})"))
        }
        other => Unwelcome::Handshake(other.to_string()),
    }
}

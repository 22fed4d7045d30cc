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
    files::{Contents, Files, Fingerprint, Own, TlsError, expiry},
    peer::Peer,
    provider,
    verifier::{OfOthers, Verifier},
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

/// API servers' own certificates, which may send audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiServers {
    /// who signs them, and others
    pub ca: PathBuf,
    /// the cluster whose API servers they are
    pub cluster: String,
    /// their common names
    pub names: Vec<String>,
}

/// Who may come with a certificate that is not of our authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Others {
    Kubelets(Kubelets),
    ApiServers(ApiServers),
}

impl Others {
    fn ca(&self) -> &Path {
        match self {
            Self::Kubelets(Kubelets { ca, .. }) | Self::ApiServers(ApiServers { ca, .. }) => ca,
        }
    }
}

/// What is spoken behind the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2
    Grpc,
    /// HTTP/1.1
    Http,
}

impl Protocol {
    fn alpn(self) -> Vec<u8> {
        match self {
            Self::Grpc => super::ALPN.to_vec(),
            Self::Http => b"http/1.1".to_vec(),
        }
    }
}

/// Certificate, key and authorities of the collector.
#[derive(Debug)]
pub struct ServerTls {
    files: Files,
    others: Option<Others>,
    protocol: Protocol,
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
    pub fn load(files: Files, others: Option<Others>, protocol: Protocol) -> Result<Self, TlsError> {
        let contents = read(&files, others.as_ref())?;
        let loaded = Loaded::new(&files, others.as_ref(), protocol, &contents)?;
        files.tell(&loaded.own);
        let state = State { tried: Some(contents.fingerprint()), loaded: Arc::new(loaded) };
        Ok(Self { files, others, protocol, state: Mutex::new(state) })
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
        let contents = match read(&self.files, self.others.as_ref()) {
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
        match Loaded::new(&self.files, self.others.as_ref(), self.protocol, &contents) {
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
    fn new(
        files: &Files,
        others: Option<&Others>,
        protocol: Protocol,
        contents: &Contents,
    ) -> Result<Self, TlsError> {
        let own = files.own(contents)?;
        let others = match others {
            Some(others) => {
                Some(OfOthers { verifier: verifier(contents, others.ca())?, others: others.clone() })
            }
            None => None,
        };
        let verifier = Arc::new(Verifier::new(verifier(contents, &files.ca)?, others));
        let unusable = |e: Error| TlsError::Unusable { cert: files.cert.clone(), why: e.to_string() };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(verifier.clone())
            .with_single_cert(own.chain.clone(), own.key.clone_key())
            .map_err(unusable)?;
        config.alpn_protocols = vec![protocol.alpn()];
        // A session taken up again would go by a certificate that may not be good any more.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), verifier, own })
    }
}

fn read(files: &Files, others: Option<&Others>) -> Result<Contents, TlsError> {
    Contents::read(files.paths().into_iter().chain(others.map(Others::ca)))
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

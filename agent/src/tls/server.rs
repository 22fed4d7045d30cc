//! The side of the collector: whoever connects must have a certificate of the authority, and is who that says.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    Error, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, UnixTime},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::TLS13,
};
use tokio::{net::TcpStream, task, time};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::{
    ALPN, Identity,
    files::{Contents, Files, Fingerprint, Own, TlsError, expiry},
    peer::Peer,
    provider,
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
    /// where there are kubelets: who is podtrail's
    ours: Option<Arc<dyn ClientCertVerifier>>,
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

    /// Says hello to somebody who has connected, and finds out who it is.
    pub async fn welcome(&self, stream: TcpStream) -> Result<(TlsStream<TcpStream>, Peer), Unwelcome> {
        let handshake = |e: std::io::Error| Unwelcome::Handshake(e.to_string());
        let address = stream.peer_addr().map_err(handshake)?.ip();
        stream.set_nodelay(true).map_err(handshake)?;
        let loaded = self.loaded();
        let stream = TlsAcceptor::from(loaded.config.clone()).accept(stream).await.map_err(unwelcome)?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let (own, between) = chain.split_first().ok_or(Unwelcome::NoCertificate)?;
        let wrong = |e: super::identity::IdentityError| Unwelcome::Certificate(e.to_string());
        let identity = match &self.kubelets {
            Some(kubelets) if !loaded.is_ours(own, between) => {
                Identity::of_kubelet(own, &kubelets.cluster).map_err(wrong)?
            }
            _ => Identity::of_certificate(own).map_err(wrong)?,
        };
        let expires = expiry(own);
        Ok((stream, Peer { address, identity, expires }))
    }
}

impl Loaded {
    fn new(files: &Files, kubelets: Option<&Kubelets>, contents: &Contents) -> Result<Self, TlsError> {
        let own = files.own(contents)?;
        let mut all = contents.roots(&files.ca)?;
        let ours = match kubelets {
            Some(kubelets) => {
                let ours = verifier(all.clone(), &files.ca)?;
                all.extend(contents.roots(&kubelets.ca)?.roots);
                Some(ours)
            }
            None => None,
        };
        let unusable = |e: Error| TlsError::Unusable { cert: files.cert.clone(), why: e.to_string() };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(verifier(all, &files.ca)?)
            .with_single_cert(own.chain.clone(), own.key.clone_key())
            .map_err(unusable)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A session taken up again would go by a certificate that may not be good any more.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), ours, own })
    }

    fn is_ours(&self, own: &CertificateDer<'_>, between: &[CertificateDer<'_>]) -> bool {
        self.ours.as_ref().is_none_or(|ours| ours.verify_client_cert(own, between, UnixTime::now()).is_ok())
    }
}

fn read(files: &Files, kubelets: Option<&Kubelets>) -> Result<Contents, TlsError> {
    Contents::read(files.paths().into_iter().chain(kubelets.map(|kubelets| &*kubelets.ca)))
}

fn verifier(roots: RootCertStore, path: &Path) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|e| TlsError::Authority { path: path.to_owned(), why: e.to_string() })
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unwelcome(error: std::io::Error) -> Unwelcome {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::NoCertificatesPresented) => Unwelcome::NoCertificate,
        Some(Error::InvalidCertificate(why)) => Unwelcome::Certificate(format!("its certificate: {why}")),
        Some(Error::InvalidMessage(_)) => Unwelcome::Handshake("it does not speak TLS".to_owned()),
        Some(Error::AlertReceived(alert)) => Unwelcome::Handshake(format!("it refused ours: {alert:?}")),
        _ => Unwelcome::Handshake(error.to_string()),
    }
}

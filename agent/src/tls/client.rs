//! The side of agents and of `podtrail`: whom they call must have a certificate of the authority, for the name they call.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, Error, client::Resumption, pki_types::ServerName, version::TLS13};
use tokio::{io::AsyncBufReadExt as _, net::TcpStream, time};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri};

use super::{
    ALPN,
    files::{Contents, Files, Fingerprint, Own, TlsError},
    provider,
};
use crate::telemetry::{
    Emit as _,
    tls::{FilesLoaded, FilesRefused},
};

/// How long the other side may take for its first word after the handshake.
const FIRST_WORD: Duration = Duration::from_secs(2);

/// How often it is said how long the certificate can still be used.
const LOOK: Duration = Duration::from_secs(3600);

/// Certificate, key and authorities of a client. The files are looked at for every connection.
#[derive(Debug)]
pub struct ClientTls {
    files: Files,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// of what was tried last, whether or not it could be used
    tried: Option<Fingerprint>,
    /// what can be used
    loaded: Option<(Arc<ClientConfig>, Own)>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// {0}
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// {0}
    #[error(transparent)]
    Transport(#[from] tonic::transport::Error),
}

impl ClientTls {
    /// Looks at no file yet.
    #[must_use]
    pub fn new(files: Files) -> Self {
        Self { files, state: Mutex::default() }
    }

    /// Looks whether the files have changed; an error, where there is nothing that can be used. Blocks.
    fn refresh(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { tried, loaded } = &mut *state;
        let read = Contents::read(self.files.paths());
        let now = read.as_ref().ok().map(Contents::fingerprint);
        let changed = *tried != now || loaded.is_none();
        *tried = now;
        if changed {
            let again = loaded.is_some();
            match read.and_then(|contents| configure(&self.files, &contents)) {
                Ok((config, own)) => {
                    if again {
                        FilesLoaded { cert: &self.files.cert }.emit();
                    }
                    self.files.tell(&own);
                    *loaded = Some((Arc::new(config), own));
                }
                Err(error) if again => FilesRefused { error: &error }.emit(),
                Err(error) => return Err(error),
            }
        }
        let nothing = || TlsError::Unusable { cert: self.files.cert.clone(), why: "not loaded".to_owned() };
        let (config, _) = loaded.as_ref().ok_or_else(nothing)?;
        Ok(config.clone())
    }

    /// Says now and then how long the certificate can still be used. Never returns.
    pub async fn watch(self: Arc<Self>) {
        loop {
            time::sleep(LOOK).await;
            // Whoever connects says what is wrong with them.
            _ = self.refresh();
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, own)) = &state.loaded {
                own.tell_expiry(&self.files.cert);
            }
        }
    }

    /// Connects; `endpoint` is an https URL.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, ConnectError> {
        // Three small files: it is not worth another thread.
        let config = self.refresh()?;
        let open = tower::service_fn(move |uri: Uri| {
            let config = config.clone();
            async move { open(config, &uri).await.map(TokioIo::new) }
        });
        Ok(endpoint.connect_with_connector(open).await?)
    }
}

/// What the other side has against us or we against it, where TLS is why there is no connection.
#[must_use]
pub fn objection(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| {
        let inner = error.downcast_ref::<io::Error>().and_then(|error| error.get_ref());
        match inner.and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(Error::InvalidCertificate(why)) => {
                Some(format!("its certificate is not to be believed: {why}"))
            }
            Some(Error::InvalidMessage(_)) => Some("it does not speak TLS".to_owned()),
            Some(Error::AlertReceived(alert)) => Some(format!("it refuses our certificate ({alert:?})")),
            inner => inner.map(ToString::to_string),
        }
    })
}

async fn open(config: Arc<ClientConfig>, uri: &Uri) -> io::Result<TlsStream<TcpStream>> {
    let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
    let host = uri.host().ok_or_else(|| wrong("the address has no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).map_err(|e| wrong(&e.to_string()))?;
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
    stream.set_nodelay(true)?;
    let mut stream = TlsConnector::from(config).connect(name, stream).await?;
    // With TLS 1.3 we are done before it has looked at our certificate. Its first word is its HTTP/2 settings, or what
    // it has against us; one that waits for ours is not waited for.
    match time::timeout(FIRST_WORD, stream.fill_buf()).await {
        Ok(Ok([])) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) | Err(_) => Ok(stream),
    }
}

/// For a server that is none of podtrail's: believed where `ca` signed its certificate; ours is shown where there is
/// one. Reads the files.
pub fn to_others(ca: &Path, own: Option<(&Path, &Path)>) -> Result<ClientConfig, TlsError> {
    let paths = [Some(ca), own.map(|(cert, _)| cert), own.map(|(_, key)| key)];
    let contents = Contents::read(paths.into_iter().flatten())?;
    let unusable = |e: Error| TlsError::Unusable { cert: ca.to_owned(), why: e.to_string() };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_root_certificates(contents.roots(ca)?);
    let Some((cert, key)) = own else { return Ok(builder.with_no_client_auth()) };
    let files = Files { ca: ca.to_owned(), cert: cert.to_owned(), key: key.to_owned() };
    let own = files.own(&contents)?;
    builder.with_client_auth_cert(own.chain, own.key).map_err(unusable)
}

fn configure(files: &Files, contents: &Contents) -> Result<(ClientConfig, Own), TlsError> {
    let own = files.own(contents)?;
    let unusable = |e: Error| TlsError::Unusable { cert: files.cert.clone(), why: e.to_string() };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(unusable)?
        .with_root_certificates(contents.roots(&files.ca)?)
        .with_client_auth_cert(own.chain.clone(), own.key.clone_key())
        .map_err(unusable)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Every connection shows its certificate anew.
    config.resumption = Resumption::disabled();
    Ok((config, own))
}

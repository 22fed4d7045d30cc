//! The side of agents and of `podtrail`: whom they call must have a certificate of the authority, for the name they call.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, client::Resumption, pki_types::ServerName, version::TLS13};
use tokio::{net::TcpStream, time};
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

async fn open(config: Arc<ClientConfig>, uri: &Uri) -> io::Result<TlsStream<TcpStream>> {
    let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
    let host = uri.host().ok_or_else(|| wrong("the address has no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).map_err(|e| wrong(&e.to_string()))?;
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(config).connect(name, stream).await
}

fn configure(files: &Files, contents: &Contents) -> Result<(ClientConfig, Own), TlsError> {
    let own = files.own(contents)?;
    let unusable = |e: rustls::Error| TlsError::Unusable { cert: files.cert.clone(), why: e.to_string() };
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

//! The side of agents and of `podtrail`: whom they call must have a certificate of the authority, for the name they call.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, client::Resumption, pki_types::ServerName, version::TLS13};
use tokio::net::TcpStream;
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

/// Certificate, key and authorities of a client. The files are looked at for every connection.
#[derive(Debug)]
pub struct ClientTls {
    files: Files,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// of what was tried last, whether or not it could be used
    tried: Option<Fingerprint>,
    config: Arc<ClientConfig>,
    own: Own,
}

impl ClientTls {
    /// Reads the files.
    pub fn load(files: Files) -> Result<Self, TlsError> {
        let contents = Contents::read(files.paths())?;
        let (config, own) = configure(&files, &contents)?;
        files.tell(&own);
        let state = State { tried: Some(contents.fingerprint()), config: Arc::new(config), own };
        Ok(Self { files, state: Mutex::new(state) })
    }

    /// Looks whether the files have changed, and says how long the certificate can still be used. Blocks.
    pub fn refresh(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let contents = match Contents::read(self.files.paths()) {
            Ok(contents) => contents,
            Err(error) => {
                if state.tried.take().is_some() {
                    FilesRefused { error: &error }.emit();
                }
                return;
            }
        };
        let fingerprint = Some(contents.fingerprint());
        if state.tried != fingerprint {
            state.tried = fingerprint;
            match configure(&self.files, &contents) {
                Ok((config, own)) => {
                    (state.config, state.own) = (Arc::new(config), own);
                    FilesLoaded { cert: &self.files.cert }.emit();
                    self.files.tell(&state.own);
                    return;
                }
                Err(error) => FilesRefused { error: &error }.emit(),
            }
        }
        state.own.tell_expiry(&self.files.cert);
    }

    fn config(&self) -> Arc<ClientConfig> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).config.clone()
    }

    /// Connects; `endpoint` is an https URL.
    pub async fn connect(self: &Arc<Self>, endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
        let this = self.clone();
        // Three small files: it is not worth another thread.
        this.refresh();
        let open = tower::service_fn(move |uri: Uri| {
            let config = this.config();
            async move { open(config, &uri).await.map(TokioIo::new) }
        });
        endpoint.connect_with_connector(open).await
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

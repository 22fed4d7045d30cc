//! One question to the kubelet: `GET /pods`, over TLS unless its address is http on this node.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use hyper::{StatusCode, header::HeaderValue};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::Options;
use crate::{
    ask::{self, AskError, Question},
    tls::{self, TlsError},
};

/// Of an answer. A pod is some 15 kB there, and can be 1.5 MB.
const BODY_MAX: usize = 32 << 20;
const TOKEN_MAX: u64 = 64 << 10;

/// Where the kubelet is: checked, with scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub secure: bool,
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { secure, host, port } = self;
        let scheme = if *secure { "https" } else { "http" };
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}")
        } else {
            write!(f, "{scheme}://{host}:{port}")
        }
    }
}

/// Why the kubelet did not answer.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// cannot read {0}
    #[error("cannot read {}: {source}; see --kubelet-token", path.display())]
    Token { path: PathBuf, source: io::Error },
    /// what is in {0} is no token
    #[error("what is in {} is no token; see --kubelet-token", .0.display())]
    NoToken(PathBuf),
    /// the authority's certificate cannot be used
    #[error("{}; see --kubelet-ca", authority(.0))]
    Authority(TlsError),
    /// {0} is no name
    #[error("{0:?} is neither a name nor an address")]
    Name(String),
    /// no connection
    #[error("{}", why(.0))]
    Connect(io::Error),
    /// {0}
    #[error(transparent)]
    Ask(AskError),
    /// refused
    #[error(
        "it says {0}: the agent needs \"get\" of nodes/pods, or of nodes/proxy where the kubelet is older than 1.33"
    )]
    Forbidden(StatusCode),
    /// no pods
    #[error("its answer is no list of pods: {0}")]
    NoPods(serde_json::Error),
    /// late
    #[error("no answer in {} s", .0.as_secs())]
    Slow(Duration),
}

fn authority(error: &TlsError) -> String {
    match error {
        TlsError::Unreadable { path, source } => format!("cannot read {}: {source}", path.display()),
        other => other.to_string(),
    }
}

fn why(error: &io::Error) -> String {
    tls::objection(error).unwrap_or_else(|| error.to_string())
}

/// The kubelet's pods, as it sends them.
pub(super) async fn pods(options: &Options) -> Result<Vec<u8>, KubeletError> {
    let Options { target, token, ca, node_name } = options;
    let mut authorization = None;
    if let Some(path) = token {
        // Small, and cached by the kernel: not worth another thread.
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(TOKEN_MAX).read_to_string(&mut text))
            .map_err(|source| KubeletError::Token { path: path.clone(), source })?;
        let value = HeaderValue::try_from(format!("Bearer {}", text.trim()));
        let mut value = value.map_err(|_wrong| KubeletError::NoToken(path.clone()))?;
        if text.trim().is_empty() {
            return Err(KubeletError::NoToken(path.clone()));
        }
        value.set_sensitive(true);
        authorization = Some(value);
    }
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await;
    let stream = stream.map_err(KubeletError::Connect)?;
    let Some(ca) = ca else { return get(stream, target, authorization).await };
    let name =
        ServerName::try_from(target.host.clone()).map_err(|_| KubeletError::Name(target.host.clone()))?;
    let config = tls::node::to_a_node(ca, node_name).map_err(KubeletError::Authority)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    get(stream.map_err(KubeletError::Connect)?, target, authorization).await
}

async fn get<S>(
    stream: S,
    target: &Target,
    authorization: Option<HeaderValue>,
) -> Result<Vec<u8>, KubeletError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let host = target.to_string();
    let host = host.split_once("://").map_or("", |(_, host)| host);
    let question = Question { host, path: "/pods", accept: "application/json", authorization, max: BODY_MAX };
    ask::get(stream, question).await.map_err(|error| match error {
        AskError::Status(status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) => {
            KubeletError::Forbidden(status)
        }
        error => KubeletError::Ask(error),
    })
}

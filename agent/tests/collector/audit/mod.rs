//! The API server's audit, as it posts and writes it.

mod files;
mod webhook;

use std::{net::SocketAddr, path::Path, sync::Arc};

use podtrail::tls::Files;
use podtrail_proto::v1::{self, event::Body};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{Collector, SOON, command, start_with};

const RUN: &[u8] = include_bytes!("../../../../tests/fixtures/audit/exec-eventlist.json");
const POST_3: &[u8] = include_bytes!("../../../../tests/fixtures/audit/raw-post-003.json");
const POST_5: &[u8] = include_bytes!("../../../../tests/fixtures/audit/raw-post-005.json");
const POST_8: &[u8] = include_bytes!("../../../../tests/fixtures/audit/raw-post-008.json");

/// A collector on loopback, in the clear, with these flags.
fn start(data: &Path, flags: &[&str]) -> Collector {
    let mut command = command(data);
    command.args(flags);
    start_with(command)
}

fn with_webhook(data: &Path) -> Collector {
    start(data, &["--audit-listen", "127.0.0.1:0"])
}

trait Both: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Both for T {}

/// A connection to the webhook, as an API server has one.
struct Client(Box<dyn Both>);

impl Client {
    async fn plain(address: SocketAddr) -> Self {
        Self(Box::new(TcpStream::connect(address).await.unwrap()))
    }

    /// With a certificate, where there is one.
    async fn tls(address: SocketAddr, ca: &str, files: Option<&Files>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match files {
            Some(Files { ca: _, cert, key }) => {
                let chain = CertificateDer::pem_file_iter(cert).unwrap().map(Result::unwrap).collect();
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        // As Go's client offers them.
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let tcp = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        Self(Box::new(TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()))
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// Status, headers and body of the next answer; `Err`: the connection ended.
    async fn answer(&mut self) -> Result<Answer, String> {
        let mut bytes = Vec::new();
        loop {
            if let Some(answer) = Answer::parse(&bytes) {
                return Ok(answer);
            }
            let mut piece = [0; 4096];
            match timeout(SOON, self.0.read(&mut piece)).await.expect("no answer") {
                Ok(0) => return Err(format!("it ended after {:?}", String::from_utf8_lossy(&bytes))),
                Ok(n) => bytes.extend_from_slice(&piece[..n]),
                Err(e) => return Err(e.to_string()),
            }
        }
    }

    /// As the API server does it.
    async fn post(&mut self, body: &[u8]) -> Result<Answer, String> {
        self.post_with("", body).await
    }

    async fn post_with(&mut self, headers: &str, body: &[u8]) -> Result<Answer, String> {
        let head = format!(
            "POST /audit?timeout=30s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        // Who is refused may be cut off while it still sends.
        _ = self.0.write_all(&[head.as_bytes(), body].concat()).await;
        _ = self.0.flush().await;
        self.answer().await
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    headers: String,
    body: String,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (headers, body) = text.split_once("\r\n\r\n")?;
        let headers = headers.to_ascii_lowercase();
        let length = headers.split_once("content-length: ").unwrap().1;
        let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
        let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
        (body.len() >= length).then(|| Self { status, body: body.to_owned(), headers })
    }
}

/// The requests in the log, in its order.
async fn requests(collector: &Collector) -> Vec<v1::ApiRequest> {
    let events = collector.events().await.into_iter();
    events
        .filter_map(|(_, event)| match event.body {
            Some(Body::ApiRequest(request)) => Some(request),
            _ => None,
        })
        .collect()
}

/// Each as its id's beginning, and its stage.
fn stages(requests: &[v1::ApiRequest]) -> Vec<String> {
    requests.iter().map(|r| format!("{} {}", &r.audit_id[..8], r.stage)).collect()
}

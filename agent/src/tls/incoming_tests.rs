//! What each limit lets in, and that whoever is over it is sent away at once.

use std::{net::SocketAddr, time::Instant};

use futures::StreamExt as _;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio_rustls::{TlsConnector, client};

use super::*;
use crate::tls::{
    Files, provider,
    server::Protocol,
    testing::{Authority, Wanted},
};

/// How long a busy machine may take.
const SOON: Duration = Duration::from_secs(60);
/// What no test waits for.
const NEVER: Duration = Duration::from_secs(600);

type Incoming = Pin<Box<dyn Stream<Item = Result<Connection, Infallible>>>>;

struct Door {
    address: SocketAddr,
    authority: Authority,
    incoming: Incoming,
    _files: TempDir,
}

impl Door {
    async fn open(limits: Limits) -> Self {
        let authority = Authority::new("podtrail");
        let files = tempfile::tempdir().unwrap();
        authority
            .issue(Wanted { hosts: &["127.0.0.1"], ..Wanted::default() })
            .write(files.path(), &authority.pem());
        let [ca, cert, key] = ["ca.pem", "cert.pem", "key.pem"].map(|name| files.path().join(name));
        let tls = ServerTls::load(Files { ca, cert, key }, None, Protocol::Grpc).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = Box::pin(accept(listener, Some(Arc::new(tls)), limits, CancellationToken::new()));
        Self { address, authority, incoming, _files: files }
    }

    /// Connects, and says nothing.
    async fn knock(&self, from: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// Shakes hands as this reader. With TLS 1.3 the client is done before the server has looked.
    async fn greet(&self, tcp: TcpStream, name: &str) -> client::TlsStream<TcpStream> {
        let issued = self.authority.of(&[&format!("podtrail://reader/{name}")]);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem().as_bytes()).unwrap()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![CertificateDer::from_pem_slice(issued.cert.as_bytes()).unwrap()], key)
            .unwrap();
        let to = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(Arc::new(config)).connect(to, tcp).await.unwrap()
    }

    /// Somebody comes in: both ends of the connection.
    async fn enter(&mut self, name: &str, from: &str) -> (client::TlsStream<TcpStream>, Connection) {
        let tcp = self.knock(from).await;
        let theirs = self.greet(tcp, name).await;
        let Ok(ours) = time::timeout(SOON, self.incoming.next()).await.unwrap().unwrap();
        assert_eq!(ours.connect_info().name(), format!("reader {name}"));
        (theirs, ours)
    }
}

/// Waits until the other side has closed it.
async fn closed(mut stream: impl AsyncRead + Unpin) {
    let read = time::timeout(SOON, stream.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

#[tokio::test]
async fn a_slow_handshake_is_cut_and_holds_up_nobody() {
    let handshake = Duration::from_secs(3);
    let mut door = Door::open(Limits { handshake, ..Limits::default() }).await;
    let began = Instant::now();
    let silent = door.knock("127.0.0.1").await;
    let mut stuck = door.knock("127.0.0.1").await;
    // The beginning of a ClientHello of 512 bytes.
    stuck.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
    let _welcome = door.enter("siem", "127.0.0.1").await;
    closed(silent).await;
    assert!(began.elapsed() >= handshake, "cut after {:?}", began.elapsed());
    // Nobody was told why: there was no handshake to say it in.
    closed(stuck).await;
}

#[tokio::test]
async fn an_address_has_so_many_handshakes() {
    let limits = Limits { handshakes_by_address: 2, handshake: NEVER, ..Limits::default() };
    let mut door = Door::open(limits).await;
    let first = door.knock("127.0.0.1").await;
    let _second = door.knock("127.0.0.1").await;
    closed(door.knock("127.0.0.1").await).await;
    // Other addresses have their own.
    let _other = door.enter("siem", "127.0.0.2").await;
    // A place that is left, or a handshake that is done, is one for the next.
    drop(first);
    for name in ["one", "two", "three"] {
        let tcp = time::timeout(SOON, async {
            loop {
                let mut tcp = door.knock("127.0.0.1").await;
                // Who is sent away is so at once; who is in hears nothing until they speak.
                let answer = time::timeout(Duration::from_millis(200), tcp.read(&mut [0; 1])).await;
                if answer.is_err() {
                    return tcp;
                }
            }
        });
        let tcp = tcp.await.unwrap();
        let _theirs = door.greet(tcp, name).await;
        let Ok(ours) = time::timeout(SOON, door.incoming.next()).await.unwrap().unwrap();
        assert_eq!(ours.connect_info().name(), format!("reader {name}"));
    }
}

#[tokio::test]
async fn a_name_has_so_many_connections() {
    let mut door = Door::open(Limits { by_name: 1, ..Limits::default() }).await;
    let (_theirs, ours) = door.enter("siem", "127.0.0.1").await;
    // From wherever it comes.
    let again = door.knock("127.0.0.2").await;
    closed(door.greet(again, "siem").await).await;
    let _other = door.enter("other", "127.0.0.1").await;
    drop(ours);
    door.enter("siem", "127.0.0.1").await;
}

#[tokio::test]
async fn there_are_so_many_connections_and_handshakes_in_all() {
    let mut door = Door::open(Limits { connections: 1, ..Limits::default() }).await;
    let (_theirs, ours) = door.enter("siem", "127.0.0.1").await;
    closed(door.knock("127.0.0.2").await).await;
    drop(ours);
    door.enter("siem", "127.0.0.1").await;
    let door = Door::open(Limits { handshakes: 1, handshake: NEVER, ..Limits::default() }).await;
    let _silent = door.knock("127.0.0.1").await;
    closed(door.knock("127.0.0.2").await).await;
}

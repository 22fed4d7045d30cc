//! Connections to the collector: accepted, made secure, and bounded in number and in time.
//!
//! One that says nothing costs a socket, for as long as a handshake may take, and a few from each address; nobody else
//! waits for it.

use std::{
    convert::Infallible,
    io::{self, IoSlice},
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time,
};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::{
    counts::{Counts, Place},
    identity::Identity,
    peer::Peer,
    server::{ServerTls, Unwelcome},
};
use crate::telemetry::{Emit as _, refused::Refused};

/// How long, and for how much, the other side may take to hear why it is sent away.
const GOODBYE: Duration = Duration::from_secs(1);
const GOODBYE_BYTES: u64 = 64 * 1024;

/// How many there may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// at once
    pub connections: usize,
    /// of one certificate's name
    pub by_name: usize,
    /// not done with their handshake
    pub handshakes: usize,
    /// from one address
    pub handshakes_by_address: usize,
    /// how long one may take
    pub handshake: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            by_name: 64,
            handshakes: 4096,
            // Many agents may come through one address, all at once after a restart; each tries again.
            handshakes_by_address: 1024,
            handshake: Duration::from_secs(10),
        }
    }
}

/// A connection, and who is at its other end.
#[derive(Debug)]
pub struct Connection {
    stream: Transport,
    peer: Peer,
    _connection: OwnedSemaphorePermit,
    _name: Option<Place<Identity>>,
}

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Connections as they come, until `stop`; without `tls` in the clear, which is for loopback alone.
pub fn accept(
    listener: TcpListener,
    tls: Option<Arc<ServerTls>>,
    limits: Limits,
    stop: CancellationToken,
) -> impl Stream<Item = Result<Connection, Infallible>> {
    let (tx, rx) = mpsc::channel(64);
    tokio::spawn(async move { stop.run_until_cancelled(accept_all(listener, tls, limits, tx)).await });
    ReceiverStream::new(rx)
}

type Ready = mpsc::Sender<Result<Connection, Infallible>>;

async fn accept_all(listener: TcpListener, tls: Option<Arc<ServerTls>>, limits: Limits, ready: Ready) {
    let connections = Arc::new(Semaphore::new(limits.connections));
    let handshakes = Arc::new(Semaphore::new(limits.handshakes));
    let addresses = Counts::<IpAddr>::default();
    let names = Counts::<Identity>::default();
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            // Out of descriptors, most likely: accepting again at once would only spin.
            time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let address = from.ip().to_canonical();
        _ = stream.set_nodelay(true);
        let Ok(permit) = connections.clone().try_acquire_owned() else {
            refuse(&address.to_string(), &Unwelcome::Connections(limits.connections));
            continue;
        };
        let Some(tls) = tls.clone() else {
            let peer = Peer { address, identity: Identity::Loopback, expires: None };
            let stream = Transport::Plain(stream);
            let connection = Connection { stream, peer, _connection: permit, _name: None };
            if ready.send(Ok(connection)).await.is_err() {
                return;
            }
            continue;
        };
        let here = addresses.enter(address, limits.handshakes_by_address);
        let Some((here, handshake)) = here.zip(handshakes.clone().try_acquire_owned().ok()) else {
            refuse(&address.to_string(), &Unwelcome::Handshakes(limits.handshakes_by_address));
            continue;
        };
        let (names, ready) = (names.clone(), ready.clone());
        tokio::spawn(async move {
            let _place = (here, handshake);
            let name = address.to_string();
            match time::timeout(limits.handshake, tls.welcome(address, stream)).await {
                Err(_elapsed) => refuse(&name, &Unwelcome::Slow(limits.handshake)),
                Ok(Err((unwelcome, stream))) => {
                    refuse(&name, &unwelcome);
                    if let Some(stream) = stream {
                        _ = time::timeout(GOODBYE, say_goodbye(stream)).await;
                    }
                }
                Ok(Ok((stream, peer))) => match names.enter(peer.identity.clone(), limits.by_name) {
                    None => refuse(&peer.name(), &Unwelcome::Connections(limits.by_name)),
                    Some(place) => {
                        let stream = Transport::Tls(Box::new(stream));
                        let connection = Connection { stream, peer, _connection: permit, _name: Some(place) };
                        // Where nobody takes it, the collector stops.
                        _ = ready.send(Ok(connection)).await;
                    }
                },
            }
        });
    }
}

/// Waits until the other side has closed: what it has sent meanwhile would make the kernel reset the connection, and why
/// it was sent away would be lost on the way.
async fn say_goodbye(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = stream.take(GOODBYE_BYTES);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok(())
}

fn refuse(peer: &str, unwelcome: &Unwelcome) {
    Refused { peer, reason: unwelcome.reason(), message: &unwelcome.to_string() }.emit();
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
#[path = "incoming_tests.rs"]
mod tests;

//! Events to a syslog receiver, over TCP or TLS.
//!
//! Syslog has no acknowledgements. What can be known is what the receiver's TCP has taken; that is waited for, so that
//! a connection that breaks loses nothing that was still on its way: it is sent again on the next one. What a receiver
//! took and then lost itself nobody can tell.

use std::{
    collections::VecDeque,
    fmt, io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use procfs::net::TcpNetEntry;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{super::subscribe::Delivery, OutputError, message};
use crate::{config::outputs::SyslogOptions, tls, trail::cursor::LogId, trail::log::Cursor};

/// How long connecting and the handshake may take, and a receiver may take nothing.
const CONNECT: Duration = Duration::from_secs(10);
const STUCK: Duration = Duration::from_secs(60);

trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// A connection to a receiver.
pub struct SyslogSink {
    options: SyslogOptions,
    log: LogId,
    address: String,
    reader: ReadHalf<Box<dyn Connection>>,
    writer: WriteHalf<Box<dyn Connection>>,
    /// of the TCP connection
    local: SocketAddr,
    remote: SocketAddr,
    /// bytes of messages written so far; TLS makes them more, never fewer
    written: u64,
    /// where each piece ends, and when it was written
    pieces: VecDeque<(u64, Cursor, Instant)>,
    /// everything up to here was written, or is not for this output
    passed: Option<Cursor>,
    kept: Option<Cursor>,
}

impl fmt::Debug for SyslogSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyslogSink").field("address", &self.address).finish_non_exhaustive()
    }
}

impl SyslogSink {
    /// Connects. Certificates are read anew each time.
    pub async fn connect(options: SyslogOptions, log: LogId) -> Result<Self, OutputError> {
        let SyslogOptions { host, port, tls, message_max: _ } = &options;
        let address = format!("{host}:{port}");
        let failed = |call| {
            let address = address.clone();
            move |source| OutputError::Net { call, address, source }
        };
        let late = |_elapsed| io::Error::from(io::ErrorKind::TimedOut);
        let tcp = timeout(CONNECT, TcpStream::connect((host.as_str(), *port))).await;
        let tcp = tcp.map_err(late).and_then(|tcp| tcp).map_err(failed("connect to"))?;
        let local = tcp.local_addr().map_err(failed("connect to"))?;
        let remote = tcp.peer_addr().map_err(failed("connect to"))?;
        let stream: Box<dyn Connection> = match tls {
            None => Box::new(tcp),
            Some(tls) => {
                let own = tls.own.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()));
                let config = tls::client::to_others(&tls.ca, own)?;
                let name =
                    ServerName::try_from(host.clone()).map_err(io::Error::other).map_err(failed("verify"))?;
                let handshake = TlsConnector::from(Arc::new(config)).connect(name, tcp);
                let stream = timeout(CONNECT, handshake).await.map_err(late).and_then(|stream| stream);
                Box::new(stream.map_err(failed("shake hands with"))?)
            }
        };
        let (reader, writer) = tokio::io::split(stream);
        let (written, pieces, passed, kept) = Default::default();
        Ok(Self { options, log, address, reader, writer, local, remote, written, pieces, passed, kept })
    }

    /// Sends a message for each event.
    pub async fn write(&mut self, events: &[Delivery]) -> Result<(), OutputError> {
        let mut out = Vec::new();
        for delivery in events {
            let cursor = self.log.text(delivery.cursor);
            message::push(&mut out, &delivery.event, &cursor, self.options.message_max);
        }
        let Self { writer, address, .. } = self;
        let sent = timeout(STUCK, async {
            writer.write_all(&out).await?;
            writer.flush().await
        });
        match sent.await {
            Ok(sent) => sent.map_err(|source| OutputError::Net {
                call: "write to",
                address: address.clone(),
                source,
            })?,
            Err(_elapsed) => return Err(self.stuck()),
        }
        self.written += out.len() as u64;
        if let Some(last) = events.last() {
            self.pieces.push_back((self.written, last.cursor, Instant::now()));
        }
        Ok(())
    }

    /// Everything up to `cursor` was written, or is not for this output.
    pub fn passed(&mut self, cursor: Cursor) {
        self.passed = self.passed.max(Some(cursor));
    }

    /// Up to where the receiver's TCP has everything.
    pub fn keep(&mut self) -> Result<Option<Cursor>, OutputError> {
        if !self.pieces.is_empty() {
            let taken = self.written.saturating_sub(self.waiting()?);
            while let Some((_, cursor, _)) = self.pieces.pop_front_if(|(end, _, _)| *end <= taken) {
                self.kept = Some(cursor);
            }
        }
        match self.pieces.front() {
            Some((_, _, since)) if since.elapsed() > STUCK => return Err(self.stuck()),
            Some(_) => {}
            None => self.kept = self.passed,
        }
        Ok(self.kept)
    }

    /// Bytes of the connection that the receiver's TCP has not taken.
    fn waiting(&self) -> Result<u64, OutputError> {
        let failed = |e: procfs::ProcError| OutputError::Net {
            call: "find in /proc/net the connection to",
            address: self.address.clone(),
            source: io::Error::other(e),
        };
        let mine =
            |entry: &TcpNetEntry| entry.local_address == self.local && entry.remote_address == self.remote;
        let table = if self.local.is_ipv4() { procfs::net::tcp() } else { procfs::net::tcp6() };
        let entry = table.map_err(failed)?.into_iter().find(mine);
        // A connection that is gone took what it took: nobody knows how much.
        entry.map(|entry| u64::from(entry.tx_queue)).ok_or_else(|| OutputError::Hangup(self.address.clone()))
    }

    /// Waits until the receiver closes. What it says is not listened to.
    pub async fn hangup(&mut self) -> OutputError {
        let mut heard = [0; 512];
        loop {
            match self.reader.read(&mut heard).await {
                Ok(0) => return OutputError::Hangup(self.address.clone()),
                Ok(_) => {}
                Err(source) => {
                    return OutputError::Net { call: "hear from", address: self.address.clone(), source };
                }
            }
        }
    }

    fn stuck(&self) -> OutputError {
        OutputError::Stuck { address: self.address.clone(), seconds: STUCK.as_secs() }
    }
}

//! Connections that count their bytes, and podtrail's messages for whoever does not look into the events.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use podtrail_proto::{Timestamp, v1};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tonic::transport::{Channel, Endpoint, Uri};

/// A report whose events are encoded already.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Report {
    #[prost(message, optional, tag = "1")]
    pub(crate) hello: Option<v1::Hello>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(crate) events: Vec<Bytes>,
}

/// `SubscribeResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Response {
    #[prost(message, optional, tag = "2")]
    pub(crate) events: Option<Events>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Events {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(crate) events: Vec<Bytes>,
    #[prost(string, repeated, tag = "2")]
    pub(crate) cursors: Vec<String>,
}

/// Of an event, what is needed to time it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Timed {
    #[prost(message, optional, tag = "2")]
    pub(crate) time: Option<Timestamp>,
    #[prost(message, optional, tag = "4")]
    pub(crate) container: Option<Named>,
    #[prost(message, optional, tag = "11")]
    pub(crate) executed: Option<Anything>,
    #[prost(message, optional, tag = "14")]
    pub(crate) ended: Option<Anything>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Named {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Anything {}

/// Bytes of all connections together.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    read: AtomicU64,
    written: AtomicU64,
}

impl Counts {
    pub(crate) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

struct Counted {
    inner: TcpStream,
    counts: Arc<Counts>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.counts.read.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = &polled {
            self.counts.written.fetch_add(*n as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(n)) = &polled {
            self.counts.written.fetch_add(*n as u64, Ordering::Relaxed);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A connection of its own to the collector.
pub(crate) async fn connect(collector: &str, counts: &Arc<Counts>) -> Result<Channel> {
    let counts = Arc::clone(counts);
    let connector = tower::service_fn(move |uri: Uri| {
        let counts = Arc::clone(&counts);
        async move {
            let address = uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
            let inner = TcpStream::connect(address).await?;
            inner.set_nodelay(true)?;
            io::Result::Ok(TokioIo::new(Counted { inner, counts }))
        }
    });
    let endpoint = Endpoint::from_shared(collector.to_owned())?
        .connect_timeout(Duration::from_secs(20))
        .initial_stream_window_size(Some(1 << 20))
        .initial_connection_window_size(Some(4 << 20));
    endpoint.connect_with_connector(connector).await.context("cannot connect to the collector")
}

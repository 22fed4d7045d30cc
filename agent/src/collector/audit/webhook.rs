//! The audit webhook: `POST` of batches by API servers, over HTTPS with a certificate, or on loopback.
//!
//! 200 says that everything that is kept is on the disk. An API server tries again after any other answer, for as long as
//! its back-off lasts; what it gave up it tells nobody but its own metrics.

use std::{
    convert::Infallible,
    io::Read as _,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use futures::{Stream, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderMap, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use podtrail_proto::v1;
use tokio::{pin, sync::Mutex, task, time};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected as _;

use super::{
    event::{AuditError, Batch},
    heard::Source,
    intake::{Intake, Part},
    room::{Room, Taken},
};
use crate::{
    telemetry::{Emit as _, refused::Refused},
    tls::{Identity, Peer, incoming::Connection},
    trail::Moment,
};

/// How long the head of a request may take, also on a connection that says nothing.
const HEAD: Duration = Duration::from_secs(60);
/// How long its body may take. API servers give up after 30 s.
const BODY: Duration = Duration::from_secs(30);
/// What the API server waits before it tries again.
const COME_AGAIN: &str = "5";
/// A batch that cannot be read comes again and again: the log is told once in this time, for each source.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Webhook(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    intake: Intake,
    /// of those on loopback, who have no certificate
    cluster: String,
    max_body: usize,
    room: Room,
    told: Mutex<Vec<(Source, Instant)>>,
}

/// Why a batch is not taken.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0} may not send audit: that takes a certificate with podtrail://audit/CLUSTER")]
    NotYours(Identity),
    #[error("only POST: this is for the API server's audit webhook")]
    Method,
    #[error("{0:?} is no encoding that is known here: send it plain, or as gzip")]
    Encoding(String),
    #[error(
        "more than {0} bytes: lower the API server's --audit-webhook-batch-max-size, or raise --audit-max-body"
    )]
    TooLarge(usize),
    #[error("no room for it now: come again")]
    NoRoom,
    #[error("the body did not come within {} s", BODY.as_secs())]
    Slow,
    #[error("the body did not come whole: {0}")]
    Cut(String),
    #[error("it is no gzip: {0}")]
    Gzip(String),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error("the log cannot be written now: come again")]
    Unwritten,
}

impl Refusal {
    /// For the metric.
    fn reason(&self) -> &'static str {
        match self {
            Self::NotYours(_) => "identity",
            Self::Method => "audit_method",
            Self::Encoding(_) | Self::Gzip(_) => "audit_encoding",
            Self::TooLarge(_) => "audit_too_large",
            Self::NoRoom => "audit_room",
            Self::Slow | Self::Cut(_) => "audit_slow",
            Self::Audit(_) => "audit_unreadable",
            Self::Unwritten => "audit_unwritten",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::NotYours(_) => StatusCode::FORBIDDEN,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Encoding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NoRoom => StatusCode::TOO_MANY_REQUESTS,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Cut(_) | Self::Gzip(_) | Self::Audit(_) => StatusCode::BAD_REQUEST,
            Self::Unwritten => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Whether what it carried may be lost: an API server gives up in the end.
    fn loses(&self) -> bool {
        matches!(self, Self::Audit(_) | Self::Gzip(_) | Self::TooLarge(_) | Self::Encoding(_))
    }
}

impl Webhook {
    /// `max_body`: of one request, as it is when it is not compressed.
    pub(super) fn new(intake: Intake, cluster: String, max_body: usize) -> Self {
        // Both forms of a compressed body are there for a moment.
        let room = Room::new(max_body.saturating_mul(4));
        Self(Arc::new(Inner { intake, cluster, max_body, room, told: Mutex::default() }))
    }

    /// Serves connections until `stop`; what is under way then is answered.
    pub(super) async fn serve(
        self,
        incoming: impl Stream<Item = Result<Connection, Infallible>>,
        stop: CancellationToken,
    ) {
        pin!(incoming);
        while let Some(Ok(connection)) = incoming.next().await {
            tokio::spawn(self.clone().connection(connection, stop.clone()));
        }
    }

    async fn connection(self, connection: Connection, stop: CancellationToken) {
        let peer = connection.connect_info();
        let service = service_fn(move |request| {
            let (this, peer) = (self.clone(), peer.clone());
            async move { Ok::<_, Infallible>(this.answer(request, &peer).await) }
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(64 * 1024)
            .serve_connection(TokioIo::new(connection), service);
        pin!(serving);
        tokio::select! {
            // What a client does wrong is its own affair.
            _ = serving.as_mut() => return,
            () = stop.cancelled() => serving.as_mut().graceful_shutdown(),
        }
        _ = serving.await;
    }

    async fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Response<Full<Bytes>> {
        match self.take(request, peer).await {
            Ok(()) => Response::new(Full::default()),
            Err(refusal) => {
                let message = refusal.to_string();
                Refused { peer: &peer.name(), reason: refusal.reason(), message: &message }.emit();
                let mut response = Response::new(Full::new(Bytes::from(message + "\n")));
                *response.status_mut() = refusal.status();
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
                match refusal {
                    Refusal::Unwritten | Refusal::NoRoom => {
                        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(COME_AGAIN));
                    }
                    // What is left of its body nobody reads.
                    Refusal::Slow | Refusal::Cut(_) | Refusal::TooLarge(_) | Refusal::Encoding(_) => {
                        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
                    }
                    Refusal::NotYours(_) | Refusal::Method | Refusal::Gzip(_) | Refusal::Audit(_) => {}
                }
                response
            }
        }
    }

    async fn take(&self, request: Request<Incoming>, peer: &Peer) -> Result<(), Refusal> {
        let Inner { intake, cluster, max_body, room, told: _ } = &*self.0;
        let cluster = match &peer.identity {
            Identity::Loopback => cluster.clone(),
            Identity::Audit { cluster } => cluster.to_string(),
            other => return Err(Refusal::NotYours(other.clone())),
        };
        if request.method() != Method::POST {
            return Err(Refusal::Method);
        }
        let source = Source { cluster, name: format!("webhook {}", peer.address) };
        // Until what is kept is written.
        let mut taken = room.enter();
        let done = match read(request, *max_body, &mut taken).await {
            Ok(batch) => {
                let part = Part { batch, ..Part::default() };
                intake.take(&source, part).await.map_err(|_| Refusal::Unwritten)
            }
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = &done {
            intake.put_off(&source);
            if refusal.loses() {
                self.tell(&source, refusal).await?;
            }
        }
        done
    }

    /// Leaves word in the log that there was a batch which nobody could read.
    async fn tell(&self, source: &Source, refusal: &Refusal) -> Result<(), Refusal> {
        let now = Instant::now();
        let mut told = self.0.told.lock().await;
        told.retain(|(_, at)| now.duration_since(*at) < TELL_EVERY);
        if told.iter().any(|(of, _)| of == source) || told.len() >= super::heard::MAX_SOURCES {
            return Ok(());
        }
        let gap = v1::Gap {
            source: Some(v1::GapSource::Audit.into()),
            count: Some(1),
            // It has many events, and comes again.
            exact: Some(false),
            to: Some(Moment::now().timestamp()),
            detail: format!("a batch from {}: {refusal}", source.name),
            ..v1::Gap::default()
        };
        let part = Part { gaps: vec![gap], ..Part::default() };
        self.0.intake.take(source, part).await.map_err(|_| Refusal::Unwritten)?;
        told.push((source.clone(), now));
        Ok(())
    }
}

/// Reads a request's body, and what it says.
async fn read(request: Request<Incoming>, max: usize, taken: &mut Taken) -> Result<Batch, Refusal> {
    let zipped = is_zipped(request.headers())?;
    let said =
        request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if said.is_some_and(|length: usize| length > max) {
        return Err(Refusal::TooLarge(max));
    }
    let body = collect(request.into_body(), max, taken);
    let body = time::timeout(BODY, body).await.map_err(|_elapsed| Refusal::Slow)??;
    let mut room = std::mem::replace(taken, taken.another());
    // Much of it takes a while.
    let parsed = task::spawn_blocking(move || {
        let batch = parse(body, zipped, max, &mut room);
        (batch, room)
    });
    let (batch, room) = parsed.await.map_err(|_panicked| Refusal::Unwritten)?;
    *taken = room;
    batch
}

fn is_zipped(headers: &HeaderMap) -> Result<bool, Refusal> {
    match headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"" | b"identity") => Ok(false),
        Some(encoding) if encoding.eq_ignore_ascii_case(b"gzip") => Ok(true),
        Some(other) => {
            let other = String::from_utf8_lossy(other.get(..64).unwrap_or(other));
            Err(Refusal::Encoding(other.into_owned()))
        }
    }
}

async fn collect(mut body: Incoming, max: usize, taken: &mut Taken) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Refusal::Cut(e.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        let length = bytes.len() + data.len();
        if length > max {
            return Err(Refusal::TooLarge(max));
        }
        if !taken.grow_to(length) {
            return Err(Refusal::NoRoom);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

fn parse(body: Vec<u8>, zipped: bool, max: usize, taken: &mut Taken) -> Result<Batch, Refusal> {
    if !zipped {
        return Ok(Batch::parse(&body)?);
    }
    let mut plain = Vec::new();
    let mut decoder = MultiGzDecoder::new(body.as_slice());
    let mut piece = [0; 16 * 1024];
    loop {
        match decoder.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => {
                if plain.len() + n > max {
                    return Err(Refusal::TooLarge(max));
                }
                if !taken.grow_to(body.len() + plain.len() + n) {
                    return Err(Refusal::NoRoom);
                }
                plain.extend_from_slice(piece.get(..n).unwrap_or_default());
            }
            Err(e) => return Err(Refusal::Gzip(e.to_string())),
        }
    }
    drop(body);
    Ok(Batch::parse(&plain)?)
}

//! `podtrail.v1.Ingest`: takes in what agents report, and acknowledges what the log has.
//!
//! Everything that comes is hostile: a stream may only speak of the node that it said hello for, and a request with
//! one bad event is refused whole, with nothing of it taken and the stream ended. What is taken in at once is bounded:
//! `requests` reads nothing that there is no room for.

mod check;
mod requests;

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::{StreamExt as _, future::BoxFuture, stream::BoxStream};
use podtrail_proto::v1::{self, ingest_server};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{self, Instant},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::{Service, http},
    server::NamedService,
};

pub(super) use self::requests::{Taken, WINDOW};
use self::{
    check::ReportError,
    requests::{Requests, Room},
};
use super::{
    log::{DiskLog, NodeEpoch},
    sequence::{ANSWER_WAIT, Answer, Report},
    silence::Silence,
    writer::Writer,
};
use crate::{
    telemetry::{
        Emit as _,
        collector::{AgentStream, ReportRefused},
    },
    tls::Peer,
    trail::Indexed,
};

/// Agents at once.
const MAX_STREAMS: usize = 10_000;
/// When there is no room for one: when to come again. Agents add their back-off, so they do not come together.
const COME_AGAIN_MS: u64 = 5000;
/// How long an agent may take to say hello.
const HELLO: Duration = Duration::from_secs(10);
/// Least time between two answers on a stream that is busy: each one wakes the agent.
const ANSWER_EVERY: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Ingest {
    writer: Writer,
    indexed: Arc<Indexed<DiskLog>>,
    silence: Silence,
    shutdown: CancellationToken,
    streams: Arc<Semaphore>,
    /// names the next stream
    next: Arc<AtomicU64>,
}

impl Ingest {
    pub(super) fn server(
        writer: Writer,
        indexed: Arc<Indexed<DiskLog>>,
        silence: Silence,
        shutdown: CancellationToken,
    ) -> Server {
        let this = Self {
            writer,
            indexed,
            silence,
            shutdown,
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            next: Arc::default(),
        };
        Server { inner: ingest_server::IngestServer::new(this), room: Room::new() }
    }

    /// Takes requests until the agent ends the stream.
    async fn take(
        &self,
        requests: &mut Requests,
        responses: &mpsc::Sender<Result<v1::ReportResponse, Status>>,
        peer: &Peer,
    ) -> Result<(), Status> {
        let name = peer.name();
        let refuse = |e: ReportError| {
            ReportRefused { peer: &name, reason: e.reason(), message: &e.to_string() }.emit();
            e.status()
        };
        // Not the time that it waits for room.
        let Ok(begun) = time::timeout(HELLO, requests.begun()).await else {
            return Err(refuse(ReportError::NoHello));
        };
        begun?;
        let Some((first, mut room)) = requests.next().await? else { return Ok(()) };
        let v1::ReportRequest { hello, mut events, gone } = first;
        let node = check::hello(hello).and_then(|node| check::may_report(peer, node)).map_err(refuse)?;
        let _presence = Presence::begin(self.indexed.clone(), node.clone());
        let stream = self.next.fetch_add(1, Ordering::Relaxed);
        let mut gone = check::Gone::default().and(gone).map_err(refuse)?;
        let mut answered: Option<Instant> = None;
        let mut missing = Vec::new();
        // Until when an answer is waited for.
        let mut patience: Option<Instant> = None;
        loop {
            check::events(&node, &events).map_err(refuse)?;
            self.silence.sign(&node).await;
            // With no events too: it tells the agent from where to go on.
            let report = Report { node: node.clone(), stream, events, gone: gone.ranges().to_vec() };
            let Ok(answer) = self.writer.write(report, room).await else {
                return Err(Status::unavailable("the log cannot be written now: come again"));
            };
            let Answer { acked, missing: more, asked } = answer;
            gone.forget(acked);
            if !more.is_empty() {
                missing = more;
                patience = None;
            }
            patience = asked.then(|| patience.unwrap_or_else(|| Instant::now() + ANSWER_WAIT));
            let response =
                v1::ReportResponse { epoch: node.epoch, acked_seq: acked, missing: missing.clone() };
            // The first answer after a silence goes at once; in a stream of requests one answer does for several.
            let due = answered.map_or_else(Instant::now, |at| at + ANSWER_EVERY);
            let next = tokio::select! {
                biased;
                () = time::sleep_until(due) => None,
                request = requests.next() => Some(request?),
            };
            let (request, taken) = match next {
                Some(Some(request)) => request,
                ended @ (None | Some(None)) => {
                    if responses.send(Ok(response)).await.is_err() {
                        return Ok(());
                    }
                    missing.clear();
                    answered = Some(Instant::now());
                    if ended.is_some() {
                        return Ok(());
                    }
                    let request = tokio::select! {
                        biased;
                        request = requests.next() => request?,
                        () = until(patience) => return Err(unanswered(acked)),
                    };
                    let Some(request) = request else { return Ok(()) };
                    request
                }
            };
            if patience.is_some_and(|until| until <= Instant::now()) && request.gone.is_empty() {
                return Err(unanswered(acked));
            }
            if request.hello.is_some() {
                return Err(refuse(ReportError::SecondHello));
            }
            gone = gone.and(request.gone).map_err(refuse)?;
            (events, room) = (request.events, taken);
        }
    }
}

/// What is looked at before anything of a request is believed, for its fuzz target alone.
#[cfg(fuzzing)]
pub fn fuzz_check(request: v1::ReportRequest) {
    let v1::ReportRequest { hello, events, gone } = request;
    let Ok(node) = check::hello(hello) else { return };
    if check::events(&node, &events).is_ok() {
        let numbers = events.iter().filter_map(|event| NodeEpoch::of(event));
        assert!(numbers.clone().count() == events.len() && numbers.clone().all(|(of, _)| of == node));
        assert!(numbers.map(|(_, seq)| seq).is_sorted_by(|a, b| a < b));
    }
    if let Ok(mut gone) = check::Gone::default().and(gone.clone()).and_then(|all| all.and(gone)) {
        assert!(gone.ranges().iter().all(|range| range.first <= range.last));
        gone.forget(u64::MAX);
        assert!(gone.ranges().is_empty());
    }
}

/// Never, where there is no such moment.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// With the time to come again: in gRPC's own words for it (its proposal A6), which agents and most clients know.
fn full() -> Status {
    let mut status = Status::resource_exhausted(format!("{MAX_STREAMS} agents are here already"));
    status.metadata_mut().insert("grpc-retry-pushback-ms", COME_AGAIN_MS.into());
    status
}

/// Another stream shows whether the agent has what it was asked for.
fn unanswered(acked: u64) -> Status {
    Status::unavailable(format!(
        "what comes after event {acked} was asked for, and did not come within {} s: connect again",
        ANSWER_WAIT.as_secs()
    ))
}

/// An agent is here until this is dropped.
struct Presence {
    indexed: Arc<Indexed<DiskLog>>,
    node: NodeEpoch,
}

impl Presence {
    fn begin(indexed: Arc<Indexed<DiskLog>>, node: NodeEpoch) -> Self {
        let this = Self { indexed, node };
        this.set(true);
        this
    }

    fn set(&self, connected: bool) {
        let NodeEpoch { cluster, node, epoch } = &self.node;
        self.indexed.set_connected(cluster, node, connected);
        AgentStream { cluster, node, epoch: *epoch, connected }.emit();
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// The service: keeps the requests from tonic, which sees an empty stream of them, and gives them to [`Ingest`].
#[derive(Clone, Debug)]
pub(super) struct Server {
    inner: ingest_server::IngestServer<Ingest>,
    room: Room,
}

impl NamedService for Server {
    const NAME: &'static str = ingest_server::SERVICE_NAME;
}

impl Service<http::Request<Body>> for Server {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<http::Request<Body>>::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let requests = Requests::new(body, self.room.clone());
        // What is in there must be cloned by whoever wants to.
        parts.extensions.insert(Arc::new(Mutex::new(Some(requests))));
        self.inner.call(http::Request::from_parts(parts, Body::empty()))
    }
}

#[tonic::async_trait]
impl ingest_server::Ingest for Ingest {
    type ReportStream = BoxStream<'static, Result<v1::ReportResponse, Status>>;

    async fn report(
        &self,
        mut request: Request<Streaming<v1::ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let permit: OwnedSemaphorePermit = self.streams.clone().try_acquire_owned().map_err(|_| full())?;
        let peer = Peer::of(&request).cloned();
        let peer = peer.ok_or_else(|| Status::unauthenticated("the connection does not say who it is of"))?;
        let requests = request.extensions_mut().remove::<Arc<Mutex<Option<Requests>>>>();
        let requests = requests.and_then(|r| r.lock().unwrap_or_else(PoisonError::into_inner).take());
        let mut requests = requests.ok_or_else(|| Status::internal("the requests have gone astray"))?;
        let (tx, rx) = mpsc::channel(16);
        let this = self.clone();
        tokio::spawn(async move {
            let _permit = permit;
            // What is being written when the shutdown comes is written; only its acknowledgement may not arrive.
            let end = tokio::select! {
                end = this.take(&mut requests, &tx, &peer) => end,
                () = this.shutdown.cancelled() => Err(Status::unavailable("shutting down: come again")),
                // The call was ended over our head, as when its certificate ends: nothing more is taken.
                () = tx.closed() => Ok(()),
            };
            if let Err(status) = end {
                _ = time::timeout(Duration::from_secs(1), tx.send(Err(status))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(rx).boxed()))
    }
}

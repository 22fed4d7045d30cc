//! `podtrail.v1.Ingest`: takes in what agents report, and acknowledges what the log has.
//!
//! Everything that comes is hostile: a stream may only speak of the node that it said hello for, and a request with
//! one bad event is refused whole, with nothing of it taken and the stream ended.

mod check;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt as _, stream::BoxStream};
use podtrail_proto::v1::{self, ingest_server};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{self, Instant},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use self::check::ReportError;
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
    trail::{Indexed, MAX_MESSAGE_BYTES},
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
    pub(super) fn new(
        writer: Writer,
        indexed: Arc<Indexed<DiskLog>>,
        silence: Silence,
        shutdown: CancellationToken,
    ) -> ingest_server::IngestServer<Self> {
        let this = Self {
            writer,
            indexed,
            silence,
            shutdown,
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            next: Arc::default(),
        };
        ingest_server::IngestServer::new(this).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Takes requests until the agent ends the stream.
    async fn take(
        &self,
        requests: &mut Streaming<v1::ReportRequest>,
        responses: &mpsc::Sender<Result<v1::ReportResponse, Status>>,
        peer: &Peer,
    ) -> Result<(), Status> {
        let name = peer.name();
        let refuse = |e: ReportError| {
            ReportRefused { peer: &name, reason: e.reason(), message: &e.to_string() }.emit();
            e.status()
        };
        let Ok(first) = time::timeout(HELLO, requests.message()).await else {
            return Err(refuse(ReportError::NoHello));
        };
        let Some(v1::ReportRequest { hello, mut events, gone }) = first? else { return Ok(()) };
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
            let Ok(answer) = self.writer.write(report).await else {
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
                request = requests.message() => Some(request?),
            };
            let request = match next {
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
                        request = requests.message() => request?,
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
            events = request.events;
        }
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

#[tonic::async_trait]
impl ingest_server::Ingest for Ingest {
    type ReportStream = BoxStream<'static, Result<v1::ReportResponse, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<v1::ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let permit: OwnedSemaphorePermit = self.streams.clone().try_acquire_owned().map_err(|_| full())?;
        let peer = Peer::of(&request).cloned();
        let peer = peer.ok_or_else(|| Status::unauthenticated("the connection does not say who it is of"))?;
        let mut requests = request.into_inner();
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

//! `podtrail.v1.Ingest`: takes in what agents report, and acknowledges what the log has.
//!
//! Everything that comes is hostile: a stream may only speak of the node that it said hello for, and a request with
//! one bad event is refused whole, with nothing of it taken and the stream ended.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::BoxStream};
use podtrail_proto::v1::{self, ingest_server};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{self, Instant},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    log::{DiskLog, NodeEpoch},
    writer::Writer,
};
use crate::{
    telemetry::{
        Emit as _,
        collector::{AgentStream, ReportRefused},
    },
    trail::{Indexed, MAX_MESSAGE_BYTES},
};

/// Events in one request.
const MAX_EVENTS: usize = 10_000;
/// Agents at once.
const MAX_STREAMS: usize = 10_000;
/// Longest name of a cluster or node (a DNS name), and of a session.
const MAX_NAME: usize = 253;
/// How long an agent may take to say hello.
const HELLO: Duration = Duration::from_secs(10);
/// Least time between two answers on a stream that is busy: each one wakes the agent.
const ANSWER_EVERY: Duration = Duration::from_millis(20);
/// Years 1 to 9999, which is what a protobuf timestamp may say.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Ingest {
    writer: Writer,
    indexed: Arc<Indexed<DiskLog>>,
    shutdown: CancellationToken,
    streams: Arc<Semaphore>,
}

/// Why a report is refused.
#[derive(Debug, thiserror::Error)]
enum ReportError {
    #[error("the first request of a stream must carry hello")]
    NoHello,
    #[error("hello was said already: open another stream for another node or epoch")]
    SecondHello,
    #[error("hello names no node, or a name is longer than {MAX_NAME} bytes or has control characters in it")]
    BadHello,
    #[error("{0} events in one request: at most {MAX_EVENTS}")]
    TooMany(usize),
    #[error("event {0} of the request has no id, or seq 0")]
    NoId(usize),
    #[error("event {at} is of node {found:?}, but the stream said hello for {expected:?}")]
    Foreign { at: usize, found: String, expected: String },
    #[error("event {at} has seq {seq} after {before}: events must be in ascending order of seq")]
    Order { at: usize, seq: u64, before: u64 },
    #[error("event {0} has no time, or one that is no time")]
    BadTime(usize),
    #[error("event {0} has a session id longer than {MAX_NAME} bytes")]
    LongSession(usize),
}

impl ReportError {
    /// For the metric.
    fn reason(&self) -> &'static str {
        match self {
            Self::NoHello | Self::SecondHello | Self::BadHello => "hello",
            Self::TooMany(_) => "too_many",
            Self::NoId(_) => "no_id",
            Self::Foreign { .. } => "foreign",
            Self::Order { .. } => "order",
            Self::BadTime(_) => "time",
            Self::LongSession(_) => "session",
        }
    }
}

impl Ingest {
    pub(super) fn new(
        writer: Writer,
        indexed: Arc<Indexed<DiskLog>>,
        shutdown: CancellationToken,
    ) -> ingest_server::IngestServer<Self> {
        let this = Self { writer, indexed, shutdown, streams: Arc::new(Semaphore::new(MAX_STREAMS)) };
        ingest_server::IngestServer::new(this).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Takes requests until the agent ends the stream.
    async fn take(
        &self,
        requests: &mut Streaming<v1::ReportRequest>,
        responses: &mpsc::Sender<Result<v1::ReportResponse, Status>>,
        peer: &str,
    ) -> Result<(), Status> {
        let refuse = |e: ReportError| {
            let message = e.to_string();
            ReportRefused { peer, reason: e.reason(), message: &message }.emit();
            Status::invalid_argument(message)
        };
        let Ok(first) = time::timeout(HELLO, requests.message()).await else {
            return Err(refuse(ReportError::NoHello));
        };
        let Some(v1::ReportRequest { hello, mut events, gone: _ }) = first? else { return Ok(()) };
        let node = check_hello(hello).map_err(refuse)?;
        let _presence = Presence::begin(self.indexed.clone(), node.clone());
        let mut answered: Option<Instant> = None;
        loop {
            check_events(&node, &events).map_err(refuse)?;
            // With no events too: it tells the agent from where to go on.
            let Ok(acked_seq) = self.writer.write(node.clone(), events).await else {
                return Err(Status::unavailable("the log is not written any more"));
            };
            let response = v1::ReportResponse { epoch: node.epoch, acked_seq, missing: Vec::new() };
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
                    answered = Some(Instant::now());
                    if ended.is_some() {
                        return Ok(());
                    }
                    let Some(request) = requests.message().await? else { return Ok(()) };
                    request
                }
            };
            if request.hello.is_some() {
                return Err(refuse(ReportError::SecondHello));
            }
            events = request.events;
        }
    }
}

fn check_hello(hello: Option<v1::Hello>) -> Result<NodeEpoch, ReportError> {
    let v1::Hello { cluster, node, epoch, agent_version: _, boot_id: _ } =
        hello.ok_or(ReportError::NoHello)?;
    let good = |name: &str| name.len() <= MAX_NAME && !name.chars().any(char::is_control);
    if node.is_empty() || !good(&node) || !good(&cluster) {
        return Err(ReportError::BadHello);
    }
    Ok(NodeEpoch { cluster, node, epoch })
}

fn check_events(expected: &NodeEpoch, events: &[v1::Event]) -> Result<(), ReportError> {
    if events.len() > MAX_EVENTS {
        return Err(ReportError::TooMany(events.len()));
    }
    let mut before = 0;
    for (at, event) in events.iter().enumerate() {
        let Some(v1::EventId { cluster, node, epoch, seq }) = &event.id else {
            return Err(ReportError::NoId(at));
        };
        let NodeEpoch { cluster: c, node: n, epoch: e } = expected;
        if (cluster, node, epoch) != (c, n, e) {
            let found = cut(&format!("{cluster}/{node}/{epoch}"));
            return Err(ReportError::Foreign { at, found, expected: format!("{c}/{n}/{e}") });
        }
        match *seq {
            0 => return Err(ReportError::NoId(at)),
            seq if seq <= before => return Err(ReportError::Order { at, seq, before }),
            seq => before = seq,
        }
        let time = event.time.as_ref().filter(|t| SECONDS.contains(&t.seconds));
        if !time.is_some_and(|t| (0..1_000_000_000).contains(&t.nanos)) {
            return Err(ReportError::BadTime(at));
        }
        if event.session_id.len() > MAX_NAME {
            return Err(ReportError::LongSession(at));
        }
    }
    Ok(())
}

/// Short enough for an error message.
fn cut(name: &str) -> String {
    name.get(..name.floor_char_boundary(MAX_NAME)).unwrap_or_default().to_owned()
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
        let permit: OwnedSemaphorePermit = self
            .streams
            .clone()
            .try_acquire_owned()
            .map_err(|_| Status::resource_exhausted(format!("{MAX_STREAMS} agents are here already")))?;
        let peer = request.remote_addr().map_or_else(|| "unknown".to_owned(), |a| a.to_string());
        let mut requests = request.into_inner();
        let (tx, rx) = mpsc::channel(16);
        let this = self.clone();
        tokio::spawn(async move {
            let _permit = permit;
            // What is being written when the shutdown comes is written; only its acknowledgement may not arrive.
            let end = tokio::select! {
                end = this.take(&mut requests, &tx, &peer) => end,
                () = this.shutdown.cancelled() => Err(Status::unavailable("shutting down: come again")),
            };
            if let Err(status) = end {
                _ = time::timeout(Duration::from_secs(1), tx.send(Err(status))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(rx).boxed()))
    }
}

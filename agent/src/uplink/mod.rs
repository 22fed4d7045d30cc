//! The stream to the collector: sends what the spool holds, in order, until it is acknowledged. Where the collector
//! misses something it goes back there; what the spool has no more it says is gone.
//!
//! Must never make the spool wait, and never give up: whatever the collector does, it is tried again with back-off.
//! Nothing that the collector says reaches a log unescaped, and no acknowledgement is believed for what was not sent.

mod codec;
mod requests;

#[cfg(test)]
pub(crate) mod tests;

use std::{sync::Arc, time::Duration};

use podtrail_proto::v1;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tonic::{
    Status,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};

use self::{
    codec::ReportCodec,
    requests::{HEARTBEAT, Resume, requests},
};
pub use crate::backoff::Backoff;
use crate::{
    spool::{Identity, Spool},
    tls::{self, ClientTls, ConnectError},
};

/// A collector that takes events for this long and acknowledges none is not well: the stream is made anew.
const ACK_WAIT: Duration = Duration::from_secs(20);

/// A stream that lasted so long went well.
const LASTED: Duration = Duration::from_secs(30);

/// The longest that a collector may ask to be left alone, in gRPC's own words for it (its proposal A6).
const MAX_ASKED: Duration = Duration::from_secs(60);
const PUSHBACK: &str = "grpc-retry-pushback-ms";

const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// What the uplink is to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// the collector's URL, checked
    pub collector: String,
    /// for an https URL
    pub tls: Option<Arc<ClientTls>>,
    pub hello: v1::Hello,
    pub backoff: Backoff,
}

/// How the uplink does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// the collector has answered on the present stream
    pub connected: bool,
    /// streams begun
    pub attempts: u64,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum UplinkError {
    /// {0}
    #[error("{0}")]
    Address(tonic::transport::Error),
    /// cannot connect: {0}
    #[error("cannot connect: {0}")]
    Connect(String),
    /// no answer within {0:?}
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// {line}
    #[error("{line}")]
    Status {
        line: String,
        /// how long it wants to be left alone
        wait: Option<Duration>,
    },
    /// it closed the stream
    #[error("it closed the stream")]
    Closed,
    /// it has all of an epoch that is over
    #[error("it has all of an epoch that is over")]
    NextEpoch,
    /// it acknowledged event {0}, which it was not sent
    #[error("it acknowledged event {0}, which it was not sent")]
    FalseAck(u64),
}

/// Sends until dropped. Never returns.
pub async fn run(spool: Arc<Spool>, options: Options, state: watch::Sender<State>) {
    let mut backoff = options.backoff.clone();
    let mut told = false;
    loop {
        state.send_modify(|state| state.attempts += 1);
        let (began, acked) = (Instant::now(), *spool.acked_seq().borrow());
        let error = match stream(&spool, &options, &state, &mut told).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        if matches!(error, UplinkError::NextEpoch) {
            continue;
        }
        state.send_modify(|state| state.connected = false);
        // A stream that came to nothing is no reason to try again at once, though the collector has answered.
        if *spool.acked_seq().borrow() > acked || began.elapsed() > LASTED {
            backoff = options.backoff.clone();
        }
        if !told {
            told = true;
            tracing::warn!(
                collector = options.collector,
                error = %error.to_string().escape_debug(),
                "the collector cannot be reached: events are buffered, retrying"
            );
        }
        let asked =
            if let UplinkError::Status { wait: Some(wait), .. } = error { wait } else { Duration::ZERO };
        sleep(asked.min(MAX_ASKED) + backoff.next_wait()).await;
    }
}

/// One stream, to its end.
async fn stream(
    spool: &Arc<Spool>,
    options: &Options,
    state: &watch::Sender<State>,
    told: &mut bool,
) -> Result<std::convert::Infallible, UplinkError> {
    let channel = connect(options).await?;
    let mut client = tonic::client::Grpc::new(channel);
    timeout(CONNECT_WAIT, client.ready())
        .await
        .map_err(|_elapsed| UplinkError::Silent(CONNECT_WAIT))?
        .map_err(|e| UplinkError::Connect(sources(&e)))?;
    let path = PathAndQuery::from_static("/podtrail.v1.Ingest/Report");
    let (resume, resumed) = watch::channel(Resume::default());
    let hello = hello(spool, options);
    let sending = hello.epoch;
    let requests = requests(Arc::clone(spool), hello, resumed, HEARTBEAT);
    let requests = tonic::Request::new(requests);
    let answer = timeout(ACK_WAIT, client.streaming(requests, path, ReportCodec));
    let mut acks = answer
        .await
        .map_err(|_elapsed| UplinkError::Silent(ACK_WAIT))?
        .map_err(|status| refused(&status))?
        .into_inner();

    loop {
        let response = tokio::select! {
            response = acks.message() => response.map_err(|status| refused(&status))?,
            () = overdue(spool) => return Err(UplinkError::Silent(ACK_WAIT)),
        };
        let v1::ReportResponse { epoch, acked_seq, missing } = response.ok_or(UplinkError::Closed)?;
        // An answer about an earlier epoch says nothing about these events.
        if epoch == sending {
            if !spool.ack_of(sending, acked_seq) {
                return Err(UplinkError::FalseAck(acked_seq));
            }
            if spool.sending().epoch != sending {
                return Err(UplinkError::NextEpoch);
            }
            if resume.borrow().times == 0 {
                resume.send_replace(Resume { times: 1, after: acked_seq });
            } else if let Some(first) = missing.first().map(|range| range.first) {
                // It may have lost what it acknowledged, and never has what it misses.
                let after = first.saturating_sub(1).max(acked_seq);
                resume.send_modify(|resume| *resume = Resume { times: resume.times + 1, after });
            }
        }
        if !state.borrow().connected {
            state.send_modify(|state| state.connected = true);
            if *told {
                *told = false;
                tracing::info!(collector = options.collector, "the collector is reachable again");
            }
        }
    }
}

/// Of the epoch that is to be sent: an earlier one first, while any of it is not acknowledged.
fn hello(spool: &Spool, options: &Options) -> v1::Hello {
    let Identity { cluster, node, epoch } = spool.sending();
    v1::Hello { cluster, node, epoch, ..options.hello.clone() }
}

async fn connect(options: &Options) -> Result<Channel, UplinkError> {
    let endpoint = Endpoint::from_shared(options.collector.clone())
        .map_err(UplinkError::Address)?
        .connect_timeout(CONNECT_WAIT)
        .tcp_nodelay(true)
        // A connection that a firewall forgot is found even when there is nothing to send.
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    let connected = match &options.tls {
        Some(tls) => tls.connect(&endpoint).await,
        None => endpoint.connect().await.map_err(ConnectError::from),
    };
    connected.map_err(|e| UplinkError::Connect(tls::objection(&e).unwrap_or_else(|| sources(&e))))
}

/// Returns when the oldest unacknowledged event has waited too long.
async fn overdue(spool: &Spool) {
    let mut acked = spool.acked_seq();
    loop {
        let before = *acked.borrow_and_update();
        sleep(ACK_WAIT).await;
        if *acked.borrow() == before && spool.fill().last_seq > before {
            return;
        }
    }
}

/// An error with its causes, in one line: tonic's own text is only "transport error".
fn sources(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_line = cause.to_string();
        if !line.ends_with(&cause_line) {
            line = format!("{line}: {cause_line}");
        }
        source = cause.source();
    }
    line
}

fn refused(status: &Status) -> UplinkError {
    let wait = status.metadata().get(PUSHBACK).and_then(|wait| wait.to_str().ok()?.parse().ok());
    UplinkError::Status { line: status_line(status), wait: wait.map(Duration::from_millis) }
}

fn status_line(status: &Status) -> String {
    let mut message: String = status.message().chars().take(300).collect();
    if message.is_empty() {
        message = status.code().description().to_owned();
    }
    format!("{:?}: {message}", status.code())
}

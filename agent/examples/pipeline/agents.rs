//! Simulated agents: what the uplink does, without what is before it.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use podtrail::trail::Moment;
use podtrail_proto::v1;
use serde_json::json;
use tokio::{sync::Barrier, sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;

use super::{
    events::Maker,
    seconds,
    wire::{Counts, Report, connect},
};

/// The uplink's own bounds: of one report, and of what is sent and not acknowledged.
const BATCH_EVENTS: usize = 1000;
const BATCH_BYTES: usize = 256 * 1024;
const WINDOW_BYTES: usize = 1 << 20;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    collector: String,
    #[arg(long, default_value_t = 1)]
    agents: u64,
    /// Of all agents together
    #[arg(long, default_value_t = 100_000)]
    events: u64,
    /// First part of the nodes' names
    #[arg(long, default_value = "node")]
    name: String,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    counts: Arc<Counts>,
    event_bytes: AtomicU64,
    /// all are connected
    ready: Barrier,
}

#[tokio::main]
pub(crate) async fn run(options: Options) -> Result<()> {
    let agents = options.agents.max(1);
    let share = options.events.div_ceil(agents);
    let ready = Barrier::new(usize::try_from(agents)? + 1);
    let counts = Arc::default();
    let shared = Arc::new(Shared { options, counts, event_bytes: AtomicU64::new(0), ready });
    let mut tasks = JoinSet::new();
    for n in 0..agents {
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            let agent = agent(n, share, &shared);
            agent.await.with_context(|| format!("simulated agent {n}"))
        });
    }
    // A failure before that would leave everybody waiting.
    tokio::select! {
        biased;
        Some(ended) = tasks.join_next() => ended??,
        _ = shared.ready.wait() => {}
    }
    let (began, begun) = (Instant::now(), seconds(Moment::now()));
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let line = json!({
        "events": share * agents,
        "began": begun,
        "seconds": began.elapsed().as_secs_f64(),
        "event_bytes": shared.event_bytes.load(Ordering::Relaxed),
        "bytes_up": shared.counts.written(),
        "bytes_down": shared.counts.read(),
    });
    println!("{line}");
    Ok(())
}

async fn agent(n: u64, share: u64, shared: &Shared) -> Result<()> {
    let Shared { options, counts, event_bytes, ready } = shared;
    let node = format!("{}-{n}", options.name);
    let id = v1::EventId { cluster: "bench".to_owned(), node, epoch: n + 1, seq: 0 };
    let v1::EventId { cluster, node, epoch, .. } = id.clone();
    let hello = v1::Hello { cluster, node, epoch, ..Default::default() };
    let channel = connect(&options.collector, counts).await?;
    let mut client = Grpc::new(channel);
    client.ready().await?;
    let (reports, rx) = mpsc::channel(4);
    reports.send(Report { hello: Some(hello), events: Vec::new() }).await?;
    let path = PathAndQuery::from_static("/podtrail.v1.Ingest/Report");
    let codec = ProstCodec::<Report, v1::ReportResponse>::default();
    let mut answers =
        client.streaming(Request::new(ReceiverStream::new(rx)), path, codec).await?.into_inner();
    answers.message().await?.context("no answer to hello")?;
    ready.wait().await;

    let mut maker = Maker::new(id);
    let (mut sent, mut acked, mut unacked) = (0, 0, VecDeque::new());
    let mut unacked_bytes = 0;
    while acked < share {
        while sent < share && unacked_bytes < WINDOW_BYTES {
            let (last, events) = batch(&mut maker, share - sent);
            let bytes = events.iter().map(Bytes::len).sum::<usize>();
            sent = last;
            unacked_bytes += bytes;
            unacked.push_back((last, bytes));
            event_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            reports.send(Report { hello: None, events }).await.context("the stream ended")?;
        }
        acked = answers.message().await?.context("the stream ended")?.acked_seq;
        while let Some((_, bytes)) = unacked.pop_front_if(|(last, _)| *last <= acked) {
            unacked_bytes -= bytes;
        }
    }
    Ok(())
}

/// As many as one report takes, and the number of the last.
fn batch(maker: &mut Maker, most: u64) -> (u64, Vec<Bytes>) {
    let most = usize::try_from(most).unwrap_or(usize::MAX).min(BATCH_EVENTS);
    let (mut events, mut bytes, mut last) = (Vec::with_capacity(most), 0, 0);
    let now = Moment::now();
    while events.len() < most && bytes < BATCH_BYTES {
        let (seq, event) = maker.next(now);
        bytes += event.len();
        last = seq;
        events.push(event);
    }
    (last, events)
}

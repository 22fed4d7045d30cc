//! Subscribers that acknowledge every response, and time what comes.

use std::{
    io::Read as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use podtrail::trail::{MAX_MESSAGE_BYTES, Moment};
use podtrail_proto::v1::{
    self, subscribe_open::From, subscribe_request::Request as Asked, trail_client::TrailClient,
};
use prost::Message as _;
use serde_json::json;
use tokio::{sync::mpsc, task::JoinSet, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, client::Grpc, codec::CompressionEncoding, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;

use super::{
    float, seconds,
    wire::{Counts, Response, Timed, connect},
};

/// How often it is looked how far the log has come.
const LOOK_EVERY: Duration = Duration::from_millis(5);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    collector: String,
    #[arg(long, default_value_t = 1)]
    readers: usize,
    /// First part of the subscriptions' names
    #[arg(long, default_value = "bench")]
    name: String,
    /// Go on where the subscriptions were; else from what is latest
    #[arg(long)]
    resume: bool,
    /// Each ends after so many events; without it, when the container's session has ended
    #[arg(long, required_unless_present = "container")]
    events: Option<u64>,
    /// Time the events of this container, and how far the log has come
    #[arg(long)]
    container: Option<String>,
    /// The node of that container
    #[arg(long, requires = "container")]
    node: Option<String>,
    /// Decode every event in full, as a program would that uses it
    #[arg(long)]
    decode: bool,
    /// Ask for responses that are compressed
    #[arg(long)]
    zstd: bool,
}

/// What one reader saw.
#[derive(Debug, Default)]
struct Seen {
    events: u64,
    bytes: u64,
    /// of the container's events: when the first happened, and when the last came
    first: Option<Moment>,
    last: Option<Moment>,
    /// from a command's exec to its receipt, in nanoseconds
    latencies: Vec<u64>,
}

/// How far the log has come, and when that was seen.
type Logged = Arc<Mutex<Option<(u64, Moment)>>>;

#[tokio::main]
pub(crate) async fn run(options: &Options) -> Result<()> {
    let counts = Arc::<Counts>::default();
    let (opened, mut all_opened) = mpsc::channel(options.readers.max(1));
    let mut tasks = JoinSet::new();
    for n in 0..options.readers {
        let (options, counts, opened) = (options.clone(), Arc::clone(&counts), opened.clone());
        tasks.spawn(async move {
            let reader = reader(n, &options, &counts, opened);
            reader.await.with_context(|| format!("subscriber {n}"))
        });
    }
    drop(opened);
    for _ in 0..options.readers {
        if all_opened.recv().await.is_none() {
            while let Some(ended) = tasks.join_next().await {
                ended??;
            }
            bail!("a subscriber ended before it began");
        }
    }
    let logged = Logged::default();
    let before = match &options.node {
        Some(node) => watch_log(options, node, &counts, &logged).await?,
        None => 0,
    };
    // Whoever started this goes on now, and closes the input to end it early.
    println!("{}", json!({ "ready": true }));
    let began = Instant::now();
    std::thread::spawn(|| {
        _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
    let mut all = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        all.push(ended??);
    }
    let (took, ended) = (began.elapsed().as_secs_f64(), seconds(Moment::now()));
    let mut latencies: Vec<u64> = all.iter().flat_map(|seen| &seen.latencies).copied().collect();
    latencies.sort_unstable();
    let span = |from: Option<Moment>, to: Option<Moment>| Some(to?.since(from?).as_secs_f64());
    let first = all.iter().filter_map(|seen| seen.first).min();
    let last = all.iter().filter_map(|seen| seen.last).max();
    let logged = *logged.lock().unwrap_or_else(PoisonError::into_inner);
    let line = json!({
        "events": all.iter().map(|seen| seen.events).sum::<u64>(),
        "event_bytes": all.iter().map(|seen| seen.bytes).sum::<u64>(),
        "seconds": took,
        "ended": ended,
        "span_seconds": span(first, last),
        "logged_events": logged.map(|(seq, _)| seq - before),
        "logged_seconds": span(first, logged.map(|(_, at)| at)),
        "timed": latencies.len(),
        "p50_us": percentile(&latencies, 500),
        "p99_us": percentile(&latencies, 990),
        "p999_us": percentile(&latencies, 999),
        "most_us": percentile(&latencies, 1000),
        "bytes_down": counts.read(),
        "bytes_up": counts.written(),
    });
    println!("{line}");
    Ok(())
}

/// The least that so many in a thousand do not exceed, in microseconds.
fn percentile(sorted: &[u64], permille: usize) -> Option<f64> {
    let at = (sorted.len() * permille).div_ceil(1000).checked_sub(1)?;
    Some(float(*sorted.get(at)?) / 1e3)
}

/// Looks again and again; returns how far the log had come before.
async fn watch_log(options: &Options, node: &str, counts: &Arc<Counts>, logged: &Logged) -> Result<u64> {
    let mut trail = TrailClient::new(connect(&options.collector, counts).await?);
    let before = last_seq(&mut trail, node).await?;
    let (node, logged) = (node.to_owned(), Arc::clone(logged));
    tokio::spawn(async move {
        let mut newest = before;
        loop {
            // The readers notice when the collector is gone.
            let Ok(seq) = last_seq(&mut trail, &node).await else { return };
            if seq > newest {
                newest = seq;
                *logged.lock().unwrap_or_else(PoisonError::into_inner) = Some((seq, Moment::now()));
            }
            sleep(LOOK_EVERY).await;
        }
    });
    Ok(before)
}

async fn last_seq(trail: &mut TrailClient<tonic::transport::Channel>, node: &str) -> Result<u64> {
    let nodes = trail.list_nodes(v1::ListNodesRequest {}).await?.into_inner().nodes;
    let node =
        nodes.iter().find(|known| known.name == node).context("the collector does not know the node")?;
    Ok(node.last_seq)
}

async fn reader(n: usize, options: &Options, counts: &Arc<Counts>, opened: mpsc::Sender<()>) -> Result<Seen> {
    let channel = connect(&options.collector, counts).await?;
    let mut client = Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    if options.zstd {
        client = client.accept_compressed(CompressionEncoding::Zstd);
    }
    client.ready().await?;
    let (requests, rx) = mpsc::channel(16);
    let open = v1::SubscribeOpen {
        name: format!("{}-{n}", options.name),
        from: Some(if options.resume { From::Resume(true) } else { From::Latest(true) }),
        ..Default::default()
    };
    requests.send(v1::SubscribeRequest { request: Some(Asked::Open(open)) }).await?;
    let path = PathAndQuery::from_static("/podtrail.v1.Trail/Subscribe");
    let codec = ProstCodec::<v1::SubscribeRequest, Response>::default();
    let mut responses =
        client.streaming(Request::new(ReceiverStream::new(rx)), path, codec).await?.into_inner();
    responses.message().await?.context("the stream ended")?;
    opened.send(()).await?;
    drop(opened);

    let mut seen = Seen::default();
    let mut ended = options.events == Some(0);
    while !ended {
        let Response { events } = responses.message().await?.context("the stream ended")?;
        let Some(mut events) = events else { continue };
        let now = Moment::now();
        for event in &events.events {
            seen.events += 1;
            seen.bytes += event.len() as u64;
            if let Some(container) = &options.container {
                ended |= time(&mut seen, &Timed::decode(event.clone())?, container, now);
            }
            if options.decode {
                v1::Event::decode(event.clone())?;
            }
        }
        let cursor = events.cursors.pop().context("events without cursors")?;
        let ack = Asked::Ack(v1::SubscribeAck { cursor });
        requests.send(v1::SubscribeRequest { request: Some(ack) }).await?;
        ended |= options.events.is_some_and(|wanted| seen.events >= wanted);
    }
    Ok(seen)
}

/// Returns whether the container's session has ended with it.
fn time(seen: &mut Seen, event: &Timed, container: &str, now: Moment) -> bool {
    if event.container.as_ref().is_none_or(|known| known.id != container) {
        return false;
    }
    if let Some(time) = &event.time {
        let time = Moment::from_timestamp(time);
        seen.first.get_or_insert(time);
        seen.last = Some(now);
        if event.executed.is_some() {
            seen.latencies.push(u64::try_from(now.since(time).as_nanos()).unwrap_or(u64::MAX));
        }
    }
    event.ended.is_some()
}

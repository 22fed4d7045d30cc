//! Measures how fast one subscriber on this machine gets what the log holds, and what is being written to it.
//!
//! `cargo run --release --example subscribe_rate -- [EVENTS]`

use std::{
    env,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use podtrail::{
    collector::{
        log::DiskLog,
        subscribe::{Settings, Subscriptions, calls::Calls, store::DiskStore},
    },
    trail::{Indexed, MAX_MESSAGE_BYTES, Moment, log::Limits, service::Service, viewer::Viewer},
};
use podtrail_proto::v1::{
    self, event::Body, subscribe_open::From, subscribe_request::Request, subscribe_response::Response,
    trail_client::TrailClient,
};
use prost::Message as _;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Server, server::TcpIncoming};

const BATCH: u64 = 2000;
const ROUNDS: usize = 3;

/// A command, with what the agent says of one.
fn event(seq: u64) -> v1::Event {
    let process = v1::Process {
        pid: 4242,
        start_time: seq,
        parent_pid: 4241,
        parent_start_time: 7,
        comm: "grep".to_owned(),
    };
    let executed = v1::Executed {
        process: Some(process),
        path: "/usr/bin/grep".to_owned(),
        argv: ["grep", "-rn", "password", "/etc"].map(str::to_owned).to_vec(),
        argv_bytes: Some(28),
        truncated: Some(false),
        cwd: "/var/www/html".to_owned(),
        credentials: Some(v1::Credentials { uid: Some(0), gid: Some(0), ..Default::default() }),
        root: Some(false),
        ..Default::default()
    };
    v1::Event {
        id: Some(v1::EventId { cluster: "c".to_owned(), node: "node-1".to_owned(), epoch: 1, seq }),
        time: Some(Moment::now().timestamp()),
        boottime_ns: seq,
        session_id: "4k7qabcdefgh0123".to_owned(),
        attribution: None,
        container: Some(v1::Container {
            id: "c0ffee".repeat(10),
            runtime: "containerd".to_owned(),
            name: "app".to_owned(),
            pod: Some(v1::Pod {
                namespace: "prod".to_owned(),
                name: "payments-0".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        body: Some(Body::Executed(executed)),
    }
}

/// Appends so many, and returns the time it took.
fn append(indexed: &Indexed<DiskLog>, from: u64, to: u64) -> Result<Duration> {
    let began = Instant::now();
    let mut next = from;
    while next <= to {
        let last = to.min(next + BATCH - 1);
        indexed.append((next..=last).map(|seq| Arc::new(event(seq))).collect())?;
        next = last + 1;
    }
    Ok(began.elapsed())
}

/// Reads up to the event with this number, acknowledging every response; returns the time.
async fn read(trail: &mut TrailClient<Channel>, name: &str, from: From, last: u64) -> Result<Duration> {
    let (requests, rx) = mpsc::channel(16);
    let open = v1::SubscribeOpen { name: name.to_owned(), from: Some(from), ..Default::default() };
    requests.send(v1::SubscribeRequest { request: Some(Request::Open(open)) }).await?;
    let mut responses = trail.subscribe(ReceiverStream::new(rx)).await?.into_inner();
    let began = Instant::now();
    while let Some(v1::SubscribeResponse { response }) = responses.message().await? {
        let Some(Response::Events(v1::SubscribeEvents { events, mut cursors })) = response else { continue };
        let seq = events.last().and_then(|e| e.id.as_ref()).map_or(0, |id| id.seq);
        let cursor = cursors.pop().context("events without cursors")?;
        requests
            .send(v1::SubscribeRequest { request: Some(Request::Ack(v1::SubscribeAck { cursor })) })
            .await?;
        if seq >= last {
            return Ok(began.elapsed());
        }
    }
    bail!("the stream ended")
}

#[tokio::main]
async fn main() -> Result<()> {
    let count: u64 = env::args().nth(1).map_or(Ok(1_000_000), |n| n.parse())?;
    let dir = tempfile::tempdir()?;
    let indexed = Arc::new(Indexed::open(Arc::new(DiskLog::open(dir.path())?))?);
    let stop = CancellationToken::new();
    let store = Box::new(DiskStore::new(indexed.log().clone()));
    let log = indexed.log().clone();
    let subscriptions = Subscriptions::load(log, store, Settings::default(), Moment::clock(), stop.clone())?;
    tokio::spawn(subscriptions.clone().run());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let limits = Limits { max_age: Duration::MAX, max_bytes: u64::MAX };
    let service = Service::new(indexed.clone(), limits, stop, Viewer::everything("bench"))
        .with_subscriptions(Arc::new(Calls::new(subscriptions)))
        .into_server();
    let server = Server::builder()
        .initial_stream_window_size(Some(1 << 20))
        .initial_connection_window_size(Some(4 << 20))
        .add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let channel = Channel::from_shared(format!("http://{address}"))?
        .initial_stream_window_size(Some(1 << 20))
        .initial_connection_window_size(Some(4 << 20))
        .connect()
        .await?;
    let mut trail = TrailClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);

    println!("events of {} bytes, {count} of them", event(1).encoded_len());
    let wrote = append(&indexed, 1, count)?;
    println!("written     {:>9.0} events/s", rate(count, wrote));
    for _ in 0..ROUNDS {
        let took = read(&mut trail, "past", From::Oldest(true), count).await?;
        println!("catching up {:>9.0} events/s", rate(count, took));
    }
    for round in 1..=ROUNDS as u64 {
        let (from, to) = (round * count + 1, (round + 1) * count);
        let writing = indexed.clone();
        let newest = trail.list_nodes(v1::ListNodesRequest {}).await?.into_inner().retention;
        let newest = From::Cursor(newest.context("no retention")?.newest_cursor);
        let writer = tokio::task::spawn_blocking(move || append(&writing, from, to));
        let took = read(&mut trail, "present", newest, to).await?;
        let wrote = writer.await??;
        println!("keeping up  {:>9.0} events/s, written at {:.0}", rate(count, took), rate(count, wrote));
    }
    Ok(())
}

fn rate(events: u64, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let events = events as f64;
    events / took.as_secs_f64()
}

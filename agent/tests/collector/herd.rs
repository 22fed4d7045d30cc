//! Many agents that come back in the same moment.

use std::{collections::BTreeMap, future};

use futures::{StreamExt as _, stream};
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::*;

const AGENTS: usize = 1000;
const EVENTS: u64 = 200;
/// Twenty in a request, as after a cut: several requests each.
const BATCH: usize = 20;
/// Resident, at its highest: what docs/collector.md says.
const MEMORY_KIB: u64 = 400 * 1024;
/// Longer than any window.
const LARGE: usize = 512 * 1024;

fn many_files() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
}

/// Resident memory at its highest, in KiB.
fn highest(collector: &Collector) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", collector.child.id())).unwrap();
    let high = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    high.trim().trim_end_matches(" kB").parse().unwrap()
}

async fn agent(collector: Arc<Collector>, n: usize, begin: Arc<tokio::sync::Barrier>) -> Duration {
    let node = format!("n{n}");
    let events: Vec<_> = (1..=EVENTS).map(|seq| event(&node, 1, seq)).collect();
    begin.wait().await;
    let began = Instant::now();
    let mut agent = Agent::connect(&collector).await;
    let mut acked = agent.send(Some(hello(&node, 1)), vec![]).await.unwrap();
    assert_eq!(acked, 0);
    for batch in events.chunks(BATCH) {
        let request = v1::ReportRequest { events: batch.to_vec(), ..Default::default() };
        agent.requests.send(request).await.unwrap();
    }
    while acked < EVENTS {
        let response =
            timeout(4 * SOON, agent.responses.message()).await.expect("it starves").unwrap().unwrap();
        assert_eq!(response.missing, []);
        acked = response.acked_seq;
    }
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_agents_at_once_are_taken_in_within_bounded_memory() {
    many_files();
    let dir = tempfile::tempdir().unwrap();
    let mut command = command(dir.path());
    command.args(["--streams-per-peer", "2000"]);
    let collector = Arc::new(start_with(command));
    let begin = Arc::new(tokio::sync::Barrier::new(AGENTS));
    let agents: Vec<_> =
        (0..AGENTS).map(|n| tokio::spawn(agent(collector.clone(), n, begin.clone()))).collect();
    let mut took = Vec::new();
    for agent in agents {
        took.push(agent.await.unwrap());
    }
    took.sort();
    let high = highest(&collector);
    println!("{AGENTS} agents: first done {:?}, last {:?}, {} MiB", took[0], took[AGENTS - 1], high / 1024);
    assert!(high < MEMORY_KIB, "{high} KiB");

    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for (_, event) in collector.events().await {
        let id = event.id.unwrap();
        let last = last.entry(id.node).or_default();
        assert_eq!(id.seq, *last + 1, "once, and in order");
        *last = id.seq;
    }
    assert_eq!(last.len(), AGENTS);
    assert!(last.values().all(|last| *last == EVENTS));
}

async fn large(collector: Arc<Collector>, n: usize, begin: Arc<tokio::sync::Barrier>) {
    let node = format!("n{n}");
    let executed = v1::Executed { path: "p".repeat(LARGE), ..v1::Executed::default() };
    let event = v1::Event { body: Some(Body::Executed(executed)), ..event(&node, 1, 1) };
    let mut agent = Agent::connect(&collector).await;
    begin.wait().await;
    let request = v1::ReportRequest { hello: Some(hello(&node, 1)), events: vec![event], gone: Vec::new() };
    agent.requests.send(request).await.unwrap();
    let response = timeout(6 * SOON, agent.responses.message()).await.expect("it starves").unwrap().unwrap();
    assert_eq!(response.acked_seq, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_large_requests_at_once_are_taken_in_within_bounded_memory() {
    many_files();
    let dir = tempfile::tempdir().unwrap();
    let collector = Arc::new(start(dir.path()));
    let begin = Arc::new(tokio::sync::Barrier::new(AGENTS));
    let agents: Vec<_> =
        (0..AGENTS).map(|n| tokio::spawn(large(collector.clone(), n, begin.clone()))).collect();
    for agent in agents {
        agent.await.unwrap();
    }
    let high = highest(&collector);
    println!("{AGENTS} requests of {} KiB: {} MiB", LARGE / 1024, high / 1024);
    assert!(high < MEMORY_KIB, "{high} KiB");
    assert_eq!(collector.metric("podtrail_collector_events_total"), 1000.0);
}

/// Nothing, as often as 256 KiB of the wire have room for it: what it becomes is many times that.
fn worst(shape: &str, node: &str) -> v1::Event {
    const BYTES: usize = 256 * 1024;
    let texts = || vec![String::new(); BYTES / 2];
    let body = match shape {
        "arguments" => Body::Executed(v1::Executed { argv: texts(), ..v1::Executed::default() }),
        "exact arguments" => {
            let argv_raw = vec![Bytes::new(); BYTES / 2];
            Body::Executed(v1::Executed { argv_raw, ..v1::Executed::default() })
        }
        "findings" => {
            let findings = vec![v1::Finding::default(); BYTES / 2];
            Body::AgentState(v1::AgentState { findings, ..v1::AgentState::default() })
        }
        "sessions of a gap" => Body::Gap(v1::Gap { session_ids: texts(), ..v1::Gap::default() }),
        "labels" => {
            let labels = (0..BYTES / 11).map(|n| (format!("{n:x}"), "x".to_owned())).collect();
            let pod = v1::Pod { labels, ..v1::Pod::default() };
            let container = v1::Container { pod: Some(pod), ..v1::Container::default() };
            return v1::Event { container: Some(container), ..event(node, 1, 1) };
        }
        shape => panic!("{shape}"),
    };
    v1::Event { body: Some(body), ..event(node, 1, 1) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_requests_become_by_decoding_is_within_bounded_memory() {
    // Without a bound: 28 MiB and more each.
    const AGENTS: usize = 24;
    many_files();
    for shape in ["arguments", "exact arguments", "findings", "sessions of a gap", "labels"] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = command(dir.path());
        command.args(["--streams-per-peer", "2000"]);
        let collector = Arc::new(start_with(command));
        let begin = Arc::new(tokio::sync::Barrier::new(AGENTS));
        let agents: Vec<_> = (0..AGENTS)
            .map(|n| {
                let (collector, begin) = (collector.clone(), begin.clone());
                tokio::spawn(async move {
                    let node = format!("n{n}");
                    let request = v1::ReportRequest {
                        hello: Some(hello(&node, 1)),
                        events: vec![worst(shape, &node)],
                        gone: Vec::new(),
                    };
                    begin.wait().await;
                    let mut agent = Agent::connect(&collector).await;
                    agent.requests.send(request).await.unwrap();
                    let response = timeout(6 * SOON, agent.responses.message()).await.expect("it starves");
                    assert_eq!(response.unwrap().unwrap().acked_seq, 1);
                })
            })
            .collect();
        for agent in agents {
            agent.await.unwrap();
        }
        let high = highest(&collector);
        println!("{AGENTS} requests of 256 KiB of empty {shape}: {} MiB", high / 1024);
        assert!(high < MEMORY_KIB, "{shape}: {high} KiB");
        assert_eq!(collector.metric("podtrail_collector_ingest_bytes"), 0.0);
    }
}

#[tokio::test]
async fn what_becomes_too_much_by_decoding_is_refused_unread_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let collector = start(dir.path());
    let mut agent = Agent::connect(&collector).await;
    let executed = v1::Executed { argv: vec![String::new(); 1 << 20], ..v1::Executed::default() };
    let huge = v1::Event { body: Some(Body::Executed(executed)), ..event("n", 1, 1) };
    let request = v1::ReportRequest { hello: Some(hello("n", 1)), events: vec![huge], gone: Vec::new() };
    agent.requests.send(request).await.unwrap();
    let error = timeout(SOON, agent.responses.message()).await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange, "{error}");
    assert!(error.message().contains("too large: a request of 2097"), "{error}");
    assert_eq!(collector.metric("podtrail_collector_refused_total{reason=\"message_too_long\"}"), 1.0);
    let high = highest(&collector);
    assert!(high < MEMORY_KIB / 4, "{high} KiB");
}

/// Promises a request of that length, sends the half of it, and no more.
async fn stall(collector: &Collector, length: usize) {
    use tower::ServiceExt as _;
    let header = [&[0][..], &u32::try_from(length).unwrap().to_be_bytes()].concat();
    let chunks = std::iter::once(Bytes::from(header))
        .chain(std::iter::repeat_n(Bytes::from(vec![0; 16 * 1024]), length / 2 / (16 * 1024)));
    let frames = stream::iter(chunks).map(|chunk| Ok::<_, Status>(Frame::data(chunk)));
    let body = StreamBody::new(frames.chain(stream::pending()));
    let request =
        tonic::codegen::http::Request::post(format!("http://{}/podtrail.v1.Ingest/Report", collector.grpc))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(tonic::body::Body::new(body))
            .unwrap();
    let channel = collector.channel().await;
    let _answer = channel.oneshot(request).await.unwrap();
    future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_begun_and_not_ended_hold_up_nobody() {
    many_files();
    let dir = tempfile::tempdir().unwrap();
    let collector = Arc::new(start(dir.path()));
    let mut agent = Agent::connect(&collector).await;
    assert_eq!(agent.send(Some(hello("n", 1)), vec![event("n", 1, 1)]).await.unwrap(), 1);
    let stalled: Vec<_> = (0..200)
        .map(|_| {
            let collector = collector.clone();
            tokio::spawn(async move { stall(&collector, 16 << 20).await })
        })
        .collect();
    // What has room is read; and then nothing more.
    let until = Instant::now() + SOON;
    while collector.metric("podtrail_collector_ingest_bytes") < f64::from(16 << 20) {
        assert!(Instant::now() < until, "they take no room");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for seq in 2..=20 {
        assert_eq!(agent.send(None, vec![event("n", 1, seq)]).await.unwrap(), seq);
    }
    let high = highest(&collector);
    println!("200 requests of 16 MiB, half of each sent: {} MiB", high / 1024);
    assert!(high < MEMORY_KIB / 2, "{high} KiB");
    stalled.iter().for_each(tokio::task::JoinHandle::abort);
}

//! Many agents that come back in the same moment.

use std::collections::BTreeMap;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::*;

const AGENTS: usize = 1000;
const EVENTS: u64 = 200;
/// Twenty in a request, as after a cut: several requests each.
const BATCH: usize = 20;
/// Resident, at its highest.
const MEMORY_KIB: u64 = 400 * 1024;

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
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
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
    let status = fs::read_to_string(format!("/proc/{}/status", collector.child.id())).unwrap();
    let high = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let high: u64 = high.trim().trim_end_matches(" kB").parse().unwrap();
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

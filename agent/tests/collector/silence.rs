//! Nodes that fall silent, come back, stop.

use podtrail_proto::v1::{self, agent_state::Phase, event::Body};

use super::*;

fn listening(data: &Path, silent_after: &str) -> Collector {
    let mut command = command(data);
    command.args(["--silent-soon", "--silent-after", silent_after]);
    start_with(command)
}

/// What the collector says of nodes: which, and what, and how long before the collector's own time.
async fn told(collector: &Collector) -> Vec<(String, Phase, bool)> {
    let events = collector.events().await;
    let told = events.iter().filter_map(|(_, event)| {
        let id = event.id.as_ref()?;
        let Some(Body::AgentState(state)) = &event.body else { return None };
        (id.seq == 0).then(|| {
            assert_eq!((id.cluster.as_str(), id.epoch), ("c", 0));
            let (since, now) = (state.since.unwrap(), event.time.unwrap());
            let before = (since.seconds, since.nanos) < (now.seconds, now.nanos);
            (id.node.clone(), state.phase(), before)
        })
    });
    told.collect()
}

async fn wait_for(collector: &Collector, wanted: &[(&str, Phase)]) {
    let wanted: Vec<_> = wanted.iter().map(|(node, phase)| ((*node).to_owned(), *phase, true)).collect();
    let until = Instant::now() + SOON;
    loop {
        let mut now = told(collector).await;
        now.sort_by_key(|(node, phase, _)| (node.clone(), *phase as i32));
        if now == wanted {
            return;
        }
        assert!(Instant::now() < until, "{now:?}, and not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn silent(collector: &Collector) -> Vec<(String, bool)> {
    let nodes = collector.trail().await.list_nodes(v1::ListNodesRequest {}).await.unwrap().into_inner();
    nodes.nodes.into_iter().map(|node| (node.name, node.silent_since.is_some())).collect()
}

fn stopped(node: &str, seq: u64) -> v1::Event {
    let state = v1::AgentState { phase: Some(Phase::Stopped.into()), ..Default::default() };
    v1::Event { body: Some(Body::AgentState(state)), session_id: String::new(), ..event(node, 1, seq) }
}

#[tokio::test]
async fn a_node_that_falls_silent_is_told_once_and_so_is_its_return() {
    let dir = tempfile::tempdir().unwrap();
    let collector = listening(dir.path(), "1s");
    let mut a = Agent::connect(&collector).await;
    let mut b = Agent::connect(&collector).await;
    a.send(Some(hello("a", 1)), vec![event("a", 1, 1)]).await.unwrap();
    b.send(Some(hello("b", 1)), vec![event("b", 1, 1), stopped("b", 2)]).await.unwrap();
    // It is connected all the time, and says nothing; the other has said that it stops.
    wait_for(&collector, &[("a", Phase::Silent)]).await;
    assert_eq!(silent(&collector).await, [("a".to_owned(), true), ("b".to_owned(), false)]);
    // A request without anything is a sign of life.
    a.send(None, vec![]).await.unwrap();
    wait_for(&collector, &[("a", Phase::Silent), ("a", Phase::Returned)]).await;
    assert_eq!(silent(&collector).await, [("a".to_owned(), false), ("b".to_owned(), false)]);
    let nodes = collector.trail().await.list_nodes(v1::ListNodesRequest {}).await.unwrap().into_inner();
    assert_eq!((nodes.nodes[0].epoch, nodes.nodes[0].last_seq), (1, 1));
    assert_eq!(nodes.nodes[1].agent.as_ref().unwrap().phase(), Phase::Stopped);
}

#[tokio::test]
async fn what_was_told_before_a_restart_is_not_told_again() {
    let dir = tempfile::tempdir().unwrap();
    let collector = listening(dir.path(), "1s");
    let mut a = Agent::connect(&collector).await;
    a.send(Some(hello("a", 1)), vec![event("a", 1, 1)]).await.unwrap();
    wait_for(&collector, &[("a", Phase::Silent)]).await;
    let mut b = Agent::connect(&collector).await;
    b.send(Some(hello("b", 1)), vec![event("b", 1, 1)]).await.unwrap();
    drop(collector);
    // One never comes to this collector, the other was told of.
    let collector = listening(dir.path(), "1s");
    wait_for(&collector, &[("a", Phase::Silent), ("b", Phase::Silent)]).await;
    let mut a = Agent::connect(&collector).await;
    a.send(Some(hello("a", 1)), vec![]).await.unwrap();
    wait_for(&collector, &[("a", Phase::Silent), ("a", Phase::Returned), ("b", Phase::Silent)]).await;
    drop(collector);
    let collector = listening(dir.path(), "never");
    assert_eq!(silent(&collector).await, [("a".to_owned(), false), ("b".to_owned(), true)]);
}

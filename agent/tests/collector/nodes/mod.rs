//! Nodes and Events, as an API server has them and as agents observe them, in the log of a collector that may be killed.

mod access;
mod cli;
mod far;
mod kills;
mod server;

use std::path::PathBuf;

use podtrail_proto::v1::{self, event::Body, node_condition::Change};
use serde_json::{Value, json};

use self::server::{Moods, Server};
use super::*;

/// A collector that watches that server, impatiently.
struct Place {
    dir: tempfile::TempDir,
    config: PathBuf,
}

impl Place {
    fn new(server: &Server) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = server.kubeconfig(dir.path());
        Self { dir, config }
    }

    fn start(&self) -> Collector {
        self.start_with(&[])
    }

    fn start_with(&self, flags: &[&str]) -> Collector {
        let mut command = command(&self.dir.path().join("data"));
        command.arg("--kubernetes").arg(&self.config);
        command.args(["--kubernetes-cluster", "c", "--kubernetes-soon"]).args(flags);
        start_with(command)
    }
}

/// A node with these conditions, as its detector last confirmed them.
fn node(name: &str, conditions: &[(&str, &str, i64)]) -> Value {
    let time = |seconds: i64| jiff::Timestamp::from_second(seconds).unwrap().to_string();
    let now = Moment::now().0 / 1_000_000_000;
    let condition = |(kind, status, transition): &(&str, &str, i64)| {
        json!({ "type": kind, "status": status, "reason": format!("{kind}{status}"), "message": "from a \u{1b}[31mlog",
                "lastTransitionTime": time(*transition), "lastHeartbeatTime": time(now) })
    };
    let mut all: Vec<Value> = conditions.iter().map(condition).collect();
    all.push(condition(&("Ready", "True", 1)));
    json!({ "kind": "Node", "apiVersion": "v1", "metadata": { "name": name, "uid": format!("uid-{name}") },
            "status": { "conditions": all } })
}

fn event(name: &str, about: (&str, &str, &str), message: &str, count: u64) -> Value {
    let (kind, namespace, involved) = about;
    let now = jiff::Timestamp::now().to_string();
    json!({ "metadata": { "name": name, "namespace": if namespace.is_empty() { "default" } else { namespace },
                          "uid": format!("uid-{name}"), "creationTimestamp": now },
            "involvedObject": { "kind": kind, "namespace": namespace, "name": involved },
            "reason": "Why", "message": message, "source": { "component": "kubelet", "host": "n1" },
            "firstTimestamp": now, "lastTimestamp": now, "count": count, "type": "Warning" })
}

/// What the log has of nodes and Events, each in short, in its order.
async fn told(collector: &Collector) -> Vec<String> {
    let events = collector.events().await.into_iter();
    let told = events.filter_map(|(_, event)| {
        let id = event.id.unwrap();
        let what = match event.body? {
            Body::NodeCondition(c) => format!("{} {} {}", c.r#type, c.change().as_str_name(), c.status),
            Body::NodeState(state) => {
                let all = state.conditions.iter().map(|c| format!("{}={}", c.r#type, c.status));
                format!("state {}", all.collect::<Vec<_>>().join(","))
            }
            Body::ClusterEvent(event) => {
                let involved = event.involved.unwrap();
                format!(
                    "{} {}/{}: {} ×{}",
                    involved.kind,
                    involved.namespace,
                    involved.name,
                    event.message,
                    event.count.unwrap()
                )
            }
            Body::Gap(gap) => format!("gap {} {}", gap.source().as_str_name(), gap.detail),
            _ => return None,
        };
        Some(format!("{}: {what}", id.node))
    });
    told.collect()
}

/// Waits until the log has all of these, wherever they are; answers all that it has.
async fn until(collector: &Collector, wanted: &[&str]) -> Vec<String> {
    let end = Instant::now() + SOON;
    loop {
        let now = told(collector).await;
        if wanted.iter().all(|wanted| now.iter().any(|told| told == wanted)) {
            return now;
        }
        let log = collector.log.lock().unwrap().clone();
        assert!(Instant::now() < end, "{now:#?}\nand not {wanted:#?}\n{log}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// Waits until both watches have begun.
async fn watched(server: &Server) {
    let end = Instant::now() + SOON;
    let begun = |server: &Server| {
        let asked = server.asked();
        ["watch nodes", "watch events"].iter().all(|what| asked.iter().any(|asked| asked.starts_with(what)))
    };
    while !begun(server) {
        assert!(Instant::now() < end, "{:?}", server.asked());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the metrics have this line.
async fn measured(collector: &Collector, line: &str) {
    let end = Instant::now() + SOON * 3;
    loop {
        let metrics = collector.get("/metrics");
        if metrics.lines().any(|own| own == line) {
            return;
        }
        assert!(Instant::now() < end, "{line}\n{metrics}\n{}", collector.log.lock().unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn edges(told: &[String]) -> Vec<&str> {
    told.iter().map(String::as_str).filter(|told| !told.contains(": state ")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_and_events_come_into_the_log() {
    let server = Server::start().await;
    server.put("nodes", node("n1", &[("KernelDeadlock", "False", 10), ("FDPressure", "False", 10)]));
    server.put("nodes", node("n2", &[("KernelDeadlock", "True", 20)]));
    server.put("events", event("e1", ("Pod", "prod", "payments-0"), "Back-off\u{1b}", 1));
    let place = Place::new(&server);
    let collector = place.start();
    let now = until(&collector, &[": Pod prod/payments-0: Back-off\u{1b} ×1"]).await;
    assert_eq!(
        now,
        [
            "n1: state FDPressure=False,KernelDeadlock=False",
            "n2: KernelDeadlock FIRST True",
            "n2: state KernelDeadlock=True",
            ": Pod prod/payments-0: Back-off\u{1b} ×1",
        ]
    );
    assert_eq!(server.tokens(), ["Bearer a-token"]);
    server.put("nodes", node("n1", &[("KernelDeadlock", "True", 30), ("FDPressure", "False", 10)]));
    server.put("events", event("e2", ("Node", "", "n1"), "hung", 1));
    server.put("events", event("e2", ("Node", "", "n1"), "hung", 2));
    server.delete("nodes", "n2");
    server.delete("events", "e1");
    let wanted = [
        "n1: KernelDeadlock BECAME True",
        "n1: Node /n1: hung ×1",
        "n1: Node /n1: hung ×2",
        "n2: KernelDeadlock GONE True",
        "n2: state ",
    ];
    let now = until(&collector, &wanted).await;
    assert_eq!(now.len(), 9, "{now:#?}");
    // And over a restart none of it again, but what is new.
    drop(collector);
    server.put("nodes", node("n1", &[("KernelDeadlock", "False", 40), ("FDPressure", "Unknown", 40)]));
    let collector = place.start();
    let now = until(&collector, &["n1: KernelDeadlock RESET False", "n1: FDPressure BECAME Unknown"]).await;
    assert_eq!(now.len(), 11, "{now:#?}");
    let nodes = collector.trail().await.list_nodes(v1::ListNodesRequest {}).await.unwrap().into_inner().nodes;
    let n1 = nodes.iter().find(|node| node.name == "n1").unwrap();
    let conditions: Vec<_> =
        n1.conditions.iter().map(|c| (c.r#type.as_str(), c.status.as_str(), c.reason.as_str())).collect();
    assert_eq!(
        conditions,
        [("FDPressure", "Unknown", "FDPressureUnknown"), ("KernelDeadlock", "False", "KernelDeadlockFalse")]
    );
    for line in [
        "podtrail_collector_nodes 1",
        "podtrail_collector_node_conditions{state=\"unknown\"} 1",
        "podtrail_collector_watch_connected{resource=\"nodes\"} 1",
    ] {
        measured(&collector, line).await;
    }
    let lists = server.asked().iter().filter(|asked| asked.starts_with("list")).count();
    assert_eq!(lists, 2, "it went on where it was: {:?}", server.asked());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_silent_of_whom_no_agent_was_heard() {
    let server = Server::start().await;
    server.put("nodes", node("n1", &[("X", "True", 10)]));
    let place = Place::new(&server);
    let collector = place.start_with(&["--silent-soon", "--silent-after", "300ms"]);
    until(&collector, &["n1: X FIRST True"]).await;
    drop(collector);
    let collector = place.start_with(&["--silent-soon", "--silent-after", "300ms"]);
    let mut agent = Agent::connect(&collector).await;
    agent.send(Some(hello("n2", 1)), vec![super::event("n2", 1, 1)]).await.unwrap();
    drop(agent);
    let end = Instant::now() + SOON;
    loop {
        let events = collector.events().await;
        let silent: Vec<_> =
            events.iter().filter(|(_, e)| matches!(e.body, Some(Body::AgentState(_)))).collect();
        if let [(_, event)] = &silent[..] {
            assert_eq!(event.id.as_ref().unwrap().node, "n2");
            break;
        }
        assert!(silent.is_empty() && Instant::now() < end, "{silent:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_api_server_refuses_is_said_and_asked_again() {
    let server = Server::start().await;
    server.put("nodes", node("n1", &[("X", "True", 10)]));
    server.set(Moods { refuses: Some(403), ..Moods::default() });
    let place = Place::new(&server);
    let collector = place.start();
    let end = Instant::now() + SOON;
    let wanted = "nodes: ready, but nodes are not watched: it says 403: nodes is forbidden\\x1b[2J; the collector needs get, list and watch of nodes and events: see docs/nodes.md";
    loop {
        let ready = collector.get("/readyz");
        if ready.contains(wanted) {
            assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
            break;
        }
        assert!(Instant::now() < end, "{ready}\n{}", collector.log.lock().unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!collector.log.lock().unwrap().contains('\u{1b}'));
    assert!(
        collector.metric("podtrail_collector_watch_errors_total{resource=\"nodes\",reason=\"forbidden\"}")
            >= 1.0
    );
    server.set(Moods::default());
    until(&collector, &["n1: X FIRST True"]).await;
    // The watch begins after the list.
    while !collector.get("/readyz").contains("nodes: ready\n") {
        assert!(Instant::now() < end + SOON, "{}", collector.get("/readyz"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_object_that_cannot_be_read_hides_no_other() {
    let server = Server::start().await;
    server.put("nodes", node("n1", &[("X", "False", 10)]));
    server.put("nodes", json!({ "metadata": { "name": "n2" }, "status": 7 }));
    let place = Place::new(&server);
    let collector = place.start();
    watched(&server).await;
    server.put_raw("events", "{\"metadata\":7}");
    server.put("events", event("e1", ("Pod", "a", "b"), "after it", 1));
    let now = until(&collector, &[": Pod a/b: after it ×1"]).await;
    let gaps: Vec<&String> = now.iter().filter(|told| told.contains("gap")).collect();
    assert_eq!(gaps.len(), 2, "{now:#?}");
    assert!(
        gaps[0]
            .starts_with(": gap KUBERNETES nodes that cannot be read: it is not what the API says it is: "),
        "{now:#?}"
    );
    assert!(
        gaps[1]
            .starts_with(": gap KUBERNETES events that cannot be read: it is not what the API says it is: "),
        "{now:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_confirms_is_stale_until_somebody_does() {
    let server = Server::start().await;
    // Its clock is ahead: it is not old when it is first seen, however long that takes.
    let beats = |seconds: i64| {
        let at = jiff::Timestamp::now().as_second() + 3600 + seconds;
        let mut node = node("n1", &[("X", "False", 10)]);
        node["status"]["conditions"][0]["lastHeartbeatTime"] =
            json!(jiff::Timestamp::from_second(at).unwrap().to_string());
        node
    };
    server.put("nodes", beats(0));
    let place = Place::new(&server);
    let collector = place.start_with(&["--node-stale-after", "2s", "--node-state-every", "3s"]);
    until(&collector, &["n1: state X=False"]).await;
    until(&collector, &["n1: X STALE False"]).await;
    server.put("nodes", beats(100));
    let now = until(&collector, &["n1: X FRESH False"]).await;
    // And stale again, if this took long.
    assert_eq!(edges(&now)[..2], ["n1: X STALE False", "n1: X FRESH False"]);
    // The state is said again and again meanwhile.
    let end = Instant::now() + SOON;
    while told(&collector).await.iter().filter(|told| told.starts_with("n1: state ")).count() < 3 {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What an agent was told by the detector of its node.
fn observed(node: &str, seq: u64, status: &str, transition: i64) -> v1::Event {
    let condition = v1::NodeCondition {
        r#type: "X".to_owned(),
        status: status.to_owned(),
        transition: Some(podtrail_proto::Timestamp { seconds: transition, nanos: 815_244_038 }),
        ..v1::NodeCondition::default()
    };
    let observed = v1::NodeObserved {
        conditions: vec![condition],
        has_conditions: Some(true),
        has_problems: Some(false),
        ..v1::NodeObserved::default()
    };
    v1::Event {
        body: Some(Body::NodeObserved(observed)),
        session_id: String::new(),
        ..super::event(node, 1, seq)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_sources_tell_is_told_once() {
    let server = Server::start().await;
    server.put("nodes", node("n1", &[("X", "False", 10)]));
    let place = Place::new(&server);
    let collector = place.start();
    until(&collector, &["n1: state X=False"]).await;
    let mut agent = Agent::connect(&collector).await;
    agent
        .send(Some(hello("n1", 1)), vec![observed("n1", 1, "False", 10), observed("n1", 2, "True", 20)])
        .await
        .unwrap();
    until(&collector, &["n1: X BECAME True"]).await;
    // The API server has it later, and then has something that the agent has not yet.
    server.put("nodes", node("n1", &[("X", "True", 20)]));
    server.put("nodes", node("n1", &[("X", "Unknown", 30)]));
    until(&collector, &["n1: X BECAME Unknown"]).await;
    agent.send(None, vec![observed("n1", 3, "Unknown", 30), observed("n1", 4, "False", 40)]).await.unwrap();
    let now = until(&collector, &["n1: X RECOVERED False"]).await;
    assert_eq!(edges(&now), ["n1: X BECAME True", "n1: X BECAME Unknown", "n1: X RECOVERED False"]);
    drop(collector);
    let collector = place.start();
    server.put("nodes", node("n1", &[("X", "False", 40)]));
    server.put("nodes", node("n1", &[("X", "True", 50)]));
    let now = until(&collector, &["n1: state X=False"]).await;
    let _ = now;
    let end = Instant::now() + SOON;
    while edges(&told(&collector).await).len() < 4 {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(edges(&told(&collector).await)[3..], ["n1: X BECAME True"]);
    // An agent says what it was told, and no more.
    let mut agent = Agent::connect(&collector).await;
    let state = v1::Event {
        body: Some(Body::NodeCondition(v1::NodeCondition {
            change: Some(Change::Gone.into()),
            ..Default::default()
        })),
        ..observed("n1", 5, "True", 1)
    };
    let refused = agent.send(Some(hello("n1", 1)), vec![state]).await.unwrap_err();
    assert_eq!(
        refused.message(),
        "event 0 says how its node is, and not what its detector told it, which the collector alone finds out"
    );
}

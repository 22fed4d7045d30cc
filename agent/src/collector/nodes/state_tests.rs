use std::time::Duration;

use super::*;
use crate::collector::nodes::{Choice, object::Reported};

fn settings() -> Settings {
    Settings {
        cluster: "c".to_owned(),
        choice: Choice::Others,
        state_every: Duration::from_secs(600),
        stale_after: Duration::from_secs(600),
    }
}

struct World {
    _dir: tempfile::TempDir,
    log: DiskLog,
    nodes: Nodes,
    at: i64,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = DiskLog::open(dir.path()).unwrap();
        let nodes = Nodes::load(&log, settings(), now(0)).unwrap();
        Self { _dir: dir, log, nodes, at: 0 }
    }

    /// What comes of it, written as one.
    fn do_(&mut self, what: impl FnOnce(&mut Nodes, Now, &mut Out)) -> Vec<v1::Event> {
        let mut out = Out::default();
        what(&mut self.nodes, now(self.at), &mut out);
        self.nodes.keep(&mut out);
        let events: Vec<_> = out.events.iter().cloned().map(std::sync::Arc::new).collect();
        self.log.append_with(events, &out.beside).unwrap();
        out.events
    }

    fn again(&mut self) {
        self.nodes = Nodes::load(&self.log, settings(), now(self.at)).unwrap();
    }
}

fn now(seconds: i64) -> Now {
    Now { wall: Moment((1_795_374_000 + seconds) * SECOND), steady: (1 + seconds) * SECOND }
}

fn node(name: &str, status: &str, transition: i64) -> object::Node {
    let condition = |kind: &str, status: &str, transition| Reported {
        kind: kind.to_owned(),
        status: status.to_owned(),
        transition: Some(transition),
        heartbeat: Some(1_795_374_000),
        ..Reported::default()
    };
    object::Node {
        name: name.to_owned(),
        version: "1".to_owned(),
        conditions: vec![condition("X", status, transition), condition("Y", "False", 1)],
    }
}

fn about_node(uid: &str, node: &str, component: &str, message: &str, count: u64) -> object::Event {
    let event = v1::ClusterEvent {
        uid: uid.to_owned(),
        reason: "R".to_owned(),
        message: message.to_owned(),
        component: component.to_owned(),
        count: Some(count),
        involved: Some(v1::Involved { kind: "Node".to_owned(), name: node.to_owned(), ..Default::default() }),
        ..v1::ClusterEvent::default()
    };
    object::Event { version: "1".to_owned(), time: None, event }
}

fn told(events: &[v1::Event]) -> Vec<String> {
    let told = events.iter().map(|event| {
        let id = event.id.as_ref().unwrap();
        assert_eq!((id.cluster.as_str(), id.epoch, id.seq), ("c", 0, 0));
        let what = match event.body.as_ref().unwrap() {
            Body::NodeCondition(c) => format!("{} {} {}", c.r#type, c.change().as_str_name(), c.status),
            Body::NodeState(state) => {
                let all = state.conditions.iter().map(|c| format!("{}={}", c.r#type, c.status));
                all.collect::<Vec<_>>().join(",")
            }
            Body::ClusterEvent(event) => format!("{} {}", event.message, event.count()),
            Body::Gap(gap) => format!("gap {} {}: {}", gap.count(), gap.exact(), gap.detail),
            other => panic!("{other:?}"),
        };
        format!("{}: {what}", id.node)
    });
    told.collect()
}

#[test]
fn edges_and_states_over_restarts() {
    let mut world = World::new();
    assert_eq!(
        told(&world.do_(|n, now, out| n.node(&node("a", "False", 5), now, out))),
        ["a: X=False,Y=False"]
    );
    let events = world.do_(|n, now, out| n.node(&node("a", "True", 9), now, out));
    assert_eq!(told(&events), ["a: X BECAME True"]);
    assert_eq!(events[0].time, Some(Moment(9 * SECOND).timestamp()), "when it changed");
    world.again();
    assert_eq!(told(&world.do_(|n, now, out| n.node(&node("a", "True", 9), now, out))), [""; 0]);
    let events = world.do_(|n, now, out| n.node(&node("a", "False", 1_999_999_999), now, out));
    assert_eq!(
        (told(&events), events[0].time),
        (vec!["a: X RECOVERED False".to_owned()], Some(now(0).wall.timestamp()))
    );
    // The node is gone, and what was bad on it.
    world.do_(|n, now, out| n.node(&node("b", "True", 9), now, out));
    let only: BTreeSet<String> = ["a".to_owned()].into();
    assert_eq!(told(&world.do_(|n, now, out| n.only(&only, now, out))), ["b: X GONE True", "b: "]);
    world.again();
    assert_eq!(told(&world.do_(|n, now, out| n.only(&only, now, out))), [""; 0]);
    assert_eq!(world.nodes.counts().0, 1, "nothing of it is kept");
}

#[test]
fn the_whole_state_is_said_again_and_again_while_somebody_listens() {
    let mut world = World::new();
    for name in ["a", "b", "c"] {
        world.do_(|n, now, out| n.node(&node(name, "True", 5), now, out));
    }
    let up = Up { nodes: Some(SECOND), events: None };
    world.at = 599;
    assert_eq!(told(&world.do_(|n, now, out| n.tick(up, now, out))), [""; 0]);
    world.at = 600;
    // It was confirmed when it was first seen.
    let all = ["a: X=True,Y=False", "b: X=True,Y=False", "c: X=True,Y=False"];
    assert_eq!(told(&world.do_(|n, now, out| n.tick(up, now, out))), all);
    assert_eq!(told(&world.do_(|n, now, out| n.tick(up, now, out))), [""; 0]);
    world.at = 1200;
    assert_eq!(told(&world.do_(|n, now, out| n.tick(Up::default(), now, out))), [""; 0]);
    let said = told(&world.do_(|n, now, out| n.tick(up, now, out)));
    assert_eq!(said.iter().filter(|said| said.contains("STALE")).count(), 6);
    assert_eq!(said.iter().filter(|said| said.ends_with("X=True,Y=False")).count(), 3);
    // After a restart, spread over the time.
    world.again();
    assert_eq!(told(&world.do_(|n, now, out| n.tick(up, now, out))), [""; 0]);
    let mut said = Vec::new();
    for _ in 0..600 {
        world.at += 1;
        said.extend(told(&world.do_(|n, now, out| n.tick(up, now, out))));
    }
    assert_eq!(said, all);
}

#[test]
fn an_event_is_told_once_also_over_a_restart() {
    let mut world = World::new();
    let one = about_node("u", "a", "kubelet", "m", 1);
    let tell = |world: &mut World, event: &object::Event| {
        told(&world.do_(|n, now, out| n.event(event, None, now, out)))
    };
    assert_eq!(tell(&mut world, &one), [": m 1"], "of no node that there is");
    assert_eq!(tell(&mut world, &one), [""; 0]);
    world.again();
    assert_eq!(tell(&mut world, &one), [""; 0]);
    // Listed again under another version it is the same, until it says something else.
    let other = object::Event { version: "2".to_owned(), ..one.clone() };
    let mut other = other;
    other.event.resource_version = "2".to_owned();
    assert_eq!(tell(&mut world, &other), [""; 0]);
    other.event.count = Some(2);
    assert_eq!(tell(&mut world, &other), [": m 2"]);
}

#[test]
fn repetitions_of_a_detector_are_passed_over_and_of_others_told() {
    let mut world = World::new();
    world.do_(|n, now, out| n.node(&node("a", "False", 5), now, out));
    let mut tell = |event: &object::Event| told(&world.do_(|n, now, out| n.event(event, None, now, out)));
    assert_eq!(tell(&about_node("1", "a", "kernel-monitor", "oops", 1)), ["a: oops 1"]);
    assert_eq!(tell(&about_node("2", "a", "kernel-monitor", "oops", 1)), [""; 0]);
    assert_eq!(tell(&about_node("3", "a", "kubelet", "Starting kubelet.", 1)), ["a: Starting kubelet. 1"]);
    assert_eq!(tell(&about_node("4", "a", "kubelet", "Starting kubelet.", 1)), ["a: Starting kubelet. 1"]);
    // Nobody makes up nodes.
    assert_eq!(tell(&about_node("5", "made-up", "kernel-monitor", "x", 1)), [": x 1"]);
    let merged = object::Event {
        event: v1::ClusterEvent { merged: true, ..about_node("6", "a", "kernel-monitor", "c", 5).event },
        ..about_node("6", "a", "kernel-monitor", "c", 5)
    };
    assert_eq!(
        tell(&merged),
        ["a: c 5", "a: gap 4 true: R: put together with others, of which the texts are lost"]
    );
    assert_eq!(world.nodes.counts().0, 1);
}

#[test]
fn what_an_agent_observes_is_merged_with_what_the_api_server_has() {
    let mut world = World::new();
    world.do_(|n, now, out| n.node(&node("a", "False", 5), now, out));
    let name = ("c".to_owned(), "a".to_owned());
    let observed = |status: &str, transition, count| v1::NodeObserved {
        conditions: [("X", status, transition), ("Y", "False", 1), ("Ready", "True", 1)]
            .map(|(kind, status, at)| v1::NodeCondition {
                r#type: kind.to_owned(),
                status: status.to_owned(),
                transition: Some(podtrail_proto::Timestamp { seconds: at, nanos: 999_000_000 }),
                ..v1::NodeCondition::default()
            })
            .into(),
        problems: vec![v1::ProblemCount { reason: "R".to_owned(), count }],
        has_conditions: Some(true),
        has_problems: Some(true),
        ..v1::NodeObserved::default()
    };
    let observe = |world: &mut World, what: &v1::NodeObserved| {
        told(&world.do_(|n, now, out| n.observed(&name, what, now, out)))
    };
    assert_eq!(observe(&mut world, &observed("False", 5, 10)), [""; 0]);
    assert_eq!(observe(&mut world, &observed("True", 7, 13)), ["a: X BECAME True"]);
    assert_eq!(told(&world.do_(|n, now, out| n.node(&node("a", "True", 7), now, out))), [""; 0]);
    // Three were counted, and one came.
    world.do_(|n, now, out| n.event(&about_node("1", "a", "kernel-monitor", "oops", 1), None, now, out));
    let up = Up { nodes: None, events: Some(0) };
    assert_eq!(told(&world.do_(|n, now, out| n.tick(up, now, out))), [""; 0]);
    world.at = 61;
    assert_eq!(
        told(&world.do_(|n, now, out| n.tick(Up::default(), now, out))),
        [""; 0],
        "nobody reads Events"
    );
    world.again();
    assert_eq!(
        told(&world.do_(|n, now, out| n.tick(up, now, out))),
        ["a: gap 2 false: R: counted by the detector, and no Event of it came"]
    );
    world.again();
    assert_eq!(told(&world.do_(|n, now, out| n.tick(up, now, out))), [""; 0]);
    // A detector that does not answer changes nothing.
    let silent = v1::NodeObserved { unreachable: "no".to_owned(), ..v1::NodeObserved::default() };
    assert_eq!(observe(&mut world, &silent), [""; 0]);
    assert_eq!(world.nodes.counts(), (1, 1, 0, 0));
}

#[test]
fn what_an_agent_observed_before_a_restart_is_not_stale_before_it_can_speak() {
    let mut world = World::new();
    let name = ("c".to_owned(), "a".to_owned());
    let observed = v1::NodeObserved {
        conditions: vec![v1::NodeCondition {
            r#type: "X".to_owned(),
            status: "True".to_owned(),
            ..v1::NodeCondition::default()
        }],
        has_conditions: Some(true),
        ..v1::NodeObserved::default()
    };
    world.do_(|n, now, out| n.observed(&name, &observed, now, out));
    // Nobody listened for long.
    world.at = 5000;
    world.again();
    assert_eq!(told(&world.do_(|n, now, out| n.tick(Up::default(), now, out))), [""; 0]);
    world.at = 5601;
    let said = told(&world.do_(|n, now, out| n.tick(Up::default(), now, out)));
    assert_eq!(said.first().map(String::as_str), Some("a: X STALE True"), "{said:?}");
}

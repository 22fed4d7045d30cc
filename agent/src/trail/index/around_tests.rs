use std::sync::Arc;

use podtrail_proto::v1::{EntryMethod, GapSource, event::Body, node_condition::Change};

use super::*;
use crate::trail::{
    index::Index,
    log::Entry,
    rights::Rights,
    testing::{container, ended, event, executed, gap, started},
};

fn told(node: &str, at: i64, body: Body) -> v1::Event {
    let mut event = event(node, 0, at, "", body);
    event.id.as_mut().unwrap().epoch = 0;
    event
}

fn condition(node: &str, at: i64, kind: &str, status: &str) -> v1::Event {
    let condition = v1::NodeCondition {
        r#type: kind.to_owned(),
        status: status.to_owned(),
        change: Some(Change::Became.into()),
        previous_status: "x".to_owned(),
        ..v1::NodeCondition::default()
    };
    told(node, at, Body::NodeCondition(condition))
}

fn about(at: i64, kind: &str, (namespace, name, uid): (&str, &str, &str)) -> v1::Event {
    let involved = v1::Involved {
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        ..v1::Involved::default()
    };
    let node = if kind == "Node" { name } else { "" };
    told(node, at, Body::ClusterEvent(v1::ClusterEvent { involved: Some(involved), ..Default::default() }))
}

fn index(events: Vec<v1::Event>) -> Index {
    let mut index = Index::new();
    for (at, event) in (1..).zip(events) {
        let logged = event.time.as_ref().map_or(Moment(0), Moment::from_timestamp);
        index.apply(&Entry { cursor: at, logged, event: Arc::new(event) });
    }
    index
}

/// A session on n from 100 to 200, in prod/payments-0.
fn session() -> [v1::Event; 3] {
    let mut first = event("n", 1, 100, "s", started(100, EntryMethod::RuntimeExec));
    first.container = Some(container("c1", Some(("prod", "payments-0"))));
    [first, event("n", 2, 101, "s", executed(&["sh"], true)), event("n", 3, 200, "s", ended(0))]
}

fn cursors(index: &Index) -> Vec<Cursor> {
    index.cursors(&index.find("s", &Rights::everything()).unwrap(), 0, 1000)
}

#[test]
fn what_was_so_on_the_node_while_the_session_was_open() {
    let mut events = vec![
        condition("n", 10, "Whole", "True"),  // 1: good again before it began
        condition("n", 20, "Broken", "True"), // 2: bad still when it began
        condition("n", 30, "Whole", "False"), // 3
        condition("m", 40, "Other", "True"),  // 4: another node
    ];
    events.extend(session()); // 5, 6, 7
    events.extend([
        condition("n", 150, "Broken", "False"), // 8
        about(160, "Node", ("", "n", "")),      // 9
        about(160, "Node", ("", "m", "")),      // 10
        condition("n", 201, "Late", "True"),    // 11
        told("n", 150, gap(GapSource::NodeProblemDetector, 5, 150, 150, &[])), // 12: nothing of the session is missing
        told("", 150, gap(GapSource::Kubernetes, 5, 150, 150, &[])),           // 13
    ]);
    let index = index(events);
    assert_eq!(cursors(&index), [2, 5, 6, 7, 8, 9]);
    let session = index.session(&index.find("s", &Rights::everything()).unwrap()).unwrap();
    assert_eq!((session.lost, session.commands), (0, 1));
    // By pages too.
    let found = index.find("s", &Rights::everything()).unwrap();
    assert_eq!(index.cursors(&found, 0, 2), [2, 5]);
    assert_eq!(index.cursors(&found, 5, 2), [6, 7]);
    assert_eq!(index.cursors(&found, 7, 9), [8, 9]);
    let lost: Vec<(String, u64)> = index.nodes().into_iter().map(|n| (n.name, n.lost)).collect();
    assert_eq!(lost, [("m".to_owned(), 0), ("n".to_owned(), 0)]);
}

#[test]
fn what_happened_to_the_pod_and_to_no_other() {
    let mut events = session().to_vec();
    events[0].container.as_mut().unwrap().pod.as_mut().unwrap().uid = "u1".to_owned();
    events.extend([
        about(150, "Pod", ("prod", "payments-0", "u1")), // 4
        about(151, "Pod", ("prod", "payments-0", "")),   // 5
        about(152, "Pod", ("prod", "payments-0", "u2")), // another that had its name
        about(153, "Pod", ("dev", "payments-0", "u1")),
        about(154, "Pod", ("prod", "payments-1", "u1")),
        about(155, "ReplicaSet", ("prod", "payments-0", "u1")),
        about(99, "Pod", ("prod", "payments-0", "u1")),
        about(201, "Pod", ("prod", "payments-0", "u1")),
    ]);
    assert_eq!(cursors(&index(events)), [1, 2, 3, 4, 5]);
}

#[test]
fn what_is_trimmed_is_gone_and_memory_is_bounded() {
    let mut events = session().to_vec();
    events.extend([about(150, "Pod", ("prod", "payments-0", "")), condition("n", 150, "X", "True")]); // 4, 5
    events.extend([about(151, "Pod", ("prod", "payments-0", "")), condition("n", 151, "X", "False")]); // 6, 7
    events.push(event("n", 4, 160, "s", executed(&["ls"], false))); // 8
    let mut index = index(events);
    index.trim(6);
    assert_eq!(cursors(&index), [6, 7, 8]);
    let mut arounds = Arounds::default();
    for cursor in 0..20_000 {
        arounds.push(Around { cursor, time: Moment(0), condition: None, good: true });
    }
    assert_eq!(arounds.0.len(), MAX_OF_NODE);
    assert_eq!(arounds.within(Moment(0), None).count(), MAX_SHOWN);
    assert_eq!(arounds.within(Moment(0), None).last(), Some(19_999));
}

#[test]
fn a_node_is_as_its_last_state_and_changes_say() {
    let conditions = |index: &Index| -> Vec<(String, String, Option<i32>)> {
        let nodes = index.nodes();
        let all = nodes[0].conditions.iter();
        all.map(|c| (c.r#type.clone(), c.status.clone() + &c.previous_status, c.change)).collect()
    };
    let bare = |kind: &str, status: &str| v1::NodeCondition {
        r#type: kind.to_owned(),
        status: status.to_owned(),
        ..v1::NodeCondition::default()
    };
    let state = v1::NodeState { conditions: vec![bare("A", "False"), bare("B", "True")] };
    let gone = v1::NodeCondition { change: Some(Change::Gone.into()), ..bare("A", "False") };
    let mut events = vec![
        condition("n", 1, "Old", "True"),
        told("n", 2, Body::NodeState(state)),
        condition("n", 3, "A", "True"),
    ];
    let own = |kind: &str, status: &str| (kind.to_owned(), status.to_owned(), None);
    assert_eq!(conditions(&index(events.clone())), [own("A", "True"), own("B", "True")]);
    events.push(told("n", 4, Body::NodeCondition(gone)));
    let index = index(events);
    assert_eq!(conditions(&index), [own("B", "True")]);
    assert_eq!((index.agents().len(), index.nodes().len()), (0, 1), "nobody was heard there");
}

#[test]
fn where_agents_say_what_they_were_told() {
    let observed = || Body::NodeObserved(v1::NodeObserved::default());
    let mut index = index(vec![
        event("n", 1, 1, "", observed()),
        event("n", 2, 2, "", executed(&["x"], true)),
        event("m", 1, 3, "", observed()),
    ]);
    assert_eq!(index.observed(0, 10), [1, 3]);
    assert_eq!(
        (index.observed(0, 1), index.observed(1, 10), index.observed(3, 10)),
        (vec![1], vec![3], vec![])
    );
    index.trim(2);
    assert_eq!(index.observed(0, 10), [3]);
    assert_eq!(index.agents().len(), 2);
}

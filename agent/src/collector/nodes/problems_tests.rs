use super::*;
use crate::collector::nodes::object::{Event, tests::detectors};

fn event(uid: &str, reason: &str, message: &str, count: u64) -> v1::ClusterEvent {
    v1::ClusterEvent {
        uid: uid.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        count: Some(count),
        merged: message.starts_with("(combined"),
        ..v1::ClusterEvent::default()
    }
}

fn counted(reason: &str, count: u64) -> Vec<v1::ProblemCount> {
    vec![v1::ProblemCount { reason: reason.to_owned(), count }]
}

#[test]
fn a_real_detectors_events_are_each_told_once_and_again_after_its_restart() {
    let mut problems = Problems::default();
    let events: Vec<_> = detectors().iter().map(|json| Event::parse(json).unwrap().event).collect();
    for event in &events {
        assert_eq!(problems.came(event, 1000), Judged::default(), "{event:?}");
    }
    // It begins anew, and reads its logs again: other objects, that say the same.
    let again =
        |event: &v1::ClusterEvent| v1::ClusterEvent { uid: format!("{}-again", event.uid), ..event.clone() };
    for event in &events {
        assert!(problems.came(&again(event), 1000 + REPLAYED).replay, "{event:?}");
    }
    let later =
        |event: &v1::ClusterEvent| v1::ClusterEvent { uid: format!("{}-later", event.uid), ..event.clone() };
    let mut late = problems.clone();
    late.recent.retain(|recent| recent.at == 1000);
    assert!(!late.came(&later(&events[0]), 1001 + REPLAYED).replay, "it happens again, hours later");
}

#[test]
fn another_count_another_text_or_the_same_object_is_no_repetition() {
    let mut problems = Problems::default();
    assert!(!problems.came(&event("a", "R", "m", 1), 0).replay);
    assert!(!problems.came(&event("a", "R", "m", 2), 1).replay);
    assert!(!problems.came(&event("b", "R", "n", 1), 1).replay);
    assert!(!problems.came(&event("b", "S", "m", 1), 1).replay);
    assert!(!problems.came(&event("c", "R", "m", 3), 1).replay);
    assert!(problems.came(&event("d", "R", "m", 2), 1).replay);
}

#[test]
fn texts_that_were_put_together_are_counted() {
    let mut problems = Problems::default();
    let combined = |count| event("a", "Ext4Error", "(combined from similar events): x", count);
    assert_eq!(problems.came(&combined(4), 0).lost, 3);
    assert_eq!(problems.came(&combined(5), 0).lost, 0);
    assert_eq!(problems.came(&combined(9), 0).lost, 3);
    assert_eq!(problems.came(&event("b", "X", "the same text", 7), 0).lost, 0);
}

#[test]
fn what_was_counted_and_did_not_come_is_missing_once() {
    let mut problems = Problems::default();
    // Where it was asked for the first time nobody knows what came before.
    problems.came(&event("a", "Ext4Error", "1", 1), 0);
    problems.counted(&counted("Ext4Error", 500), 0);
    assert!(!problems.is_owed());
    problems.counted(&counted("Ext4Error", 530), 10);
    assert!(problems.is_owed());
    for n in 0..25 {
        problems.came(&event(&format!("n{n}"), "Ext4Error", &n.to_string(), 1), 11);
    }
    assert_eq!(problems.missing(10 + SETTLE - 1), [], "they may be on their way");
    assert_eq!(problems.missing(10 + SETTLE), [("Ext4Error".to_owned(), 5)]);
    assert_eq!(problems.missing(10_000), []);
    assert!(!problems.is_owed());
    // More of it is told as what is more.
    problems.counted(&counted("Ext4Error", 532), 10_000);
    assert_eq!(problems.missing(10_000 + SETTLE), [("Ext4Error".to_owned(), 2)]);
    // One that comes late is there.
    problems.counted(&counted("Ext4Error", 533), 20_000);
    problems.came(&event("late", "Ext4Error", "late", 1), 20_001);
    assert_eq!(problems.missing(30_000), []);
}

#[test]
fn merged_events_came_as_often_as_they_say_and_a_new_detector_counts_anew() {
    let mut problems = Problems::default();
    problems.counted(&counted("R", 10), 0);
    problems.came(&event("a", "R", "(combined from similar events): x", 3), 1);
    problems.came(&event("a", "R", "(combined from similar events): y", 8), 2);
    problems.counted(&counted("R", 18), 3);
    assert_eq!(problems.missing(1000), []);
    // It began anew: 4 since, of which 1 came, and a repetition.
    problems.came(&event("b", "R", "z", 1), 2000);
    problems.came(&event("c", "R", "(combined from similar events): y", 8), 2000);
    let before = problems.clone();
    problems.counted(&counted("R", 4), 2001);
    assert_eq!(problems.missing(3000), [], "repetitions were counted too");
    let mut problems = before;
    problems.counted(&counted("R", 12), 2001);
    assert_eq!(problems.missing(3000), [("R".to_owned(), 3)]);
}

#[test]
fn memory_is_bounded() {
    let mut problems = Problems::default();
    for n in 0..5000 {
        problems.came(&event(&n.to_string(), &format!("R{n}"), "m", 1), n);
        problems.counted(&counted(&format!("S{n}"), 1), n);
    }
    assert_eq!((problems.recent.len(), problems.reasons.len()), (MAX_RECENT, MAX_REASONS));
    problems.came(&event("x", &"r".repeat(300), "m", u64::MAX), i64::MIN);
    problems.counted(&counted("R0", u64::MAX), i64::MAX);
    problems.counted(&counted("R0", 0), i64::MIN);
    _ = problems.missing(i64::MAX);
}

#[test]
fn who_is_a_detector() {
    for own in
        ["kernel-monitor", "readonly-monitor", "fd-custom-plugin-monitor", "health-checker", "abrt-adaptor"]
    {
        assert!(is_detector(own), "{own}");
    }
    for other in ["", "kubelet", "node-controller", "kube-proxy", "monitor"] {
        assert!(!is_detector(other), "{other}");
    }
}

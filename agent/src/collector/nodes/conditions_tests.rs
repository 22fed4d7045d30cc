use serde_json::Value;

use super::*;
use crate::collector::nodes::object::{self, RawCondition, reported};

const STALE: i64 = 600 * SECOND;

fn now(seconds: i64) -> Now {
    Now { wall: Moment((1_795_374_000 + seconds) * SECOND), steady: seconds * SECOND }
}

fn condition(kind: &str, status: &str, transition: i64, heartbeat: i64) -> Reported {
    Reported {
        kind: kind.to_owned(),
        status: status.to_owned(),
        reason: if status == "True" { "Broken" } else { "Fine" }.to_owned(),
        message: format!("{kind} {status}"),
        transition: Some(transition),
        heartbeat: Some(heartbeat),
        truncated: false,
    }
}

/// One that is as it was, so that no other is the oldest.
fn old(heartbeat: i64) -> Reported {
    condition("Old", "False", 1, heartbeat)
}

/// Each as its type, what changed, and its status.
fn told(news: &News) -> Vec<String> {
    let edges = news.edges.iter().map(|edge| {
        let c = &edge.condition;
        format!("{} {} {}", c.r#type, c.change().as_str_name(), c.status)
    });
    edges.collect()
}

fn fixture(line: usize) -> Vec<Reported> {
    let patches = include_str!("../../../../tests/fixtures/npd/node_status_patches.jsonl");
    let patch: Value = serde_json::from_str(patches.lines().nth(line).unwrap()).unwrap();
    raw(patch["body"]["status"]["conditions"].clone())
}

fn raw(conditions: Value) -> Vec<Reported> {
    let conditions: Vec<RawCondition> = serde_json::from_value(conditions).unwrap();
    reported(conditions.into_iter())
}

#[test]
fn a_real_detectors_run() {
    let mut conditions = Conditions::default();
    let mut all = Vec::new();
    for line in 0..5 {
        let news =
            conditions.report(Source::Api, &fixture(line), now(i64::try_from(line).unwrap()), i64::MAX);
        assert_eq!(news.assert, line == 0);
        all.push(told(&news));
        // Said again it is no news.
        assert_eq!(
            conditions.report(Source::Api, &fixture(line), now(i64::try_from(line).unwrap()), i64::MAX),
            News::default()
        );
    }
    assert_eq!(
        all,
        [
            &[][..],
            &["ReadonlyFilesystem BECAME True", "KernelDeadlock BECAME True"],
            &["FDPressure BECAME True"],
            &["FDPressure BECAME Unknown"],
            &["FDPressure RECOVERED False"],
        ]
    );
    let state = conditions.state();
    let fd = state.conditions.iter().find(|c| c.r#type == "FDPressure").unwrap();
    assert_eq!((fd.status.as_str(), fd.sources.as_slice()), ("False", &["api".to_owned()][..]));
    assert_eq!(state.conditions.len(), 5);
    assert_eq!(conditions.counts(), (2, 0, 0));
}

#[test]
fn a_reason_decides_nothing() {
    let mut conditions = Conditions::default();
    let mut healthy = condition("ReadonlyFilesystem", "False", 5, 10);
    healthy.reason = "FilesystemIsReadOnly".to_owned();
    let news = conditions.report(Source::Api, &[healthy.clone()], now(0), i64::MAX);
    assert_eq!((told(&news), conditions.counts()), (vec![], (0, 0, 0)));
    // Unknown keeps the healthy one's, and is neither.
    let news = conditions.report(Source::Api, &fixture(3), now(1), i64::MAX);
    let unknown = news.edges.iter().find(|edge| edge.condition.r#type == "FDPressure").unwrap();
    assert_eq!(
        (unknown.condition.status.as_str(), unknown.condition.reason.as_str()),
        ("Unknown", "NodeHasNoFDPressure")
    );
    assert_eq!(unknown.condition.message, "cannot read file-max");
}

#[test]
fn two_sources_tell_of_one_edge_once_whoever_is_first() {
    let body = include_str!("../../../../tests/fixtures/npd/cond_bad.json");
    let by_agent = raw(serde_json::from_str(body).unwrap());
    for order in [[Source::Api, Source::Agent], [Source::Agent, Source::Api]] {
        let mut conditions = Conditions::default();
        conditions.report(Source::Api, &fixture(0), now(0), i64::MAX);
        let mut all = Vec::new();
        for source in order {
            let report = if source == Source::Api { fixture(2) } else { by_agent.clone() };
            all.extend(told(&conditions.report(source, &report, now(1), i64::MAX)));
        }
        all.sort();
        assert_eq!(
            all,
            ["FDPressure BECAME True", "KernelDeadlock BECAME True", "ReadonlyFilesystem BECAME True"]
        );
        let sources = conditions.state().conditions.into_iter().map(|c| c.sources);
        assert!(sources.into_iter().all(|sources| sources == ["api", "agent"]));
    }
}

#[test]
fn whoever_is_behind_brings_nothing_back() {
    let mut conditions = Conditions::default();
    let one = |status, transition| [condition("X", status, transition, 1), old(1)];
    conditions.report(Source::Api, &one("False", 10), now(0), i64::MAX);
    conditions.report(Source::Agent, &one("False", 10), now(0), i64::MAX);
    assert_eq!(
        told(&conditions.report(Source::Agent, &one("True", 20), now(1), i64::MAX)),
        ["X BECAME True"]
    );
    assert_eq!(
        told(&conditions.report(Source::Agent, &one("False", 30), now(2), i64::MAX)),
        ["X RECOVERED False"]
    );
    // The API server has the first of the two only now, and then the second.
    assert_eq!(told(&conditions.report(Source::Api, &one("True", 20), now(3), i64::MAX)), [""; 0]);
    assert_eq!(told(&conditions.report(Source::Api, &one("False", 30), now(4), i64::MAX)), [""; 0]);
    assert_eq!(told(&conditions.report(Source::Api, &one("True", 40), now(5), i64::MAX)), ["X BECAME True"]);
}

#[test]
fn a_clock_that_goes_back_hides_nothing_and_two_changes_in_a_second_are_two() {
    let mut conditions = Conditions::default();
    let one = |status, transition| [condition("X", status, transition, 1), old(1)];
    conditions.report(Source::Api, &one("False", 1000), now(0), i64::MAX);
    conditions.report(Source::Agent, &one("False", 1000), now(0), i64::MAX);
    let mut tell = |source, status, transition| {
        told(&conditions.report(source, &one(status, transition), now(1), i64::MAX))
    };
    assert_eq!(tell(Source::Api, "True", 500), ["X BECAME True"]);
    assert_eq!(tell(Source::Agent, "True", 500), [""; 0]);
    assert_eq!(tell(Source::Agent, "False", 500), ["X RECOVERED False"]);
    assert_eq!(tell(Source::Api, "False", 500), [""; 0]);
    assert_eq!(tell(Source::Api, "True", 500), ["X BECAME True"]);
}

#[test]
fn what_was_something_else_meanwhile_is_told() {
    let mut conditions = Conditions::default();
    conditions.report(Source::Api, &[condition("X", "True", 10, 1), old(1)], now(0), i64::MAX);
    let again = conditions.report(Source::Api, &[condition("X", "True", 20, 2), old(2)], now(1), i64::MAX);
    assert_eq!(told(&again), ["X AGAIN True"]);
    assert_eq!(again.edges[0].at, Some(Moment(20 * SECOND)));
    let mut other = condition("X", "True", 30, 3);
    other.reason = "Other".to_owned();
    let reason = conditions.report(Source::Api, &[other, old(3)], now(2), i64::MAX);
    assert_eq!(
        (told(&reason), reason.edges[0].condition.previous_status.as_str()),
        (vec!["X REASON True".to_owned()], "True")
    );
}

#[test]
fn a_detector_that_begins_anew_makes_nothing_whole() {
    let bad = |beat| {
        vec![
            condition("FDPressure", "True", 50, beat),
            condition("KernelDeadlock", "True", 40, beat),
            old(beat),
        ]
    };
    let start = |conditions: &mut Conditions| {
        conditions.report(Source::Api, &bad(100), now(0), i64::MAX);
    };
    // All of them begin within two seconds.
    let mut conditions = Conditions::default();
    start(&mut conditions);
    let anew = [
        condition("FDPressure", "False", 201, 202),
        condition("KernelDeadlock", "False", 200, 202),
        condition("Old", "False", 200, 202),
    ];
    let news = conditions.report(Source::Api, &anew, now(1), i64::MAX);
    assert_eq!(told(&news), ["FDPressure RESET False", "KernelDeadlock RESET False"]);
    assert!(news.assert, "the one that was good is said to have begun anew");
    // One that recovers while others are as they were has recovered.
    let mut conditions = Conditions::default();
    start(&mut conditions);
    let mut some = bad(200);
    some[0] = condition("FDPressure", "False", 190, 200);
    assert_eq!(
        told(&conditions.report(Source::Api, &some, now(1), i64::MAX)),
        ["FDPressure RECOVERED False"]
    );
    // A monitor of a log never says that.
    let mut conditions = Conditions::default();
    start(&mut conditions);
    some[0] = bad(200)[0].clone();
    some[1] = condition("KernelDeadlock", "False", 190, 200);
    assert_eq!(
        told(&conditions.report(Source::Api, &some, now(1), i64::MAX)),
        ["KernelDeadlock RESET False"]
    );
    // Whoever is confirmed at another time is somebody else's.
    let mut conditions = Conditions::default();
    start(&mut conditions);
    let alone = [
        condition("FDPressure", "False", 190, 200),
        condition("KernelDeadlock", "True", 40, 200),
        condition("Old", "False", 1, 7),
    ];
    assert_eq!(
        told(&conditions.report(Source::Api, &alone, now(1), i64::MAX)),
        ["FDPressure RECOVERED False"]
    );
}

#[test]
fn what_is_gone_is_told_once_no_source_has_it() {
    let mut conditions = Conditions::default();
    let all = [condition("X", "True", 10, 1), condition("Y", "False", 10, 1)];
    let news = conditions.report(Source::Api, &all, now(0), i64::MAX);
    assert_eq!((told(&news), news.assert), (vec!["X FIRST True".to_owned()], true));
    conditions.report(Source::Agent, &all, now(0), i64::MAX);
    let news = conditions.gone(Source::Api);
    assert_eq!((told(&news), news.assert, news.changed), (vec![], false, true));
    let news = conditions.report(Source::Agent, &all[1..], now(1), i64::MAX);
    assert_eq!((told(&news), news.assert), (vec!["X GONE True".to_owned()], true));
    assert_eq!(news.edges[0].at, None);
    let news = conditions.gone(Source::Agent);
    assert_eq!((told(&news), news.assert, conditions.is_empty()), (vec![], true, true));
}

#[test]
fn stale_once_nobody_confirms_it() {
    let mut conditions = Conditions::default();
    let at = |beat| [condition("X", "False", 10, beat)];
    conditions.report(Source::Api, &at(1_795_374_000), now(0), STALE);
    let stale = |conditions: &mut Conditions, seconds: i64, api| {
        told(&conditions.stale(now(seconds).steady - STALE, api))
    };
    assert_eq!(stale(&mut conditions, 600, Some(0)), [""; 0]);
    // Nobody listens, or not for long: nobody can say.
    assert_eq!(stale(&mut conditions, 5000, None), [""; 0]);
    assert_eq!(stale(&mut conditions, 5000, Some(4900 * SECOND)), [""; 0]);
    assert_eq!(stale(&mut conditions, 601, Some(0)), ["X STALE False"]);
    assert_eq!((stale(&mut conditions, 700, Some(0)), conditions.counts()), (vec![], (0, 0, 1)));
    // The same heartbeat is none.
    assert_eq!(conditions.report(Source::Api, &at(1_795_374_000), now(800), STALE), News::default());
    assert_eq!(told(&conditions.report(Source::Api, &at(1_795_374_300), now(800), STALE)), ["X FRESH False"]);
    // Its clock goes back, and it is alive.
    assert_eq!(stale(&mut conditions, 1399, Some(0)), [""; 0]);
    conditions.report(Source::Api, &at(1_795_000_000), now(1399), STALE);
    assert_eq!(stale(&mut conditions, 1999, Some(0)), [""; 0]);
    assert_eq!(stale(&mut conditions, 2000, Some(0)), ["X STALE False"]);
    // The agent's word is enough.
    assert_eq!(told(&conditions.report(Source::Agent, &at(0), now(2001), STALE)), ["X FRESH False"]);
}

#[test]
fn one_that_was_not_confirmed_for_long_when_it_is_first_seen_is_stale() {
    let mut conditions = Conditions::default();
    let both =
        [condition("X", "True", 10, 1_795_374_000 - 601), condition("Y", "False", 10, 1_795_374_000 - 599)];
    let news = conditions.report(Source::Api, &both, now(0), STALE);
    assert_eq!((told(&news), news.edges[0].condition.stale()), (vec!["X FIRST True".to_owned()], true));
    let stale: Vec<bool> = conditions.state().conditions.iter().map(v1::NodeCondition::stale).collect();
    assert_eq!(stale, [true, false]);
    // Nobody's heartbeat is nobody's silence.
    let mut without = condition("Z", "False", 10, 0);
    without.heartbeat = None;
    let mut conditions = Conditions::default();
    conditions.report(Source::Api, &[without], now(0), STALE);
    assert_eq!(told(&conditions.stale(i64::MAX, Some(0))), [""; 0]);
}

#[test]
fn over_a_restart_nothing_is_told_again_and_nothing_is_forgotten() {
    let mut conditions = Conditions::default();
    conditions.report(Source::Api, &[condition("X", "True", 10, 1), old(1)], now(0), i64::MAX);
    let kept = postcard::to_stdvec(&conditions).unwrap();
    let restored: Conditions = postcard::from_bytes(&kept).unwrap();
    let mut restored = restored.restored(now(5000));
    assert_eq!(
        restored.report(Source::Api, &[condition("X", "True", 10, 1), old(1)], now(5000), i64::MAX),
        News::default()
    );
    assert_eq!(told(&restored.stale(now(5000).steady - STALE, Some(0))), [""; 0]);
    assert_eq!(
        told(&restored.report(Source::Api, &[condition("X", "False", 20, 2), old(2)], now(5001), i64::MAX)),
        ["X RECOVERED False"]
    );
    assert_eq!(object::seconds(Moment(-1)), -1, "whole seconds, before 1970 too");
}

#[test]
fn whatever_comes_in_whatever_order_the_last_word_of_the_only_source_stands() {
    use proptest::prelude::*;
    let step = (0..3usize, 0..4i64);
    proptest!(|(steps in prop::collection::vec(step, 1..60))| {
        let mut conditions = Conditions::default();
        let mut last = None;
        for (status, transition) in steps {
            let status = ["True", "False", "Unknown"][status];
            let news = conditions.report(Source::Api, &[condition("X", status, transition, 1)], now(0), i64::MAX);
            let state = conditions.state();
            prop_assert_eq!(&state.conditions[0].status, status);
            // An edge, where the status changed, and only there is it another.
            let changed = last.is_some_and(|last| last != status);
            if changed {
                prop_assert_eq!(news.edges.len(), 1);
                prop_assert_eq!(Some(news.edges[0].condition.previous_status.as_str()), last);
            }
            last = Some(status);
        }
    });
}

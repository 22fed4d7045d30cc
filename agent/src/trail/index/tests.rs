use std::sync::Arc;

use podtrail_proto::v1::{EntryMethod, GapSource, event::Body};
use proptest::prelude::*;

use super::*;
use crate::trail::rights::Rights;
use crate::trail::testing::{SECOND, container, ended, event, executed, exited, gap, started};

fn entry(cursor: Cursor, event: v1::Event) -> Entry {
    let logged = event.time.as_ref().map_or(Moment(0), Moment::from_timestamp);
    Entry { cursor, logged, event: Arc::new(event) }
}

fn index(events: Vec<v1::Event>) -> Index {
    let mut index = Index::new();
    for (n, event) in events.into_iter().enumerate() {
        index.apply(&entry(n as u64 + 1, event));
    }
    index
}

fn all(index: &Index) -> Vec<v1::Session> {
    index.sessions(&Filter::default(), &Rights::everything(), None, 1000, usize::MAX).unwrap().sessions
}

fn ids(index: &Index, filter: &Filter) -> Vec<String> {
    index
        .sessions(filter, &Rights::everything(), None, 1000, usize::MAX)
        .unwrap()
        .sessions
        .into_iter()
        .map(|s| s.id)
        .collect()
}

fn timestamp(at: i64) -> Option<podtrail_proto::Timestamp> {
    Some(Moment(at * SECOND).timestamp())
}

#[test]
fn a_session_from_its_events() {
    let mut first = event("n", 1, 11, "s1", started(10, EntryMethod::RuntimeExec));
    first.container = Some(container("abc", None));
    let attributed = Body::Attributed(v1::Attributed {
        container: Some(container("abc", Some(("prod", "payments-0")))),
        user: Some(v1::User { name: "ann".to_owned(), ..v1::User::default() }),
        verdict: Some(v1::Verdict::Matched.into()),
        ..v1::Attributed::default()
    });
    let index = index(vec![
        first,
        event("n", 2, 11, "s1", executed(&["sh", "-c", "x"], true)),
        event("n", 3, 12, "s1", executed(&["ls"], false)),
        event("n", 4, 13, "s1", exited()),
        event("n", 5, 14, "s1", ended(2)),
        event("n", 6, 20, "s1", attributed),
    ]);
    let session = all(&index).pop().unwrap();
    assert_eq!((session.id.as_str(), session.node.as_str(), session.cluster.as_str()), ("s1", "n", "c"));
    assert_eq!((session.start, session.end), (timestamp(11), timestamp(14)));
    assert_eq!((session.commands, session.lost), (2, 2));
    assert_eq!(session.first_command, "sh -c x");
    assert_eq!(session.container.unwrap().pod.unwrap().name, "payments-0");
    assert_eq!(session.attributed.unwrap().user.unwrap().name, "ann");
    assert_eq!(session.started.unwrap().method, Some(EntryMethod::RuntimeExec.into()));
    assert_eq!(session.last_event, timestamp(20));
}

fn attributed(attributed: v1::Attributed) -> Body {
    Body::Attributed(attributed)
}

#[test]
fn what_agents_and_the_collector_learn_of_a_session_adds_up() {
    let user = |name: &str| Some(v1::User { name: name.to_owned(), ..v1::User::default() });
    let of_container = v1::Attributed {
        container: Some(container("abc", Some(("prod", "web-0")))),
        exec_id: "e1".to_owned(),
        ..v1::Attributed::default()
    };
    let person = v1::Attributed {
        user: user("alice"),
        impersonated: user("bob"),
        verdict: Some(v1::Verdict::Matched.into()),
        method: Some(EntryMethod::RuntimeExec.into()),
        ..v1::Attributed::default()
    };
    let mut first = event("n", 1, 11, "s", started(10, EntryMethod::ExecProbe));
    first.container = Some(container("abc", None));
    let mut verdict = event("n", 0, 12, "s", attributed(person.clone()));
    verdict.id.as_mut().unwrap().epoch = 0;
    let folded = |sessions| {
        let folded =
            v1::Folded { like_session_id: "s".to_owned(), sessions: Some(sessions), ..v1::Folded::default() };
        event("n", 4, 20, "", Body::Folded(folded))
    };
    // Whichever comes first.
    for late in [false, true] {
        let container = event("n", 2, 12, "s", attributed(of_container.clone()));
        let (one, other) = if late { (verdict.clone(), container) } else { (container, verdict.clone()) };
        // Later the node takes it for a probe again.
        let probe =
            v1::Attributed { method: Some(EntryMethod::ExecProbe.into()), ..v1::Attributed::default() };
        let again = event("n", 3, 13, "s", attributed(probe));
        let mut index = index(vec![first.clone(), one, other, again, folded(3), folded(4)]);
        let session = all(&index).pop().unwrap();
        assert_eq!(session.attributed, Some(person.clone()));
        assert_eq!(session.container.unwrap().pod.unwrap().name, "web-0");
        assert_eq!(session.started.unwrap().exec_id, "e1");
        assert_eq!((session.method, session.folded), (Some(EntryMethod::RuntimeExec.into()), 7));
        let known =
            v1::Attribution { verdict: person.verdict, user: user("alice"), impersonated: user("bob") };
        assert_eq!(index.attribution(&first).as_deref(), Some(&known));
        assert!(!index.awaits_verdict(&first));
        // By the user and by whom they acted as, and by what it was in the end.
        let by = |user: &str| Filter { user: Some(user.to_owned()), ..Filter::default() };
        assert_eq!(ids(&index, &by("alice")), ["s"]);
        assert_eq!(ids(&index, &by("bob")), ["s"]);
        assert_eq!(ids(&index, &by("carol")), [""; 0]);
        let by = |method: EntryMethod| Filter { method: Some(method.into()), ..Filter::default() };
        assert_eq!(ids(&index, &by(EntryMethod::RuntimeExec)), ["s"]);
        assert_eq!(ids(&index, &by(EntryMethod::ExecProbe)), [""; 0]);
        // What is trimmed is not counted any more.
        index.trim(6);
        assert_eq!(all(&index).pop().unwrap().folded, 4);
    }
    let index = index(vec![first.clone(), verdict]);
    assert_eq!(index.for_attribution(2, 10), [2]);
    assert_eq!(index.for_attribution(1, 10), [0; 0]);
    let elsewhere = event("m", 1, 11, "s", exited());
    assert_eq!(index.attribution(&elsewhere), None);
}

#[test]
fn a_verdict_is_awaited_until_it_comes() {
    let method = |method| {
        let first = event("n", 1, 11, "s", started(10, method));
        index(vec![first.clone()]).awaits_verdict(&first)
    };
    use EntryMethod::*;
    for awaited in [RuntimeExec, Unknown, EphemeralContainer, NamespaceJoin, Attach, PortForward] {
        assert!(method(awaited), "{awaited:?}");
    }
    for never in [ExecProbe, LifecycleHook, HostNamespace] {
        assert!(!method(never), "{never:?}");
    }
}

#[test]
fn gaps_touch_by_name_or_by_time_and_only_on_their_node() {
    let index = index(vec![
        event("n", 1, 10, "a", started(10, EntryMethod::RuntimeExec)),
        event("n", 2, 20, "a", ended(3)),
        event("n", 3, 30, "b", started(25, EntryMethod::RuntimeExec)),
        event("m", 1, 10, "m", started(10, EntryMethod::RuntimeExec)),
        // Time of both, and known to the kernel by session as well: not counted twice.
        event("n", 4, 31, "", gap(GapSource::KernelRing, 5, 15, 26, &[])),
        event("n", 5, 32, "", gap(GapSource::AgentBuffer, 7, 40, 41, &["a"])),
        event("n", 6, 33, "", gap(GapSource::AgentBuffer, 11, 21, 24, &[])),
    ]);
    let lost: Vec<(String, u64)> = all(&index).into_iter().map(|s| (s.id, s.lost)).collect();
    assert_eq!(lost, [("b".to_owned(), 5), ("m".to_owned(), 0), ("a".to_owned(), 12)]);
    let cursors = |id| index.cursors(&index.find(id, &Rights::everything()).unwrap(), 0, 100);
    assert_eq!(cursors("a"), [1, 2, 5, 6]);
    assert_eq!(cursors("b"), [3, 5]);
    assert_eq!(index.cursors(&index.find("a", &Rights::everything()).unwrap(), 1, 2), [2, 5]);
    assert_eq!(index.nodes()[1].lost, 23);
}

#[test]
fn numbers_that_the_buffer_dropped_are_not_counted_as_a_hole_again() {
    let index = index(vec![
        event("n", 1, 10, "a", started(10, EntryMethod::RuntimeExec)),
        event("n", 2, 20, "", gap(GapSource::CollectorSequence, 9, 11, 19, &[])),
        event("n", 12, 20, "", gap(GapSource::AgentBuffer, 9, 11, 19, &[])),
    ]);
    assert_eq!(all(&index)[0].lost, 9);
    assert_eq!(index.nodes()[0].lost, 9);
}

#[test]
fn unreadable_events_may_touch_any_session_that_was_there() {
    let mut unreadable = event("", 0, 50, "", gap(GapSource::CollectorStore, 4, 0, 30, &[]));
    unreadable.id = None;
    let index = index(vec![
        event("n", 1, 10, "a", started(10, EntryMethod::RuntimeExec)),
        unreadable,
        event("m", 1, 40, "late", started(40, EntryMethod::RuntimeExec)),
    ]);
    let lost: Vec<(String, u64)> = all(&index).into_iter().map(|s| (s.id, s.lost)).collect();
    assert_eq!(lost, [("late".to_owned(), 0), ("a".to_owned(), 4)]);
    assert_eq!(index.cursors(&index.find("a", &Rights::everything()).unwrap(), 0, 100), [1, 2]);
    assert_eq!(index.nodes().iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), ["m", "n"]);
}

#[test]
fn found_by_a_unique_beginning() {
    let ids = ["abc1", "abc2", "abd", "ab", "x", "abe", "abf"];
    let mut index =
        index(ids.iter().map(|id| event("n", 1, 1, id, started(1, EntryMethod::RuntimeExec))).collect());
    let find =
        |index: &Index, id| index.find(id, &Rights::everything()).map(|s| index.session(&s).unwrap().id);
    assert_eq!(find(&index, "x").unwrap(), "x");
    assert_eq!(find(&index, "abd").unwrap(), "abd");
    assert_eq!(find(&index, "ab").unwrap(), "ab", "an exact id goes before longer ones");
    assert_eq!(
        find(&index, "a").unwrap_err().to_string(),
        "\"a\" is the beginning of several sessions, write more of it: ab, abc1, abc2, abd, abe"
    );
    assert!(matches!(find(&index, "zz"), Err(FindError::None { .. })));
    assert!(matches!(find(&index, ""), Err(FindError::None { .. })));

    // Another node that uses the same id does not touch the session of the first.
    index.apply(&entry(50, event("evil", 1, 2, "x", executed(&["rm"], true))));
    assert_eq!(
        find(&index, "x").unwrap_err().to_string(),
        "\"x\" is the beginning of several sessions, write more of it: x on c/n, x on c/evil"
    );
    let first = all(&index).into_iter().find(|s| s.id == "x" && s.node == "n").unwrap();
    assert_eq!((first.commands, first.first_command.as_str()), (0, ""));
}

#[test]
fn filters() {
    let make = |id: &str, from: i64, to: Option<i64>, method, c| {
        let mut first = event("n1", 1, from, id, started(from, method));
        first.container = Some(c);
        let mut events = vec![first];
        events.extend(to.map(|to| event("n1", 2, to, id, ended(0))));
        events
    };
    let mut events =
        make("a", 10, Some(20), EntryMethod::RuntimeExec, container("c0ffee", Some(("prod", "p"))));
    events.extend(make("b", 15, None, EntryMethod::NamespaceJoin, container("c0de", Some(("dev", "p")))));
    events.extend(make("d", 30, Some(40), EntryMethod::RuntimeExec, container("beef", None)));
    events.push(event("n2", 1, 35, "e", started(35, EntryMethod::Unknown)));
    let index = index(events);
    let with = |change: fn(&mut Filter)| {
        let mut filter = Filter::default();
        change(&mut filter);
        ids(&index, &filter)
    };
    assert_eq!(with(|_| {}), ["e", "d", "b", "a"]);
    assert_eq!(with(|f| f.since = Some(Moment(21 * SECOND))), ["e", "d", "b"]);
    assert_eq!(with(|f| f.since = Some(Moment(20 * SECOND))), ["e", "d", "b", "a"]);
    assert_eq!(with(|f| f.until = Some(Moment(15 * SECOND))), ["b", "a"]);
    assert_eq!(with(|f| (f.since, f.until) = (Some(Moment(22 * SECOND)), Some(Moment(25 * SECOND)))), ["b"]);
    assert_eq!(with(|f| f.namespace = Some("prod".to_owned())), ["a"]);
    assert_eq!(with(|f| f.pod = Some("p".to_owned())), ["b", "a"]);
    assert_eq!(with(|f| f.method = Some(EntryMethod::RuntimeExec.into())), ["d", "a"]);
    assert_eq!(with(|f| f.method = Some(0)), ["e"]);
    assert_eq!(with(|f| f.node = Some("n2".to_owned())), ["e"]);
    assert_eq!(with(|f| f.container = Some("c0f".to_owned())), ["a"]);
    assert_eq!(with(|f| f.container = Some("c".to_owned() + "9")), [""; 0]);
    let ambiguous = Filter { container: Some("c0".to_owned()), ..Filter::default() };
    assert_eq!(
        index.sessions(&ambiguous, &Rights::everything(), None, 10, 10).unwrap_err().to_string(),
        "\"c0\" is the beginning of several containers, write more of it: c0de, c0ffee"
    );
}

#[test]
fn pages_cover_all_once_newest_first() {
    let index = index(
        (0..25u64).map(|n| event("n", n + 1, (n / 3).cast_signed(), &format!("s{n:02}"), exited())).collect(),
    );
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page =
            index.sessions(&Filter::default(), &Rights::everything(), after.as_ref(), 4, usize::MAX).unwrap();
        assert!(page.sessions.len() <= 4);
        seen.extend(page.sessions.into_iter().map(|s| s.id));
        let Some(next) = page.next else { break };
        after = Some(PageToken::decode(&next.encode()).unwrap());
    }
    let wanted: Vec<String> = (0..25).rev().map(|n| format!("s{n:02}")).collect();
    assert_eq!(seen, wanted);
    // A page has room for at least one, whatever its length.
    assert_eq!(
        index.sessions(&Filter::default(), &Rights::everything(), None, 4, 1).unwrap().sessions.len(),
        1
    );
    assert_eq!(PageToken::decode("1/2"), None);
    assert_eq!(PageToken::decode("x/2/s"), None);
}

#[test]
fn what_is_trimmed_is_taken_back() {
    let mut index = index(vec![
        event("n", 1, 1, "over", started(1, EntryMethod::RuntimeExec)),
        event("n", 2, 2, "over", ended(0)),
        event("n", 3, 3, "open", started(3, EntryMethod::RuntimeExec)),
        event("n", 4, 4, "part", executed(&["a"], true)),
        event("n", 5, 5, "", gap(GapSource::AgentBuffer, 9, 1, 9, &[])),
        event("m", 1, 6, "part2", executed(&["b"], true)),
        event("n", 6, 7, "part", executed(&["c"], false)),
    ]);
    index.trim(6);
    let left: Vec<(String, u64, u64)> = all(&index).into_iter().map(|s| (s.id, s.commands, s.lost)).collect();
    let expected =
        [("part2", 1, 0), ("part", 1, 0), ("open", 0, 0)].map(|(id, n, lost)| (id.to_owned(), n, lost));
    assert_eq!(left, expected);
    assert_eq!(index.cursors(&index.find("part", &Rights::everything()).unwrap(), 0, 9), [7]);
    let nodes: Vec<(String, u64, u64)> =
        index.nodes().into_iter().map(|n| (n.name, n.events, n.lost)).collect();
    assert_eq!(nodes, [("m".to_owned(), 1, 0), ("n".to_owned(), 1, 0)]);
    // It goes on, and ends: dropped once the last of its events is.
    index.apply(&entry(8, event("n", 7, 8, "open", ended(0))));
    index.trim(9);
    assert_eq!(ids(&index, &Filter::default()), ["part2", "part"].map(str::to_owned));
}

#[test]
fn nodes() {
    let state = |phase: v1::agent_state::Phase| {
        Body::AgentState(v1::AgentState {
            phase: Some(phase.into()),
            version: "1".to_owned(),
            ..v1::AgentState::default()
        })
    };
    let mut index = Index::new();
    let mut first = entry(1, event("n", 7, 10, "", state(v1::agent_state::Phase::Started)));
    first.logged = Moment(12 * SECOND);
    index.apply(&first);
    index.apply(&first); // again: passed over
    index.set_connected("c", "n", true, Moment(13 * SECOND));
    index.set_connected("c", "n", true, Moment(14 * SECOND));
    index.set_connected("c", "n", false, Moment(15 * SECOND));
    let node = index.nodes().pop().unwrap();
    assert_eq!((node.epoch, node.last_seq, node.events, node.connected), (1, 7, 1, true));
    assert_eq!((node.last_seen, node.last_event), (timestamp(15), timestamp(10)));
    assert_eq!(node.lag.unwrap().seconds, 2);
    assert_eq!(node.agent.unwrap().version, "1");
    index.set_connected("c", "n", false, Moment(16 * SECOND));
    assert!(!index.nodes()[0].connected);
}

/// What a session must come to, counted in the plainest way.
#[derive(Debug, PartialEq)]
struct Naive {
    id: String,
    node: String,
    commands: u64,
    lost: u64,
    ended: bool,
    cursors: Vec<Cursor>,
}

fn recount(events: &[(Cursor, v1::Event)], oldest: Cursor) -> Vec<Naive> {
    let mut found: Vec<Naive> = Vec::new();
    let mut names: Vec<(String, String)> = events
        .iter()
        .filter(|(_, e)| !e.session_id.is_empty())
        .map(|(_, e)| (e.session_id.clone(), e.id.as_ref().unwrap().node.clone()))
        .collect();
    names.sort();
    names.dedup();
    for (id, node) in names {
        let own: Vec<_> = events
            .iter()
            .filter(|(_, e)| e.session_id == id && e.id.as_ref().unwrap().node == node)
            .collect();
        let time = |e: &v1::Event| Moment::from_timestamp(e.time.as_ref().unwrap());
        let begin = own.iter().map(|(_, e)| time(e)).min().unwrap();
        let end = own.iter().rev().find(|(_, e)| matches!(e.body, Some(Body::SessionEnded(_))));
        let until = end.map_or(Moment::MAX, |(_, e)| time(e));
        let mut cursors: Vec<Cursor> = own.iter().map(|(c, _)| *c).filter(|c| *c >= oldest).collect();
        if cursors.is_empty() && end.is_some() {
            continue;
        }
        let (mut ring, mut buffer, mut sequence, mut others) = (0, 0, 0, 0);
        for (cursor, e) in events.iter().filter(|(c, e)| *c >= oldest && e.id.as_ref().unwrap().node == node)
        {
            let Some(Body::Gap(g)) = &e.body else { continue };
            let from = Moment::from_timestamp(g.from.as_ref().unwrap());
            let to = Moment::from_timestamp(g.to.as_ref().unwrap());
            let touches = if g.session_ids.is_empty() {
                from <= until && begin <= to
            } else {
                g.session_ids.contains(&id)
            };
            if touches {
                cursors.push(*cursor);
                *match g.source() {
                    GapSource::KernelRing | GapSource::SessionBudget => &mut ring,
                    GapSource::AgentBuffer => &mut buffer,
                    GapSource::CollectorSequence => &mut sequence,
                    _ => &mut others,
                } += g.count();
            }
        }
        cursors.sort_unstable();
        let told = end.map_or(0, |(_, e)| match &e.body {
            Some(Body::SessionEnded(s)) => s.lost(),
            _ => 0,
        });
        let commands =
            own.iter().filter(|(c, e)| *c >= oldest && matches!(e.body, Some(Body::Executed(_)))).count()
                as u64;
        found.push(Naive {
            id,
            node,
            commands,
            lost: others + u64::max(ring, told) + u64::max(buffer, sequence),
            ended: end.is_some(),
            cursors,
        });
    }
    found
}

fn any_event() -> impl Strategy<Value = (bool, u8, i64, u8, i64, u64)> {
    (any::<bool>(), 0u8..4, 0i64..50, 0u8..10, 0i64..20, 0u64..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn counts_as_a_plain_recount_does(raw in prop::collection::vec(any_event(), 1..60), cut in 0usize..70) {
        let mut events = Vec::new();
        for (n, (first, session, at, kind, length, count)) in raw.into_iter().enumerate() {
            let id = format!("s{session}");
            let (id, body) = match kind {
                0 => (id, started(at, EntryMethod::RuntimeExec)),
                1..=3 => (id, executed(&["x"], kind == 1)),
                4 => (id, ended(count)),
                5 if count % 2 == 0 => (String::new(), gap(GapSource::SessionBudget, count, at, at + length, &[&id])),
                5 => (String::new(), gap(GapSource::KernelRing, count, at, at + length, &[])),
                6 => (String::new(), gap(GapSource::AgentBuffer, count, at, at + length, &[])),
                7 => (String::new(), gap(GapSource::AgentBuffer, count, at, at + length, &[&id])),
                8 => (String::new(), exited()),
                _ => (id, exited()),
            };
            let node = if first { "n" } else { "m" };
            let cursor = n as Cursor + 1;
            events.push((cursor, event(node, cursor, at, &id, body)));
        }
        let mut index = Index::new();
        for (n, (cursor, event)) in events.iter().enumerate() {
            index.apply(&entry(*cursor, event.clone()));
            if n == cut {
                index.trim(1); // nothing to trim: changes nothing
            }
        }
        let oldest = (cut as Cursor).min(events.len() as Cursor + 1);
        for oldest in [1, oldest.max(1)] {
            index.trim(oldest);
            let mut counted: Vec<Naive> = index
                .by_start
                .iter()
                .map(|(_, key)| {
                    let found = SessionRef(key.clone());
                    let s = index.session(&found).unwrap();
                    Naive {
                        id: s.id,
                        node: s.node,
                        commands: s.commands,
                        lost: s.lost,
                        ended: s.end.is_some(),
                        cursors: index.cursors(&found, 0, usize::MAX),
                    }
                })
                .collect();
            counted.sort_by(|a, b| (&a.id, &a.node).cmp(&(&b.id, &b.node)));
            prop_assert_eq!(counted, recount(&events, oldest));
            for node in index.nodes() {
                let own = events.iter().filter(|(c, e)| *c >= oldest && e.id.as_ref().unwrap().node == node.name);
                prop_assert_eq!(node.events, own.count() as u64);
            }
        }
    }
}

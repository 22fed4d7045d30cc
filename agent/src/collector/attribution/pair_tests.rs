//! Two sessions that are alike, and what the API server says of them, in every order; and what never comes, or late.

use podtrail_proto::v1::{self, Verdict, api_request::Action};

use super::{
    Settings,
    scene::{Ask, Run, Stage, at},
};
use crate::trail::Moment;

type Coming = Vec<(Moment, v1::Event)>;

/// Two sessions on one node, who asked for them, and what is said of each in the end.
struct Pair {
    name: &'static str,
    runs: [Run; 2],
    asks: Vec<Ask>,
    /// whether it can be known at any time that more is to come
    warned: bool,
    /// whose each is
    truth: [Option<&'static str>; 2],
    expected: [&'static str; 2],
}

fn pairs() -> Vec<Pair> {
    let run = |id: &str, begin, end| Run::new(id, &["sh"], begin, end);
    let (a, b) = (run("a", 1000, 20_000), run("b", 1010, 40_000));
    let alike = run("b", 1010, 20_005);
    let id = |run: &Run, id: &str| Run { audit_id: id.to_owned(), ..run.clone() };
    let asked = |run: &Run, user: &str, id: &str| Ask { id: id.to_owned(), ..run.asked_by(user) };
    vec![
        Pair {
            name: "told apart by their ends",
            runs: [a.clone(), b.clone()],
            asks: vec![a.asked_by("alice"), b.asked_by("bob")],
            warned: true,
            truth: [Some("alice"), Some("bob")],
            expected: ["MATCHED alice", "MATCHED bob"],
        },
        Pair {
            name: "not told apart",
            runs: [a.clone(), alike.clone()],
            asks: vec![a.asked_by("alice"), alike.asked_by("bob")],
            warned: true,
            truth: [Some("alice"), Some("bob")],
            expected: ["AMBIGUOUS alice bob", "AMBIGUOUS alice bob"],
        },
        Pair {
            name: "of one user",
            runs: [a.clone(), alike.clone()],
            asks: vec![a.asked_by("alice"), alike.asked_by("alice")],
            warned: true,
            truth: [Some("alice"), Some("alice")],
            expected: ["MATCHED alice", "MATCHED alice"],
        },
        Pair {
            name: "one is the node's own",
            runs: [a.clone(), alike.clone()],
            asks: vec![alike.asked_by("bob")],
            warned: true,
            truth: [None, Some("bob")],
            expected: ["AMBIGUOUS bob", "AMBIGUOUS bob"],
        },
        Pair {
            name: "one is the node's own, with another command",
            runs: [Run { argv: vec!["id".to_owned()], ..a.clone() }, b.clone()],
            asks: vec![b.asked_by("bob")],
            warned: true,
            truth: [None, Some("bob")],
            expected: ["NODE_LOCAL", "MATCHED bob"],
        },
        Pair {
            name: "with ids in their environments",
            runs: [id(&a, "1"), id(&alike, "2")],
            asks: vec![asked(&a, "alice", "1"), asked(&alike, "bob", "2")],
            warned: true,
            truth: [Some("alice"), Some("bob")],
            expected: ["EXACT_ID alice", "EXACT_ID bob"],
        },
        // Until the other comes, an id is one session's: that is taken back.
        Pair {
            name: "one has the other's id: planted",
            runs: [id(&a, "2"), id(&alike, "2")],
            asks: vec![asked(&a, "alice", "1"), asked(&alike, "bob", "2")],
            warned: false,
            truth: [Some("alice"), Some("bob")],
            expected: ["AMBIGUOUS alice bob", "AMBIGUOUS alice bob"],
        },
        Pair {
            name: "a client left at once",
            runs: [a.clone(), b.clone()],
            asks: vec![Ask { complete: Some(at(1100)), ..a.asked_by("alice") }, b.asked_by("bob")],
            warned: true,
            truth: [Some("alice"), Some("bob")],
            expected: ["AMBIGUOUS alice", "MATCHED bob"],
        },
    ]
}

/// All ways to put `n` things among `fixed` others, whose order stays: at each place the number of one of the `n`, or none.
fn interleavings(fixed: usize, n: usize) -> Vec<Vec<Option<usize>>> {
    fn go(fixed: usize, left: &[usize], so_far: &mut Vec<Option<usize>>, all: &mut Vec<Vec<Option<usize>>>) {
        if fixed == 0 && left.is_empty() {
            all.push(so_far.clone());
            return;
        }
        if fixed > 0 {
            so_far.push(None);
            go(fixed - 1, left, so_far, all);
            so_far.pop();
        }
        for one in left {
            let rest: Vec<usize> = left.iter().copied().filter(|other| other != one).collect();
            so_far.push(Some(*one));
            go(fixed, &rest, so_far, all);
            so_far.pop();
        }
    }
    let mut all = Vec::new();
    go(fixed, &(0..n).collect::<Vec<_>>(), &mut Vec::new(), &mut all);
    all
}

/// What is wrong with something that was said; `None`: nothing.
fn wrong(said: &v1::Attributed, truth: Option<&str>) -> Option<String> {
    let name = |user: &Option<v1::User>| user.as_ref().map(|user| user.name.clone());
    let right = match said.verdict() {
        Verdict::Matched | Verdict::ExactId => name(&said.user).as_deref() == truth,
        Verdict::Ambiguous => {
            truth.is_none_or(|truth| said.candidates.iter().any(|c| name(&c.user).as_deref() == Some(truth)))
        }
        Verdict::NodeLocal => truth.is_none(),
        Verdict::None | Verdict::Unspecified => true,
    };
    (!right).then(|| format!("{said:?}"))
}

/// The node's: both beginnings, as they come together, and each end.
fn of_node([a, b]: &[Run; 2]) -> [Vec<v1::Event>; 3] {
    let events = |run: &Run| run.events().into_iter().map(|(_, event)| event).collect::<Vec<_>>();
    let (a, b) = (events(a), events(b));
    let part = |of: &[v1::Event], range| of.get::<std::ops::Range<usize>>(range).unwrap().to_vec();
    [[part(&a, 0..2), part(&b, 0..2)].concat(), part(&a, 2..4), part(&b, 2..4)]
}

#[test]
fn a_pair_is_judged_alike_in_every_order_and_never_wrongly() {
    for (number, Pair { name, runs, asks, warned, truth, expected }) in pairs().into_iter().enumerate() {
        let node = of_node(&runs);
        let stages: Vec<v1::Event> = asks.iter().flat_map(Ask::events).map(|(_, event)| event).collect();
        let orders = interleavings(node.len(), stages.len());
        assert_eq!(orders.len(), if stages.len() == 4 { 840 } else { 20 });
        for (n, order) in orders.into_iter().enumerate() {
            // One after the other within the time that is waited; each order with one of them again, at the end or at once.
            let mut coming: Coming = Vec::new();
            let mut nodes = node.iter();
            for (place, one) in order.iter().enumerate() {
                let now = at(41_000 + i64::try_from(place).unwrap() * 5000);
                match one {
                    None => coming.extend(nodes.next().unwrap().iter().map(|event| (now, event.clone()))),
                    Some(stage) => {
                        coming.push((now, stages[*stage].clone()));
                        if stage % 2 == n % 2 {
                            let again = if n % 3 == 0 { at(90_000) } else { now };
                            coming.push((again, stages[*stage].clone()));
                        }
                    }
                }
            }
            let mut stage = Stage::new(Settings::default());
            stage.restless = n % 64 == number;
            stage.play(coming);
            stage.wait_until(at(165_000));
            for (run, (truth, expected)) in runs.iter().zip(truth.into_iter().zip(expected)) {
                assert_eq!(stage.last(&run.id), expected, "{name}: {} in order {order:?}", run.id);
                for said in stage.said(&run.id).into_iter().filter(|_| warned) {
                    assert_eq!(wrong(&said, truth), None, "{name}: {} in order {order:?}", run.id);
                }
            }
        }
    }
}

/// As [`Stage::play`] does, with what is said meanwhile counted at some moments.
fn said_at(stage: &mut Stage, session: &str, moments: &[i64]) -> Vec<String> {
    let said = |moment: &i64| {
        stage.wait_until(at(*moment));
        stage.last(session)
    };
    moments.iter().map(said).collect()
}

#[test]
fn a_request_that_is_missing_is_waited_for() {
    let (a, b) = (Run::new("a", &["sh"], 1000, 20_000), Run::new("b", &["sh"], 1010, 20_005));
    let (alice, bob) = (a.asked_by("alice"), b.asked_by("bob"));
    let mut stage = Stage::new(Settings::default());
    stage.play([a.events(), b.events(), bob.events()].concat());
    // Bob's may be of either; of the other nothing was told yet.
    assert_eq!(said_at(&mut stage, "a", &[30_000, 50_000]), ["-", "-"]);
    stage.play(alice.events().into_iter().map(|(_, event)| (at(50_000), event)).collect());
    assert_eq!(said_at(&mut stage, "a", &[52_000, 54_000]), ["-", "AMBIGUOUS alice bob"]);
    assert_eq!(stage.said("b").len(), 1);
    // No longer than for one that has none.
    let mut stage = Stage::new(Settings::default());
    stage.play([a.events(), b.events(), bob.events()].concat());
    assert_eq!(said_at(&mut stage, "a", &[60_000, 62_000]), ["-", "AMBIGUOUS bob"]);
}

#[test]
fn an_end_that_is_not_told_yet_excludes_nothing_for_a_while() {
    let (a, b) = (Run::new("a", &["sh"], 1000, 20_000), Run::new("b", &["sh"], 1010, 60_000));
    let (alice, bob) = (a.asked_by("alice"), b.asked_by("bob"));
    // The ends of both requests are late: they go on, as far as is known.
    let (began, ended): (Coming, Coming) =
        [alice.events(), bob.events()].concat().into_iter().partition(|(time, _)| *time < at(2000));
    let mut stage = Stage::new(Settings::default());
    stage.play([a.events(), b.events(), began].concat());
    assert_eq!(said_at(&mut stage, "a", &[69_000]), ["AMBIGUOUS alice bob"]);
    stage.play(ended.into_iter().map(|(_, event)| (at(70_000), event)).collect());
    assert_eq!(said_at(&mut stage, "a", &[84_000]), ["MATCHED alice"]);
    assert_eq!(stage.last("b"), "MATCHED bob");
    // One that is never told: only when the audit has had its time after the end.
    let open = Ask { complete: None, ..bob };
    let mut stage = Stage::new(Settings::default());
    stage.play([a.events(), b.events()[..2].to_vec(), open.events(), alice.events()].concat());
    let expected = ["AMBIGUOUS alice bob", "MATCHED alice"];
    assert_eq!(said_at(&mut stage, "a", &[75_000, 95_000]), expected);
}

#[test]
fn output_may_be_slow_to_be_read() {
    // Within ten seconds it says nothing, and after them neither, where there is nobody else.
    for drained in [29_000, 80_000] {
        let run = Run::new("s", &["cat", "/large"], 1000, 20_000);
        let ask = Ask { complete: Some(at(drained)), ..run.asked_by("alice") };
        let other = Run { pod: "web-1".to_owned(), ..Run::new("other", &["id"], 30_000, 31_000) };
        let mut stage = Stage::new(Settings::default());
        let coming = [run.events(), ask.events(), other.events()].concat();
        stage.play(coming.into_iter().map(|(_, event)| (at(81_000), event)).collect());
        stage.wait_until(at(200_000));
        assert_eq!(stage.last("s"), "MATCHED alice", "{drained}");
        let evidence = stage.said("s").last().unwrap().evidence.join("; ");
        let told = evidence.contains("the response went on after the session had ended");
        assert_eq!(told, drained > 30_000, "{evidence}");
    }
    // While the node has not told what began meanwhile, it may be of something else.
    let run = Run::new("s", &["cat", "/large"], 1000, 2000);
    let ask = Ask { complete: Some(at(80_000)), ..run.asked_by("alice") };
    let mut stage = Stage::new(Settings::default());
    let coming = [run.events(), ask.events()].concat();
    stage.play(coming.into_iter().map(|(_, event)| (at(81_000), event)).collect());
    assert_eq!(said_at(&mut stage, "s", &[90_000, 150_000]), ["AMBIGUOUS alice"; 2]);
    let other = Run { pod: "web-1".to_owned(), ..Run::new("other", &["id"], 150_000, 151_000) };
    stage.play(other.events());
    assert_eq!(said_at(&mut stage, "s", &[165_000]), ["MATCHED alice"]);
}

#[test]
fn slow_output_makes_nobodys_session_anothers() {
    // Alice's is still read when Bob's, which began and ended with hers, is over for long: excluded from both, her request
    // would be nobody's, and Bob's would be both's.
    let (a, b) = (Run::new("a", &["sh"], 1000, 20_000), Run::new("b", &["sh"], 1010, 20_005));
    let slow = Ask { complete: Some(at(60_000)), ..a.asked_by("alice") };
    let mut stage = Stage::new(Settings::default());
    stage.play([a.events(), b.events(), slow.events(), b.asked_by("bob").events()].concat());
    stage.wait_until(at(200_000));
    assert_eq!([stage.last("a"), stage.last("b")], ["AMBIGUOUS alice bob"; 2]);
    // Carol's fits to all three by its end, so that the two others would share Bob's.
    let c = Run::new("c", &["sh"], 1020, 59_000);
    let mut stage = Stage::new(Settings::default());
    let asks = [slow.events(), b.asked_by("bob").events(), c.asked_by("carol").events()];
    stage.play([[a.events(), b.events(), c.events()].concat(), asks.concat()].concat());
    stage.wait_until(at(200_000));
    for (session, user) in [("a", "alice"), ("b", "bob"), ("c", "carol")] {
        for said in stage.said(session) {
            assert_eq!(wrong(&said, Some(user)), None, "{session}");
        }
    }
}

#[test]
fn by_way_of_a_nodes_proxy_it_is_an_exec_all_the_same() {
    let run = Run::new("s", &["sh", "-c", "id"], 10_000, 12_000);
    let proxied = Ask { action: Action::NodeProxy, ..run.asked_by("alice") };
    let end = |ask: &Ask| {
        let mut stage = Stage::new(Settings::default());
        stage.play([run.events(), ask.events()].concat());
        stage.wait_until(at(100_000));
        let told = stage.said("s").last().is_some_and(|said| {
            said.evidence.iter().any(|line| line == "by way of the proxy of a node or a pod")
        });
        (stage.last("s"), told)
    };
    assert_eq!(end(&proxied), ("MATCHED alice".to_owned(), true));
    // The kubelet's `run` answers with the output, and so with 200: an exec of the API server's own does not.
    assert_eq!(end(&Ask { code: 200, ..proxied.clone() }).0, "MATCHED alice");
    assert_eq!(end(&Ask { code: 200, action: Action::Exec, ..proxied.clone() }).0, "NODE_LOCAL");
    for (what, wrong) in [
        ("forbidden", Ask { code: 403, ..proxied.clone() }),
        ("another command", Ask { argv: vec!["sh".to_owned()], ..proxied.clone() }),
        ("into no pod", Ask { pod: String::new(), argv: Vec::new(), ..proxied.clone() }),
    ] {
        assert_eq!(end(&wrong).0, "NODE_LOCAL", "{what}");
    }
    // Somebody else's exec beside it is as likely.
    let bob = run.asked_by("bob");
    let mut stage = Stage::new(Settings::default());
    stage.play([run.events(), proxied.events(), bob.events()].concat());
    stage.wait_until(at(100_000));
    assert_eq!(stage.last("s"), "AMBIGUOUS alice bob");
}

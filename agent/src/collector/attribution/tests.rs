use podtrail_proto::v1::{self, EntryMethod, Verdict, api_request::Action, event::Body};

use super::{
    Settings,
    scene::{Ask, Run, Stage, at},
};
use crate::trail::Moment;

fn all(parts: &[Vec<(Moment, v1::Event)>]) -> Vec<(Moment, v1::Event)> {
    parts.concat()
}

/// Plays it at the times that things happen, and lets everything be decided.
fn played(parts: &[Vec<(Moment, v1::Event)>]) -> Stage {
    let mut stage = Stage::new(Settings::default());
    stage.play(all(parts));
    stage.wait_until(at(300_000));
    stage
}

#[test]
fn one_request_that_fits_is_matched() {
    let run = Run::new("s", &["sh", "-c", "id"], 1000, 2000);
    let stage = played(&[run.events(), run.asked_by("alice").events()]);
    let said = stage.said("s");
    assert_eq!(said.len(), 1, "{said:?}");
    let v1::Attributed { user, audit_id, source_ips, evidence, verdict, candidates, .. } = &said[0];
    assert_eq!(*verdict, Some(Verdict::Matched.into()));
    assert_eq!(user.as_ref().unwrap().name, "alice");
    assert_eq!((audit_id.as_str(), source_ips.as_slice()), ("s-alice", &["192.0.2.5".to_owned()][..]));
    assert!(candidates.is_empty());
    assert_eq!(
        evidence.as_slice(),
        [
            "one request fits, and no other",
            "namespace, pod, container, terminal, and command are equal",
            "entered 20 ms after the API server's answer",
            "the response was complete 10 ms after its end",
        ]
    );
    let event =
        stage.log.iter().find(|entry| matches!(&entry.event.body, Some(Body::Attributed(_)))).unwrap();
    let id = event.event.id.clone().unwrap();
    assert_eq!((id.cluster.as_str(), id.node.as_str(), id.epoch, id.seq), ("c", "n", 0, 0));
    assert_eq!(event.event.container, Some(run.place()));
}

#[test]
fn what_does_not_fit_is_not_taken() {
    let run = Run::new("s", &["sh"], 10_000, 12_000);
    let ask = run.asked_by("mallory");
    for (what, wrong) in [
        ("another pod", Ask { pod: "web-1".to_owned(), ..ask.clone() }),
        ("another container", Ask { container: "sidecar".to_owned(), ..ask.clone() }),
        ("another command", Ask { argv: vec!["sh".to_owned(), "-x".to_owned()], ..ask.clone() }),
        ("a terminal", Ask { tty: true, ..ask.clone() }),
        ("forbidden", Ask { code: 403, ..ask.clone() }),
        ("failed", Ask { code: 500, ..ask.clone() }),
        ("attach", Ask { action: Action::Attach, ..ask.clone() }),
        ("too late", ask.clone().skewed(2500)),
        ("too early", ask.clone().skewed(-12_500)),
    ] {
        let stage = played(&[run.events(), wrong.events()]);
        assert_eq!(stage.last("s"), "NODE_LOCAL", "{what}");
    }
    // Clocks may be this far apart, and nodes this slow.
    for skew in [1900, -1900] {
        let stage = played(&[run.events(), ask.clone().skewed(skew).events()]);
        assert_eq!(stage.last("s"), "MATCHED mallory", "{skew}");
    }
    let slow = Ask { complete: ask.complete, ..ask.clone().skewed(-9_900) };
    assert_eq!(played(&[run.events(), slow.events()]).last("s"), "MATCHED mallory");
    let default = Ask { container: String::new(), ..ask };
    assert_eq!(played(&[run.events(), default.events()]).last("s"), "MATCHED mallory");
}

#[test]
fn two_that_fit_are_never_told_apart_by_chance() {
    // Bob's did not start anything: nobody can tell.
    let run = Run::new("s", &["sh"], 1000, 0);
    let (alice, bob) = (run.asked_by("alice"), run.asked_by("bob"));
    let stage = played(&[run.events(), alice.events(), bob.events()]);
    assert_eq!(stage.last("s"), "AMBIGUOUS alice bob");
    let said = stage.said("s");
    assert!(said[0].user.is_none() && said[0].audit_id.is_empty() && said[0].source_ips.is_empty());
    // Both have one: still nobody can tell which.
    let other = Run { id: "t".to_owned(), ..run.clone() };
    let stage = played(&[run.events(), other.events(), alice.events(), bob.events()]);
    assert_eq!(
        (stage.last("s"), stage.last("t")),
        ("AMBIGUOUS alice bob".to_owned(), "AMBIGUOUS alice bob".to_owned())
    );
    // One request for two sessions is one of them's.
    let stage = played(&[run.events(), other.events(), alice.events()]);
    assert_eq!(
        (stage.last("s"), stage.last("t")),
        ("AMBIGUOUS alice".to_owned(), "AMBIGUOUS alice".to_owned())
    );
    // Whichever it was, it was alice, from the same place.
    let again = Ask { id: "2".to_owned(), ..alice.clone() };
    let stage = played(&[run.events(), other.events(), alice.events(), again.events()]);
    assert_eq!(stage.last("s"), "MATCHED alice");
    let said = stage.said("s");
    assert_eq!((said[0].audit_id.as_str(), said[0].candidates.len()), ("", 2));
    // From another place it may be somebody who has her token.
    let stolen = Ask { id: "2".to_owned(), address: "203.0.113.9".to_owned(), ..alice.clone() };
    let stage = played(&[run.events(), other.events(), alice.events(), stolen.events()]);
    assert_eq!(stage.last("s"), "AMBIGUOUS alice alice");
}

#[test]
fn sessions_that_need_one_another_are_solved_together() {
    // The first is too early for bob's, so that the second has to be bob's.
    let first = Run::new("s", &["sh"], 1000, 0);
    let second = Run::new("t", &["sh"], 5000, 0);
    let (alice, bob) = (first.asked_by("alice"), second.asked_by("bob"));
    let stage = played(&[first.events(), second.events(), alice.events(), bob.events()]);
    assert_eq!((stage.last("s"), stage.last("t")), ("MATCHED alice".to_owned(), "MATCHED bob".to_owned()));
}

#[test]
fn ends_tell_apart_what_began_together() {
    let first = Run::new("s", &["sh"], 1000, 20_000);
    let second = Run::new("t", &["sh"], 1010, 60_000);
    let (alice, bob) = (first.asked_by("alice"), second.asked_by("bob"));
    let stage = played(&[first.events(), second.events(), alice.events(), bob.events()]);
    assert_eq!((stage.last("s"), stage.last("t")), ("MATCHED alice".to_owned(), "MATCHED bob".to_owned()));
    // First it was not known, which was said.
    let verdicts: Vec<Verdict> = stage.said("s").iter().map(v1::Attributed::verdict).collect();
    assert_eq!(verdicts, [Verdict::Ambiguous, Verdict::Matched]);
    // Clients may leave before the end, so that what was over early may be of either.
    let left = Ask { complete: Some(at(20_010)), ..bob.clone() };
    let stage = played(&[first.events(), second.events(), alice.events(), left.events()]);
    assert_eq!(stage.last("s"), "AMBIGUOUS alice bob");
    let left = Ask { complete: Some(at(60_010)), ..alice };
    let stage = played(&[first.events(), second.events(), left.events(), bob.events()]);
    assert_eq!(stage.last("s"), "AMBIGUOUS alice bob");
}

#[test]
fn an_id_is_exact_where_all_else_fits_too() {
    let id = "8ed335c5-9dc8-4feb-8ce0-938a1902fb10".to_owned();
    let run = Run { audit_id: id.clone(), ..Run::new("s", &["sh"], 1000, 2000) };
    let alice = Ask { id: id.clone(), ..run.asked_by("alice") };
    // Bob's has no id that the node knows of, and a session of its own.
    let other = Run { id: "t".to_owned(), audit_id: String::new(), ..run.clone() };
    let bob = other.asked_by("bob");
    let stage = played(&[run.events(), alice.events()]);
    assert_eq!(stage.last("s"), "EXACT_ID alice");
    // At once: there is nothing to wait for.
    let attributed = stage.log.iter().find(|e| matches!(e.event.body, Some(Body::Attributed(_)))).unwrap();
    assert_eq!(attributed.logged, at(1000));
    let stage = played(&[run.events(), alice.events(), other.events(), bob.events()]);
    assert_eq!((stage.last("s"), stage.last("t")), ("EXACT_ID alice".to_owned(), "MATCHED bob".to_owned()));
}

#[test]
fn a_forged_id_proves_nothing() {
    let id = "8ed335c5-9dc8-4feb-8ce0-938a1902fb10".to_owned();
    let run = Run { audit_id: id.clone(), ..Run::new("s", &["sh"], 1000, 2000) };
    let alice = run.asked_by("alice");
    let says = |stage: &Stage, session: &str, what: &str| {
        let said = stage.said(session);
        assert!(said.iter().any(|said| said.evidence.iter().any(|line| line.contains(what))), "{said:?}");
    };

    // The id of a request for another pod.
    let elsewhere = Ask { id: id.clone(), pod: "web-1".to_owned(), ..run.asked_by("mallory") };
    let stage = played(&[run.events(), alice.events(), elsewhere.events()]);
    assert_eq!(stage.last("s"), "MATCHED alice");
    says(&stage, "s", "but the request with that id does not fit");

    // Two requests that chose the same.
    let mallory = Ask { id: id.clone(), argv: vec!["id".to_owned()], ..run.asked_by("mallory") };
    let theirs = Ask { id: id.clone(), ..alice.clone() };
    let stage = played(&[run.events(), theirs.events(), mallory.events()]);
    assert_eq!(stage.last("s"), "MATCHED alice");
    says(&stage, "s", "which 2 requests have, so that it proves nothing");

    // Planted in the pod's environment, so that all sessions there have it.
    let other = Run { id: "t".to_owned(), argv: vec!["id".to_owned()], ..run.clone() };
    let planted = Ask { id: id.clone(), ..other.asked_by("mallory") };
    let stage = played(&[run.events(), other.events(), alice.events(), planted.events()]);
    assert_eq!(
        (stage.last("s"), stage.last("t")),
        ("MATCHED alice".to_owned(), "MATCHED mallory".to_owned())
    );
    says(&stage, "s", "which 2 sessions have, so that it proves nothing");

    // Planted, with a request that runs nothing: whose session it is then is between the two.
    let bait = Ask { id: id.clone(), ..run.asked_by("mallory") };
    let stage = played(&[run.events(), bait.events(), alice.events()]);
    assert_eq!(stage.last("s"), "AMBIGUOUS alice mallory");

    // An id that nobody has, and none that is known.
    assert_eq!(played(&[run.events()]).last("s"), "NODE_LOCAL");
    let unknown = Run { audit_id: "unknown".to_owned(), ..run.clone() };
    let stage = played(&[unknown.events()]);
    assert_eq!(stage.last("s"), "NODE_LOCAL");
    says(&stage, "s", "it came through the kubelet's API, from a caller that gave no id");
    assert_eq!(played(&[unknown.events(), alice.events()]).last("s"), "MATCHED alice");
}

#[test]
fn node_local_needs_ears() {
    let run = Run::new("s", &["sh"], 100_000, 101_000);
    let heard = |since: i64, upto: i64| {
        let mut stage = Stage::new(Settings::default());
        stage.heard = (at(since), at(upto));
        stage.play(run.events());
        stage.wait_until(at(400_000));
        stage
    };
    assert_eq!(heard(0, 300_000).last("s"), "NODE_LOCAL");
    // Not from before, and not until after.
    assert_eq!(heard(99_000, 300_000).last("s"), "NONE");
    let mut stage = heard(0, 100_500);
    assert_eq!(stage.last("s"), "NONE");
    // What is heard late makes it surer, and what comes late turns it.
    stage.hear_until(at(300_000));
    assert_eq!(stage.last("s"), "NODE_LOCAL");
    let late = run.asked_by("alice").events().into_iter().map(|(_, event)| (at(410_000), event));
    stage.play(late.collect());
    stage.wait_until(at(500_000));
    assert_eq!(stage.last("s"), "MATCHED alice");
    assert_eq!(stage.said("s").len(), 3);
}

#[test]
fn it_is_waited_until_the_audit_was_heard_past_the_start() {
    let run = Run::new("s", &["sh"], 1000, 0);
    let alice = run.asked_by("alice");
    // Another API server may have had one as well, and is not heard yet.
    let mut stage = Stage::new(Settings::default());
    stage.heard = (Moment::MIN, at(1500));
    stage.play(all(&[run.events(), alice.events()]));
    stage.wait_until(at(20_000));
    assert_eq!(stage.last("s"), "-");
    let bob = run.asked_by("bob");
    stage.play(vec![(at(21_000), bob.events()[0].1.clone())]);
    stage.hear_until(at(20_000));
    stage.wait_until(at(30_000));
    assert_eq!(stage.last("s"), "AMBIGUOUS alice bob");
    assert_eq!(stage.said("s").len(), 1);
    // A source that never comes is not waited for without end.
    let mut stage = Stage::new(Settings::default());
    stage.heard = (Moment::MIN, at(1500));
    stage.play(all(&[run.events(), alice.events()]));
    stage.wait_until(at(62_000));
    assert_eq!(stage.last("s"), "MATCHED alice");
}

#[test]
fn what_comes_too_late_takes_back_what_was_said() {
    let run = Run::new("s", &["sh"], 1000, 0);
    let mut stage = played(&[run.events(), run.asked_by("alice").events()]);
    assert_eq!(stage.last("s"), "MATCHED alice");
    let bob = run.asked_by("bob").events()[0].1.clone();
    stage.play(vec![(at(310_000), bob)]);
    stage.wait_until(at(320_000));
    assert_eq!(stage.last("s"), "AMBIGUOUS alice bob");
    let said = stage.said("s");
    let withdrawn = "what was said before is withdrawn: what came since fits as well";
    assert_eq!((said.len(), said[1].evidence.last().unwrap().as_str()), (2, withdrawn));
}

#[test]
fn a_match_or_a_terminal_overrules_what_it_was_taken_for() {
    for method in [EntryMethod::ExecProbe, EntryMethod::Unknown, EntryMethod::LifecycleHook] {
        let run = Run { method, ..Run::new("s", &["cat", "/healthy"], 1000, 2000) };
        let stage = played(&[run.events(), run.asked_by("alice").events()]);
        assert_eq!(stage.last("s"), "MATCHED alice");
        assert_eq!(stage.said("s")[0].method, Some(EntryMethod::RuntimeExec.into()));
    }
    let run = Run::new("s", &["sh"], 1000, 2000);
    assert_eq!(played(&[run.events(), run.asked_by("alice").events()]).said("s")[0].method, None);
    let terminal = Run { method: EntryMethod::Unknown, tty: true, ..run };
    let stage = played(&[terminal.events()]);
    assert_eq!(stage.last("s"), "NODE_LOCAL");
    assert_eq!(stage.said("s")[0].method, Some(EntryMethod::RuntimeExec.into()));
}

#[test]
fn a_probe_beside_a_person_has_no_request() {
    let probe = Run { method: EntryMethod::ExecProbe, ..Run::new("p", &["cat", "/healthy"], 1005, 1010) };
    let person = Run::new("s", &["cat", "/healthy"], 1000, 1010);
    let stage = played(&[probe.events(), person.events(), person.asked_by("alice").events()]);
    assert_eq!((stage.last("s"), stage.last("p")), ("MATCHED alice".to_owned(), "-".to_owned()));
    // The kubelet's own are said nothing of.
    assert_eq!(played(&[probe.events()]).last("p"), "-");
    // Nobody can tell which of the two that were taken for probes is hers.
    let other = Run { id: "q".to_owned(), ..probe.clone() };
    let stage = played(&[probe.events(), other.events(), person.asked_by("alice").events()]);
    assert_eq!(
        (stage.last("p"), stage.last("q")),
        ("AMBIGUOUS alice".to_owned(), "AMBIGUOUS alice".to_owned())
    );
}

#[test]
fn what_may_be_a_probe_is_not_called_node_local() {
    let run = Run { method: EntryMethod::Unknown, ..Run::new("s", &["cat", "/healthy"], 1000, 2000) };
    let mut stage = played(&[run.events()]);
    assert_eq!(stage.last("s"), "NONE");
    assert!(stage.said("s")[0].evidence[0].ends_with("the pod's specification is not known"));
    // Once the node knows better.
    let known = v1::Attributed { method: Some(EntryMethod::RuntimeExec.into()), ..v1::Attributed::default() };
    let known = v1::Event { body: Some(Body::Attributed(known)), ..run.events()[0].1.clone() };
    stage.play(vec![(at(310_000), known)]);
    stage.wait_until(at(320_000));
    assert_eq!(stage.last("s"), "NODE_LOCAL");
}

#[test]
fn ways_in_that_no_request_leads_to() {
    let join = Run { method: EntryMethod::NamespaceJoin, ..Run::new("j", &["sh"], 1000, 2000) };
    assert_eq!(played(&[join.events(), join.asked_by("alice").events()]).last("j"), "NODE_LOCAL");
    let mut bare = Run::new("b", &["sh"], 1000, 2000).events();
    for (_, event) in &mut bare {
        let container = event.container.as_mut().unwrap();
        (container.pod, container.metadata) = (None, Some(v1::Metadata::Known.into()));
    }
    assert_eq!(played(&[bare.clone()]).last("b"), "NODE_LOCAL");
    for (_, event) in &mut bare {
        let container = event.container.as_mut().unwrap();
        container.metadata = Some(v1::Metadata::NotFound.into());
        container.metadata_detail = "the runtime does not know it".to_owned();
    }
    let stage = played(&[bare]);
    assert_eq!(stage.last("b"), "NONE");
    assert_eq!(stage.said("b")[0].evidence, ["its pod is not known: the runtime does not know it"]);
}

#[test]
fn the_pod_may_become_known_later() {
    let run = Run::new("s", &["sh"], 1000, 0);
    let mut events = run.events();
    for (_, event) in &mut events {
        event.container.as_mut().unwrap().pod = None;
    }
    for session in ["s", ""] {
        let attributed = v1::Attributed { container: Some(run.place()), ..v1::Attributed::default() };
        let late = v1::Event {
            session_id: session.to_owned(),
            body: Some(Body::Attributed(attributed)),
            container: None,
            ..events[0].1.clone()
        };
        let stage = played(&[events.clone(), vec![(at(9000), late)], run.asked_by("alice").events()]);
        assert_eq!(stage.last("s"), "MATCHED alice");
    }
}

#[test]
fn an_ephemeral_container_is_known_by_its_name() {
    let run = Run {
        method: EntryMethod::EphemeralContainer,
        container: "dbg".to_owned(),
        ..Run::new("s", &["sh"], 90_000, 0)
    };
    let base = Ask {
        action: Action::EphemeralContainer,
        code: 200,
        container: String::new(),
        ..run.asked_by("alice")
    };
    let debug = Ask {
        ephemeral: vec!["dbg".to_owned()],
        complete: Some(at(1010)),
        received: at(1000),
        started: at(1005),
        ..base
    };
    let attach = Ask { action: Action::Attach, id: "attach".to_owned(), ..run.asked_by("alice") };
    let stage = played(&[run.events(), debug.events(), attach.events()]);
    assert_eq!(stage.last("s"), "MATCHED alice");
    assert_eq!(
        stage.said("s")[0].evidence,
        [
            "one request names this ephemeral container by its name",
            "the same user attached to it with request attach"
        ]
    );
    let other = Ask { ephemeral: vec!["other".to_owned()], ..debug };
    assert_eq!(played(&[run.events(), other.events()]).last("s"), "NODE_LOCAL");
}

#[test]
fn attach_and_port_forward_are_sessions_of_their_own() {
    let run = Run::new("s", &[], 1000, 9000);
    let attach = Ask { action: Action::Attach, argv: Vec::new(), ..run.asked_by("alice") };
    let forward = Ask { action: Action::PortForward, container: String::new(), ..run.asked_by("bob") };
    let refused = Ask { action: Action::PortForward, code: 403, ..run.asked_by("carol") };
    let requests = [attach.events(), forward.events(), refused.events()];
    let shape = |stage: &Stage| -> Vec<(String, String)> {
        let own = stage.log.iter().filter(|e| e.event.session_id.starts_with("api-"));
        own.map(|e| {
            let what = match e.event.body.as_ref().unwrap() {
                Body::SessionStarted(s) => format!("start {}", s.method().as_str_name()),
                Body::Attributed(a) => {
                    format!("{} {}", a.verdict().as_str_name(), a.user.as_ref().unwrap().name)
                }
                Body::SessionEnded(_) => "end".to_owned(),
                other => panic!("{other:?}"),
            };
            (e.event.session_id.clone(), what)
        })
        .collect()
    };
    let stage = played(&requests);
    let said = shape(&stage);
    let (a, f) = (said[0].0.clone(), said[2].0.clone());
    let of = |id: &str, what: &str| (id.to_owned(), what.to_owned());
    assert_eq!(
        said,
        [
            of(&a, "start ATTACH"),
            of(&a, "MATCHED alice"),
            of(&f, "start PORT_FORWARD"),
            of(&f, "MATCHED bob"),
            of(&a, "end"),
            of(&f, "end"),
        ]
    );
    // The same after restarts, and when a batch comes twice, whichever stage came first.
    let mut again = Stage::new(Settings::default());
    again.restless = true;
    again.play(all(&requests));
    again.play(requests.iter().flatten().map(|(_, event)| (at(20_000), event.clone())).collect());
    assert_eq!(shape(&again), said);
    let mut reversed = Stage::new(Settings::default());
    reversed.play(attach.events().into_iter().rev().map(|(_, event)| (at(20_000), event)).collect());
    assert_eq!(shape(&reversed), [of(&a, "start ATTACH"), of(&a, "MATCHED alice"), of(&a, "end")]);
}

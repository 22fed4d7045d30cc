//! Many at once, in every order, over every restart.

use podtrail_proto::v1::{self, EntryMethod, Verdict, event::Body};

use super::{
    Settings,
    scene::{Ask, MS, Run, Stage, at},
};
use crate::trail::Moment;

/// A pseudo-random order, the same for the same seed.
fn shuffled<T>(mut all: Vec<T>, seed: u64) -> Vec<T> {
    fastrand::Rng::with_seed(seed).shuffle(&mut all);
    all
}

#[test]
fn verdicts_are_the_same_in_every_order_and_over_every_restart() {
    let id = "8ed335c5-9dc8-4feb-8ce0-938a1902fb10".to_owned();
    let a = Run::new("a", &["sh"], 1000, 20_000);
    let b = Run::new("b", &["sh"], 1300, 90_000);
    let c = Run { audit_id: id.clone(), ..Run::new("c", &["id"], 1000, 2000) };
    let d = Run::new("d", &["ls"], 1000, 2000);
    let e = Run::new("e", &["ls"], 1000, 2000);
    let runs = [&a, &b, &c, &d, &e];
    let asks = [
        a.asked_by("alice").skewed(-700),
        b.asked_by("bob").skewed(-700),
        Ask { id, ..c.asked_by("carol") },
        d.asked_by("dave").skewed(500),
        e.asked_by("eve").skewed(-900),
    ];
    let expected =
        ["MATCHED alice", "MATCHED bob", "EXACT_ID carol", "AMBIGUOUS dave eve", "AMBIGUOUS dave eve"];
    let stages: Vec<v1::Event> = asks.iter().flat_map(Ask::events).map(|(_, event)| event).collect();
    for seed in 0..24 {
        // A node's events come in their order, the requests' in any, between them and behind.
        let mut rng = fastrand::Rng::with_seed(seed);
        let delay = rng.i64(0..30_000);
        let nodes: Vec<_> = runs
            .iter()
            .flat_map(|run| run.events())
            .map(|(time, event)| (Moment(time.0 + delay * MS), event))
            .collect();
        let requests =
            shuffled(stages.clone(), seed).into_iter().map(|event| (at(rng.i64(1000..40_000)), event));
        let mut stage = Stage::new(Settings::default());
        stage.restless = seed % 2 == 1;
        stage.play(nodes.into_iter().chain(requests).collect());
        stage.wait_until(at(200_000));
        let verdicts = runs.map(|run| stage.last(&run.id));
        assert_eq!(verdicts, expected, "seed {seed}");
        // A replay of everything that an API server said changes nothing.
        let before = stage.log.len();
        stage.play(stages.iter().map(|event| (at(210_000), event.clone())).collect());
        stage.wait_until(at(300_000));
        assert_eq!(stage.log.len(), before + stages.len(), "seed {seed}");
    }
}

/// Two hundred execs into twenty pods by ten users, with few different commands; and what else happens meanwhile.
#[test]
fn many_at_once_and_none_is_taken_for_another() {
    let commands: [&[&str]; 4] = [&["sh"], &["sh", "-c", "id"], &["ls", "-l"], &["cat", "/etc/hosts"]];
    let (mut sessions, mut ambiguous) = (0, 0);
    let mut wrong = Vec::new();
    for seed in 0..24 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut clock = |_| rng.i64(-900..900);
        let (nodes, servers) = ([0; 4].map(&mut clock), [0; 2].map(&mut clock));
        let mut rng = fastrand::Rng::with_seed(seed + 1000);
        let mut coming = Vec::new();
        let mut truth = Vec::new();
        for n in 0..230 {
            let pod = rng.usize(0..20);
            let node = pod % nodes.len();
            let begin = rng.i64(1000..60_000);
            let lasts = 10 << rng.u32(0..12);
            let run = Run {
                pod: format!("web-{pod}"),
                node: format!("n{node}"),
                tty: rng.u8(0..4) == 0,
                ..Run::new(&format!("s{n}"), commands[rng.usize(0..4)], begin, begin + lasts)
            };
            let user = format!("user-{}", rng.u8(0..10));
            let wait = rng.i64(5..300);
            let asked = run.asked_by(&user);
            let asked = Ask {
                id: format!("r{n}"),
                address: format!("192.0.2.{user}"),
                received: Moment(run.entered.0 - (wait + 10) * MS),
                started: Moment(run.entered.0 - wait * MS),
                // Some leave before the end, and some read slowly what was printed.
                complete: match rng.u8(0..20) {
                    0 => Some(Moment(run.entered.0 + lasts / 3 * MS)),
                    1 => run.end.map(|end| Moment(end.0 + rng.i64(80..10_000) * MS)),
                    _ => run.end.map(|end| Moment(end.0 + rng.i64(1..80) * MS)),
                },
                ..asked
            };
            let of_node = Moment(nodes[node] * MS);
            let run = Run {
                entered: Moment(run.entered.0 + of_node.0),
                end: run.end.map(|end| Moment(end.0 + of_node.0)),
                ..run
            };
            let asked = asked.skewed(servers[rng.usize(0..2)]);
            // The last thirty are the node's own, or start nothing: there is no such program.
            let (runs, asks) = (n < 215, !(200..215).contains(&n));
            let asked = if runs { asked } else { Ask { argv: vec!["bash".to_owned()], ..asked } };
            if runs {
                let report = rng.i64(0..200) * MS;
                coming.extend(run.events().into_iter().map(|(t, e)| (Moment(t.0 - of_node.0 + report), e)));
                truth.push((run.id.clone(), asks.then_some(user)));
            }
            if asks {
                // An API server whose batch went astray sends it again, while others come.
                let mut delay = || match rng.u8(0..16) {
                    0 => rng.i64(2000..30_000),
                    _ => rng.i64(0..2000),
                };
                coming.extend(asked.events().into_iter().map(|(t, e)| (Moment(t.0 + delay() * MS), e)));
            }
        }
        let mut stage = Stage::new(Settings::default());
        stage.play(coming);
        stage.wait_until(at(200_000));
        for (id, user) in truth {
            let said = stage.said(&id);
            let names = |user: Option<&v1::User>| user.map(|user| user.name.clone());
            sessions += 1;
            for said in &said {
                let right = match said.verdict() {
                    Verdict::Matched => names(said.user.as_ref()) == user,
                    Verdict::NodeLocal => user.is_none(),
                    Verdict::Ambiguous => {
                        let all: Vec<_> = said.candidates.iter().map(|c| names(c.user.as_ref())).collect();
                        user.is_none() || all.contains(&user)
                    }
                    other => panic!("{other:?} on {id}, seed {seed}"),
                };
                if !right {
                    wrong.push((seed, id.clone(), user.clone(), said.clone()));
                }
            }
            ambiguous += i32::from(said.last().unwrap().verdict() == Verdict::Ambiguous);
        }
    }
    println!("{ambiguous} of {sessions} are ambiguous");
    assert!(wrong.is_empty(), "{} are wrong: {:#?}", wrong.len(), wrong.first());
    assert!(ambiguous * 3 < sessions, "{ambiguous} of {sessions}");
}

/// What a real API server wrote of a run, and the sessions that it caused, as nodes tell them.
fn real() -> (Vec<v1::Event>, Vec<(Run, &'static str)>) {
    let text = include_bytes!("../../../../tests/fixtures/audit/exec-eventlist.json");
    let requests = crate::collector::audit::Batch::parse(text).unwrap().requests;
    let run = |id: &'static str, expected: &'static str| {
        let of = |stage: &str| {
            let found = requests.iter().find(|r| r.audit_id.starts_with(id) && r.stage == stage).unwrap();
            (found.clone(), Moment::from_timestamp(found.stage_time.as_ref().unwrap()))
        };
        let ((request, started), (_, complete)) = (of("ResponseStarted"), of("ResponseComplete"));
        let run = Run {
            id: id.to_owned(),
            argv: request.command.clone(),
            tty: request.tty(),
            entered: Moment(started.0 + 8 * MS),
            end: Some(Moment(complete.0 - 5 * MS)),
            ..Run::new("", &[], 0, 0)
        };
        (run, expected)
    };
    let mut runs = vec![
        run("8ed335c5", "MATCHED alice@example.com"),
        run("55997f4b", "MATCHED alice@example.com"),
        run("68ced368", "MATCHED alice@example.com"),
        run("54586b92", "MATCHED alice@example.com"),
        run("68e9628c", "MATCHED alice@example.com"),
        run("e4bcbd75", "MATCHED alice@example.com"),
    ];
    // kubectl debug: its container comes up a while after.
    let debug = requests.iter().find(|r| r.audit_id.starts_with("a443f76b")).unwrap();
    let asked = Moment::from_timestamp(debug.stage_time.as_ref().unwrap());
    let dbg = Run {
        id: "debug".to_owned(),
        container: "dbg".to_owned(),
        method: EntryMethod::EphemeralContainer,
        argv: vec!["/bin/sh".to_owned()],
        entered: Moment(asked.0 + 900 * MS),
        end: Some(Moment(asked.0 + 3000 * MS)),
        ..Run::new("", &[], 0, 0)
    };
    runs.push((dbg, "MATCHED alice@example.com"));
    // crictl, with the arguments of a request that failed with 500 in the same second.
    let failed = requests.iter().find(|r| r.audit_id.starts_with("e63e6b22")).unwrap();
    let then = Moment::from_timestamp(failed.stage_time.as_ref().unwrap());
    let crictl = Run {
        id: "crictl".to_owned(),
        argv: failed.command.clone(),
        entered: Moment(then.0 + 10 * MS),
        end: Some(Moment(then.0 + 20 * MS)),
        ..Run::new("", &[], 0, 0)
    };
    runs.push((crictl, "NODE_LOCAL"));
    let event = |request: v1::ApiRequest| v1::Event {
        id: Some(v1::EventId { cluster: "c".to_owned(), ..v1::EventId::default() }),
        time: request.stage_time,
        body: Some(Body::ApiRequest(request)),
        ..v1::Event::default()
    };
    (requests.into_iter().map(event).collect(), runs)
}

#[test]
fn a_real_run_in_every_order_of_arrival() {
    let (requests, runs) = real();
    let begin = requests.iter().map(|e| Moment::from_timestamp(e.time.as_ref().unwrap())).min().unwrap();
    let end = Moment(begin.0 + 130_000 * MS);
    let mut attached = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut stage = Stage::new(Settings::default());
        stage.now = begin;
        stage.restless = seed % 4 == 0;
        let node = rng.i64(0..20_000) * MS;
        let api = rng.i64(0..40_000) * MS;
        // Every request comes at any time after it happened, each of its stages too.
        let requests = requests.iter().map(|event| {
            let happened = Moment::from_timestamp(event.time.as_ref().unwrap());
            (Moment(happened.0 + rng.i64(0..=api)), event.clone())
        });
        let sessions = runs.iter().flat_map(|(run, _)| run.events());
        let sessions = sessions.map(|(time, event)| (Moment(time.0 + node), event));
        stage.play(sessions.chain(requests).collect());
        stage.wait_until(end);
        for (run, expected) in &runs {
            assert_eq!(stage.last(&run.id), *expected, "{} with seed {seed}", run.id);
        }
        // The attach is a session, the port-forward that was forbidden is none.
        let own = stage.log.iter().map(|entry| &entry.event.session_id).filter(|id| id.starts_with("api-"));
        attached.extend(own.cloned());
    }
    assert_eq!(attached.len(), 1, "{attached:?}");
}

#[test]
fn memory_is_bounded_and_nobody_is_left_out() {
    let settings = Settings { most: 50, ..Settings::default() };
    let mut stage = Stage::new(settings);
    let runs: Vec<Run> = (0..500)
        .map(|n| Run { pod: format!("web-{n}"), ..Run::new(&format!("s{n}"), &["sh"], 1000 + n, 0) })
        .collect();
    stage.play(runs.iter().flat_map(|run| [run.asked_by("alice").events(), run.events()].concat()).collect());
    let (sessions, requests) = stage.held();
    assert!(sessions <= 50 && requests <= 200, "{sessions} {requests}");
    stage.wait_until(at(200_000));
    // Those that had to go early were told what was known then.
    for run in &runs {
        assert_eq!(stage.last(&run.id), "MATCHED alice", "{}", run.id);
    }
    stage.wait_until(at(5_000_000));
    assert_eq!(stage.held().0, 0);
}

#[test]
fn times_may_be_anything() {
    let times = [Moment::MIN, Moment(0), at(1000), Moment::MAX];
    for entered in times {
        for other in times {
            let run = Run { entered, end: Some(other), ..Run::new("s", &["sh"], 1000, 0) };
            let ask = Run::new("s", &["sh"], 1000, 0).asked_by("alice");
            let ask = Ask { received: other, started: entered, complete: Some(other), ..ask };
            let debug = Run { id: "d".to_owned(), method: EntryMethod::EphemeralContainer, ..run.clone() };
            let host = Run { id: "h".to_owned(), method: EntryMethod::HostNamespace, ..run.clone() };
            let events = [run.events(), debug.events(), host.events(), ask.events()].concat();
            let mut stage = Stage::new(Settings::default());
            stage.play(events.into_iter().map(|(_, event)| (at(5000), event)).collect());
            stage.wait_until(at(100_000));
            assert_ne!(stage.last("s"), "-");
        }
    }
}

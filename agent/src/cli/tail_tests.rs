use podtrail_proto::v1::node_condition::Change;

use super::*;

fn shown(bodies: Vec<Body>) -> String {
    let look = Look { colour: false, width: None, now: jiff::Timestamp::UNIX_EPOCH };
    let mut printer = Printer::new(look);
    let mut out = String::new();
    for body in bodies {
        let event = v1::Event {
            id: Some(v1::EventId { node: "n1".to_owned(), ..Default::default() }),
            time: Some(podtrail_proto::Timestamp { seconds: 1_795_378_442, nanos: 118_000_000 }),
            session_id: "4k7qabcdefgh".to_owned(),
            container: Some(v1::Container { name: "app".to_owned(), ..Default::default() }),
            body: Some(body),
            ..Default::default()
        };
        printer.push(&mut out, &event);
    }
    out
}

fn bad() -> v1::NodeCondition {
    v1::NodeCondition {
        r#type: "KernelDeadlock".to_owned(),
        status: "True".to_owned(),
        reason: "DockerHung".to_owned(),
        message: "no\x1b[2J".to_owned(),
        transition: Some(podtrail_proto::Timestamp { seconds: 1_795_378_442, nanos: 0 }),
        ..Default::default()
    }
}

fn good() -> v1::NodeCondition {
    v1::NodeCondition { r#type: "XfsShutdown".to_owned(), status: "False".to_owned(), ..Default::default() }
}

#[test]
fn every_kind_has_its_line() {
    let sh = || Some(v1::Process { pid: 7, comm: "sh".to_owned(), ..Default::default() });
    let second = Some(podtrail_proto::Duration { seconds: 1, nanos: 0 });
    let bodies = vec![
        Body::AgentState(v1::AgentState {
            phase: Some(Phase::Started.into()),
            version: "0.1.0".to_owned(),
            kernel: "6.18".to_owned(),
            ..Default::default()
        }),
        Body::SessionStarted(v1::SessionStarted {
            method: Some(v1::EntryMethod::NamespaceJoin.into()),
            entered_by: Some(v1::Process { comm: "nsenter".to_owned(), ..Default::default() }),
            ..Default::default()
        }),
        Body::Executed(v1::Executed {
            argv: vec!["sh".to_owned(), "-c".to_owned(), "a\nb".to_owned()],
            ..Default::default()
        }),
        Body::ExecFailed(v1::ExecFailed {
            path: "/tmp/x".to_owned(),
            argv: vec!["/tmp/x".to_owned()],
            truncated: Some(true),
            errno: Some(8),
            error: "ENOEXEC".to_owned(),
            attempts: Some(1),
            ..Default::default()
        }),
        Body::Exited(v1::Exited {
            process: sh(),
            signal: Some(9),
            duration: second,
            late: true,
            ..Default::default()
        }),
        Body::NamespaceJoined(v1::NamespaceJoined {
            process: sh(),
            namespaces: Some(v1::Namespaces { mount: 1, ..Default::default() }),
            ..Default::default()
        }),
        Body::Gap(v1::Gap { count: Some(2), exact: Some(false), ..Default::default() }),
        Body::Attributed(v1::Attributed {
            user: Some(v1::User { name: "eve\x1b".to_owned(), ..Default::default() }),
            verdict: Some(v1::Verdict::Matched.into()),
            evidence: vec!["one request fits,\nand no other".to_owned()],
            ..Default::default()
        }),
        Body::Attributed(v1::Attributed {
            method: Some(v1::EntryMethod::ExecProbe.into()),
            exec_id: "0123456789abcdef".to_owned(),
            container: Some(v1::Container { name: "app".to_owned(), ..Default::default() }),
            ..Default::default()
        }),
        Body::NodeCondition(bad()),
        Body::NodeCondition(v1::NodeCondition {
            status: "False".to_owned(),
            change: Some(Change::Reset.into()),
            previous_status: "True".to_owned(),
            ..bad()
        }),
        Body::NodeCondition(v1::NodeCondition {
            stale: Some(true),
            change: Some(Change::Stale.into()),
            reason: String::new(),
            ..bad()
        }),
        Body::NodeState(v1::NodeState { conditions: vec![bad(), good()] }),
        Body::NodeState(v1::NodeState { conditions: vec![good(); 6] }),
        Body::NodeObserved(v1::NodeObserved {
            conditions: vec![bad(), good()],
            problems: vec![v1::ProblemCount { reason: "OOMKilling".to_owned(), count: 3 }],
            ..Default::default()
        }),
        Body::NodeObserved(v1::NodeObserved { unreachable: "refused\x1b".to_owned(), ..Default::default() }),
        Body::ClusterEvent(v1::ClusterEvent {
            r#type: "Warning".to_owned(),
            reason: "BackOff".to_owned(),
            message: "restarting\x1b]0;x".to_owned(),
            involved: Some(v1::Involved {
                kind: "Pod".to_owned(),
                namespace: "prod".to_owned(),
                name: "payments 0".to_owned(),
                field_path: "spec.containers{app}".to_owned(),
                ..Default::default()
            }),
            component: "kubelet".to_owned(),
            count: Some(1234),
            merged: true,
            mangled: true,
            ..Default::default()
        }),
        Body::SessionEnded(v1::SessionEnded {
            exit_code: Some(0),
            duration: second,
            commands: Some(2),
            lost: Some(1),
            ..Default::default()
        }),
    ];
    let golden = r"
2026-11-22 20:14:02.118  n1        app             4k7qabcd  agent  agent started, version 0.1.0, kernel 6.18, 0 hooks
2026-11-22 20:14:02.118  n1        app             4k7qabcd  start  namespace join (nsenter), no terminal
2026-11-22 20:14:02.118  n1        app             4k7qabcd  exec   sh -c $'a\nb'
2026-11-22 20:14:02.118  n1        app             4k7qabcd  fail   /tmp/x …: Exec format error, ENOEXEC
2026-11-22 20:14:02.118  n1        app             4k7qabcd  exit   killed (9) SIGKILL  sh (pid 7) after 1.00 s, or earlier
2026-11-22 20:14:02.118  n1        app             4k7qabcd  join   sh (pid 7) joined the mount namespace of app
2026-11-22 20:14:02.118  n1        app             4k7qabcd  gap    !! at least 2 events missing here: reason not told; from any session open then
2026-11-22 20:14:02.118  n1        app             4k7qabcd  who    $'eve\x1b', matched: one request fits,\nand no other
2026-11-22 20:14:02.118  n1        app             4k7qabcd  who    app, exec 0123456789ab, is exec probe
2026-11-22 20:14:02.118  n1        app             4k7qabcd  node   KernelDeadlock=True: DockerHung, no\x1b[2J, since 2026-11-22 20:14:02
2026-11-22 20:14:02.118  n1        app             4k7qabcd  node   KernelDeadlock=False, was True; reset: its detector began anew, which proves nothing: DockerHung, no\x1b[2J, since 2026-11-22 20:14:02
2026-11-22 20:14:02.118  n1        app             4k7qabcd  node   KernelDeadlock=True (stale): nobody confirms it any more: no\x1b[2J, since 2026-11-22 20:14:02
2026-11-22 20:14:02.118  n1        app             4k7qabcd  node   now: KernelDeadlock=True, 1 good
2026-11-22 20:14:02.118  n1        app             4k7qabcd  node   now: 6 good
2026-11-22 20:14:02.118  n1        app             4k7qabcd  node   the node's problem detector has 2 conditions: KernelDeadlock=True; 3 problems counted
2026-11-22 20:14:02.118  n1        app             4k7qabcd  node   the node's problem detector does not answer: refused\x1b
2026-11-22 20:14:02.118  n1        app             4k7qabcd  k8s    Pod prod/'payments 0' spec.containers{app}: BackOff, restarting\x1b]0;x (kubelet), 1,234 times, others put together with it, its text spoilt by its writer
2026-11-22 20:14:02.118  n1        app             4k7qabcd  end    exit 0 after 1.00 s, 2 commands, at least 1 lost
";
    assert_eq!(format!("\n{}", shown(bodies)), golden);
}

#[test]
fn who_it_was_has_a_column_once_somebody_is_known() {
    let look = Look { colour: false, width: None, now: jiff::Timestamp::UNIX_EPOCH };
    let mut printer = Printer::new(look);
    let mut out = String::new();
    let event = |who: Option<v1::Attribution>| v1::Event {
        session_id: "4k7qabcdefgh".to_owned(),
        attribution: who,
        body: Some(Body::Executed(v1::Executed { argv: vec!["id".to_owned()], ..Default::default() })),
        ..Default::default()
    };
    let named = |verdict: v1::Verdict, name: Option<&str>| {
        let user = name.map(|name| v1::User { name: name.to_owned(), ..Default::default() });
        Some(v1::Attribution { verdict: Some(verdict.into()), user, impersonated: None })
    };
    for who in [
        None,
        named(v1::Verdict::Matched, Some("alice@example.com")),
        named(v1::Verdict::NodeLocal, None),
        named(v1::Verdict::Ambiguous, None),
        None,
    ] {
        printer.push(&mut out, &event(who));
    }
    let golden = r"
-                        -         -               4k7qabcd  exec   id
-                        -         -               4k7qabcd  alice@example.com  exec   id
-                        -         -               4k7qabcd  node-local         exec   id
-                        -         -               4k7qabcd  ?                  exec   id
-                        -         -               4k7qabcd                     exec   id
";
    assert_eq!(format!("\n{out}"), golden);
}

#[test]
fn an_event_of_a_newer_version_is_not_hidden() {
    let look = Look { colour: false, width: None, now: jiff::Timestamp::UNIX_EPOCH };
    let mut out = String::new();
    Printer::new(look).push(&mut out, &v1::Event::default());
    assert!(out.contains("upgrade this one"), "{out}");
}

#[test]
fn agents_say_what_they_found_and_whether_anything_was_missed() {
    let state = |phase: Phase| v1::AgentState { phase: Some(phase.into()), ..Default::default() };
    let finding = |n: usize| v1::Finding {
        subject: format!("link {n}"),
        detail: "gone\x1b[2J: attached again".to_owned(),
        time: None,
    };
    let since = Some(podtrail_proto::Timestamp { seconds: 1_795_378_000, nanos: 0 });
    let bodies = [
        v1::AgentState {
            version: "0.2.0".to_owned(),
            kernel: "6.18".to_owned(),
            adopted: Some(true),
            stopped_cleanly: Some(false),
            since,
            ..state(Phase::Upgraded)
        },
        v1::AgentState { findings: vec![finding(1)], ..state(Phase::Integrity) },
        v1::AgentState { findings: (1..=10).map(finding).collect(), ..state(Phase::Integrity) },
        state(Phase::Integrity),
        v1::AgentState { since, ..state(Phase::Silent) },
    ];
    let shown = shown(bodies.into_iter().map(Body::AgentState).collect());
    let lines: Vec<&str> =
        shown.lines().filter_map(|line| line.split_once("agent  ")).map(|(_, text)| text).collect();
    assert_eq!(
        lines[0],
        "agent upgraded, the one before was last at work 2026-11-22 20:06:40, version 0.2.0, kernel 6.18, 0 hooks, \
         reads on: the kernel side recorded meanwhile, the one before did not say that it stopped"
    );
    assert_eq!(lines[1], "agent disturbed; link 1: gone\\x1b[2J: attached again");
    assert!(lines[2].contains("; link 8: ") && lines[2].ends_with("; and 2 more"), "{}", lines[2]);
    assert_eq!(lines[3..], ["agent whole again", "agent silent, nothing came since 2026-11-22 20:06:40"]);
}

#[test]
fn the_way_in_and_what_was_only_counted() {
    let attributed = |method: v1::EntryMethod| v1::Attributed {
        method: Some(method.into()),
        evidence: vec!["another came\x1b in the probe's rhythm".to_owned()],
        ..Default::default()
    };
    let at = |seconds: i64| Some(podtrail_proto::Timestamp { seconds: 1_795_378_442 + seconds, nanos: 0 });
    let bodies = vec![
        Body::SessionStarted(v1::SessionStarted {
            method: Some(v1::EntryMethod::ExecProbe.into()),
            probe: Some(v1::Probe { kind: "readiness".to_owned(), period: None }),
            ..Default::default()
        }),
        Body::SessionStarted(v1::SessionStarted {
            method: Some(v1::EntryMethod::RuntimeExec.into()),
            labels: vec!["kubectl cp".to_owned()],
            ..Default::default()
        }),
        Body::Attributed(attributed(v1::EntryMethod::ExecProbe)),
        Body::Folded(v1::Folded {
            like_session_id: "4k7qabcdefgh".to_owned(),
            sessions: Some(58),
            commands: Some(116),
            first: at(5),
            last: at(290),
            exit_code: Some(0),
            ..Default::default()
        }),
        Body::Folded(v1::Folded { sessions: Some(1), signal: Some(9), ..Default::default() }),
    ];
    let shown = shown(bodies);
    let lines: Vec<&str> =
        shown.lines().filter_map(|line| line.split_once("4k7qabcd  ").map(|(_, text)| text)).collect();
    assert_eq!(
        lines,
        [
            "start  exec probe (readiness), no terminal",
            "start  runtime exec, no terminal, kubectl cp",
            "who    is exec probe: another came\\x1b in the probe's rhythm",
            "probe  58 sessions like 4k7qabcd, exit 0, 116 commands, 20:14:07.000 → 20:18:52.000",
            "probe  1 session of which none is told, killed (9) SIGKILL, 0 commands",
        ]
    );
}

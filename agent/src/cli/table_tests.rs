use podtrail_proto::{Duration, Timestamp};

use super::*;
use crate::cli::testing::{self, BASE};

fn look(width: Option<usize>) -> Look {
    Look { colour: false, width, now: "2026-11-22T21:00:00Z".parse().unwrap() }
}

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: BASE + seconds, nanos: 0 })
}

fn two() -> Vec<v1::Session> {
    let closed = v1::Session {
        start: at(-86_400),
        end: at(29 - 86_400),
        ended: Some(v1::SessionEnded {
            duration: Some(Duration { seconds: 29, nanos: 0 }),
            lost: Some(3),
            ..Default::default()
        }),
        commands: 1234,
        attributed: Some(v1::Attributed {
            user: Some(v1::User { name: "eve\n@example.org".to_owned(), ..Default::default() }),
            verdict: Some(v1::Verdict::Matched.into()),
            ..Default::default()
        }),
        first_command: "sh -c id\n".to_owned(),
        ..testing::session("4k7qabcdXYZ")
    };
    let open = v1::Session {
        id: "4k7qabcdXZZ".to_owned(),
        node: "n1".to_owned(),
        container: Some(v1::Container { id: "0123456789abcdef".to_owned(), ..Default::default() }),
        start: at(0),
        commands: 1,
        ..Default::default()
    };
    vec![closed, open]
}

#[test]
fn sessions_stand_in_columns() {
    let golden = r"
SESSION     START                          LENGTH  NODE  CONTAINER            METHOD        TTY    USER                  COMMANDS  LOST  FIRST COMMAND
4k7qabcdXY  2026-11-21 20:14:02              29 s  n1    prod/payments-0/app  runtime exec  pts/0  $'eve\n@example.org'     1,234     3  sh -c id\n
4k7qabcdXZ  20:14:02             open 45 min 58 s  n1    0123456789ab         not known     -      -                            1     0
";
    let shown = sessions(&two(), &look(None));
    assert_eq!(format!("\n{shown}"), golden);
}

#[test]
fn what_was_only_counted_has_a_column_where_there_is_some() {
    let mut probes = two();
    probes[0].folded = 4321;
    probes[0].method = Some(v1::EntryMethod::ExecProbe.into());
    let started = probes[0].started.as_mut().unwrap();
    started.probe = Some(v1::Probe { kind: "liveness".to_owned(), period: None });
    let shown = sessions(&probes, &look(None));
    let cells: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(shown.contains("exec probe (liveness)"), "{shown}");
    assert!(cells[0].windows(3).any(|heads| heads == ["COMMANDS", "ALIKE", "LOST"]), "{shown}");
    assert!(cells[1].windows(3).any(|cells| cells == ["1,234", "+4,321", "3"]), "{shown}");
    assert!(cells[2].ends_with(&["1", "-", "0"]), "{shown}");
}

#[test]
fn the_last_column_is_cut_on_a_terminal_only() {
    let mut long = two();
    long[0].first_command = "x".repeat(300);
    for line in sessions(&long, &look(Some(170))).lines() {
        assert!(escape::width(line) <= 170, "{line}");
    }
    assert!(sessions(&long, &look(Some(170))).contains("xxx…\n"));
    assert!(sessions(&long, &look(None)).contains(&"x".repeat(300)));
}

#[test]
fn nodes_and_what_is_kept() {
    let hook = v1::Hook {
        name: "setns".to_owned(),
        kind: "tracepoint".to_owned(),
        reason: "fexit: \x1bEPERM".to_owned(),
    };
    let node = v1::Node {
        name: "n1".to_owned(),
        last_seen: at(0),
        connected: true,
        events: 1_234_567,
        lost: 12,
        agent: Some(v1::AgentState { version: "0.1.0".to_owned(), hooks: vec![hook], ..Default::default() }),
        conditions: vec![
            v1::NodeCondition {
                r#type: "Kernel\x1bDeadlock".to_owned(),
                status: "True".to_owned(),
                reason: "DockerHung".to_owned(),
                message: "blocked\x1b[2J".to_owned(),
                transition: at(0),
                ..Default::default()
            },
            v1::NodeCondition { r#type: "Ready".to_owned(), status: "True".to_owned(), ..Default::default() },
            v1::NodeCondition {
                r#type: "XfsShutdown".to_owned(),
                status: "False".to_owned(),
                stale: Some(true),
                ..Default::default()
            },
        ],
        lag: Some(Duration { seconds: 0, nanos: 20_000_000 }),
        ..Default::default()
    };
    let gone = v1::Node { name: "node two".to_owned(), ..Default::default() };
    let away = v1::Node { name: "n5".to_owned(), epoch: 7, ..Default::default() };
    let silent =
        v1::Node { name: "n3".to_owned(), silent_since: at(2), connected: true, ..Default::default() };
    let phase = Some(Phase::Stopped.into());
    let stopped = v1::Node {
        name: "n4".to_owned(),
        agent: Some(v1::AgentState { phase, version: "0.1.0".to_owned(), ..Default::default() }),
        ..Default::default()
    };
    let answer = v1::ListNodesResponse {
        nodes: vec![node, gone, silent, stopped, away],
        retention: Some(v1::Retention {
            max_age: Some(Duration { seconds: 7 * 86_400, nanos: 0 }),
            max_bytes: 10 << 30,
            bytes: 1_288_490_189,
            events: 5000,
            oldest_cursor: "1".to_owned(),
            newest_cursor: "5000".to_owned(),
            oldest: at(-86_400),
        }),
    };
    let golden = r"
NODE        AGENT  HOOKS  LAST SEEN  CONNECTED                 LAG     EVENTS  LOST  CONDITIONS
n1          0.1.0      1  20:14:02   yes                    0.02 s  1,234,567    12  $'Kernel\x1bDeadlock'=True, XfsShutdown=False (stale), 1 good
'node two'  -          -  -          no agent                    -          0     0  -
n3          -          -  -          silent since 20:14:04       -          0     0  -
n4          0.1.0      0  -          stopped                     -          0     0  -
n5          -          -  -          no                          -          0     0  -
  n1: setns by tracepoint: fexit: \x1bEPERM
  n1: $'Kernel\x1bDeadlock'=True: DockerHung, blocked\x1b[2J, since 2026-11-22 20:14:02
  n1: XfsShutdown=False (stale)
kept: at most 7 days or 10 GiB; now 5,000 events, 1.2 GiB, since 2026-11-21 20:14:02, cursors 1 to 5000
";
    assert_eq!(format!("\n{}", nodes(&answer, &look(None))), golden);
}

#[test]
fn subscriptions_and_how_far_behind_they_are() {
    let good = v1::Subscription {
        name: "siem".to_owned(),
        connected: Some(true),
        last_ack: at(-2),
        lag_events: Some(1234),
        lag: Some(Duration { seconds: 3, nanos: 0 }),
        in_flight_events: Some(1000),
        cursor: "7-9f3c2a71".to_owned(),
        filter: "sessionStarted.tty\x1b".to_owned(),
        ..Default::default()
    };
    let left = v1::Subscription {
        name: "gone".to_owned(),
        last_ack: None,
        lag_events: Some(5000),
        trimmed: Some(true),
        cursor: "3-9f3c2a71".to_owned(),
        ..Default::default()
    };
    let golden = r"
SUBSCRIPTION  CONNECTED          BEHIND     LAG  IN FLIGHT  LAST ACK  CURSOR      FILTER
siem          yes                 1,234  3.00 s      1,000  20:14:00  7-9f3c2a71  sessionStarted.tty\x1b
gone          no         5,000, trimmed       -          0  never     3-9f3c2a71
";
    assert_eq!(format!("\n{}", subscriptions(&[good, left], &look(None))), golden);
}

#[test]
fn ids_are_as_long_as_they_must_be_and_eight_at_least() {
    let short = shortest(["aaaaaaaaaa1", "aaaaaaaaaa2", "b", "cccccccccc"].into_iter());
    let of = |id: &str| short.get(id).copied();
    assert_eq!(
        (of("aaaaaaaaaa1"), of("aaaaaaaaaa2"), of("b"), of("cccccccccc")),
        (Some(11), Some(11), Some(8), Some(8))
    );
}

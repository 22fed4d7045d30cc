use podtrail_proto::{Duration, Timestamp, v1::event::Body};

use super::*;
use crate::cli::testing::{self, BASE};

fn look() -> Look {
    Look { colour: false, width: None, now: "2026-11-22T21:00:00Z".parse().unwrap() }
}

/// Milliseconds after the session began.
fn at(ms: i64) -> Option<Timestamp> {
    Some(Timestamp {
        seconds: BASE + ms.div_euclid(1000),
        nanos: i32::try_from(ms.rem_euclid(1000)).unwrap() * 1_000_000,
    })
}

fn event(ms: i64, body: Body) -> v1::Event {
    v1::Event { time: at(ms), session_id: "4k7qabcdefgh".to_owned(), body: Some(body), ..Default::default() }
}

fn process(pid: u32, parent: u32) -> Option<v1::Process> {
    Some(v1::Process {
        pid,
        start_time: u64::from(pid) * 10,
        parent_pid: parent,
        parent_start_time: u64::from(parent) * 10,
        comm: String::new(),
    })
}

fn executed(pid: u32, parent: u32, path: &str, argv: &[&str]) -> v1::Executed {
    v1::Executed {
        process: process(pid, parent),
        path: path.to_owned(),
        argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
        cwd: "/".to_owned(),
        root: Some(pid == 1),
        credentials: Some(v1::Credentials::default()),
        ..Default::default()
    }
}

fn exec(ms: i64, pid: u32, parent: u32, path: &str, argv: &[&str]) -> v1::Event {
    event(ms, Body::Executed(executed(pid, parent, path, argv)))
}

fn exit(ms: i64, pid: u32, code: Result<i32, i32>, after_ms: i64) -> v1::Event {
    event(
        ms,
        Body::Exited(v1::Exited {
            process: process(pid, 0),
            exit_code: code.ok(),
            signal: code.err(),
            core_dumped: code == Err(11),
            duration: Some(Duration {
                seconds: after_ms / 1000,
                nanos: i32::try_from(after_ms % 1000).unwrap() * 1_000_000,
            }),
            late: false,
        }),
    )
}

fn gap(ms: i64, count: u64) -> v1::Event {
    event(
        ms,
        Body::Gap(v1::Gap {
            source: Some(v1::GapSource::KernelRing.into()),
            count: Some(count),
            exact: Some(true),
            from: at(ms - 1),
            to: at(ms),
            session_ids: vec![],
            detail: "exec".to_owned(),
        }),
    )
}

fn session() -> v1::Session {
    v1::Session {
        start: at(118),
        end: at(29_200),
        ended: Some(v1::SessionEnded {
            exit_code: Some(0),
            duration: Some(Duration { seconds: 29, nanos: 82_000_000 }),
            commands: Some(4),
            lost: Some(0),
            ..Default::default()
        }),
        commands: 4,
        ..testing::session("4k7qabcdefgh")
    }
}

/// The session of the README.
fn example() -> Vec<v1::Event> {
    let mut x = executed(3, 1, "/tmp/x", &["/tmp/x", "--daemon"]);
    x.executable = Some(v1::Executable { upper_layer: true, ..Default::default() });
    vec![
        exec(118, 1, 99, "/bin/sh", &["/bin/sh"]),
        exec(3902, 2, 1, "/usr/bin/curl", &["curl", "-s", "http://10.0.0.1/x", "-o", "/tmp/x"]),
        exit(4212, 2, Ok(7), 310),
        event(9440, Body::Executed(x)),
        exit(21_440, 3, Err(9), 12_000),
        exec(27_007, 4, 1, "/bin/rm", &["rm", "/tmp/x"]),
        exit(27_010, 4, Ok(0), 3),
        exit(29_200, 1, Ok(0), 29_082),
    ]
}

fn render(look: &Look, session: &v1::Session, events: &[v1::Event]) -> String {
    let mut out = Vec::new();
    write(&mut out, look, session, events).unwrap();
    String::from_utf8(out).unwrap()
}

/// Without its header.
fn body(look: &Look, events: &[v1::Event]) -> String {
    let bare = v1::Session { ended: Some(v1::SessionEnded::default()), ..Default::default() };
    render(look, &bare, events)
        .lines()
        .skip_while(|line| !line.starts_with("  20:"))
        .fold(String::new(), |out, line| out + line + "\n")
}

#[track_caller]
fn assert_text(shown: &str, golden: &str) {
    assert_eq!(shown, golden.strip_prefix('\n').unwrap_or(golden), "shown:\n{shown}");
}

#[test]
fn the_example_reads_as_promised() {
    assert_text(&render(&look(), &session(), &example()), "
session 4k7qabcd  prod/payments-0/app  runtime exec, terminal pts/0  20:14:02 → 20:14:31  29 s  exit 0  4 commands, none lost
  node n1  container 0123456789ab  uid 0
  20:14:02.118  /bin/sh                                 exit 0              29.0 s
  20:14:05.902  ├─ curl -s http://10.0.0.1/x -o /tmp/x  exit 7              0.31 s
  20:14:11.440  ├─ /tmp/x --daemon                      killed (9) SIGKILL  12.0 s  new file, not from the image
  20:14:29.007  └─ rm /tmp/x                            exit 0              0.00 s
");
}

#[test]
fn who_it_was_stands_above_with_its_reasons() {
    let session = v1::Session {
        attributed: Some(v1::Attributed {
            user: Some(v1::User { name: "alice@example.com".to_owned(), ..Default::default() }),
            evidence: vec!["one request fits, and no other".to_owned(), "\x1b[2J".to_owned()],
            verdict: Some(v1::Verdict::Matched.into()),
            audit_id: "8ed335c5".to_owned(),
            source_ips: vec!["198.51.100.7".to_owned()],
            user_agent: "kubectl/v1.36".to_owned(),
            ..Default::default()
        }),
        method: Some(v1::EntryMethod::ExecProbe.into()),
        folded: 1200,
        ..session()
    };
    let shown = render(&look(), &session, &example()[..1]);
    let head: Vec<&str> = shown.lines().take(9).collect();
    assert_text(
        &head.join("\n"),
        r"
session 4k7qabcd  prod/payments-0/app  exec probe, terminal pts/0  20:14:02 → 20:14:31  29 s  exit 0  4 commands, none lost
  node n1  container 0123456789ab  uid 0
  1,200 sessions more like it were only counted
  who        alice@example.com, matched
  request    8ed335c5
  from       198.51.100.7
  client     kubectl/v1.36, as it claims
  evidence   one request fits, and no other
             \x1b[2J",
    );
}

#[test]
fn why_it_is_what_it_is_stands_above() {
    let mut session = v1::Session { method: Some(v1::EntryMethod::ExecProbe.into()), ..session() };
    let started = session.started.as_mut().unwrap();
    started.method = Some(v1::EntryMethod::Unknown.into());
    started.evidence =
        ["no terminal, and stdin is /dev/null", "its arguments are those of the pod's readiness"]
            .map(str::to_owned)
            .to_vec();
    let mut events = example();
    events.push(event(
        30_000,
        Body::Attributed(v1::Attributed {
            method: Some(v1::EntryMethod::ExecProbe.into()),
            evidence: vec!["another came in the probe's rhythm".to_owned()],
            ..Default::default()
        }),
    ));
    let shown = render(&look(), &session, &events);
    let head: String = shown.lines().take(3).fold(String::new(), |out, line| out + line + "\n");
    assert_text(&head, "
session 4k7qabcd  prod/payments-0/app  exec probe, terminal pts/0  20:14:02 → 20:14:31  29 s  exit 0  4 commands, none lost
  node n1  container 0123456789ab  uid 0
  · no terminal, and stdin is /dev/null  · its arguments are those of the pod's readiness  · is exec probe: another came in the probe's rhythm
");
}

#[test]
fn an_end_that_was_found_out_later_is_noted() {
    let mut late = exit(2000, 7, Ok(3), 1900);
    if let Some(Body::Exited(exited)) = &mut late.body {
        exited.late = true;
    }
    let shown = body(&look(), &[exec(100, 7, 0, "/bin/sh", &["/bin/sh"]), late]);
    assert_text(
        &shown,
        "
  20:14:02.100  /bin/sh  exit 3  1.90 s  it may have ended earlier
",
    );
}

#[test]
fn a_program_that_becomes_another_is_a_chain() {
    let events = [
        exec(0, 1, 99, "/bin/sh", &["sh", "-c", "exec env ls"]),
        exec(10, 1, 99, "/usr/bin/env", &["env", "ls"]),
        exec(15, 2, 1, "/bin/true", &["true"]),
        exit(16, 2, Ok(0), 1),
        exec(20, 1, 99, "/bin/ls", &["ls"]),
        exit(25, 1, Ok(0), 5),
    ];
    assert_text(
        &body(&look(), &events),
        "
  20:14:02.000  sh -c 'exec env ls'
  20:14:02.010  ├→ env ls
  20:14:02.015  ├─ true  exit 0  0.00 s
  20:14:02.020  └→ ls    exit 0  0.00 s
",
    );
}

#[test]
fn gaps_and_joins_stand_where_they_happened() {
    let joined = v1::NamespaceJoined {
        process: Some(v1::Process { pid: 812, comm: "nsenter".to_owned(), ..Default::default() }),
        namespaces: Some(v1::Namespaces { mount: 1, pid: 2, ..Default::default() }),
        path: "/usr/bin/nsenter".to_owned(),
        ..Default::default()
    };
    let events = [
        event(0, Body::NamespaceJoined(joined)),
        exec(10, 1, 99, "/bin/sh", &["sh"]),
        exec(20, 2, 1, "/bin/make", &["make"]),
        exec(30, 3, 2, "/bin/cc", &["cc"]),
        exit(40, 3, Ok(0), 10),
        gap(50, 12),
        exec(60, 4, 2, "/bin/ld", &["ld"]),
        exit(70, 4, Err(11), 10),
        exit(80, 2, Ok(2), 60),
        gap(90, 1),
        exec(100, 7, 6, "/bin/id", &["id"]),
        exit(101, 7, Ok(0), 1),
    ];
    assert_text(&body(&look(), &events), "
  20:14:02.000  => nsenter (pid 812) [/usr/bin/nsenter] joined the mount and pid namespaces of a container not known
  20:14:02.010  sh        end not seen
  20:14:02.020  ├─ make   exit 2                     0.06 s
  20:14:02.030  │  ├─ cc  exit 0                     0.01 s
  20:14:02.050  │  ├─ !! 12 events missing here: the ring between kernel and agent was full (exec), 20:14:02.049 → 20:14:02.050; from any session open then
  20:14:02.060  │  └─ ld  killed (11) SIGSEGV, core  0.01 s
  20:14:02.090  ├─ !! 1 event missing here: the ring between kernel and agent was full (exec), 20:14:02.089 → 20:14:02.090; from any session open then
  20:14:02.100  └┄ id     exit 0                     0.00 s
");
}

#[test]
fn what_happened_on_the_node_and_to_the_pod_stands_where_it_happened() {
    let condition = |ms, status: &str| {
        let condition = v1::NodeCondition {
            r#type: "ReadonlyFilesystem".to_owned(),
            status: status.to_owned(),
            reason: "FilesystemIsReadOnly".to_owned(),
            message: "EXT4-fs\x1b[2J".to_owned(),
            ..Default::default()
        };
        event(ms, Body::NodeCondition(condition))
    };
    let about = v1::ClusterEvent {
        r#type: "Warning".to_owned(),
        reason: "Evicted".to_owned(),
        message: "low on\x1b disk".to_owned(),
        involved: Some(v1::Involved {
            kind: "Pod".to_owned(),
            namespace: "prod".to_owned(),
            name: "payments-0".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let events = [
        condition(-5000, "True"),
        exec(0, 1, 99, "/bin/sh", &["sh"]),
        exec(1, 2, 1, "/bin/ls", &["ls"]),
        exit(2, 2, Ok(0), 1),
        event(3, Body::ClusterEvent(about)),
        condition(4, "False"),
        exit(5, 1, Ok(0), 5),
    ];
    assert_text(
        &body(&look(), &events),
        r"
  20:13:57.000  ~ node ReadonlyFilesystem=True: FilesystemIsReadOnly, EXT4-fs\x1b[2J
  20:14:02.000  sh     exit 0  0.00 s
  20:14:02.001  ├─ ls  exit 0  0.00 s
  20:14:02.003  ├─ ~ event Pod prod/payments-0: Evicted, low on\x1b disk
  20:14:02.004  └─ ~ node ReadonlyFilesystem=False: FilesystemIsReadOnly, EXT4-fs\x1b[2J
",
    );
}

#[test]
fn execs_that_failed_stand_where_they_were_tried() {
    let failed = |at, pid, parent_pid, argv: &[&str], errno, error: &str, attempts| {
        let process = v1::Process {
            pid,
            start_time: u64::from(pid),
            parent_pid,
            parent_start_time: u64::from(parent_pid),
            ..Default::default()
        };
        let body = v1::ExecFailed {
            process: Some(process),
            path: format!("/bin/{}", argv[0]),
            argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
            errno: Some(errno),
            error: error.to_owned(),
            attempts: Some(attempts),
            ..Default::default()
        };
        event(at, Body::ExecFailed(body))
    };
    let mut found = exec(40, 3, 1, "/bin/cc", &["cc"]);
    if let Some(Body::Executed(executed)) = &mut found.body {
        executed.not_found = 2;
    }
    let events = [
        exec(10, 1, 99, "/bin/sh", &["sh"]),
        failed(20, 2, 1, &["curl", "-s", "\u{1b}[2J"], 13, "EACCES", 1),
        failed(30, 1, 99, &["nosuch"], 2, "ENOENT", 6),
        found,
        exit(50, 3, Ok(0), 10),
        failed(60, 9, 8, &["x"], 4000, "", 1),
        exit(80, 1, Ok(0), 70),
    ];
    assert_text(
        &body(&look(), &events),
        "
  20:14:02.010  sh     exit 0  0.07 s
  20:14:02.020  ├─ x> curl -s $'\\x1b[2J' (/bin/curl): Permission denied, EACCES
  20:14:02.030  ├─ x> nosuch (/bin/nosuch): not found in 6 places
  20:14:02.040  ├─ cc  exit 0  0.01 s  not in 2 other places
  20:14:02.060  └─ x> x (/bin/x): error 4000
",
    );
}

#[test]
fn what_is_odd_about_a_command_is_noted() {
    let with = |change: &dyn Fn(&mut v1::Executed)| {
        let mut executed = executed(2, 1, "/bin/x", &["x"]);
        change(&mut executed);
        event(10, Body::Executed(executed))
    };
    let file = |change: &dyn Fn(&mut v1::Executable)| {
        let mut file = v1::Executable::default();
        change(&mut file);
        with(&|executed| executed.executable = Some(file))
    };
    let creds = |uid, euid, inside| {
        with(&|executed| {
            executed.credentials = Some(v1::Credentials {
                uid: Some(uid),
                effective_uid: Some(euid),
                container_uid: inside,
                ..Default::default()
            });
            executed.executable = Some(v1::Executable { setuid: true, ..Default::default() });
        })
    };
    for (event, note) in [
        (file(&|file| file.memfd = true), "memfd: lives in memory only"),
        (file(&|file| file.deleted = true), "deleted file"),
        (file(&|file| file.upper_layer = true), "new file, not from the image"),
        (creds(1000, 0, None), "setuid root, uid 1000"),
        (creds(101_000, 101_000, Some(1000)), "uid 1000 (101000 on the node)"),
        (with(&|executed| executed.path = "/tmp/x".to_owned()), "is /tmp/x"),
        (with(&|executed| executed.path_raw = b"/tmp/\xff\n"[..].into()), r"is $'/tmp/\xff\n'"),
        (with(&|executed| executed.cwd = "/a b".to_owned()), "in '/a b'"),
        (with(&|executed| executed.script = "./run.sh".to_owned()), "script ./run.sh"),
        (with(&|executed| executed.path_incomplete = true), "path incomplete"),
        (
            with(&|executed| {
                executed.argv = vec!["x".to_owned(), "y".repeat(64 * 1024 - 3)];
                executed.argv_bytes = Some(1_258_292);
                executed.truncated = Some(true);
                executed.argv_cut_index = 2;
            }),
            "argv cut: 64 KiB of 1.2 MiB kept",
        ),
    ] {
        let text = body(&look(), &[exec(0, 1, 99, "/bin/sh", &["sh"]), event]);
        assert!(text.trim_end().ends_with(&format!("  {note}")), "{note}: {text}");
    }
}

#[test]
fn the_working_directory_is_said_when_it_changes() {
    let in_dir = |ms, pid, cwd: &str| {
        event(
            ms,
            Body::Executed(v1::Executed { cwd: cwd.to_owned(), ..executed(pid, 1, "/bin/ls", &["ls"]) }),
        )
    };
    let events = [
        exec(0, 1, 99, "/bin/sh", &["sh"]),
        in_dir(1, 2, "/"),
        in_dir(2, 3, "/tmp"),
        in_dir(3, 4, "/tmp"),
        in_dir(4, 5, "/"),
    ];
    let text = body(&look(), &events);
    let said: Vec<_> = text.lines().map(|line| line.split_once(" in ").map(|(_, cwd)| cwd)).collect();
    assert_eq!(said, [None, None, Some("/tmp"), None, Some("/")], "{text}");
}

#[test]
fn an_open_session_and_one_with_loss_say_so() {
    let open = v1::Session { end: None, ended: None, lost: 3, commands: 12, ..session() };
    let text = render(&look(), &open, &[exec(0, 1, 99, "/bin/sh", &["sh"])]);
    assert!(text.contains("20:14:02 → open  45 min 57 s so far  12 commands, 3 may be lost\n"), "{text}");
    assert!(text.contains("sh  running\n"), "{text}");

    let mut recovered = session();
    recovered.started =
        Some(v1::SessionStarted { recovered: Some(true), observed_from: at(5000), ..Default::default() });
    recovered.commands = 1;
    let text = render(&look(), &recovered, &[exec(0, 1, 99, "/bin/sh", &["sh"])]);
    assert!(text.contains("nothing before 20:14:07 was seen\n"), "{text}");
    assert!(text.contains("1 command of 4 that ran\n"), "not whole, so never `none lost`: {text}");
    assert!(text.contains("sh  end not seen\n"), "{text}");
}

#[test]
fn who_started_whoever_joined_is_told_and_escaped() {
    let named = |pid, comm: &str| v1::Process { pid, comm: comm.to_owned(), ..Default::default() };
    let ancestors = vec![named(70, "bash"), named(60, "ss\u{1b}[31mhd"), named(1, "")];
    let joined =
        v1::Session { started: Some(v1::SessionStarted { ancestors, ..Default::default() }), ..session() };
    let text = render(&look(), &joined, &[exec(0, 1, 99, "/bin/sh", &["sh"])]);
    assert!(text.contains("started by bash (pid 70) ← "), "{text}");
    assert!(text.contains(" (pid 60) ← pid 1"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn a_gap_in_the_events_is_never_none_lost() {
    let text = render(&look(), &session(), &[exec(0, 1, 99, "/bin/sh", &["sh"]), gap(1, 2), gap(2, 5)]);
    assert!(text.contains("4 commands, 7 may be lost\n"), "{text}");

    let mut own = gap(1, 2);
    if let Some(Body::Gap(gap)) = &mut own.body {
        gap.session_ids = vec!["4k7qabcdefgh".to_owned()];
    }
    let text = render(&look(), &session(), &[exec(0, 1, 99, "/bin/sh", &["sh"]), own.clone(), gap(2, 5)]);
    assert!(text.contains("4 commands, at least 2 lost, perhaps 7\n"), "{text}");
    let text = render(&look(), &session(), &[exec(0, 1, 99, "/bin/sh", &["sh"]), own]);
    assert!(text.contains("4 commands, at least 2 lost\n"), "{text}");
}

#[test]
fn days_are_told_apart() {
    let day = 86_400_000;
    let other = Look { now: "2026-11-30T00:00:00Z".parse().unwrap(), ..look() };
    let session = v1::Session { end: at(day), ..session() };
    let events = [exec(0, 1, 99, "/bin/sh", &["sh"]), exec(day, 2, 1, "/bin/ls", &["ls"])];
    let text = render(&other, &session, &events);
    assert!(text.contains("2026-11-22 20:14:02 → 2026-11-23 20:14:02"), "{text}");
    assert!(text.contains("  2026-11-23 20:14:02.000  └─ ls"), "{text}");
}

#[test]
fn colours_say_what_text_says() {
    let coloured = render(&Look { colour: true, ..look() }, &session(), &example());
    assert!(coloured.contains("\x1b[1;31mkilled (9) SIGKILL\x1b[0m"), "{coloured}");
    let mut plain = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    plain.push_str(rest);
    let trimmed: Vec<_> = plain.lines().map(str::trim_end).collect();
    assert_eq!(trimmed, render(&look(), &session(), &example()).lines().collect::<Vec<_>>());
}

#[test]
fn a_terminal_wraps_and_nothing_is_wider_than_it() {
    let mut long = executed(2, 1, "/tmp/x", &["x", &"日本".repeat(40), &"a".repeat(2000), "tail"]);
    long.executable = Some(v1::Executable { upper_layer: true, deleted: true, ..Default::default() });
    let events = [
        exec(0, 1, 99, "/bin/sh", &["sh"]),
        event(1, Body::Executed(long)),
        gap(2, 3),
        exec(3, 3, 2, "/bin/ls", &["ls", &"b".repeat(100)]),
        exit(4, 2, Ok(0), 3),
    ];
    for width in [60, 80, 120] {
        let text = render(&Look { width: Some(width), ..look() }, &session(), &events);
        for line in text.lines() {
            assert!(escape::width(line) <= width, "{width}: {line}");
        }
        assert!(text.contains("left out"), "{text}");
        assert!(text.contains("tail"), "the tail is kept: {text}");
    }
    assert_text(
        &body(&Look { width: Some(80), ..look() }, &events),
        r"
  20:14:02.000  sh                                          end not seen
  20:14:02.001  └─ x 日本日本日本日本日本日本日本日本日本\  exit 0        0.00 s
                   │  日本日本日本日本日本日本日本日本日本日本日本日本日本日本\
                   │  日本日本日本日本日本日本日本日本日本日本日本日本日本日本\
                   │  日本日本日本 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\
                   │  … 34 lines left out; whole when piped …
                   │  aaaaaaaaaaaaaaaaaa tail
                   │  · is /tmp/x
                   │  · deleted file
                   │  · new file, not from the image
  20:14:02.002     ├─ !! 3 events missing here: the ring between kernel and
                   │     agent was full (exec), 20:14:02.001 → 20:14:02.002;
                   │     from any session open then
  20:14:02.003     └─ ls bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\  end not seen
                         bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\
                         bbbbbbbbbbbbbb
",
    );
    let piped = body(&look(), &events);
    assert_eq!(piped.lines().count(), 4, "never wrapped");
    assert!(piped.contains(&"a".repeat(2000)));
}

/// Deep, wide, and with a gap after each: time and text must grow with the number of events alone.
#[test]
fn a_hundred_thousand_events_take_no_more_than_their_number() {
    let deep = |n: u32| {
        let mut events = Vec::new();
        for pid in 1..=n {
            events.push(exec(pid.into(), pid, pid - 1, "/bin/sh", &["sh"]));
        }
        for pid in (1..=n).rev() {
            events.push(exit(pid.into(), pid, Ok(0), 1));
            events.push(gap(pid.into(), 1));
        }
        events
    };
    let wide = |n: u32| -> Vec<_> {
        let child =
            |pid: u32| [exec(pid.into(), pid, 1, "/bin/ls", &["ls"]), exit(pid.into(), pid, Ok(0), 1)];
        std::iter::once(exec(0, 1, 0, "/bin/sh", &["sh"])).chain((2..n).flat_map(child)).collect()
    };
    for (few, many) in [(deep(3_400), deep(34_000)), (wide(5_000), wide(50_000))] {
        let (few, many) = (body(&look(), &few).len(), body(&look(), &many).len());
        assert!(many < few * 11, "{few} bytes for a tenth, {many} for all");
    }
    let begin = std::time::Instant::now();
    let text = body(&look(), &deep(34_000));
    assert!(text.lines().count() > 60_000);
    assert!(begin.elapsed().as_secs() < 20, "unoptimized, on a busy machine: {:?}", begin.elapsed());
}

#[test]
fn deeper_than_the_indent_the_depth_is_a_number() {
    let events: Vec<_> = (1..=40).map(|pid| exec(pid.into(), pid, pid - 1, "/bin/sh", &["sh"])).collect();
    let text = body(&look(), &events);
    assert!(text.lines().last().unwrap().contains(" +7 └─ sh"), "{text}");
}

#[path = "hostile_tests.rs"]
mod hostile;

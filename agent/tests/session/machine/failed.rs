//! Execs that fail, and programs that are looked for.

use podtrail::{
    event::{Body, BootTime, TaskKey},
    session::{
        Machine,
        record::{Exec, Join, RawArgv},
    },
    state::{Changes, State},
};

use super::{NOTHING, Run};
use crate::build::{IntoRecord, SECOND, chunk, enter, exec, exit, failed, join, last, root};
use crate::tell::BOOT_ID;

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const ENOEXEC: i32 = 8;
const EACCES: i32 = 13;
const ENOTDIR: i32 = 20;

fn open() -> Run {
    let mut run = Run::new();
    run.take(root(10, 11, 1000));
    run
}

#[test]
fn what_is_there_and_does_not_run_is_told_at_once() {
    let mut run = open();
    for error in [EPERM, ENOEXEC, EACCES] {
        assert_eq!(
            run.take(failed(10, 12, 2000, "/tmp/x", error)),
            [format!("s1 failed 12 /tmp/x {error} x1 in 42")]
        );
    }
}

#[test]
fn a_search_is_folded_into_the_exec_that_it_ends_in() {
    let mut run = open();
    for dir in ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin"] {
        assert_eq!(run.take(failed(10, 12, 2000, &format!("{dir}/p12"), ENOENT)), NOTHING);
    }
    // Closed to this user: that is no part of the search, and does not end it.
    assert_eq!(
        run.take(failed(10, 12, 2000, "/root/bin/p12", EACCES)),
        ["s1 failed 12 /root/bin/p12 13 x1 in 42"]
    );
    assert_eq!(run.take(failed(10, 12, 2000, "/file/p12", ENOTDIR)), NOTHING);
    assert_eq!(run.take(exec(10, 12, 2100)), ["s1 12 /bin/p12 [p12]"]);
    let Some(Body::Executed(executed)) = run.told.last().map(|event| &event.body) else { panic!() };
    assert_eq!(executed.not_found, 4);
    // It is over: the next exec of the same process has no part in it.
    run.take(exec(10, 12, 2200));
    let Some(Body::Executed(executed)) = run.told.last().map(|event| &event.body) else { panic!() };
    assert_eq!(executed.not_found, 0);
    assert_eq!(run.finish(), NOTHING);
}

#[test]
fn a_script_and_a_name_that_it_was_called_by_are_found_too() {
    for (path, exec) in [
        ("/sbin/backup", Exec { script: Some(b"/opt/backup".to_vec()), ..exec(10, 12, 2100) }),
        (
            "/sbin/ls",
            Exec {
                path: b"/bin/busybox".to_vec(),
                argv: crate::build::argv(b"ls\0-l\0"),
                ..exec(10, 12, 2100)
            },
        ),
        (
            "/sbin/sh",
            Exec { path: b"/bin/dash".to_vec(), argv: crate::build::argv(b"-sh\0"), ..exec(10, 12, 2100) },
        ),
    ] {
        let mut run = open();
        assert_eq!(run.take(failed(10, 12, 2000, path, ENOENT)), NOTHING);
        assert_eq!(run.take(exec).len(), 1, "{path}");
        let Some(Body::Executed(executed)) = run.told.last().map(|event| &event.body) else { panic!() };
        assert_eq!(executed.not_found, 1, "{path}");
    }
}

/// Something that ends a search.
type Way = fn(&mut Run) -> Vec<String>;

#[test]
fn a_search_in_vain_is_told_once_whatever_ends_it() {
    let vain = "s1 failed 12 /bin/nosuch 2 x3 in 42";
    let ways: [(&str, Way); 6] = [
        ("another program", |run| run.take(exec(10, 12, 3000))),
        ("another name", |run| run.take(failed(10, 12, 3000, "/bin/other", ENOENT))),
        ("its exit", |run| run.take(exit(10, 12, 3000))),
        ("others, later", |run| run.take(exec(10, 13, 2000 + SECOND))),
        ("time", |run| {
            assert_eq!(run.flush(90 * SECOND), NOTHING, "the reader may be far behind");
            run.flush(91 * SECOND)
        }),
        ("the agent", |run| run.finish()),
    ];
    for (name, way) in ways {
        let mut run = open();
        run.take(exec(10, 12, 1500));
        for dir in ["/usr/bin", "/sbin", "/bin"] {
            assert_eq!(run.take(failed(10, 12, 2000, &format!("{dir}/nosuch"), ENOENT)), NOTHING, "{name}");
        }
        let told = way(&mut run);
        assert_eq!(told.first().map(String::as_str), Some(vain), "{name}: {told:?}");
        let again = run.finish().into_iter().chain(run.flush(u64::MAX)).filter(|line| line == vain).count();
        assert_eq!(again, 0, "{name}: told twice");
    }
}

#[test]
fn a_child_that_found_nothing_is_told_before_its_session_ends() {
    let mut run = open();
    run.take(failed(10, 12, 2000, "/bin/nosuch", ENOENT));
    assert_eq!(
        run.take(last(10, 11, 3000)),
        [
            "s1 exited 11 p11 exit 0 2 us",
            "s1 failed 12 /bin/nosuch 2 x1 in 42",
            "s1 ended exit 0, 1 commands, lost 0, 2 us"
        ]
    );
}

/// A command that waits for the rest of its argv.
fn half_told() -> Exec {
    let argv = RawArgv { bytes: b"one\0".to_vec(), ..crate::build::argv(b"one\0two\0") };
    Exec { argv, ..exec(10, 12, 1500) }
}

#[test]
fn it_is_told_behind_what_was_run_before() {
    let mut run = open();
    assert_eq!(run.take(half_told()), NOTHING);
    assert_eq!(run.take(failed(10, 13, 2000, "/tmp/x", EACCES)), NOTHING);
    assert_eq!(
        run.take(chunk(12, 1500, 4, b"two\0")),
        ["s1 12 /bin/p12 [one two]", "s1 failed 13 /tmp/x 13 x1 in 42"]
    );
}

#[test]
fn a_process_that_goes_on_to_fail_waits_for_no_more_of_its_argv() {
    let mut run = open();
    assert_eq!(run.take(half_told()), NOTHING);
    let told = run.take(failed(10, 12, 2000, "/tmp/x", EACCES));
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("s1 12 /bin/p12 [one"), "{told:?}");
    assert_eq!(told[1], "s1 failed 12 /tmp/x 13 x1 in 42");
}

#[test]
fn namespaces_that_nobody_owns_are_nobodys_session() {
    let mut run = Run::new();
    run.take(Join { container: None, ..join(20, 2000) });
    let mut nobodys = failed(20, 20, 2500, "/tmp/x", EACCES);
    nobodys.container = None;
    assert_eq!(run.take(nobodys), NOTHING);
}

#[test]
fn before_the_first_command_it_is_of_the_container_alone() {
    let mut run = Run::new();
    run.take(enter(10, 1000));
    assert_eq!(run.take(failed(10, 10, 2000, "/tmp/x", ENOEXEC)), ["- failed 10 /tmp/x 8 x1 in 42"]);
    // nsenter looks along its PATH, too.
    run.take(join(20, 2000));
    assert_eq!(run.take(failed(20, 20, 2000, "/sbin/p20", ENOENT)), NOTHING);
    let root = Exec { entry_kind: podtrail::session::record::EntryKind::Join, ..root(20, 20, 3000) };
    assert_eq!(run.take(root).last().map(String::as_str), Some("s1 root 20 /bin/p20 [p20]"));
    let Some(Body::Executed(executed)) = run.told.last().map(|event| &event.body) else { panic!() };
    assert_eq!(executed.not_found, 1);
}

#[test]
fn after_its_session_it_is_a_gap() {
    let mut run = open();
    run.take(last(10, 11, 3000));
    assert_eq!(
        run.take(failed(10, 12, 4000, "/tmp/x", EACCES)),
        ["s1 gap AgentDecode 1: a command that came after the end of its session"]
    );
}

#[test]
fn searches_are_bounded_and_the_oldest_is_told() {
    let mut run = open();
    for pid in 100..100 + 1024 {
        assert_eq!(run.take(failed(10, pid, 2000, "/bin/nosuch", ENOENT)), NOTHING);
    }
    assert_eq!(
        run.take(failed(10, 5000, 2000, "/bin/nosuch", ENOENT)),
        ["s1 failed 100 /bin/nosuch 2 x1 in 42"]
    );
    assert_eq!(run.finish().len(), 1024);
}

#[test]
fn a_search_outlives_the_agent() {
    let mut run = open();
    run.take(failed(10, 12, 2000, "/sbin/p12", ENOENT));
    let (mut changes, mut state) = (Changes::default(), State::new());
    run.machine.save(true, &mut changes);
    changes.apply(&mut state);
    let mut next = Machine::restore(BOOT_ID, &state).unwrap();
    let mut told = Vec::new();
    next.handle(exec(10, 12, 2100).record(), &mut told);
    let [only] = told.as_slice() else { panic!("{told:?}") };
    let Body::Executed(executed) = &only.body else { panic!("{only:?}") };
    assert_eq!((executed.process.key, executed.not_found), (TaskKey::new(12, 12_000), 1));
    let (mut changes, mut told) = (Changes::default(), Vec::new());
    next.save(false, &mut changes);
    changes.apply(&mut state);
    let mut next = Machine::restore(BOOT_ID, &state).unwrap();
    next.finish(BootTime(9000), &mut told);
    assert_eq!(told, []);
}

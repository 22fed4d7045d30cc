//! The state machine alone, record by record.

mod argv;
mod bounds;
mod failed;
mod joins;
mod missing;
mod others;

use podtrail::{
    event::{Body, BootTime, Event, ExitStatus, Method, TaskKey},
    session::{
        Machine,
        record::{EntryKind, Exec, Exit, Record},
    },
};

use crate::{
    build::{IntoRecord, SECOND, enter, exec, exit, last, root},
    tell::{BOOT_ID, events, tell},
};

/// What a machine says at each step.
struct Run {
    machine: Machine,
    told: Vec<Event>,
}

impl Run {
    fn new() -> Self {
        Self { machine: Machine::new(BOOT_ID), told: Vec::new() }
    }

    /// The events that this record brings, at once.
    fn take(&mut self, record: impl IntoRecord) -> Vec<String> {
        self.raw(record.record())
    }

    fn raw(&mut self, record: Record) -> Vec<String> {
        self.step(|machine, out| machine.handle(record, out))
    }

    fn flush(&mut self, now: u64) -> Vec<String> {
        self.step(|machine, out| machine.flush(BootTime(now), out))
    }

    fn finish(&mut self) -> Vec<String> {
        self.step(|machine, out| machine.finish(BootTime(u64::MAX), out))
    }

    fn step(&mut self, act: impl FnOnce(&mut Machine, &mut Vec<Event>)) -> Vec<String> {
        let before = self.told.len();
        act(&mut self.machine, &mut self.told);
        tell(&self.told).split_off(before)
    }

    fn body(&self, index: usize) -> &Body {
        &self.told[index].body
    }
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_session_begins_at_its_first_command_and_ends_with_its_last_process() {
    let mut run = Run::new();
    assert_eq!(run.take(enter(10, 1000)), NOTHING);
    assert_eq!(run.take(Exec { staging: true, ..exec(10, 10, 2000) }), NOTHING);
    assert_eq!(
        run.take(root(10, 11, 3000)),
        ["s1 started in 42, runtime exec, root 11, by runc 9", "s1 root 11 /bin/p11 [p11]"]
    );
    let Body::SessionStarted(started) = run.body(0) else { panic!("{:?}", run.told) };
    assert_eq!(
        started.evidence,
        ["pid 9 put it into the container's cgroup", "execs of the runtime on its way in: 1"]
    );
    assert_eq!(started.entered, BootTime(1000));
    assert_eq!(run.take(exec(10, 12, 4000)), ["s1 12 /bin/p12 [p12]"]);
    assert_eq!(run.take(exit(10, 12, 9000)), ["s1 exited 12 p12 exit 0 5 us"]);
    let end = Exit { status: ExitStatus::Code(3), lost: 2, ..last(10, 11, 10_000) };
    assert_eq!(run.take(end), ["s1 exited 11 p11 exit 3 7 us", "s1 ended exit 3, 2 commands, lost 2, 9 us"]);
    assert_eq!(run.machine.open_sessions(), 0);
    assert_eq!(run.machine.unannounced(), 0);
}

#[test]
fn an_entry_that_runs_no_command_ends_without_a_word() {
    let mut run = Run::new();
    run.take(enter(10, 1000));
    run.take(Exec { staging: true, ..exec(10, 10, 2000) });
    assert_eq!(run.take(Exit { executed: false, ..last(10, 10, 3000) }), NOTHING);
    assert_eq!(run.finish(), NOTHING);
    assert_eq!(run.machine.unannounced(), 0);
}

#[test]
fn an_exec_whose_entry_was_lost_opens_the_session_and_says_what_is_missing() {
    let mut run = Run::new();
    assert_eq!(
        run.take(exec(10, 11, 3000)),
        ["s1 started in 42, runtime exec, root 11, by  9", "s1 root 11 /bin/p11 [p11]"]
    );
    let Body::SessionStarted(started) = run.body(0) else { panic!("{:?}", run.told) };
    assert_eq!(
        started.evidence,
        [
            "pid 9 put it into the container's cgroup",
            "the entry itself was not seen",
            "its first command was not seen: this is the first that was",
        ]
    );
    assert_eq!(started.entered, BootTime(1000));
    // The entry comes late: it changes nothing.
    assert_eq!(run.take(enter(10, 1000)), NOTHING);
    assert_eq!(run.machine.unannounced(), 0);
}

#[test]
fn the_method_follows_from_the_entry_and_from_what_the_root_sees() {
    let cases = [
        (EntryKind::Runtime, false, Method::RuntimeExec),
        (EntryKind::Runtime, true, Method::HostNamespace),
        (EntryKind::SelfMoved, false, Method::NamespaceJoin),
        (EntryKind::SelfMoved, true, Method::HostNamespace),
        (EntryKind::Join, false, Method::NamespaceJoin),
        (EntryKind::Join, true, Method::NamespaceJoin),
        (EntryKind::HostNamespace, true, Method::HostNamespace),
        (EntryKind::HostNamespace, false, Method::HostNamespace),
        (EntryKind::Recovered, false, Method::Unknown),
        (EntryKind::Recovered, true, Method::HostNamespace),
    ];
    for (entry_kind, host_mnt, expected) in cases {
        let told = events([Exec { entry_kind, host_mnt, ..root(10, 11, 3000) }.record()]);
        let Body::SessionStarted(started) = &told[0].body else { panic!("{told:?}") };
        assert_eq!(started.method, expected, "{entry_kind:?} {host_mnt}");
    }
}

#[test]
fn ids_depend_on_the_root_alone_and_survive_a_restart_of_the_agent() {
    let first = events([root(10, 11, 3000).record()]);
    let again = events([exec(10, 11, 8000).record()]);
    let other = events([root(10, 12, 3000).record()]);
    let id = first[0].session.clone().unwrap();
    assert_eq!(id.0.len(), 16);
    assert!(id.0.bytes().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase()), "{id}");
    assert_eq!(again[0].session, Some(id.clone()));
    assert_ne!(other[0].session, Some(id));
}

#[test]
fn case_10_several_execs_in_one_pid_are_as_many_commands_and_one_exit_since_the_last() {
    let told = tell(&events([
        root(10, 11, 1000).record(),
        exec(10, 11, 2000).record(),
        exec(10, 11, 5000).record(),
        last(10, 11, 9000).record(),
    ]));
    assert_eq!(told.iter().filter(|line| line.contains("/bin/p11")).count(), 3);
    assert_eq!(told[4..], ["s1 exited 11 p11 exit 0 4 us", "s1 ended exit 0, 3 commands, lost 0, 8 us"]);
}

#[test]
fn case_11_a_pid_used_again_is_another_process() {
    let mut run = Run::new();
    run.take(root(10, 11, 1000));
    run.take(exec(10, 12, 1000));
    run.take(exit(10, 12, 2000));
    let again = TaskKey::new(12, 999_999);
    let mut second = exec(10, 12, 1_000_000);
    second.process.key = again;
    run.take(second);
    assert_eq!(run.take(Exit { key: again, ..exit(10, 12, 1_005_000) }), ["s1 exited 12 p12 exit 0 5 us"]);
    assert_eq!(run.take(exit(10, 12, 1_006_000)), NOTHING, "the first was told of before");
}

#[test]
fn case_25_a_session_stays_open_while_a_child_outlives_the_root() {
    let mut run = Run::new();
    run.take(root(10, 11, 1000));
    run.take(exec(10, 12, 2000));
    let gone = Exit { status: ExitStatus::Code(1), ..exit(10, 11, 3000) };
    assert_eq!(run.take(gone), ["s1 exited 11 p11 exit 1 2 us"]);
    assert_eq!(run.take(exec(10, 12, 50_000)), ["s1 12 /bin/p12 [p12]"]);
    assert_eq!(
        run.take(last(10, 12, 60_000)),
        ["s1 exited 12 p12 exit 0 10 us", "s1 ended exit 1, 3 commands, lost 0, 59 us"]
    );
}

#[test]
fn case_26_a_death_by_signal_is_told_as_one() {
    let mut run = Run::new();
    run.take(root(10, 11, 1000));
    let killed = Exit { status: ExitStatus::from_wait(9), ..last(10, 11, 2000) };
    assert_eq!(
        run.take(killed),
        ["s1 exited 11 p11 signal 9 1 us", "s1 ended signal 9, 1 commands, lost 0, 1 us"]
    );
}

#[test]
fn an_end_that_was_found_out_later_says_so() {
    let mut run = Run::new();
    run.take(root(10, 11, 1000));
    let late = Exit { late: true, status: ExitStatus::Code(3), ..last(10, 11, 9000) };
    assert_eq!(
        run.take(late),
        ["s1 exited 11 p11 exit 3 8 us late", "s1 ended exit 3, 1 commands, lost 0, 8 us"]
    );
}

#[test]
fn a_last_descendant_that_ran_nothing_ends_the_session_too() {
    let mut run = Run::new();
    run.take(root(10, 11, 1000));
    run.take(exit(10, 11, 2000));
    let last = Exit { executed: false, ..last(10, 13, 7000) };
    assert_eq!(run.take(last), ["s1 ended exit 0, 1 commands, lost 0, 6 us"]);
}

#[test]
fn two_that_leave_at_once_and_are_both_called_the_last_are_both_told_before_one_end() {
    let mut run = Run::new();
    run.take(root(10, 11, 1000));
    run.take(exec(10, 12, 1000));
    assert_eq!(run.take(last(10, 12, 5000)), ["s1 exited 12 p12 exit 0 4 us"]);
    assert_eq!(
        run.take(last(10, 11, 4000)),
        ["s1 exited 11 p11 exit 0 3 us", "s1 ended exit 0, 2 commands, lost 0, 4 us"]
    );
    assert_eq!(run.take(last(10, 11, 4000)), NOTHING);
    assert_eq!(run.take(last(10, 12, 5000)), NOTHING);
}

#[test]
fn an_exit_that_was_lost_holds_the_end_back_but_not_for_ever() {
    let mut run = Run::new();
    run.take(root(10, 11, 1000));
    run.take(exec(10, 12, 1000));
    run.take(last(10, 11, 5000));
    let now = 90 * SECOND; // the reader is far behind
    assert_eq!(run.flush(now), NOTHING);
    assert_eq!(run.flush(now + SECOND / 2), NOTHING);
    assert_eq!(run.flush(now + SECOND), ["s1 ended exit 0, 2 commands, lost 0, 4 us"]);

    let mut run = Run::new();
    run.take(root(10, 11, 1000));
    run.take(exec(10, 12, 1000));
    run.take(last(10, 11, 5000));
    let told = run.take(root(20, 20, 5000 + SECOND));
    assert_eq!(told[0], "s1 ended exit 0, 2 commands, lost 0, 4 us", "the ring has gone on for long enough");
}

#[test]
fn an_exit_whose_exec_was_lost_lasted_since_its_birth() {
    let mut run = Run::new();
    run.take(root(10, 11, 1000));
    assert_eq!(run.take(exit(10, 12, 20_000)), ["s1 exited 12  exit 0 8 us"]);
}

#[test]
fn a_command_after_the_end_is_a_gap_and_no_second_session() {
    let mut run = Run::new();
    run.take(root(10, 11, 1000));
    run.take(last(10, 11, 2000));
    assert_eq!(
        run.take(exec(10, 12, 1500)),
        ["s1 gap AgentDecode 1: a command that came after the end of its session"]
    );
    assert_eq!(run.machine.open_sessions(), 0);
}

#[test]
fn case_29_two_sessions_in_one_container_are_two() {
    let told = tell(&events([
        enter(10, 1000).record(),
        enter(20, 1000).record(),
        root(20, 20, 2000).record(),
        root(10, 10, 2000).record(),
        exec(10, 11, 3000).record(),
        exec(20, 21, 3000).record(),
        last(20, 21, 4000).record(),
        exit(20, 20, 4000).record(),
    ]));
    assert_eq!(
        told,
        [
            "s1 started in 42, runtime exec, root 20, by runc 9",
            "s1 root 20 /bin/p20 [p20]",
            "s2 started in 42, runtime exec, root 10, by runc 9",
            "s2 root 10 /bin/p10 [p10]",
            "s2 11 /bin/p11 [p11]",
            "s1 21 /bin/p21 [p21]",
            "s1 exited 21 p21 exit 0 1 us",
            "s1 exited 20 p20 exit 0 2 us",
            "s1 ended exit 0, 2 commands, lost 0, 3 us",
        ]
    );
}

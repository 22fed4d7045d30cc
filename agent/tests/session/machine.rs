//! The state machine alone, record by record.

use podtrail::{
    event::{AgentPhase, AgentState, Body, BootTime, Event, ExitStatus, GapSource, Method, TaskKey},
    session::{
        Machine,
        record::{ContainerEnded, EntryKind, Exec, Exit, Join, Lost, RawArgv, Record, Recovered},
    },
};

use crate::{
    build::{
        CONTAINER, IntoRecord, MNT, PID_NS, SECOND, argv, chunk, enter, exec, exit, join, key, last, process,
        root, started,
    },
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
        self.step(Machine::finish)
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
    assert_eq!(run.flush(5000 + SECOND / 2), NOTHING);
    assert_eq!(run.flush(5000 + SECOND), ["s1 ended exit 0, 2 commands, lost 0, 4 us"]);
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

// ----------------------------------------------------------------------------------------------------- joins

fn nsenter(pid: u32, time: u64) -> Exec {
    Exec { entry_kind: EntryKind::Join, entered_by: key(pid), cgroup_id: 1, ..root(pid, pid + 1, time) }
}

#[test]
fn a_join_is_told_after_its_session_is_announced() {
    let mut run = Run::new();
    assert_eq!(run.take(Join { mnt_ns: 0, ..join(30, 1000) }), NOTHING);
    assert_eq!(run.take(Join { pid_ns: 0, ..join(30, 1100) }), NOTHING);
    assert_eq!(
        run.take(nsenter(30, 2000)),
        [
            "s1 started in 42, namespace join, root 31, by p30 30",
            "s1 joined in 42 mnt 7001 pid 7002 by 30",
            "s1 root 31 /bin/p31 [p31]",
        ]
    );
    let Body::SessionStarted(started) = run.body(0) else { panic!("{:?}", run.told) };
    assert_eq!((started.login_uid, started.audit_session), (Some(1000), Some(3)));
    assert_eq!(
        started.evidence,
        [
            "its cgroup is not the container's, its namespaces are",
            "pid 30 joined mount namespace 7001",
            "pid 30 joined pid namespace 7002",
        ]
    );
}

#[test]
fn a_join_that_comes_after_its_first_command_is_told_all_the_same() {
    let mut run = Run::new();
    run.take(nsenter(30, 2000));
    assert_eq!(run.take(join(30, 1000)), ["s1 joined in 42 mnt 7001 pid 7002 by 30"]);
    assert_eq!(run.take(join(30, 1000)), NOTHING);
}

#[test]
fn a_join_without_a_command_is_told_without_a_session() {
    let mut run = Run::new();
    run.take(started(500));
    run.take(join(30, 1000));
    assert_eq!(
        run.take(Exit { executed: false, ..last(30, 30, 2000) }),
        ["- joined in 42 mnt 7001 pid 7002 by 30"]
    );
    assert_eq!(run.take(Exit { executed: false, ..last(30, 30, 2000) }), NOTHING);
}

#[test]
fn a_join_of_a_container_whose_start_was_not_seen_is_told_after_a_while() {
    let mut run = Run::new();
    run.take(join(30, 1000));
    assert_eq!(run.take(Exit { executed: false, ..last(30, 30, 2000) }), NOTHING);
    assert_eq!(run.flush(2000 + 9 * SECOND), NOTHING);
    assert_eq!(run.flush(2000 + 10 * SECOND), ["- joined in 42 mnt 7001 pid 7002 by 30"]);
    assert_eq!(run.machine.unannounced(), 0);
}

#[test]
fn a_join_in_the_making_of_its_container_is_not_told() {
    // Whether the runtime's thread ended before the container's first exec, or after it.
    let mut run = Run::new();
    run.take(join(30, 1000));
    run.take(Exit { executed: false, ..last(30, 30, 2000) });
    run.take(started(3000));
    assert_eq!(run.finish(), NOTHING);

    let mut run = Run::new();
    run.take(join(30, 1000));
    run.take(started(3000));
    run.take(Exit { executed: false, ..last(30, 30, 4000) });
    assert_eq!(run.finish(), NOTHING);

    // Nor where the container is gone by then.
    let mut run = Run::new();
    run.take(join(30, 1000));
    run.take(started(3000));
    let ended =
        ContainerEnded { time: BootTime(3500), cgroup_id: CONTAINER, init: key(2), status: ExitStatus::Code(0) };
    run.raw(Record::ContainerEnded(ended));
    run.take(Exit { executed: false, ..last(30, 30, 4000) });
    assert_eq!(run.finish(), NOTHING);
}

#[test]
fn a_join_that_was_a_runtime_s_stage_is_not_told() {
    let mut run = Run::new();
    run.take(started(500));
    run.take(join(30, 1000));
    run.take(enter(31, 2000));
    let mut replacing = enter(32, 2000);
    replacing.replaces = Some(key(30));
    run.take(replacing);
    assert_eq!(run.take(join(30, 2500)), NOTHING, "its stage goes on joining");
    assert_eq!(run.take(Exit { executed: false, ..last(30, 30, 3000) }), NOTHING);
    assert_eq!(
        run.take(root(32, 32, 4000)),
        ["s1 started in 42, runtime exec, root 32, by runc 9", "s1 root 32 /bin/p32 [p32]"]
    );
    assert_eq!(run.finish(), NOTHING);
}

#[test]
fn a_join_by_the_maker_of_an_entry_is_not_told() {
    let mut run = Run::new();
    run.take(started(500));
    run.take(join(9, 1000));
    run.take(enter(31, 2000));
    assert_eq!(run.take(Exit { executed: false, ..last(9, 9, 3000) }), NOTHING);
    assert_eq!(run.finish(), NOTHING);
}

#[test]
fn a_join_of_namespaces_that_nobody_owns_is_nobody_s_until_someone_does() {
    let mut run = Run::new();
    run.take(Join { container: None, ..join(30, 1000) });
    assert_eq!(run.take(Exec { container: None, ..nsenter(30, 2000) }), NOTHING);
    let mut later = nsenter(30, 3000);
    later.root = false;
    let told = run.take(later);
    assert_eq!(told[0], "s1 started in 42, namespace join, root 31, by p30 30");
    let Body::SessionStarted(started) = run.body(0) else { panic!("{:?}", run.told) };
    assert!(
        started.evidence.contains(&"commands before its namespaces' owner was known: 1".to_owned()),
        "{started:?}"
    );

    let mut run = Run::new();
    run.take(Join { container: None, ..join(30, 1000) });
    run.take(Exec { container: None, ..nsenter(30, 2000) });
    assert_eq!(run.take(last(30, 31, 3000)), NOTHING);
    assert_eq!(run.finish(), NOTHING);
}

#[test]
fn an_entry_by_the_cgroup_is_told_even_where_the_cgroup_is_not_known() {
    let mut run = Run::new();
    let told = run.take(Exec { container: None, ..root(10, 11, 1000) });
    assert_eq!(told[0], "s1 started nowhere, runtime exec, root 11, by  9");
    // Known from now on.
    run.take(exec(10, 11, 2000));
    assert_eq!(run.told.last().unwrap().container, Some(CONTAINER));
}

// ------------------------------------------------------------------------------------------------------ argv

fn long(pid: u32, time: u64) -> Exec {
    Exec { argv: RawArgv { bytes: b"one\0".to_vec(), ..argv(b"one\0two\0three\0") }, ..exec(10, pid, time) }
}

#[test]
fn case_21_a_command_waits_for_its_argv_and_the_rest_of_its_session_behind_it() {
    let mut run = Run::new();
    run.take(root(10, 11, 1000));
    run.take(root(20, 20, 1000));
    assert_eq!(run.take(long(12, 2000)), NOTHING);
    assert_eq!(run.take(exec(10, 13, 2100)), NOTHING);
    assert_eq!(run.take(exec(20, 21, 2100)), ["s2 21 /bin/p21 [p21]"], "another session does not wait");
    assert_eq!(run.take(chunk(12, 2000, 8, b"three\0")), NOTHING);
    assert_eq!(
        run.take(chunk(12, 2000, 4, b"two\0")),
        ["s1 12 /bin/p12 [one two three]", "s1 13 /bin/p13 [p13]"]
    );
    assert_eq!(run.machine.waiting_bytes(), 0);
}

#[test]
fn case_21_chunks_that_never_come_are_a_marked_cut() {
    let ways: [fn(&mut Run) -> Vec<String>; 4] = [
        |run| run.take(exec(10, 12, 3000)),
        |run| run.take(exit(10, 12, 3000)),
        |run| run.flush(2000 + SECOND),
        |run| run.finish(),
    ];
    for (index, way) in ways.into_iter().enumerate() {
        let mut run = Run::new();
        run.take(root(10, 11, 1000));
        run.take(long(12, 2000));
        assert!(run.machine.waiting_bytes() > 0);
        let told = way(&mut run);
        assert_eq!(told[0], "s1 12 /bin/p12 [one]", "way {index}");
        let Body::Executed(executed) = run.body(2) else { panic!("{:?}", run.told) };
        assert_eq!((executed.argv.cut, executed.argv.total), (Some(1), 14), "way {index}");
        assert_eq!(run.machine.waiting_bytes(), 0, "way {index}");
        assert_eq!(run.take(chunk(12, 2000, 4, b"two\0")), NOTHING, "way {index}");
    }
}

#[test]
fn a_session_that_ends_while_an_argv_is_incomplete_is_told_in_order() {
    let mut run = Run::new();
    run.take(Exec { root: true, ..long(11, 1000) });
    run.take(long(12, 2000));
    let mut told = run.take(exit(10, 12, 3000));
    told.extend(run.take(last(10, 11, 4000)));
    assert_eq!(
        told,
        [
            "s1 root 11 /bin/p11 [one]",
            "s1 12 /bin/p12 [one]",
            "s1 exited 12 p12 exit 0 1 us",
            "s1 exited 11 p11 exit 0 3 us",
            "s1 ended exit 0, 2 commands, lost 0, 3 us",
        ]
    );
}

#[test]
fn case_21_bytes_of_argv_pass_unchanged() {
    let hostile = b"\0\xff\xfe\0a\nb\0\x1b[2J\0\0";
    let told = events([Exec { argv: argv(hostile), ..root(10, 11, 1000) }.record()]);
    let Body::Executed(executed) = &told[1].body else { panic!("{told:?}") };
    assert_eq!(executed.argv.args, [&b""[..], b"\xff\xfe", b"a\nb", b"\x1b[2J", b""]);
}

// ---------------------------------------------------------------------------------------- lost, recovered, agent

#[test]
fn what_the_kernel_lost_is_a_gap_that_names_the_sessions_open_then() {
    let mut run = Run::new();
    run.take(root(10, 10, 1000));
    run.take(last(10, 10, 2000));
    run.take(root(20, 20, 3000));
    run.take(Exec { entry_time: BootTime(9000), ..root(30, 30, 9000) });
    let lost = Lost {
        from: BootTime(4000),
        time: BootTime(5000),
        source: GapSource::KernelRing,
        count: 7,
        exact: true,
        detail: "exec".to_owned(),
    };
    assert_eq!(run.raw(Record::Lost(lost)), ["- gap KernelRing 7: exec"]);
    let Some(Body::Gap(gap)) = run.told.last().map(|event| &event.body) else { panic!() };
    let ids: Vec<_> = run.told.iter().filter(|event| matches!(event.body, Body::SessionStarted(_))).collect();
    assert_eq!(gap.sessions, [ids[1].session.clone().unwrap()]);
    assert_eq!((gap.from, gap.to, gap.exact), (BootTime(4000), BootTime(5000), true));
}

#[test]
fn case_28_a_session_from_before_the_agent_has_its_root_and_goes_on() {
    let before = events([root(10, 11, 500).record()]);
    let mut run = Run::new();
    let recovered = Recovered {
        time: BootTime(90_000),
        entry: key(10),
        kind: EntryKind::Recovered,
        container: CONTAINER,
        processes: vec![root(10, 11, 500), exec(10, 12, 700)],
    };
    assert_eq!(
        run.raw(Record::Recovered(Box::new(recovered.clone()))),
        ["s1 started in 42, unknown, root 11, by  9", "s1 root 11 /bin/p11 [p11]"]
    );
    assert_eq!(run.told[0].session, before[0].session, "the same id as before the restart");
    let Body::SessionStarted(started) = run.body(0) else { panic!("{:?}", run.told) };
    assert_eq!(started.recovered, Some(BootTime(90_000)));
    assert_eq!(run.raw(Record::Recovered(Box::new(recovered))), NOTHING, "twice is once");
    assert_eq!(run.take(exec(10, 13, 91_000)), ["s1 13 /bin/p13 [p13]"]);
    assert_eq!(run.take(exit(10, 12, 92_700)), ["s1 exited 12 p12 exit 0 92 us"]);
    run.take(exit(10, 13, 93_000));
    assert_eq!(
        run.take(last(10, 11, 100_500)),
        ["s1 exited 11 p11 exit 0 100 us", "s1 ended exit 0, 2 commands, lost 0, 99 us"]
    );
}

#[test]
fn the_agent_s_own_state_passes_through() {
    let state = AgentState {
        phase: AgentPhase::Started,
        version: "1".to_owned(),
        kernel: "6.18".to_owned(),
        boot_id: BOOT_ID.to_owned(),
        hooks: Vec::new(),
    };
    let mut run = Run::new();
    assert_eq!(run.raw(Record::Agent { time: BootTime(5), state }), ["- agent Started"]);
}

// ---------------------------------------------------------------------------------------------------- bounds

#[test]
fn entries_without_a_command_are_bounded_and_a_forgotten_join_is_a_gap() {
    let mut run = Run::new();
    run.take(join(30, 1000));
    for pid in 0..10_000 {
        run.raw(enter(100 + pid, 2000).record());
    }
    assert!(run.machine.unannounced() <= 8192, "{}", run.machine.unannounced());
    assert_eq!(tell(&run.told), ["- gap AgentBuffer 1: namespace joins without a command: too many at once"]);
    // The oldest entry was forgotten, and is announced all the same.
    assert_eq!(run.take(root(100, 100, 3000)).len(), 2);
}

#[test]
fn processes_whose_exits_were_lost_are_forgotten_with_a_gap() {
    let mut machine = Machine::new(BOOT_ID);
    let mut told = Vec::new();
    machine.handle(root(10, 11, 1000).record(), &mut told);
    for pid in 100..(100 + 4096) {
        machine.handle(exec(10, pid, 2000 + u64::from(pid)).record(), &mut told);
    }
    let gaps: Vec<_> = told.iter().filter(|event| matches!(event.body, Body::Gap(_))).collect();
    let [gap] = &gaps[..] else { panic!("{gaps:?}") };
    let Body::Gap(gap) = &gap.body else { panic!() };
    assert_eq!((gap.count, gap.source), (1024, GapSource::AgentBuffer));
    assert_eq!(gap.sessions.len(), 1);
}

#[test]
fn argv_that_never_completes_takes_a_bounded_share_of_memory() {
    let mut machine = Machine::new(BOOT_ID);
    let mut told = Vec::new();
    for pid in 100..400 {
        let argv =
            RawArgv { total: 1 << 20, head: 1 << 20, tail: 0, bytes: vec![b'x'; 1 << 18], fault: false };
        machine.handle(Exec { argv, ..root(pid, pid, 1000) }.record(), &mut told);
        assert!(machine.waiting_bytes() <= 16 << 20, "{}", machine.waiting_bytes());
    }
    let cut =
        told.iter().filter(|event| matches!(&event.body, Body::Executed(e) if e.argv.cut == Some(1))).count();
    assert_eq!(cut, 300 - (16 << 20 >> 18));
    machine.finish(&mut told);
    assert_eq!(told.iter().filter(|event| matches!(event.body, Body::Executed(_))).count(), 300);
}

#[test]
fn sessions_whose_end_was_lost_give_way_with_a_gap() {
    let mut machine = Machine::new(BOOT_ID);
    let mut told = Vec::new();
    for pid in 100..(100 + 16 * 1024 + 1) {
        machine.handle(root(pid, pid, 1000).record(), &mut told);
    }
    assert_eq!(machine.open_sessions(), 16 * 1024);
    let last: Vec<_> = told.iter().filter(|event| matches!(event.body, Body::Gap(_))).collect();
    let [gap] = &last[..] else { panic!("{last:?}") };
    assert_eq!(gap.session, told[0].session, "the oldest");
}

#[test]
fn namespaces_and_processes_are_told_as_they_were() {
    let told = events([root(10, 11, 1000).record()]);
    let Body::Executed(executed) = &told[1].body else { panic!("{told:?}") };
    assert_eq!((executed.namespaces.mnt, executed.namespaces.pid), (MNT, PID_NS));
    assert_eq!(executed.process, process(11));
    assert!(executed.root);
}

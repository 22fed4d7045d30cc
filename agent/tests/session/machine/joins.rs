//! Joins of namespaces: whose they are, and which are worth telling.

use podtrail::{
    event::{Body, BootTime, ExitStatus},
    session::record::{ContainerEnded, EntryKind, Exec, Exit, Join, Record},
};

use super::{NOTHING, Run};
use crate::build::{CONTAINER, SECOND, enter, exec, join, key, last, root, started};

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
    let ended = ContainerEnded {
        time: BootTime(3500),
        cgroup_id: CONTAINER,
        init: key(2),
        status: ExitStatus::Code(0),
    };
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

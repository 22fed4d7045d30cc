//! What the kernel side follows no more, and no record said so.

use podtrail::{event::BootTime, session::Followed};

use super::{NOTHING, Run};
use crate::build::{SECOND, enter, exec, exit, join, key, last, root};

/// A look that finds all of these gone.
fn gone(run: &mut Run, time: u64, sessions: &[u32], processes: &[u32]) {
    let keys = |pids: &[u32]| pids.iter().copied().map(key).collect();
    run.machine.missing(BootTime(time), Followed { sessions: keys(sessions), processes: keys(processes) });
}

#[test]
fn a_session_whose_last_exit_was_lost_ends_and_says_that_nobody_saw_it() {
    let mut run = Run::new();
    run.take(root(10, 11, 1000));
    run.take(exec(10, 12, 2000));
    run.take(root(20, 20, 3000));
    gone(&mut run, 9000, &[10], &[]);
    let now = 90 * SECOND;
    assert_eq!(run.flush(now), NOTHING, "exits may be on their way");
    assert_eq!(run.flush(now + SECOND / 2), NOTHING);
    // No exit is told, and the two that are missing are counted.
    assert_eq!(run.flush(now + SECOND), ["s1 ended ?, 2 commands, lost 2, 8 us"]);
    assert_eq!(run.machine.open_sessions(), 1, "the other goes on");
    assert_eq!(run.take(last(20, 20, 10_000)).len(), 2);
}

#[test]
fn what_was_lost_before_is_counted_too_and_the_root_may_have_been_seen() {
    let mut run = Run::new();
    run.take(root(10, 11, 1000));
    let seen = podtrail::session::record::Exit { lost: 7, ..exit(10, 11, 2000) };
    run.take(seen);
    gone(&mut run, 9000, &[10], &[]);
    assert_eq!(run.finish(), ["s1 ended exit 0, 1 commands, lost 8, 8 us"]);
}

#[test]
fn an_exit_that_was_on_its_way_ends_its_session_itself() {
    let mut run = Run::new();
    run.take(root(10, 11, 1000));
    gone(&mut run, 9000, &[10], &[11]);
    assert_eq!(
        run.take(last(10, 11, 8000)),
        ["s1 exited 11 p11 exit 0 7 us", "s1 ended exit 0, 1 commands, lost 0, 7 us"]
    );
    assert_eq!(run.flush(SECOND), NOTHING);
    assert_eq!(run.flush(9 * SECOND), NOTHING);
}

#[test]
fn the_ring_that_has_gone_on_for_long_enough_ends_the_wait() {
    let mut run = Run::new();
    run.take(root(10, 11, 1000));
    gone(&mut run, 9000, &[10], &[]);
    let told = run.take(root(20, 20, 9000 + SECOND));
    assert_eq!(told[0], "s1 ended ?, 1 commands, lost 1, 8 us");
}

#[test]
fn a_process_whose_exit_was_lost_is_forgotten_while_its_session_goes_on() {
    let mut run = Run::new();
    run.take(root(10, 11, 1000));
    run.take(exec(10, 12, 2000));
    gone(&mut run, 9000, &[], &[12]);
    assert_eq!(run.machine.followed(), Followed { sessions: vec![key(10)], processes: vec![key(11)] });
    assert_eq!(run.flush(SECOND), NOTHING);
    assert_eq!(run.flush(2 * SECOND), NOTHING);
    // Nothing holds back the end any more.
    assert_eq!(run.take(last(10, 11, 10_000))[1], "s1 ended exit 0, 2 commands, lost 0, 9 us");
}

#[test]
fn entries_without_a_command_are_asked_for_too() {
    let mut run = Run::new();
    run.take(enter(10, 1000));
    run.take(join(30, 1000));
    let mut sessions = run.machine.followed().sessions;
    sessions.sort_unstable();
    assert_eq!(sessions, [key(10), key(30)]);
    gone(&mut run, 9000, &[10, 30], &[]);
    assert!(run.machine.followed().is_empty(), "not twice");
    assert_eq!(run.finish(), ["- joined in 42 mnt 7001 pid 7002 by 30"]);
    assert_eq!(run.machine.unannounced(), 0);
}

#[test]
fn the_exit_of_a_session_of_which_no_command_came_is_counted() {
    let mut run = Run::new();
    let gap = "- gap AgentDecode 1: the end of a process, of whose session no command came";
    assert_eq!(run.take(last(10, 11, 1000)), [gap], "entry and command were lost, the exit was not");
    run.take(enter(20, 2000));
    assert_eq!(run.take(last(20, 20, 3000)), [gap], "only the command was lost");
    // What never ran anything inside is none of this.
    let never = podtrail::session::record::Exit { executed: false, ..last(30, 30, 5000) };
    assert_eq!(run.take(never), NOTHING);
}

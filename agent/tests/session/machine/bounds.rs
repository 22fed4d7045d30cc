//! What is kept is bounded, and what is given up is told.

use podtrail::{
    event::{Body, GapSource},
    session::{
        Machine,
        record::{Exec, RawArgv},
    },
};

use super::Run;
use crate::{
    build::{IntoRecord, MNT, PID_NS, enter, exec, join, process, root},
    tell::{BOOT_ID, events, tell},
};

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
    machine.finish(podtrail::event::BootTime(u64::MAX), &mut told);
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

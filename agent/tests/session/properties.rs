//! What holds of the state machine whatever comes out of the ring: records dropped, doubled, and out of order.

use std::collections::{HashMap, HashSet};

use podtrail::{
    event::{Body, BootTime, Event, GapSource, SessionId, TaskKey},
    session::{
        Machine,
        record::{ContainerEnded, EntryKind, Exec, Exit, Join, Lost, RawArgv, Record, Recovered},
    },
    state::{Changes, State},
};
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::{
    build::{CONTAINER, IntoRecord, chunk, enter, exec, exit, failed, join, key, started},
    tell::BOOT_ID,
    traces::ALL,
};

/// What may go wrong on the way to the machine.
#[derive(Clone, Debug)]
enum Fault {
    Drop(Index),
    Double(Index),
    Move(Index, Index),
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        any::<Index>().prop_map(Fault::Drop),
        any::<Index>().prop_map(Fault::Double),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Fault::Move(from, to)),
    ]
}

fn spoil(records: &mut Vec<Record>, faults: &[Fault]) {
    for fault in faults {
        if records.is_empty() {
            return;
        }
        let len = records.len();
        match fault {
            Fault::Drop(at) => {
                records.remove(at.index(len));
            }
            Fault::Double(at) => {
                let record = records[at.index(len)].clone();
                records.insert(at.index(len), record);
            }
            Fault::Move(from, to) => {
                let record = records.remove(from.index(len));
                records.insert(to.index(len), record);
            }
        }
    }
}

/// Any record about a handful of processes, entries and times: most streams of them make no sense.
fn record() -> impl Strategy<Value = Record> {
    let pid = || 1..6_u32;
    let time = || (0..4_u64).prop_map(|t| t * 700_000_000);
    let refused = || 0..9_u64;
    let kind = prop_oneof![
        Just(EntryKind::Runtime),
        Just(EntryKind::SelfMoved),
        Just(EntryKind::Join),
        Just(EntryKind::HostNamespace),
        Just(EntryKind::Recovered),
    ];
    let argv = (any::<u16>(), 0..40_u32, 0..40_u32, vec(0..3_u8, 0..50), any::<bool>()).prop_map(
        |(total, head, tail, bytes, fault)| RawArgv {
            total: u64::from(total % 90),
            head,
            tail,
            bytes,
            fault,
        },
    );
    let container = prop_oneof![Just(None), Just(Some(CONTAINER))];
    let an_exec = (pid(), pid(), time(), kind.clone(), argv, container.clone(), any::<[bool; 3]>()).prop_map(
        |(entry, pid, time, entry_kind, argv, container, [staging, root, host_mnt])| Exec {
            entry_kind,
            argv,
            container,
            staging,
            root,
            host_mnt,
            ..exec(entry, pid, time)
        },
    );
    let processes = vec(an_exec.clone(), 0..4);
    prop_oneof![
        4 => an_exec.prop_map(IntoRecord::record),
        2 => (pid(), time(), 0..60_u32, vec(any::<u8>(), 0..60))
            .prop_map(|(pid, time, offset, bytes)| chunk(pid, time, offset, &bytes).record()),
        3 => (pid(), pid(), time(), any::<[bool; 2]>(), refused()).prop_map(
            |(entry, pid, time, [last, executed], refused)| {
                Exit { last, executed, refused, ..exit(entry, pid, time) }.record()
            },
        ),
        2 => (pid(), pid(), time(), any::<[bool; 2]>()).prop_map(|(entry, pid, time, [other, missing])| {
            let path = if other { "/bin/other".to_owned() } else { format!("/sbin/p{pid}") };
            failed(entry, pid, time, &path, if missing { 2 } else { 13 }).record()
        }),
        1 => (pid(), refused()).prop_map(|(entry, total)| Record::Refused { entry: key(entry), total }),
        1 => (pid(), time(), proptest::option::of(pid())).prop_map(|(pid, time, replaces)| {
            let mut enter = enter(pid, time);
            enter.replaces = replaces.map(key);
            enter.record()
        }),
        1 => (pid(), pid(), time(), container)
            .prop_map(|(entry, pid, time, container)| Join { entry: key(entry), container, ..join(pid, time) }.record()),
        1 => time().prop_map(|time| started(time).record()),
        1 => time().prop_map(|time| Record::ContainerEnded(ContainerEnded {
            time: BootTime(time),
            cgroup_id: CONTAINER,
            init: key(2),
            status: podtrail::event::ExitStatus::Code(0),
        })),
        1 => (time(), refused(), any::<[bool; 2]>()).prop_map(|(time, count, [refused, exact])| Record::Lost(Lost {
            from: BootTime(0),
            time: BootTime(time),
            source: if refused { GapSource::SessionBudget } else { GapSource::KernelRing },
            count,
            exact,
            detail: String::new(),
        })),
        1 => (pid(), time(), kind, processes).prop_map(|(entry, time, kind, processes)| {
            let time = BootTime(time);
            Record::Recovered(Box::new(Recovered { time, entry: key(entry), kind, container: CONTAINER, processes }))
        }),
    ]
}

/// Plays the records, and checks after each that nothing grows and at the end that all was said.
fn play(records: Vec<Record>) -> Vec<Event> {
    let mut machine = Machine::new(BOOT_ID);
    let mut events = Vec::new();
    let given: usize = records.len();
    for record in records {
        machine.handle(record, &mut events);
        assert!(machine.open_sessions() <= given);
        assert!(machine.unannounced() <= given);
        assert!(machine.waiting_bytes() <= given * 64);
    }
    machine.flush(BootTime(u64::MAX / 2), &mut events);
    machine.flush(BootTime(u64::MAX), &mut events);
    assert_eq!(machine.waiting_bytes(), 0, "nothing waits for ever");
    let before = events.len();
    machine.finish(BootTime(u64::MAX), &mut events);
    assert_eq!(events.len(), before, "flush has told everything");
    events
}

/// Plays the records as agents would that are killed after some of them: each saves after a batch of `batch` records,
/// and after every `life` batches there is a new one, which has nothing but what was saved. `None`: there is only one.
/// A second passes with each batch.
fn play_in_lives(records: &[Record], batch: usize, life: Option<usize>) -> Vec<Event> {
    let mut machine = Machine::new(BOOT_ID);
    let (mut events, mut state, mut all) = (Vec::new(), State::new(), true);
    for (number, batch) in records.chunks(batch).enumerate() {
        batch.iter().for_each(|record| machine.handle(record.clone(), &mut events));
        machine.flush(BootTime(number as u64 * 1_000_000_000), &mut events);
        let mut changes = Changes::default();
        machine.save(std::mem::take(&mut all), &mut changes);
        changes.apply(&mut state);
        if life.is_some_and(|life| number % life == 0) {
            machine = Machine::restore(BOOT_ID, &state).unwrap();
        }
    }
    machine.flush(BootTime(u64::MAX / 2), &mut events);
    machine.flush(BootTime(u64::MAX), &mut events);
    events
}

#[derive(Default)]
struct Told {
    root: Option<TaskKey>,
    executed: u64,
    ended: bool,
}

/// The promises about every stream of events.
fn check(events: &[Event]) {
    let mut sessions: HashMap<SessionId, Told> = HashMap::new();
    let mut roots: HashSet<TaskKey> = HashSet::new();
    for event in events {
        let Some(id) = &event.session else {
            assert!(
                matches!(
                    event.body,
                    Body::NamespaceJoined(_) | Body::ExecFailed(_) | Body::Gap(_) | Body::AgentState(_)
                ),
                "of no session: {event:?}"
            );
            continue;
        };
        let told = sessions.entry(id.clone()).or_default();
        match &event.body {
            Body::SessionStarted(started) => {
                assert!(told.root.is_none(), "announced twice: {id}");
                assert!(roots.insert(started.root.key), "two sessions with one root: {id}");
                told.root = Some(started.root.key);
            }
            // May be told of a session that is over: it says just that.
            Body::Gap(_) => assert!(told.root.is_some(), "{id} was not announced: {event:?}"),
            body => {
                assert!(told.root.is_some(), "{id} was not announced: {event:?}");
                assert!(!told.ended, "{id} has ended: {event:?}");
                match body {
                    Body::Executed(executed) => {
                        assert_eq!(
                            executed.root,
                            told.executed == 0,
                            "the root is the first command, and only that"
                        );
                        told.executed += 1;
                        if let Some(cut) = executed.argv.cut {
                            assert!(cut <= executed.argv.args.len());
                        }
                    }
                    Body::SessionEnded(ended) => {
                        assert_eq!(ended.commands, told.executed, "commands counted are commands told: {id}");
                        told.ended = true;
                    }
                    _ => {}
                }
            }
        }
    }
    for (id, told) in sessions {
        assert!(told.executed > 0, "a session without a command: {id}");
    }
}

/// Sessions whose roots differ only where one process is the root of one session: in a stream that makes sense.
fn commands(records: &[Record]) -> usize {
    records.iter().filter(|record| matches!(record, Record::Exec(exec) if !exec.staging)).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn traces_with_records_dropped_doubled_and_moved_keep_the_promises(
        trace in 0..ALL.len(),
        faults in vec(fault(), 0..20),
    ) {
        let mut records = ALL[trace].records();
        spoil(&mut records, &faults);
        let given = commands(&records);
        let events = play(records);
        check(&events);
        let told = events
            .iter()
            .filter(|event| match &event.body {
                Body::Executed(_) => true,
                Body::Gap(gap) => gap.detail.contains("after the end of its session"),
                _ => false,
            })
            .count();
        prop_assert_eq!(told, given, "every command is told, or a gap is in its place");
    }

    #[test]
    fn interleaved_traces_are_told_as_if_each_were_alone(picks in vec(any::<bool>(), 0..200)) {
        // Two runtimes at once: their pids do not overlap.
        let mut streams = [ALL[0].records().into_iter(), ALL[4].records().into_iter()];
        let mut mixed = Vec::new();
        for pick in picks {
            mixed.extend(streams[usize::from(pick)].next());
        }
        mixed.extend(streams.into_iter().flatten());
        let events = play(mixed);
        check(&events);
        for trace in [ALL[0], ALL[4]] {
            let alone = play(trace.records());
            let ids: HashSet<_> = alone.iter().map(|event| event.session.clone()).collect();
            let among: Vec<_> = events.iter().filter(|event| ids.contains(&event.session)).cloned().collect();
            prop_assert_eq!(among, alone);
        }
    }

    #[test]
    fn a_machine_that_is_saved_and_restored_goes_on_as_if_it_had_not_been(
        trace in 0..ALL.len(),
        faults in vec(fault(), 0..10),
        batch in 1..8_usize,
        life in 1..4_usize,
    ) {
        let mut records = ALL[trace].records();
        spoil(&mut records, &faults);
        prop_assert_eq!(play_in_lives(&records, batch, Some(life)), play_in_lives(&records, batch, None));
    }

    #[test]
    fn nor_does_nonsense_tell_whether_it_was(records in vec(record(), 0..120), batch in 1..8_usize) {
        prop_assert_eq!(play_in_lives(&records, batch, Some(1)), play_in_lives(&records, batch, None));
    }

    #[test]
    fn a_state_that_is_damaged_is_refused_or_does_no_harm(
        records in vec(record(), 1..60),
        faults in vec((any::<Index>(), any::<Index>(), any::<u8>()), 1..4),
    ) {
        let mut machine = Machine::new(BOOT_ID);
        let (mut changes, mut state) = (Changes::default(), State::new());
        let (before, after) = records.split_at(records.len() / 2);
        before.iter().for_each(|record| machine.handle(record.clone(), &mut Vec::new()));
        machine.save(true, &mut changes);
        changes.apply(&mut state);
        for (row, at, byte) in faults {
            let row = row.index(state.len());
            let value = state.values_mut().nth(row).unwrap();
            if !value.is_empty() {
                let at = at.index(value.len());
                value[at] = byte;
            }
        }
        if let Ok(mut machine) = Machine::restore(BOOT_ID, &state) {
            after.iter().for_each(|record| machine.handle(record.clone(), &mut Vec::new()));
            machine.finish(BootTime(u64::MAX), &mut Vec::new());
        }
    }

    #[test]
    fn nonsense_never_panics_and_nothing_grows(records in vec(record(), 0..120)) {
        play(records);
    }

    #[test]
    fn sessions_keep_their_promises_in_streams_whose_roots_make_sense(
        mut records in vec(record(), 0..120),
    ) {
        // A process is in one session only: the entry follows from the process.
        for record in &mut records {
            match record {
                Record::Exec(exec) => exec.entry = key(10 + exec.process.key.tgid % 2),
                Record::Exit(exit) => exit.entry = key(10 + exit.key.tgid % 2),
                Record::Recovered(recovered) => {
                    let odd = recovered.entry.tgid % 2;
                    recovered.entry = key(10 + odd);
                    recovered.processes.retain(|exec| exec.process.key.tgid % 2 == odd);
                }
                _ => {}
            }
        }
        check(&play(records));
    }
}

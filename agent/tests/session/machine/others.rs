//! Gaps, sessions from before the agent, and the agent itself.

use podtrail::{
    event::{AgentPhase, AgentState, Body, BootTime, GapSource},
    session::record::{EntryKind, Exec, Lost, Record, Recovered},
};

use super::{NOTHING, Run};
use crate::{
    build::{CONTAINER, IntoRecord, exec, exit, key, last, root},
    tell::{BOOT_ID, events},
};

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
        findings: Vec::new(),
        start: None,
    };
    let mut run = Run::new();
    assert_eq!(run.raw(Record::Agent { time: BootTime(5), state }), ["- agent Started"]);
}

//! What is told of probes, and what is only counted.

use super::*;

fn every(seconds: u64) -> Options {
    Options { every: seconds * SECOND, ..Options::default() }
}

/// So many probes, five seconds apart, from `from` seconds on.
fn probes(from: u64, count: u64) -> impl Iterator<Item = Event> {
    (0..count).flat_map(move |n| probe((from + 5 * n) * SECOND).events())
}

fn finish(wayin: &mut WayIn) -> Vec<String> {
    let mut out = Vec::new();
    wayin.finish(&mut out);
    lines(&out)
}

#[test]
fn the_first_is_told_and_the_rest_is_counted() {
    let (mut wayin, world) = (WayIn::default(), web());
    let out = play(&mut wayin, &world, probes(10, 20));
    assert_eq!(lines(&out), ["probe@10 s Unknown", "probe@10 s is ExecProbe"]);
    assert_eq!(out.len(), probe(0).events().len() + 1);
    assert_eq!(finish(&mut wayin), ["19 like probe@10 s, 19 commands, Some(Code(0))"]);
    assert_eq!(wayin.held_bytes(), 0);
    // The count is of when they were.
    let mut out = play(&mut wayin, &world, probes(110, 2));
    wayin.container_ended(WEB, BootTime(200 * SECOND), &mut out);
    let Body::Folded(folded) = &out[0].body else { panic!("{out:?}") };
    assert_eq!((folded.first, folded.last), (BootTime(110 * SECOND), BootTime(115 * SECOND)));
    assert_eq!((out[0].session.as_ref(), out[0].container), (Some(&folded.like), Some(WEB)));
    assert_eq!(wayin.kept(), (0, 0), "nothing is kept of a container that ended");
}

#[test]
fn a_person_with_the_same_arguments_is_told() {
    let (mut wayin, world) = (WayIn::default(), web());
    let mut out = play(&mut wayin, &world, probes(10, 3));
    // By hand, between two probes; with a terminal, at a probe's own time; as a probe, beside one that came.
    let by_hand = made("hand", 22 * SECOND, &PROBE);
    let terminal = Made { tty: true, ..made("tty", 25 * SECOND, &PROBE) };
    let beside = made("beside", 25 * SECOND + SECOND / 2, &PROBE);
    for session in [by_hand, terminal] {
        out.extend(play(&mut wayin, &world, session.events()));
    }
    out.extend(play(&mut wayin, &world, probes(25, 1)));
    out.extend(play(&mut wayin, &world, beside.events()));
    out.extend(play(&mut wayin, &world, probes(30, 2)));
    assert_eq!(
        lines(&out),
        [
            "probe@10 s Unknown",
            "probe@10 s is ExecProbe",
            "hand Unknown",
            "tty RuntimeExec",
            "hand is RuntimeExec",
            "beside Unknown",
            "beside is RuntimeExec",
        ]
    );
    assert_eq!(finish(&mut wayin), ["5 like probe@10 s, 5 commands, Some(Code(0))"]);
}

#[test]
fn an_outcome_that_changes_is_told() {
    let (mut wayin, world) = (WayIn::default(), web());
    let mut out = play(&mut wayin, &world, probes(10, 3));
    let fails = Made { status: ExitStatus::Code(1), ..probe(25 * SECOND) };
    out.extend(play(&mut wayin, &world, fails.events()));
    out.extend(play(&mut wayin, &world, Made { status: ExitStatus::Code(1), ..probe(30 * SECOND) }.events()));
    out.extend(play(&mut wayin, &world, probes(35, 2)));
    assert_eq!(
        lines(&out),
        [
            "probe@10 s Unknown",
            "probe@10 s is ExecProbe",
            "2 like probe@10 s, 2 commands, Some(Code(0))",
            "probe@25 s ExecProbe",
            "1 like probe@25 s, 1 commands, Some(Code(1))",
            "probe@35 s ExecProbe",
        ]
    );
    assert_eq!(finish(&mut wayin), ["1 like probe@35 s, 1 commands, Some(Code(0))"]);
}

#[test]
fn a_probe_that_does_something_else_is_told_in_full() {
    let (mut wayin, world) = (WayIn::default(), web());
    let mut out = play(&mut wayin, &world, probes(10, 3));
    let tampered = probe(25 * SECOND).also(&["/usr/bin/curl", "http://192.0.2.1/x"]);
    let told = play(&mut wayin, &world, tampered.events());
    assert_eq!(told[1..].len(), tampered.events().len(), "every event of it: {told:#?}");
    out.extend(told);
    assert_eq!(lines(&out)[2..], ["2 like probe@10 s, 2 commands, Some(Code(0))", "probe@25 s ExecProbe"]);
}

#[test]
fn the_same_arguments_with_another_program_behind_them_are_told() {
    let (mut wayin, world) = (WayIn::default(), web());
    play(&mut wayin, &world, probes(10, 3));
    let replaced = Made { inode: 8, ..probe(25 * SECOND) };
    let out = play(&mut wayin, &world, replaced.events());
    assert_eq!(lines(&out), ["2 like probe@10 s, 2 commands, Some(Code(0))", "probe@25 s ExecProbe"]);
}

#[test]
fn the_order_of_a_pipes_processes_is_no_change() {
    let (mut wayin, world) = (WayIn::default(), web());
    let one = |at: u64, swap: bool| {
        let (a, b) = (["a"], ["b"]);
        let made = probe(at * SECOND);
        if swap { made.also(&b).also(&a) } else { made.also(&a).also(&b) }
    };
    let out = play(&mut wayin, &world, (0..6).flat_map(|n| one(10 + 5 * n, n % 2 == 0).events()));
    assert_eq!(lines(&out), ["probe@10 s Unknown", "probe@10 s is ExecProbe"]);
    assert_eq!(finish(&mut wayin), ["5 like probe@10 s, 15 commands, Some(Code(0))"]);
}

#[test]
fn one_that_lasts_or_does_much_is_told_meanwhile() {
    let (mut wayin, world) = (WayIn::default(), web());
    play(&mut wayin, &world, probes(10, 3));
    let long = probe(25 * SECOND);
    let mut out = play(&mut wayin, &world, [long.started(), long.executed(0)]);
    wayin.flush(BootTime(26 * SECOND), &mut out);
    wayin.flush(BootTime(29 * SECOND), &mut out);
    assert_eq!(out.len(), 0);
    wayin.flush(BootTime(30 * SECOND), &mut out);
    assert_eq!(lines(&out), ["2 like probe@10 s, 2 commands, Some(Code(0))", "probe@25 s ExecProbe"]);
    assert_eq!(play(&mut wayin, &world, long.ends()), long.ends(), "what comes later goes on at once");

    let mut much = probe(30 * SECOND);
    for number in 0..300 {
        much = much.also(&["/bin/echo", &number.to_string()]);
    }
    let out = play(&mut wayin, &world, much.events());
    assert_eq!(out, {
        let mut all = much.events();
        all[0] = out[0].clone();
        all
    });
    let mut large = probe(35 * SECOND);
    large = large.also(&[&"x".repeat(MAX_BYTES_OF_ONE)]);
    let told = play(&mut wayin, &world, [large.started(), large.executed(0), large.executed(1)]);
    assert_eq!(lines(&told), ["probe@35 s ExecProbe"]);
}

#[test]
fn a_gap_tells_what_it_may_touch() {
    for (named, touched) in [(vec![], true), (vec!["probe@25 s"], true), (vec!["another"], false)] {
        let (mut wayin, world) = (WayIn::default(), web());
        play(&mut wayin, &world, probes(10, 3));
        let held = probe(25 * SECOND);
        let mut out = play(&mut wayin, &world, [held.started(), held.executed(0)]);
        let gap = Gap {
            source: GapSource::KernelRing,
            count: 3,
            exact: true,
            from: BootTime(0),
            to: BootTime(26 * SECOND),
            sessions: named.iter().map(|id| SessionId((*id).to_owned())).collect(),
            detail: String::new(),
        };
        let gap = Event { time: gap.to, container: None, session: None, body: Body::Gap(gap) };
        out.extend(play(&mut wayin, &world, [gap]));
        // What the gap is of is missing: an exit.
        let ends = held.ends().split_off(usize::from(touched));
        out.extend(play(&mut wayin, &world, ends));
        let expected: &[&str] = if touched {
            &["2 like probe@10 s, 2 commands, Some(Code(0))", "probe@25 s ExecProbe", "gap of 3"]
        } else {
            &["gap of 3"]
        };
        assert_eq!(lines(&out), expected, "{named:?}");
        // What was lost of it may have been anything: the next is compared with the last that was whole.
        let out = play(&mut wayin, &world, probes(30, 1));
        assert_eq!(lines(&out), Vec::<String>::new());
    }
}

#[test]
fn records_that_were_lost_are_never_folded() {
    let (mut wayin, world) = (WayIn::default(), web());
    play(&mut wayin, &world, probes(10, 3));
    let out = play(&mut wayin, &world, Made { lost: 2, ..probe(25 * SECOND) }.events());
    assert_eq!(lines(&out), ["2 like probe@10 s, 2 commands, Some(Code(0))", "probe@25 s ExecProbe"]);
    // Nor where no probe is to be told: it may have been anything.
    let mut none = WayIn::new(Options { probes: Probes::None, ..Options::default() });
    play(&mut none, &world, probes(10, 3));
    let out = play(&mut none, &world, Made { lost: 2, ..probe(25 * SECOND) }.events());
    assert_eq!(lines(&out), ["2 like , 2 commands, Some(Code(0))", "probe@25 s ExecProbe"]);
}

#[test]
fn one_of_which_nobody_knows_how_it_ended_is_told_and_is_no_measure() {
    let (mut wayin, world) = (WayIn::default(), web());
    play(&mut wayin, &world, probes(10, 3));
    let unknown = |at: u64| {
        let mut events = probe(at * SECOND).events();
        let Some(Body::SessionEnded(ended)) = events.last_mut().map(|event| &mut event.body) else {
            panic!()
        };
        ended.status = None;
        events
    };
    let out = play(&mut wayin, &world, unknown(25));
    assert_eq!(lines(&out), ["2 like probe@10 s, 2 commands, Some(Code(0))", "probe@25 s ExecProbe"]);
    assert_eq!(lines(&play(&mut wayin, &world, unknown(30))), ["probe@30 s ExecProbe"]);
    assert_eq!(lines(&play(&mut wayin, &world, probes(35, 1))), [""; 0]);
}

#[test]
fn an_exec_that_fails_otherwise_than_before_is_told() {
    let (mut wayin, world) = (WayIn::default(), web());
    let fails = |at: u64, error: i32| {
        let probe = probe(at * SECOND);
        let mut events = probe.events();
        let failed = ExecFailed {
            process: Process { key: TaskKey::new(9, 9), parent: TaskKey::NONE, comm: b"x".to_vec() },
            path: b"/usr/bin/check".to_vec(),
            cwd: b"/".to_vec(),
            path_incomplete: false,
            argv: vec![b"check".to_vec()],
            argv_cut: false,
            credentials: Credentials::default(),
            error,
            attempts: 1,
        };
        let at = events[1].time;
        events.insert(2, Event { body: Body::ExecFailed(Box::new(failed)), time: at, ..events[1].clone() });
        events
    };
    let out = play(&mut wayin, &world, [10, 15, 20].into_iter().flat_map(|at| fails(at, 2)));
    assert_eq!(lines(&out), ["probe@10 s Unknown", "probe@10 s is ExecProbe"]);
    // There is something by that name now, which may not be run.
    let out = play(&mut wayin, &world, fails(25, 13));
    assert_eq!(lines(&out), ["2 like probe@10 s, 2 commands, Some(Code(0))", "probe@25 s ExecProbe"]);
}

#[test]
fn counts_come_at_intervals() {
    let (mut wayin, world) = (WayIn::new(every(60)), web());
    play(&mut wayin, &world, probes(10, 3));
    let mut out = Vec::new();
    wayin.flush(BootTime(70 * SECOND), &mut out);
    assert_eq!(out.len(), 0, "since the first that was counted");
    wayin.flush(BootTime(75 * SECOND), &mut out);
    assert_eq!(lines(&out), ["2 like probe@10 s, 2 commands, Some(Code(0))"]);
    wayin.flush(BootTime(200 * SECOND), &mut out);
    assert_eq!(out.len(), 1, "nothing more to tell");
}

#[test]
fn once_a_day_one_is_told_in_full() {
    let (mut wayin, world) = (WayIn::default(), web());
    let day = 24 * 3600;
    let out = play(&mut wayin, &world, probes(10, 17_300));
    let told = lines(&out);
    assert_eq!(told[..2], ["probe@10 s Unknown", "probe@10 s is ExecProbe"]);
    let again = format!("probe@{} s ExecProbe", day + 15);
    assert_eq!(told[2..], ["17280 like probe@10 s, 17280 commands, Some(Code(0))".to_owned(), again]);
}

#[test]
fn all_are_told_or_none() {
    let world = web();
    let mut all = WayIn::new(Options { probes: Probes::All, ..Options::default() });
    let out = play(&mut all, &world, probes(10, 3));
    assert_eq!(
        lines(&out),
        ["probe@10 s Unknown", "probe@10 s is ExecProbe", "probe@15 s ExecProbe", "probe@20 s ExecProbe"]
    );
    assert_eq!(finish(&mut all), Vec::<String>::new());

    let mut none = WayIn::new(Options { probes: Probes::None, ..Options::default() });
    let mut out = play(&mut none, &world, probes(10, 3));
    out.extend(play(&mut none, &world, Made { status: ExitStatus::Code(1), ..probe(25 * SECOND) }.events()));
    // Until it has a rhythm it may be anybody's.
    assert_eq!(
        lines(&out),
        ["probe@10 s Unknown", "probe@10 s is ExecProbe", "2 like , 2 commands, Some(Code(0))"]
    );
    assert_eq!(finish(&mut none), ["1 like , 1 commands, Some(Code(1))"]);
}

#[test]
fn more_that_becomes_known_of_a_counted_session_is_not_told() {
    let (mut wayin, world) = (WayIn::default(), web());
    play(&mut wayin, &world, probes(10, 3));
    let more = |at: u64| Event {
        time: BootTime(at * SECOND),
        container: Some(WEB),
        session: Some(probe(at * SECOND).id),
        body: Body::Attributed(Box::new(Attributed {
            exec_id: Some("e".to_owned()),
            ..Attributed::default()
        })),
    };
    assert_eq!(play(&mut wayin, &world, [more(15), more(20)]), []);
    assert_eq!(play(&mut wayin, &world, [more(10)]).len(), 1);
    // While it is held back it waits with it.
    let probe = probe(25 * SECOND);
    let mut events = probe.events();
    events.insert(2, more(25));
    assert_eq!(play(&mut wayin, &world, events), []);
}

use std::sync::Arc;

use super::*;
use crate::{
    event::{GapSource, SessionStarted},
    pods::{ContainerFacts, PodFacts},
};

const SECOND: u64 = 1_000_000_000;

fn at(seconds: u64) -> BootTime {
    BootTime(seconds * SECOND)
}

fn facts(observable: bool) -> Lookup {
    let pod = PodFacts {
        namespace: "prod".to_owned(),
        name: "web-0".to_owned(),
        uid: "u".to_owned(),
        labels: [].into(),
    };
    Lookup::Known(Arc::new(ContainerFacts {
        name: Some("web".to_owned()),
        sandbox: false,
        image: None,
        image_digest: None,
        runtime_handler: (!observable).then(|| "runsc".to_owned()),
        pod: Arc::new(pod),
        pre_stop: None,
        observable,
    }))
}

fn info(id: &str, cgroup_id: u64, metadata: Lookup) -> ContainerInfo {
    let id = Some(id.to_owned());
    ContainerInfo { id, runtime: None, cgroup_id, cgroup_path: None, pod_uid: None, metadata }
}

/// Containers that have a cgroup.
struct These(Vec<ContainerInfo>);

impl Known for These {
    fn by_id(&mut self, id: &str) -> Option<&ContainerInfo> {
        self.0.iter().find(|info| info.id.as_deref() == Some(id))
    }
}

fn nobody() -> These {
    These(Vec::new())
}

fn session(name: &str) -> SessionId {
    SessionId(name.to_owned())
}

fn event(time: BootTime, name: &str, body: Body) -> Event {
    Event { time, container: Some(42), session: Some(session(name)), body }
}

fn started(time: BootTime, name: &str, pid: u32) -> Event {
    let started = SessionStarted {
        method: Method::RuntimeExec,
        evidence: Vec::new(),
        tty: None,
        root: Process { key: TaskKey::new(pid, 5), parent: TaskKey::NONE, comm: Vec::new() },
        entered_by: None,
        entered: time,
        login_uid: None,
        audit_session: None,
        recovered: None,
        exec_id: None,
        exec_audit_id: None,
        exec_request_uid: None,
        observable: true,
        labels: Vec::new(),
        probe: None,
        spoofed: Vec::new(),
        descriptors: None,
        ancestors: Vec::new(),
    };
    event(time, name, Body::SessionStarted(Box::new(started)))
}

fn ended(time: BootTime, name: &str, status: Option<ExitStatus>) -> Event {
    event(time, name, Body::SessionEnded(SessionEnded { status, duration_ns: 1, commands: 1, lost: 0 }))
}

fn exec(container: &str, name: &str) -> ExecId {
    ExecId { container: container.to_owned(), exec: name.to_owned() }
}

fn begins(container: &str, name: &str, pid: u32) -> ExecWord {
    ExecWord::Started { exec: exec(container, name), pid, namespace: "k8s.io".to_owned() }
}

fn exits(container: &str, name: &str, status: u32) -> ExecWord {
    ExecWord::Exited { exec: exec(container, name), status: Some(status) }
}

/// What is said, by words that fit in a line.
fn told(out: &[Said]) -> Vec<String> {
    let line = |Said { event, info: _ }: &Said| {
        let session = event.session.as_ref().map_or("-", |session| session.0.as_str());
        match &event.body {
            Body::Attributed(attributed) => {
                let Attributed { container, evidence: _, method: _, exec_id, status } = &**attributed;
                format!("{session}: container {container}, exec {exec_id:?}, {status:?}")
            }
            Body::SessionStarted(started) => {
                format!("started, exec {:?}, observable {}", started.exec_id, started.observable)
            }
            Body::SessionEnded(ended) => {
                format!("ended, {:?} after {}", ended.status, ended.duration_ns / SECOND)
            }
            Body::Gap(gap) => format!("gap {:?} {}-{}", gap.source, gap.from.0 / SECOND, gap.to.0 / SECOND),
            other => format!("{other:?}"),
        }
    };
    out.iter().map(line).collect()
}

#[test]
fn who_was_told_before_is_told_again_when_the_answer_is_there() {
    let mut sessions = Sessions::new("boot");
    let mut out = Vec::new();
    let pending = info("c", 42, Lookup::Pending);
    for name in ["s1", "s2"] {
        sessions.pass(&mut started(at(1), name, 7), Some(&pending));
        sessions.pass(&mut ended(at(2), name, None), Some(&pending));
    }
    let asked: Vec<Question> = sessions.questions().collect();
    assert_eq!(
        asked,
        [Question::Container("c".to_owned()), Question::Container("c".to_owned())],
        "once a session"
    );
    // Another container's answer is none of theirs.
    sessions.answered("d", Some(43), &facts(true), at(3), &mut nobody(), &mut out);
    assert_eq!(out, []);
    // A runtime that does not answer is told, and may answer later.
    let silent = Lookup::Missing(Missing::Unavailable("no answer".to_owned()));
    sessions.answered("c", Some(42), &silent, at(4), &mut nobody(), &mut out);
    assert_eq!(out.len(), 2);
    out.clear();
    let mut changes = Changes::default();
    sessions.save(false, &mut changes);
    let mut state = State::new();
    changes.apply(&mut state);
    let mut sessions = Sessions::restore("boot", &state, None).unwrap();
    sessions.answered("c", Some(42), &facts(true), at(5), &mut nobody(), &mut out);
    assert_eq!(told(&out), ["s1: container true, exec None, None", "s2: container true, exec None, None"]);
    out.clear();
    sessions.answered("c", Some(42), &facts(true), at(6), &mut nobody(), &mut out);
    assert_eq!(out, [], "told once");
    let mut changes = Changes::default();
    sessions.save(false, &mut changes);
    changes.apply(&mut state);
    assert_eq!(state.len(), 0, "nothing is left of it");
}

#[test]
fn what_is_known_needs_no_second_word() {
    let mut sessions = Sessions::new("boot");
    let mut out = Vec::new();
    for metadata in [facts(true), Lookup::Missing(Missing::NoRuntime), Lookup::Missing(Missing::NotFound)] {
        sessions.pass(&mut started(at(1), "s", 7), Some(&info("c", 42, metadata)));
    }
    sessions.answered("c", Some(42), &facts(true), at(2), &mut nobody(), &mut out);
    assert_eq!((out, sessions.questions().count()), (Vec::new(), 0));
}

#[test]
fn an_exec_id_comes_with_the_session_or_after_it() {
    let mut sessions = Sessions::new("boot");
    let known = info("c", 42, facts(true));
    let mut these = These(vec![known.clone()]);
    let mut out = Vec::new();
    // The kernel first, as mostly.
    sessions.pass(&mut started(at(1), "s1", 7), Some(&known));
    sessions.exec(begins("c", "e1", 7), at(1), &mut these, &mut out);
    assert_eq!(told(&out), ["s1: container false, exec Some(\"e1\"), None"]);
    out.clear();
    // It has one id, whatever the runtime says after it.
    sessions.exec(begins("c", "other", 7), at(1), &mut these, &mut out);
    assert_eq!(out, []);
    // The runtime first.
    sessions.exec(begins("c", "e2", 8), at(1), &mut these, &mut out);
    let mut event = started(at(2), "s2", 8);
    sessions.pass(&mut event, Some(&known));
    let Body::SessionStarted(with) = &event.body else { panic!("{event:?}") };
    assert_eq!((with.exec_id.as_deref(), out.len()), (Some("e2"), 0));
    // A session that is over before the runtime's word comes.
    sessions.pass(&mut started(at(3), "s3", 9), Some(&known));
    sessions.pass(&mut ended(at(3), "s3", Some(ExitStatus::Code(0))), Some(&known));
    sessions.tick(at(4), &mut these, &mut out);
    sessions.exec(begins("c", "e3", 9), at(4), &mut these, &mut out);
    assert_eq!(told(&out), ["s3: container false, exec Some(\"e3\"), None"]);
    out.clear();
    // The same pid in another container, and one that nobody has told of.
    sessions.exec(begins("d", "e4", 7), at(4), &mut these, &mut out);
    sessions.exec(begins("c", "e5", 99), at(4), &mut these, &mut out);
    sessions.tick(at(30), &mut these, &mut out);
    assert_eq!(out, []);
    // Its pid is given again: another session's.
    sessions.pass(&mut started(at(40), "s6", 99), Some(&known));
    sessions.exec(begins("c", "e6", 99), at(40), &mut these, &mut out);
    assert_eq!(told(&out), ["s6: container false, exec Some(\"e6\"), None"]);
}

#[test]
fn an_end_that_was_lost_is_the_runtimes() {
    let mut sessions = Sessions::new("boot");
    let known = info("c", 42, facts(true));
    let mut these = These(vec![known.clone()]);
    let mut out = Vec::new();
    let end = |sessions: &mut Sessions, name: &str, status| {
        let mut event = ended(at(9), name, status);
        sessions.pass(&mut event, Some(&known));
        let Body::SessionEnded(ended) = event.body else { panic!("another event") };
        ended.status
    };
    for (name, pid) in [("s1", 1), ("s2", 2), ("s3", 3)] {
        sessions.pass(&mut started(at(1), name, pid), Some(&known));
        sessions.exec(begins("c", name, pid), at(1), &mut these, &mut out);
    }
    out.clear();
    // The runtime's word before the session's end.
    sessions.exec(exits("c", "s1", 3), at(8), &mut these, &mut out);
    assert_eq!(end(&mut sessions, "s1", None), Some(ExitStatus::Code(3)));
    // After it.
    assert_eq!(end(&mut sessions, "s2", None), None);
    sessions.exec(exits("c", "s2", 137), at(10), &mut these, &mut out);
    assert_eq!(told(&out), ["s2: container false, exec None, Some(Code(137))"]);
    out.clear();
    // What the kernel saw is not touched.
    sessions.exec(exits("c", "s3", 3), at(8), &mut these, &mut out);
    let signal = Some(ExitStatus::Signal { signal: 9, core: false });
    assert_eq!(end(&mut sessions, "s3", signal), signal);
    assert_eq!(out, []);
    // Long after, nobody remembers.
    sessions.tick(at(60), &mut these, &mut out);
    sessions.exec(exits("c", "s1", 4), at(61), &mut these, &mut out);
    assert_eq!((out.len(), sessions.roots.len(), sessions.keys.len(), sessions.execs.len()), (0, 0, 0, 0));
}

#[test]
fn where_the_kernel_cannot_see_the_runtimes_word_is_a_session() {
    let mut sessions = Sessions::new("boot");
    let mut these = These(vec![info("c", 42, facts(false))]);
    sessions.met(facts(false).known().unwrap());
    let mut out = Vec::new();
    sessions.exec(begins("c", "e1", 7), at(1), &mut these, &mut out);
    assert_eq!(told(&out), ["started, exec Some(\"e1\"), observable false"]);
    let id = out[0].event.session.clone();
    assert_eq!(out[0].event.container, Some(42));
    out.clear();

    // The agent restarts: it was not heard then, and the session may be over.
    let mut changes = Changes::default();
    sessions.save(true, &mut changes);
    let mut state = State::new();
    changes.apply(&mut state);
    let mut sessions = Sessions::restore("boot", &state, Some(at(3))).unwrap();
    sessions.met(facts(false).known().unwrap());
    sessions.exec(ExecWord::Heard, at(5), &mut these, &mut out);
    assert_eq!(told(&out), [format!("gap {:?} 3-5", GapSource::RuntimeEvents)]);
    let ask = StillRuns { exec: exec("c", "e1"), namespace: "k8s.io".to_owned() };
    assert_eq!(sessions.questions().collect::<Vec<_>>(), [Question::StillRuns(ask)]);
    out.clear();
    sessions.exec(exits("c", "e1", 7), at(6), &mut these, &mut out);
    assert_eq!(told(&out), ["ended, Some(Code(7)) after 5"]);
    assert_eq!(out[0].event.session, id);
    out.clear();
    sessions.exec(exits("c", "e1", 7), at(7), &mut these, &mut out);
    assert_eq!(out, [], "ends once");
}

#[test]
fn a_container_without_a_cgroup_is_asked_for_and_its_execs_are_told() {
    // Kata's containers are in a virtual machine: no cgroup of the node has their names.
    let mut sessions = Sessions::new("boot");
    let mut out = Vec::new();
    sessions.exec(begins("k", "e1", 7), at(1), &mut nobody(), &mut out);
    sessions.exec(exits("k", "e1", 2), at(2), &mut nobody(), &mut out);
    assert_eq!((out.len(), sessions.questions().count()), (0, 0), "the kernel may still tell of it");
    sessions.tick(at(4), &mut nobody(), &mut out);
    sessions.tick(at(5), &mut nobody(), &mut out);
    assert_eq!(sessions.questions().collect::<Vec<_>>(), [Question::Container("k".to_owned())], "once");
    sessions.answered("k", None, &facts(false), at(6), &mut nobody(), &mut out);
    assert_eq!(told(&out), ["started, exec Some(\"e1\"), observable false", "ended, Some(Code(2)) after 1"]);
    let info = out[0].info.as_deref().unwrap();
    assert_eq!((info.id.as_deref(), info.metadata.known().is_some()), (Some("k"), true));
    assert_eq!(out[0].event.time, at(1));
    out.clear();
    // From now on at once; and what the kernel can see into is not told twice.
    sessions.exec(begins("k", "e2", 8), at(7), &mut nobody(), &mut out);
    assert_eq!(told(&out), ["started, exec Some(\"e2\"), observable false"]);
    out.clear();
    sessions.exec(begins("r", "e3", 9), at(7), &mut nobody(), &mut out);
    sessions.tick(at(10), &mut nobody(), &mut out);
    sessions.answered("r", None, &facts(true), at(11), &mut nobody(), &mut out);
    sessions.tick(at(20), &mut nobody(), &mut out);
    assert_eq!((told(&out), sessions.early.len()), (Vec::new(), 0));
}

#[test]
fn a_break_in_the_runtimes_words_is_a_gap_only_where_it_matters() {
    let mut out = Vec::new();
    let mut sessions = Sessions::new("boot");
    sessions.exec(ExecWord::Heard, at(1), &mut nobody(), &mut out);
    sessions.exec(ExecWord::Deaf, at(2), &mut nobody(), &mut out);
    sessions.exec(ExecWord::Heard, at(3), &mut nobody(), &mut out);
    assert_eq!(out, [], "the kernel sees it all");
    sessions.answered("k", None, &facts(false), at(4), &mut nobody(), &mut out);
    sessions.exec(ExecWord::Deaf, at(5), &mut nobody(), &mut out);
    sessions.exec(ExecWord::Deaf, at(6), &mut nobody(), &mut out);
    sessions.exec(ExecWord::Heard, at(7), &mut nobody(), &mut out);
    assert_eq!(told(&out), [format!("gap {:?} 5-7", GapSource::RuntimeEvents)]);
}

#[test]
fn whatever_comes_it_is_bounded() {
    let mut sessions = Sessions::new("boot");
    let known = info("c", 42, Lookup::Pending);
    let mut out = Vec::new();
    for n in 0..40_000_u32 {
        sessions.pass(&mut started(at(1), &format!("s{n}"), n), Some(&known));
        sessions.exec(begins(&format!("x{n}"), &format!("e{n}"), n), at(1), &mut nobody(), &mut out);
        sessions.questions();
    }
    assert!(sessions.roots.len() <= OPEN_MAX && sessions.keys.len() <= OPEN_MAX);
    assert!(sessions.untold.len() <= UNTOLD_MAX);
    // The oldest went, and nothing of it is left.
    assert_eq!((sessions.early.len(), sessions.execs.len()), (EARLY_MAX, EARLY_MAX));
    let key = |n: u32| (format!("x{n}"), n);
    assert!(sessions.early.contains(&key(39_999)) && !sessions.early.contains(&key(1)));
    sessions.exec(exits("x1", "e1", 3), at(2), &mut nobody(), &mut out);
    let mut event = started(at(3), "t", 39_999);
    sessions.pass(&mut event, Some(&info("x39999", 43, facts(true))));
    let Body::SessionStarted(with) = &event.body else { panic!("{event:?}") };
    assert_eq!((with.exec_id.as_deref(), out.len()), (Some("e39999"), 0));
}

//! Containers that share pid namespaces: those put beside another to look into it are sessions, those of a pod that shares
//! one by its sandbox are not.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use podtrail_proto::v1::EntryMethod;

use super::{BUSYBOX, nothing_else, only_session_of, sh};
use crate::{
    cases,
    harness::{
        Container, Cx, Session, Spec, container::fresh_id, kubelet::Kubelet, node, process, session, until,
        want,
    },
};

cases! {
    "ephemeral",
    SharedAgent: a_debug_container_of_a_pod, a_debug_container_that_is_entered, a_debug_container_without_a_pod,
        a_pod_that_shares_its_processes, a_sandbox_that_is_made_again;
    OwnAgent: found_by_a_late_agent, one_that_only_its_pods_specification_knows
}

/// A pod's cgroup, as the kubelet names it.
#[derive(Debug)]
struct Pod {
    cgroup: String,
}

impl Pod {
    fn new() -> Self {
        let id = fresh_id();
        let part = |from: usize, to: usize| id.get(from..to).unwrap_or_default().to_owned();
        let uid = [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-");
        Self { cgroup: format!("kubepods/besteffort/pod{uid}") }
    }

    fn start(&self, cx: &Cx, spec: Spec) -> Result<Container> {
        cx.start(Spec { cgroup: Some(format!("{}/{}", self.cgroup, fresh_id())), ..spec })
    }

    /// A container in the pid namespace of another.
    fn beside(&self, cx: &Cx, other: &Container, init: &[&str]) -> Result<Container> {
        self.start(cx, Spec { init: owned(init), ..beside(other) })
    }
}

fn owned(init: &[&str]) -> Vec<String> {
    init.iter().map(|&arg| arg.to_owned()).collect()
}

fn beside(other: &Container) -> Spec {
    Spec { namespaces: vec!["mount", "ipc", "uts", "network"], pid_of: Some(other.init), ..Spec::default() }
}

/// What a debug container runs, until it is told to end.
const DEBUG: &str = "/bin/busybox mkfifo /gate; read x </gate; exit 3";

/// The session that a debug container is, which is told to end.
fn debugged(cx: &Cx, debug: &Container, target: &Container) -> Result<Session> {
    debug.tell("/gate", "go")?;
    let session = cx.session(debug, debug.init)?;
    session
        .expect(&[want(BUSYBOX, &sh(DEBUG)).exit(3), want(BUSYBOX, &["/bin/busybox", "mkfifo", "/gate"])])?;
    ensure!(session.method()? == EntryMethod::EphemeralContainer, "{}", session.story());
    let started = session.started()?;
    for line in [
        "it is the first process of its container".to_owned(),
        format!("it is in the pid namespace of another container, with cgroup id {}", target.cgroup_id),
    ] {
        ensure!(started.evidence.contains(&line), "no {line:?}: {}", session.story());
    }
    let told = session.events.first().and_then(|event| event.container.as_ref()).context("no container")?;
    ensure!(told.cgroup_id == debug.cgroup_id, "{told:?}");
    Ok(session)
}

fn by_runtime(session: &Session) -> Result<()> {
    ensure!(session.method()? == EntryMethod::RuntimeExec, "{}", session.story());
    Ok(())
}

fn a_debug_container_of_a_pod(cx: &Cx) -> Result<()> {
    let pod = Pod::new();
    let sandbox = pod.start(cx, Spec::default())?;
    let app = pod.start(cx, Spec::default())?;
    let debug = pod.beside(cx, &app, &sh(DEBUG))?;
    let session = debugged(cx, &debug, &app)?;
    nothing_else(cx, &debug, &[&session])?;
    nothing_else(cx, &app, &[])?;
    nothing_else(cx, &sandbox, &[])
}

/// What is executed in it is a session of its own; what it does to its target is its session's.
fn a_debug_container_that_is_entered(cx: &Cx) -> Result<()> {
    let pod = Pod::new();
    let _sandbox = pod.start(cx, Spec::default())?;
    let app = pod.start(cx, Spec::default())?;
    let debug = pod.beside(cx, &app, &sh(DEBUG))?;
    let script = "/bin/true; exit";
    let entered = cx.session(&debug, debug.sh(script).run()?.ok()?.pid)?;
    entered.expect(&[want(BUSYBOX, &sh(script)), want(BUSYBOX, &["/bin/true"])])?;
    by_runtime(&entered)?;
    let session = debugged(cx, &debug, &app)?;
    nothing_else(cx, &debug, &[&session, &entered])?;
    let session = only_session_of(cx, &app, script)?;
    by_runtime(&session)
}

fn a_debug_container_without_a_pod(cx: &Cx) -> Result<()> {
    let first = cx.container()?;
    let second = cx.start(Spec { init: owned(&sh(DEBUG)), ..beside(&first) })?;
    let script = "/bin/true; exit";
    let entered = cx.session(&second, second.sh(script).run()?.ok()?.pid)?;
    by_runtime(&entered)?;
    by_runtime(&only_session_of(cx, &first, script)?)?;
    // From the one into the other's mount namespace, as a debugging sidecar does: still the first one's session.
    let script = format!("/bin/nsenter -t {} -m /bin/true; exit", inner_pid(second.init)?);
    let session = cx.session(&first, first.sh(&script).run()?.ok()?.pid)?;
    session.command(&["/bin/nsenter"])?;
    session.command(&["/bin/true"])?;
    let session = debugged(cx, &second, &first)?;
    nothing_else(cx, &second, &[&session, &entered])
}

/// The pid of a process in its own pid namespace.
fn inner_pid(pid: u32) -> Result<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).context("no NSpid")?;
    pids.split_whitespace().next_back().and_then(|pid| pid.parse().ok()).context("no pid")
}

fn a_pod_that_shares_its_processes(cx: &Cx) -> Result<()> {
    let pod = Pod::new();
    let sandbox = pod.start(cx, Spec::default())?;
    let app = pod.beside(cx, &sandbox, &sh(DEBUG))?;
    let sidecar = pod.beside(cx, &sandbox, &sh(DEBUG))?;
    for container in [&sidecar, &app, &sandbox] {
        let session = only_session_of(cx, container, "/bin/true; exit")?;
        session.expect(&[want(BUSYBOX, &sh("/bin/true; exit")), want(BUSYBOX, &["/bin/true"])])?;
        by_runtime(&session)?;
    }
    Ok(())
}

/// A pod whose sandbox died gets another one, when all its containers are gone.
fn a_sandbox_that_is_made_again(cx: &Cx) -> Result<()> {
    let pod = Pod::new();
    let sandbox = pod.start(cx, Spec::default())?;
    let app = pod.beside(cx, &sandbox, &sh(DEBUG))?;
    nothing_else(cx, &app, &[])?;
    drop(app);
    drop(sandbox);
    let sandbox = pod.start(cx, Spec::default())?;
    let app = pod.beside(cx, &sandbox, &sh(DEBUG))?;
    nothing_else(cx, &app, &[])?;
    let alone = pod.start(cx, Spec::default())?;
    let debug = pod.beside(cx, &alone, &sh(DEBUG))?;
    let session = debugged(cx, &debug, &alone)?;
    nothing_else(cx, &debug, &[&session])
}

/// An agent that starts when all of it runs takes the debug container for a session, and nothing else, and knows the sandbox.
fn found_by_a_late_agent(cx: &Cx) -> Result<()> {
    let (pod, sharing) = (Pod::new(), Pod::new());
    let sandbox = pod.start(cx, Spec::default())?;
    let app = pod.start(cx, Spec::default())?;
    let debug = pod.beside(cx, &app, &sh(DEBUG))?;
    let shared = sharing.start(cx, Spec::default())?;
    let sharer = sharing.beside(cx, &shared, &sh(DEBUG))?;
    until("the debug container waits", || process::children(debug.init).is_empty())?;
    let agent = cx.start_agent(&[])?;
    let late = sharing.beside(cx, &shared, &sh(DEBUG))?;
    debug.tell("/gate", "go")?;
    sharer.tell("/gate", "go")?;
    let open = session::wait_open(&agent, debug.cgroup_id, debug.init)?;
    let session = agent.ended(&open.id)?;
    session.check()?;
    ensure!(session.method()? == EntryMethod::EphemeralContainer, "{}", session.story());
    let started = session.started()?;
    ensure!(started.recovered == Some(true) && started.entered_by.is_none(), "{started:?}");
    let ended = session.ended().context("not ended")?;
    ensure!(ended.exit_code == Some(3), "{}", session.story());
    node::settle(&agent)?;
    for container in [&sandbox, &app, &shared, &sharer, &late] {
        let others = session::all(&agent.events(), container.cgroup_id);
        ensure!(others.is_empty(), "{}", others[0].story());
    }
    agent.stop()
}

/// Nothing is shared with it, so it starts like any other container; the kubelet says what it is.
fn one_that_only_its_pods_specification_knows(cx: &Cx) -> Result<()> {
    const UID: &str = "22222222-3333-4444-8555-666666666666";
    let [app_id, debug_id] = [fresh_id(), fresh_id()];
    let kubelet = Kubelet::with_debugger(UID, &app_id, &debug_id)?;
    let agent = cx.start_agent(&["--kubelet", &kubelet.url()])?;
    let start = |id: &str, init: &[&str]| {
        let cgroup = Some(format!("kubepods/burstable/pod{UID}/{id}"));
        cx.start(Spec { cgroup, init: owned(init), ..Spec::default() })
    };
    let script = "/bin/busybox mkfifo /gate; /bin/sleep 1000; read x </gate; /bin/echo seen; exit 3";
    let app = start(&app_id, &sh(script))?;
    let debug = start(&debug_id, &sh(script))?;
    let open = session::wait_open(&agent, debug.cgroup_id, debug.init)?;
    let started = open.started()?;
    ensure!(open.method()? == EntryMethod::EphemeralContainer, "{}", open.story());
    ensure!(started.recovered == Some(true) && started.observed_from.is_some(), "{}", open.story());
    let line = "its pod's specification calls the container an ephemeral one".to_owned();
    ensure!(started.evidence.contains(&line), "{}", open.story());
    // Of what follows, nothing is missing.
    for container in [&app, &debug] {
        until("it sleeps", || !process::children(container.init).is_empty())?;
        for child in process::children(container.init) {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.cast_signed()), Signal::SIGKILL)?;
        }
        container.tell("/gate", "go")?;
    }
    let session = agent.ended(&open.id)?;
    session.check()?;
    let echo = session.command(&["/bin/echo", "seen"])?;
    ensure!(session.exit_of(echo)?.exit_code == Some(0), "{}", session.story());
    ensure!(session.ended().and_then(|ended| ended.exit_code) == Some(3), "{}", session.story());
    node::settle(&agent)?;
    let others = session::all(&agent.events(), app.cgroup_id);
    ensure!(others.is_empty(), "{}", others[0].story());
    agent.stop()
}

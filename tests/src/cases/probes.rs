//! Probes beside people, in a container whose cgroup is called as a pod's, with a kubelet that says what it probes.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use podtrail_proto::v1::{EntryMethod, Event, Folded, event::Body};

use super::pins::Pins;
use crate::{
    cases,
    harness::{
        Agent, Container, Cx, Session, Spec,
        container::fresh_id,
        containerd::{Containerd, PodSpec},
        kubelet::Kubelet,
        node,
        session::{self, line},
        until,
    },
};

cases! {
    "probes",
    OwnAgent: what_is_new_is_told_and_the_rest_is_counted, a_kill_loses_and_doubles_nothing, nobody_guesses;
    Containerd: as_a_kubelet_runs_them
}

const UID: &str = "11111111-2222-4333-8444-555555555555";
const PROBE: [&str; 3] = ["/bin/sh", "-c", ". /tmp/probe"];
const HOOK: [&str; 1] = ["/bin/true"];
/// Seconds.
const PERIOD: u32 = 3;

/// A pod with one container, and its kubelet.
struct Pod {
    container: Container,
    kubelet: Kubelet,
    begun: Instant,
    /// sessions of the kubelet's
    ran: u64,
}

impl Pod {
    fn start(cx: &Cx) -> Result<Self> {
        // As the cgroup says; runc has another for it.
        let id = fresh_id();
        let cgroup = format!("kubepods/burstable/pod{UID}/{id}");
        let container = cx.start(Spec { cgroup: Some(cgroup), ..Spec::default() })?;
        let kubelet = Kubelet::serve(UID, &id, &PROBE, PERIOD, &HOOK)?;
        fs::write(container.path("/tmp/probe"), "/bin/true; exit 0")?;
        Ok(Self { container, kubelet, begun: Instant::now(), ran: 0 })
    }

    /// Waits for the kubelet's next probe, and runs it as a shim does: detached, and stdin is /dev/null.
    fn probe(&mut self) -> Result<u32> {
        beat(self.begun);
        self.ran += 1;
        let pid = self.container.exec(&PROBE).detached().run()?.pid;
        // What it reads may be changed now.
        until("the probe is over", || !Path::new(&format!("/proc/{pid}")).exists())?;
        Ok(pid)
    }

    fn sessions(&self, agent: &Agent) -> Vec<Session> {
        let mut sessions = session::all(&agent.events(), self.container.cgroup_id);
        sessions.retain(|session| session.started().is_ok());
        sessions
    }
}

/// Between two probes, far from both, also where starting something takes half a second.
fn between(begun: Instant) {
    let period = Duration::from_secs(PERIOD.into());
    let since =
        Duration::from_nanos(u64::try_from(begun.elapsed().as_nanos() % period.as_nanos()).unwrap_or(0));
    thread::sleep((period / 3).saturating_sub(since));
}

/// Until the next probe's time. Time is what this is about: there is nothing else to wait for.
fn beat(begun: Instant) {
    let period = Duration::from_secs(PERIOD.into());
    let beats = begun.elapsed().as_millis() / period.as_millis() + 1;
    let at = period * u32::try_from(beats).unwrap_or(0);
    thread::sleep(at.saturating_sub(begun.elapsed()));
}

fn folded(events: &[Arc<Event>]) -> Vec<&Folded> {
    let folded = events.iter().filter_map(|event| match &event.body {
        Some(Body::Folded(folded)) => Some(folded),
        _ => None,
    });
    folded.collect()
}

/// What a session is taken for by now.
fn method(session: &Session) -> Result<EntryMethod> {
    let corrected = session.events.iter().rev().find_map(|event| match &event.body {
        Some(Body::Attributed(attributed)) => attributed.method,
        _ => None,
    });
    Ok(corrected.and_then(|method| EntryMethod::try_from(method).ok()).unwrap_or(session.method()?))
}

fn story(agent: &Agent) -> String {
    agent.events().iter().map(|event| format!("\n  {}", line(event))).collect()
}

fn what_is_new_is_told_and_the_rest_is_counted(cx: &Cx) -> Result<()> {
    let mut pod = Pod::start(cx)?;
    let agent = cx.start_agent(&["--kubelet", &pod.kubelet.url(), "--probes-every", "1s"])?;
    let first = pod.probe()?;
    for _ in 0..3 {
        pod.probe()?;
    }
    // Between two probes somebody runs the same by hand; then with a terminal, and something else.
    between(pod.begun);
    let hand = pod.container.exec(&PROBE).detached().run()?.pid;
    pod.probe()?;
    let terminal = pod.container.exec(&PROBE).tty().run()?.pid;
    let other = pod.container.exec(&["/bin/id"]).detached().run()?.pid;
    let copy = pod.container.exec(&["/bin/tar", "cf", "-", "/tmp/probe"]).detached().run()?.pid;
    pod.probe()?;
    fs::write(pod.container.path("/tmp/probe"), "/bin/true; /bin/id; exit 0")?;
    let tampered = pod.probe()?;
    pod.probe()?;
    fs::write(pod.container.path("/tmp/probe"), "/bin/true; exit 3")?;
    let failing = pod.probe()?;
    node::settle(&agent)?;
    agent.stop()?;

    let sessions = pod.sessions(&agent);
    let of = |pid: u32| {
        let is = |session: &&Session| {
            session.started().is_ok_and(|started| started.root.as_ref().is_some_and(|root| root.pid == pid))
        };
        sessions.iter().find(is).with_context(|| format!("process {pid} is not told: {}", story(&agent)))
    };
    for (pid, wanted) in [
        (first, EntryMethod::ExecProbe),
        (terminal, EntryMethod::RuntimeExec),
        (other, EntryMethod::RuntimeExec),
        (copy, EntryMethod::RuntimeExec),
        (tampered, EntryMethod::ExecProbe),
        (failing, EntryMethod::ExecProbe),
    ] {
        let session = of(pid)?;
        session.check()?;
        ensure!(method(session)? == wanted, "{wanted:?}: {}{}", session.story(), story(&agent));
        ensure!(session.started()?.evidence.len() > 1, "no evidence: {}", session.story());
    }
    // Unless a probe was late, it is known to be none.
    let hand = method(of(hand)?)?;
    ensure!(matches!(hand, EntryMethod::RuntimeExec | EntryMethod::Unknown), "{hand:?}: {}", story(&agent));
    of(tampered)?.command(&["/bin/id"])?;
    ensure!(of(failing)?.ended().is_some_and(|ended| ended.exit_code == Some(3)), "{}", of(failing)?.story());
    ensure!(of(copy)?.started()?.labels == ["kubectl cp"], "{}", of(copy)?.story());
    let probe = of(tampered)?.started()?.probe.clone().context("which probe it was is not told")?;
    ensure!(
        probe.kind == "readiness" && probe.period.is_some_and(|p| p.seconds == i64::from(PERIOD)),
        "{probe:?}"
    );

    let counted: u64 = folded(&agent.events()).iter().map(|folded| folded.sessions()).sum();
    let people = 4;
    ensure!(
        sessions.len() as u64 + counted == pod.ran + people,
        "{} told and {counted} counted of {}: {}",
        sessions.len(),
        pod.ran + people,
        story(&agent)
    );
    ensure!(counted >= 3, "{counted} counted: {}", story(&agent));
    let like =
        folded(&agent.events()).iter().all(|folded| sessions.iter().any(|s| s.id == folded.like_session_id));
    ensure!(like, "like one that is not told: {}", story(&agent));
    Ok(())
}

fn a_kill_loses_and_doubles_nothing(cx: &Cx) -> Result<()> {
    let pins = Pins::new(cx)?;
    let mut pod = Pod::start(cx)?;
    let url = pod.kubelet.url();
    let mut told: BTreeMap<u64, Arc<Event>> = BTreeMap::new();
    let mut begun = 0;
    for life in 0..3 {
        let agent = pins.start(cx, &["--kubelet", &url])?;
        begun += 1;
        for _ in 0..3 {
            pod.probe()?;
        }
        if life == 2 {
            node::settle(&agent)?;
            let status = agent.end(Signal::SIGTERM)?;
            ensure!(status.success(), "{status}: {}", agent.logged());
        } else {
            // One is begun, and not over.
            beat(pod.begun);
            pod.ran += 1;
            let running = pod.container.exec(&PROBE).detached().spawn()?;
            agent.end(Signal::SIGKILL)?;
            running.wait()?;
            pod.probe()?;
        }
        for event in agent.events() {
            let seq = event.id.as_ref().context("no id")?.seq;
            if let Some(before) = told.insert(seq, Arc::clone(&event)) {
                ensure!(before == event, "number {seq} twice: {before:?} and {event:?}");
            }
        }
    }
    let events: Vec<Arc<Event>> = told.values().cloned().collect();
    let all = || events.iter().map(|event| format!("\n  {}", line(event))).collect::<String>();
    ensure!(told.keys().copied().eq(1..=told.len() as u64), "a number is missing: {}", all());
    let gaps = events.iter().filter(|event| matches!(event.body, Some(Body::Gap(_)))).count();
    ensure!(gaps == 0, "{gaps} gaps: {}", all());
    let mut sessions = session::all(&events, pod.container.cgroup_id);
    sessions.retain(|session| session.started().is_ok());
    for session in &sessions {
        session.check()?;
    }
    let counted: u64 = folded(&events).iter().map(|folded| folded.sessions()).sum();
    ensure!(
        sessions.len() as u64 + counted == pod.ran,
        "{} told and {counted} counted of {}, by {begun} agents: {}",
        sessions.len(),
        pod.ran,
        all()
    );
    ensure!(counted >= 3, "{counted} counted: {}", all());
    Ok(())
}

fn nobody_guesses(cx: &Cx) -> Result<()> {
    let pod = Pod::start(cx)?;
    let agent = cx.start_agent(&["--kubelet", "none"])?;
    let plain = pod.container.exec(&PROBE).detached().run()?.pid;
    let piped = pod.container.exec(&PROBE).run()?.pid;
    let terminal = pod.container.exec(&PROBE).tty().run()?.pid;
    node::settle(&agent)?;
    let person = EntryMethod::RuntimeExec;
    for (pid, wanted) in [(plain, EntryMethod::Unknown), (piped, person), (terminal, person)] {
        let session = session::wait_open(&agent, pod.container.cgroup_id, pid)?;
        ensure!(session.method()? == wanted, "{wanted:?}: {}", session.story());
    }
    let evidence = session::wait_open(&agent, pod.container.cgroup_id, plain)?.started()?.evidence.join("; ");
    ensure!(evidence.contains("no kubelet is asked"), "{evidence}");
    agent.stop()
}

/// With a real containerd, and a kubelet's own calls.
fn as_a_kubelet_runs_them(cx: &Cx) -> Result<()> {
    let containerd = Containerd::start()?;
    let (pod, container) = containerd.simple(PodSpec::new("prod", "probed"))?;
    let probe = ["/bin/echo", "ready"];
    let kubelet = Kubelet::serve(&pod.spec.uid, &container, &probe, PERIOD, &HOOK)?;
    let socket = containerd.socket.to_str().context("a path that is no text")?;
    let agent = cx.start_agent(&["--runtime-socket", socket, "--kubelet", &kubelet.url()])?;
    let begun = Instant::now();
    let mut ran = 0_u64;
    for number in 0..6 {
        beat(begun);
        ran += 1;
        containerd.exec_sync(&container, &probe)?;
        if number == 3 {
            // The same, at another time, as `crictl exec --sync` does it; and as `kubectl exec -i` does it.
            between(begun);
            ran += 2;
            containerd.exec_sync(&container, &probe)?;
            containerd.exec(&container, &probe, false)?.end()?;
        }
    }
    node::settle(&agent)?;
    agent.stop()?;

    let events = agent.events();
    let mut methods = Vec::new();
    for event in &events {
        let of = event.container.as_ref().is_some_and(|told| told.id == container);
        if of && matches!(event.body, Some(Body::SessionStarted(_))) {
            let session = Session::of(&events, &event.session_id);
            session.check()?;
            methods.push(method(&session)?);
        }
    }
    let counted: u64 = folded(&events).iter().map(|folded| folded.sessions()).sum();
    ensure!(
        methods.len() as u64 + counted == ran,
        "{methods:?} told and {counted} counted of {ran}: {}",
        story(&agent)
    );
    let count = |method| methods.iter().filter(|told| **told == method).count();
    ensure!(count(EntryMethod::ExecProbe) >= 1 && counted >= 3, "{methods:?}, {counted}: {}", story(&agent));
    let people = count(EntryMethod::RuntimeExec) + count(EntryMethod::Unknown);
    ensure!(count(EntryMethod::RuntimeExec) >= 1 && people >= 2, "{methods:?}: {}", story(&agent));
    Ok(())
}

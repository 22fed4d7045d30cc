//! Pods, by the word of a real containerd that is driven as a kubelet drives it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use podtrail_proto::v1::{
    Attributed, Container as Told, EntryMethod, Event, GapSource, Metadata, SessionStarted, event::Body,
};

use super::pins::Pins;
use crate::{
    cases,
    harness::{
        Agent, Cx, Session,
        containerd::{ContainerState, Containerd, IMAGE, OPAQUE, PodSpec},
        until, within,
    },
};

cases! {
    "pods",
    Containerd: a_session_has_its_pod, execs_at_once, a_terminal, a_container_that_dies_at_once, containerd_restarts_in_a_session,
        an_answer_that_comes_late_follows, what_is_known_outlives_the_agent,
        a_runtime_that_the_kernel_cannot_see_into, nobody_to_ask
}

/// An agent that asks `containerd`, and tells every session by itself.
pub(super) fn agent(cx: &Cx, containerd: &Containerd, more: &[&str]) -> Result<Agent> {
    let socket = containerd.socket.to_str().context("a path that is no text")?;
    cx.start_agent(&[&["--runtime-socket", socket, "--probes", "all"], more].concat())
}

/// The session in a container whose first command has `word` among its arguments, when it has begun.
fn begun(agent: &Agent, container: &str, word: &str) -> Result<Session> {
    let id = agent.wait(&format!("a session with {word} in container {container}"), |events| {
        let is = |event: &&Arc<Event>| match &event.body {
            Some(Body::Executed(executed)) => {
                executed.root == Some(true)
                    && executed.argv.iter().any(|arg| arg.contains(word))
                    && event.container.as_ref().is_some_and(|told| told.id == container)
            }
            _ => false,
        };
        events.iter().find(is).map(|event| event.session_id.clone())
    })?;
    Ok(Session::of(&agent.events(), &id))
}

/// The same, when it has ended.
pub(super) fn over(agent: &Agent, container: &str, word: &str) -> Result<Session> {
    agent.ended(&begun(agent, container, word)?.id)
}

/// Waits for what became known of a session later.
fn later<T>(
    agent: &Agent,
    session: &str,
    what: &str,
    mut find: impl FnMut(&Event, &Attributed) -> Option<T>,
) -> Result<T> {
    agent.wait(&format!("{what} of session {session} follows"), |events| {
        events.iter().filter(|event| event.session_id == session).find_map(|event| match &event.body {
            Some(Body::Attributed(attributed)) => find(event, attributed),
            _ => None,
        })
    })
}

/// The runtime's name for a session, whenever it came.
fn exec_id(agent: &Agent, session: &str) -> Result<String> {
    agent.wait(&format!("the exec id of session {session}"), |events| {
        let of = events.iter().filter(|event| event.session_id == session);
        of.filter_map(|event| match &event.body {
            Some(
                Body::SessionStarted(SessionStarted { exec_id, .. })
                | Body::Attributed(Attributed { exec_id, .. }),
            ) => Some(exec_id),
            _ => None,
        })
        .find(|exec_id| !exec_id.is_empty())
        .cloned()
    })
}

/// Fails unless what was told of a container is what the kubelet said, and what the registry would.
fn is_known(told: Option<&Told>, spec: &PodSpec, name: &str, digest: &str) -> Result<()> {
    let told = told.context("no container")?;
    let pod = told.pod.as_ref().context("no pod")?;
    ensure!(told.metadata() == Metadata::Known, "{told:?}");
    ensure!(
        (pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str())
            == (spec.namespace.as_str(), spec.name.as_str(), spec.uid.as_str()),
        "{told:?}"
    );
    let wanted = |(key, _): &&(String, String)| key == "app" || key.starts_with("app.kubernetes.io/");
    let labels: BTreeMap<_, _> = spec.labels.iter().filter(wanted).cloned().collect();
    ensure!(labels.len() == 2, "the test's labels");
    ensure!(pod.labels.clone().into_iter().collect::<BTreeMap<_, _>>() == labels, "{told:?}");
    ensure!((told.name.as_str(), told.image.as_str()) == (name, IMAGE), "{told:?}");
    ensure!(told.image_digest == digest, "expected {digest}: {told:?}");
    ensure!(told.runtime_handler == spec.handler, "{told:?}");
    Ok(())
}

/// The same of every event of a session.
pub(super) fn is_all_known(session: &Session, spec: &PodSpec, name: &str, digest: &str) -> Result<()> {
    ensure!(!session.events.is_empty(), "no events");
    session.events.iter().try_for_each(|event| {
        is_known(event.container.as_ref(), spec, name, digest).with_context(|| session.story())
    })
}

/// Waits until a session in a container is told with its pod from the beginning: prefetched.
fn fetched(agent: &Agent, containerd: &Containerd, container: &str) -> Result<()> {
    let mut round = 0;
    within(Duration::from_secs(30), "the container is known", || {
        round += 1;
        let word = format!("round-{round}");
        containerd.exec_sync(container, &["/bin/echo", &word]).ok()?;
        let session = over(agent, container, &word).ok()?;
        let known = |event: &Arc<Event>| {
            event.container.as_ref().is_some_and(|told| told.metadata() == Metadata::Known)
        };
        session.events.iter().all(known).then_some(())
    })
}

fn a_session_has_its_pod(cx: &Cx) -> Result<()> {
    let containerd = Containerd::start()?;
    let agent = agent(cx, &containerd, &[])?;
    let (pod, container) = containerd.simple(PodSpec::new("prod", "payments"))?;
    // At once: the first words may come before the runtime's answer, and then it follows.
    let answer = containerd.exec_sync(&container, &["/bin/sh", "-c", "echo first; exit 3"])?;
    ensure!((answer.exit_code, answer.stdout.as_slice()) == (3, &b"first\n"[..]), "{answer:?}");
    let session = over(&agent, &container, "echo first")?;
    ensure!(session.ended().and_then(|ended| ended.exit_code) == Some(3), "{}", session.story());
    let at_first =
        session.events.first().and_then(|event| event.container.clone()).context("no container")?;
    match at_first.metadata() {
        Metadata::Known => is_all_known(&session, &pod.spec, "web", &containerd.digest)?,
        Metadata::Pending => {
            ensure!(at_first.name.is_empty() && at_first.image.is_empty(), "{at_first:?}");
            later(&agent, &session.id, "the container", |event, attributed| {
                attributed.container.as_ref()?;
                Some((event.container.clone(), attributed.container.clone()))
            })
            .and_then(|(event, told)| {
                ensure!(event == told, "the event's container and what it tells differ");
                is_known(told.as_ref(), &pod.spec, "web", &containerd.digest)
            })?;
        }
        other => bail!("{other:?}: {at_first:?}"),
    }
    let first = exec_id(&agent, &session.id)?;

    fetched(&agent, &containerd, &container)?;
    containerd.exec_sync(&container, &["/bin/sh", "-c", "echo second | cat; true"])?;
    let session = over(&agent, &container, "echo second")?;
    is_all_known(&session, &pod.spec, "web", &containerd.digest)?;
    ensure!(exec_id(&agent, &session.id)? != first, "two execs, one id");
    session.command(&["cat"])?;
    ensure!(session.ended().and_then(|ended| ended.commands) == Some(2), "{}", session.story());

    // The sandbox is the pod's too, and has no name.
    containerd.runc()?.args(["exec", &pod.sandbox, "/bin/echo", "pause"]).output()?;
    let session = over(&agent, &pod.sandbox, "pause")?;
    let told = session.events.last().and_then(|event| event.container.clone()).context("no container")?;
    let uid = told.pod.as_ref().map(|pod| pod.uid.as_str());
    ensure!(told.metadata() == Metadata::Known && uid == Some(pod.spec.uid.as_str()), "{told:?}");
    ensure!(told.name.is_empty() && told.image.is_empty(), "{told:?}");
    agent.stop()
}

fn execs_at_once(cx: &Cx) -> Result<()> {
    const EXECS: usize = 20;
    let containerd = Containerd::start()?;
    let agent = agent(cx, &containerd, &[])?;
    let pods = (0..4)
        .map(|number| containerd.simple(PodSpec::new("shop", &format!("web{number}"))))
        .collect::<Result<Vec<_>>>()?;
    for (_, container) in &pods {
        fetched(&agent, &containerd, container)?;
    }
    let of = |number: usize| pods.get(number % pods.len()).context("no such pod");
    thread::scope(|scope| {
        let execs: Vec<_> = (0..EXECS)
            .map(|number| {
                let containerd = &containerd;
                scope.spawn(move || -> Result<()> {
                    let (_, container) = of(number)?;
                    let script = format!("echo at-once-{number}-; exit {number}");
                    if number % 2 == 0 {
                        let answer = containerd.exec_sync(container, &["/bin/sh", "-c", &script])?;
                        ensure!(usize::try_from(answer.exit_code)? == number, "{answer:?}");
                    } else {
                        let mut streams = containerd.exec(container, &["/bin/sh", "-c", &script], false)?;
                        let end = streams.end()?;
                        ensure!(end["status"] == "Failure", "{end}");
                        streams.hears(&format!("at-once-{number}-"))?;
                    }
                    Ok(())
                })
            })
            .collect();
        execs.into_iter().try_for_each(|exec| exec.join().map_err(|_| anyhow::anyhow!("it panicked"))?)
    })?;
    let mut ids = HashSet::new();
    for number in 0..EXECS {
        let (pod, container) = of(number)?;
        let session = over(&agent, container, &format!("at-once-{number}-"))?;
        is_all_known(&session, &pod.spec, "web", &containerd.digest)?;
        let code = session.ended().and_then(|ended| ended.exit_code);
        ensure!(code == Some(i32::try_from(number)?), "{}", session.story());
        ensure!(ids.insert(exec_id(&agent, &session.id)?), "one exec id for two sessions");
    }
    agent.stop()
}

fn a_terminal(cx: &Cx) -> Result<()> {
    let containerd = Containerd::start()?;
    let agent = agent(cx, &containerd, &[])?;
    let (pod, container) = containerd.simple(PodSpec::new("prod", "shell"))?;
    fetched(&agent, &containerd, &container)?;
    let mut shell = containerd.exec(&container, &["/bin/sh", "-i"], true)?;
    shell.say("/bin/cat /dev/null && echo done-$((40+2))\n")?;
    shell.hears("done-42")?;
    let session = begun(&agent, &container, "-i")?;
    let started = session.started()?;
    ensure!(started.method() == EntryMethod::RuntimeExec && started.interactive == Some(true), "{started:?}");
    ensure!(started.tty.as_ref().is_some_and(|tty| tty.name.starts_with("pts/")), "{started:?}");
    shell.say("exit 5\n")?;
    let end = shell.end()?;
    ensure!(end.to_string().contains("\"5\""), "{end}");
    let session = agent.ended(&session.id)?;
    ensure!(session.ended().and_then(|ended| ended.exit_code) == Some(5), "{}", session.story());
    session.command(&["/bin/cat", "/dev/null"])?;
    is_all_known(&session, &pod.spec, "web", &containerd.digest)?;
    exec_id(&agent, &session.id)?;
    agent.stop()
}

fn a_container_that_dies_at_once(cx: &Cx) -> Result<()> {
    let containerd = Containerd::start()?;
    let agent = agent(cx, &containerd, &[])?;
    let pod = containerd.pod(PodSpec::new("prod", "short"))?;
    // As long as it takes to come in.
    let container = containerd.container(&pod, "short", &["/bin/sh", "-c", "sleep 1; exit 9"])?;
    let run = containerd.exec(&container, &["/bin/sh", "-c", "echo in-time; sleep 1000"], false);
    let mut run = run.context("it died before anybody came")?;
    run.hears("in-time")?;
    until("the container is dead", || {
        containerd.state(&container).is_ok_and(|state| state == ContainerState::ContainerExited)
    })?;
    containerd.remove_container(&container)?;
    let session = over(&agent, &container, "in-time")?;
    let known = agent.wait("the pod of a container that is gone", |events| {
        let of = events.iter().filter(|event| event.session_id == session.id);
        of.filter_map(|event| event.container.clone()).find(|told| told.metadata() == Metadata::Known)
    })?;
    is_known(Some(&known), &pod.spec, "short", &containerd.digest)?;
    ensure!(session.ended().and_then(|ended| ended.signal) == Some(9), "{}", session.story());
    // One that has gone before anybody could ask is told so, and not as one without a name.
    agent.stop()
}

fn containerd_restarts_in_a_session(cx: &Cx) -> Result<()> {
    let containerd = Containerd::start()?;
    let agent = agent(cx, &containerd, &[])?;
    let (pod, container) = containerd.simple(PodSpec::new("prod", "steady"))?;
    fetched(&agent, &containerd, &container)?;
    containerd.exec_sync(&container, &["/bin/sh", "-c", "echo before-it"])?;
    // Not by a stream: that is containerd's own, and ends with it.
    let mut inside = containerd.runc()?;
    let mut inside = inside.args(["exec", &container, "/bin/sh", "-c", "cat; echo through"]);
    inside = inside.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
    let mut inside = inside.spawn()?;
    let session = begun(&agent, &container, "through")?;
    containerd.stop()?;
    containerd.run()?;
    drop(inside.stdin.take());
    inside.wait()?;
    let session = agent.ended(&session.id)?;
    is_all_known(&session, &pod.spec, "web", &containerd.digest)?;
    session.command(&["cat"])?;

    // It goes on as before: new pods are known, and execs have their ids.
    let (late, other) = containerd.simple(PodSpec::new("prod", "later"))?;
    fetched(&agent, &containerd, &other)?;
    containerd.exec_sync(&other, &["/bin/sh", "-c", "echo after-it; true"])?;
    let session = over(&agent, &other, "after-it")?;
    is_all_known(&session, &late.spec, "web", &containerd.digest)?;
    exec_id(&agent, &session.id)?;
    agent.stop()
}

fn an_answer_that_comes_late_follows(cx: &Cx) -> Result<()> {
    let containerd = Containerd::start()?;
    let (pod, container) = containerd.simple(PodSpec::new("prod", "patient"))?;
    containerd.signal(Signal::SIGSTOP)?;
    let agent = agent(cx, &containerd, &[])?;
    // Somebody who has the node goes past containerd.
    let run = |word: &str| {
        containerd.runc()?.args(["exec", &container, "/bin/echo", word]).output().context("runc")
    };
    run("nameless")?;
    let session = over(&agent, &container, "nameless")?;
    let told: Vec<_> = session.events.iter().filter_map(|event| event.container.as_ref()).collect();
    ensure!(told.len() == session.events.len(), "an event without its container: {}", session.story());
    for told in told {
        ensure!(told.metadata() == Metadata::Pending, "{told:?}");
        ensure!(told.id == container && told.image.is_empty() && told.name.is_empty(), "{told:?}");
        // By its cgroup's name, whoever is asked.
        ensure!(
            told.pod.as_ref().is_some_and(|told| told.uid == pod.spec.uid && told.name.is_empty()),
            "{told:?}"
        );
    }
    containerd.signal(Signal::SIGCONT)?;
    let told = later(&agent, &session.id, "the container", |_, attributed| attributed.container.clone())?;
    is_known(Some(&told), &pod.spec, "web", &containerd.digest)?;
    run("named")?;
    is_all_known(&over(&agent, &container, "named")?, &pod.spec, "web", &containerd.digest)?;
    let again = agent.events().iter().filter(|event| matches!(event.body, Some(Body::Attributed(_)))).count();
    ensure!(again == 1, "told {again} times");

    // A container that containerd never had.
    let stranger = cx.container()?;
    let pid = stranger.exec(&["/bin/echo", "strange"]).run()?.ok()?.pid;
    let session = crate::harness::session::wait_open(&agent, stranger.cgroup_id, pid)?;
    let told = agent.wait("that the runtime does not know it", |events| {
        let of = events.iter().filter(|event| event.session_id == session.id);
        of.filter_map(|event| event.container.clone()).find(|told| told.metadata() == Metadata::NotFound)
    })?;
    ensure!(told.id == stranger.id && told.pod.is_none(), "{told:?}");
    agent.stop()
}

fn what_is_known_outlives_the_agent(cx: &Cx) -> Result<()> {
    let containerd = Containerd::start()?;
    let (pod, container) = containerd.simple(PodSpec::new("prod", "known"))?;
    let socket = containerd.socket.to_str().context("a path that is no text")?.to_owned();
    let args = ["--runtime-socket", socket.as_str(), "--probes", "all"];
    let pins = Pins::new(cx)?;
    let agent = pins.start(cx, &args)?;
    fetched(&agent, &containerd, &container)?;
    let run = |word: &str| {
        containerd.runc()?.args(["exec", &container, "/bin/echo", word]).output().context("runc")
    };

    // Nobody answers, and what was known still is.
    containerd.stop()?;
    agent.end(Signal::SIGKILL)?;
    run("between")?;
    let agent = pins.start(cx, &args)?;
    run("after")?;
    for word in ["between", "after"] {
        is_all_known(&over(&agent, &container, word)?, &pod.spec, "web", &containerd.digest)?;
    }
    agent.end(Signal::SIGKILL)?;

    // A session that was told without its pod by one agent is told of it by the next.
    containerd.run()?;
    let (late, other) = containerd.simple(PodSpec::new("prod", "late"))?;
    containerd.signal(Signal::SIGSTOP)?;
    let agent = pins.start(cx, &args)?;
    containerd.runc()?.args(["exec", &other, "/bin/echo", "untold"]).output()?;
    let session = over(&agent, &other, "untold")?;
    let told = session.events.first().and_then(|event| event.container.clone()).context("no container")?;
    ensure!(told.metadata() == Metadata::Pending, "{told:?}");
    agent.end(Signal::SIGKILL)?;
    containerd.signal(Signal::SIGCONT)?;
    let agent = pins.start(cx, &args)?;
    let told = later(&agent, &session.id, "the container", |_, attributed| attributed.container.clone())?;
    is_known(Some(&told), &late.spec, "web", &containerd.digest)?;
    agent.end(Signal::SIGTERM)?;
    Ok(())
}

fn a_runtime_that_the_kernel_cannot_see_into(cx: &Cx) -> Result<()> {
    let containerd = Containerd::start()?;
    let agent = agent(cx, &containerd, &[])?;
    let (pod, container) = containerd.simple(PodSpec::new("prod", "sealed").handler(OPAQUE))?;
    let unseen = |known: &[String]| {
        agent.wait("a session that cannot be seen into", |events| {
            let of = |event: &&Arc<Event>| match &event.body {
                Some(Body::SessionStarted(started)) => {
                    started.observable == Some(false) && !known.contains(&event.session_id)
                }
                _ => false,
            };
            events.iter().find(of).cloned()
        })
    };
    let answer = containerd.exec_sync(&container, &["/bin/sh", "-c", "sleep 1; exit 7"])?;
    ensure!(answer.exit_code == 7, "{answer:?}");
    let first = unseen(&[])?;
    let session = agent.ended(&first.session_id)?;
    ensure!(session.executed().is_empty(), "commands of nobody: {}", session.story());
    let ended = session.ended().context("no end")?;
    ensure!((ended.exit_code, ended.commands) == (Some(7), Some(0)), "{ended:?}");
    is_all_known(&session, &pod.spec, "web", &containerd.digest)?;
    let started = session.started()?;
    ensure!(!started.exec_id.is_empty() && !started.evidence.is_empty(), "{started:?}");
    // What the kernel sees of it is no session of its own.
    let others = agent.events().iter().filter(|event| matches!(&event.body, Some(Body::SessionStarted(started)) if started.observable == Some(true))).count();
    ensure!(others == 0, "{others} sessions besides");

    // containerd goes away and comes back while somebody is in: a gap, and the end is told all the same.
    let script = ["/bin/sh", "-c", "sleep 1000; exit 8"];
    let streams = containerd.exec(&container, &script, false)?;
    let second = unseen(std::slice::from_ref(&first.session_id))?;
    drop(streams);
    containerd.stop()?;
    let pid = second.body.as_ref().and_then(|body| match body {
        Body::SessionStarted(started) => started.root.as_ref().map(|root| root.pid),
        _ => None,
    });
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid.context("no pid")?)?);
    nix::sys::signal::kill(pid, Signal::SIGKILL)?;
    containerd.run()?;
    let session = agent.ended(&second.session_id)?;
    ensure!(session.ended().is_some(), "{}", session.story());
    agent.wait("the gap in the runtime's words", |events| {
        let is = |event: &Arc<Event>| matches!(&event.body, Some(Body::Gap(gap)) if gap.source() == GapSource::RuntimeEvents);
        events.iter().any(is).then_some(())
    })?;
    agent.end(Signal::SIGTERM)?;
    Ok(())
}

fn nobody_to_ask(cx: &Cx) -> Result<()> {
    let containerd = Containerd::start()?;
    let (pod, container) = containerd.simple(PodSpec::new("prod", "alone"))?;
    let agent = cx.start_agent(&["--runtime-socket", "none", "--probes", "all"])?;
    containerd.exec_sync(&container, &["/bin/sh", "-c", "echo alone; exit 4"])?;
    let session = over(&agent, &container, "alone")?;
    session.command(&["/bin/sh"])?;
    ensure!(session.ended().and_then(|ended| ended.exit_code) == Some(4), "{}", session.story());
    for told in session.events.iter().filter_map(|event| event.container.as_ref()) {
        ensure!(told.metadata() == Metadata::NoRuntime && told.id == container, "{told:?}");
        ensure!(told.pod.as_ref().is_some_and(|told| told.uid == pod.spec.uid), "{told:?}");
    }
    ensure!(session.started()?.exec_id.is_empty(), "an exec id of nobody");
    agent.stop()
}

//! The agent itself: late, early, stopped, killed, twice, overrun.

use std::{fs, io::Read, process::Stdio};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use podtrail_proto::v1::{GapSource, event::Body};

use super::{BUSYBOX, sh};
use crate::{
    cases,
    harness::{
        Agent, Cx, Runtime, Session, Spec,
        agent::{self, command, whole},
        container::ITEST,
        host, node, process, session, until, want,
    },
    payload::sized_argv,
};

cases! {
    "agents",
    OwnAgent: a_late_agent_finds_sessions, a_late_agent_finds_a_join, a_session_keeps_its_id_over_agents, stops_cleanly,
        a_second_agent_is_refused, killed_and_started_again, a_megabyte_of_arguments, a_low_limit_for_arguments,
        what_cannot_be_kept_is_counted, what_was_not_told_is_found_out, wrong_usage, an_agent_that_cannot_print_ends
}

/// The session of a pid, ended, as this agent tells it.
fn ended(agent: &Agent, cgroup_id: u64, pid: u32) -> Result<Session> {
    let open = session::wait_open(agent, cgroup_id, pid)?;
    let session = agent.ended(&open.id)?;
    session.check()?;
    Ok(session)
}

fn a_late_agent_finds_sessions(cx: &Cx) -> Result<()> {
    for runtime in [Runtime::Runc, Runtime::Crun] {
        let init = "while :; do /bin/sleep 0.05; done";
        let container = cx.start(Spec { init: sh(init).map(str::to_owned).to_vec(), ..Spec::by(runtime) })?;
        container.gate("/gate")?;
        let script = "/bin/true; read x </gate; /bin/echo seen; exit 4";
        let pid = container.sh(script).detached().run()?.ok()?.pid;
        until("the session waits", || process::children(pid).is_empty())?;
        let agent = cx.start_agent(&[])?;
        let found = session::wait_open(&agent, container.cgroup_id, pid)?;
        ensure!(found.started()?.recovered == Some(true), "{}", found.story());
        ensure!(found.started()?.observed_from.is_some(), "{}", found.story());
        container.tell("/gate", "go")?;
        let session = ended(&agent, container.cgroup_id, pid)?;
        session.expect(&[want(BUSYBOX, &sh(script)).exit(4), want(BUSYBOX, &["/bin/echo", "seen"])])?;
        let told =
            session.events.first().and_then(|event| event.container.as_ref()).context("no container")?;
        ensure!(told.id == container.id, "{told:?}");
        node::settle(&agent)?;
        for other in session::all(&agent.events(), container.cgroup_id) {
            ensure!(other.id == session.id, "the container's own work became a session: {}", other.story());
        }
        agent.stop()?;
    }
    Ok(())
}

fn a_late_agent_finds_a_join(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    container.gate("/gate")?;
    let busybox = host().busybox.as_ref().context("no busybox")?;
    let script = "read x </gate; /bin/echo seen; exit 4";
    let mut child = std::process::Command::new(busybox)
        .args(["nsenter", "-t", &container.init.to_string(), "-m", "-p", "--"])
        .args(sh(script))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let mut pipe = container.speak("/gate")?;
    let agent = cx.start_agent(&[])?;
    std::io::Write::write_all(&mut pipe, b"go\n")?;
    ensure!(process::reap(&mut child, "nsenter ends")?.code() == Some(4), "it failed");
    node::settle(&agent)?;
    let session = session::only(&session::all(&agent.events(), container.cgroup_id))?;
    session.check()?;
    ensure!(session.started()?.recovered == Some(true) && session.ended().is_some(), "{}", session.story());
    // Of what ran before, only the outermost process is told: it has entered, and the shell is its child.
    let root = session.executed()[0];
    ensure!(root.argv.get(1).is_some_and(|arg| arg == "nsenter"), "{}", session.story());
    ensure!(session.executed().len() == 2, "{}", session.story());
    ensure!(
        session.exit_of(session.command(&["/bin/echo", "seen"])?)?.exit_code == Some(0),
        "{}",
        session.story()
    );
    agent.stop()
}

fn a_session_keeps_its_id_over_agents(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    container.gate("/gate")?;
    let first = cx.start_agent(&[])?;
    let pid = container.sh("read x </gate; exit 2").detached().run()?.ok()?.pid;
    let open = session::wait_open(&first, container.cgroup_id, pid)?;
    first.stop()?;
    let second = cx.start_agent(&[])?;
    container.tell("/gate", "go")?;
    let session = ended(&second, container.cgroup_id, pid)?;
    ensure!(session.id == open.id, "{} became {}", open.id, session.id);
    second.stop()
}

fn stops_cleanly(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let agent = cx.start_agent(&[])?;
        let pid = container.sh("exit").run()?.ok()?.pid;
        let open = container.sh("/bin/sleep 1000; exit").detached().run()?.ok()?.pid;
        ended(&agent, container.cgroup_id, pid)?;
        session::wait_open(&agent, container.cgroup_id, open)?;
        let status = agent.end(signal)?;
        ensure!(status.success(), "{signal}: {status}: {}", agent.logged());
        whole(&agent.events())?;
        let last = agent.events().last().cloned().context("no events")?;
        ensure!(matches!(last.body, Some(Body::AgentState(_))), "{last:?}");
        ensure!(!agent.socket.exists(), "its socket is there");
        kill(Pid::from_raw(open.cast_signed()), Signal::SIGKILL)?;
    }
    Ok(())
}

fn a_second_agent_is_refused(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let first = cx.start_agent(&[])?;
    let (mut second, _, log) = command(&cx.unique("second"), &[])?;
    let mut child = second.spawn()?;
    let status = process::reap(&mut child, "the second agent is refused")?;
    ensure!(status.code() == Some(1), "{status}");
    let said = fs::read_to_string(log)?;
    ensure!(said.contains("another") || said.contains("already"), "{said}");
    let mut printed = String::new();
    child.stdout.take().context("no stdout")?.read_to_string(&mut printed)?;
    ensure!(printed.is_empty(), "it printed {printed}");
    // The first one goes on, socket and all.
    let pid = container.sh("exit").run()?.ok()?.pid;
    ended(&first, container.cgroup_id, pid)?;
    ensure!(first.socket.exists(), "its socket is gone");
    first.stop()
}

fn killed_and_started_again(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    for _ in 0..2 {
        let agent = cx.start_agent(&[])?;
        let pid = container.sh("exit").run()?.ok()?.pid;
        ended(&agent, container.cgroup_id, pid)?;
        agent.end(Signal::SIGKILL)?;
    }
    cx.start_agent(&[])?.stop()
}

/// The second of two commands of a session: what a payload became.
fn second(cx: &Cx, agent: &Agent, args: &[&str]) -> Result<podtrail_proto::v1::Executed> {
    let container = cx.container()?;
    let pid = container.exec(&[&[ITEST, "payload"], args].concat()).run()?.ok()?.pid;
    let session = ended(agent, container.cgroup_id, pid)?;
    let [_, second] = session.executed()[..] else { anyhow::bail!("{}", session.story()) };
    Ok(second.clone())
}

fn a_megabyte_of_arguments(cx: &Cx) -> Result<()> {
    let agent = cx.start_agent(&["--argv-limit", "2MiB"])?;
    for bytes in [1 << 20, 1_900_000] {
        let executed = second(cx, &agent, &["exec-sized", BUSYBOX, &bytes.to_string()])?;
        ensure!(executed.argv_bytes == Some(bytes as u64), "{:?}", executed.argv_bytes);
        ensure!(
            executed.truncated == Some(false) && executed.argv == sized_argv(bytes),
            "{bytes}: not whole"
        );
    }
    agent.stop()
}

fn a_low_limit_for_arguments(cx: &Cx) -> Result<()> {
    let agent = cx.start_agent(&["--argv-limit", "256"])?;
    for (bytes, cut) in [(256, false), (257, true), (5000, true)] {
        let executed = second(cx, &agent, &["exec-sized", BUSYBOX, &bytes.to_string()])?;
        ensure!(executed.argv_bytes == Some(bytes), "{:?}", executed.argv_bytes);
        ensure!(executed.truncated == Some(cut), "{bytes}: {executed:?}");
        let kept: usize = executed.argv.iter().map(|arg| arg.len() + 1).sum();
        ensure!(kept <= 258, "{bytes}: {kept} kept");
    }
    agent.stop()
}

fn what_cannot_be_kept_is_counted(cx: &Cx) -> Result<()> {
    const STORM: u64 = 1500;
    let container = cx.container()?;
    container.gate("/gate")?;
    let agent = cx.start_agent(&["--ring-size", "256KiB"])?;
    let script = format!("{ITEST} payload storm {STORM} /bin/true storm >/tmp/count; read x </gate; exit 0");
    // While the agent does not read, the ring runs over.
    let pid = Pid::from_raw(agent.pid()?.cast_signed());
    kill(pid, Signal::SIGSTOP)?;
    let ran = container.sh(&script).detached().run().and_then(|ran| {
        until("the storm is over", || {
            fs::read(container.path("/tmp/count")).is_ok_and(|count| !count.is_empty())
        })?;
        ran.ok()
    });
    kill(pid, Signal::SIGCONT)?;
    ran?;
    ensure!(fs::read_to_string(container.path("/tmp/count"))?.trim() == STORM.to_string(), "another count");
    let missing = agent.wait("a gap is told", |events| {
        let gaps = events.iter().filter_map(|event| match &event.body {
            Some(Body::Gap(gap)) => Some(gap.clone()),
            _ => None,
        });
        Some(gaps.collect::<Vec<_>>()).filter(|gaps| !gaps.is_empty())
    })?;
    for gap in &missing {
        ensure!(gap.source() == GapSource::SessionBudget && gap.exact == Some(true), "{gap:?}");
    }
    // And then all is told again.
    container.tell("/gate", "go")?;
    let session = agent.wait("the session ends", |events| {
        session::all(events, container.cgroup_id).into_iter().find(|session| session.ended().is_some())
    })?;
    let (executed, exited) = (session.executed().len() as u64, session.exited().len() as u64);
    let lost = session.ended().and_then(|ended| ended.lost).context("it does not say what it lost")?;
    ensure!(lost > 0 && executed < STORM, "nothing was lost: {executed} commands told");
    // Of each command an exec and an exit: what is told and what is counted as lost is everything.
    let all = executed + exited + lost;
    let made = 2 * (STORM + 2);
    ensure!(all == made, "{executed} commands, {exited} exits, {lost} lost of {made}");
    ensure!(agent.end(Signal::SIGTERM)?.success(), "{}", agent.logged());
    let gaps: u64 = agent
        .events()
        .iter()
        .filter_map(|event| match &event.body {
            Some(Body::Gap(gap)) => gap.count,
            _ => None,
        })
        .sum();
    ensure!(gaps == lost, "the gaps count {gaps}, the session lost {lost}");
    Ok(())
}

/// Makes more cgroups, and removes them, than a ring of 64 KiB has room for.
fn fill_ring() -> Result<()> {
    let dir = host().told_by()?.at(&format!("{}/one-of-many", host().cgroup));
    for _ in 0..1000 {
        fs::create_dir(&dir)?;
        fs::remove_dir(&dir)?;
    }
    Ok(())
}

/// The end of a session and the beginning of a container do not fit into the ring.
fn what_was_not_told_is_found_out(cx: &Cx) -> Result<()> {
    const STORM: u64 = 10;
    let container = cx.container()?;
    container.gate("/gate")?;
    let agent = cx.start_agent(&["--ring-size", "64KiB"])?;
    let script = format!("read x </gate; {ITEST} payload storm {STORM} /bin/true storm; exit");
    let running = container.sh(&script).spawn()?;
    session::wait_open(&agent, container.cgroup_id, running.pid)?;
    let pid = Pid::from_raw(agent.pid()?.cast_signed());
    kill(pid, Signal::SIGSTOP)?;
    let ran = fill_ring().and_then(|()| {
        container.tell("/gate", "go")?;
        Ok((running.wait()?.ok()?.pid, cx.container()?))
    });
    kill(pid, Signal::SIGCONT)?;
    let (root, late) = ran?;
    for class in ["exit", "cgroup created"] {
        agent.wait(&format!("the loss of {class} records is told"), |events| {
            let told =
                events.iter().any(|event| matches!(&event.body, Some(Body::Gap(gap)) if gap.detail == class));
            told.then_some(())
        })?;
    }
    let open = session::wait_open(&agent, container.cgroup_id, root)?;
    let session = agent.ended(&open.id)?;
    let (executed, exited) = (session.executed().len() as u64, session.exited().len() as u64);
    let ended = session.ended().with_context(|| session.story())?;
    ensure!(executed < STORM && exited < executed + 1, "{executed} commands and {exited} exits are told");
    ensure!((ended.exit_code, ended.signal) == (None, None), "nobody saw how its root ended: {ended:?}");
    ensure!(ended.lost.is_some_and(|lost| lost >= 1), "it counts no loss: {ended:?}");
    // The container that came meanwhile has its id, and its sessions are told whole.
    let pid = late.sh("exit 3").run()?.pid;
    let session = self::ended(&agent, late.cgroup_id, pid)?;
    let told = session.events.first().and_then(|event| event.container.as_ref()).context("no container")?;
    ensure!(told.id == late.id, "{told:?}");
    ensure!(agent.end(Signal::SIGTERM)?.success(), "{}", agent.logged());
    Ok(())
}

fn wrong_usage(cx: &Cx) -> Result<()> {
    for args in [&["--no-such-flag"][..], &["--argv-limit", "7 apples"], &["--config", "/no/such/file"]] {
        let (mut agent, _, log) = command(&cx.unique("wrong"), args)?;
        let status = process::reap(&mut agent.spawn()?, "it refuses")?;
        let said = fs::read_to_string(log)?;
        ensure!(status.code() == Some(2), "{args:?}: {status}: {said}");
        ensure!(said.lines().count() == 1, "{args:?}: {said}");
    }
    Ok(())
}

fn an_agent_that_cannot_print_ends(cx: &Cx) -> Result<()> {
    let (mut command, _, log) = command(&cx.unique("mute"), &[])?;
    let mut child = command.spawn()?;
    // Whoever reads the events goes away: an agent that records for nobody must not look as if it did.
    drop(child.stdout.take());
    let container = cx.container()?;
    for _ in 0..3 {
        container.sh("exit").run()?.ok()?;
    }
    let status = process::reap(&mut child, "the agent ends when nobody reads")?;
    ensure!(status.code().is_some(), "{status}: {}", fs::read_to_string(log)?);
    let _ = agent::NODE;
    Ok(())
}

//! Execs that fail: which program, with which arguments, and why; and the searches of shells, which are not worth an event
//! for each directory.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use podtrail_proto::v1::{AgentState, ExecFailed, Gap, GapSource, event::Body};

use super::BUSYBOX;
use crate::{
    cases,
    harness::{Agent, Container, Cx, Session, agent::phase, container::ITEST, factor, process, session},
};

cases! {
    "failed",
    OwnAgent: every_errno_with_its_path_and_arguments, searches_are_folded, by_a_descriptor,
        long_and_strange_arguments, what_is_lost_is_counted, before_the_first_command,
        outside_sessions_nothing_is_told, off_and_on_and_off
}

const EACCES: i32 = 13;

/// An agent that tells of failed execs, however it sees them here.
fn agent(cx: &Cx, more: &[&str]) -> Result<Agent> {
    let agent = cx.start_agent(&[&["--failed-execs", "on"], more].concat())?;
    let state = state(&agent)?;
    let kind = |name: &str| state.hooks.iter().find(|hook| hook.name == name).map(|hook| hook.kind.clone());
    ensure!(kind("execve").is_some() && kind("execve") == kind("setns"), "{:?}", state.hooks);
    ensure!(kind("execveat") == kind("setns") && kind("failed execs").is_none(), "{:?}", state.hooks);
    Ok(agent)
}

pub(super) fn state(agent: &Agent) -> Result<AgentState> {
    let events = agent.events();
    let began = events.iter().rfind(|event| phase(event).is_some()).and_then(|event| match &event.body {
        Some(Body::AgentState(state)) => Some(state.clone()),
        _ => None,
    });
    began.context("the agent did not say how it began")
}

/// Runs a payload, and answers its session when it has ended.
fn session_of(agent: &Agent, container: &Container, payload: &[&str]) -> Result<Session> {
    let ran = container.exec(&[&[ITEST, "payload"], payload].concat()).run()?.ok()?;
    let open = session::wait_open(agent, container.cgroup_id, ran.pid)?;
    let session = agent.ended(&open.id)?;
    session.check()?;
    Ok(session)
}

fn only(session: &Session) -> Result<&ExecFailed> {
    let [failed] = session.failed()[..] else { anyhow::bail!("not one failed exec: {}", session.story()) };
    let same = |other: &Option<podtrail_proto::v1::Process>| session::key(other.as_ref());
    let root = session.executed().first().map(|executed| same(&executed.process));
    ensure!(Some(same(&failed.process)) == root, "another process: {}", session.story());
    Ok(failed)
}

/// Puts a file into a container, with these permissions.
pub(super) fn put(container: &Container, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let path = container.path(path);
    fs::write(&path, bytes)?;
    Ok(fs::set_permissions(&path, Permissions::from_mode(mode))?)
}

fn every_errno_with_its_path_and_arguments(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let agent = agent(cx, &[])?;
    put(&container, "/tmp/closed", b"#!/bin/sh\n", 0o644)?;
    put(&container, "/tmp/garbage", b"\x01\x02\x03\x04", 0o755)?;
    put(&container, "/tmp/no-interpreter", b"#!/no/such/thing\n", 0o755)?;
    symlink("circle", container.path("/tmp/circle"))?;
    let long = format!("/tmp/{}", "x".repeat(300));
    for (path, errno, name) in [
        ("/tmp/closed", EACCES, "EACCES"),
        ("/tmp", EACCES, "EACCES"),
        ("/tmp/garbage", 8, "ENOEXEC"),
        ("/tmp/circle", 40, "ELOOP"),
        ("/tmp/closed/below", 20, "ENOTDIR"),
        ("/tmp/no-interpreter", 2, "ENOENT"),
        ("tmp/nosuch", 2, "ENOENT"),
        (long.as_str(), 36, "ENAMETOOLONG"),
    ] {
        let args = ["exec-failing", path, &errno.to_string(), "it self", "secret", ""];
        let session = session_of(&agent, &container, &args)?;
        let failed = only(&session)?;
        ensure!(
            (failed.path.as_str(), failed.errno, failed.error.as_str()) == (path, Some(errno), name),
            "{failed:?}"
        );
        ensure!(failed.argv == ["it self", "secret", ""] && failed.truncated == Some(false), "{failed:?}");
        ensure!(failed.attempts == Some(1) && failed.cwd == "/" && !failed.path_incomplete, "{failed:?}");
        ensure!(failed.credentials.as_ref().is_some_and(|c| c.uid == Some(0)), "{failed:?}");
        session.expect(&[crate::harness::want(ITEST, &[&[ITEST, "payload"], args.as_slice()].concat())])?;
    }
    agent.stop()
}

fn searches_are_folded(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let agent = agent(cx, &[])?;
    put(&container, "/tmp/file", b"", 0o644)?;
    fs::create_dir(container.path("/tmp/open"))?;
    put(&container, "/tmp/open/true", b"", 0o644)?;
    // There in the end: busybox, which goes by the name that was looked for.
    let session = session_of(
        &agent,
        &container,
        &["exec-search", "/none:/tmp/file:/tmp/open:/usr/nowhere:/bin", "true"],
    )?;
    let [first, found] = session.executed()[..] else { anyhow::bail!("{}", session.story()) };
    ensure!(
        (first.not_found, found.not_found, found.path.as_str()) == (0, 3, BUSYBOX),
        "{}",
        session.story()
    );
    let failed = only(&session)?;
    ensure!((failed.path.as_str(), failed.errno) == ("/tmp/open/true", Some(EACCES)), "{failed:?}");
    // Nowhere: one event, with the last place. The exit follows.
    let ran = container.exec(&[ITEST, "payload", "exec-search", "/a:/b:/tmp", "nosuch", "-x"]).run()?;
    ensure!(ran.status.code() == Some(127), "{ran:?}");
    let open = session::wait_open(&agent, container.cgroup_id, ran.pid)?;
    let session = agent.ended(&open.id)?;
    let failed = only(&session)?;
    ensure!((failed.path.as_str(), failed.attempts) == ("/tmp/nosuch", Some(3)), "{failed:?}");
    ensure!(failed.error == "ENOENT" && failed.argv == ["nosuch", "-x"], "{failed:?}");
    let at = |what: fn(&Body) -> bool| session.events.iter().position(|e| e.body.as_ref().is_some_and(what));
    let (told, exited) =
        (at(|body| matches!(body, Body::ExecFailed(_))), at(|body| matches!(body, Body::Exited(_))));
    ensure!(told < exited, "{}", session.story());
    // A child that only looked: told before the session ends.
    let session = session_of(&agent, &container, &["spawn-search", "/a:/b", "nosuch"])?;
    let [failed] = session.failed()[..] else { anyhow::bail!("{}", session.story()) };
    ensure!((failed.path.as_str(), failed.attempts) == ("/b/nosuch", Some(2)), "{failed:?}");
    let root = session.executed().first().and_then(|executed| executed.process.clone()).context("no root")?;
    let child = failed.process.as_ref().context("no process")?;
    ensure!((child.parent_pid, child.pid != root.pid) == (root.pid, true), "{}", session.story());
    agent.stop()
}

fn by_a_descriptor(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let agent = agent(cx, &[])?;
    put(&container, "/tmp/closed", b"", 0o644)?;
    for (directory, name, path) in [
        ("/tmp", "-", "/dev/fd/N"),
        ("/tmp", "closed", "/dev/fd/N/closed"),
        ("/", "/tmp/closed", "/tmp/closed"),
    ] {
        let args = ["execat-failing", directory, name, &EACCES.to_string(), "x"];
        let session = session_of(&agent, &container, &args)?;
        let failed = only(&session)?;
        let digits: String = failed.path.chars().filter(char::is_ascii_digit).collect();
        let general =
            if digits.is_empty() { failed.path.clone() } else { failed.path.replacen(&digits, "N", 1) };
        ensure!(general == path && failed.errno == Some(EACCES) && failed.argv == ["x"], "{failed:?}");
    }
    agent.stop()
}

fn long_and_strange_arguments(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let agent = agent(cx, &[])?;
    let many: Vec<String> = (0..100).map(|number| format!("arg-{number}")).collect();
    let huge = "y".repeat(10_000);
    for (argv, whole) in [
        (many.iter().map(String::as_str).collect::<Vec<_>>(), 64),
        (vec!["x", huge.as_str(), "behind"], 1),
        (vec!["x", "\u{1b}[2J\n", "\u{e4}"], 3),
        (vec![], 0),
    ] {
        let session =
            session_of(&agent, &container, &[&["exec-failing", "/tmp", "13"], argv.as_slice()].concat())?;
        let failed = only(&session)?;
        let kept: Vec<&str> = failed.argv.iter().take(whole).map(String::as_str).collect();
        ensure!(argv.get(..whole) == Some(kept.as_slice()), "{failed:?}");
        ensure!(failed.truncated == Some(whole < argv.len()), "{failed:?}");
        let last = failed.argv.get(whole).map_or("", String::as_str);
        ensure!(argv.get(whole).is_none_or(|arg| arg.starts_with(last)), "{failed:?}");
        let kept: usize = failed.argv.iter().map(|arg| arg.len() + 1).sum();
        ensure!(kept <= 4097 && (argv.len() != 3 || whole != 1 || kept > 4000), "{kept} bytes: {failed:?}");
    }
    agent.stop()
}

fn gaps(agent: &Agent) -> Vec<Gap> {
    let events = agent.events();
    let gap = |body: &Option<Body>| match body {
        Some(Body::Gap(gap)) => Some(gap.clone()),
        _ => None,
    };
    events.iter().filter_map(|event| gap(&event.body)).collect()
}

fn what_is_lost_is_counted(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let agent = agent(cx, &["--ring-size", "128KiB"])?;
    let times = (20_000 / u64::from(factor())).max(2000);
    let pid = Pid::from_raw(agent.pid()?.cast_signed());
    kill(pid, Signal::SIGSTOP)?;
    let ran = container.exec(&[ITEST, "payload", "exec-failing-often", "/tmp", &times.to_string()]).run();
    kill(pid, Signal::SIGCONT)?;
    let open = session::wait_open(&agent, container.cgroup_id, ran?.ok()?.pid)?;
    let session = agent.ended(&open.id)?;
    let told = session.failed().len() as u64;
    let numbers: Vec<u32> =
        session.failed().iter().filter_map(|failed| failed.argv.last()?.parse().ok()).collect();
    ensure!(numbers.len() as u64 == told && numbers.is_sorted(), "{numbers:?}");
    let missing: u64 = gaps(&agent).iter().map(Gap::count).sum();
    ensure!(told > 0 && missing > 0 && told + missing == times, "{told} told, {missing} missing of {times}");
    ensure!(session.ended().and_then(|ended| ended.lost) == Some(missing), "{}", session.story());
    ensure!(agent.end(Signal::SIGTERM)?.success(), "{}", agent.logged());
    Ok(())
}

fn before_the_first_command(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let agent = agent(cx, &[])?;
    put(&container, "/tmp/garbage", b"\x01\x02\x03\x04", 0o755)?;
    // A runtime looks itself for what is not there; what does not run it finds out by trying.
    let ran = container.exec(&["/tmp/garbage", "now"]).run();
    ensure!(ran.is_err() || ran.is_ok_and(|ran| !ran.status.success()), "garbage was run");
    let failed = agent.wait("the exec that failed", |events| {
        events.iter().find_map(|event| match &event.body {
            Some(Body::ExecFailed(failed)) => Some((Arc::clone(event), failed.clone())),
            _ => None,
        })
    })?;
    let (event, failed) = failed;
    ensure!(event.session_id.is_empty(), "{event:?}");
    ensure!(event.container.as_ref().is_some_and(|c| c.cgroup_id == container.cgroup_id), "{event:?}");
    ensure!((failed.path.as_str(), failed.error.as_str()) == ("/tmp/garbage", "ENOEXEC"), "{failed:?}");
    ensure!(failed.argv == ["/tmp/garbage", "now"], "{failed:?}");
    agent.stop()
}

fn outside_sessions_nothing_is_told(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let agent = agent(cx, &[])?;
    // On the node, and by the container's own workload.
    process::succeed(process::payload(&["exec-failing", "/tmp", "13", "x"]))?;
    let session = session_of(&agent, &container, &["exec-failing", "/tmp", "13", "last"])?;
    only(&session)?;
    let all = agent.events();
    let failed: Vec<_> = all
        .iter()
        .filter_map(
            |event| if let Some(Body::ExecFailed(failed)) = &event.body { Some(failed) } else { None },
        )
        .collect();
    ensure!(failed.len() == 1 && failed[0].argv == ["last"], "{failed:?}");
    agent.stop()
}

/// The hooks come and go with the setting, also while the kernel side goes on.
fn off_and_on_and_off(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let pins = super::pins::Pins::new(cx)?;
    for (wanted, seen) in [("off", false), ("on", true), ("on", true), ("off", false)] {
        let agent = pins.start(cx, &["--failed-execs", wanted])?;
        let hooks = state(&agent)?.hooks;
        let off = hooks.iter().find(|hook| hook.name == "failed execs");
        ensure!(off.is_none() == seen, "{hooks:?}");
        ensure!(
            off.is_none_or(|off| (off.kind.as_str(), off.reason.as_str()) == ("off", "asked for")),
            "{off:?}"
        );
        let session = session_of(&agent, &container, &["exec-failing", "/tmp", "13", wanted])?;
        ensure!(session.failed().len() == usize::from(seen), "{wanted}: {}", session.story());
        let ended = super::pins::has_hooks_that_end(&state(&agent)?);
        let hole = |gap: &Gap| ended && gap.source() == GapSource::HooksAbsent;
        ensure!(gaps(&agent).iter().all(hole), "{wanted}: {:?}", gaps(&agent));
        agent.end(Signal::SIGTERM)?;
    }
    Ok(())
}

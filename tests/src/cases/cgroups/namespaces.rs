//! Cgroup namespaces: whoever is in one is told other paths. What is recorded is the node's.

use std::fs;

use anyhow::{Context, Result, ensure};
use podtrail_proto::v1::EntryMethod;

use crate::{
    cases,
    cases::{
        BUSYBOX,
        hooks::doctor,
        joins::{SCRIPT, expect_script, joined, payload},
        nothing_else, sh,
    },
    harness::{
        Container, Cx, Runtime, Session, Spec, cgroup,
        container::fresh_id,
        host, process, session,
        surroundings::{OwnCgroup, Surroundings},
        until, want,
    },
};

cases! {
    "cgroups::namespaces",
    SharedAgent: a_container_in_one_of_its_own, joined_with_all_others, joined_alone_is_no_entry;
    OwnAgent: an_agent_in_one_of_its_own, an_agent_that_sees_a_part
}

/// With a cgroup namespace, as Kubernetes has it where cgroups are v2.
pub(super) fn spec(runtime: Runtime) -> Spec {
    let namespaces = vec!["pid", "mount", "ipc", "uts", "network", "cgroup"];
    Spec { namespaces, ..Spec::by(runtime) }
}

/// Fails unless the container is told as the node sees it.
pub(super) fn as_the_node_sees_it(session: &Session, container: &Container) -> Result<()> {
    let name = container.cgroup.rsplit('/').next().unwrap_or_default();
    for event in &session.events {
        let told = event.container.as_ref().with_context(|| format!("no container: {event:?}"))?;
        let is = (&*told.id, told.cgroup_id, &*told.cgroup_path);
        ensure!(is == (name, container.cgroup_id, &*container.cgroup), "{told:?}");
    }
    Ok(())
}

/// The path of a process's cgroup, in the hierarchy that containers are told by.
pub(super) fn path_of(pid: u32) -> Result<String> {
    path_in(&fs::read_to_string(format!("/proc/{pid}/cgroup"))?)
}

/// The same, as somebody was told it.
fn path_in(told: &str) -> Result<String> {
    let v2 = host().told_by()?.v2;
    let found = told.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let pids = controllers.split(',').any(|name| name == "pids");
        (if v2 { controllers.is_empty() } else { pids }).then(|| path.to_owned())
    });
    found.with_context(|| format!("no path: {told}"))
}

/// Fails unless a process is in another cgroup namespace than this one.
fn has_its_own(pid: u32) -> Result<()> {
    let [its, own] = [pid, std::process::id()].map(|pid| process::namespace(pid, "cgroup"));
    ensure!(its? != own?, "{pid} is in our cgroup namespace");
    Ok(())
}

fn a_container_in_one_of_its_own(cx: &Cx) -> Result<()> {
    for runtime in [Runtime::Runc, Runtime::Crun] {
        let container = cx.start(spec(runtime))?;
        has_its_own(container.init)?;
        let script = "/bin/cat /proc/self/cgroup; exit 3";
        let ran = container.sh(script).run()?;
        ensure!(ran.status.code() == Some(3), "{}", ran.text());
        // The container is told nothing of the node's paths.
        ensure!(path_in(&ran.text())? == "/", "{}", ran.text());
        let session = cx.session(&container, ran.pid)?;
        session.expect(&[
            want(BUSYBOX, &sh(script)).exit(3),
            want(BUSYBOX, &["/bin/cat", "/proc/self/cgroup"]),
        ])?;
        ensure!(session.method()? == EntryMethod::RuntimeExec, "{}", session.story());
        as_the_node_sees_it(&session, &container)?;
        let inside = |id: u64| id == container.cgroup_id;
        ensure!(session.executed().iter().all(|executed| inside(executed.cgroup_id)), "{}", session.story());
        nothing_else(cx, &container, &[&session])?;
    }
    Ok(())
}

fn joined_with_all_others(cx: &Cx) -> Result<()> {
    // One call a namespace as of `nsenter --all`, and one for all.
    for how in ["files", "pidfd"] {
        let container = cx.start(spec(Runtime::Runc))?;
        has_its_own(container.init)?;
        let kinds = "cgroup,ipc,uts,net,pid,mnt";
        ensure!(payload(&container, how, kinds, "spawn", &sh(SCRIPT))? == Some(3), "the payload failed");
        let session = joined(cx, &container, true, true)?;
        expect_script(&session)?;
        as_the_node_sees_it(&session, &container)?;
        // It is where whoever joined was.
        let own = cgroup::id(&path_of(std::process::id())?)?;
        ensure!(session.executed().iter().all(|executed| executed.cgroup_id == own), "{}", session.story());
        nothing_else(cx, &container, &[&session])?;
    }
    Ok(())
}

/// Whoever joins it is told other paths, and comes to nothing of the container.
fn joined_alone_is_no_entry(cx: &Cx) -> Result<()> {
    let container = cx.start(spec(Runtime::Runc))?;
    has_its_own(container.init)?;
    let busybox = host().busybox.as_ref().context("no busybox")?.display().to_string();
    for how in ["files", "pidfd"] {
        let code = payload(&container, how, "cgroup", "spawn", &[&busybox, "true"])?;
        ensure!(code == Some(0), "the payload failed");
    }
    nothing_else(cx, &container, &[])
}

/// A cgroup as of a container of a pod, beside those of other pods; for an agent.
fn a_pods(alone: bool) -> Result<Surroundings> {
    let path = format!("{}/pod/{}", host().cgroup, fresh_id());
    cgroup::make(&path)?;
    let told_by = host().told_by()?;
    let own = OwnCgroup { dir: told_by.at(&path), over: alone.then(|| told_by.mount.clone()) };
    Ok(Surroundings { cgroup: Some(own), ..Surroundings::default() })
}

/// What doctor says there: whether it sees all cgroups, and whether it says what to do about it.
fn cgroups_seen(surroundings: &Surroundings) -> Result<(bool, bool)> {
    let (_, report) = doctor(&[], surroundings)?;
    let whole = report["cgroups"]["whole"].as_bool().with_context(|| report.to_string())?;
    let part = "only a part of the node's cgroups can be seen: containers outside it have no names";
    let problems = report["problems"].as_array().context("no problems")?;
    Ok((whole, problems.iter().any(|problem| problem["what"] == part)))
}

/// As in a pod with the node's /sys/fs/cgroup: what was there before is found, under the node's names.
fn an_agent_in_one_of_its_own(cx: &Cx) -> Result<()> {
    let surroundings = a_pods(false)?;
    ensure!(cgroups_seen(&surroundings)? == (true, false), "doctor is not content");
    let container = cx.start(spec(Runtime::Runc))?;
    container.gate("/gate")?;
    let script = "/bin/true; read x </gate; /bin/echo seen; exit 4";
    let pid = container.sh(script).detached().run()?.ok()?.pid;
    until("the session waits", || process::children(pid).is_empty())?;
    let agent = cx.start_agent_in(&[], &surroundings)?;
    has_its_own(agent.pid()?)?;
    let found = session::wait_open(&agent, container.cgroup_id, pid)?;
    ensure!(found.started()?.recovered == Some(true), "{}", found.story());
    container.tell("/gate", "go")?;
    let session = agent.ended(&found.id)?;
    session.check()?;
    session.expect(&[want(BUSYBOX, &sh(script)).exit(4), want(BUSYBOX, &["/bin/echo", "seen"])])?;
    as_the_node_sees_it(&session, &container)?;
    let inside = |id: u64| id == container.cgroup_id;
    ensure!(session.executed().iter().all(|executed| inside(executed.cgroup_id)), "{}", session.story());
    // And what comes after it.
    exec_and_see(cx, &agent, Runtime::Crun)?;
    agent.stop()?;
    cgroup::remove(&format!("{}/pod", host().cgroup))
}

/// A container that comes when the agent is there.
fn exec_and_see(cx: &Cx, agent: &crate::harness::Agent, runtime: Runtime) -> Result<()> {
    let container = cx.start(spec(runtime))?;
    let pid = container.sh(SCRIPT).run()?.pid;
    let session = agent.ended(&session::wait_open(agent, container.cgroup_id, pid)?.id)?;
    session.check()?;
    expect_script(&session)?;
    as_the_node_sees_it(&session, &container)
}

/// As in a pod that was not given the node's /sys/fs/cgroup: it says so, and records what comes.
fn an_agent_that_sees_a_part(cx: &Cx) -> Result<()> {
    let surroundings = a_pods(true)?;
    ensure!(cgroups_seen(&surroundings)? == (false, true), "doctor is content");
    let agent = cx.start_agent_in(&[], &surroundings)?;
    has_its_own(agent.pid()?)?;
    let warning = "only a part of the node's cgroups can be seen: mount the node's /sys/fs/cgroup";
    ensure!(agent.logged().contains(warning), "{}", agent.logged());
    exec_and_see(cx, &agent, Runtime::Runc)?;
    agent.stop()?;
    cgroup::remove(&format!("{}/pod", host().cgroup))
}

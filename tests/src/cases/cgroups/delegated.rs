//! A container that hands out cgroups of its own, as systemd does inside of one: whatever of them a process is in, it is the
//! container's.

use std::fs;

use anyhow::{Result, ensure};
use podtrail_proto::v1::EntryMethod;

use super::namespaces::{as_the_node_sees_it, path_of, spec};
use crate::{
    cases,
    cases::{BUSYBOX, nothing_else, sh},
    harness::{
        Container, Cx, Runtime, Session, Spec, cgroup, container::fresh_id, exec::Running, host, node,
        process, session, until, want,
    },
};

cases! {
    "cgroups::delegated",
    SharedAgent: an_exec_lands_where_it_can, an_entry_into_a_leaf, a_session_that_the_manager_moves,
        moved_out_by_the_node;
    OwnAgent: a_late_agent_finds_all_of_it
}

/// Begins the names of its cgroups.
const INIT: &str = "init.scope";
const WORK: &str = "work.service";

/// A container whose init goes to a leaf, hands on what controllers there are, starts a service in another leaf, and then moves
/// there whatever pid it is told at `/move`.
fn delegated(cx: &Cx, runtime: Runtime) -> Result<Container> {
    let name = fresh_id();
    let inside = format!("/cg{}/{name}", host().cgroup);
    // Beside v1, runc executes nothing in a container that has handed on controllers of v2.
    let hand_on = if runtime.sees_v2_only()? {
        "for c in $(cat cgroup.controllers); do echo +$c >cgroup.subtree_control; done;"
    } else {
        ""
    };
    let script = format!(
        "cd {inside}; mkdir {INIT} {WORK}; echo $$ >{INIT}/cgroup.procs; {hand_on} \
         sh -c 'echo $$ >{WORK}/cgroup.procs; /bin/true; until [ -p /work ]; do sleep 0.01; done; \
                read x </work; /bin/true; echo done >/worked; exec sleep 1000000' & \
         until [ -p /move ]; do sleep 0.01; done; echo ready >/moved; \
         while read pid </move; do echo $pid >{WORK}/cgroup.procs; echo moved >/moved; done"
    );
    let init = sh(&script).map(str::to_owned).to_vec();
    let container = cx.start(Spec { init, cgroup: Some(name), cgroups_inside: true, ..spec(runtime) })?;
    for gate in ["/moved", "/move"] {
        container.gate(gate)?;
    }
    ensure!(container.hear("/moved")? == "ready", "it did not begin");
    for leaf in [INIT, WORK] {
        let leaf = below(&container, leaf);
        until(&format!("somebody is in {leaf}"), || {
            cgroup::processes(&leaf).is_ok_and(|pids| !pids.is_empty())
        })?;
    }
    Ok(container)
}

fn below(container: &Container, leaf: &str) -> String {
    format!("{}/{leaf}", container.cgroup)
}

/// The cgroups of a session's commands.
fn places(session: &Session) -> Vec<u64> {
    session.executed().iter().map(|executed| executed.cgroup_id).collect()
}

fn an_exec_lands_where_it_can(cx: &Cx) -> Result<()> {
    let mut runtimes = vec![Runtime::Runc, Runtime::Crun];
    if host().told_by()?.v2 {
        runtimes.push(Runtime::RuncV2);
    }
    for runtime in runtimes {
        let container = delegated(cx, runtime)?;
        container.gate("/gate")?;
        let script = "/bin/true; read x </gate; /bin/echo on; exit 3";
        let running = container.sh(script).spawn()?;
        let place = path_of(running.pid)?;
        // Where controllers were handed on, a process can be in leaves alone, and the runtime takes that of init.
        let dir = host().told_by()?.at(&container.cgroup);
        let names_any = |file| fs::read_to_string(dir.join(file)).is_ok_and(|names| !names.trim().is_empty());
        let handed_on = names_any("cgroup.subtree_control");
        let expected = runtime.sees_v2_only()? && names_any("cgroup.controllers");
        ensure!(handed_on == expected, "controllers were handed on: {handed_on}");
        let wanted = if handed_on { below(&container, INIT) } else { container.cgroup.clone() };
        ensure!(place == wanted, "it is in {place}, and controllers were handed on: {handed_on}");
        container.tell("/gate", "go")?;
        ensure!(running.wait()?.status.code() == Some(3), "it failed");
        let session = session::only(&cx.sessions(&container)?)?;
        session.check()?;
        session.expect(&[
            want(BUSYBOX, &sh(script)).exit(3),
            want(BUSYBOX, &["/bin/true"]),
            want(BUSYBOX, &["/bin/echo", "on"]),
        ])?;
        ensure!(session.method()? == EntryMethod::RuntimeExec, "{}", session.story());
        as_the_node_sees_it(&session, &container)?;
        ensure!(places(&session) == [cgroup::id(&place)?; 3], "{}", session.story());
        // The manager and its service are the container's own work.
        nothing_else(cx, &container, &[&session])?;
    }
    Ok(())
}

/// Into a cgroup that the container made for itself, as `runc exec --cgroup`.
fn an_entry_into_a_leaf(cx: &Cx) -> Result<()> {
    let container = delegated(cx, Runtime::Runc)?;
    let leaf = below(&container, WORK);
    let (dir, init) = (host().told_by()?.at(&leaf).display().to_string(), container.init.to_string());
    let script = "/bin/true; exit";
    let output = process::succeed(process::payload(&["stage", &dir, &init, "/bin/sh", "-c", script]))?;
    let session = cx.session(&container, String::from_utf8(output.stdout)?.trim().parse()?)?;
    session.expect(&[want(BUSYBOX, &sh(script)), want(BUSYBOX, &["/bin/true"])])?;
    ensure!(session.method()? == EntryMethod::RuntimeExec, "{}", session.story());
    as_the_node_sees_it(&session, &container)?;
    ensure!(places(&session) == [cgroup::id(&leaf)?; 2], "{}", session.story());
    nothing_else(cx, &container, &[&session])
}

/// A session that waits.
const WAITS: &str = "/bin/echo one; echo $$ >/pid; read x </gate; /bin/echo two; exit 3";

/// One that the manager moved to another leaf than it came to.
fn moved(container: &Container) -> Result<Running> {
    container.gate("/gate")?;
    container.gate("/pid")?;
    let running = container.sh(WAITS).spawn()?;
    // As it is called in its own pid namespace.
    let pid = container.hear("/pid")?;
    container.tell("/move", &pid)?;
    ensure!(container.hear("/moved")? == "moved", "nobody moved it");
    ensure!(path_of(running.pid)? == below(container, WORK), "it was not moved");
    Ok(running)
}

fn expect_waits(session: &Session, container: &Container) -> Result<()> {
    let echo = |word| want(BUSYBOX, &["/bin/echo", word]);
    session.expect(&[want(BUSYBOX, &sh(WAITS)).exit(3), echo("one"), echo("two")])?;
    as_the_node_sees_it(session, container)
}

fn a_session_that_the_manager_moves(cx: &Cx) -> Result<()> {
    let container = delegated(cx, Runtime::Runc)?;
    let running = moved(&container)?;
    container.tell("/gate", "go")?;
    let session = cx.session(&container, running.wait()?.pid)?;
    expect_waits(&session, &container)?;
    let [first, one, two] = places(&session)[..] else { unreachable!("three were expected") };
    let leaf = cgroup::id(&below(&container, WORK))?;
    ensure!(first == one && one != leaf && two == leaf, "{}", session.story());
    nothing_else(cx, &container, &[&session])
}

/// Out of all that is the container's: what was a session is one, and what was none is none.
fn moved_out_by_the_node(cx: &Cx) -> Result<()> {
    let outside = format!("{}/out-{}", host().cgroup, fresh_id().get(20..).unwrap_or_default());
    cgroup::make(&outside)?;
    let container = delegated(cx, Runtime::Runc)?;
    let running = moved(&container)?;
    cgroup::attach(&outside, running.pid)?;
    container.tell("/gate", "go")?;
    let session = cx.session(&container, running.wait()?.pid)?;
    expect_waits(&session, &container)?;
    ensure!(places(&session).last() == Some(&cgroup::id(&outside)?), "{}", session.story());
    // Its service, when what that sleeps with is gone.
    container.gate("/worked")?;
    container.gate("/work")?;
    let work = below(&container, WORK);
    until("the service waits", || cgroup::processes(&work).is_ok_and(|pids| pids.len() == 1))?;
    let [service] = cgroup::processes(&work)?[..] else { anyhow::bail!("not one process in {work}") };
    cgroup::attach(&outside, service)?;
    container.tell("/work", "go")?;
    ensure!(container.hear("/worked")? == "done", "the service did nothing");
    nothing_else(cx, &container, &[&session])?;
    drop(container);
    cgroup::remove(&outside)
}

fn a_late_agent_finds_all_of_it(cx: &Cx) -> Result<()> {
    let container = delegated(cx, Runtime::Runc)?;
    let running = moved(&container)?;
    let agent = cx.start_agent(&[])?;
    let found = session::wait_open(&agent, container.cgroup_id, running.pid)?;
    ensure!(found.started()?.recovered == Some(true), "{}", found.story());
    container.tell("/gate", "go")?;
    running.wait()?;
    let session = agent.ended(&found.id)?;
    session.check()?;
    let wanted = [want(BUSYBOX, &sh(WAITS)).exit(3), want(BUSYBOX, &["/bin/echo", "two"])];
    session.expect(&wanted)?;
    as_the_node_sees_it(&session, &container)?;
    ensure!(places(&session) == [cgroup::id(&below(&container, WORK))?; 2], "{}", session.story());
    node::settle(&agent)?;
    let all = session::all(&agent.events(), container.cgroup_id);
    ensure!(all.len() == 1, "the container's own work became a session");
    agent.stop()
}

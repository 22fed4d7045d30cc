//! Cgroups that move, nest, lie and vanish: a session, once given, stays what it is.

pub(super) mod delegated;
pub(super) mod namespaces;

use anyhow::{Context, Result, ensure};

use super::{BUSYBOX, nothing_else, only_session_of, sh};
use crate::{
    cases,
    harness::{
        Cx, Session, Spec, cgroup,
        container::{ITEST, fresh_id},
        host, node, process, until, want,
    },
};

cases! {
    "cgroups",
    SharedAgent: a_session_that_moves_out, a_session_that_moves_within, a_workload_that_moves_is_no_session,
        a_container_in_a_container, a_cgroup_named_like_another_container, init_in_a_cgroup_below,
        a_container_in_a_workload_is_no_session,
        a_cgroup_removed_while_its_session_lives, a_host_process_moved_back_out
}

/// A container that can write the cgroup hierarchy, called so that its path is known before it is there.
fn with_cgroups(cx: &Cx, init: &[&str]) -> Result<(crate::harness::Container, String)> {
    let name = fresh_id();
    let inside = format!("/cg{}/{name}", host().cgroup);
    let init: Vec<String> = init.iter().map(|arg| arg.replace("CGROUP", &inside)).collect();
    let mut spec = Spec { cgroup: Some(name), cgroups_inside: true, ..Spec::default() };
    if !init.is_empty() {
        spec.init = init;
    }
    Ok((cx.start(spec)?, inside))
}

fn a_session_that_moves_out(cx: &Cx) -> Result<()> {
    let (container, inside) = with_cgroups(cx, &[])?;
    let outside = format!("{}/outside-{}", host().cgroup, container.init);
    cgroup::make(&outside)?;
    let procs = format!("/cg{outside}/cgroup.procs");
    let script = format!(
        "/bin/echo in; echo $$ >{procs}; /bin/echo out; echo $$ >{inside}/cgroup.procs; /bin/echo back; exit"
    );
    let session = only_session_of(cx, &container, &script)?;
    session.expect(&[
        want(BUSYBOX, &sh(&script)),
        want(BUSYBOX, &["/bin/echo", "in"]),
        want(BUSYBOX, &["/bin/echo", "out"]),
        want(BUSYBOX, &["/bin/echo", "back"]),
    ])?;
    let places: Vec<u64> = session.executed().iter().map(|executed| executed.cgroup_id).collect();
    let (home, away) = (container.cgroup_id, cgroup::id(&outside)?);
    ensure!(places == [home, home, away, home], "{places:?} is not {home} and {away}");
    cgroup::remove(&outside)
}

fn a_session_that_moves_within(cx: &Cx) -> Result<()> {
    let (container, inside) = with_cgroups(cx, &[])?;
    let below = format!("{inside}/below");
    let args = ["payload", "move", &below, "/bin/sh", "-c", "/bin/true; exit"];
    let script = format!("{ITEST} payload move {below} /bin/sh -c '/bin/true; exit'; exit");
    let session = only_session_of(cx, &container, &script)?;
    session.expect(&[
        want(BUSYBOX, &sh(&script)),
        want(ITEST, &[&[ITEST], &args[..]].concat()).replaced(),
        want(BUSYBOX, &sh("/bin/true; exit")),
        want(BUSYBOX, &["/bin/true"]),
    ])?;
    let below = cgroup::id(&format!("{}/below", container.cgroup))?;
    ensure!(session.executed()[3].cgroup_id == below, "{}", session.story());
    Ok(())
}

fn a_workload_that_moves_is_no_session(cx: &Cx) -> Result<()> {
    let outside = format!("{}/workload-{}", host().cgroup, fresh_id().get(20..).unwrap_or_default());
    cgroup::make(&outside)?;
    // The container's own work goes out, and to a cgroup below; both run programs there, again and again.
    let script = format!(
        "{ITEST} payload move CGROUP/below {ITEST} payload exit 0; \
         {ITEST} payload move /cg{outside} /bin/sh -c '/bin/true; /bin/true; exit'; \
         echo moved >/gate; exec {ITEST} payload init"
    );
    let name = fresh_id();
    let spec = Spec { cgroup: Some(name.clone()), cgroups_inside: true, ..Spec::default() };
    let script = script.replace("CGROUP", &format!("/cg{}/{name}", host().cgroup));
    let init = format!("until [ -p /gate ]; do /bin/sleep 0.01; done; {script}");
    let container = cx.start(Spec { init: sh(&init).map(str::to_owned).to_vec(), ..spec })?;
    container.gate("/gate")?;
    ensure!(container.hear("/gate")? == "moved", "it was not moved");
    nothing_else(cx, &container, &[])?;
    // And it is still a container.
    let session = only_session_of(cx, &container, "exit")?;
    session.expect(&[want(BUSYBOX, &sh("exit"))])?;
    cgroup::remove(&outside)
}

fn a_container_in_a_container(cx: &Cx) -> Result<()> {
    let (container, inside) = with_cgroups(cx, &[])?;
    let nested = fresh_id();
    // By a session: all of it is the session's, whatever cgroup and namespaces it makes for itself.
    let script =
        format!("{ITEST} payload nest {inside}/{nested} /bin/sh -c '/bin/echo nested; exit 4'; exit 0");
    let session = only_session_of(cx, &container, &script)?;
    let dir = format!("{inside}/{nested}");
    session.expect(&[
        want(BUSYBOX, &sh(&script)),
        want(ITEST, &[ITEST, "payload", "nest", &dir, "/bin/sh", "-c", "/bin/echo nested; exit 4"]).exit(4),
        want(BUSYBOX, &sh("/bin/echo nested; exit 4")).exit(4),
        want(BUSYBOX, &["/bin/echo", "nested"]),
    ])?;
    let below = cgroup::id(&format!("{}/{nested}", container.cgroup))?;
    cx.settle()?;
    ensure!(node::of_container(&cx.agent()?.events(), below).is_empty(), "the nested one became a container");
    Ok(())
}

fn a_container_in_a_workload_is_no_session(cx: &Cx) -> Result<()> {
    let nested = fresh_id();
    // The container's own work runs containers of its own, one after the other, and goes into them again.
    let script = format!(
        "until [ -p /gate ]; do /bin/sleep 0.01; done; \
         {ITEST} payload nest CGROUP/{nested} /bin/sh -c '/bin/true; exit'; \
         {ITEST} payload nest CGROUP/{nested} /bin/sh -c '/bin/true; exit'; \
         echo done >/gate; exec {ITEST} payload init"
    );
    let (container, _) = with_cgroups(cx, &sh(&script))?;
    container.gate("/gate")?;
    ensure!(container.hear("/gate")? == "done", "it was not run");
    nothing_else(cx, &container, &[])?;
    let below = cgroup::id(&format!("{}/{nested}", container.cgroup))?;
    ensure!(node::of_container(&cx.agent()?.events(), below).is_empty(), "the nested one became a container");
    Ok(())
}

fn a_cgroup_named_like_another_container(cx: &Cx) -> Result<()> {
    let victim = cx.container()?;
    let (container, inside) = with_cgroups(cx, &[])?;
    let dir = format!("{inside}/{}", victim.id);
    let script = format!("{ITEST} payload move {dir} /bin/echo disguised; exit");
    let session = only_session_of(cx, &container, &script)?;
    session.expect(&[
        want(BUSYBOX, &sh(&script)),
        want(ITEST, &[ITEST, "payload", "move", &dir, "/bin/echo", "disguised"]).replaced(),
        want(BUSYBOX, &["/bin/echo", "disguised"]),
    ])?;
    let told = session.events.first().and_then(|event| event.container.as_ref()).context("no container")?;
    ensure!(told.cgroup_id == container.cgroup_id && told.id != victim.id, "{told:?}");
    nothing_else(cx, &victim, &[])?;
    cx.settle()?;
    let below = cgroup::id(&format!("{}/{}", container.cgroup, victim.id))?;
    ensure!(node::of_container(&cx.agent()?.events(), below).is_empty(), "the disguise became a container");
    Ok(())
}

fn init_in_a_cgroup_below(cx: &Cx) -> Result<()> {
    let (container, _) =
        with_cgroups(cx, &[ITEST, "payload", "move", "CGROUP/init.scope", ITEST, "payload", "init"])?;
    let below = format!("{}/init.scope", container.cgroup);
    until("init is below", || cgroup::processes(&below).is_ok_and(|pids| pids.contains(&container.init)))?;
    let session = only_session_of(cx, &container, "/bin/true; exit")?;
    session.expect(&[want(BUSYBOX, &sh("/bin/true; exit")), want(BUSYBOX, &["/bin/true"])])?;
    let told = session.events.first().and_then(|event| event.container.as_ref()).context("no container")?;
    ensure!(told.cgroup_path == container.cgroup, "{told:?}");
    Ok(())
}

fn a_cgroup_removed_while_its_session_lives(cx: &Cx) -> Result<()> {
    // Without a pid namespace of its own, what it started can outlive it.
    let name = fresh_id();
    let outside = format!("{}/after-{}", host().cgroup, name.get(20..).unwrap_or_default());
    cgroup::make(&outside)?;
    let namespaces = vec!["mount", "ipc", "uts"];
    let container =
        cx.start(Spec { cgroup: Some(name), cgroups_inside: true, namespaces, ..Spec::default() })?;
    container.gate("/gate")?;
    let script = format!(
        "echo $$ >/cg{outside}/cgroup.procs; echo out >/gate; read x </gate; /bin/echo after; exit 6"
    );
    let running = container.sh(&script).detached().spawn()?;
    let pid = running.pid;
    running.wait()?.ok()?;
    container.hear("/gate")?;
    // In the other hierarchies it is still where it was.
    let told_by = &host().told_by()?.mount;
    let elsewhere = host().hierarchies.iter().filter(|hierarchy| hierarchy.mount != *told_by);
    for hierarchy in elsewhere {
        std::fs::write(hierarchy.mount.join("cgroup.procs"), pid.to_string())?;
    }
    process::succeed(container.command(&["kill", &container.id, "KILL"])?)?;
    until("its init ends", || !process::alive(container.init))?;
    cgroup::remove(&container.cgroup)?;
    ensure!(process::alive(pid), "the session ended with its container");
    container.tell("/gate", "go")?;
    let session = cx.session(&container, pid)?;
    session.expect(&[want(BUSYBOX, &sh(&script)).exit(6), want(BUSYBOX, &["/bin/echo", "after"])])?;
    nothing_else(cx, &container, &[&session])?;
    cgroup::remove(&outside)
}

fn a_host_process_moved_back_out(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let busybox = host().busybox.as_ref().context("no busybox")?.display().to_string();
    let mark = format!("mark-{}", fresh_id());
    let dir = host().told_by()?.at(&container.cgroup);
    let home = host().told_by()?.mount.display().to_string();
    // In, and out again, before it ran anything: whether that is a session is open, but it is never two.
    let script = format!(
        "echo $$ >{}/cgroup.procs; echo $$ >{home}/cgroup.procs; {busybox} echo {mark}; exit",
        dir.display()
    );
    let status = std::process::Command::new(&busybox)
        .args(["sh", "-c", &script])
        .stdout(std::process::Stdio::null())
        .status()?;
    ensure!(status.success(), "{status}");
    let sessions: Vec<Session> = cx.sessions(&container)?;
    ensure!(sessions.len() <= 1, "{} sessions", sessions.len());
    Ok(())
}

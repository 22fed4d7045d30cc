//! The host's root directory, mounted into a container as node debug pods have it, and taken for one's own: `chroot /host`.

use anyhow::{Context, Result, ensure};
use podtrail_proto::v1::EntryMethod;

use super::{entries::real, nothing_else, the_session};
use crate::{
    cases,
    harness::{Container, Cx, Session, Spec, host, host::has_the_nodes_root, until, want},
};

cases! {
    "host_root",
    SharedAgent: a_workload_that_changes_to_it, an_entrypoint_that_changes_to_it, one_with_mounts_of_its_own,
        a_session_that_changes_to_it_goes_on
}

fn busybox() -> Result<String> {
    Ok(host().busybox.as_ref().context("no busybox")?.display().to_string())
}

/// What is run in the host's root.
fn inside() -> Result<String> {
    Ok(format!("{} true; exit 3", busybox()?))
}

/// A container that does this once it is told to, as `kubectl debug node/…` makes them.
fn debugger(cx: &Cx, script: &str) -> Result<Container> {
    has_the_nodes_root()?;
    let script = format!("until [ -p /gate ]; do sleep 0.05; done; read x </gate; {script}");
    let container = cx.start(Spec {
        init: vec!["/bin/sh".to_owned(), "-c".to_owned(), script],
        namespaces: vec!["mount"],
        host_at: Some("/host"),
        ..Spec::default()
    })?;
    container.gate("/gate")?;
    container.tell("/gate", "go")?;
    Ok(container)
}

/// The only session of the container, which must be that of [`inside`].
fn is_on_the_host(cx: &Cx, container: &Container) -> Result<Session> {
    let (busybox, inside) = (busybox()?, inside()?);
    let session = the_session(cx, container)?;
    // Paths are those of the mounts, whatever a process takes for the root.
    let path = format!("/host{}", real(&busybox)?);
    session
        .expect(&[want(&path, &[&busybox, "sh", "-c", &inside]).exit(3), want(&path, &[&busybox, "true"])])?;
    let started = session.started()?;
    ensure!(started.method() == EntryMethod::HostNamespace, "{started:?}");
    let chroot = "a process of the container took the host's root directory for its own: chroot";
    ensure!(started.evidence.iter().any(|line| line == chroot), "{started:?}");
    let told = session.events.first().and_then(|event| event.container.as_ref()).context("no container")?;
    ensure!(told.id == container.id && told.cgroup_id == container.cgroup_id, "{told:?}");
    ensure!(session.ended().and_then(|ended| ended.exit_code) == Some(3), "{}", session.story());
    Ok(session)
}

/// Waits until the container's script has come to its end, which it says with a file.
fn done(container: &Container) -> Result<()> {
    until("the container is done", || container.path("/done").exists())
}

fn a_workload_that_changes_to_it(cx: &Cx) -> Result<()> {
    let (busybox, inside) = (busybox()?, inside()?);
    // What the container runs in its own root is its workload, before and after.
    let script = format!(
        "/bin/true; /bin/busybox chroot /host {busybox} sh -c '{inside}'; /bin/true; echo >/done; sleep 1000000"
    );
    let container = debugger(cx, &script)?;
    done(&container)?;
    let session = is_on_the_host(cx, &container)?;
    nothing_else(cx, &container, &[&session])
}

fn an_entrypoint_that_changes_to_it(cx: &Cx) -> Result<()> {
    let (busybox, inside) = (busybox()?, inside()?);
    let container = debugger(cx, &format!("exec /bin/busybox chroot /host {busybox} sh -c '{inside}'"))?;
    let session = is_on_the_host(cx, &container)?;
    let root = session.started()?.root.as_ref().map(|root| root.pid);
    ensure!(root == Some(container.init), "{root:?} and {}", container.init);
    nothing_else(cx, &container, &[&session])
}

fn one_with_mounts_of_its_own(cx: &Cx) -> Result<()> {
    let (busybox, inside) = (busybox()?, inside()?);
    let script = format!(
        "/bin/busybox unshare -m /bin/busybox chroot /host {busybox} sh -c '{inside}'; echo >/done; sleep 1000000"
    );
    let container = debugger(cx, &script)?;
    done(&container)?;
    is_on_the_host(cx, &container).map(|_session| ())
}

fn a_session_that_changes_to_it_goes_on(cx: &Cx) -> Result<()> {
    let busybox = busybox()?;
    let container = cx.start(Spec { host_at: Some("/host"), ..Spec::default() })?;
    let script = format!("/bin/busybox chroot /host {busybox} true; exit 5");
    let ran = container.sh(&script).run()?;
    ensure!(ran.status.code() == Some(5), "{}", ran.text());
    let session = cx.session(&container, ran.pid)?;
    ensure!(session.method()? == EntryMethod::RuntimeExec, "{}", session.story());
    session.command(&[&busybox, "true"])?;
    nothing_else(cx, &container, &[&session])
}

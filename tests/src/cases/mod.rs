//! The cases, by subject.

mod agents;
mod argv;
mod attribution;
mod cgroups;
mod collecting;
mod deployed;
mod entries;
mod ephemeral;
mod failed;
mod files;
mod fixtures;
mod floods;
mod hooks;
mod host_root;
mod joins;
mod kernels;
mod packaged;
mod pins;
mod pod_costs;
mod pods;
mod probes;
mod roots;
mod skips;
mod spools;
mod storms;
mod tasks;
mod text;
mod tls;
mod verifier;

use anyhow::{Result, ensure};

use crate::harness::{Case, Container, Cx, Session, session};

/// All of them.
pub(crate) fn all() -> Vec<Case> {
    [
        fixtures::cases(),
        deployed::cases(),
        entries::cases(),
        ephemeral::cases(),
        joins::cases(),
        host_root::cases(),
        tasks::cases(),
        argv::cases(),
        failed::cases(),
        hooks::cases(),
        kernels::cases(),
        files::cases(),
        cgroups::cases(),
        cgroups::namespaces::cases(),
        cgroups::delegated::cases(),
        storms::cases(),
        floods::cases(),
        text::cases(),
        agents::cases(),
        packaged::cases(),
        pins::cases(),
        probes::cases(),
        pods::cases(),
        pod_costs::cases(),
        roots::cases(),
        skips::cases(),
        collecting::cases(),
        attribution::cases(),
        spools::cases(),
        tls::cases(),
        verifier::cases(),
    ]
    .concat()
}

/// What all applets are.
const BUSYBOX: &str = "/bin/busybox";

/// The arguments of a shell with a script.
fn sh(script: &str) -> [&str; 3] {
    ["/bin/sh", "-c", script]
}

/// Runs a script in a container; it must succeed. Returns its session, which must be the container's only one.
fn only_session_of(cx: &Cx, container: &Container, script: &str) -> Result<Session> {
    let pid = container.sh(script).run()?.ok()?.pid;
    let session = cx.session(container, pid)?;
    nothing_else(cx, container, &[&session])?;
    Ok(session)
}

/// Fails if anything was told of the container but these sessions.
fn nothing_else(cx: &Cx, container: &Container, sessions: &[&Session]) -> Result<()> {
    for session in cx.sessions(container)? {
        ensure!(
            sessions.iter().any(|known| known.id == session.id),
            "something besides what was to be seen: {}",
            session.story()
        );
    }
    Ok(())
}

/// The only session of a container, ended.
fn the_session(cx: &Cx, container: &Container) -> Result<Session> {
    let session = session::only(&cx.sessions(container)?)?;
    ensure!(session.ended().is_some(), "it has not ended: {}", session.story());
    session.check()?;
    Ok(session)
}

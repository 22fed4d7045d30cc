//! Into a container from the host by its namespaces, with the host's cgroup: nsenter and its kin.

use anyhow::{Context, Result, ensure};
use podtrail_proto::v1::EntryMethod;

use super::{BUSYBOX, entries::real, nothing_else, sh, the_session};
use crate::{
    cases,
    harness::{Container, Cx, Runtime, Session, Spec, host, process, want},
};

cases! {
    "joins",
    SharedAgent: nsenter_mount_and_pid, nsenter_mount_only, nsenter_pid_only, nsenter_into_crun,
        setns_of_the_pid_namespace_changes_children_only, one_setns_on_a_pidfd_for_all,
        setns_without_kinds_twice_and_failing, a_thread_joins_and_executes, a_thread_joins_and_spawns,
        a_thread_joins_and_nothing_else, joined_and_left, joins_of_other_namespaces_are_no_entries,
        two_joins_at_once, a_join_beside_an_exec, who_started_who_joined
}

/// The shell command that every test here runs, and what is to be seen of it.
pub(super) const SCRIPT: &str = "/bin/true; exit 3";

fn busybox() -> Result<String> {
    Ok(host().busybox.as_ref().context("no busybox")?.display().to_string())
}

/// Runs busybox's nsenter with these options into a container.
fn nsenter(container: &Container, options: &[&str], program: &[&str]) -> Result<Option<i32>> {
    let mut command = std::process::Command::new(busybox()?);
    // Busybox 1.30 would take the program's options for its own.
    command.arg("nsenter").arg("-t").arg(container.init.to_string()).args(options).arg("--").args(program);
    let output = command.stdin(std::process::Stdio::null()).output()?;
    if !output.stderr.is_empty() {
        eprintln!("nsenter: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.status.code())
}

pub(super) fn payload(
    container: &Container,
    how: &str,
    kinds: &str,
    then: &str,
    program: &[&str],
) -> Result<Option<i32>> {
    let init = container.init.to_string();
    let mut args = vec!["join", &init, how, kinds, then];
    args.extend_from_slice(program);
    let output = process::payload(&args).output()?;
    ensure!(output.status.code() != Some(99), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(output.status.code())
}

/// The only session, which must be a join of these namespaces that ran [`SCRIPT`].
pub(super) fn joined(cx: &Cx, container: &Container, mnt: bool, pid: bool) -> Result<Session> {
    let session = the_session(cx, container)?;
    ensure!(session.method()? == EntryMethod::NamespaceJoin, "{}", session.story());
    let told = session.events.first().and_then(|event| event.container.as_ref()).context("no container")?;
    ensure!(told.id == container.id && told.cgroup_id == container.cgroup_id, "{told:?}");
    let [join] = session.joined()[..] else { anyhow::bail!("not one join: {}", session.story()) };
    let namespaces = join.namespaces.context("no namespaces")?;
    let expected = |is: bool, kind: &str| if is { process::namespace(container.init, kind) } else { Ok(0) };
    ensure!(namespaces.mount == expected(mnt, "mnt")?, "{}", session.story());
    ensure!(namespaces.pid == expected(pid, "pid")?, "{}", session.story());
    for executed in session.executed() {
        let namespaces = executed.namespaces.context("no namespaces")?;
        if mnt {
            ensure!(namespaces.mount == process::namespace(container.init, "mnt")?, "{executed:?}");
        }
        ensure!(executed.cgroup_id != container.cgroup_id, "{executed:?}");
    }
    Ok(session)
}

pub(super) fn expect_script(session: &Session) -> Result<()> {
    session.expect(&[want(BUSYBOX, &sh(SCRIPT)).exit(3), want(BUSYBOX, &["/bin/true"])])
}

fn nsenter_mount_and_pid(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    ensure!(nsenter(&container, &["-m", "-p"], &sh(SCRIPT))? == Some(3), "nsenter failed");
    expect_script(&joined(cx, &container, true, true)?)
}

fn nsenter_into_crun(cx: &Cx) -> Result<()> {
    let container = cx.start(Spec::by(Runtime::Crun))?;
    ensure!(nsenter(&container, &["-m", "-p", "-u", "-i"], &sh(SCRIPT))? == Some(3), "nsenter failed");
    expect_script(&joined(cx, &container, true, true)?)
}

fn nsenter_mount_only(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    ensure!(nsenter(&container, &["-m"], &sh(SCRIPT))? == Some(3), "nsenter failed");
    expect_script(&joined(cx, &container, true, false)?)
}

fn nsenter_pid_only(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let busybox = busybox()?;
    let script = format!("{busybox} true; exit 3");
    let program = [busybox.as_str(), "sh", "-c", &script];
    ensure!(nsenter(&container, &["-p"], &program)? == Some(3), "nsenter failed");
    let session = joined(cx, &container, false, true)?;
    session.expect(&[want(&real(&busybox)?, &program).exit(3), want(&real(&busybox)?, &[&busybox, "true"])])
}

fn setns_of_the_pid_namespace_changes_children_only(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let busybox = busybox()?;
    // The process itself stays where it is, and so does what it becomes; its child is inside.
    let script = format!("{busybox} echo inside; exit 3");
    let program = [busybox.as_str(), "sh", "-c", &script];
    ensure!(payload(&container, "files", "pid", "exec", &program)? == Some(3), "the payload failed");
    let session = joined(cx, &container, false, true)?;
    session.expect(&[want(&real(&busybox)?, &[&busybox, "echo", "inside"])])
}

fn one_setns_on_a_pidfd_for_all(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    ensure!(
        payload(&container, "pidfd", "mnt,pid,uts,ipc,net", "spawn", &sh(SCRIPT))? == Some(3),
        "the payload failed"
    );
    expect_script(&joined(cx, &container, true, true)?)
}

fn setns_without_kinds_twice_and_failing(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    ensure!(
        payload(&container, "clumsy", "uts,pid,mnt", "spawn", &sh(SCRIPT))? == Some(3),
        "the payload failed"
    );
    expect_script(&joined(cx, &container, true, true)?)
}

fn a_thread_joins_and_executes(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    ensure!(
        payload(&container, "files", "mnt", "thread-exec", &sh(SCRIPT))? == Some(3),
        "the payload failed"
    );
    expect_script(&joined(cx, &container, true, false)?)
}

fn a_thread_joins_and_spawns(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    ensure!(
        payload(&container, "files", "mnt,pid", "thread-spawn", &sh(SCRIPT))? == Some(3),
        "the payload failed"
    );
    expect_script(&joined(cx, &container, true, true)?)
}

fn a_thread_joins_and_nothing_else(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let busybox = busybox()?;
    // Its first thread never was inside, and what it becomes is not either: runc does so at every start.
    ensure!(payload(&container, "files", "mnt", "thread-idle", &[&busybox, "true"])? == Some(0), "it failed");
    no_commands(cx, &container)
}

/// Fails if a command was told. That namespaces were joined may be told: it is true.
fn no_commands(cx: &Cx, container: &Container) -> Result<()> {
    for session in cx.sessions(container)? {
        ensure!(session.executed().is_empty() && session.started().is_err(), "{}", session.story());
    }
    Ok(())
}

fn joined_and_left(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    // Into the container and back out: what runs then is the host's again.
    let busybox = busybox()?;
    ensure!(
        payload(&container, "files", "mnt,pid", "back-exec", &[&busybox, "true"])? == Some(0),
        "it failed"
    );
    no_commands(cx, &container)
}

fn joins_of_other_namespaces_are_no_entries(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let busybox = busybox()?;
    let code = payload(&container, "files", "uts,ipc,net", "spawn", &[&busybox, "true"])?;
    ensure!(code == Some(0), "it failed");
    nothing_else(cx, &container, &[])
}

fn two_joins_at_once(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let script = |gate: &str| format!("read x <{gate}; /bin/echo {gate}; exit 3");
    std::thread::scope(|scope| -> Result<()> {
        let mut running = Vec::new();
        for gate in ["/a", "/b"] {
            container.gate(gate)?;
            let container = &container;
            running.push(scope.spawn(move || nsenter(container, &["-m", "-p"], &sh(&script(gate)))));
        }
        container.tell("/b", "go")?;
        container.tell("/a", "go")?;
        for running in running {
            let code = running.join().ok().context("a thread failed")??;
            ensure!(code == Some(3), "nsenter failed");
        }
        Ok(())
    })?;
    let sessions = cx.sessions(&container)?;
    ensure!(sessions.len() == 2, "{} sessions", sessions.len());
    for session in &sessions {
        session.check()?;
        let first = session.executed().first().and_then(|executed| executed.argv.last()).cloned();
        let gate = if first == Some(script("/a")) { "/a" } else { "/b" };
        session.expect(&[want(BUSYBOX, &sh(&script(gate))).exit(3), want(BUSYBOX, &["/bin/echo", gate])])?;
        ensure!(session.method()? == EntryMethod::NamespaceJoin, "{}", session.story());
    }
    Ok(())
}

fn a_join_beside_an_exec(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    container.gate("/gate")?;
    let waiting = container.sh("read x </gate; /bin/echo by exec; exit").spawn()?;
    ensure!(nsenter(&container, &["-m", "-p"], &["/bin/echo", "by", "join"])? == Some(0), "nsenter failed");
    container.tell("/gate", "go")?;
    let exec = cx.session(&container, waiting.wait()?.ok()?.pid)?;
    ensure!(exec.method()? == EntryMethod::RuntimeExec, "{}", exec.story());
    exec.expect(&[
        want(BUSYBOX, &sh("read x </gate; /bin/echo by exec; exit")),
        want(BUSYBOX, &["/bin/echo", "by", "exec"]),
    ])?;
    let others: Vec<Session> =
        cx.sessions(&container)?.into_iter().filter(|session| session.id != exec.id).collect();
    let join = crate::harness::session::only(&others)?;
    ensure!(join.method()? == EntryMethod::NamespaceJoin, "{}", join.story());
    join.expect(&[want(BUSYBOX, &["/bin/echo", "by", "join"])])
}

/// sshd → sh → sh → nsenter, with this program in sshd's place.
fn who_started_who_joined(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let busybox = busybox()?;
    let inner = format!("{busybox} nsenter -t {} -m -p /bin/true; exit", container.init);
    let outer = format!("{busybox} sh -c '{inner}'; exit");
    let mut command = std::process::Command::new(&busybox);
    let status = command.args(["sh", "-c", &outer]).stdin(std::process::Stdio::null()).status()?;
    ensure!(status.success(), "{status}");
    let session = joined(cx, &container, true, true)?;
    let ancestors = &session.started()?.ancestors;
    let [join] = session.joined()[..] else { anyhow::bail!("not one join: {}", session.story()) };
    ensure!(join.ancestors == *ancestors, "{join:?}");
    let [inner, outer, own, above @ ..] = &ancestors[..] else { anyhow::bail!("{ancestors:?}") };
    ensure!([inner, outer].iter().all(|shell| shell.comm == "busybox"), "{ancestors:?}");
    ensure!(own.pid == std::process::id(), "{ancestors:?}");
    ensure!(above.len() <= 5, "{ancestors:?}");
    let joiner = join.process.as_ref().context("no process")?;
    let chain: Vec<_> = std::iter::once(joiner).chain(ancestors).collect();
    for pair in chain.windows(2) {
        let [below, above] = pair else { continue };
        ensure!(
            (below.parent_pid, below.parent_start_time) == (above.pid, above.start_time),
            "{below:?} is no child of {above:?}"
        );
    }
    let pids: Vec<String> = ancestors.iter().map(|above| above.pid.to_string()).collect();
    let line = format!("whoever joined was started by pid {}", pids.join(", that by "));
    ensure!(session.started()?.evidence.contains(&line), "{}", session.story());
    Ok(())
}

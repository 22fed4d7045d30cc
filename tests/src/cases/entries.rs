//! Entries by a runtime, and by hand: each one is a session, an init is none, a runtime's own work is none.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use podtrail_proto::v1::{EntryMethod, Tty};

use super::{BUSYBOX, nothing_else, only_session_of, sh, the_session};
use crate::{
    cases,
    harness::{
        Container, Cx, Runtime, Session, Spec,
        attaches::Attaches,
        cgroup,
        container::{ITEST, fresh_id},
        host,
        host::has_the_nodes_mounts,
        node, process, want,
    },
};

cases! {
    "entries",
    SharedAgent: exec_by_runc, exec_by_runc_in_cgroup_v2, exec_by_crun_is_cloned_into_the_cgroup,
        init_and_what_it_forks_are_no_session, two_containers_with_two_sessions_each, two_sessions_with_the_same_commands,
        a_terminal_by_runc, a_terminal_by_crun,
        detached_as_a_shim_does, detached_with_a_terminal, failed_execs_are_no_sessions,
        cloned_into_the_cgroup_by_hand, the_runtimes_own_reexec_is_no_command, a_process_that_moves_itself_in,
        a_process_that_is_moved_in_and_stays_out_of_the_namespaces,
        host_pid_namespace, host_network_and_uts, names_of_kubernetes, a_name_that_is_no_id,
        each_runtimes_way_into_the_cgroup, many_short_containers, a_container_killed_under_its_sessions, processes_of_the_host_are_no_sessions
}

fn exec_by_runc(cx: &Cx) -> Result<()> {
    exec_by(cx, Runtime::Runc)
}

fn exec_by_runc_in_cgroup_v2(cx: &Cx) -> Result<()> {
    exec_by(cx, Runtime::RuncV2)
}

fn exec_by_crun_is_cloned_into_the_cgroup(cx: &Cx) -> Result<()> {
    exec_by(cx, Runtime::Crun)
}

fn exec_by(cx: &Cx, runtime: Runtime) -> Result<()> {
    let container = cx.start(Spec::by(runtime))?;
    let script = "/bin/echo one; /bin/false; exit 3";
    let ran = container.sh(script).run()?;
    ensure!(ran.status.code() == Some(3), "{}", ran.status);
    let session = cx.session(&container, ran.pid)?;
    session.expect(&[
        want(BUSYBOX, &sh(script)).exit(3),
        want(BUSYBOX, &["/bin/echo", "one"]),
        want(BUSYBOX, &["/bin/false"]).exit(1),
    ])?;
    came_by_runtime(&session, &container)?;
    let ended = session.ended().context("not ended")?;
    ensure!((ended.exit_code, ended.signal) == (Some(3), None), "{}", session.story());
    for executed in session.executed() {
        let namespaces = executed.namespaces.context("no namespaces")?;
        ensure!(namespaces.mount == process::namespace(container.init, "mnt")?, "{namespaces:?}");
        ensure!(namespaces.pid == process::namespace(container.init, "pid")?, "{namespaces:?}");
        ensure!(executed.cwd == "/", "cwd {:?}", executed.cwd);
        ensure!(executed.cgroup_id == container.cgroup_id, "cgroup {}", executed.cgroup_id);
        ensure!(executed.truncated == Some(false) && executed.tty.is_none(), "{executed:?}");
    }
    let [root, echo, ..] = session.executed()[..] else { unreachable!("counted above") };
    let (root, echo) = (root.process.as_ref().context("?")?, echo.process.as_ref().context("?")?);
    ensure!(
        (echo.parent_pid, echo.parent_start_time) == (root.pid, root.start_time),
        "echo's parent is not the shell: {echo:?}"
    );
    nothing_else(cx, &container, &[&session])
}

fn came_by_runtime(session: &Session, container: &Container) -> Result<()> {
    let started = session.started()?;
    ensure!(started.method() == EntryMethod::RuntimeExec, "{}", session.story());
    ensure!(started.recovered == Some(false), "{started:?}");
    let by = started.entered_by.as_ref().context("nobody entered it")?;
    // A runtime that executed a sealed copy of itself is called after the descriptor, up to Linux 6.13.
    let sealed = !by.comm.is_empty() && by.comm.bytes().all(|byte| byte.is_ascii_digit());
    ensure!(by.comm.contains("run") || sealed, "entered by {by:?}");
    let told = session.events.first().and_then(|event| event.container.as_ref()).context("no container")?;
    ensure!(told.id == container.id, "id {:?}", told.id);
    ensure!(told.cgroup_id == container.cgroup_id, "cgroup {}", told.cgroup_id);
    ensure!(told.cgroup_path == container.cgroup, "path {:?}", told.cgroup_path);
    Ok(())
}

fn init_and_what_it_forks_are_no_session(cx: &Cx) -> Result<()> {
    for runtime in [Runtime::Runc, Runtime::Crun] {
        let script = "while :; do /bin/true; /bin/sleep 0.02 & wait; done";
        let container =
            cx.start(Spec { init: sh(script).map(str::to_owned).to_vec(), ..Spec::by(runtime) })?;
        let session = only_session_of(cx, &container, "/bin/true; exit")?;
        session.expect(&[want(BUSYBOX, &sh("/bin/true; exit")), want(BUSYBOX, &["/bin/true"])])?;
        ensure!(process::alive(container.init), "its init ended");
    }
    Ok(())
}

fn two_containers_with_two_sessions_each(cx: &Cx) -> Result<()> {
    let containers = [cx.container()?, cx.start(Spec::by(Runtime::Crun))?];
    let script = |name: &str| {
        format!("{{ read x; /bin/echo {name} first; read x; /bin/echo {name} second; }} <{name}; exit")
    };
    let mut running = Vec::new();
    for container in &containers {
        for gate in ["/a", "/b"] {
            container.gate(gate)?;
            let session = container.sh(&script(gate)).spawn()?;
            running.push((container, gate, session, container.speak(gate)?));
        }
    }
    for _ in 0..2 {
        for (_, _, _, pipe) in &mut running {
            pipe.write_all(b"go\n")?;
        }
    }
    let mut sessions = Vec::new();
    for (container, gate, running, _) in running {
        let session = cx.session(container, running.wait()?.ok()?.pid)?;
        session.expect(&[
            want(BUSYBOX, &sh(&script(gate))),
            want(BUSYBOX, &["/bin/echo", gate, "first"]),
            want(BUSYBOX, &["/bin/echo", gate, "second"]),
        ])?;
        sessions.push(session);
    }
    for (container, sessions) in containers.iter().zip(sessions.chunks(2)) {
        nothing_else(cx, container, &sessions.iter().collect::<Vec<_>>())?;
    }
    Ok(())
}

fn two_sessions_with_the_same_commands(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let script = "/bin/echo same; exit";
    let (one, other) = (container.sh(script).spawn()?, container.sh(script).spawn()?);
    let one = cx.session(&container, one.wait()?.ok()?.pid)?;
    let other = cx.session(&container, other.wait()?.ok()?.pid)?;
    ensure!(one.id != other.id, "one id for two: {}", one.story());
    for session in [&one, &other] {
        session.expect(&[want(BUSYBOX, &sh(script)), want(BUSYBOX, &["/bin/echo", "same"])])?;
    }
    nothing_else(cx, &container, &[&one, &other])
}

fn a_terminal_by_runc(cx: &Cx) -> Result<()> {
    a_terminal(cx, Runtime::Runc)
}

fn a_terminal_by_crun(cx: &Cx) -> Result<()> {
    a_terminal(cx, Runtime::Crun)
}

fn a_terminal(cx: &Cx, runtime: Runtime) -> Result<()> {
    let container = cx.start(Spec::by(runtime))?;
    let mut running = container.exec(&["/bin/sh"]).tty().spawn()?;
    running.type_in("/bin/echo typed\nexit 4\n")?;
    let ran = running.wait()?;
    ensure!(ran.status.code() == Some(4), "{}", ran.status);
    let session = cx.session(&container, ran.pid)?;
    session.expect(&[want(BUSYBOX, &["/bin/sh"]).exit(4), want(BUSYBOX, &["/bin/echo", "typed"])])?;
    on_the_first_terminal(&session)?;
    nothing_else(cx, &container, &[&session])
}

fn on_the_first_terminal(session: &Session) -> Result<()> {
    let terminal = Some(Tty { name: "pts/0".to_owned(), major: 136, minor: 0 });
    let started = session.started()?;
    ensure!(started.tty == terminal && started.interactive == Some(true), "{started:?}");
    for executed in session.executed() {
        ensure!(executed.tty == terminal, "{:?} has terminal {:?}", executed.argv, executed.tty);
    }
    Ok(())
}

fn detached_as_a_shim_does(cx: &Cx) -> Result<()> {
    for runtime in [Runtime::Runc, Runtime::Crun] {
        let container = cx.start(Spec::by(runtime))?;
        container.gate("/gate")?;
        let script = "/bin/echo before; read x </gate; /bin/echo after; exit $x";
        let pid = container.sh(script).detached().run()?.ok()?.pid;
        // The runtime is gone, and the session goes on.
        cx.settle()?;
        let open = cx.open_session(&container, pid)?;
        ensure!(open.ended().is_none(), "it ended with the runtime");
        open.expect(&[want(BUSYBOX, &sh(script)).running(), want(BUSYBOX, &["/bin/echo", "before"])])?;
        container.tell("/gate", "9")?;
        let session = cx.session(&container, pid)?;
        session.expect(&[
            want(BUSYBOX, &sh(script)).exit(9),
            want(BUSYBOX, &["/bin/echo", "before"]),
            want(BUSYBOX, &["/bin/echo", "after"]),
        ])?;
        came_by_runtime(&session, &container)?;
        nothing_else(cx, &container, &[&session])?;
    }
    Ok(())
}

fn detached_with_a_terminal(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let mut running = container.exec(&["/bin/sh"]).tty().detached().spawn()?;
    running.type_in("/bin/echo typed\nexit 6\n")?;
    let session = cx.session(&container, running.pid)?;
    running.wait()?.ok()?;
    session.expect(&[want(BUSYBOX, &["/bin/sh"]).exit(6), want(BUSYBOX, &["/bin/echo", "typed"])])?;
    on_the_first_terminal(&session)?;
    nothing_else(cx, &container, &[&session])
}

fn failed_execs_are_no_sessions(cx: &Cx) -> Result<()> {
    for runtime in [Runtime::Runc, Runtime::Crun] {
        let container = cx.start(Spec::by(runtime))?;
        std::fs::write(container.path("/tmp/no-program"), "not executable")?;
        for program in ["/no/such/program", "/tmp/no-program", "/tmp"] {
            let refused = container.exec(&[program]).run().is_ok_and(|ran| ran.status.success());
            ensure!(!refused, "{runtime:?} executed {program}");
        }
        nothing_else(cx, &container, &[])?;
        only_session_of(cx, &container, "exit")?;
    }
    Ok(())
}

/// The directory of a container's cgroup.
pub(super) fn directory(container: &Container) -> Result<String> {
    Ok(host().told_by()?.at(&container.cgroup).display().to_string())
}

fn cloned_into_the_cgroup_by_hand(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let (dir, init) = (directory(&container)?, container.init.to_string());
    let output =
        process::succeed(process::payload(&["clone-into", &dir, &init, "/bin/sh", "-c", "/bin/true; exit"]))?;
    let pid: u32 = String::from_utf8(output.stdout)?.trim().parse()?;
    let session = cx.session(&container, pid)?;
    session.expect(&[want(BUSYBOX, &sh("/bin/true; exit")), want(BUSYBOX, &["/bin/true"])])?;
    ensure!(session.method()? == EntryMethod::RuntimeExec, "{}", session.story());
    nothing_else(cx, &container, &[&session])
}

fn the_runtimes_own_reexec_is_no_command(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let (dir, init) = (directory(&container)?, container.init.to_string());
    let output =
        process::succeed(process::payload(&["stage", &dir, &init, "/bin/sh", "-c", "/bin/true; exit"]))?;
    let pid: u32 = String::from_utf8(output.stdout)?.trim().parse()?;
    let session = cx.session(&container, pid)?;
    session.expect(&[want(BUSYBOX, &sh("/bin/true; exit")), want(BUSYBOX, &["/bin/true"])])?;
    ensure!(session.method()? == EntryMethod::RuntimeExec, "{}", session.story());
    nothing_else(cx, &container, &[&session])
}

fn a_process_that_moves_itself_in(cx: &Cx) -> Result<()> {
    has_the_nodes_mounts()?;
    let container = cx.container()?;
    let busybox = host().busybox.as_ref().context("no busybox")?.display().to_string();
    process::succeed(process::payload(&["move", &directory(&container)?, &busybox, "true"]))?;
    let session = the_session(cx, &container)?;
    session.expect(&[want(&real(&busybox)?, &[&busybox, "true"])])?;
    ensure!(session.method()? == EntryMethod::HostNamespace, "{}", session.story());
    nothing_else(cx, &container, &[&session])
}

fn a_process_that_is_moved_in_and_stays_out_of_the_namespaces(cx: &Cx) -> Result<()> {
    has_the_nodes_mounts()?;
    let container = cx.container()?;
    container.gate("/gate")?;
    let busybox = host().busybox.as_ref().context("no busybox")?.display().to_string();
    let gate = container.path("/gate").display().to_string();
    // A runtime executes twice at most before it is inside; who goes on like this is none.
    let script =
        format!("read x <{gate}; {busybox} true; for i in 1 2 3 4; do {busybox} echo $i; done; exit");
    let mut child = std::process::Command::new(&busybox)
        .args(["sh", "-c", &script])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()?;
    cgroup::attach(&container.cgroup, child.id())?;
    container.tell("/gate", "go")?;
    ensure!(process::reap(&mut child, "the moved process ends")?.success(), "it failed");
    let session = the_session(cx, &container)?;
    ensure!(session.method()? == EntryMethod::HostNamespace, "{}", session.story());
    session.command(&[&busybox, "echo", "4"])?;
    nothing_else(cx, &container, &[&session])
}

/// Where a program really is, which is what is told.
pub(super) fn real(program: &str) -> Result<String> {
    Ok(std::fs::canonicalize(program)?.display().to_string())
}

fn host_pid_namespace(cx: &Cx) -> Result<()> {
    for runtime in [Runtime::Runc, Runtime::Crun] {
        let namespaces = vec!["mount", "ipc", "uts", "network"];
        let container = cx.start(Spec { namespaces, ..Spec::by(runtime) })?;
        let session = only_session_of(cx, &container, "/bin/true; exit")?;
        session.expect(&[want(BUSYBOX, &sh("/bin/true; exit")), want(BUSYBOX, &["/bin/true"])])?;
        came_by_runtime(&session, &container)?;
    }
    Ok(())
}

fn host_network_and_uts(cx: &Cx) -> Result<()> {
    let container = cx.start(Spec { namespaces: vec!["mount", "pid"], ..Spec::default() })?;
    let session = only_session_of(cx, &container, "/bin/true; exit")?;
    session.expect(&[want(BUSYBOX, &sh("/bin/true; exit")), want(BUSYBOX, &["/bin/true"])])?;
    came_by_runtime(&session, &container)
}

fn names_of_kubernetes(cx: &Cx) -> Result<()> {
    let (uid, escaped) = ("11111111-2222-4333-8444-555555555555", "11111111_2222_4333_8444_555555555555");
    let slice = format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{escaped}.slice");
    let ids = [fresh_id(), fresh_id(), fresh_id()];
    let cases = [
        (format!("{slice}/cri-containerd-{}.scope", ids[0]), "containerd"),
        (format!("{slice}/crio-{}.scope", ids[1]), "cri-o"),
        (format!("kubepods/burstable/pod{uid}/{}", ids[2]), ""),
    ];
    for ((cgroup, runtime), id) in cases.into_iter().zip(&ids) {
        let container = cx.start(Spec { cgroup: Some(cgroup), ..Spec::default() })?;
        let session = only_session_of(cx, &container, "exit")?;
        let told =
            session.events.first().and_then(|event| event.container.clone()).context("no container")?;
        ensure!(told.id == *id && told.runtime == runtime, "{told:?}");
        ensure!(told.pod.is_some_and(|pod| pod.uid == uid), "no pod uid");
    }
    Ok(())
}

fn a_name_that_is_no_id(cx: &Cx) -> Result<()> {
    let container = cx.start(Spec { cgroup: Some("by-hand".to_owned()), ..Spec::default() })?;
    let session = only_session_of(cx, &container, "exit")?;
    let told = session.events.first().and_then(|event| event.container.clone()).context("no container")?;
    ensure!(told.id == "by-hand" && told.runtime.is_empty() && told.pod.is_none(), "{told:?}");
    Ok(())
}

/// The first versions that have what they execute born in its cgroup, where that is of v2.
const CLONES: [(&str, (u32, u32)); 2] = [("runc", (1, 4)), ("crun", (1, 4))];

fn each_runtimes_way_into_the_cgroup(cx: &Cx) -> Result<()> {
    for runtime in [Runtime::Runc, Runtime::Crun] {
        let (name, version) = runtime.version()?;
        let container = cx.start(Spec::by(runtime))?;
        let attaches = Attaches::listen(&cx.unique("attaches"))?;
        let session = only_session_of(cx, &container, "/bin/true; exit")?;
        session.expect(&[want(BUSYBOX, &sh("/bin/true; exit")), want(BUSYBOX, &["/bin/true"])])?;
        came_by_runtime(&session, &container)?;
        let late = attaches.are_into(&container.cgroup)?;
        let way = if late { "moved into it late" } else { "born in it" };
        println!("\nseen: {name} {}.{}: what it executes is {way}", version.0, version.1);
        let clones = CLONES.iter().any(|(of, since)| *of == name && version >= *since);
        ensure!(late != (clones && runtime.sees_v2_only()?), "{name} {version:?}: what it executes is {way}");
    }
    Ok(())
}

fn many_short_containers(cx: &Cx) -> Result<()> {
    for _ in 0..5 {
        let container = cx.container()?;
        let session = only_session_of(cx, &container, "/bin/true; exit")?;
        came_by_runtime(&session, &container)?;
    }
    Ok(())
}

fn a_container_killed_under_its_sessions(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let pid = container.sh("/bin/sleep 1000; exit").detached().run()?.ok()?.pid;
    let open = cx.open_session(&container, pid)?;
    cx.agent()?.wait("the session's sleep runs", |events| {
        (Session::of(events, &open.id).executed().len() == 2).then_some(())
    })?;
    let id = container.cgroup_id;
    drop(container);
    let session = cx.agent()?.ended(&open.id)?;
    session.check()?;
    session.expect(&[
        want(BUSYBOX, &sh("/bin/sleep 1000; exit")).signal(9),
        want(BUSYBOX, &["/bin/sleep", "1000"]).signal(9),
    ])?;
    cx.settle()?;
    for event in node::of_container(&cx.agent()?.events(), id) {
        ensure!(event.session_id == open.id, "something besides the session: {event:?}");
    }
    Ok(())
}

fn processes_of_the_host_are_no_sessions(cx: &Cx) -> Result<()> {
    let busybox = host().busybox.as_ref().context("no busybox")?.display().to_string();
    let mark = format!("mark-{}", fresh_id());
    let sub = format!("{}/host-{}", host().cgroup, fresh_id().get(..20).unwrap_or_default());
    process::succeed(process::payload(&["spawn", &busybox, "echo", &mark]))?;
    // In a cgroup of its own it is still the host's.
    cgroup::make(&sub)?;
    let dir = host().told_by()?.at(&sub).display().to_string();
    process::succeed(process::payload(&["move", &dir, &busybox, "echo", &mark]))?;
    process::succeed(process::payload(&["move", &dir, ITEST, &mark]))
        .err()
        .context("no such program here")?;
    cgroup::remove(&sub)?;
    cx.settle()?;
    ensure!(!cx.agent()?.raw().iter().any(|line| line.contains(&mark)), "a process of the host was told of");
    Ok(())
}

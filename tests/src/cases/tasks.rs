//! Processes and threads of a session: who belongs to it, what each ran, how each ended.

use std::fs;

use anyhow::{Context, Result, ensure};
use nix::libc::{SIGKILL, SIGSEGV, SIGTERM};

use super::{BUSYBOX, nothing_else, only_session_of, sh};
use crate::{
    cases,
    harness::{Cx, Runtime, Spec, container::ITEST, process, session::key, until, want},
};

cases! {
    "tasks",
    SharedAgent: fork_inherits_from_the_forking_process, exec_from_another_thread, several_execs_in_one_process,
        a_pid_used_again, posix_spawn_and_vfork, a_setuid_program, users_of_both_namespaces, an_ordinary_user,
        the_root_ends_before_its_child, a_daemon_leaves_its_session_by_setsid, killed_by_signals, exit_codes,
        a_process_that_only_forked_keeps_the_session_open, durations
}

/// A payload, as a want of a test.
fn payload<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&[ITEST, "payload"], args].concat()
}

fn fork_inherits_from_the_forking_process(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    container.gate("/pid")?;
    container.gate("/gate")?;
    // The child's parent is the runtime, a process of no session; the one that forked it is the session's root.
    let args = payload(&["clone-parent", "/pid", ITEST, "payload", "gate", "/gate"]);
    let running = container.exec(&args).detached().spawn()?;
    let pid = running.pid;
    container.hear("/pid")?;
    running.wait()?.ok()?;
    container.tell("/gate", "5")?;
    let session = cx.session(&container, pid)?;
    session.expect(&[want(ITEST, &args), want(ITEST, &payload(&["gate", "/gate"])).exit(5)])?;
    let child = session.command(&payload(&["gate"]))?.process.clone().context("no process")?;
    ensure!(child.parent_pid != pid, "its parent is the one that forked it: {child:?}");
    nothing_else(cx, &container, &[&session])
}

fn exec_from_another_thread(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let args = payload(&["exec-thread", "/bin/sh", "-c", "exit 5"]);
    let ran = container.exec(&args).run()?;
    ensure!(ran.status.code() == Some(5), "{}", ran.status);
    let session = cx.session(&container, ran.pid)?;
    session.expect(&[want(ITEST, &args).replaced(), want(BUSYBOX, &sh("exit 5")).exit(5)])?;
    nothing_else(cx, &container, &[&session])
}

fn several_execs_in_one_process(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let ran = container.exec(&payload(&["exec-chain", "3"])).run()?;
    ensure!(ran.status.code() == Some(7), "{}", ran.status);
    let session = cx.session(&container, ran.pid)?;
    let chain = |left| want(ITEST, &payload(&["exec-chain", left]));
    session.expect(&[
        chain("3").replaced(),
        chain("2").replaced(),
        chain("1").replaced(),
        chain("0").exit(7),
    ])?;
    ensure!(session.exited().len() == 1, "{}", session.story());
    nothing_else(cx, &container, &[&session])
}

fn a_pid_used_again(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    container.gate("/gate")?;
    let script = "while read code </gate; do /bin/itest payload exit $code; done";
    let running = container.sh(script).detached().spawn()?;
    let root = running.pid;
    running.wait()?.ok()?;
    let open = cx.open_session(&container, root)?;
    let mut runs = 0;
    let mut next = |code: &str| -> Result<(u32, u64)> {
        container.tell("/gate", code)?;
        runs += 1;
        let exited = cx.agent()?.wait("the child ends", |events| {
            let session = crate::harness::Session::of(events, &open.id);
            let exited = session.exited();
            (exited.len() >= runs).then(|| exited.last().map(|&exited| exited.clone()))?
        })?;
        ensure!(exited.exit_code == code.parse().ok(), "{exited:?}");
        key(exited.process.as_ref()).context("no process")
    };
    let first = next("11")?;
    // Others fork too: it takes a few attempts to be given the same number.
    let mut again = None;
    for _ in 0..200 {
        fs::write("/proc/sys/kernel/ns_last_pid", (first.0 - 1).to_string())
            .context("cannot say which pid comes next")?;
        let second = next("12")?;
        if second.0 == first.0 {
            again = Some(second);
            break;
        }
    }
    let second = again.context("never got the same pid")?;
    ensure!(second.1 != first.1, "two processes with one start: {second:?}");
    until("the session ends", || {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(root.cast_signed()),
            nix::sys::signal::Signal::SIGKILL,
        );
        !process::alive(root)
    })?;
    let session = cx.session(&container, root)?;
    let of = |key_: (u32, u64)| {
        session.exited().into_iter().filter(|e| key(e.process.as_ref()) == Some(key_)).collect::<Vec<_>>()
    };
    ensure!(of(first).len() == 1 && of(second).len() == 1, "{}", session.story());
    nothing_else(cx, &container, &[&session])
}

fn posix_spawn_and_vfork(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let spawn = payload(&["spawn", "/bin/echo", "spawned"]);
    let session = {
        let pid = container.exec(&spawn).run()?.ok()?.pid;
        cx.session(&container, pid)?
    };
    session.expect(&[want(ITEST, &spawn), want(BUSYBOX, &["/bin/echo", "spawned"])])?;
    // xargs of busybox calls vfork.
    let script = "echo one two | /bin/xargs -n 1 /bin/itest payload exit; exit 0";
    fs::write(container.path("/numbers"), "1\n2\n")?;
    let script =
        script.replace("echo one two | /bin/xargs", "/bin/xargs").replace("; exit 0", " </numbers; exit 0");
    let pid = container.sh(&script).run()?.ok()?.pid;
    let xargs = cx.session(&container, pid)?;
    xargs.expect(&[
        want(BUSYBOX, &sh(&script)),
        want(BUSYBOX, &["/bin/xargs", "-n", "1", ITEST, "payload", "exit"]).exit(123),
        want(ITEST, &payload(&["exit", "1"])).exit(1),
        want(ITEST, &payload(&["exit", "2"])).exit(2),
    ])?;
    nothing_else(cx, &container, &[&session, &xargs])
}

fn a_setuid_program(cx: &Cx) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let container = cx.container()?;
    let program = container.path("/bin/busybox-setuid");
    fs::copy(container.path("/bin/busybox"), &program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755))?;
    let script = "/bin/busybox-setuid true; exit";
    let ran = container.sh(script).user(1000).run()?.ok()?;
    let session = cx.session(&container, ran.pid)?;
    session.expect(&[
        want(BUSYBOX, &sh(script)),
        want("/bin/busybox-setuid", &["/bin/busybox-setuid", "true"]),
    ])?;
    let setuid = session.command(&["/bin/busybox-setuid"])?;
    let credentials = setuid.credentials.context("no credentials")?;
    ensure!((credentials.uid(), credentials.effective_uid()) == (1000, 0), "{credentials:?}");
    ensure!(setuid.executable.is_some_and(|exe| exe.setuid && !exe.setgid), "{:?}", setuid.executable);
    let shell = session.command(&["/bin/sh"])?;
    ensure!(shell.executable.is_some_and(|exe| !exe.setuid), "{:?}", shell.executable);
    let credentials = shell.credentials.context("no credentials")?;
    ensure!((credentials.uid(), credentials.effective_uid()) == (1000, 1000), "{credentials:?}");
    Ok(())
}

fn users_of_both_namespaces(cx: &Cx) -> Result<()> {
    for runtime in [Runtime::Runc, Runtime::Crun] {
        let container = cx.start(Spec { mapped_root: Some(100_000), ..Spec::by(runtime) })?;
        for uid in [0, 1000] {
            let pid = container.sh("exit").user(uid).run()?.ok()?.pid;
            let session = cx.session(&container, pid)?;
            let root = session.command(&["/bin/sh"])?;
            let credentials = root.credentials.context("no credentials")?;
            ensure!(
                (
                    credentials.uid(),
                    credentials.effective_uid(),
                    credentials.container_uid,
                    credentials.container_gid
                ) == (100_000 + uid, 100_000 + uid, Some(uid), Some(uid)),
                "{credentials:?}"
            );
        }
    }
    Ok(())
}

fn an_ordinary_user(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let pid = container.sh("exit").user(1234).run()?.ok()?.pid;
    let session = cx.session(&container, pid)?;
    let credentials = session.command(&["/bin/sh"])?.credentials.context("no credentials")?;
    ensure!((credentials.uid(), credentials.gid()) == (1234, 1234), "{credentials:?}");
    // There is only one user namespace, so only one number to tell.
    ensure!(credentials.container_uid.is_none(), "{credentials:?}");
    ensure!(credentials.effective_capabilities == 0, "{credentials:?}");
    let pid = container.sh("exit").run()?.ok()?.pid;
    let root = cx.session(&container, pid)?.command(&["/bin/sh"])?.credentials.context("no credentials")?;
    ensure!(root.effective_capabilities & 1 == 1, "root without CAP_CHOWN: {root:?}");
    Ok(())
}

fn the_root_ends_before_its_child(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    container.gate("/gate")?;
    let script = "(trap '' HUP; exec /bin/itest payload gate /gate) >/dev/null 2>&1 & exit 2";
    let ran = container.sh(script).run()?;
    ensure!(ran.status.code() == Some(2), "{}", ran.status);
    // As nohup does it; this busybox has none.
    let child = payload(&["gate", "/gate"]);
    cx.agent()?.wait("the child runs", |events| {
        let all = crate::harness::session::all(events, container.cgroup_id);
        all.first().and_then(|session| session.command(&child).is_ok().then_some(()))
    })?;
    cx.settle()?;
    let open = cx.open_session(&container, ran.pid)?;
    ensure!(open.ended().is_none(), "it ended with its root: {}", open.story());
    container.tell("/gate", "8")?;
    let session = cx.session(&container, ran.pid)?;
    session.expect(&[want(BUSYBOX, &sh(script)).exit(2), want(ITEST, &child).exit(8)])?;
    let ended = session.ended().context("not ended")?;
    ensure!(ended.exit_code == Some(2), "its exit code is not its root's: {ended:?}");
    nothing_else(cx, &container, &[&session])
}

fn a_daemon_leaves_its_session_by_setsid(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    container.gate("/gate")?;
    let script = "(/bin/busybox setsid /bin/itest payload gate /gate >/dev/null 2>&1 &) ; exit";
    let pid = container.sh(script).run()?.ok()?.pid;
    container.tell("/gate", "0")?;
    let session = cx.session(&container, pid)?;
    session.expect(&[
        want(BUSYBOX, &sh(script)),
        want(BUSYBOX, &["/bin/busybox", "setsid", ITEST, "payload", "gate", "/gate"]).replaced(),
        want(ITEST, &payload(&["gate", "/gate"])),
    ])?;
    nothing_else(cx, &container, &[&session])
}

fn killed_by_signals(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let script = "/bin/sleep 1000 & /bin/kill -TERM $!; wait $!; \
                  /bin/sh -c 'kill -SEGV $$; exit 0'; kill -KILL $$";
    let ran = container.sh(script).run()?;
    let session = cx.session(&container, ran.pid)?;
    let ended = session.ended().context("not ended")?;
    ensure!((ended.exit_code, ended.signal) == (None, Some(SIGKILL)), "{ended:?}");
    let signal_of = |argv: &[&str]| -> Result<Option<i32>> {
        let exited = session.exit_of(session.command(argv)?)?;
        ensure!(exited.exit_code.is_none(), "{exited:?}");
        Ok(exited.signal)
    };
    ensure!(signal_of(&["/bin/sh", "-c", script])? == Some(SIGKILL), "{}", session.story());
    ensure!(signal_of(&["/bin/sh", "-c", "kill -SEGV $$; exit 0"])? == Some(SIGSEGV), "{}", session.story());
    // The sleep may be killed before it executed anything; then there is no command to see.
    if session.command(&["/bin/sleep"]).is_ok() {
        ensure!(signal_of(&["/bin/sleep"])? == Some(SIGTERM), "{}", session.story());
    }
    nothing_else(cx, &container, &[&session])
}

fn exit_codes(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let codes = ["0", "1", "127", "128", "255"];
    let script = format!("for x in {}; do /bin/itest payload exit $x; done; exit 200", codes.join(" "));
    let ran = container.sh(&script).run()?;
    ensure!(ran.status.code() == Some(200), "{}", ran.status);
    let session = cx.session(&container, ran.pid)?;
    let mut wanted = vec![want(BUSYBOX, &sh(&script)).exit(200)];
    for code in codes {
        wanted.push(want(ITEST, &payload(&["exit", code])).exit(code.parse()?));
    }
    session.expect(&wanted)?;
    nothing_else(cx, &container, &[&session])
}

fn a_process_that_only_forked_keeps_the_session_open(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    container.gate("/gate")?;
    // The subshell runs no program of its own until it is told to.
    let script = "(read x </gate; /bin/echo late) >/dev/null 2>&1 & exit";
    let pid = container.sh(script).run()?.ok()?.pid;
    cx.settle()?;
    ensure!(cx.open_session(&container, pid)?.ended().is_none(), "it ended with its root");
    container.tell("/gate", "go")?;
    let session = cx.session(&container, pid)?;
    session.expect(&[want(BUSYBOX, &sh(script)), want(BUSYBOX, &["/bin/echo", "late"])])?;
    nothing_else(cx, &container, &[&session])
}

fn durations(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let session = only_session_of(cx, &container, "/bin/sleep 0.3; exit")?;
    let slept = session.exit_of(session.command(&["/bin/sleep"])?)?.duration.context("no duration")?;
    let millis = |d: &podtrail_proto::Duration| d.seconds * 1000 + i64::from(d.nanos) / 1_000_000;
    let whole = session.ended().and_then(|ended| ended.duration).context("no duration")?;
    ensure!(millis(&slept) >= 295 && millis(&slept) < 5000, "{slept:?}");
    ensure!(millis(&whole) >= millis(&slept) && millis(&whole) < 10_000, "{whole:?}");
    Ok(())
}

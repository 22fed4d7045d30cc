//! The tests' own tools: containers that really run, under every runtime, and leave nothing.

use anyhow::{Result, ensure};

use crate::{
    cases,
    harness::{Cx, Runtime, Spec, cgroup, host, process},
};

cases! {
    "fixtures",
    Runtime: every_runtime_runs_a_container, terminals_are_terminals, a_dropped_container_leaves_nothing,
        an_overlay_is_a_root, root_inside_is_another_user_outside
}

fn every_runtime_runs_a_container(cx: &Cx) -> Result<()> {
    let in_v2 = host().told_by()?.v2.then_some(Runtime::RuncV2);
    for runtime in [Runtime::Runc, Runtime::Crun].into_iter().chain(in_v2) {
        let container = cx.start(Spec::by(runtime))?;
        ensure!(process::comm(container.init).as_deref() == Some("itest"), "{runtime:?}: another init");
        ensure!(
            cgroup::processes(&container.cgroup)?.contains(&container.init),
            "{runtime:?}: not in its cgroup"
        );
        let ran = container.sh("echo hello; exit 3").run()?;
        ensure!(ran.status.code() == Some(3) && ran.text() == "hello", "{runtime:?}: {ran:?}");
        container.gate("/gate")?;
        let running = container.sh("echo $$ >/gate; read x </gate; exit $x").detached().spawn()?;
        container.hear("/gate")?;
        ensure!(process::alive(running.pid), "{runtime:?}: no process {}", running.pid);
        let pid = running.pid;
        running.wait()?.ok()?;
        container.tell("/gate", "0")?;
        crate::harness::until("it ends", || !process::alive(pid))?;
    }
    Ok(())
}

fn terminals_are_terminals(cx: &Cx) -> Result<()> {
    for runtime in [Runtime::Runc, Runtime::Crun] {
        let container = cx.start(Spec::by(runtime))?;
        let mut running = container.exec(&["/bin/sh"]).tty().spawn()?;
        running.type_in("test -t 0 && echo yes, it is a terminal\nexit 5\n")?;
        let ran = running.wait()?;
        ensure!(ran.status.code() == Some(5), "{runtime:?}: {}", ran.status);
        ensure!(ran.text().contains("\nyes, it is a terminal"), "{runtime:?}: {}", ran.text());
        container.gate("/gate")?;
        let detached = container.sh("test -t 1 && echo terminal >/gate").tty().detached().spawn()?;
        ensure!(container.hear("/gate")? == "terminal", "{runtime:?}: no terminal");
        detached.wait()?.ok()?;
    }
    Ok(())
}

fn a_dropped_container_leaves_nothing(cx: &Cx) -> Result<()> {
    let container = cx.start(Spec { cgroups_inside: true, ..Spec::default() })?;
    let (init, path, dir) = (container.init, container.cgroup.clone(), container.dir().to_owned());
    container.exec(&["/bin/sleep", "1000"]).detached().run()?;
    container.exec(&["/bin/mkdir", "-p", &format!("/cg{path}/below/deeper")]).run()?.ok()?;
    drop(container);
    ensure!(!process::alive(init), "its init lives");
    for hierarchy in &host().hierarchies {
        ensure!(!hierarchy.at(&path).exists(), "{} is there", hierarchy.at(&path).display());
    }
    ensure!(!dir.exists(), "{} is there", dir.display());
    Ok(())
}

fn an_overlay_is_a_root(cx: &Cx) -> Result<()> {
    let container = cx.start(Spec { overlay: true, ..Spec::default() })?;
    container.sh("/bin/cp /bin/busybox /busybox-new && /busybox-new true").run()?.ok()?;
    ensure!(container.dir().join("layers/upper/busybox-new").exists(), "not in the upper layer");
    Ok(())
}

fn root_inside_is_another_user_outside(cx: &Cx) -> Result<()> {
    let container = cx.start(Spec { mapped_root: Some(100_000), ..Spec::default() })?;
    let ran = container.exec(&["/bin/id", "-u"]).run()?.ok()?;
    ensure!(ran.text() == "0", "{}", ran.text());
    let status = std::fs::read_to_string(format!("/proc/{}/status", container.init))?;
    ensure!(status.contains("Uid:\t100000\t"), "{status}");
    Ok(())
}

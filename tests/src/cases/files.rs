//! Programs as files: scripts, descriptors, memory, deleted ones, overlays, odd names.

use std::{fs, os::unix::ffi::OsStrExt, os::unix::fs::PermissionsExt};

use anyhow::{Context, Result, ensure};

use super::{BUSYBOX, nothing_else, only_session_of, sh};
use crate::{
    cases,
    harness::{Container, Cx, Session, Spec, container::ITEST, session::raw_path, want},
    payload::hex,
};

cases! {
    "files",
    SharedAgent: a_script, a_script_run_by_a_script, execveat_by_descriptor, a_deleted_program, a_program_in_memory,
        the_upper_layer_of_an_overlay, a_name_that_is_not_utf8, a_path_through_mounts_and_chroot, the_working_directory,
        a_very_deep_path, the_files_own_facts
}

fn put(container: &Container, path: &str, content: &str) -> Result<()> {
    fs::write(container.path(path), content)?;
    Ok(fs::set_permissions(container.path(path), fs::Permissions::from_mode(0o755))?)
}

fn payload(cx: &Cx, container: &Container, args: &[&str]) -> Result<Session> {
    let pid = container.exec(&[&[ITEST, "payload"], args].concat()).run()?.ok()?.pid;
    let session = cx.session(container, pid)?;
    nothing_else(cx, container, &[&session])?;
    Ok(session)
}

fn a_script(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    put(&container, "/tmp/script", "#!/bin/sh -e\n/bin/true\nexit 0\n")?;
    let session = only_session_of(cx, &container, "/tmp/script one two; exit")?;
    session.expect(&[
        want(BUSYBOX, &sh("/tmp/script one two; exit")),
        want(BUSYBOX, &["/bin/sh", "-e", "/tmp/script", "one", "two"]),
        want(BUSYBOX, &["/bin/true"]),
    ])?;
    let scripts: Vec<&str> = session.executed().iter().map(|executed| executed.script.as_str()).collect();
    ensure!(scripts == ["", "/tmp/script", ""], "{scripts:?}");
    Ok(())
}

fn a_script_run_by_a_script(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    put(&container, "/tmp/inner", "#!/bin/sh\nexit 0\n")?;
    put(&container, "/tmp/outer", "#!/tmp/inner -x\n")?;
    let session = only_session_of(cx, &container, "/tmp/outer arg; exit")?;
    session.expect(&[
        want(BUSYBOX, &sh("/tmp/outer arg; exit")),
        want(BUSYBOX, &["/bin/sh", "/tmp/inner", "-x", "/tmp/outer", "arg"]),
    ])?;
    ensure!(session.executed()[1].script == "/tmp/outer", "{:?}", session.executed()[1].script);
    Ok(())
}

fn execveat_by_descriptor(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let args = ["exec-fd", BUSYBOX, "true"];
    let session = payload(cx, &container, &args)?;
    session.expect(&[
        want(ITEST, &[&[ITEST, "payload"], &args[..]].concat()).replaced(),
        want(BUSYBOX, &[BUSYBOX, "true"]),
    ])?;
    let exe = session.executed()[1].executable.context("no file")?;
    ensure!(!exe.deleted && !exe.memfd && exe.inode != 0, "{exe:?}");
    ensure!(session.executed()[1].script.is_empty(), "no script: {:?}", session.executed()[1].script);
    Ok(())
}

fn a_deleted_program(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let session = payload(cx, &container, &["exec-deleted", BUSYBOX, "true"])?;
    let executed = session.executed();
    let [first, gone] = executed[..] else { anyhow::bail!("{}", session.story()) };
    ensure!(gone.executable.is_some_and(|exe| exe.deleted && !exe.memfd), "{gone:?}");
    ensure!(gone.path == "/tmp/busybox-gone", "path {:?}", gone.path);
    ensure!(first.executable.is_some_and(|exe| !exe.deleted), "{first:?}");
    Ok(())
}

fn a_program_in_memory(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let session = payload(cx, &container, &["exec-memfd", BUSYBOX, "true"])?;
    let executed = session.executed();
    let [first, memory] = executed[..] else { anyhow::bail!("{}", session.story()) };
    ensure!(memory.executable.is_some_and(|exe| exe.memfd), "{memory:?}");
    ensure!(memory.path.contains("busybox-in-memory"), "path {:?}", memory.path);
    ensure!(memory.argv == [BUSYBOX, "true"], "{:?}", memory.argv);
    ensure!(first.executable.is_some_and(|exe| !exe.memfd), "{first:?}");
    Ok(())
}

fn the_upper_layer_of_an_overlay(cx: &Cx) -> Result<()> {
    let container = cx.start(Spec { overlay: true, ..Spec::default() })?;
    let script = "/bin/cp /bin/busybox /tmp/busybox-new; /tmp/busybox-new true; exit";
    let session = only_session_of(cx, &container, script)?;
    session.expect(&[
        want(BUSYBOX, &sh(script)),
        want(BUSYBOX, &["/bin/cp", "/bin/busybox", "/tmp/busybox-new"]),
        want("/tmp/busybox-new", &["/tmp/busybox-new", "true"]),
    ])?;
    let upper: Vec<bool> =
        session.executed().iter().map(|e| e.executable.is_some_and(|exe| exe.upper_layer)).collect();
    ensure!(upper == [false, false, true], "{upper:?}");
    // The same file, changed, is no longer the image's either.
    let session =
        cx.session(&container, container.sh("/bin/chmod 700 /bin/busybox; exit").run()?.ok()?.pid)?;
    session.check()?;
    let changed = cx.session(&container, container.sh("exit").run()?.ok()?.pid)?;
    ensure!(changed.executed()[0].executable.is_some_and(|exe| exe.upper_layer), "{}", changed.story());
    Ok(())
}

fn a_name_that_is_not_utf8(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let name = b"/tmp/busybox-\xff\x1b[31m\n";
    let path = container.path("/tmp").join(std::ffi::OsStr::from_bytes(&name[5..]));
    fs::copy(container.path(BUSYBOX), path)?;
    // The shell makes the odd name from octal digits: no command line of the test's has to carry it.
    let script = "/tmp/busybox-$(printf '\\377\\033[31m\\n.') true; exit";
    let script = script.replace("$(printf '\\377\\033[31m\\n.')", "*");
    let session = only_session_of(cx, &container, &script)?;
    let odd = session.executed()[1];
    ensure!(raw_path(odd) == name, "path {:?}, raw {}", odd.path, hex(&odd.path_raw));
    ensure!(odd.path == "/tmp/busybox-\u{fffd}\u{1b}[31m\n", "path {:?}", odd.path);
    ensure!(odd.argv_raw.first().is_some_and(|arg| *arg == name[..]), "{odd:?}");
    Ok(())
}

fn a_path_through_mounts_and_chroot(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    fs::create_dir_all(container.path("/jail/bin"))?;
    fs::copy(container.path(BUSYBOX), container.path("/jail/bin/busybox"))?;
    let script = "/bin/busybox chroot /jail /bin/busybox true; exit";
    let session = only_session_of(cx, &container, script)?;
    session.expect(&[
        want(BUSYBOX, &sh(script)),
        want(BUSYBOX, &["/bin/busybox", "chroot", "/jail", "/bin/busybox", "true"]).replaced(),
        // From the mount namespace's root, not from the jail's: a chroot hides nothing.
        want("/jail/bin/busybox", &["/bin/busybox", "true"]),
    ])?;
    // The test program is a mount of its own within the container's root.
    let mounted = payload(cx, &cx.container()?, &["exit", "0"])?;
    mounted.expect(&[want(ITEST, &[ITEST, "payload", "exit", "0"])])
}

fn the_working_directory(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    fs::create_dir_all(container.path("/tmp/a/b"))?;
    let session = only_session_of(cx, &container, "cd /tmp/a/b; /bin/true; cd /proc; /bin/true x; exit")?;
    let cwds: Vec<&str> = session.executed().iter().map(|executed| executed.cwd.as_str()).collect();
    ensure!(cwds == ["/", "/tmp/a/b", "/proc"], "{cwds:?}");
    Ok(())
}

fn a_very_deep_path(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let dir = format!("/tmp{}", "/deep-directory".repeat(20));
    fs::create_dir_all(container.path(&dir))?;
    fs::copy(container.path(BUSYBOX), container.path(&format!("{dir}/busybox")))?;
    let script = format!("cd {dir}; ./busybox true; exit");
    let session = only_session_of(cx, &container, &script)?;
    session
        .expect(&[want(BUSYBOX, &sh(&script)), want(&format!("{dir}/busybox"), &["./busybox", "true"])])?;
    ensure!(session.executed()[1].cwd == dir, "{:?}", session.executed()[1].cwd);
    Ok(())
}

fn the_files_own_facts(cx: &Cx) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let container = cx.container()?;
    let session = only_session_of(cx, &container, "exit")?;
    let told = session.executed()[0].executable.context("no file")?;
    let file = fs::metadata(container.path(BUSYBOX))?;
    ensure!(told.inode == file.ino(), "inode {} is not {}", told.inode, file.ino());
    let device = (nix::sys::stat::major(file.dev()), nix::sys::stat::minor(file.dev()));
    ensure!(
        (u64::from(told.device_major), u64::from(told.device_minor)) == device,
        "{told:?} is not on {device:?}"
    );
    Ok(())
}

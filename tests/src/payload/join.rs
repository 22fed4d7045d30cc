//! Into a container by its namespaces, cgroup untouched.

use std::{
    ffi::OsString,
    fs::File,
    process::{Command, ExitCode},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    sched::{CloneFlags, setns, unshare},
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::become_program;
use crate::text;

/// `join TARGET HOW KINDS THEN PROGRAM ARG…`
///
/// HOW: `files` (one call a namespace), `pidfd` (one call for all), `clumsy` (without saying which kind, twice each,
/// and one call that fails). KINDS: of `mnt,pid,uts,ipc,net,cgroup`. THEN: `exec`, `back-exec` (after joining its old ones
/// again), `spawn` (prints the child's pid), `thread-exec`,
/// `thread-spawn` (a thread joins and goes on; the process's first thread stays out), `thread-idle` (a thread joins; the first
/// thread becomes the program).
pub(super) fn run(args: &[OsString]) -> Result<ExitCode> {
    let [target, how, kinds, then, program @ ..] = args else {
        bail!("join TARGET HOW KINDS THEN PROGRAM ARG…");
    };
    let target: u32 = text(target)?.parse()?;
    let (how, kinds) = (text(how)?.to_owned(), text(kinds)?.to_owned());
    let program = program.to_vec();
    match text(then)? {
        "exec" => {
            join(target, &how, &kinds)?;
            become_program(&program)
        }
        "spawn" => {
            join(target, &how, &kinds)?;
            spawn(&program)
        }
        "back-exec" => {
            let own = ["mnt", "pid"].map(|kind| namespace(std::process::id(), kind));
            join(target, &how, &kinds)?;
            for namespace in own {
                setns(namespace?, CloneFlags::empty()).context("the way back")?;
            }
            become_program(&program)
        }
        "thread-exec" => in_thread(move || {
            join(target, &how, &kinds)?;
            become_program(&program)
        }),
        "thread-spawn" => in_thread(move || {
            join(target, &how, &kinds)?;
            spawn(&program)
        }),
        "thread-idle" => {
            in_thread(move || {
                join(target, &how, &kinds)?;
                Ok(ExitCode::SUCCESS)
            })?;
            become_program(&program)
        }
        other => bail!("then what? {other}"),
    }
}

fn in_thread(work: impl FnOnce() -> Result<ExitCode> + Send + 'static) -> Result<ExitCode> {
    let work = move || {
        // A mount namespace can be joined only by who shares root and working directory with nobody.
        unshare(CloneFlags::CLONE_FS)?;
        work()
    };
    thread::spawn(work).join().unwrap_or_else(|_| bail!("the thread failed"))
}

fn spawn(program: &[OsString]) -> Result<ExitCode> {
    let Some((program, args)) = program.split_first() else { bail!("no program") };
    let mut child = Command::new(program).args(args).spawn()?;
    println!("{}", child.id());
    let status = child.wait()?;
    ensure!(status.code().is_some(), "{status}");
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(99))?))
}

/// A namespace of process `pid`.
pub(super) fn namespace(pid: u32, kind: &str) -> Result<File> {
    File::open(format!("/proc/{pid}/ns/{kind}"))
        .with_context(|| format!("cannot open namespace {kind} of {pid}"))
}

fn flag(kind: &str) -> Result<CloneFlags> {
    Ok(match kind {
        "mnt" => CloneFlags::CLONE_NEWNS,
        "pid" => CloneFlags::CLONE_NEWPID,
        "uts" => CloneFlags::CLONE_NEWUTS,
        "ipc" => CloneFlags::CLONE_NEWIPC,
        "net" => CloneFlags::CLONE_NEWNET,
        "cgroup" => CloneFlags::CLONE_NEWCGROUP,
        _ => bail!("no such namespace: {kind}"),
    })
}

fn join(target: u32, how: &str, kinds: &str) -> Result<()> {
    let kinds: Vec<&str> = kinds.split(',').collect();
    if how == "pidfd" {
        let pid = Pid::from_raw(target.cast_signed()).context("pid 0")?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("cannot open a pidfd")?;
        let flags = kinds.iter().map(|kind| flag(kind)).collect::<Result<CloneFlags>>()?;
        return setns(pidfd, flags).context("setns on a pidfd");
    }
    // All are opened first: the target's /proc is out of sight once inside.
    let files =
        kinds.iter().map(|kind| Ok((namespace(target, kind)?, flag(kind)?))).collect::<Result<Vec<_>>>()?;
    for (file, kind) in &files {
        match how {
            "files" => setns(file, *kind)?,
            "clumsy" => {
                let wrong = if *kind == CloneFlags::CLONE_NEWUTS {
                    CloneFlags::CLONE_NEWIPC
                } else {
                    CloneFlags::CLONE_NEWUTS
                };
                ensure!(setns(file, wrong) == Err(Errno::EINVAL), "a setns of the wrong kind succeeded");
                setns(file, CloneFlags::empty())?;
                setns(file, CloneFlags::empty())?;
            }
            other => bail!("join how? {other}"),
        }
    }
    Ok(())
}

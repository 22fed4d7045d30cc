//! Going from cgroup to cgroup.

use std::{
    env,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::Write,
    os::fd::AsRawFd,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sched::{CloneFlags, setns, unshare},
};

use super::{become_program, join, run_program, wait_at};
use crate::text;

/// `move DIR PROGRAM ARG…`: moves itself to the cgroup, made if need be, and becomes the program.
pub(super) fn enter(args: &[OsString]) -> Result<ExitCode> {
    let Some((dir, rest)) = args.split_first() else { bail!("move DIR PROGRAM ARG…") };
    to(Path::new(dir))?;
    become_program(rest)
}

fn to(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let procs = dir.join("cgroup.procs");
    fs::write(&procs, "0").with_context(|| format!("cannot write to {}", procs.display()))
}

/// `nest DIR PROGRAM ARG…`: a container in the container, with a cgroup, a pid and a mount namespace of its own.
pub(super) fn nest(args: &[OsString]) -> Result<ExitCode> {
    let Some((dir, rest)) = args.split_first() else { bail!("nest DIR PROGRAM ARG…") };
    to(Path::new(dir))?;
    unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS).context("cannot unshare")?;
    run_program(rest)
}

/// `stage DIR TARGET PROGRAM ARG…`: enters a container as runc 1.4 does. A child is moved into its cgroup, executes a
/// copy of itself from a descriptor there, with the host's namespaces still, then joins the namespaces of process
/// TARGET and becomes the program. Prints the child's pid.
pub(super) fn stage(args: &[OsString]) -> Result<ExitCode> {
    let Some((dir, rest)) = args.split_first() else { bail!("stage DIR TARGET PROGRAM ARG…") };
    let pipe = env::temp_dir().join(format!("podtrail-stage-{}", std::process::id()));
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU)?;
    let own = env::current_exe()?;
    let child =
        Command::new(&own).args(["payload", "staged"]).arg(&pipe).args(rest).stdin(Stdio::null()).spawn();
    let moved = child.map_err(anyhow::Error::from).and_then(|child| {
        // Opens when the child reads: its own exec, the one outside, is over then and not on its way.
        let mut go = OpenOptions::new().write(true).open(&pipe)?;
        let procs = Path::new(dir).join("cgroup.procs");
        fs::write(&procs, child.id().to_string())
            .with_context(|| format!("cannot write to {}", procs.display()))?;
        println!("{}", child.id());
        go.write_all(b"go\n")?;
        Ok(child)
    });
    fs::remove_file(&pipe)?;
    let status = moved?.wait()?;
    ensure!(status.success(), "{status}");
    Ok(ExitCode::SUCCESS)
}

/// `staged PIPE TARGET PROGRAM ARG…`, and then, in the cgroup, `staged - TARGET PROGRAM ARG…`
pub(super) fn staged(args: &[OsString]) -> Result<ExitCode> {
    let [pipe, target, program @ ..] = args else { bail!("staged PIPE TARGET PROGRAM ARG…") };
    if pipe != "-" {
        wait_at(pipe)?;
        let own = File::open("/proc/self/exe")?;
        // The next stage's program is named by this descriptor: it must stay.
        fcntl(&own, FcntlArg::F_SETFD(FdFlag::empty()))?;
        let path = format!("/proc/self/fd/{}", own.as_raw_fd());
        let mut next: Vec<OsString> =
            vec![path.into(), "payload".into(), "staged".into(), "-".into(), target.clone()];
        next.extend_from_slice(program);
        return become_program(&next);
    }
    let target: u32 = text(target)?.parse()?;
    for (name, kind) in [("pid", CloneFlags::CLONE_NEWPID), ("mnt", CloneFlags::CLONE_NEWNS)] {
        setns(join::namespace(target, name)?, kind)?;
    }
    become_program(program)
}

//! Little programs that the harness needs on the host's side, as separate processes.

use std::{
    ffi::{CString, OsString},
    os::unix::ffi::OsStrExt,
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::execv,
};

use super::{hook_cost, leftovers, verifier};

/// `podtrail-itest helper <name> …`
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let result = match args.split_first() {
        Some((name, rest)) if name == "v2-only" => v2_only(rest),
        Some((name, rest)) if name == "shared-mounts" => shared_mounts(rest),
        Some((name, [])) if name == "hook-cost" => hook_cost::print(),
        Some((name, rest)) if name == "verifier" => verifier::trace(rest),
        Some((name, rest)) if name == "traced" => verifier::traced(rest),
        Some((name, [dir])) if name == "sweep" => leftovers::sweep(Path::new(dir)),
        _ => Err(anyhow::anyhow!("no such helper: {args:?}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("podtrail-itest helper: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Becomes the program `args` in a view of the machine where `/sys/fs/cgroup` is cgroup v2 and nothing else.
fn v2_only(args: &[OsString]) -> Result<()> {
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).context("cannot unshare the mount namespace")?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("cannot make / private")?;
    mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), MsFlags::empty(), none)
        .context("cannot mount cgroup2 over /sys/fs/cgroup")?;
    become_(args)
}

/// Becomes the program `args` with mounts as init systems make them, where what is mounted later reaches containers.
fn shared_mounts(args: &[OsString]) -> Result<()> {
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).context("cannot unshare the mount namespace")?;
    // Nothing of that reaches this machine's own.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("cannot make / private")?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none).context("cannot make / shared")?;
    become_(args)
}

fn become_(args: &[OsString]) -> Result<()> {
    let args = args
        .iter()
        .map(|arg| CString::new(arg.as_bytes()))
        .collect::<Result<Vec<_>, _>>()
        .context("a NUL")?;
    let Some(program) = args.first() else { bail!("no program") };
    execv(program, &args).with_context(|| format!("cannot run {}", program.display()))?;
    Ok(())
}

trait Shown {
    fn display(&self) -> String;
}

impl Shown for CString {
    fn display(&self) -> String {
        self.to_string_lossy().into_owned()
    }
}

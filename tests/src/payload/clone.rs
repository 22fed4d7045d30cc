//! Forks that no library offers: into another cgroup, and as a child of one's parent.
#![expect(
    unsafe_code,
    reason = "clone3 with these flags has no safe form; runtimes use it, so the tests must"
)]

use std::{
    ffi::{CString, OsStr, OsString},
    fs::{self, File},
    os::fd::AsRawFd,
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    libc,
    sys::{
        signal::{Signal, kill, raise},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, execve},
};

use super::{c_strings, environment, environment_of, join, say};
use crate::text;

/// What a child that was cloned does: nothing that another thread's lock could hold up.
struct Child {
    namespaces: Vec<File>,
    /// stops itself when it has joined them
    stops: bool,
    argv: Vec<CString>,
    environment: Vec<CString>,
}

impl Child {
    fn new(namespaces: Vec<File>, argv: &[OsString], environment: Vec<CString>) -> Result<Self> {
        Ok(Self { namespaces, stops: false, argv: c_strings(argv)?, environment })
    }

    fn run(&self) -> ! {
        for namespace in &self.namespaces {
            if nix::sched::setns(namespace, nix::sched::CloneFlags::empty()).is_err() {
                exit(97);
            }
        }
        if self.stops && raise(Signal::SIGSTOP).is_err() {
            exit(96);
        }
        if let Some(program) = self.argv.first() {
            let _ = execve(program, &self.argv, &self.environment);
        }
        exit(98)
    }
}

fn exit(code: i32) -> ! {
    // SAFETY: ends this process at once and touches no memory.
    unsafe { libc::_exit(code) }
}

/// Forks with `flags`; `cgroup`: the one that the child is born in.
fn clone(flags: i32, signal: i32, cgroup: Option<&File>, child: &Child) -> Result<Pid> {
    // SAFETY: all zeroes is a valid `clone_args`: plain integers.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from(flags.cast_unsigned());
    args.exit_signal = u64::from(signal.cast_unsigned());
    if let Some(cgroup) = cgroup {
        args.flags |= 0x2_0000_0000; // CLONE_INTO_CGROUP
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: without CLONE_VM the child has its own copy of everything; this process has one thread; the child only
    // calls setns, execve and _exit.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match pid {
        0 => child.run(),
        -1 => Err(Errno::last()).context("clone3"),
        pid => Ok(Pid::from_raw(i32::try_from(pid)?)),
    }
}

/// `clone-into DIR TARGET PROGRAM ARG…`: a child is born in the cgroup, joins the namespaces of process TARGET and
/// becomes the program. Prints its pid. Nobody is born in a cgroup of v1: there the child is moved in when it has
/// joined, as runtimes do.
pub(super) fn into_cgroup(args: &[OsString]) -> Result<ExitCode> {
    let [dir, target, program @ ..] = args else { bail!("clone-into DIR TARGET PROGRAM ARG…") };
    into(dir, target, program, environment()?)
}

fn into(dir: &OsStr, target: &OsStr, program: &[OsString], environment: Vec<CString>) -> Result<ExitCode> {
    let target: u32 = text(target)?.parse()?;
    let namespaces = ["uts", "ipc", "pid", "mnt"].map(|kind| join::namespace(target, kind));
    let mut child = Child::new(namespaces.into_iter().collect::<Result<_>>()?, program, environment)?;
    let dir = Path::new(dir);
    let pid = if dir.join("cgroup.controllers").exists() {
        clone(0, libc::SIGCHLD, Some(&File::open(dir)?), &child)?
    } else {
        child.stops = true;
        let pid = clone(0, libc::SIGCHLD, None, &child)?;
        let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED))?;
        ensure!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
        fs::write(dir.join("cgroup.procs"), pid.to_string())?;
        kill(pid, Signal::SIGCONT)?;
        pid
    };
    println!("{pid}");
    match waitpid(pid, None)? {
        WaitStatus::Exited(_, code) => Ok(ExitCode::from(u8::try_from(code)?)),
        other => bail!("{other:?}"),
    }
}

/// `clone-into-with FILE DIR TARGET PROGRAM ARG…`: the same, and the program has the environment that stands in the file, each
/// variable with its NUL.
pub(super) fn into_cgroup_with(args: &[OsString]) -> Result<ExitCode> {
    let [file, dir, target, program @ ..] = args else {
        bail!("clone-into-with FILE DIR TARGET PROGRAM ARG…")
    };
    into(dir, target, program, environment_of(file)?)
}

/// `clone-parent PIPE PROGRAM ARG…`: a child that is its parent's child, as runc's stages make them. Tells the child's pid, as
/// it sees it, through the pipe.
pub(super) fn to_parent(args: &[OsString]) -> Result<ExitCode> {
    let [pipe, program @ ..] = args else { bail!("clone-parent PIPE PROGRAM ARG…") };
    let child = Child::new(Vec::new(), program, environment()?)?;
    // CLONE_PARENT takes the parent's exit signal.
    let pid = clone(libc::CLONE_PARENT, 0, None, &child)?;
    say(pipe, &pid.to_string())?;
    Ok(ExitCode::SUCCESS)
}

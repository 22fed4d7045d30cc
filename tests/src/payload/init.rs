//! A container's own first process.

use std::{convert::Infallible, ffi::OsString, process::ExitCode};

use anyhow::Result;
use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, Signal},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// Waits for children, whoever's they were, until it is killed.
pub(super) fn run(_args: &[OsString]) -> Result<ExitCode> {
    match serve()? {}
}

fn serve() -> Result<Infallible> {
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block()?;
    loop {
        loop {
            match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        children.wait()?;
    }
}

//! Processes as `/proc` shows them, and pipes to talk with them.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::libc::O_NONBLOCK;

use super::{host, within};

const PATIENCE: Duration = Duration::from_secs(20);

/// Name of process `pid`; `None`: it is no more.
pub(crate) fn comm(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|comm| comm.trim_end().to_owned())
}

/// The letter that says what process `pid` does; `None`: it is no more.
pub(crate) fn state(pid: u32) -> Option<char> {
    fs::read_to_string(format!("/proc/{pid}/stat")).ok()?.rsplit(") ").next()?.chars().next()
}

/// Whether process `pid` runs, and is no zombie.
pub(crate) fn alive(pid: u32) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X'))
}

/// Children of process `pid`, as the host sees them.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let all = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    all.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Inode number of a namespace of process `pid`.
pub(crate) fn namespace(pid: u32, kind: &str) -> Result<u32> {
    let link = fs::read_link(format!("/proc/{pid}/ns/{kind}"))?;
    let link = link.to_string_lossy();
    let number = link.rsplit('[').next().and_then(|rest| rest.trim_end_matches(']').parse().ok());
    number.with_context(|| format!("not a namespace: {link}"))
}

/// Writes a line into a pipe once somebody reads from it.
pub(crate) fn tell(pipe: &Path, line: &str) -> Result<()> {
    Ok(speak(pipe)?.write_all(format!("{line}\n").as_bytes())?)
}

/// The writing end of a pipe once somebody reads from it.
pub(crate) fn speak(pipe: &Path) -> Result<File> {
    // Opened without blocking, so that a reader that never comes is a failure and not a standstill.
    within(PATIENCE, &format!("somebody reads {}", pipe.display()), || {
        OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(pipe).ok()
    })
}

/// Everything that somebody writes into a pipe until closing it.
pub(crate) fn hear(pipe: &Path) -> Result<String> {
    let mut file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(pipe)?;
    let mut heard = Vec::new();
    within(PATIENCE, &format!("somebody writes to {}", pipe.display()), || {
        let mut some = [0; 256];
        match file.read(&mut some) {
            // Before the writer comes, and after it is gone.
            Ok(0) if heard.is_empty() => None,
            Ok(0) => Some(()),
            Ok(n) => {
                heard.extend_from_slice(some.get(..n)?);
                heard.ends_with(b"\n").then_some(())
            }
            Err(_) => None,
        }
    })?;
    Ok(String::from_utf8_lossy(&heard).trim_end().to_owned())
}

/// A payload program to be run on the host.
pub(crate) fn payload(args: &[&str]) -> Command {
    let mut command = Command::new(&host().exe);
    command.arg("payload").args(args).stdin(Stdio::null());
    command
}

/// Runs it, and fails unless it succeeds.
pub(crate) fn succeed(mut command: Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output)
}

/// Waits for a child, and kills it when it takes too long.
pub(crate) fn reap(child: &mut std::process::Child, what: &str) -> Result<ExitStatus> {
    let ended = within(Duration::from_secs(60), what, || child.try_wait().transpose());
    if ended.is_err() {
        child.kill()?;
        child.wait()?;
    }
    Ok(ended??)
}

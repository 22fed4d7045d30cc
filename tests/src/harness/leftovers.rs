//! Whatever becomes of a run, what it made is removed: containers, cgroups, mounts, files.

use std::{
    fs,
    io::{self, Read},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            net::{SocketAddr, UnixListener},
            process::CommandExt,
        },
    },
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use anyhow::{Result, ensure};
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    cgroup, host,
    host::{PREFIX, tmp},
    within,
};

/// Removes the cgroups, mounts and files of runs whose process is gone.
pub(crate) fn remove() -> Result<()> {
    for hierarchy in cgroup::hierarchies()? {
        for entry in fs::read_dir(&hierarchy.mount)?.flatten() {
            if abandoned(&entry.file_name().to_string_lossy()) {
                cgroup::remove_tree(&entry.path())?;
            }
        }
    }
    for entry in fs::read_dir(tmp())?.flatten() {
        if abandoned(&entry.file_name().to_string_lossy()) {
            remove_dir(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes what this run leaves, however it ends: a process apart that waits for its end.
#[derive(Debug)]
pub(crate) struct Sweeper {
    child: Child,
    lifeline: Option<ChildStdin>,
}

impl Sweeper {
    /// Begins to watch over this process.
    pub(crate) fn start() -> Result<Self> {
        let mut command = Command::new(&host().exe);
        // In a group of its own, so that an interrupt at the terminal does not end it too.
        command.args(["helper", "sweep"]).arg(&host().dir).process_group(0);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let lifeline = child.stdin.take();
        Ok(Self { child, lifeline })
    }

    /// Lets it look, now that there should be nothing left.
    pub(crate) fn end(mut self) -> Result<()> {
        drop(self.lifeline.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "the sweeper ended with {status}");
        Ok(())
    }
}

/// The sweeper's own program: waits for the end of the run with this directory, and removes what it left.
pub(crate) fn sweep(dir: &Path) -> Result<()> {
    io::stdin().read_to_end(&mut Vec::new())?;
    // What the run had begun, such as a container's start, must come to its end first, or it would go on making things.
    if within(Duration::from_secs(3), "its programs end", || users(dir).is_empty().then_some(())).is_err() {
        for pid in users(dir) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
    let name = dir.file_name().unwrap_or_default();
    for hierarchy in cgroup::hierarchies()? {
        cgroup::remove_tree(&hierarchy.mount.join(name))?;
    }
    if dir.exists() && std::env::var_os("PODTRAIL_ITEST_KEEP").is_none() {
        remove_dir(dir)?;
    }
    Ok(())
}

/// Other processes that were told of a directory.
fn users(dir: &Path) -> Vec<Pid> {
    told_of(&format!("{}/", dir.display()))
}

/// Processes in whose arguments `word` is.
pub(crate) fn told_of(word: &str) -> Vec<Pid> {
    let told = |pid: &i32| {
        let args = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        args.windows(word.len()).any(|part| part == word.as_bytes())
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(told).map(Pid::from_raw).collect()
}

/// Unmounts what is mounted below `dir`, and removes it.
pub(crate) fn remove_dir(dir: &Path) -> Result<()> {
    unmount(dir)?;
    Ok(fs::remove_dir_all(dir)?)
}

/// Removes what an agent pinned in `dir`, which is a mount of its own or no directory.
pub(crate) fn unpin(dir: &Path) -> Result<()> {
    unmount(dir)?;
    Ok(())
}

/// Unmounts `dir` and what is below. Pins go first: a mount namespace that was made meanwhile may still have them.
fn unmount(dir: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let below = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    for mount in below.filter(|mount| mount.starts_with(dir)).collect::<Vec<_>>().into_iter().rev() {
        podtrail::probe::unload(mount)?;
        umount2(mount, MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

/// Whether `name` is a run's, and that run is over.
fn abandoned(name: &str) -> bool {
    let run = name.strip_prefix(PREFIX).is_some_and(|pid| pid.parse::<u32>().is_ok());
    run && claim(name).is_ok()
}

/// Holds the name of a run, until dropped, or until this process ends, however it does.
pub(crate) fn claim(name: &str) -> io::Result<UnixListener> {
    // An abstract address belongs to no file that could be left over, or be somewhere else.
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

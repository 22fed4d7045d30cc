//! Cgroups: made, entered, looked at and removed, in every hierarchy at once.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{host, wait::until};

/// A mounted cgroup hierarchy.
#[derive(Clone, Debug)]
pub(crate) struct Hierarchy {
    pub(crate) mount: PathBuf,
    pub(crate) v2: bool,
    /// the `pids` controller is in it
    pub(crate) pids: bool,
}

impl Hierarchy {
    /// Where the cgroup `path`, which begins with a slash, is.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.mount.join(path.trim_start_matches('/'))
    }
}

/// Those that are mounted here.
pub(crate) fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(mount), Some(kind), options) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let under = mount.starts_with("/sys/fs/cgroup");
        if under && (kind == "cgroup" || kind == "cgroup2") {
            let v2 = kind == "cgroup2";
            let pids = !v2 && options.unwrap_or_default().split(',').any(|option| option == "pids");
            found.push(Hierarchy { mount: PathBuf::from(mount), v2, pids });
        }
    }
    Ok(found)
}

/// The id of a cgroup that exists.
pub(crate) fn id(path: &str) -> Result<u64> {
    let dir = host().told_by()?.at(path);
    Ok(fs::metadata(&dir).with_context(|| format!("no cgroup {}", dir.display()))?.ino())
}

/// Makes the cgroup `path` in the hierarchy that containers are told by.
pub(crate) fn make(path: &str) -> Result<()> {
    let dir = host().told_by()?.at(path);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))
}

/// Moves process `pid` to the cgroup `path` of that hierarchy.
pub(crate) fn attach(path: &str, pid: u32) -> Result<()> {
    let procs = host().told_by()?.at(path).join("cgroup.procs");
    fs::write(&procs, pid.to_string()).with_context(|| format!("cannot write {pid} to {}", procs.display()))
}

/// The processes in the cgroup `path` itself.
pub(crate) fn processes(path: &str) -> Result<Vec<u32>> {
    let procs = fs::read_to_string(host().told_by()?.at(path).join("cgroup.procs"))?;
    Ok(procs.lines().filter_map(|line| line.parse().ok()).collect())
}

/// Kills what is in the cgroup `path` and below, and removes it, in every hierarchy.
pub(crate) fn remove(path: &str) -> Result<()> {
    hierarchies()?.iter().try_for_each(|hierarchy| remove_tree(&hierarchy.at(path)))
}

/// The same for one directory of a hierarchy.
pub(crate) fn remove_tree(dir: &Path) -> Result<()> {
    let children = match fs::read_dir(dir) {
        Ok(children) => children,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", dir.display())),
    };
    for child in children.flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&child.path())?;
        }
    }
    until(&format!("{} is empty and gone", dir.display()), || {
        if fs::remove_dir(dir).is_ok() || !dir.exists() {
            return true;
        }
        for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
            if let Ok(pid) = pid.parse::<i32>()
                && let Err(e) = kill(Pid::from_raw(pid), Signal::SIGKILL)
                && e != Errno::ESRCH
            {
                eprintln!("cannot kill {pid}: {e}");
            }
        }
        false
    })
}

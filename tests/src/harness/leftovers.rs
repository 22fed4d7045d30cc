//! Removes what former runs could not: a run that is killed leaves its containers behind.

use std::{fs, path::Path};

use anyhow::Result;
use nix::mount::{MntFlags, umount2};

use super::{
    cgroup,
    host::{PREFIX, tmp},
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

/// Unmounts what is mounted below `dir`, and removes it.
pub(crate) fn remove_dir(dir: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let below = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    for mount in below.filter(|mount| mount.starts_with(dir)).collect::<Vec<_>>().into_iter().rev() {
        umount2(mount, MntFlags::MNT_DETACH)?;
    }
    Ok(fs::remove_dir_all(dir)?)
}

/// Whether `name` is a run's, and that run is over.
fn abandoned(name: &str) -> bool {
    let Some(pid) = name.strip_prefix(PREFIX).and_then(|pid| pid.parse::<u32>().ok()) else {
        return false;
    };
    let Ok(program) = fs::read_link(format!("/proc/{pid}/exe")) else { return true };
    !program.to_string_lossy().contains("podtrail-itest")
}

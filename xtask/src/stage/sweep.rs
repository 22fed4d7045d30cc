//! Removes everything that has a stage's name in it. Goes on where something fails: each failure is told.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process, thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::container;

/// How long a program may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// Removes processes, containers, cgroups, mounts and files of the stage `name` in `dir`.
pub(super) fn sweep(name: &str, dir: &Path) {
    end(dir);
    for id in names(&dir.join("runc")) {
        let deleted = container::runc(dir).args(["delete", "--force"]).arg(&id).peek();
        tell("delete the container", Path::new(&id), deleted.map(drop));
    }
    for hierarchy in hierarchies() {
        remove_cgroup(&hierarchy.join(name));
    }
    // Before the mount that they are in: a mount namespace that was made meanwhile may still have it.
    let pins = dir.join("pins");
    for pinned in names(&pins).into_iter().map(|name| pins.join(name)).filter(|pinned| pinned.is_dir()) {
        gone("remove the pins in", &pinned, fs::remove_dir_all(&pinned));
    }
    for mount in mounts_below(dir) {
        tell("unmount", &mount, umount2(&mount, MntFlags::MNT_DETACH));
    }
    gone("remove", dir, fs::remove_dir_all(dir));
}

/// Removes what daemons kept elsewhere.
pub(super) fn data(dir: &Path) {
    gone("remove", dir, fs::remove_dir_all(dir));
}

/// Ends the programs that were started with the folder in their arguments: first asks, then kills.
fn end(dir: &Path) {
    let begin = Instant::now();
    let mut signal = Signal::SIGTERM;
    loop {
        let running = programs(dir);
        if running.is_empty() || begin.elapsed() > 2 * PATIENCE {
            return;
        }
        for pid in running {
            if let Err(error) = kill(pid, signal)
                && error != Errno::ESRCH
            {
                eprintln!("warning: cannot end process {pid}: {error}");
            }
        }
        let pause = begin.elapsed() + Duration::from_millis(500);
        while begin.elapsed() < pause && !programs(dir).is_empty() {
            thread::sleep(Duration::from_millis(10));
        }
        if begin.elapsed() > PATIENCE {
            signal = Signal::SIGKILL;
        }
    }
}

/// Processes other than this with the folder in an argument. A zombie has no arguments, so it does not count.
fn programs(dir: &Path) -> Vec<Pid> {
    let needle = format!("{}/", dir.display());
    let own = process::id().to_string();
    let has_it = |pid: &String| {
        *pid != own
            && fs::read(Path::new("/proc").join(pid).join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&needle))
    };
    names(Path::new("/proc"))
        .into_iter()
        .filter(has_it)
        .filter_map(|pid| pid.parse().ok().map(Pid::from_raw))
        .collect()
}

/// Kills what is in a cgroup and below, and removes it.
fn remove_cgroup(dir: &Path) {
    if !dir.is_dir() {
        return;
    }
    for name in names(dir) {
        if dir.join(&name).is_dir() {
            remove_cgroup(&dir.join(name));
        }
    }
    let begin = Instant::now();
    loop {
        let removed = fs::remove_dir(dir);
        if removed.is_ok() || !dir.exists() {
            return;
        }
        if begin.elapsed() > PATIENCE {
            gone("remove the cgroup", dir, removed);
            return;
        }
        for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
            if let Ok(pid) = pid.parse::<i32>()
                && pid > 0
                && let Err(error) = kill(Pid::from_raw(pid), Signal::SIGKILL)
                && error != Errno::ESRCH
            {
                eprintln!("warning: cannot kill process {pid}: {error}");
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Where cgroup hierarchies are mounted.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (mount, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup" || kind == "cgroup2").then(|| PathBuf::from(mount))
        })
        .collect()
}

/// Mounts at or below a folder, the last made first.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut below: Vec<PathBuf> =
        mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from).collect();
    below.retain(|mount| mount.starts_with(dir));
    below.reverse();
    below
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Tells a failure, unless it is that there was nothing.
fn gone(what: &str, path: &Path, result: io::Result<()>) {
    if !result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        tell(what, path, result);
    }
}

fn tell<E: std::fmt::Display>(what: &str, path: &Path, result: Result<(), E>) {
    if let Err(error) = result {
        eprintln!("warning: cannot {what} {}: {error}", path.display());
    }
}

//! What a daemon under test finds itself in, where the machine's own would not do: another network, another clock, a cgroup
//! as of a container, a kernel that offers less.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

/// The network namespace to run in: a file.
const NETWORK: &str = "PODTRAIL_ITEST_NETWORK";
/// A file with the nanoseconds by which the wall clock is off.
const CLOCK: &str = "PODTRAIL_ITEST_CLOCK";
/// The directory of a cgroup: to be in, with a cgroup namespace that begins there.
const CGROUP: &str = "PODTRAIL_ITEST_CGROUP";
/// Where that directory is to be seen, in place of its hierarchy.
const CGROUP_OVER: &str = "PODTRAIL_ITEST_CGROUP_OVER";
/// Directories of the kernel's that are to be empty, with colons between.
const WITHOUT: &str = "PODTRAIL_ITEST_WITHOUT";

const NONE: Option<&str> = None;
const TRACEFS: &str = "/sys/kernel/tracing";

/// How long a step of the clock may take to be noticed.
const LOOK: Duration = Duration::from_millis(20);

/// Where a daemon is to run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    pub(crate) network: Option<String>,
    pub(crate) clock: Option<PathBuf>,
    /// a cgroup, as a container has it
    pub(crate) cgroup: Option<OwnCgroup>,
    /// directories of the kernel's that are empty, as they are where it was built without what they are for
    pub(crate) without: Vec<&'static str>,
}

/// A cgroup to be in, with a cgroup namespace that begins there.
#[derive(Clone, Debug)]
pub(crate) struct OwnCgroup {
    /// its directory
    pub(crate) dir: PathBuf,
    /// a hierarchy's mount, where it alone is to be seen: so does a runtime, where a container is not given the node's
    pub(crate) over: Option<PathBuf>,
}

impl Surroundings {
    /// Has `command` run there.
    pub(crate) fn put(&self, command: &mut Command) {
        if let Some(OwnCgroup { dir, over }) = &self.cgroup {
            command.env(CGROUP, dir);
            if let Some(over) = over {
                command.env(CGROUP_OVER, over);
            }
        }
        if let Some(network) = &self.network {
            command.env(NETWORK, network);
        }
        if let Some(clock) = &self.clock {
            command.env(CLOCK, clock);
        }
        if !self.without.is_empty() {
            command.env(WITHOUT, self.without.join(":"));
        }
    }
}

/// Goes where this process was told to run. To be called before there are threads.
pub(crate) fn enter() -> Result<()> {
    if let Some(network) = env::var_os(NETWORK) {
        let namespace = File::open(&network).context("no such network namespace")?;
        setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")?;
    }
    if let Some(dir) = env::var_os(CGROUP).map(PathBuf::from) {
        fs::write(dir.join("cgroup.procs"), "0").context("cannot enter a cgroup")?;
        unshare(CloneFlags::CLONE_NEWCGROUP).context("cannot unshare the cgroup namespace")?;
        if let Some(place) = env::var_os(CGROUP_OVER) {
            own_mounts()?;
            mount(Some(&dir), Path::new(&place), NONE, MsFlags::MS_BIND, NONE)
                .context("cannot mount a cgroup over its hierarchy")?;
        }
    }
    if let Ok(dirs) = env::var(WITHOUT) {
        empty(&dirs.split(':').collect::<Vec<_>>())?;
    }
    if let Some(clock) = env::var_os(CLOCK).map(PathBuf::from) {
        podtrail::clock::step(off(&clock));
        thread::spawn(move || {
            loop {
                thread::sleep(LOOK);
                podtrail::clock::step(off(&clock));
            }
        });
    }
    Ok(())
}

/// From here on, what this process mounts is its own.
fn own_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot unshare the mount namespace")?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).context("cannot make / private")
}

fn empty(dirs: &[&str]) -> Result<()> {
    own_mounts()?;
    if dirs.iter().any(|dir| dir.starts_with(TRACEFS)) && !Path::new(TRACEFS).join("events").exists() {
        mount(Some("tracefs"), TRACEFS, Some("tracefs"), MsFlags::empty(), NONE)
            .context("cannot mount tracefs")?;
    }
    // What is not there need not be emptied.
    for dir in dirs.iter().filter(|dir| Path::new(dir).exists()) {
        mount(Some("tmpfs"), *dir, Some("tmpfs"), MsFlags::empty(), NONE)
            .with_context(|| format!("cannot mount over {dir}"))?;
    }
    Ok(())
}

fn off(clock: &Path) -> i64 {
    fs::read_to_string(clock).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

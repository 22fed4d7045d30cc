//! What a daemon under test finds itself in, where the machine's own would not do: another network, another clock.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

/// The network namespace to run in: a file.
const NETWORK: &str = "PODTRAIL_ITEST_NETWORK";
/// A file with the nanoseconds by which the wall clock is off.
const CLOCK: &str = "PODTRAIL_ITEST_CLOCK";

/// How long a step of the clock may take to be noticed.
const LOOK: Duration = Duration::from_millis(20);

/// Where a daemon is to run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    pub(crate) network: Option<String>,
    pub(crate) clock: Option<PathBuf>,
}

impl Surroundings {
    /// Has `command` run there.
    pub(crate) fn put(&self, command: &mut Command) {
        if let Some(network) = &self.network {
            command.env(NETWORK, network);
        }
        if let Some(clock) = &self.clock {
            command.env(CLOCK, clock);
        }
    }
}

/// Goes where this process was told to run. To be called before there are threads.
pub(crate) fn enter() -> Result<()> {
    if let Some(network) = env::var_os(NETWORK) {
        let namespace = File::open(&network).context("no such network namespace")?;
        setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")?;
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

fn off(clock: &Path) -> i64 {
    fs::read_to_string(clock).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

//! A place for real containers and daemons: all that is made on it is gone when it ends, also after Ctrl-C, and what a
//! crash left is removed by the next.
//!
//! Everything has the stage's name in it: the folder under `/run`, the cgroup, the arguments of each program. So
//! removal needs no memory of what was made.

mod container;
mod daemons;
mod shell;
mod sweep;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

use crate::root;

pub(crate) use container::Container;
pub(crate) use daemons::{Agent, Collector};
pub(crate) use shell::Shell;

/// Somebody asked to stop.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted: everything is removed again")
    }
}

impl std::error::Error for Interrupted {}

/// The place.
#[derive(Debug)]
pub(crate) struct Stage {
    name: &'static str,
    dir: PathBuf,
    /// where daemons keep what may be large
    data: PathBuf,
    stop: Arc<AtomicBool>,
    _lock: Flock<File>,
}

impl Stage {
    /// Takes the place of that name, and removes what a former run left there.
    pub(crate) fn open(name: &'static str) -> Result<Self> {
        if !root::is_root() {
            bail!("this starts containers and loads BPF programs: run it as root");
        }
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            flag::register(signal, Arc::clone(&stop)).context("cannot catch signals")?;
        }
        let dir = Path::new("/run").join(name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let folder = File::open(&dir).with_context(|| format!("cannot open {}", dir.display()))?;
        let Ok(lock) = Flock::lock(folder, FlockArg::LockExclusiveNonblock) else {
            bail!("another {name} is running (it holds a lock on {})", dir.display());
        };
        sweep::sweep(name, &dir);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let data = dir.clone();
        Ok(Self { name, dir, data, stop, _lock: lock })
    }

    /// Lets the daemons keep their data below `parent`, because `/run` is in memory on most machines. What a former run
    /// left there is removed.
    pub(crate) fn with_data(mut self, parent: &Path) -> Result<Self> {
        self.data = parent.join(self.name);
        sweep::data(&self.data);
        fs::create_dir_all(&self.data).with_context(|| format!("cannot make {}", self.data.display()))?;
        Ok(self)
    }

    /// Where the daemons keep their data.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Removes a daemon's data, so that the next begins anew.
    pub(crate) fn forget(&self, name: &str) -> Result<()> {
        let data = self.data.join(name);
        fs::remove_dir_all(&data).with_context(|| format!("cannot remove {}", data.display()))?;
        // What is on its way to the disk would hold up the next one's.
        nix::unistd::sync();
        Ok(())
    }

    /// The folder for everything.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Fails once somebody asked to stop; called in every wait.
    pub(crate) fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            bail!(Interrupted);
        }
        Ok(())
    }

    /// Waits for a condition.
    pub(crate) fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let begin = Instant::now();
        loop {
            self.check()?;
            if let Some(value) = condition()? {
                return Ok(value);
            }
            if begin.elapsed() > limit {
                bail!("waited {} s in vain: {what}", limit.as_secs());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        sweep::sweep(self.name, &self.dir);
        sweep::data(&self.data);
    }
}

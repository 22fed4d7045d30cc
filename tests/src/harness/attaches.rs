//! Which processes are moved into a cgroup, as the kernel tells whoever asks: by its own tracepoint, past everything that
//! is tested here.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{host, leftovers};

const TRACEFS: &str = "/sys/kernel/tracing";

/// Listens until dropped.
#[derive(Debug)]
pub(crate) struct Attaches {
    instance: PathBuf,
    /// mounted for this alone
    own: Option<PathBuf>,
}

impl Attaches {
    /// Begins to listen; `name` must not be used twice.
    pub(crate) fn listen(name: &str) -> Result<Self> {
        let mut own = None;
        let tracefs = if Path::new(TRACEFS).join("instances").is_dir() {
            PathBuf::from(TRACEFS)
        } else {
            let dir = host().dir(name)?;
            mount(None::<&str>, &dir, Some("tracefs"), MsFlags::empty(), None::<&str>)
                .context("cannot mount tracefs")?;
            own = Some(dir.clone());
            dir
        };
        let run = host().dir.file_name().unwrap_or_default().to_string_lossy();
        let attaches = Self { instance: tracefs.join("instances").join(format!("{run}-{name}")), own };
        fs::create_dir(&attaches.instance).context("cannot make an instance of tracing")?;
        let event = attaches.instance.join("events/cgroup/cgroup_attach_task/enable");
        fs::write(&event, "1").with_context(|| format!("cannot write {}", event.display()))?;
        Ok(attaches)
    }

    /// Whether anything was moved into the cgroup `path` since.
    pub(crate) fn are_into(&self, path: &str) -> Result<bool> {
        let told = fs::read_to_string(self.instance.join("trace"))?;
        let word = format!("dst_path={path} ");
        Ok(told.lines().any(|line| line.contains("cgroup_attach_task: ") && line.contains(&word)))
    }
}

impl Drop for Attaches {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir(&self.instance) {
            eprintln!("cannot remove {}: {e}", self.instance.display());
        }
        if let Some(own) = &self.own {
            let gone = umount2(own, MntFlags::MNT_DETACH).map_err(anyhow::Error::from);
            if let Err(e) = gone.and_then(|()| leftovers::remove_dir(own)) {
                eprintln!("cannot remove {}: {e:#}", own.display());
            }
        }
    }
}

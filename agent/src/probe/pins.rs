//! The pins: files of a bpffs that keep the kernel side at work when no agent is.
//!
//! ```text
//! DIR/v1/control             what was made, and for whom: see `control`
//!       /told                what was told of losses: see `told`
//!       /maps/EVENTS …       the maps that outlive an agent
//!       /links/exec …        the hooks; removing one detaches it, unless an agent holds it
//!       /hooks/exec …        their programs, which only hand over
//!       /programs/exec …     what they hand over to
//!       /tasks               the iterator: reading it tells start times
//! DIR/retired-ID/            a ring that is written no more, until what was in it is kept: EVENTS, control
//! ```
//! `v1` is the layout's version: `control` and `maps/EVENTS` are where they are in every version. No name has a dot,
//! which a bpffs refuses.

use std::{
    fs::{self, DirBuilder},
    io,
    os::{
        fd::BorrowedFd,
        unix::fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use podtrail_ebpf::layout::LAYOUT_VERSION;

use super::sys;

/// Where the node's bpffs is, by convention.
const BPFFS: &str = "/sys/fs/bpf";

/// Why nothing can be pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// {0} is no bpffs, and has files in it
    #[error("{} is no bpffs and has files in it: give an empty directory with --pin, or none", .0.display())]
    Other(PathBuf),
    /// cannot mount
    #[error(
        "{dir} is on no bpffs, and none can be mounted there: {source}; run `mount -t bpf bpf {dir}` on the node",
        dir = .dir.display()
    )]
    Mount { dir: PathBuf, source: io::Error },
    /// cannot {call} {path}
    #[error("cannot {call} {path}: {source}; is the agent running as root?", path = .path.display())]
    Io { call: &'static str, path: PathBuf, source: io::Error },
}

impl PinError {
    pub(super) fn io(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { call, path, source }
    }
}

/// The directory of the pins, on a bpffs.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    dir: PathBuf,
}

impl Pins {
    /// Makes the directory; mounts a bpffs where there is none.
    pub(super) fn open(dir: &Path) -> Result<Self, PinError> {
        let mut existing = dir;
        while !existing.exists() {
            existing = existing.parent().unwrap_or(Path::new("/"));
        }
        if !is_bpffs(existing) {
            let at = if dir.starts_with(BPFFS) { Path::new(BPFFS) } else { dir };
            // Where the node's bpffs belongs there is a directory, in sysfs.
            if at == dir {
                make(dir)?;
            }
            let mut files = fs::read_dir(at).map_err(PinError::io("look into", at))?;
            if files.next().is_some() {
                return Err(PinError::Other(at.to_owned()));
            }
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("bpf"), at, Some("bpf"), flags, Some("mode=0700"))
                .map_err(|e| PinError::Mount { dir: at.to_owned(), source: e.into() })?;
            tracing::info!(mount = %at.display(), "mounted a bpffs, for the pins");
        }
        make(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// What is there, without making anything; `None`: no bpffs.
    pub(super) fn existing(dir: &Path) -> Option<Self> {
        (dir.is_dir() && is_bpffs(dir)).then(|| Self { dir: dir.to_owned() })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Pins of this layout's version.
    pub(super) fn current(&self) -> Generation {
        Generation { dir: self.dir.join(format!("v{LAYOUT_VERSION}")) }
    }

    /// Pins of any version that are there.
    pub(super) fn generations(&self) -> Vec<Generation> {
        self.below("v")
    }

    /// Rings that are written no more.
    pub(super) fn retired(&self) -> Vec<Retired> {
        self.below("retired-").into_iter().map(|Generation { dir }| Retired { dir }).collect()
    }

    pub(super) fn retire(&self, id: &str) -> Retired {
        Retired { dir: self.dir.join(format!("retired-{id}")) }
    }

    fn below(&self, prefix: &str) -> Vec<Generation> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
        let mut found: Vec<_> = ours.map(|entry| Generation { dir: entry.path() }).collect();
        found.sort_by(|a, b| a.dir.cmp(&b.dir));
        found
    }
}

/// The pins of one layout's version.
#[derive(Clone, Debug)]
pub(super) struct Generation {
    pub(super) dir: PathBuf,
}

impl Generation {
    pub(super) fn control(&self) -> PathBuf {
        self.dir.join("control")
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.dir.join("maps").join(name)
    }

    /// The link of a hook.
    pub(super) fn link(&self, hook: &str) -> PathBuf {
        self.dir.join("links").join(hook)
    }

    /// The program of a hook, which hands over.
    pub(super) fn hook(&self, hook: &str) -> PathBuf {
        self.dir.join("hooks").join(hook)
    }

    /// The program that it hands over to.
    pub(super) fn program(&self, hook: &str) -> PathBuf {
        self.dir.join("programs").join(hook)
    }

    pub(super) fn tasks(&self) -> PathBuf {
        self.dir.join("tasks")
    }

    pub(super) fn told(&self) -> PathBuf {
        self.dir.join("told")
    }

    /// Makes the directories.
    pub(super) fn make(&self) -> Result<(), PinError> {
        for part in ["maps", "links", "hooks", "programs"] {
            make(&self.dir.join(part))?;
        }
        Ok(())
    }

    pub(super) fn exists(&self) -> bool {
        self.dir.is_dir()
    }

    /// Removes all of it. The hooks are detached where nobody else holds them.
    pub(super) fn remove(&self) -> Result<(), PinError> {
        // The hooks first, so that none hands over to nobody.
        let links = self.dir.join("links");
        gone(fs::remove_dir_all(&links)).map_err(PinError::io("remove", &links))?;
        gone(fs::remove_dir_all(&self.dir)).map_err(PinError::io("remove", &self.dir))
    }
}

/// A ring that is written no more, with the record of what it was.
#[derive(Clone, Debug)]
pub(super) struct Retired {
    dir: PathBuf,
}

impl Retired {
    pub(super) fn control(&self) -> PathBuf {
        self.dir.join("control")
    }

    pub(super) fn ring(&self) -> PathBuf {
        self.dir.join("EVENTS")
    }

    pub(super) fn make(&self) -> Result<(), PinError> {
        make(&self.dir)
    }

    pub(super) fn remove(&self) -> Result<(), PinError> {
        gone(fs::remove_dir_all(&self.dir)).map_err(PinError::io("remove", &self.dir))
    }
}

/// Pins `object` at `path`, in place of whatever is there.
pub(super) fn replace(object: BorrowedFd<'_>, path: &Path) -> Result<(), PinError> {
    gone(fs::remove_file(path)).map_err(PinError::io("remove", path))?;
    sys::pin(object, path).map_err(PinError::io("pin", path))
}

/// Names a pin: another one at the same path has another number.
pub(super) fn inode(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path).ok().map(|meta| meta.ino())
}

pub(super) fn gone(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

fn make(dir: &Path) -> Result<(), PinError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(PinError::io("make", dir))
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

/// Removes what an agent pinned below `dir`; answers the files that were removed. Nothing there is no error.
pub fn unload(dir: &Path) -> Result<Vec<PathBuf>, PinError> {
    let mut removed = Vec::new();
    let Some(pins) = Pins::existing(dir) else { return Ok(removed) };
    for generation in pins.generations() {
        list(&generation.dir, &mut removed);
        generation.remove()?;
    }
    for retired in pins.retired() {
        list(&retired.dir, &mut removed);
        retired.remove()?;
    }
    // Fails where it is a mount of its own, or has other files: these are not ours.
    let _ = fs::remove_dir(dir);
    Ok(removed)
}

fn list(dir: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(&entry.path(), files);
        } else {
            files.push(entry.path());
        }
    }
}

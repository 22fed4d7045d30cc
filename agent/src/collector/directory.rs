//! The collector's data directory: who may use it, and which format is in it.
//!
//! ```text
//! DATA/lock      held (flock) by the collector that uses the directory; its content means nothing
//! DATA/format    "podtrail-collector 1\n": what this is, and the version of all that is below
//! DATA/store/    the embedded store, see `log`
//! DATA/reach     how far the log has come, see `log/reach.rs`
//! DATA/store.damaged-TIME/    a store that could not be opened; nobody reads it but people
//! ```
//!
//! Invariants: nothing below DATA is touched without the lock, and nothing but the lock before the format is known.
//! `format` is written whole (to another name, synced, renamed) before the store exists, so a directory with a
//! store always says what it is. A directory that holds anything else is never taken.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::trail::{Moment, log::LogError};

const NAME: &str = "podtrail-collector";
/// The format that this version writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// A data directory that is ours until this is dropped.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
}

/// Of `DATA/format`, which is written once: a copy's is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Birth {
    pub(super) inode: u64,
    pub(super) time: Moment,
}

impl Directory {
    /// Takes the directory, making it where it is missing.
    pub(super) fn open(path: &Path) -> Result<Self, LogError> {
        // Commands and their arguments are nobody else's business.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| io_error("create", path, source))?;
        let lock_path = path.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|source| io_error("open", &lock_path, source))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LogError::Locked { path: text(path) }),
            Err(TryLockError::Error(source)) => return Err(io_error("lock", &lock_path, source)),
        }
        let this = Self { path: path.to_owned(), _lock: lock };
        this.check_format()?;
        Ok(this)
    }

    /// What tells this directory from a copy of it.
    pub(super) fn birth(&self) -> Result<Birth, LogError> {
        let path = self.path.join("format");
        let meta = fs::metadata(&path).map_err(|source| io_error("read", &path, source))?;
        // Not every file system knows it; the inode alone may be given again.
        let time = meta.created().map_or(Moment(0), Moment::from);
        Ok(Birth { inode: meta.ino(), time })
    }

    /// Where the embedded store is.
    pub(super) fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    /// How far the log has come.
    pub(super) fn reach(&self) -> PathBuf {
        self.path.join("reach")
    }

    fn check_format(&self) -> Result<(), LogError> {
        let path = self.path.join("format");
        let found = match fs::read(&path) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return self.write_format(),
            Err(source) => return Err(io_error("read", &path, source)),
        };
        let found = String::from_utf8_lossy(&found);
        let version = found.trim().strip_prefix(NAME).and_then(|v| v.trim().parse().ok());
        match version {
            Some(FORMAT) => Ok(()),
            Some(found) if found > FORMAT => {
                Err(LogError::Newer { path: text(&self.path), found, known: FORMAT })
            }
            _ => Err(self.foreign("its file format says something else")),
        }
    }

    fn write_format(&self) -> Result<(), LogError> {
        let new = self.path.join("format.new");
        for entry in fs::read_dir(&self.path).map_err(|source| io_error("read", &self.path, source))? {
            let name = entry.map_err(|source| io_error("read", &self.path, source))?.file_name();
            if name != "lock" && name != "format.new" && name != "lost+found" {
                return Err(self.foreign(&format!("it holds {name:?}")));
            }
        }
        let write = || {
            let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
            writeln!(file, "{NAME} {FORMAT}")?;
            file.sync_all()?;
            fs::rename(&new, self.path.join("format"))?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|source| io_error("write", &new, source))
    }

    fn foreign(&self, why: &str) -> LogError {
        LogError::Foreign { path: text(&self.path), why: why.to_owned() }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn io_error(call: &'static str, path: &Path, source: io::Error) -> LogError {
    LogError::io(call, path, source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/b");
        let first = Directory::open(&data).unwrap();
        let e = Directory::open(&data).unwrap_err().to_string();
        assert_eq!(
            e,
            format!(
                "{} is in use by another process: stop it, or use another data directory",
                data.display()
            )
        );
        drop(first);
        Directory::open(&data).unwrap();
        assert_eq!(fs::read_to_string(data.join("format")).unwrap(), "podtrail-collector 1\n");
    }

    #[test]
    fn newer_and_foreign_directories_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let message = || Directory::open(dir.path()).unwrap_err().to_string();
        fs::write(dir.path().join("format"), "podtrail-collector 2\n").unwrap();
        assert!(message().contains("was written by a newer podtrail (format 2, this one reads up to 1)"));
        fs::write(dir.path().join("format"), "\u{1b}[2J\n").unwrap();
        assert!(message().contains("is not a podtrail log (its file format says something else)"));
        fs::remove_file(dir.path().join("format")).unwrap();
        fs::write(dir.path().join("photo.jpg"), "").unwrap();
        assert!(message().contains("is not a podtrail log (it holds \"photo.jpg\")"));
        assert!(!dir.path().join("format").exists());
    }

    #[test]
    fn killed_while_it_was_made() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("format.new"), "podtr").unwrap();
        Directory::open(dir.path()).unwrap();
        assert!(!dir.path().join("format.new").exists());
    }
}

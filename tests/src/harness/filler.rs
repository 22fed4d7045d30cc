//! A disk without room, for a while.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// A file that takes up all the room there is, until dropped.
#[derive(Debug)]
pub(crate) struct Filler(PathBuf);

impl Filler {
    pub(crate) fn fill(dir: &Path) -> Result<Self> {
        let filler = Self(dir.join("filler"));
        let mut file = File::create(&filler.0)?;
        let zeroes = vec![0; 1 << 20];
        let mut size = zeroes.len();
        while size > 0 {
            match file.write(zeroes.get(..size).unwrap_or_default()) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::StorageFull => size /= 2,
                Err(e) => return Err(e).context("cannot fill the disk"),
            }
        }
        Ok(filler)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.0) {
            eprintln!("cannot remove {}: {e}", self.0.display());
        }
    }
}

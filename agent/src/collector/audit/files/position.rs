//! A place in a file that may be renamed, replaced or cut meanwhile.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    collector::print::{self, Print},
    trail::Moment,
};

/// So much of a file's beginning tells it from another: its first events, with their ids and times.
const HEAD: u64 = 4096;

/// How far which file is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) offset: u64,
    /// when it was last written, as far as it is read; unix nanoseconds
    pub(super) modified: i64,
    /// what is left of a line that is too long is not read
    pub(super) skip: bool,
    /// so many of its first bytes
    head: u16,
    /// and what they are
    hash: Print,
}

impl Position {
    /// The beginning of a file.
    pub(super) fn start(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            offset: 0,
            modified: modified(meta),
            skip: false,
            head: 0,
            hash: print::of(Sha256::new()),
        }
    }

    /// The same file, further on.
    pub(super) fn at(&self, file: &File, offset: u64, skip: bool) -> io::Result<Self> {
        let mut next = Self { offset, skip, modified: modified(&file.metadata()?), ..self.clone() };
        let head = u16::try_from(offset.min(HEAD)).unwrap_or(u16::MAX);
        if head > self.head {
            (next.head, next.hash) = (head, Self::read(file, head)?);
        }
        Ok(next)
    }

    /// Whether these are the name and the content of the file that it is a place in.
    pub(super) fn is_of(&self, file: &File) -> io::Result<bool> {
        let meta = file.metadata()?;
        Ok(self.names(&meta) && self.is_whole(file)?)
    }

    pub(super) fn names(&self, meta: &Metadata) -> bool {
        (self.device, self.inode) == (meta.dev(), meta.ino())
    }

    /// Whether what was read of it is still there.
    pub(super) fn is_whole(&self, file: &File) -> io::Result<bool> {
        if file.metadata()?.len() < self.offset {
            return Ok(false);
        }
        match Self::read(file, self.head) {
            Ok(found) => Ok(found == self.hash),
            // Cut in this moment.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn read(file: &File, head: u16) -> io::Result<Print> {
        let mut bytes = vec![0; head.into()];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(print::of(Sha256::new_with_prefix(&bytes)))
    }

    pub(super) fn written(&self) -> Moment {
        Moment(self.modified)
    }

    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        postcard::to_stdvec(self).ok()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}

/// When a file was last written.
pub(super) fn modified(meta: &Metadata) -> i64 {
    meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec())
}

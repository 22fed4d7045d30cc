//! A few bytes beside the store, written with every batch and every second, never synced: what they say that the
//! store does not know was lost. Numbers of new events begin behind it, so that none is given twice.
//!
//! ```text
//! magic u64 · boot u64 · epoch u64 · base u64 · last u64 · acked u64 · sent u64 · time at work i64 (unix ns) · crc32
//! ```
//! Little-endian, in place. A process that is killed leaves it as it was last written. There is room for two, in one
//! block of the file system: once the first is written, neither needs any room on a disk that is full.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use crate::trail::Moment;

const MAGIC: u64 = u64::from_le_bytes(*b"podtrl 2");
const LEN: usize = 8 * 8;

/// Of which agent a mark is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Slot {
    /// the last that had the store
    #[default]
    Store,
    /// one since then that could not open it, and had its events in memory only
    Memory,
}

/// What it says. Numbers are cursors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// [`boot`] of the one in which it was written: of another, it may be older than what it speaks of
    pub(super) boot: u64,
    /// the newest, and the cursor before its first event
    pub(super) epoch: u64,
    pub(super) base: u64,
    /// nothing after this was ever sent that the store does not have
    pub(super) last: u64,
    pub(super) acked: u64,
    /// nothing after this was ever sent
    pub(super) sent: u64,
    pub(super) at_work: Moment,
}

/// A boot by its id, in a word.
pub(super) fn boot(id: &str) -> u64 {
    u64::from(crc32fast::hash(id.as_bytes()))
}

impl Slot {
    fn offset(self) -> u64 {
        match self {
            Self::Store => 0,
            Self::Memory => 128,
        }
    }

    /// What it said is told.
    pub(super) fn clear(self, file: &File) -> io::Result<()> {
        file.write_all_at(&[0; LEN + 4], self.offset())
    }
}

impl Mark {
    /// `None`: there is none, or none that can be read.
    pub(super) fn read(path: &Path, slot: Slot) -> Option<Self> {
        let mut bytes = [0; LEN + 4];
        File::open(path).ok()?.read_exact_at(&mut bytes, slot.offset()).ok()?;
        let (body, sum) = bytes.split_at(LEN);
        if crc32fast::hash(body).to_le_bytes() != sum {
            return None;
        }
        let mut numbers = body.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
        let mut next = || numbers.next().unwrap_or(0);
        if next() != MAGIC {
            return None;
        }
        Some(Self {
            boot: next(),
            epoch: next(),
            base: next(),
            last: next(),
            acked: next(),
            sent: next(),
            at_work: Moment(next().cast_signed()),
        })
    }

    pub(super) fn write(&self, file: &File, slot: Slot) -> io::Result<()> {
        let Self { boot, epoch, base, last, acked, sent, at_work } = *self;
        let mut bytes = [0; LEN + 4];
        let words = [MAGIC, boot, epoch, base, last, acked, sent, at_work.0.cast_unsigned()];
        let (body, sum) = bytes.split_at_mut(LEN);
        for (place, word) in body.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        sum.copy_from_slice(&crc32fast::hash(body).to_le_bytes());
        file.write_all_at(&bytes, slot.offset())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::store::open_private;

    #[test]
    fn what_was_written_is_read_and_nothing_that_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        assert_eq!(Mark::read(&path, Slot::Store), None);
        let file = open_private(&path).unwrap();
        assert_eq!(Mark::read(&path, Slot::Store), None);
        let mark =
            Mark { boot: boot("b"), epoch: 7, base: 9, last: 100, acked: 50, sent: 60, at_work: Moment(-5) };
        mark.write(&file, Slot::Store).unwrap();
        let later = Mark { last: 101, ..mark };
        later.write(&file, Slot::Store).unwrap();
        assert_eq!(Mark::read(&path, Slot::Store), Some(later));
        let memory = Mark { epoch: 9, ..mark };
        memory.write(&file, Slot::Memory).unwrap();
        assert_eq!(Mark::read(&path, Slot::Store), Some(later));
        assert_eq!(Mark::read(&path, Slot::Memory), Some(memory));
        Slot::Memory.clear(&file).unwrap();
        assert_eq!(Mark::read(&path, Slot::Memory), None);
        file.set_len(68).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            assert_eq!(Mark::read(&path, Slot::Store), None, "byte {at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(Mark::read(&path, Slot::Store), None, "cut at {at}");
        }
    }
}

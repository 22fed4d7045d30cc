//! A few bytes beside the store, written with every batch and every second, never synced: what they say that the
//! store does not know was lost.
//!
//! ```text
//! magic u64 · epoch u64 · last u64 · acked u64 · sent u64 · time at work i64 (unix ns) · crc32 of all before
//! ```
//! Little-endian, in place. A process that is killed leaves it as it was last written. There is room for two, in one
//! block of the file system: once the first is written, neither needs any room on a disk that is full.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use crate::trail::Moment;

const MAGIC: u64 = u64::from_le_bytes(*b"podtrl 1");
const MAGIC_BEHIND: u64 = u64::from_le_bytes(*b"podtrl b");
const LEN: usize = 6 * 8;

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
    pub(super) epoch: u64,
    pub(super) last: u64,
    pub(super) acked: u64,
    pub(super) sent: u64,
    pub(super) at_work: Moment,
    /// there may be more that the store has not than the numbers say
    pub(super) behind: bool,
}

impl Slot {
    fn offset(self) -> u64 {
        match self {
            Self::Store => 0,
            Self::Memory => 64,
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
        let behind = match next() {
            MAGIC => false,
            MAGIC_BEHIND => true,
            _ => return None,
        };
        Some(Self {
            epoch: next(),
            last: next(),
            acked: next(),
            sent: next(),
            at_work: Moment(next().cast_signed()),
            behind,
        })
    }

    /// What is missing by its word, and whether that is exact: what was sent may have come.
    pub(super) fn unacked(&self) -> (u64, bool) {
        (self.last.saturating_sub(self.acked), !self.behind && self.sent <= self.acked)
    }

    pub(super) fn write(&self, file: &File, slot: Slot) -> io::Result<()> {
        let Self { epoch, last, acked, sent, at_work, behind } = *self;
        let magic = if behind { MAGIC_BEHIND } else { MAGIC };
        let mut bytes = [0; LEN + 4];
        let words = [magic, epoch, last, acked, sent, at_work.0.cast_unsigned()];
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
        let mark = Mark { epoch: 7, last: 100, acked: 50, sent: 60, at_work: Moment(-5), behind: false };
        mark.write(&file, Slot::Store).unwrap();
        let later = Mark { last: 101, ..mark };
        later.write(&file, Slot::Store).unwrap();
        assert_eq!(Mark::read(&path, Slot::Store), Some(later));
        let memory = Mark { epoch: 9, behind: true, ..mark };
        memory.write(&file, Slot::Memory).unwrap();
        assert_eq!(Mark::read(&path, Slot::Store), Some(later));
        assert_eq!(Mark::read(&path, Slot::Memory), Some(memory));
        Slot::Memory.clear(&file).unwrap();
        assert_eq!(Mark::read(&path, Slot::Memory), None);
        file.set_len(52).unwrap();
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

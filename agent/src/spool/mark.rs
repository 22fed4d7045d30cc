//! A few bytes beside the store, written with every batch and every second, never synced: what they say that the
//! store does not know was lost.
//!
//! ```text
//! magic u64 · epoch u64 · last u64 · acked u64 · sent u64 · time at work i64 (unix ns) · crc32 of all before
//! ```
//! Little-endian, in place. A process that is killed leaves it as it was last written.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use crate::trail::Moment;

const MAGIC: u64 = u64::from_le_bytes(*b"podtrl 1");
const LEN: usize = 6 * 8;

/// What it says. Numbers are cursors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) epoch: u64,
    pub(super) last: u64,
    pub(super) acked: u64,
    pub(super) sent: u64,
    pub(super) at_work: Moment,
}

impl Mark {
    /// `None`: there is none, or none that can be read.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let mut bytes = [0; LEN + 4];
        File::open(path).ok()?.read_exact_at(&mut bytes, 0).ok()?;
        let (body, sum) = bytes.split_at(LEN);
        if crc32fast::hash(body).to_le_bytes() != sum {
            return None;
        }
        let mut numbers = body.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
        let mut next = || numbers.next().unwrap_or(0);
        (next() == MAGIC).then(|| Self {
            epoch: next(),
            last: next(),
            acked: next(),
            sent: next(),
            at_work: Moment(next().cast_signed()),
        })
    }

    pub(super) fn write(&self, file: &File) -> io::Result<()> {
        let Self { epoch, last, acked, sent, at_work } = *self;
        let mut bytes = [0; LEN + 4];
        let words = [MAGIC, epoch, last, acked, sent, at_work.0.cast_unsigned()];
        let (body, sum) = bytes.split_at_mut(LEN);
        for (place, word) in body.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        sum.copy_from_slice(&crc32fast::hash(body).to_le_bytes());
        file.write_all_at(&bytes, 0)
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
        assert_eq!(Mark::read(&path), None);
        let file = open_private(&path).unwrap();
        assert_eq!(Mark::read(&path), None);
        let mark = Mark { epoch: 7, last: 100, acked: 50, sent: 60, at_work: Moment(-5) };
        mark.write(&file).unwrap();
        let later = Mark { last: 101, ..mark };
        later.write(&file).unwrap();
        assert_eq!(Mark::read(&path), Some(later));
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            assert_eq!(Mark::read(&path), None, "byte {at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(Mark::read(&path), None, "cut at {at}");
        }
    }
}

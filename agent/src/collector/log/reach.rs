//! How far the log has come, told outside of its store: what a store has lost at its end, or as a whole, it does not
//! know itself.
//!
//! ```text
//! DATA/reach     oldest u64 · newest u64 · the first 8 bytes of the SHA-256 of both
//! ```
//! Written in place after every append, and not synced: it may be behind the store after a power cut, and never is
//! ahead of what was acknowledged. One that cannot be read says nothing.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use sha2::{Digest as _, Sha256};

use crate::trail::log::Cursor;

/// See the module.
#[derive(Debug)]
pub(super) struct Reach(File);

/// The cursors of the oldest and the newest event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reached {
    pub(super) oldest: Cursor,
    pub(super) newest: Cursor,
}

impl Reached {
    pub(super) fn count(self) -> u64 {
        (self.newest + 1).saturating_sub(self.oldest)
    }
}

impl Reach {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        File::options().create(true).truncate(false).read(true).write(true).mode(0o600).open(path).map(Self)
    }

    pub(super) fn read(&self) -> Option<Reached> {
        let mut bytes = [0; 24];
        self.0.read_exact_at(&mut bytes, 0).ok()?;
        let (numbers, sum) = bytes.split_first_chunk::<16>()?;
        if *sum != check(numbers) {
            return None;
        }
        let (oldest, newest) = numbers.split_first_chunk::<8>()?;
        let reached = Reached {
            oldest: u64::from_be_bytes(*oldest),
            newest: u64::from_be_bytes(newest.try_into().ok()?),
        };
        // Nothing that an attacker of the file could make overflow.
        (reached.newest < u64::MAX / 2 && reached.oldest <= reached.newest + 1).then_some(reached)
    }

    /// A failure is passed over: the store's own writes tell of a disk that is not well.
    pub(super) fn write(&self, reached: Reached) {
        let Reached { oldest, newest } = reached;
        let numbers = [oldest.to_be_bytes(), newest.to_be_bytes()].concat();
        _ = self.0.write_all_at(&[&numbers[..], &check(&numbers)].concat(), 0);
    }
}

fn check(numbers: &[u8]) -> [u8; 8] {
    let sum = Sha256::digest(numbers);
    sum.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_last_is_read_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reach");
        let reach = Reach::open(&path).unwrap();
        assert_eq!(reach.read(), None);
        let wanted = Reached { oldest: 5, newest: 1 << 40 };
        reach.write(Reached { oldest: 1, newest: 2 });
        reach.write(wanted);
        assert_eq!(Reach::open(&path).unwrap().read(), Some(wanted));
        reach.write(Reached { oldest: 5, newest: 4 });
        assert_eq!(reach.read().map(Reached::count), Some(0));
        reach.write(wanted);
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert_eq!(reach.read(), None, "{at}");
            std::fs::write(&path, &good[..at]).unwrap();
            assert_eq!(reach.read(), None, "{at}");
        }
        reach.write(Reached { oldest: 1, newest: u64::MAX });
        assert_eq!(reach.read(), None);
    }
}

//! Room on the disk. A store that runs out of it in the middle of a write must be opened again, and cannot trim: so
//! appends end while there is still some.

use nix::sys::statvfs::statvfs;

use super::DiskLog;
use crate::trail::log::LogError;

/// What is left alone: enough for the store to write its newest events to tables, or a sixteenth of a small disk.
const SPARE: u64 = 128 * 1024 * 1024;
const SPARE_PART: u64 = 16;

impl DiskLog {
    /// Whether an append would leave the store the room that it needs.
    pub(in crate::collector) fn check_room(&self) -> Result<(), LogError> {
        self.room(|spare| spare)
    }

    /// The same for a log that has stopped for it: with some more, or it would stop again at once.
    pub(in crate::collector) fn check_room_to_go_on(&self) -> Result<(), LogError> {
        self.room(|spare| spare / 4 * 5)
    }

    fn room(&self, wanted: impl Fn(u64) -> u64) -> Result<(), LogError> {
        let path = self.directory.store();
        // A file system that does not tell is taken to have room.
        let Ok(disk) = statvfs(&path) else { return Ok(()) };
        let free = disk.blocks_available().saturating_mul(disk.fragment_size());
        let all = disk.blocks().saturating_mul(disk.fragment_size());
        let needed = wanted(SPARE.min(all / SPARE_PART));
        if free >= needed {
            return Ok(());
        }
        Err(LogError::Full { path: path.display().to_string(), needed })
    }
}

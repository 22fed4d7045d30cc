//! What was told of losses, pinned beside the counters: a map of one value, which no program reads.
//!
//! The spool has the same together with the state, and that is what counts where both can be gone on with. Where they
//! cannot, because the disk failed or lost them, the counters go on all the same, and what was told in events that are
//! lost by now is missed by their numbers: told again it would be counted twice.

use std::{os::fd::AsFd as _, path::Path};

use aya::maps::{Array, IterableMap as _, Map, MapData};

use super::{ProbeError, load::map_error, pins, position::Position, seed::Bytes};

/// A length and so many bytes: far more than there are counters and hooks.
const SIZE: usize = 4096;

pub(super) struct ToldMap {
    map: Array<MapData, Bytes<SIZE>>,
    /// as it was last written
    written: Option<Bytes<SIZE>>,
}

impl ToldMap {
    pub(super) fn create() -> Result<Self, ProbeError> {
        let map = Array::create(1, 0).map_err(|e| map_error("make", "told", &e))?;
        Ok(Self { map, written: None })
    }

    /// `None`: there is none, or something else is pinned there.
    pub(super) fn pinned(path: &Path) -> Option<Self> {
        let map = Map::from_map_data(MapData::from_pin(path).ok()?).ok()?;
        Some(Self { map: Array::try_from(map).ok()?, written: None })
    }

    pub(super) fn pin(&self, path: &Path) -> Result<(), ProbeError> {
        Ok(pins::replace(self.map.map().fd().as_fd(), path)?)
    }

    /// `None`: it is not known.
    pub(super) fn read(&self) -> Option<Position> {
        let bytes = self.map.get(&0, 0).ok()?;
        let (length, rest) = bytes.split_first_chunk()?;
        Position::decode(rest.get(..usize::try_from(u32::from_le_bytes(*length)).ok()?)?)
    }

    /// `None`: nobody knows.
    pub(super) fn write(&mut self, told: Option<&Position>) -> Result<(), ProbeError> {
        let bytes = told.map(Position::encode).unwrap_or_default();
        let mut value = [0; SIZE];
        // What does not fit is not known.
        if let (Some((to, rest)), Ok(length)) = (value.split_first_chunk_mut(), u32::try_from(bytes.len()))
            && let Some(rest) = rest.get_mut(..bytes.len())
        {
            *to = length.to_le_bytes();
            rest.copy_from_slice(&bytes);
        }
        if self.written != Some(value) {
            self.map.set(0, value, 0).map_err(|e| map_error("write", "told", &e))?;
            self.written = Some(value);
        }
        Ok(())
    }
}

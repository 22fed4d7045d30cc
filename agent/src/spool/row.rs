//! Events as the store has them: those of one batch in one row.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::Encoded;
use crate::trail::Moment;

/// A row is not longer than this, but for one that has a single event.
const ROW_MAX: usize = 256 << 10;

/// What a row costs beside its bytes.
const OVERHEAD: u64 = 48;

/// Consecutive events: cursors from `first`, all logged at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) logged: Moment,
    /// of each event its length (u32, little-endian) and its bytes
    pub(super) bytes: Bytes,
}

/// A row without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) logged: Moment,
    /// on disk
    pub(super) size: u64,
}

impl Place {
    pub(super) fn new(first: u64, count: u64, logged: Moment, bytes: u64) -> Self {
        Self { first, count, logged, size: bytes.saturating_add(OVERHEAD) }
    }

    /// The cursor of its last event.
    pub(super) fn last(&self) -> u64 {
        self.first.saturating_add(self.count).saturating_sub(1)
    }
}

impl Row {
    pub(super) fn place(&self) -> Place {
        Place::new(self.first, self.count, self.logged, self.bytes.len() as u64)
    }

    /// Puts events into rows.
    pub(super) fn pack<'a>(events: impl Iterator<Item = &'a Encoded>) -> Vec<Self> {
        let mut rows = Vec::new();
        let mut row: Option<(Self, BytesMut)> = None;
        for event in events {
            let len = event.bytes.len() + 4;
            let fits = |(row, bytes): &(Self, BytesMut)| {
                row.first + row.count == event.cursor
                    && row.logged == event.logged
                    && bytes.len() + len <= ROW_MAX
            };
            if let Some(full) = row.take_if(|row| !fits(row)) {
                rows.push(full);
            }
            let empty = Self { first: event.cursor, count: 0, logged: event.logged, bytes: Bytes::new() };
            let (row, bytes) = row.get_or_insert_with(|| (empty, BytesMut::new()));
            row.count += 1;
            bytes.put_u32_le(u32::try_from(event.bytes.len()).unwrap_or(u32::MAX));
            bytes.put_slice(&event.bytes);
        }
        rows.extend(row);
        rows.into_iter().map(|(row, bytes)| Self { bytes: bytes.freeze(), ..row }).collect()
    }

    /// Over all that it is.
    pub(super) fn sum(&self) -> u32 {
        let mut sum = crc32fast::Hasher::new();
        sum.update(&self.first.to_le_bytes());
        sum.update(&self.count.to_le_bytes());
        sum.update(&self.logged.0.to_le_bytes());
        sum.update(&self.bytes);
        sum.finalize()
    }

    /// Its events: cursor and bytes. `None`: they are not what was written.
    pub(super) fn unpack(&self) -> Option<Vec<(u64, Bytes)>> {
        let mut rest = self.bytes.clone();
        let mut events = Vec::new();
        while !rest.is_empty() {
            let len = usize::try_from(u32::from_le_bytes(*rest.first_chunk()?)).ok()?;
            let end = len.checked_add(4).filter(|end| *end <= rest.len())?;
            let event = rest.split_to(end).slice(4..);
            events.push((self.first.checked_add(events.len() as u64)?, event));
        }
        (events.len() as u64 == self.count).then_some(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(cursor: u64, len: usize) -> Encoded {
        Encoded { cursor, seq: cursor, logged: Moment(1), bytes: vec![7; len].into() }
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let events: Vec<_> =
            [0, 5, ROW_MAX, 3, 100].into_iter().zip(8..).map(|(len, n)| event(n, len)).collect();
        let rows = Row::pack(events.iter());
        assert_eq!(
            rows.iter().map(|row| (row.first, row.count)).collect::<Vec<_>>(),
            [(8, 2), (10, 1), (11, 2)]
        );
        let unpacked: Vec<_> = rows.iter().flat_map(|row| row.unpack().unwrap()).collect();
        assert_eq!(unpacked, events.iter().map(|e| (e.cursor, e.bytes.clone())).collect::<Vec<_>>());
        assert_eq!(rows[0].place().last(), 9);
    }

    #[test]
    fn events_with_a_hole_between_them_are_in_two_rows() {
        let rows = Row::pack([event(1, 1), event(3, 1)].iter());
        assert_eq!(rows.len(), 2);
    }

    #[test]
    fn rows_that_lie_are_refused() {
        let row = Row::pack([event(1, 10), event(2, 10)].iter()).remove(0);
        for at in 0..row.bytes.len() {
            let cut = Row { bytes: row.bytes.slice(..at), ..row.clone() };
            assert_eq!(cut.unpack(), None, "cut at {at}");
            assert_ne!(cut.sum(), row.sum());
        }
        assert_eq!(Row { count: 3, ..row.clone() }.unpack(), None);
        assert_eq!(Row { bytes: Bytes::from_static(&[0xff; 20]), ..row }.unpack(), None);
    }
}

//! The spool as a log, for the readers on the node's socket: a cursor is a sequence number.

use std::sync::Arc;

use podtrail_proto::v1;
use tokio::sync::watch;

use super::{Moment, Spool, decode};
use crate::trail::log::{Bounds, Cursor, Limits, Log, LogError};

impl Log for Spool {
    fn append(&self, events: Vec<Arc<v1::Event>>) -> Result<Cursor, LogError> {
        let mut events: Vec<v1::Event> = events.into_iter().map(Arc::unwrap_or_clone).collect();
        let now = events.last().map_or_else(Moment::default, |event| Moment {
            wall: event.time.unwrap_or_default(),
            boottime_ns: event.boottime_ns,
        });
        Ok(self.push(&mut events, now))
    }

    fn read(&self, after: Cursor, max: usize) -> Result<Vec<(Cursor, Arc<v1::Event>)>, LogError> {
        // Decoded outside the lock: a reader costs the pipeline nothing but the copy of references.
        self.read_after(after, max)
            .iter()
            .map(|entry| match decode(entry) {
                Ok(event) => Ok((entry.seq, event)),
                Err(e) => Err(LogError::Corrupt(entry.seq, e.to_string())),
            })
            .collect()
    }

    fn bounds(&self) -> Result<Bounds, LogError> {
        let oldest = self.read_after(0, 1).pop();
        let fill = self.fill();
        let oldest_time = oldest.as_ref().and_then(|entry| decode(entry).ok()).and_then(|event| event.time);
        Ok(Bounds {
            oldest: oldest.map_or(0, |entry| entry.seq),
            newest: fill.last_seq,
            oldest_time,
            events: u64::try_from(fill.events).unwrap_or(u64::MAX),
            bytes: u64::try_from(fill.bytes).unwrap_or(u64::MAX),
        })
    }

    /// The spool keeps to its own bound; a reader's limits are no reason to drop what the collector has not got.
    fn trim(&self, _limits: &Limits) -> Result<u64, LogError> {
        Ok(0)
    }

    fn newest(&self) -> watch::Receiver<Cursor> {
        self.newest_seq()
    }
}

//! The spool as a log, for the readers on the node's socket: a cursor is a sequence number. What was dropped leaves
//! a hole in them, and a gap that says so.

use std::sync::Arc;

use podtrail_proto::v1;
use prost::Message as _;
use tokio::sync::watch;

use super::{Encoded, Now, Spool};
use crate::{
    event::BootTime,
    trail::{
        LogId, Moment,
        log::{Bounds, Cursor, Entry, Limits, Log, LogError, Page},
    },
};

impl Log for Spool {
    fn id(&self) -> LogId {
        LogId::of_epoch(self.identity().epoch)
    }

    fn append(&self, events: Vec<Arc<v1::Event>>) -> Result<Cursor, LogError> {
        let boot = BootTime(events.last().map_or(0, |event| event.boottime_ns));
        let mut events = events.into_iter().map(Arc::unwrap_or_clone).collect();
        self.push(&mut events, Now { wall: Moment::now(), boot }, &mut Vec::new());
        Ok(*self.newest_seq().borrow())
    }

    // Decoded outside the lock: a reader costs the pipeline nothing but the copy of references.
    fn read(&self, after: Cursor, page: Page) -> Result<Vec<Entry>, LogError> {
        self.entries(after, page).iter().map(decode).collect()
    }

    fn get(&self, cursors: &[Cursor], page: Page) -> Result<Vec<Entry>, LogError> {
        let mut found: Vec<Encoded> = Vec::new();
        let mut total = 0;
        for cursor in cursors {
            let Some(before) = cursor.checked_sub(1) else { continue };
            let one = Page { max_events: 1, max_bytes: usize::MAX };
            let Some(entry) = self.entries(before, one).pop().filter(|entry| entry.cursor == *cursor) else {
                continue;
            };
            if !page.takes(found.len(), total, entry.bytes.len()) {
                break;
            }
            total += entry.bytes.len();
            found.push(entry);
        }
        found.iter().map(decode).collect()
    }

    fn seek(&self, time: Moment) -> Result<Cursor, LogError> {
        let inner = self.lock();
        let row = inner.recent.get(inner.recent.partition_point(|place| place.logged < time));
        let memory = inner.memory.partition_point(|entry| entry.logged < time);
        let memory = inner.memory.get(memory).map(|entry| entry.cursor);
        let first = row.map(|place| place.first).into_iter().chain(memory).min();
        Ok(first.map_or(inner.last, |first| first - 1))
    }

    /// What readers on the node see: the newest alone, however much waits for the collector.
    fn bounds(&self) -> Result<Bounds, LogError> {
        let inner = self.lock();
        let row = inner.recent.front().map(|place| (place.first, place.logged));
        let memory = inner.memory.front().map(|entry| (entry.cursor, entry.logged));
        let oldest = row.into_iter().chain(memory).min();
        let fill = inner.fill();
        Ok(Bounds {
            oldest: oldest.map_or(inner.last + 1, |(cursor, _)| cursor),
            newest: inner.last,
            oldest_time: oldest.map(|(_, logged)| logged),
            events: u64::try_from(fill.events).unwrap_or(u64::MAX),
            bytes: fill.disk_bytes.saturating_add(u64::try_from(fill.bytes).unwrap_or(u64::MAX)),
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

fn decode(entry: &Encoded) -> Result<Entry, LogError> {
    let Encoded { cursor, seq: _, logged, bytes } = entry;
    match v1::Event::decode(bytes.clone()) {
        Ok(event) => Ok(Entry { cursor: *cursor, logged: *logged, event: Arc::new(event) }),
        Err(e) => Err(LogError::Corrupt(*cursor, e.to_string())),
    }
}

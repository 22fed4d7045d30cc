//! The spool as a log, for the readers on the node's socket: a cursor is a sequence number. What was dropped leaves
//! a hole in them, and a gap that says so.

use std::sync::Arc;

use podtrail_proto::v1;
use prost::Message as _;
use tokio::sync::watch;

use super::{Encoded, Now, Spool, paged};
use crate::{
    event::BootTime,
    trail::{
        LogId, Moment,
        log::{Bounds, Cursor, Entry, Limits, Log, LogError, Page},
    },
};

impl Log for Spool {
    fn id(&self) -> LogId {
        LogId::of_epoch(self.identity.epoch)
    }

    fn append(&self, events: Vec<Arc<v1::Event>>) -> Result<Cursor, LogError> {
        let boot = BootTime(events.last().map_or(0, |event| event.boottime_ns));
        let mut events = events.into_iter().map(Arc::unwrap_or_clone).collect();
        self.push(&mut events, Now { wall: Moment::now(), boot }, &mut Vec::new());
        Ok(*self.newest_seq().borrow())
    }

    // Decoded outside the lock: a reader costs the pipeline nothing but the copy of references.
    fn read(&self, after: Cursor, page: Page) -> Result<Vec<Entry>, LogError> {
        self.read_after(after, page).iter().map(decode).collect()
    }

    fn get(&self, cursors: &[Cursor], page: Page) -> Result<Vec<Entry>, LogError> {
        let found = {
            let inner = self.lock();
            let find = |cursor: &Cursor| {
                [&inner.kept, &inner.queue].into_iter().find_map(|entries| {
                    entries
                        .binary_search_by_key(cursor, |entry| entry.seq)
                        .ok()
                        .and_then(|at| entries.get(at))
                })
            };
            paged(cursors.iter().filter_map(find), page)
        };
        found.iter().map(decode).collect()
    }

    fn seek(&self, time: Moment) -> Result<Cursor, LogError> {
        let inner = self.lock();
        let kept = inner.kept.partition_point(|entry| entry.logged < time);
        let queue = inner.queue.partition_point(|entry| entry.logged < time);
        let first = inner.kept.range(kept..).chain(inner.queue.range(queue..)).next();
        Ok(first.map_or(inner.last, |entry| entry.seq - 1))
    }

    fn bounds(&self) -> Result<Bounds, LogError> {
        let inner = self.lock();
        let oldest = inner.kept.front().or_else(|| inner.queue.front());
        Ok(Bounds {
            oldest: oldest.map_or(inner.last + 1, |entry| entry.seq),
            newest: inner.last,
            oldest_time: oldest.map(|entry| entry.logged),
            events: u64::try_from(inner.kept.len() + inner.queue.len()).unwrap_or(u64::MAX),
            bytes: u64::try_from(inner.bytes).unwrap_or(u64::MAX),
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
    let Encoded { seq, logged, bytes } = entry;
    match v1::Event::decode(bytes.clone()) {
        Ok(event) => Ok(Entry { cursor: *seq, logged: *logged, event: Arc::new(event) }),
        Err(e) => Err(LogError::Corrupt(*seq, e.to_string())),
    }
}

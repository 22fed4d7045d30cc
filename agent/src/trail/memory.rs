//! A log in memory, bounded by bytes: for readers on the node, and for tests.
//!
//! It never grows beyond its bound: the oldest go first, and only the newest event is kept whatever its size.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use podtrail_proto::v1;
use prost::Message as _;
use tokio::sync::watch;

use super::{
    LogId, Moment,
    log::{Bounds, Cursor, Entry, Limits, Log, LogError, Page},
    moment::Clock,
};

/// See the module.
pub struct MemoryLog {
    id: LogId,
    max_bytes: u64,
    clock: Clock,
    inner: Mutex<Inner>,
    newest: watch::Sender<Cursor>,
}

#[derive(Default)]
struct Inner {
    kept: VecDeque<Kept>,
    /// of the last that was ever appended
    newest: Cursor,
    bytes: u64,
}

struct Kept {
    entry: Entry,
    bytes: usize,
}

impl MemoryLog {
    /// An empty log that keeps at most `max_bytes` of encoded events.
    #[must_use]
    pub fn new(max_bytes: u64) -> Self {
        Self::with_clock(max_bytes, Moment::clock())
    }

    #[must_use]
    pub fn with_clock(max_bytes: u64, clock: Clock) -> Self {
        Self { id: LogId::random(), max_bytes, clock, inner: Mutex::default(), newest: watch::Sender::new(0) }
    }

    // Every change leaves `Inner` whole, so a panic elsewhere while it was held spoils nothing.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLog").field("max_bytes", &self.max_bytes).finish_non_exhaustive()
    }
}

impl Inner {
    fn oldest(&self) -> Cursor {
        self.kept.front().map_or(self.newest + 1, |k| k.entry.cursor)
    }

    /// Index in `kept` of the first entry after `after`.
    fn place_after(&self, after: Cursor) -> usize {
        usize::try_from((after + 1).saturating_sub(self.oldest())).unwrap_or(usize::MAX).min(self.kept.len())
    }

    fn drop_oldest(&mut self) {
        if let Some(k) = self.kept.pop_front() {
            self.bytes = self.bytes.saturating_sub(k.bytes as u64);
        }
    }
}

impl Log for MemoryLog {
    fn id(&self) -> LogId {
        self.id
    }

    fn append(&self, events: Vec<Arc<v1::Event>>) -> Result<Cursor, LogError> {
        let mut inner = self.inner();
        if events.is_empty() {
            return Ok(inner.newest);
        }
        let logged = (self.clock)().max(inner.kept.back().map_or(Moment::MIN, |k| k.entry.logged));
        for event in events {
            inner.newest += 1;
            let bytes = event.encoded_len();
            inner.bytes += bytes as u64;
            let entry = Entry { cursor: inner.newest, logged, event };
            inner.kept.push_back(Kept { entry, bytes });
            while inner.bytes > self.max_bytes && inner.kept.len() > 1 {
                inner.drop_oldest();
            }
        }
        let newest = inner.newest;
        self.newest.send_replace(newest);
        Ok(newest)
    }

    fn read(&self, after: Cursor, page: Page) -> Result<Vec<Entry>, LogError> {
        let inner = self.inner();
        let start = inner.place_after(after);
        let mut total = 0;
        Ok(inner
            .kept
            .range(start..)
            .enumerate()
            .take_while(|(n, k)| {
                let takes = page.takes(*n, total, k.bytes);
                total += k.bytes;
                takes
            })
            .map(|(_, k)| k.entry.clone())
            .collect())
    }

    fn get(&self, cursors: &[Cursor], page: Page) -> Result<Vec<Entry>, LogError> {
        let inner = self.inner();
        let oldest = inner.oldest();
        let mut found = Vec::new();
        let mut total = 0;
        for k in cursors.iter().filter(|c| **c >= oldest && **c > 0) {
            let Some(k) = inner.kept.get(inner.place_after(k - 1)) else { break };
            if !page.takes(found.len(), total, k.bytes) {
                break;
            }
            total += k.bytes;
            found.push(k.entry.clone());
        }
        Ok(found)
    }

    fn seek(&self, time: Moment) -> Result<Cursor, LogError> {
        let inner = self.inner();
        let earlier = inner.kept.partition_point(|k| k.entry.logged < time);
        Ok(inner.oldest() - 1 + earlier as u64)
    }

    fn bounds(&self) -> Result<Bounds, LogError> {
        let inner = self.inner();
        Ok(Bounds {
            oldest: inner.oldest(),
            newest: inner.newest,
            oldest_time: inner.kept.front().map(|k| k.entry.logged),
            events: inner.kept.len() as u64,
            bytes: inner.bytes,
        })
    }

    fn trim(&self, limits: &Limits) -> Result<u64, LogError> {
        let mut inner = self.inner();
        let from = (self.clock)().before(limits.max_age);
        let before = inner.kept.len();
        while inner.kept.front().is_some_and(|k| k.entry.logged < from) || inner.bytes > limits.max_bytes {
            inner.drop_oldest();
        }
        Ok((before - inner.kept.len()) as u64)
    }

    fn newest(&self) -> watch::Receiver<Cursor> {
        self.newest.subscribe()
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;

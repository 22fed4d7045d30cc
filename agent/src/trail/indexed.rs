//! A log and its index, kept in step.

use std::sync::{
    Arc, Mutex, PoisonError, RwLock, RwLockReadGuard,
    atomic::{AtomicBool, Ordering},
};

use podtrail_proto::v1;

use super::{
    Moment,
    index::Index,
    log::{Cursor, Entry, Limits, Log, LogError, Page},
};

/// Everything that is appended to the log through here is counted. Readers may see an event in the log a moment
/// before it is counted, never the other way round.
#[derive(Debug)]
pub struct Indexed<L> {
    log: Arc<L>,
    index: RwLock<Index>,
    /// held from an append to its counting, so that events are counted in their order
    writing: Mutex<()>,
    /// somebody finds out whose sessions are
    attributes: AtomicBool,
}

impl<L: Log> Indexed<L> {
    /// Takes a log as it is, and counts what it holds.
    pub fn open(log: Arc<L>) -> Result<Self, LogError> {
        let indexed = Self {
            log,
            index: RwLock::default(),
            writing: Mutex::default(),
            attributes: AtomicBool::new(false),
        };
        indexed.catch_up()?;
        Ok(indexed)
    }

    /// The log itself. Whoever appends to it here must call [`Self::catch_up`].
    #[must_use]
    pub fn log(&self) -> &Arc<L> {
        &self.log
    }

    /// From now on verdicts on sessions come.
    pub fn set_attributes(&self) {
        self.attributes.store(true, Ordering::Relaxed);
    }

    /// Whether verdicts on sessions are to be waited for.
    pub fn attributes(&self) -> bool {
        self.attributes.load(Ordering::Relaxed)
    }

    /// To ask it. Ask quickly: appends wait meanwhile.
    pub fn index(&self) -> RwLockReadGuard<'_, Index> {
        // An index left half-way by a panic counts wrongly at worst; it is rebuilt at the next start.
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Index)) {
        change(&mut self.index.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Appends, counts, and returns the cursor of the last. May touch the disk.
    pub fn append(&self, events: Vec<Arc<v1::Event>>) -> Result<Cursor, LogError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.log.append(events)?;
        self.count_new()
    }

    /// Counts what was appended to the log directly. May touch the disk.
    pub fn catch_up(&self) -> Result<Cursor, LogError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.count_new()
    }

    /// Counts what the log's only writer has just appended to it, without reading it back. `entries` are all that
    /// came since the last time, in order.
    pub fn count(&self, entries: &[Entry]) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.change(|index| entries.iter().for_each(|e| index.apply(e)));
    }

    // Reads back what was just written: logs keep the newest at hand, and this way the log alone says when an event
    // was logged, and what it dropped at once.
    fn count_new(&self) -> Result<Cursor, LogError> {
        let oldest = self.log.bounds()?.oldest;
        let mut newest = self.index().newest();
        loop {
            let page: Vec<Entry> = self.log.read(newest.max(oldest.saturating_sub(1)), Page::SCAN)?;
            let Some(last) = page.last() else { break };
            newest = last.cursor;
            self.change(|index| page.iter().for_each(|e| index.apply(e)));
        }
        self.change(|index| index.trim(oldest));
        Ok(newest)
    }

    /// Trims the log and takes back the counts. May touch the disk.
    pub fn trim(&self, limits: &Limits) -> Result<u64, LogError> {
        let dropped = self.log.trim(limits)?;
        if dropped > 0 {
            let oldest = self.log.bounds()?.oldest;
            self.change(|index| index.trim(oldest));
        }
        Ok(dropped)
    }

    /// An agent's stream began (`true`) or ended.
    pub fn set_connected(&self, cluster: &str, node: &str, connected: bool) {
        self.change(|index| index.set_connected(cluster, node, connected, Moment::now()));
    }
}

//! An ordered sequence of events, and places in it.

use std::{io, sync::Arc, time::Duration};

use podtrail_proto::v1;
use tokio::sync::watch;

use super::{LogId, Moment};

/// A place in a log: the number of the event that stands there, from 1. 0 is before the first.
pub type Cursor = u64;

/// An ordered sequence of events. What it carries it does not care about.
///
/// Methods may touch the disk: call them where blocking is allowed. Cursors are dense and never used again: after
/// a trim they go on from where they were.
pub trait Log: Send + Sync + 'static {
    /// Which log it is: no other has the same, and it stays the same as long as cursors mean the same events.
    fn id(&self) -> LogId;

    /// Appends, in order, and returns the cursor of the last once all are as durable as this log makes them:
    /// the first then stands at that cursor less `events.len() - 1`. All or none are kept.
    ///
    /// No events: nothing happens, and the newest cursor comes back.
    fn append(&self, events: Vec<Arc<v1::Event>>) -> Result<Cursor, LogError>;

    /// Events after `after`, oldest first, up to `page`. Events that are trimmed already are skipped silently here:
    /// compare with [`Bounds::oldest`].
    fn read(&self, after: Cursor, page: Page) -> Result<Vec<Entry>, LogError>;

    /// The events at these cursors (ascending), up to `page`; those that are trimmed are left out. Whoever wants the
    /// rest goes on after the last that came.
    fn get(&self, cursors: &[Cursor], page: Page) -> Result<Vec<Entry>, LogError>;

    /// The place before the first event that was logged at `time` or later; the newest cursor where there is none.
    fn seek(&self, time: Moment) -> Result<Cursor, LogError>;

    /// What it holds now.
    fn bounds(&self) -> Result<Bounds, LogError>;

    /// Drops the oldest events until it keeps to `limits`; returns how many were dropped.
    fn trim(&self, limits: &Limits) -> Result<u64, LogError>;

    /// The newest cursor, as it grows.
    fn newest(&self) -> watch::Receiver<Cursor>;
}

/// An event in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub cursor: Cursor,
    /// when it was appended; never earlier than that of the entry before
    pub logged: Moment,
    pub event: Arc<v1::Event>,
}

/// How much to read at once. At least one event comes, however large, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    pub max_events: usize,
    /// as encoded, or an eighth of what they take decoded where that is more; the event that exceeds it is left for the next page
    pub max_bytes: usize,
}

impl Page {
    /// A good size for going through a log.
    pub const SCAN: Self = Self { max_events: 4096, max_bytes: 4 * 1024 * 1024 };

    /// Whether one more event of `bytes` fits to those there already.
    #[must_use]
    pub fn takes(&self, events: usize, total: usize, bytes: usize) -> bool {
        events == 0 || (events < self.max_events && total.saturating_add(bytes) <= self.max_bytes)
    }
}

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bounds {
    /// cursors of the oldest and the newest event. Where it is empty `oldest` is `newest + 1`: both as after a trim.
    pub oldest: Cursor,
    pub newest: Cursor,
    /// when the oldest event was logged
    pub oldest_time: Option<Moment>,
    pub events: u64,
    /// as encoded
    pub bytes: u64,
}

/// How much a log may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max_age: Duration,
    pub max_bytes: u64,
}

/// Why a log could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// cannot {call} {path}: {source}
    #[error("cannot {call} {path}: {source}")]
    Io { call: &'static str, path: String, source: io::Error },
    /// the store failed: {0}
    #[error("the store failed: {0}")]
    Store(String),
    /// the log is being opened again: come again
    #[error("the log is being opened again after a failed write: come again")]
    Closed,
    /// less than {needed} bytes are free on the disk of {path}
    #[error("less than {} MiB are free on the disk of {path}: make room, or lower --max-bytes", needed.div_ceil(1 << 20))]
    Full { path: String, needed: u64 },
    /// {path} is in use by another process: stop it, or use another data directory
    #[error("{path} is in use by another process: stop it, or use another data directory")]
    Locked { path: String },
    /// {path} was written by a newer podtrail (format {found}, this one reads up to {known}); upgrade, or use another directory
    #[error(
        "{path} was written by a newer podtrail (format {found}, this one reads up to {known}): upgrade podtrail, or use another --data directory"
    )]
    Newer { path: String, found: u32, known: u32 },
    /// {path} holds something else: use an empty directory
    #[error("{path} is not a podtrail log ({why}): use another data directory")]
    Foreign { path: String, why: String },
    /// the event at cursor {0} cannot be read
    #[error("the event at cursor {0} cannot be read: {1}")]
    Corrupt(Cursor, String),
}

impl LogError {
    pub(crate) fn io(call: &'static str, path: &std::path::Path, source: io::Error) -> Self {
        Self::Io { call, path: path.display().to_string(), source }
    }
}

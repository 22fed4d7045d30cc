//! An ordered sequence of events, and places in it.

use std::{io, sync::Arc, time::Duration};

use podtrail_proto::{Timestamp, v1};
use tokio::sync::watch;

/// A place in a log: the number of the event that stands there, from 1. 0 is before the first.
pub type Cursor = u64;

/// An ordered sequence of events. What it carries it does not care about.
///
/// Methods may touch the disk: call them where blocking is allowed.
pub trait Log: Send + Sync + 'static {
    /// Appends, in order, and returns the cursor of the last once all are as durable as this log makes them.
    fn append(&self, events: Vec<Arc<v1::Event>>) -> Result<Cursor, LogError>;

    /// Up to `max` events after `after`, oldest first. Events that are trimmed already are skipped silently here:
    /// compare with [`Bounds::oldest`].
    fn read(&self, after: Cursor, max: usize) -> Result<Vec<(Cursor, Arc<v1::Event>)>, LogError>;

    /// What it holds now.
    fn bounds(&self) -> Result<Bounds, LogError>;

    /// Drops the oldest events until it keeps to `limits`; returns how many were dropped.
    fn trim(&self, limits: &Limits) -> Result<u64, LogError>;

    /// The newest cursor, as it grows.
    fn newest(&self) -> watch::Receiver<Cursor>;
}

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bounds {
    /// cursors of the oldest and the newest event; both 0 where it is empty and always was
    pub oldest: Cursor,
    pub newest: Cursor,
    /// of the oldest event
    pub oldest_time: Option<Timestamp>,
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
    /// {path} was written by a newer podtrail (format {found}, this one reads up to {known}); upgrade, or use another directory
    #[error(
        "{path} was written by a newer podtrail (format {found}, this one reads up to {known}): upgrade podtrail, or use another --data directory"
    )]
    Newer { path: String, found: u32, known: u32 },
    /// the event at cursor {0} cannot be read
    #[error("the event at cursor {0} cannot be read: {1}")]
    Corrupt(Cursor, String),
}

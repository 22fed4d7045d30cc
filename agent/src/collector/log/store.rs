//! The embedded store: opened, told from a damaged one, closed again.
//!
//! What fjall finds damaged when it opens it refuses as a whole. It may panic on it too, which is caught here. What it
//! takes for granted, and would be aborted over, is looked at before (`inspect`).

use std::{
    collections::BTreeMap,
    error::Error,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode,
    config::{BlockSizePolicy, CompressionPolicy},
};

use super::inspect;
use crate::trail::log::LogError;

/// The store's caches; all in bytes.
const CACHE: u64 = 32 * 1024 * 1024;
pub(super) const MEMTABLE: u64 = 32 * 1024 * 1024;
const JOURNAL: u64 = 128 * 1024 * 1024;
/// What is compressed, and what is lost where the disk is damaged, as one: see docs/decisions/0019.
const BLOCK: u32 = 16 * 1024;
const EVENTS: &str = "events";
/// Threads that flush and compact.
const WORKERS: usize = 2;
/// Every batch has a number of the store's own, one after the other: more there never are.
const MAX_BATCHES: u64 = 1 << 56;
/// How long readers may take to let go of it.
const CLOSE_WAIT: Duration = Duration::from_secs(30);

/// Hold it for one call: while somebody does, it cannot be closed.
pub(in crate::collector) struct Store {
    pub(in crate::collector) database: Database,
    pub(super) events: Keyspace,
    pub(super) sequences: Keyspace,
    pub(super) state: Keyspace,
}

/// Why a store cannot be opened.
#[derive(Debug)]
pub(super) enum OpenError {
    /// what is on the disk is no store any more
    Damaged(String),
    Failed(LogError),
}

impl Store {
    /// Mends what is beside the events, where it is damaged: compaction would come upon it, and end all writing.
    pub(super) fn open(path: &Path, memtable: u64) -> Result<Self, OpenError> {
        let store = Self::open_with(path, memtable, WORKERS)?;
        if store.damaged().is_empty() {
            return Ok(store);
        }
        drop(store);
        // Nothing compacts meanwhile.
        let store = Self::open_with(path, memtable, 0)?;
        store.mend().map_err(|e| OpenError::Failed(store_error(e)))?;
        drop(store);
        Self::open_with(path, memtable, WORKERS)
    }

    fn open_with(path: &Path, memtable: u64, workers: usize) -> Result<Self, OpenError> {
        catch_unwind(AssertUnwindSafe(|| Self::try_open(path, memtable, workers)))
            .unwrap_or_else(|_| Err(OpenError::Damaged("the store panicked over it".to_owned())))
    }

    fn try_open(path: &Path, memtable: u64, workers: usize) -> Result<Self, OpenError> {
        if let Some(damage) = inspect::keyspaces(&path.join("keyspaces")) {
            return Err(OpenError::Damaged(damage));
        }
        let database = Database::builder(path)
            .cache_size(CACHE)
            .max_journaling_size(JOURNAL)
            .worker_threads_unchecked(workers)
            .open()
            .map_err(sort)?;
        // The journal does not protect them, and the store panics when they come to an end.
        if database.seqno() > MAX_BATCHES {
            return Err(OpenError::Damaged("a batch's number is damaged".to_owned()));
        }
        let keyspace = |name, memtable| {
            database
                .keyspace(name, || {
                    KeyspaceCreateOptions::default()
                        .max_memtable_size(memtable)
                        // The store's own policy begins with the third level, where tables that never overlap arrive
                        // without being written again.
                        .data_block_compression_policy(CompressionPolicy::all(CompressionType::Lz4))
                        .data_block_size_policy(BlockSizePolicy::all(BLOCK))
                })
                .map_err(sort)
        };
        let events = keyspace(EVENTS, memtable)?;
        let sequences = keyspace("sequences", 4 * 1024 * 1024)?;
        let state = keyspace("state", 1024 * 1024)?;
        Ok(Self { database, events, sequences, state })
    }

    /// What of all but the events cannot be read. It is small.
    fn damaged(&self) -> Vec<Keyspace> {
        let all = self.database.list_keyspace_names();
        let others = all.iter().filter(|name| &***name != EVENTS);
        let others =
            others.filter_map(|name| self.database.keyspace(name, KeyspaceCreateOptions::default).ok());
        others.filter(|keyspace| keyspace.iter().any(|item| item.into_inner().is_err())).collect()
    }

    /// Keeps of that what can be read. Whose it is knows how to go on without the rest.
    fn mend(&self) -> Result<(), fjall::Error> {
        for keyspace in self.damaged() {
            let front = keyspace.iter().map_while(|item| item.into_inner().ok());
            let back = keyspace.iter().rev().map_while(|item| item.into_inner().ok());
            let left: BTreeMap<_, _> = front.chain(back).collect();
            keyspace.clear()?;
            let mut batch = self.database.batch();
            for (key, value) in left {
                batch.insert(&keyspace, key, value);
            }
            batch.commit()?;
        }
        self.database.persist(PersistMode::SyncAll)
    }

    /// Waits until nobody reads it, and closes it. What was handed to the store and not synced may be on the disk
    /// then, or not.
    pub(super) fn close(mut store: Arc<Self>) -> Result<(), Arc<Self>> {
        let began = Instant::now();
        loop {
            match Arc::try_unwrap(store) {
                Ok(store) => {
                    // It waits for the store's own threads.
                    drop(store);
                    return Ok(());
                }
                Err(still) if began.elapsed() < CLOSE_WAIT => store = still,
                Err(still) => return Err(still),
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Whether another try may go better.
fn sort(e: fjall::Error) -> OpenError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&e);
    while let Some(at) = cause {
        if let Some(io) = at.downcast_ref::<io::Error>() {
            use io::ErrorKind::{AlreadyExists, InvalidInput, NotFound};
            // It looked for what is not there, or in a place that cannot be (the system's "invalid argument"). All
            // else that the system refuses is the disk's matter, and may go better next time.
            let of_content = matches!(io.kind(), AlreadyExists | InvalidInput | NotFound);
            return if io.raw_os_error().is_none() || of_content {
                OpenError::Damaged(e.to_string())
            } else {
                OpenError::Failed(store_error(e))
            };
        }
        cause = at.source();
    }
    match e {
        fjall::Error::Locked | fjall::Error::Poisoned => OpenError::Failed(store_error(e)),
        e => OpenError::Damaged(e.to_string()),
    }
}

pub(in crate::collector) fn store_error(e: fjall::Error) -> LogError {
    LogError::Store(match e {
        fjall::Error::Poisoned => "an earlier write failed".to_owned(),
        e => e.to_string(),
    })
}

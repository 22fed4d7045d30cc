//! The embedded store: opened, told from a damaged one, closed again.
//!
//! What fjall finds damaged when it opens it refuses as a whole. It may panic on it too, which is caught here; and it
//! takes the length of a table of contents for granted, and asks for so much memory that the process is aborted. That
//! length is looked at before (`preposterous`).

use std::{
    error::Error,
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions,
    config::{BlockSizePolicy, CompressionPolicy},
};

use crate::trail::log::LogError;

/// The store's caches; all in bytes.
const CACHE: u64 = 32 * 1024 * 1024;
pub(super) const MEMTABLE: u64 = 32 * 1024 * 1024;
const JOURNAL: u64 = 128 * 1024 * 1024;
/// What is compressed, and what is lost where the disk is damaged, as one: see docs/decisions/0019.
const BLOCK: u32 = 16 * 1024;
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
    pub(super) fn open(path: &Path, memtable: u64) -> Result<Self, OpenError> {
        catch_unwind(AssertUnwindSafe(|| Self::try_open(path, memtable)))
            .unwrap_or_else(|_| Err(OpenError::Damaged("the store panicked over it".to_owned())))
    }

    fn try_open(path: &Path, memtable: u64) -> Result<Self, OpenError> {
        if let Some(file) = find(&path.join("keyspaces"), &preposterous) {
            return Err(OpenError::Damaged(format!(
                "the table of contents of {} is damaged",
                file.display()
            )));
        }
        let database = Database::builder(path)
            .cache_size(CACHE)
            .max_journaling_size(JOURNAL)
            .worker_threads(2)
            .open()
            .map_err(sort)?;
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
        let events = keyspace("events", memtable)?;
        let sequences = keyspace("sequences", 4 * 1024 * 1024)?;
        let state = keyspace("state", 1024 * 1024)?;
        Ok(Self { database, events, sequences, state })
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

/// The first file below `folder` of which `is` holds. What cannot be read is left to the store.
fn find(folder: &Path, is: &impl Fn(&Path) -> io::Result<bool>) -> Option<PathBuf> {
    fs::read_dir(folder).ok()?.filter_map(Result::ok).find_map(|entry| {
        let path = entry.path();
        if path.is_dir() { find(&path, is) } else { is(&path).unwrap_or(false).then_some(path) }
    })
}

/// Whether a file says that it has more sections than it has room for. The format is that of the crate `sfa` 1:
///
/// ```text
/// sections · "TOC!" · count u32 · count × (position u64 · length u64 · length of its name u16 · name)
/// · "SFA!" · version u8 · kind of checksum u8 · checksum u128 · position of the contents u64 · their length u64
/// ```
/// All little-endian. What is of another form is not judged.
fn preposterous(path: &Path) -> io::Result<bool> {
    const TRAILER: u64 = 4 + 1 + 1 + 16 + 8 + 8;
    const ENTRY: u64 = 8 + 8 + 2;
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let Some(at) = len.checked_sub(TRAILER) else { return Ok(false) };
    let mut trailer = [0; 30];
    file.read_exact_at(&mut trailer, at)?;
    let (Some(b"SFA!"), Some(position)) = (trailer.first_chunk(), trailer.last_chunk()) else {
        return Ok(false);
    };
    let mut head = [0; 8];
    file.read_exact_at(&mut head, u64::from_le_bytes(*position))?;
    let (Some(b"TOC!"), Some(count)) = (head.first_chunk(), head.last_chunk()) else { return Ok(false) };
    Ok(u64::from(u32::from_le_bytes(*count)) * ENTRY > len)
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

//! Syncs what was written, and carries it over from the store's log into its tables: on a thread of its own, because
//! a disk may take its time and the ring's reader has none.

use std::{
    fs::File,
    io,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use rusqlite::Connection;

use super::{
    Fsync,
    store::{Store, StoreError},
};

/// How often it looks after the store where nothing is to be synced.
const LOOK: Duration = Duration::from_secs(1);
/// The log is carried over when it is longer than this.
const WAL_CARRY: u64 = 4 << 20;
/// And when it is this long it begins anew, though writers must wait for that.
const WAL_MAX: u64 = 32 << 20;
/// Free pages (4 KiB) to keep, and to give back at once.
const FREE_KEEP: i64 = 4096;
const FREE_STEP: i64 = 1024;

/// The thread, while it runs.
#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    over: Mutex<bool>,
    wake: Condvar,
    /// something was written since the last sync
    dirty: AtomicBool,
    errors: AtomicU64,
}

impl Keeper {
    pub(super) fn start(store: &Store, fsync: Fsync) -> Result<Self, StoreError> {
        let shared = Arc::new(Shared::default());
        let mut work = Work {
            connection: store.connection()?,
            path: store.wal(),
            wal: None,
            fsync,
            shared: Arc::clone(&shared),
            failing: false,
        };
        let thread = std::thread::Builder::new()
            .name("spool".to_owned())
            .stack_size(256 << 10)
            .spawn(move || work.run())
            .map_err(|e| StoreError::Io("start a thread", e))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Something was written.
    pub(super) fn written(&self) {
        self.shared.dirty.store(true, Relaxed);
    }

    /// Syncs that failed since the start.
    pub(super) fn errors(&self) -> u64 {
        self.shared.errors.load(Relaxed)
    }
}

impl Shared {
    /// Whether it is over.
    fn wait(&self, pause: Duration) -> bool {
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.wake.wait_timeout_while(over, pause, |over| !*over);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Drop for Keeper {
    /// Waits for a last sync.
    fn drop(&mut self) {
        *self.shared.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Work {
    connection: Connection,
    path: PathBuf,
    /// the log: SQLite keeps it as long as it has a connection
    wal: Option<File>,
    fsync: Fsync,
    shared: Arc<Shared>,
    failing: bool,
}

impl Work {
    fn run(&mut self) {
        let pause = match self.fsync {
            Fsync::Every(pause) => pause,
            Fsync::Always | Fsync::Never => LOOK,
        };
        loop {
            let over = self.shared.wait(pause);
            let mut done = if matches!(self.fsync, Fsync::Every(_)) || over { self.sync() } else { Ok(()) };
            if done.is_ok() && !over {
                done = self.tidy();
            }
            match done {
                Ok(()) => self.failing = false,
                Err(error) => {
                    self.shared.dirty.store(true, Relaxed);
                    self.shared.errors.fetch_add(1, Relaxed);
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!(%error, "the spool cannot be synced: a power cut may lose more than a second");
                    }
                }
            }
            if over {
                return;
            }
        }
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        if !self.shared.dirty.swap(false, Relaxed) {
            return Ok(());
        }
        let io = |e: io::Error| StoreError::Io("sync the spool", e);
        let wal = match &mut self.wal {
            Some(wal) => wal,
            none => none.insert(File::open(&self.path).map_err(io)?),
        };
        wal.sync_data().map_err(io)
    }

    fn tidy(&self) -> Result<(), StoreError> {
        let len = self.path.metadata().map_or(0, |meta| meta.len());
        if len > WAL_CARRY {
            self.carry_over("PASSIVE")?;
        }
        if len > WAL_MAX {
            self.carry_over("TRUNCATE")?;
        }
        let number = |pragma: &str| self.connection.query_row(pragma, [], |row| row.get::<_, i64>(0));
        if number("PRAGMA freelist_count")? > FREE_KEEP + FREE_STEP {
            // A page a row.
            let mut vacuum = self.connection.prepare(&format!("PRAGMA incremental_vacuum({FREE_STEP})"))?;
            let mut rows = vacuum.query([])?;
            while rows.next()?.is_some() {}
        }
        Ok(())
    }

    fn carry_over(&self, how: &str) -> Result<(), StoreError> {
        // Its answer, that somebody was in the way, is no failure: there is a next time.
        Ok(self.connection.query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |_| Ok(()))?)
    }
}

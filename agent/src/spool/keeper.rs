//! Syncs what was written, and carries it over from the store's log into its tables: on a thread of its own, because
//! a disk may take its time and the ring's reader has none.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rusqlite::Connection;

use super::{
    Disk, Fsync,
    store::{Store, StoreError},
};

/// How often it looks after the store, also where nothing is to be synced.
const LOOK: Duration = Duration::from_secs(1);
/// The log is carried over when it is longer than this; in a small spool, than an eighth of that.
const WAL_CARRY: u64 = 4 << 20;
/// And when it is so many times as long it begins anew, though writers must wait for that.
const ANEW: u64 = 4;
/// And so many times as long it never is: what would make it longer waits in memory.
const FULL: u64 = 16;
/// Less than this is not worth it.
const PAGES: u64 = 512 << 10;
/// Free pages (4 KiB) to keep, and to give back at once.
const FREE_KEEP: i64 = 4096;
const FREE_STEP: i64 = 1024;

/// The thread, while it runs.
#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
    /// the log's
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    asked: Mutex<Asked>,
    wake: Condvar,
    /// the log is carried over when it is longer than this
    carry: u64,
    /// something was written since the last sync
    dirty: AtomicBool,
    errors: AtomicU64,
}

impl Keeper {
    pub(super) fn start(store: &Store, disk: &Disk) -> Result<Self, StoreError> {
        let carry = WAL_CARRY.min(disk.max_bytes / 8).max(PAGES);
        let shared = Arc::new(Shared { carry, ..Shared::default() });
        let mut work = Work {
            connection: store.connection()?,
            path: store.wal(),
            wal: None,
            fsync: disk.fsync,
            synced: Instant::now(),
            shared: Arc::clone(&shared),
            failing: false,
        };
        let thread = std::thread::Builder::new()
            .name("spool".to_owned())
            .stack_size(256 << 10)
            .spawn(move || work.run())
            .map_err(|e| StoreError::Io("start a thread", e))?;
        Ok(Self { shared, path: store.wal(), thread: Some(thread) })
    }

    /// Whether there is room for more in the store's log. If it is long, it is carried over now.
    pub(super) fn has_room(&self) -> bool {
        let length = length(&self.path);
        if length > self.shared.carry.saturating_mul(ANEW) {
            self.shared.wake();
        }
        length <= self.shared.carry.saturating_mul(FULL)
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

/// What the thread is asked for.
#[derive(Debug, Default)]
struct Asked {
    over: bool,
    look: bool,
}

impl Shared {
    /// Whether it is over.
    fn wait(&self, pause: Duration) -> bool {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.wake.wait_timeout_while(asked, pause, |asked| !asked.over && !asked.look);
        let mut asked = waited.unwrap_or_else(PoisonError::into_inner).0;
        asked.look = false;
        asked.over
    }

    fn wake(&self) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).look = true;
        self.wake.notify_all();
    }
}

fn length(path: &Path) -> u64 {
    path.metadata().map_or(0, |meta| meta.len())
}

impl Drop for Keeper {
    /// Waits for a last sync.
    fn drop(&mut self) {
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).over = true;
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
    synced: Instant,
    shared: Arc<Shared>,
    failing: bool,
}

impl Work {
    fn run(&mut self) {
        loop {
            let pause = match self.fsync {
                Fsync::Every(every) => every.saturating_sub(self.synced.elapsed()).min(LOOK),
                Fsync::Always | Fsync::Never => LOOK,
            };
            let over = self.shared.wait(pause);
            let due = matches!(self.fsync, Fsync::Every(every) if self.synced.elapsed() >= every);
            let mut done = if due || over { self.sync() } else { Ok(()) };
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
        self.synced = Instant::now();
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
        let length = length(&self.path);
        if length > self.shared.carry {
            self.carry_over("PASSIVE")?;
        }
        if length > self.shared.carry.saturating_mul(ANEW) {
            // Little is left to be carried over by now, so that nobody waits for long.
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

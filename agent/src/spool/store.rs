//! The spool's rows in an embedded store: SQLite with a write-ahead log.
//!
//! # Invariants
//! 1. A [`Write`] is one transaction, in the operating system's hands when [`Store::write`] returns: a crash of the
//!    agent at any moment leaves all of it or nothing.
//! 2. A power cut leaves the writes up to some moment, whole and in order: at least those before the last sync
//!    ([`super::keeper`]).
//! 3. A row whose sum is wrong is told as damaged, never given out.
//!
//! # Format 1 (`PRAGMA user_version`)
//! ```text
//! events  first → count · logged · sum · bytes   first: cursor of the first event; logged: unix ns; see `row`
//! meta    name  → value · crc32                  protobuf messages, see `meta`
//! state   key   → value · crc32                  of the machine and the directory
//! ```
//! Pages that are freed are used again; whole megabytes of them go back to the file system.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params};

use super::row::{Place, Row};
use crate::{
    state::{Changes, State},
    trail::Moment,
};

const FORMAT: i64 = 1;
/// As long as the keeper may hold the pipeline up; the ring takes more than that.
const BUSY: Duration = Duration::from_millis(500);

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// {0}
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// cannot {0}: {1}
    #[error("cannot {0}: {1}")]
    Io(&'static str, io::Error),
    /// written by a newer podtrail (format {0})
    #[error("it was written by a newer podtrail (format {0})")]
    Newer(i64),
    /// its log is too long
    #[error("its log is too long, and cannot be carried over into its tables")]
    LogFull,
    /// its events are later than those that are in memory
    #[error("its events are later than those in memory: it is opened when the agent is started again")]
    Later,
    /// {0} is not what was written
    #[error("{0} is not what was written")]
    Damaged(&'static str),
}

impl StoreError {
    /// It may be well again by waiting.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Sqlite(_)) && !self.is_damage()
    }

    /// By waiting for somebody who is in the way.
    pub(super) fn may_pass_soon(&self) -> bool {
        let code = if let Self::Sqlite(error) = self { error.sqlite_error_code() } else { None };
        matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
            || matches!(self, Self::LogFull)
    }

    /// It will not be well again by waiting.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Sqlite(error) => matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::TypeMismatch) | None
            ),
            Self::Io(..) | Self::Later | Self::LogFull => false,
            Self::Newer(_) | Self::Damaged(_) => true,
        }
    }
}

/// One transaction.
#[derive(Debug, Default)]
pub(super) struct Write<'a> {
    pub(super) rows: &'a [Row],
    pub(super) meta: &'a [(&'static str, Vec<u8>)],
    pub(super) state: Option<&'a Changes>,
    /// rows that go, by their first cursors
    pub(super) remove: &'a [u64],
    /// everything of the state that was there before goes first
    pub(super) new_state: bool,
}

/// A row as it was found.
#[derive(Debug)]
pub(super) enum Found {
    Whole(Row),
    Damaged(Place),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
}

impl Store {
    pub(super) fn open(path: &Path, always_sync: bool) -> Result<Self, StoreError> {
        // Made by us, so that nobody else can read it.
        open_private(path).map_err(|e| StoreError::Io("make the spool's file", e))?;
        let (writer, reader) = (connect(path)?, connect(path)?);
        writer.execute_batch(
            "PRAGMA page_size = 4096; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;",
        )?;
        match writer.query_row("PRAGMA user_version", [], |row| row.get(0))? {
            0 => writer.execute_batch(&format!(
                "BEGIN;
                 CREATE TABLE events (first INTEGER PRIMARY KEY, count INTEGER NOT NULL, logged INTEGER NOT NULL,
                    sum INTEGER NOT NULL, bytes BLOB NOT NULL) STRICT;
                 CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
                 CREATE TABLE state (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
                 PRAGMA user_version = {FORMAT};
                 COMMIT;"
            ))?,
            FORMAT => {}
            newer => return Err(StoreError::Newer(newer)),
        }
        if always_sync {
            writer.execute_batch("PRAGMA synchronous = FULL")?;
        }
        Ok(Self { path: path.to_owned(), writer: Mutex::new(writer), reader: Mutex::new(reader) })
    }

    /// Another connection, for the keeper.
    pub(super) fn connection(&self) -> Result<Connection, StoreError> {
        connect(&self.path)
    }

    /// The file in which new writes are.
    pub(super) fn wal(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push("-wal");
        path.into()
    }

    pub(super) fn write(&self, write: &Write<'_>) -> Result<(), StoreError> {
        let Write { rows, meta, state, remove, new_state } = write;
        let mut writer = lock(&self.writer);
        let tx = writer.transaction()?;
        {
            if *new_state {
                tx.execute("DELETE FROM state", [])?;
            }
            let mut delete = tx.prepare_cached("DELETE FROM events WHERE first = ?1")?;
            for first in *remove {
                delete.execute([first.cast_signed()])?;
            }
            let mut insert = tx.prepare_cached("INSERT INTO events VALUES (?1, ?2, ?3, ?4, ?5)")?;
            for row in *rows {
                insert.execute(params![
                    row.first.cast_signed(),
                    row.count.cast_signed(),
                    row.logged.0,
                    row.sum(),
                    &row.bytes[..]
                ])?;
            }
            let mut put = tx.prepare_cached("REPLACE INTO meta VALUES (?1, ?2)")?;
            for (name, value) in *meta {
                put.execute(params![name, seal(value)])?;
            }
            let mut put = tx.prepare_cached("REPLACE INTO state VALUES (?1, ?2)")?;
            let mut drop = tx.prepare_cached("DELETE FROM state WHERE key = ?1")?;
            for (key, value) in state.iter().flat_map(|state| &state.0) {
                match value {
                    Some(value) => put.execute(params![key, seal(value)])?,
                    None => drop.execute([key])?,
                };
            }
        }
        Ok(tx.commit()?)
    }

    pub(super) fn meta(&self, name: &'static str) -> Result<Option<Vec<u8>>, StoreError> {
        let reader = lock(&self.reader);
        let mut get = reader.prepare_cached("SELECT value FROM meta WHERE name = ?1")?;
        let Some(value) = get.query_row([name], |row| row.get(0)).optional()? else { return Ok(None) };
        unseal(value).map(Some).ok_or(StoreError::Damaged(name))
    }

    /// `None`: some of it is damaged, which makes the rest useless.
    pub(super) fn state(&self) -> Result<Option<State>, StoreError> {
        let reader = lock(&self.reader);
        let mut get = reader.prepare("SELECT key, value FROM state")?;
        let mut rows = get.query([])?;
        let mut state = State::new();
        while let Some(row) = rows.next()? {
            let Some(value) = unseal(row.get(1)?) else { return Ok(None) };
            state.insert(row.get(0)?, value);
        }
        Ok(Some(state))
    }

    /// All rows without their bytes, newest first, as long as `more` says so.
    pub(super) fn places(&self, mut more: impl FnMut(&Place) -> bool) -> Result<(), StoreError> {
        let reader = lock(&self.reader);
        let mut select = reader
            .prepare_cached("SELECT first, count, logged, length(bytes) FROM events ORDER BY first DESC")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            if !more(&place(row)?) {
                break;
            }
        }
        Ok(())
    }

    /// Without its bytes, the first row that begins at `from` or later.
    pub(super) fn next_place(&self, from: u64) -> Result<Option<Place>, StoreError> {
        let reader = lock(&self.reader);
        let mut select = reader.prepare_cached(
            "SELECT first, count, logged, length(bytes) FROM events WHERE first >= ?1 ORDER BY first LIMIT 1",
        )?;
        Ok(select.query_row([from.cast_signed()], place).optional()?)
    }

    /// Without its bytes, the first row that has `cursor` or later ones.
    pub(super) fn place(&self, cursor: u64) -> Result<Option<Place>, StoreError> {
        let before = {
            let reader = lock(&self.reader);
            let mut select = reader.prepare_cached(
                "SELECT first, count, logged, length(bytes) FROM events WHERE first <= ?1 ORDER BY first DESC LIMIT 1",
            )?;
            select.query_row([cursor.cast_signed()], place).optional()?
        };
        match before.filter(|place| place.last() >= cursor) {
            Some(place) => Ok(Some(place)),
            None => self.next_place(cursor),
        }
    }

    /// The first row that has `cursor` or later ones, if it begins before `below`.
    pub(super) fn row(&self, cursor: u64, below: u64) -> Result<Option<Found>, StoreError> {
        let reader = lock(&self.reader);
        let mut select = reader.prepare_cached(
            "SELECT first, count, logged, sum, bytes FROM events
             WHERE first >= (SELECT coalesce(max(first), 0) FROM events WHERE first <= ?1) AND first < ?2
             ORDER BY first LIMIT 2",
        )?;
        let mut rows = select.query([cursor.cast_signed(), below.cast_signed()])?;
        while let Some(row) = rows.next()? {
            let (first, count): (i64, i64) = (row.get(0)?, row.get(1)?);
            let (first, count) = (first.cast_unsigned(), count.cast_unsigned());
            if first.saturating_add(count) <= cursor {
                continue;
            }
            let bytes = row.get_ref(4)?.as_blob().map_err(|_other| StoreError::Damaged("a row"))?;
            let bytes = bytes::Bytes::copy_from_slice(bytes);
            let sum: i64 = row.get(3)?;
            let row = Row { first, count, logged: Moment(row.get(2)?), bytes };
            let whole = i64::from(row.sum()) == sum;
            return Ok(Some(if whole { Found::Whole(row) } else { Found::Damaged(row.place()) }));
        }
        Ok(None)
    }
}

/// With its sum behind it.
fn seal(value: &[u8]) -> Vec<u8> {
    [value, &crc32fast::hash(value).to_le_bytes()].concat()
}

fn unseal(mut value: Vec<u8>) -> Option<Vec<u8>> {
    let sum = value.split_off(value.len().checked_sub(4)?);
    (crc32fast::hash(&value).to_le_bytes() == *sum).then_some(value)
}

fn place(row: &rusqlite::Row<'_>) -> rusqlite::Result<Place> {
    let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
    Ok(Place::new(number(0)?, number(1)?, Moment(row.get(2)?), number(3)?))
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    // The log is carried over by the keeper, and by nobody who has better to do.
    connection.execute_batch(
        "PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -256;
         PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF;",
    )?;
    Ok(connection)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A transaction that a panic left half-way is rolled back when it is dropped.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For reading and writing, made where it is missing, for its owner alone.
pub(super) fn open_private(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Moves what cannot be used out of the way, and says where to. What was moved before makes room.
pub(super) fn move_aside(dir: &Path, why: &str, now: Moment) -> io::Result<PathBuf> {
    let before = format!("{}.{why}-", dir.file_name().unwrap_or_default().to_string_lossy());
    for entry in dir.parent().and_then(|parent| fs::read_dir(parent).ok()).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&before) {
            // What stays only takes room.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let mut name = dir.as_os_str().to_owned();
    name.push(format!(".{why}-{}", now.0 / 1_000_000_000));
    let mut to = PathBuf::from(&name);
    let mut number = 1;
    while to.exists() {
        number += 1;
        let mut next = name.clone();
        next.push(format!("-{number}"));
        to = next.into();
    }
    fs::rename(dir, &to)?;
    Ok(to)
}

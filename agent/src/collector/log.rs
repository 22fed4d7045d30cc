//! The log on disk.
//!
//! # Invariants
//! 1. An append is one batch of the store, written and synced (one fsync) before [`Log::append`] returns: after a
//!    crash at any moment either all of its events are there or none.
//! 2. Cursors are dense: between oldest and newest every number has its event, and no number is given twice, not
//!    even after everything was trimmed.
//! 3. What a node's numbers have come to is kept in the same batch as its events: there is no moment at which an
//!    event is in the log and could be taken again.
//! 4. `logged` never decreases, so places in time are found by halving.
//! 5. What cannot be read any more is said in its place: a [`v1::Gap`] from `COLLECTOR_STORE`, never silence and
//!    never a panic.
//!
//! # Format 1
//! Four keyspaces of one fjall database, beside those of `subscribe::store`; numbers are big-endian, so that keys sort as numbers do.
//!
//! ```text
//! events      cursor u64                                → logged i64 (unix ns) · before u64 · Event (protobuf)
//! sequences   len u16 · cluster · len u16 · node · epoch u64 → seq u64 · time i64 (unix ns) · cursor u64
//! beside      whatever is to be of the same moment as events, see `beside`
//! state       "trimmed"                                 → cursor u64, the last that is trimmed
//!             "id"                                      → id u32 · inode u64 · birth i64 (unix ns), see `identity`
//! ```
//!
//! `before` is the length of all events ever appended before this one: the bytes between any two cursors are known
//! without reading what is between. `sequences` holds the last of each node and epoch.
//!
//! # Trimming
//! First `trimmed` is moved on and synced; from then on nobody reads what is below. Then the store drops the tables
//! that lie wholly below: nothing is rewritten and no tombstones are left. What shares a table, or the memtable,
//! with newer events goes when a later trim takes the whole of it.
//!
//! # Recovery
//! The store replays its journal: a batch that is not whole at the journal's end was never acknowledged and is
//! dropped. Newest is the last key (or `trimmed`), all else follows from it. The index is not kept here: it is
//! counted anew from the events.

mod beside;
mod codec;
mod identity;
mod inspect;
mod reach;
mod recover;
mod room;
mod scan;
mod store;
mod tail;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use fjall::{AbstractTree as _, PersistMode};
use podtrail_proto::v1;
use tokio::sync::watch;

pub(super) use self::store::{Store, store_error};
use self::{
    codec::{Header, Stored},
    reach::Reach,
    scan::{first, header},
    tail::Tail,
};
use super::directory::Directory;
use crate::trail::{
    LogId, Moment,
    log::{Bounds, Cursor, Entry, Limits, Log, LogError, Page},
    moment::Clock,
};

pub use beside::Beside;
pub use codec::{NodeEpoch, Reached};

const TRIMMED: &[u8] = b"trimmed";

/// See the module.
pub struct DiskLog {
    id: LogId,
    /// `None`: it is closed, and could not be opened again
    store: RwLock<Option<Arc<Store>>>,
    memtable: u64,
    clock: Clock,
    ends: Mutex<Ends>,
    reach: Reach,
    /// held for a whole append or trim
    writing: Mutex<()>,
    newest: watch::Sender<Cursor>,
    /// last, so that the lock outlives the store
    directory: Directory,
}

/// Where the log begins and ends, and its newest events.
#[derive(Debug)]
struct Ends {
    oldest: Cursor,
    oldest_header: Option<Header>,
    newest: Cursor,
    newest_logged: Moment,
    /// `before` of the next event
    total: u64,
    tail: Tail,
}

impl DiskLog {
    /// The store as it is now; what must be kept with the log has keyspaces of its own in it.
    pub(super) fn store(&self) -> Result<Arc<Store>, LogError> {
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
        store.clone().ok_or(LogError::Closed)
    }

    // Every change leaves `Ends` whole.
    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_lock(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Syncs all that was written; only tidiness, since nothing that was promised waits for it.
    pub fn flush(&self) -> Result<(), LogError> {
        self.store()?.database.persist(PersistMode::SyncAll).map_err(store_error)
    }

    /// How far every node has come.
    pub fn sequences(&self) -> Result<BTreeMap<NodeEpoch, Reached>, LogError> {
        recover::sequences(&*self.store()?)
    }

    /// [`Log::append`], with what is kept beside: all of it or nothing.
    pub fn append_with(&self, events: Vec<Arc<v1::Event>>, beside: &[Beside]) -> Result<Cursor, LogError> {
        let _writing = self.write_lock();
        let (mut cursor, mut before, newest_logged) = {
            let ends = self.ends();
            (ends.newest, ends.total, ends.newest_logged)
        };
        if events.is_empty() && beside.is_empty() {
            return Ok(cursor);
        }
        let store = self.store()?;
        let logged = (self.clock)().max(newest_logged);
        let first_header = Header { logged, before };
        let mut batch = store.database.batch().durability(Some(PersistMode::SyncData));
        let mut reached: BTreeMap<NodeEpoch, Reached> = BTreeMap::new();
        let mut entries = Vec::with_capacity(events.len());
        for event in events {
            cursor += 1;
            let value = Stored::encode(Header { logged, before }, &event);
            let bytes = value.len() - Header::BYTES;
            before += bytes as u64;
            let cost = codec::cost(&value);
            batch.insert(&store.events, cursor.to_be_bytes(), value);
            if let Some((node, seq)) = NodeEpoch::of(&event) {
                let time = event.time.as_ref().map_or(logged, Moment::from_timestamp);
                reached.insert(node, Reached { seq, time, cursor });
            }
            entries.push((Entry { cursor, logged, event }, cost));
        }
        for (node, reached) in &reached {
            batch.insert(&store.sequences, node.encode(), reached.encode());
        }
        if !beside.is_empty() {
            let keyspace = beside::keyspace(&store)?;
            for Beside { key, value } in beside {
                match value {
                    Some(value) => batch.insert(&keyspace, key.as_slice(), value.as_slice()),
                    None => batch.remove(&keyspace, key.as_slice()),
                }
            }
        }
        batch.commit().map_err(store_error)?;
        if entries.is_empty() {
            return Ok(cursor);
        }
        let mut ends = self.ends();
        ends.newest = cursor;
        ends.newest_logged = logged;
        ends.total = before;
        ends.oldest_header.get_or_insert(first_header);
        ends.tail.extend(entries);
        self.reach.write(reach::Reached { oldest: ends.oldest, newest: cursor });
        drop(ends);
        self.newest.send_replace(cursor);
        Ok(cursor)
    }

    /// Forgets epochs that ended before everything that the log holds; the latest of each node is kept.
    fn prune_sequences(store: &Store, oldest: Cursor) -> Result<(), LogError> {
        let all = recover::sequences(store)?;
        let mut latest: BTreeMap<(&str, &str), Cursor> = BTreeMap::new();
        for (node, reached) in &all {
            let cursor = latest.entry((&node.cluster, &node.node)).or_default();
            *cursor = reached.cursor.max(*cursor);
        }
        let mut batch = store.database.batch();
        for (node, reached) in &all {
            let last = latest.get(&(&*node.cluster, &*node.node)).copied().unwrap_or(0);
            if reached.cursor < oldest && reached.cursor < last {
                batch.remove(&store.sequences, node.encode());
            }
        }
        batch.commit().map_err(store_error)
    }
}

impl Log for DiskLog {
    fn id(&self) -> LogId {
        self.id
    }

    fn append(&self, events: Vec<Arc<v1::Event>>) -> Result<Cursor, LogError> {
        self.append_with(events, &[])
    }

    fn read(&self, after: Cursor, page: Page) -> Result<Vec<Entry>, LogError> {
        let (from, to) = {
            let ends = self.ends();
            let from = after.saturating_add(1).max(ends.oldest);
            if let Some(entries) = ends.tail.read(from, page) {
                return Ok(entries);
            }
            (from, ends.newest)
        };
        let mut entries = Vec::new();
        let mut total = 0;
        self.scan(&*self.store()?, from, to, |entry, bytes| {
            let takes = page.takes(entries.len(), total, bytes);
            if takes {
                total += bytes;
                entries.push(entry);
            }
            takes
        });
        Ok(entries)
    }

    fn get(&self, cursors: &[Cursor], page: Page) -> Result<Vec<Entry>, LogError> {
        let (oldest, newest) = {
            let ends = self.ends();
            (ends.oldest, ends.newest)
        };
        let store = &*self.store()?;
        let mut entries: Vec<Entry> = Vec::new();
        let mut total = 0;
        for &cursor in cursors.iter().filter(|c| (oldest..=newest).contains(c)) {
            let (entry, bytes) = match store.events.get(cursor.to_be_bytes()) {
                Ok(Some(value)) => (self.entry(store, cursor, &value), codec::cost(&value)),
                Ok(None) => (self.gap(store, cursor, cursor, "it is not in the store"), 0),
                Err(_) => (self.gap(store, cursor, cursor, "the store cannot read it"), 0),
            };
            if !page.takes(entries.len(), total, bytes) {
                break;
            }
            total += bytes;
            entries.push(entry);
        }
        Ok(entries)
    }

    fn seek(&self, time: Moment) -> Result<Cursor, LogError> {
        let (oldest, newest) = {
            let ends = self.ends();
            (ends.oldest, ends.newest)
        };
        Ok(first(&*self.store()?, oldest, newest, |h| h.logged >= time) - 1)
    }

    fn bounds(&self) -> Result<Bounds, LogError> {
        let ends = self.ends();
        let events = ends.newest + 1 - ends.oldest;
        let header = ends.oldest_header.filter(|_| events > 0);
        Ok(Bounds {
            oldest: ends.oldest,
            newest: ends.newest,
            oldest_time: header.map(|h| h.logged),
            events,
            bytes: header.map_or(0, |h| ends.total - h.before),
        })
    }

    fn trim(&self, limits: &Limits) -> Result<u64, LogError> {
        let _writing = self.write_lock();
        let (oldest, newest, total) = {
            let ends = self.ends();
            (ends.oldest, ends.newest, ends.total)
        };
        let store = &*self.store()?;
        let from = (self.clock)().before(limits.max_age);
        let new = first(store, oldest, newest, |h| {
            h.logged >= from && total.saturating_sub(h.before) <= limits.max_bytes
        });
        if new == oldest {
            return Ok(0);
        }
        let mut batch = store.database.batch().durability(Some(PersistMode::SyncData));
        batch.insert(&store.state, TRIMMED, (new - 1).to_be_bytes());
        batch.commit().map_err(store_error)?;
        let header = if new > newest { None } else { header(store, new, newest) };
        {
            let mut ends = self.ends();
            ends.oldest = new;
            ends.oldest_header = header;
            ends.tail.trim(new);
            self.reach.write(reach::Reached { oldest: new, newest });
        }
        store.events.tree.drop_range(..new.to_be_bytes()).map_err(|e| store_error(e.into()))?;
        Self::prune_sequences(store, new)?;
        Ok(new - oldest)
    }

    fn newest(&self) -> watch::Receiver<Cursor> {
        self.newest.subscribe()
    }
}

impl fmt::Debug for DiskLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskLog").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod tests;

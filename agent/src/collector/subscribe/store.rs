//! Where subscriptions are kept: beside the log, in its database, so that both are of the same moment whatever is
//! restored.
//!
//! ```text
//! subscriptions   len u16 · principal · name → cursor u64 · created i64 · seen i64 · last ack i64 · filter
//! ```
//! Numbers are big-endian, times in unix nanoseconds; `i64::MIN`: never.
//!
//! What is made, moved or deleted is synced before the caller hears of it. Acknowledgements are only handed to the
//! system: a process that is killed has written them, a power cut may take the last, and then what they acknowledged
//! comes again. The other way round, a position ahead of what was acknowledged, cannot be.

use std::{fmt, sync::Arc};

use fjall::{Keyspace, KeyspaceCreateOptions, PersistMode};

use super::super::log::{DiskLog, Store as Opened, store_error};
use crate::{
    telemetry::{Emit as _, collector::SubscriptionsDamaged},
    trail::{
        Moment,
        log::{Cursor, LogError},
    },
};

/// Whose subscription, and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub principal: String,
    pub name: String,
}

/// What is kept of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// acknowledged
    pub cursor: Cursor,
    pub created: Moment,
    /// when it was last open
    pub seen: Moment,
    pub last_ack: Option<Moment>,
    pub filter: String,
}

/// A subscription as it is now; `None`: it is gone.
pub type Change = (Key, Option<Record>);

/// Keeps subscriptions. Methods may touch the disk.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    fn load(&self) -> Result<Vec<(Key, Record)>, LogError>;

    /// All or none; `synced`: on the disk before it returns.
    fn write(&self, changes: &[Change], synced: bool) -> Result<(), LogError>;
}

/// In the log's own database.
pub struct DiskStore(Arc<DiskLog>);

impl DiskStore {
    pub fn new(log: Arc<DiskLog>) -> Self {
        Self(log)
    }
}

/// The store may be closed and opened again between two calls: handles are for one.
fn subscriptions(store: &Opened) -> Result<Keyspace, LogError> {
    let options = || KeyspaceCreateOptions::default().max_memtable_size(1024 * 1024);
    store.database.keyspace("subscriptions", options).map_err(store_error)
}

impl fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskStore").finish_non_exhaustive()
    }
}

impl Store for DiskStore {
    fn load(&self) -> Result<Vec<(Key, Record)>, LogError> {
        let mut all = Vec::new();
        let mut whole = true;
        for item in subscriptions(&*self.0.store()?)?.iter() {
            // Damage is no reason to serve nobody: who resumes one of these is told that there is none.
            let Ok((key, value)) = item.into_inner() else {
                whole = false;
                break;
            };
            match Key::decode(&key).zip(Record::decode(&value)) {
                Some(record) => all.push(record),
                None => whole = false,
            }
        }
        if !whole {
            SubscriptionsDamaged { left: all.len() }.emit();
        }
        Ok(all)
    }

    fn write(&self, changes: &[Change], synced: bool) -> Result<(), LogError> {
        let mode = if synced { PersistMode::SyncData } else { PersistMode::Buffer };
        let store = &*self.0.store()?;
        let subscriptions = subscriptions(store)?;
        let mut batch = store.database.batch().durability(Some(mode));
        for (key, record) in changes {
            match record {
                Some(record) => batch.insert(&subscriptions, key.encode(), record.encode()),
                None => batch.remove(&subscriptions, key.encode()),
            }
        }
        batch.commit().map_err(store_error)
    }
}

impl Key {
    /// A principal is cut to what a length of 16 bits can say; nobody is let in with a longer one.
    fn encode(&self) -> Vec<u8> {
        let Self { principal, name } = self;
        let len = u16::try_from(principal.len()).unwrap_or(u16::MAX);
        let principal = principal.bytes().take(len.into());
        len.to_be_bytes().into_iter().chain(principal).chain(name.bytes()).collect()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (len, rest) = bytes.split_first_chunk()?;
        let (principal, name) = rest.split_at_checked(u16::from_be_bytes(*len).into())?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        Some(Self { principal: text(principal)?, name: text(name)? })
    }
}

impl Record {
    fn encode(&self) -> Vec<u8> {
        let Self { cursor, created, seen, last_ack, filter } = self;
        let last_ack = last_ack.unwrap_or(Moment::MIN);
        let times = [created.0, seen.0, last_ack.0].map(i64::to_be_bytes).concat();
        [&cursor.to_be_bytes()[..], &times, filter.as_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (cursor, rest) = bytes.split_first_chunk()?;
        let (created, rest) = rest.split_first_chunk()?;
        let (seen, rest) = rest.split_first_chunk()?;
        let (last_ack, filter) = rest.split_first_chunk()?;
        let moment = |bytes: &[u8; 8]| Moment(i64::from_be_bytes(*bytes));
        Some(Self {
            cursor: Cursor::from_be_bytes(*cursor),
            created: moment(created),
            seen: moment(seen),
            last_ack: Some(moment(last_ack)).filter(|at| *at != Moment::MIN),
            filter: String::from_utf8(filter.to_vec()).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn comes_back_as_it_went(
            principal: String, name: String, cursor: u64, times: [i64; 2], ack in proptest::option::of(0i64..), filter: String
        ) {
            let key = Key { principal, name };
            prop_assert_eq!(Key::decode(&key.encode()), Some(key));
            let [created, seen] = times.map(Moment);
            let record = Record { cursor, created, seen, last_ack: ack.map(Moment), filter };
            prop_assert_eq!(Record::decode(&record.encode()), Some(record));
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes: Vec<u8>) {
            _ = Key::decode(&bytes);
            _ = Record::decode(&bytes);
        }
    }

    #[test]
    fn what_was_written_is_there_after_it_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let key = |name: &str| Key { principal: "p".to_owned(), name: name.to_owned() };
        let record = |cursor| Record {
            cursor,
            created: Moment(1),
            seen: Moment(2),
            last_ack: None,
            filter: "session_id != ''".to_owned(),
        };
        {
            let store = DiskStore::new(Arc::new(DiskLog::open(dir.path()).unwrap()));
            store.write(&[(key("a"), Some(record(1))), (key("b"), Some(record(2)))], true).unwrap();
            store.write(&[(key("a"), Some(record(7))), (key("b"), None)], false).unwrap();
        }
        let log = DiskLog::open(dir.path()).unwrap();
        assert_eq!(DiskStore::new(Arc::new(log)).load().unwrap(), [(key("a"), record(7))]);
    }
}

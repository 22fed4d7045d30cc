//! What must be of the same moment as events of the log: it is written with them, in one batch.
//!
//! ```text
//! beside   key, beginning with whose it is → bytes
//! ```
//! So a position in a source never says more or less than what of it is in the log.

use fjall::{Keyspace, KeyspaceCreateOptions};

use super::{DiskLog, LogError, store::Store, store_error};

/// Bytes to be kept under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beside {
    pub key: Vec<u8>,
    /// `None`: not any more
    pub value: Option<Vec<u8>>,
}

/// A key, and what is kept under it.
pub(crate) type Kept = (Vec<u8>, Vec<u8>);

/// The store may be closed and opened again between two calls: handles are for one.
pub(super) fn keyspace(store: &Store) -> Result<Keyspace, LogError> {
    let options = || KeyspaceCreateOptions::default().max_memtable_size(1024 * 1024);
    store.database.keyspace("beside", options).map_err(store_error)
}

impl DiskLog {
    /// What is kept under keys that begin like this, ascending. What cannot be read is left out.
    pub(crate) fn beside(&self, prefix: &[u8]) -> Result<Vec<Kept>, LogError> {
        let found = keyspace(&*self.store()?)?.prefix(prefix);
        Ok(found.filter_map(|item| item.into_inner().ok()).map(|(k, v)| (k.to_vec(), v.to_vec())).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use podtrail_proto::v1;

    use super::*;
    use crate::trail::log::{Log as _, Page};

    #[test]
    fn kept_with_the_events_or_alone_and_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let put = |key: &str, value: Option<&str>| Beside { key: key.into(), value: value.map(Into::into) };
        let log = DiskLog::open(dir.path()).unwrap();
        let event = Arc::new(v1::Event { session_id: "s".to_owned(), ..v1::Event::default() });
        let both = [put("a/1", Some("x")), put("a/2", Some("y")), put("b", Some("z"))];
        assert_eq!(log.append_with(vec![event.clone()], &both).unwrap(), 1);
        assert_eq!(log.append_with(vec![], &[put("a/1", None), put("a/2", Some("new"))]).unwrap(), 1);
        drop(log);
        let log = DiskLog::open(dir.path()).unwrap();
        assert_eq!(log.beside(b"a/").unwrap(), [(b"a/2".to_vec(), b"new".to_vec())]);
        assert_eq!(log.beside(b"").unwrap().len(), 2);
        assert_eq!(log.beside(b"c").unwrap(), []);
        let entries = log.read(0, Page::SCAN).unwrap();
        assert_eq!(entries.into_iter().map(|e| (e.cursor, e.event)).collect::<Vec<_>>(), [(1, event)]);
    }
}

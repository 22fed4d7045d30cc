//! A store of subscriptions for tests.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use super::store::{Change, Key, Record, Store};
use crate::trail::log::LogError;

/// Outlives the subscriptions, as a disk does.
#[derive(Clone, Debug, Default)]
pub(in crate::collector) struct Kept(pub(in crate::collector) Arc<KeptInner>);

#[derive(Debug, Default)]
pub(in crate::collector) struct KeptInner {
    pub(in crate::collector) records: Mutex<BTreeMap<Key, Record>>,
    /// it can be read, and not written
    pub(in crate::collector) fails: AtomicBool,
}

impl Store for Kept {
    fn load(&self) -> Result<Vec<(Key, Record)>, LogError> {
        Ok(self.0.records.lock().unwrap().clone().into_iter().collect())
    }

    fn write(&self, changes: &[Change], _: bool) -> Result<(), LogError> {
        if self.0.fails.load(Ordering::Relaxed) {
            return Err(LogError::Store("no room".to_owned()));
        }
        let mut records = self.0.records.lock().unwrap();
        for (key, record) in changes.iter().cloned() {
            match record {
                Some(record) => _ = records.insert(key, record),
                None => _ = records.remove(&key),
            }
        }
        Ok(())
    }
}

//! How many of something each of many has, bounded.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

/// Counts by key; keys with none take no room.
#[derive(Debug)]
pub struct Counts<K>(Arc<Mutex<HashMap<K, usize>>>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K> Clone for Counts<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// One of them, until this is dropped.
#[derive(Debug)]
pub struct Place<K: Eq + Hash> {
    counts: Counts<K>,
    key: K,
}

impl<K: Eq + Hash + Clone> Counts<K> {
    /// `None`: there are `max` already.
    #[must_use]
    pub fn enter(&self, key: K, max: usize) -> Option<Place<K>> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.get(&key).copied().unwrap_or(0) >= max {
            return None;
        }
        *counts.entry(key.clone()).or_default() += 1;
        Some(Place { counts: self.clone(), key })
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let Self { counts, key } = self;
        let mut counts = counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_places_of_its_own_and_they_come_back() {
        let counts = Counts::default();
        let first = counts.enter("a", 2).unwrap();
        let second = counts.enter("a", 2).unwrap();
        assert!(counts.enter("a", 2).is_none());
        let other = counts.enter("b", 2).unwrap();
        drop(first);
        let third = counts.enter("a", 2).unwrap();
        assert!(counts.enter("a", 2).is_none());
        drop((second, third, other));
        assert!(counts.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_limit_of_none_takes_no_room() {
        let counts = Counts::default();
        assert!(counts.enter("a", 0).is_none());
        assert!(counts.0.lock().unwrap().is_empty());
    }
}

//! A map that remembers the order of insertion and never holds more than it was made for.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map},
    hash::Hash,
};

use serde::{Serialize, de::DeserializeOwned};

use crate::state::{Changes, State, StateError, Table};

/// At most `limit` values by key; what does not fit pushes out the oldest.
#[derive(Debug)]
pub(crate) struct Bounded<K, V> {
    limit: usize,
    next: u64,
    values: HashMap<K, (u64, V)>,
    order: BTreeMap<u64, K>,
    /// may differ from what was saved
    changed: HashSet<K>,
}

impl<K: Clone + Eq + Hash, V> Bounded<K, V> {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            next: 0,
            values: HashMap::new(),
            order: BTreeMap::new(),
            changed: HashSet::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.values.len() >= self.limit
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.values.contains_key(key)
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.values.get(key).map(|(_, value)| value)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let (_, value) = self.values.get_mut(key)?;
        self.changed.insert(key.clone());
        Some(value)
    }

    /// Puts a value in place of an older one of the same key, as the newest. Returns what had to go for it.
    #[must_use]
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<(K, V)> {
        self.remove(&key);
        let evicted = if self.is_full() { self.pop_oldest() } else { None };
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.order.insert(number, key.clone());
        self.changed.insert(key.clone());
        self.values.insert(key, (number, value));
        evicted
    }

    /// The value of `key`, a default one where there is none, and what had to go for it.
    pub(crate) fn of(&mut self, key: K) -> (&mut V, Option<(K, V)>)
    where
        V: Default,
    {
        let evicted = if self.is_full() && !self.contains(&key) { self.pop_oldest() } else { None };
        self.changed.insert(key.clone());
        let value = match self.values.entry(key) {
            hash_map::Entry::Occupied(entry) => &mut entry.into_mut().1,
            hash_map::Entry::Vacant(entry) => {
                let number = self.next;
                self.next = self.next.wrapping_add(1);
                self.order.insert(number, entry.key().clone());
                &mut entry.insert((number, V::default())).1
            }
        };
        (value, evicted)
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let (number, value) = self.values.remove(key)?;
        self.order.remove(&number);
        self.changed.insert(key.clone());
        Some(value)
    }

    pub(crate) fn pop_oldest(&mut self) -> Option<(K, V)> {
        let (_, key) = self.order.pop_first()?;
        let (_, value) = self.values.remove(&key)?;
        self.changed.insert(key.clone());
        Some((key, value))
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.order.values().filter_map(|key| self.get(key).map(|value| (key, value)))
    }

    /// Nobody saves it.
    pub(crate) fn forget_changes(&mut self) {
        self.changed.clear();
    }

    /// In no order. `change` says whether it changed the value.
    pub(crate) fn change_each(&mut self, mut change: impl FnMut(&mut V) -> bool) {
        for (key, (_, value)) in &mut self.values {
            if change(value) {
                self.changed.insert(key.clone());
            }
        }
    }
}

impl<K, V> Bounded<K, V>
where
    K: Clone + Eq + Hash + Serialize + DeserializeOwned,
    V: Serialize + DeserializeOwned,
{
    /// What changed since the last time; all there is, if `all`.
    pub(crate) fn save(&mut self, table: Table, all: bool, out: &mut Changes) {
        if all {
            self.changed.extend(self.values.keys().cloned());
        }
        for key in self.changed.drain() {
            out.put(table, &key, self.values.get(&key));
        }
    }

    /// What was saved, in its order; no more than there may be.
    pub(crate) fn restore(limit: usize, table: Table, state: &State) -> Result<Self, StateError> {
        let mut this = Self::new(limit);
        for (key, (number, value)) in table.rows::<K, (u64, V)>(state)? {
            this.next = this.next.max(number.wrapping_add(1));
            if let Some(before) = this.order.insert(number, key.clone()) {
                this.values.remove(&before);
            }
            this.values.insert(key, (number, value));
        }
        while this.values.len() > this.limit {
            this.pop_oldest();
        }
        this.changed.clear();
        Ok(this)
    }
}

#[cfg(test)]
mod tests {
    use super::Bounded;

    #[test]
    fn the_oldest_goes_first_and_a_new_value_of_the_same_key_is_the_newest() {
        let mut map = Bounded::new(2);
        assert_eq!(map.insert(1, 'a'), None);
        assert_eq!(map.insert(2, 'b'), None);
        assert_eq!(map.insert(1, 'c'), None);
        assert_eq!(map.insert(3, 'd'), Some((2, 'b')));
        assert_eq!(map.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>(), [(1, 'c'), (3, 'd')]);
        assert_eq!(*map.of(1).0, 'c');
        let (value, evicted) = map.of(4);
        *value = 'e';
        assert_eq!(evicted, Some((1, 'c')));
        assert_eq!(map.remove(&4), Some('e'));
        assert_eq!(map.pop_oldest(), Some((3, 'd')));
        assert_eq!((map.len(), map.pop_oldest()), (0, None));
    }
}

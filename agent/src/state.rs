//! What the machine and the directory know, as bytes under keys: kept beside the events that they made of it, so that
//! the next agent goes on where this one was.
//!
//! Whoever owns a key alone knows what is in it. The first byte says whose it is.

use std::collections::BTreeMap;

use serde::{Serialize, de::DeserializeOwned};

/// All of it.
pub type State = BTreeMap<Vec<u8>, Vec<u8>>;

/// What changed since it was last asked for; a key without a value is gone. The last of a key counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(pub Vec<(Vec<u8>, Option<Vec<u8>>)>);

impl Changes {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes the state what it is after these.
    pub fn apply(self, state: &mut State) {
        for (key, value) in self.0 {
            match value {
                Some(value) => _ = state.insert(key, value),
                None => _ = state.remove(&key),
            }
        }
    }
}

/// Rows of one kind: the first byte of their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table(u8);

/// Why a state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// it is of another version ({0})
    #[error("it is of another version ({0})")]
    Version(u32),
    /// {0} cannot be read
    #[error("{0} cannot be read")]
    Damaged(&'static str),
}

impl Table {
    pub(crate) const VERSION: Self = Self(b'v');
    pub(crate) const SESSIONS: Self = Self(b's');
    pub(crate) const ENDED: Self = Self(b'e');
    pub(crate) const ENTRIES: Self = Self(b'n');
    pub(crate) const CONTAINERS: Self = Self(b'c');
    pub(crate) const MAKERS: Self = Self(b'k');
    pub(crate) const REPLACED: Self = Self(b'r');
    pub(crate) const REFUSALS: Self = Self(b'f');
    pub(crate) const SEARCHES: Self = Self(b'q');
    pub(crate) const WAITING: Self = Self(b'w');
    pub(crate) const CGROUPS: Self = Self(b'g');
    pub(crate) const MEMBERS: Self = Self(b'm');
    pub(crate) const HELD: Self = Self(b'h');
    pub(crate) const PROBES: Self = Self(b'p');
    pub(crate) const WAYS_VERSION: Self = Self(b'y');
    pub(crate) const UNTOLD: Self = Self(b'u');
    pub(crate) const OPAQUE: Self = Self(b'o');

    /// All rows of the kind.
    pub(crate) fn rows<K: DeserializeOwned, V: DeserializeOwned>(
        self,
        state: &State,
    ) -> Result<Vec<(K, V)>, StateError> {
        let damaged = |_wrong| StateError::Damaged("a row");
        let of = state.range(vec![self.0]..vec![self.0 + 1]);
        of.map(|(key, value)| {
            let key = postcard::from_bytes(key.get(1..).unwrap_or_default()).map_err(damaged)?;
            Ok((key, postcard::from_bytes(value).map_err(damaged)?))
        })
        .collect()
    }

    /// How many rows of the kind there are, whether or not they can be read.
    pub(crate) fn len(self, state: &State) -> usize {
        state.range(vec![self.0]..vec![self.0 + 1]).count()
    }

    /// The only row of the kind.
    pub(crate) fn get<V: DeserializeOwned>(self, state: &State) -> Result<Option<V>, StateError> {
        Ok(self.rows::<(), V>(state)?.pop().map(|((), value)| value))
    }
}

impl Changes {
    /// A row as it is now; `None`: it is gone.
    pub(crate) fn put<K: Serialize, V: Serialize>(&mut self, table: Table, key: &K, value: Option<&V>) {
        // Nothing in it can fail to be serialized: no maps of unknown length, no foreign types.
        let Ok(key) = postcard::to_extend(key, vec![table.0]) else { return };
        let value = value.map(|value| postcard::to_stdvec(value).unwrap_or_default());
        self.0.push((key, value));
    }
}

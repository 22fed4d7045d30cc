//! What the machine and the directory know, as bytes under keys: kept beside the events that they made of it, so that
//! the next agent goes on where this one was.
//!
//! Whoever owns a key alone knows what is in it. The first byte says whose it is.

use std::collections::BTreeMap;

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

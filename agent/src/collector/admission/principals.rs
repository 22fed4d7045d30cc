//! Principals and their rights, as the configuration has them now.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use tokio_util::sync::CancellationToken;

use crate::trail::{
    rights::{Principal, Rights},
    viewer::Viewer,
};

/// Everybody who may read.
#[derive(Debug, Default)]
pub(in crate::collector) struct Principals(RwLock<HashMap<Arc<str>, Known>>);

#[derive(Debug)]
struct Known {
    viewer: Viewer,
    /// cancelled when their rights are not these any more
    changed: CancellationToken,
}

impl Principals {
    pub(in crate::collector) fn new(principals: Vec<Principal>) -> Self {
        let this = Self::default();
        this.replace(principals);
        this
    }

    /// Somebody with a certificate of this name, and what tells that their rights have changed.
    pub(super) fn viewer(&self, name: &str) -> (Viewer, CancellationToken) {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match known.get(name) {
            Some(Known { viewer, changed }) => (viewer.clone(), changed.clone()),
            // A good certificate, and nothing that it may see.
            None => (Viewer::new(name, Rights::default()), CancellationToken::new()),
        }
    }

    /// Takes these instead. What those whose rights have changed have open comes to its end.
    pub(in crate::collector) fn replace(&self, principals: Vec<Principal>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *known);
        for Principal { name, rights } in principals {
            let name: Arc<str> = name.into();
            let same = before.remove(&name).filter(|known| *known.viewer.rights() == rights);
            let new = || Known { viewer: Viewer::new(&name, rights), changed: CancellationToken::new() };
            let now = same.unwrap_or_else(new);
            known.insert(name, now);
        }
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        self.changed.cancel();
    }
}

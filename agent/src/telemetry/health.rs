//! Whether the daemon is ready, and if not, what holds it back.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

/// The parts of a daemon that must be ready before it is. Clones share their state.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// what is missing; `None`: nothing, it is ready
    components: Mutex<BTreeMap<&'static str, Option<String>>>,
    /// of parts that are ready, and of which there is something to say all the same
    remarks: Mutex<BTreeMap<&'static str, String>>,
    ready: watch::Sender<bool>,
}

/// One part, to say how it is.
#[derive(Clone, Debug)]
pub struct Component {
    name: &'static str,
    health: Health,
}

impl Health {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a part, which is not ready yet.
    #[must_use]
    pub fn component(&self, name: &'static str) -> Component {
        let component = Component { name, health: self.clone() };
        component.not_ready("starting");
        component
    }

    /// Every part, and what it lacks.
    #[must_use]
    pub fn components(&self) -> BTreeMap<&'static str, Option<String>> {
        self.0.components.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What there is to say of parts that are ready.
    #[must_use]
    pub fn remarks(&self) -> BTreeMap<&'static str, String> {
        self.0.remarks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All parts are; a daemon without any is not.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.0.ready.borrow()
    }

    /// [`Self::is_ready`] as it changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.0.ready.subscribe()
    }

    fn set(&self, name: &'static str, missing: Option<String>, remark: Option<String>) {
        {
            let mut remarks = self.0.remarks.lock().unwrap_or_else(PoisonError::into_inner);
            match remark {
                Some(remark) => _ = remarks.insert(name, remark),
                None => _ = remarks.remove(name),
            }
        }
        let mut components = self.0.components.lock().unwrap_or_else(PoisonError::into_inner);
        components.insert(name, missing);
        let ready = components.values().all(Option::is_none);
        self.0.ready.send_if_modified(|was| std::mem::replace(was, ready) != ready);
    }
}

impl Component {
    pub fn ready(&self) {
        self.health.set(self.name, None, None);
    }

    /// Ready, but a person should know: what it waits for would not come if nobody could reach the daemon.
    pub fn ready_but(&self, remark: impl Into<String>) {
        self.health.set(self.name, None, Some(remark.into()));
    }

    /// `reason` is what a person reads: what is missing.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.health.set(self.name, Some(reason.into()), None);
    }
}

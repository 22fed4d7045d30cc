//! What the kernel side follows no more though no record said so: the exit did not fit into the ring.
//!
//! Whoever drives the machine asks the kernel side, after a loss of exits, which of [`Followed`] are gone. An exit may
//! still be on its way then, so what is gone is given the time of every other wait before it is believed.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::event::{BootTime, TaskKey};

/// What a machine takes to be followed by the kernel side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// by their entries; those without a command yet are among them
    pub sessions: Vec<TaskKey>,
    /// of these sessions, those that ran a command
    pub processes: Vec<TaskKey>,
}

impl Followed {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { sessions, processes } = self;
        sessions.is_empty() && processes.is_empty()
    }
}

/// What was gone at one look.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Missing {
    pub(super) sessions: Vec<TaskKey>,
    pub(super) processes: HashSet<TaskKey>,
    /// of the look
    pub(super) since: BootTime,
    /// the first flush that found it
    pub(super) found: Option<BootTime>,
}

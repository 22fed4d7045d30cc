//! What the spool kept for the agent itself.

use crate::{state::State, trail::Moment};

/// What an agent finds of the one before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// the source's position, as of the newest event; `None`: there is none of this boot, or it is not to be trusted
    pub source: Option<Vec<u8>>,
    /// of the machine and the directory, as of the same moment; empty where `source` is `None`
    pub state: State,
    /// state that cannot be gone on with: of another boot, or older than what is gone
    pub unused: State,
    /// whether the agent before said that it stopped; `None`: there was none, or its spool is gone
    pub stopped_cleanly: Option<bool>,
    /// when the agent before was last at work, to a second or so
    pub last_at_work: Option<Moment>,
    /// what was wrong with the spool when it was opened: to be told with the agent's first event
    pub findings: Vec<String>,
}

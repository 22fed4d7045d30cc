//! Which person is behind a session ([0024](../../../../docs/decisions/0024-attribution.md), [what each verdict
//! means](../../../../docs/attribution.md)).
//!
//! | module | what it does |
//! |---|---|
//! | [`engine`] | what the log says goes in, `Attributed` comes out: no clock, no I/O |
//! | [`session`], [`request`] | what is known of both sides |
//! | [`fit`] | whether a request may be the one behind a session |
//! | [`assign`] | which request goes with which session, where several fit |
//! | `judge` | the rules |
//! | `evidence` | what a verdict rests on, in words |
//! | [`verdict`] | the same as a message |
//! | `driver` | reads the log, asks the engine, writes what it says |
//! | [`remote`] | attach and port-forward: sessions that only the API server knows |
//!
//! Invariants:
//! - A verdict follows from what is known, whatever the order it came in: what comes later is put to what was there, and
//!   all that it touches is judged again.
//! - Nothing is picked where two would do: that is `AMBIGUOUS`, with all of them listed.
//! - What was said is in the log, and is not said again after a restart. It is never edited: what is known better later
//!   is another `Attributed`.
//! - Texts of evidence name no user: who may not see users may see them.

pub mod assign;
mod driver;
pub mod engine;
mod evidence;
pub mod fit;
mod judge;
pub mod remote;
pub mod request;
pub mod session;
pub mod verdict;

use std::time::Duration;

pub(super) use self::driver::Driver;
pub use self::engine::{Counts, Engine, Heard, World};
pub use crate::trail::index::Known;

/// How sure one has to be, and how long it is waited for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// how far the clocks of nodes and API servers may be apart
    pub skew: Duration,
    /// from the API server's answer until the session is entered, at most
    pub latency: Duration,
    /// after the last that came of a session and what fits to it, before it is said
    pub settle: Duration,
    /// no longer than this is waited for what has not come
    pub patience: Duration,
    /// what is decided is looked at again for so long
    pub keep: Duration,
    /// what webhooks put before a command; `*` at the end of a word stands for anything
    pub prefixes: Vec<Vec<String>>,
    /// sessions, and requests, that are kept in memory
    pub most: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let spo = ["env", "SPO_EXEC_REQUEST_UID=*"].map(str::to_owned);
        Self {
            skew: Duration::from_secs(2),
            latency: Duration::from_secs(10),
            settle: Duration::from_secs(3),
            patience: Duration::from_secs(60),
            keep: Duration::from_secs(600),
            prefixes: vec![spo.to_vec()],
            most: 100_000,
        }
    }
}

#[cfg(test)]
mod order_tests;
#[cfg(test)]
mod pair_tests;
#[cfg(test)]
mod scene;
#[cfg(test)]
mod tests;

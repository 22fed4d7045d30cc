//! Problems of one node that pass, as its detector tells them by Events: which are repetitions, and how many never came. Pure.
//!
//! The detector's Events are limited in their rate, merged, and said again after it began anew. It also counts what it
//! found, by reason; an agent that may ask it says so. Where the count grows and no Events come, they are known to be missing.

use std::collections::{BTreeMap, VecDeque};

use podtrail_proto::v1;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::object::MAX_NAME;
use crate::collector::print::{self, Print};

/// A detector that begins anew reads so much of its logs again (5 minutes, by its stock configuration), and has to begin.
const REPLAYED: i64 = 10 * 60;
/// How long Events may take that are not missing.
pub(super) const SETTLE: i64 = 60;
/// Events and reasons remembered for each node.
const MAX_RECENT: usize = 512;
const MAX_REASONS: usize = 200;

/// See the module.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Problems {
    /// oldest first
    recent: VecDeque<Recent>,
    reasons: BTreeMap<String, Reason>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Recent {
    /// the Event as an object
    object: Print,
    /// what it says: reason and message
    problem: Print,
    count: u64,
    /// seconds since 1970
    at: i64,
}

/// What was told of one reason, and what came.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Reason {
    /// by Events, also those that were said again
    came: u64,
    /// by the detector; `None`: never asked
    counted: Option<u64>,
    /// both, where counting began
    base: (u64, u64),
    /// what had come when it was last asked
    came_then: u64,
    /// said to be missing already
    told: u64,
    /// since when there are more
    owed_since: Option<i64>,
}

/// What an Event is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Judged {
    /// said already
    pub(super) replay: bool,
    /// messages that were put together with this one
    pub(super) lost: u64,
}

/// Monitors of the node-problem-detector name themselves like this, by their configuration.
pub(super) fn is_detector(component: &str) -> bool {
    component.ends_with("-monitor") || matches!(component, "health-checker" | "abrt-adaptor")
}

impl Problems {
    /// An Event of the detector's. `now`: seconds since 1970.
    pub(super) fn came(&mut self, event: &v1::ClusterEvent, now: i64) -> Judged {
        let v1::ClusterEvent { uid, reason, message, merged, .. } = event;
        let (object, problem) = (hash(&[uid]), hash(&[reason, message]));
        let count = event.count();
        let before = self.recent.iter().filter(|known| known.object == object).map(|known| known.count).max();
        let more = count.saturating_sub(before.unwrap_or(0));
        let said = |known: &Recent| {
            known.object != object
                && known.problem == problem
                && known.count == count
                && now.saturating_sub(known.at) <= REPLAYED
        };
        let replay = self.recent.iter().any(said);
        self.recent.push_back(Recent { object, problem, count, at: now });
        while self.recent.len() > MAX_RECENT {
            self.recent.pop_front();
        }
        if let Some(reason) = self.reason(reason) {
            reason.came = reason.came.saturating_add(more);
        }
        Judged { replay, lost: if *merged && !replay { more.saturating_sub(1) } else { 0 } }
    }

    /// The detector's own counts.
    pub(super) fn counted(&mut self, counts: &[v1::ProblemCount], now: i64) {
        for v1::ProblemCount { reason, count } in counts {
            let Some(reason) = self.reason(reason) else { continue };
            match reason.counted {
                None => reason.base = (*count, reason.came),
                // It began anew: what came since it was last asked is of the new count.
                Some(before) if *count < before => {
                    reason.base = (0, reason.came_then);
                    (reason.told, reason.owed_since) = (0, None);
                }
                Some(_) => {}
            }
            reason.counted = Some(*count);
            reason.came_then = reason.came;
            reason.look(now);
        }
    }

    /// What is missing by now: reasons, and how often. Not to be asked while Events may be late.
    pub(super) fn missing(&mut self, now: i64) -> Vec<(String, u64)> {
        let mut missing = Vec::new();
        for (name, reason) in &mut self.reasons {
            reason.look(now);
            if reason.owed_since.is_some_and(|since| now.saturating_sub(since) >= SETTLE) {
                missing.push((name.clone(), reason.owed().saturating_sub(reason.told)));
                reason.told = reason.owed();
                reason.owed_since = None;
            }
        }
        missing
    }

    /// Whether something may be missing: then it is to be asked again.
    pub(super) fn is_owed(&self) -> bool {
        self.reasons.values().any(|reason| reason.owed() > reason.told)
    }

    fn reason(&mut self, name: &str) -> Option<&mut Reason> {
        if name.len() > MAX_NAME || (self.reasons.len() >= MAX_REASONS && !self.reasons.contains_key(name)) {
            return None;
        }
        Some(self.reasons.entry(name.to_owned()).or_default())
    }
}

impl Reason {
    /// Counted, and not come.
    fn owed(&self) -> u64 {
        let (counted, came) = self.base;
        let counted = self.counted.map_or(0, |count| count.saturating_sub(counted));
        counted.saturating_sub(self.came.saturating_sub(came))
    }

    fn look(&mut self, now: i64) {
        if self.owed() > self.told {
            // A clock that goes back begins to wait again.
            self.owed_since = Some(self.owed_since.map_or(now, |since| since.min(now)));
        } else {
            self.owed_since = None;
        }
    }
}

fn hash(parts: &[&str]) -> Print {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    print::of(hash)
}

#[cfg(test)]
#[path = "problems_tests.rs"]
mod tests;

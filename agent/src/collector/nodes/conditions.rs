//! What is known of one node's conditions, and what follows from what somebody reports of them. Pure.
//!
//! The API server and the node's own agent tell of the same detector, one later than the other. There is one state, that of
//! whoever is further: a report counts as news where its transition is later than that of the state, or where its source had the
//! state before and now has another. The second is for clocks that go back, and for two changes within a second.
//!
//! `status` alone decides what is good (see [`crate::condition`]).

use std::collections::BTreeMap;

use podtrail_proto::v1::{self, node_condition::Change};
use serde::{Deserialize, Serialize};

use super::object::Reported;
use crate::{
    condition::{Health, health},
    trail::Moment,
};

const SECOND: i64 = 1_000_000_000;
/// A detector's conditions begin within so many seconds of one another, when it begins.
const TOGETHER: i64 = 2;
/// Conditions that stock monitors of logs set: a log says that something broke, and never that it is whole again.
const NEVER_CLEAR: [&str; 5] = [
    "KernelDeadlock",
    "ReadonlyFilesystem",
    "XfsShutdown",
    "CperHardwareErrorFatal",
    "CorruptDockerOverlay2",
];

/// Who tells of conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Api,
    Agent,
}

impl Source {
    const ALL: [(Self, &'static str); 2] = [(Self::Api, "api"), (Self::Agent, "agent")];

    fn at(self) -> usize {
        match self {
            Self::Api => 0,
            Self::Agent => 1,
        }
    }
}

/// Both clocks: that of people, and one that only goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) wall: Moment,
    /// nanoseconds since anything
    pub(super) steady: i64,
}

/// What one source said last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Said {
    status: String,
    reason: String,
    transition: Option<i64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Condition {
    said: Said,
    message: String,
    truncated: bool,
    /// by source
    by: [Option<Said>; 2],
    heartbeat: Option<i64>,
    stale: bool,
    /// when somebody last confirmed it, on the steady clock
    #[serde(skip)]
    heard: i64,
}

/// See the module.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Conditions(BTreeMap<String, Condition>);

/// Something changed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Edge {
    pub(super) condition: v1::NodeCondition,
    /// when it changed, by whoever says so; `None`: now
    pub(super) at: Option<Moment>,
}

/// What follows from a report.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct News {
    pub(super) edges: Vec<Edge>,
    /// the state is to be asserted: which conditions there are changed, or the detector began anew
    pub(super) assert: bool,
    /// something is to be kept
    pub(super) changed: bool,
}

impl From<&Reported> for Said {
    fn from(reported: &Reported) -> Self {
        let Reported { kind: _, status, reason, message: _, transition, heartbeat: _, truncated: _ } =
            reported;
        Self { status: status.clone(), reason: reason.clone(), transition: *transition }
    }
}

impl Said {
    fn is_good(&self, kind: &str) -> bool {
        health(kind, &self.status) == Health::Good
    }

    /// Whoever gives another reason for it has it all the same.
    fn is_same_edge(&self, other: &Self) -> bool {
        self.status == other.status && self.transition == other.transition
    }
}

impl Conditions {
    /// After a restart: nobody was heard before it.
    pub(super) fn restored(mut self, now: Now) -> Self {
        self.0.values_mut().for_each(|condition| condition.heard = now.steady);
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A source says all that it has. `stale_after`: nanoseconds.
    pub(super) fn report(&mut self, source: Source, all: &[Reported], now: Now, stale_after: i64) -> News {
        let mut news = News::default();
        for reported in all {
            let anew = is_anew(reported, all);
            self.one(source, reported, anew, (now, stale_after), &mut news);
        }
        self.retain(source, |kind| all.iter().any(|reported| reported.kind == kind), &mut news);
        news
    }

    /// A source has no conditions of this node any more.
    pub(super) fn gone(&mut self, source: Source) -> News {
        let mut news = News::default();
        self.retain(source, |_| false, &mut news);
        news
    }

    fn one(
        &mut self,
        source: Source,
        reported: &Reported,
        anew: bool,
        (now, stale_after): (Now, i64),
        news: &mut News,
    ) {
        let said = Said::from(reported);
        let Some(known) = self.0.get_mut(&reported.kind) else {
            let mut by = [None, None];
            by[source.at()] = Some(said.clone());
            let condition = Condition {
                said,
                message: reported.message.clone(),
                truncated: reported.truncated,
                by,
                heartbeat: reported.heartbeat,
                // Nobody watched it before: its own clock is all there is.
                stale: reported
                    .heartbeat
                    .is_some_and(|beat| now.wall.0.saturating_sub(at(beat).0) > stale_after),
                heard: now.steady,
            };
            // A healthy one is in the state that is asserted now.
            if !condition.said.is_good(&reported.kind) {
                news.edges.push(condition.edge(&reported.kind, Change::First, String::new()));
            }
            self.0.insert(reported.kind.clone(), condition);
            (news.assert, news.changed) = (true, true);
            return;
        };
        let before = known.by[source.at()].replace(said.clone());
        // A heartbeat that was not seen before is of now, whatever its clock says.
        let confirmed = source == Source::Agent || known.heartbeat != reported.heartbeat;
        if source == Source::Api {
            known.heartbeat = reported.heartbeat;
        }
        if confirmed {
            known.heard = now.steady;
            if std::mem::take(&mut known.stale) {
                news.edges.push(known.edge(&reported.kind, Change::Fresh, String::new()));
                news.changed = true;
            }
        }
        if before.as_ref() == Some(&said) {
            // The text alone is no change.
            return;
        }
        news.changed = true;
        if known.said == said {
            return;
        }
        let was_first = before.as_ref() == Some(&known.said);
        if !was_first && said.transition <= known.said.transition {
            return;
        }
        let old = std::mem::replace(&mut known.said, said);
        known.message.clone_from(&reported.message);
        known.truncated = reported.truncated;
        let change = match (old.status == known.said.status, known.said.is_good(&reported.kind)) {
            (false, true) if anew => Change::Reset,
            (false, true) => Change::Recovered,
            (false, false) => Change::Became,
            // Good before and after: that it began anew is all there is to say.
            (true, true) if anew => {
                news.assert = true;
                return;
            }
            (true, _) if old.reason != known.said.reason => Change::Reason,
            (true, _) => Change::Again,
        };
        news.edges.push(known.edge(&reported.kind, change, old.status));
    }

    /// What a source does not say any more is gone, once no other says it.
    fn retain(&mut self, source: Source, says: impl Fn(&str) -> bool, news: &mut News) {
        self.0.retain(|kind, condition| {
            if says(kind) || condition.by[source.at()].take().is_none() {
                return true;
            }
            news.changed = true;
            if condition.by.iter().any(Option::is_some) {
                return true;
            }
            news.assert = true;
            if !condition.said.is_good(kind) {
                news.edges.push(condition.edge(kind, Change::Gone, condition.said.status.clone()));
            }
            false
        });
    }

    /// Those that nobody has confirmed since `before`. `api`: since when the API server is heard; where it is not, nobody can
    /// say of its conditions whether they were confirmed. All on the steady clock.
    pub(super) fn stale(&mut self, before: i64, api: Option<i64>) -> News {
        let mut news = News::default();
        for (kind, condition) in &mut self.0 {
            let by_agent = condition.by[Source::Agent.at()].is_some();
            let heard = match condition.heartbeat {
                Some(_) => api.map(|since| since.max(condition.heard)),
                None => by_agent.then_some(condition.heard),
            };
            if !condition.stale && heard.is_some_and(|heard| heard < before) {
                condition.stale = true;
                news.edges.push(condition.edge(kind, Change::Stale, String::new()));
                news.changed = true;
            }
        }
        news
    }

    /// All of them, by type.
    pub(super) fn state(&self) -> v1::NodeState {
        let conditions = self.0.iter().map(|(kind, condition)| condition.message(kind));
        v1::NodeState { conditions: conditions.collect() }
    }

    /// How many are bad, how many neither, and how many stale.
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        let (mut bad, mut unknown, mut stale) = (0, 0, 0);
        for (kind, condition) in &self.0 {
            match health(kind, &condition.said.status) {
                Health::Good => {}
                Health::Bad => bad += 1,
                Health::Unknown => unknown += 1,
            }
            stale += u64::from(condition.stale);
        }
        (bad, unknown, stale)
    }
}

impl Condition {
    fn message(&self, kind: &str) -> v1::NodeCondition {
        let has =
            |source: Source| self.by[source.at()].as_ref().is_some_and(|said| said.is_same_edge(&self.said));
        let sources =
            Source::ALL.iter().filter(|(source, _)| has(*source)).map(|(_, name)| (*name).to_owned());
        v1::NodeCondition {
            r#type: kind.to_owned(),
            status: self.said.status.clone(),
            reason: self.said.reason.clone(),
            message: self.message.clone(),
            transition: self.said.transition.map(at).map(Moment::timestamp),
            change: None,
            previous_status: String::new(),
            stale: Some(self.stale),
            heartbeat: self.heartbeat.map(at).map(Moment::timestamp),
            sources: sources.collect(),
            truncated: self.truncated,
        }
    }

    fn edge(&self, kind: &str, change: Change, previous_status: String) -> Edge {
        let condition =
            v1::NodeCondition { change: Some(change.into()), previous_status, ..self.message(kind) };
        let of_now = matches!(change, Change::Stale | Change::Fresh | Change::Gone);
        Edge { condition, at: self.said.transition.filter(|_| !of_now).map(at) }
    }
}

fn at(seconds: i64) -> Moment {
    Moment(seconds.saturating_mul(SECOND))
}

/// Whether a good condition is so because its detector began anew, which makes all of them good: those that are confirmed together are one
/// detector's, and none of them is older than this.
fn is_anew(reported: &Reported, all: &[Reported]) -> bool {
    if NEVER_CLEAR.contains(&reported.kind.as_str()) {
        return true;
    }
    let mut others = 0;
    let oldest = all
        .iter()
        .filter(|other| other.kind != reported.kind && other.heartbeat == reported.heartbeat)
        .inspect(|_| others += 1)
        .all(|other| other.transition.map(|t| t.saturating_add(TOGETHER)) >= reported.transition);
    oldest && others > 0
}

#[cfg(test)]
#[path = "conditions_tests.rs"]
mod tests;

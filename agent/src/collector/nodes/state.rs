//! All nodes, and what becomes of what is heard of them. Pure but for [`Nodes::load`].
//!
//! A row a node is kept beside the log, in one batch with the events that follow from it.

use std::collections::{BTreeMap, BTreeSet};

use podtrail_proto::v1::{self, event::Body};
use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::{
    Settings,
    conditions::{Conditions, Edge, News, Now, Source},
    object,
    problems::{self, Problems},
};
use crate::{
    collector::{
        log::{Beside, DiskLog},
        seen::Seen,
    },
    trail::{Moment, log::LogError},
};

/// Rows, one for each node.
const ROWS: &[u8] = b"nodes/node/";
/// Events that were told.
pub(super) const SEEN: &[u8] = b"nodes/seen/";
const MAX_NODES: usize = 100_000;
/// States that are asserted in one batch.
const ASSERTED: usize = 256;
const SECOND: i64 = 1_000_000_000;
/// Years 1970 to 9999: whatever a node's clock says, it is a time.
const LATEST: i64 = 253_402_300_799;

/// Cluster and name.
pub(super) type Name = (String, String);

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Row {
    conditions: Conditions,
    problems: Problems,
    /// the API server has such a node
    listed: bool,
    /// when its state is to be said again, on the steady clock; 0: not known
    #[serde(skip)]
    due: i64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Nodes {
    settings: Settings,
    rows: BTreeMap<Name, Row>,
    seen: Seen,
    /// rows to be kept
    dirty: BTreeSet<Name>,
    /// with problems that may be missing
    owed: BTreeSet<Name>,
}

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Out {
    pub(super) events: Vec<v1::Event>,
    pub(super) beside: Vec<Beside>,
    pub(super) replays: u64,
    pub(super) duplicates: u64,
}

/// Which sources are heard, on the steady clock; `None`: it is not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Up {
    pub(super) nodes: Option<i64>,
    pub(super) events: Option<i64>,
}

impl Nodes {
    pub(super) fn load(log: &DiskLog, settings: Settings, now: Now) -> Result<Self, LogError> {
        let mut rows = BTreeMap::new();
        for (key, value) in log.beside(ROWS)? {
            let name = key.strip_prefix(ROWS).and_then(decode_name);
            // A row of another version is as good as none: all of it is learned again.
            if let (Some(name), Ok(row)) = (name, postcard::from_bytes::<Row>(&value)) {
                let row = Row { conditions: row.conditions.restored(now), ..row };
                rows.insert(name, row);
            }
        }
        let owed =
            rows.iter().filter(|(_, row)| row.problems.is_owed()).map(|(name, _)| name.clone()).collect();
        Ok(Self { settings, rows, seen: Seen::load(log, SEEN)?, dirty: BTreeSet::new(), owed })
    }

    /// The API server has a node like this.
    pub(super) fn node(&mut self, node: &object::Node, now: Now, out: &mut Out) {
        let name = (self.settings.cluster.clone(), node.name.clone());
        let stale_after = nanos(self.settings.stale_after);
        let Some(row) = self.row(&name) else { return };
        let new = !std::mem::replace(&mut row.listed, true);
        let mut news = row.conditions.report(Source::Api, &node.conditions, now, stale_after);
        news.changed |= new;
        self.tell(&name, news, now, out);
    }

    /// The API server has no such node any more.
    pub(super) fn node_gone(&mut self, node: &str, now: Now, out: &mut Out) {
        let name = (self.settings.cluster.clone(), node.to_owned());
        let Some(row) = self.rows.get_mut(&name) else { return };
        row.listed = false;
        let mut news = row.conditions.gone(Source::Api);
        news.changed = true;
        self.tell(&name, news, now, out);
        if self.rows.get(&name).is_some_and(|row| row.conditions.is_empty()) {
            self.rows.remove(&name);
            self.owed.remove(&name);
        }
    }

    /// The API server has these, and no others.
    pub(super) fn only(&mut self, names: &BTreeSet<String>, now: Now, out: &mut Out) {
        let listed = self.rows.iter().filter(|((cluster, name), row)| {
            row.listed && *cluster == self.settings.cluster && !names.contains(name)
        });
        let gone: Vec<String> = listed.map(|((_, name), _)| name.clone()).collect();
        gone.iter().for_each(|name| self.node_gone(name, now, out));
    }

    /// What an agent was told by the detector of its node.
    pub(super) fn observed(&mut self, name: &Name, observed: &v1::NodeObserved, now: Now, out: &mut Out) {
        let v1::NodeObserved { conditions, problems, unreachable: _, has_conditions, has_problems } =
            observed;
        let (choice, stale_after) = (self.settings.choice.clone(), nanos(self.settings.stale_after));
        let Some(row) = self.row(name) else { return };
        let mut news = News::default();
        if has_conditions.unwrap_or(false) {
            let chosen = conditions.iter().filter(|condition| choice.takes_from_detector(&condition.r#type));
            let reported: Vec<_> = chosen.map(object::Reported::from).collect();
            news = row.conditions.report(Source::Agent, &reported, now, stale_after);
        }
        if has_problems.unwrap_or(false) {
            row.problems.counted(problems, object::seconds(now.wall));
            news.changed = true;
            if row.problems.is_owed() {
                self.owed.insert(name.clone());
            }
        }
        self.tell(name, news, now, out);
    }

    /// An Event; `updated`: it is one that was there before.
    pub(super) fn event(&mut self, found: &object::Event, updated: Option<bool>, now: Now, out: &mut Out) {
        let object::Event { version: _, time, event } = found;
        let cluster = &self.settings.cluster;
        if !self.seen.add(print(cluster, event), &mut out.beside) {
            out.duplicates += 1;
            return;
        }
        let involved = event.involved.as_ref().filter(|involved| involved.kind == "Node");
        let name = involved.map(|involved| (cluster.clone(), involved.name.clone()));
        // Anybody could make up nodes here: only those are meant that there are.
        let name = name.filter(|name| self.rows.contains_key(name));
        let mut lost = 0;
        if let Some(row) = name.as_ref().and_then(|name| self.rows.get_mut(name))
            && problems::is_detector(&event.component)
        {
            let judged = row.problems.came(event, object::seconds(now.wall));
            self.dirty.extend(name.clone());
            if judged.replay {
                out.replays += 1;
                return;
            }
            lost = judged.lost;
        }
        let (cluster, node) = name.unwrap_or_else(|| (cluster.clone(), String::new()));
        let updated = updated.unwrap_or_else(|| event.count() > 1);
        let body = Body::ClusterEvent(v1::ClusterEvent { updated: Some(updated), ..event.clone() });
        out.events.push(message(&(cluster.clone(), node.clone()), *time, now, body));
        if lost > 0 {
            let detail = format!("{}: put together with others, of which the texts are lost", event.reason);
            let from = event.first.as_ref().map_or(now.wall, Moment::from_timestamp);
            out.events.push(gap(&(cluster, node), lost, true, from, now, detail));
        }
    }

    /// Time goes by: what is stale, missing, or to be said again.
    pub(super) fn tick(&mut self, up: Up, now: Now, out: &mut Out) {
        let before = now.steady.saturating_sub(nanos(self.settings.stale_after));
        let every = nanos(self.settings.state_every).max(1);
        let mut asserted = 0;
        let mut told = Vec::new();
        for (number, (name, row)) in self.rows.iter_mut().enumerate() {
            let mut news = row.conditions.stale(before, up.nodes);
            if row.due == 0 {
                // Not all in one moment.
                let part = i64::try_from(number % 64).unwrap_or(0);
                row.due = now.steady.saturating_add(every / 64 * (part + 1));
            }
            // What nobody can confirm is not said again.
            let heard = up.nodes.is_some() || !row.listed;
            if heard && row.due <= now.steady && asserted < ASSERTED && !row.conditions.is_empty() {
                news.assert = true;
                asserted += 1;
            }
            if news != News::default() {
                told.push((name.clone(), news));
            }
        }
        for (name, news) in told {
            self.tell(&name, news, now, out);
        }
        let settled = up
            .events
            .is_some_and(|since| now.steady.saturating_sub(since) > problems::SETTLE.saturating_mul(SECOND));
        if settled {
            self.say_missing(now, out);
        }
    }

    fn say_missing(&mut self, now: Now, out: &mut Out) {
        let seconds = object::seconds(now.wall);
        for name in std::mem::take(&mut self.owed) {
            let Some(row) = self.rows.get_mut(&name) else { continue };
            let missing = row.problems.missing(seconds);
            if row.problems.is_owed() {
                self.owed.insert(name.clone());
            }
            for (reason, count) in missing {
                let from = Moment(now.wall.0.saturating_sub(problems::SETTLE.saturating_mul(SECOND)));
                let detail = format!("{reason}: counted by the detector, and no Event of it came");
                out.events.push(gap(&name, count, false, from, now, detail));
                self.dirty.insert(name.clone());
            }
        }
    }

    /// Everything that is to be kept with what was said.
    pub(super) fn keep(&mut self, out: &mut Out) {
        for name in std::mem::take(&mut self.dirty) {
            let value = self.rows.get(&name).and_then(|row| postcard::to_stdvec(row).ok());
            out.beside.push(Beside { key: encode_name(&name), value });
        }
    }

    /// Nodes, and their conditions that are bad, not known, and stale.
    pub(super) fn counts(&self) -> (usize, u64, u64, u64) {
        let counts = self.rows.values().map(|row| row.conditions.counts());
        let (bad, unknown, stale) = counts.fold((0, 0, 0), |a, b| (a.0 + b.0, a.1 + b.1, a.2 + b.2));
        (self.rows.len(), bad, unknown, stale)
    }

    fn row(&mut self, name: &Name) -> Option<&mut Row> {
        if self.rows.len() >= MAX_NODES && !self.rows.contains_key(name) {
            return None;
        }
        Some(self.rows.entry(name.clone()).or_default())
    }

    fn tell(&mut self, name: &Name, news: News, now: Now, out: &mut Out) {
        let News { edges, assert, changed } = news;
        if changed {
            self.dirty.insert(name.clone());
        }
        for Edge { condition, at } in edges {
            out.events.push(message(name, at, now, Body::NodeCondition(condition)));
        }
        if assert && let Some(row) = self.rows.get_mut(name) {
            row.due = now.steady.saturating_add(nanos(self.settings.state_every));
            out.events.push(message(name, None, now, Body::NodeState(row.conditions.state())));
        }
    }
}

impl From<&v1::NodeCondition> for object::Reported {
    fn from(condition: &v1::NodeCondition) -> Self {
        let time =
            |time: Option<&podtrail_proto::Timestamp>| time.map(Moment::from_timestamp).map(object::seconds);
        object::Reported {
            kind: condition.r#type.clone(),
            status: condition.status.clone(),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
            transition: time(condition.transition.as_ref()),
            heartbeat: None,
            truncated: condition.truncated,
        }
    }
}

/// An event of the collector's, about a node, or about the cluster where the node has no name.
fn message((cluster, node): &Name, at: Option<Moment>, now: Now, body: Body) -> v1::Event {
    // What is yet to come is a clock that is wrong.
    let at = at.filter(|at| at.0 >= 0 && object::seconds(*at) <= LATEST).unwrap_or(now.wall).min(now.wall);
    v1::Event {
        id: Some(v1::EventId { cluster: cluster.clone(), node: node.clone(), epoch: 0, seq: 0 }),
        time: Some(at.timestamp()),
        body: Some(body),
        ..v1::Event::default()
    }
}

fn gap(name: &Name, count: u64, exact: bool, from: Moment, now: Now, detail: String) -> v1::Event {
    let gap = v1::Gap {
        source: Some(v1::GapSource::NodeProblemDetector.into()),
        count: Some(count),
        exact: Some(exact),
        from: Some(from.min(now.wall).timestamp()),
        to: Some(now.wall.timestamp()),
        session_ids: Vec::new(),
        detail,
    };
    message(name, None, now, Body::Gap(gap))
}

/// Of all that is kept of an Event but its version: what is the same as before is no news.
fn print(cluster: &str, event: &v1::ClusterEvent) -> [u8; 16] {
    let event = v1::ClusterEvent { resource_version: String::new(), updated: None, ..event.clone() };
    Seen::print(cluster, &event.encode_to_vec())
}

fn nanos(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Names have no control characters.
fn encode_name((cluster, node): &Name) -> Vec<u8> {
    [ROWS, cluster.as_bytes(), &[0], node.as_bytes()].concat()
}

fn decode_name(key: &[u8]) -> Option<Name> {
    let (cluster, node) = std::str::from_utf8(key).ok()?.split_once('\0')?;
    Some((cluster.to_owned(), node.to_owned()))
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;

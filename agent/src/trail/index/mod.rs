//! Sessions and nodes, counted from events: what lists and timelines are answered from.
//!
//! Pure: the same events give the same answers, whatever the time, and whether they were applied one by one or
//! rebuilt from a log. Nothing here may be needed to keep an event: an index can always be thrown away.
//!
//! Invariants:
//! - Sessions are keyed by id *and* node: no node can write into the session of another.
//! - What is counted is what the log still holds: [`Index::trim`] takes back the counts of what is trimmed.
//! - Memory is bounded by the log's own bounds: a session whose events are all trimmed is dropped once it has ended;
//!   of those still open, the last [`MAX_SILENT`] stay.
//! - Which gaps touch a session is decided when it is asked for, since a session's end may come after the gap.

mod around;
mod cursors;
mod node;
mod query;
mod session;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use podtrail_proto::v1;

use self::{
    around::{Observed, Pods},
    node::{Gap, Gaps, Node},
    session::Session,
};
use super::{
    Moment,
    log::{Cursor, Entry},
};

pub use query::{Filter, FindError, Known, PageToken, SessionRef, SessionsPage};

/// Open sessions kept though the log holds nothing of them any more.
const MAX_SILENT: usize = 10_000;
/// Sessions kept at all, against a node that makes them up.
const MAX_SESSIONS: usize = 1_000_000;
/// Requests and verdicts whose places are known; twice as many as attribution keeps of both.
const MAX_FOR_ATTRIBUTION: usize = 1_000_000;
/// Nodes kept of which the log holds nothing.
const MAX_SILENT_NODES: usize = 10_000;

/// Names a session: ids are unique, but a node may claim that of another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    id: Arc<str>,
    node: NodeNumber,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct NodeNumber(u32);

/// So many events in a row came from one node.
#[derive(Debug)]
struct Run {
    node: NodeNumber,
    first: Cursor,
    len: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Index {
    sessions: BTreeMap<Key, Session>,
    by_start: BTreeSet<(Moment, Key)>,
    /// those with events in the log, by their first
    by_first: BTreeSet<(Cursor, Key)>,
    /// those open without any
    silent: BTreeSet<(Moment, Key)>,
    nodes: BTreeMap<NodeNumber, Node>,
    /// by cluster, then by name
    node_numbers: BTreeMap<String, BTreeMap<String, NodeNumber>>,
    next_node: u32,
    runs: VecDeque<Run>,
    /// gaps of which the node is not known
    anywhere: Gaps,
    /// requests to API servers, and verdicts: what attribution must know from before
    for_attribution: VecDeque<Cursor>,
    observed: Observed,
    pods: Pods,
    /// sessions with a verdict
    attributed: usize,
    newest: Cursor,
}

/// A request to an API server, or a verdict of the collector's.
fn is_for_attribution(event: &v1::Event) -> bool {
    match &event.body {
        Some(v1::event::Body::ApiRequest(_)) => true,
        Some(v1::event::Body::Attributed(attributed)) => attributed.verdict.is_some(),
        _ => false,
    }
}

/// Something is missing of what happened beside sessions: nothing of what was done in them.
fn is_beside(gap: &v1::Gap) -> bool {
    matches!(gap.source(), v1::GapSource::NodeProblemDetector | v1::GapSource::Kubernetes)
}

impl Index {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The last cursor applied.
    #[must_use]
    pub fn newest(&self) -> Cursor {
        self.newest
    }

    /// How many sessions it knows, and how many of them are open.
    #[must_use]
    pub fn session_counts(&self) -> (usize, usize) {
        (self.sessions.len(), self.sessions.values().filter(|s| s.end.is_none()).count())
    }

    /// Counts one more event. Those that were applied already are passed over.
    pub fn apply(&mut self, entry: &Entry) {
        let Entry { cursor, logged, event } = entry;
        if *cursor <= self.newest {
            return;
        }
        self.newest = *cursor;
        let time = event.time.as_ref().map_or(*logged, Moment::from_timestamp);
        let Some(id) = &event.id else {
            if let Some(v1::event::Body::Gap(gap)) = &event.body {
                self.anywhere.push(Gap::new(*cursor, gap, &event.session_id, time));
            }
            return;
        };
        let number = self.node_number(&id.cluster, &id.node);
        self.count(number, *cursor);
        if let Some(node) = self.nodes.get_mut(&number) {
            node.apply(entry, time);
            if let Some(v1::event::Body::Gap(gap)) = &event.body
                && !is_beside(gap)
            {
                node.gaps.push(Gap::new(*cursor, gap, &event.session_id, time));
            }
        }
        // Sessions that were only counted count with the one that was told.
        let session = match &event.body {
            Some(v1::event::Body::Folded(folded)) => &folded.like_session_id,
            _ => &event.session_id,
        };
        if !session.is_empty() {
            self.apply_to_session(session, number, *cursor, time, event);
        }
        match &event.body {
            Some(v1::event::Body::NodeObserved(_)) => self.observed.push(*cursor),
            Some(v1::event::Body::ClusterEvent(about)) => self.pods.push(&id.cluster, *cursor, time, about),
            _ => {}
        }
        if is_for_attribution(event) {
            if self.for_attribution.len() >= MAX_FOR_ATTRIBUTION {
                self.for_attribution.pop_front();
            }
            self.for_attribution.push_back(*cursor);
        }
    }

    fn apply_to_session(
        &mut self,
        id: &str,
        node: NodeNumber,
        cursor: Cursor,
        time: Moment,
        event: &v1::Event,
    ) {
        let key = Key { id: id.into(), node };
        let mut new = false;
        let session = self.sessions.entry(key.clone()).or_insert_with(|| {
            new = true;
            Session::new(time)
        });
        let (had_start, had_first, had_last) = (session.start(), session.cursors.first(), session.last_event);
        let had_verdict = session.attribution.is_some();
        session.apply(cursor, time, event);
        if !had_verdict && session.attribution.is_some() {
            self.attributed += 1;
        }
        let start = session.start();
        if !new && had_start != start {
            self.by_start.remove(&(had_start, key.clone()));
        }
        if had_first.is_none() {
            self.silent.remove(&(had_last, key.clone()));
            self.by_first.insert((cursor, key.clone()));
        }
        if new || had_start != start {
            self.by_start.insert((start, key));
        }
        while self.sessions.len() > MAX_SESSIONS {
            let Some((_, oldest)) = self.by_start.first().cloned() else { break };
            self.drop_session(&oldest);
        }
    }

    /// Takes back what the log dropped: everything before `oldest`.
    pub fn trim(&mut self, oldest: Cursor) {
        self.trim_runs(oldest);
        while let Some((first, key)) = self.by_first.first().cloned() {
            if first >= oldest {
                break;
            }
            self.by_first.remove(&(first, key.clone()));
            let Some(session) = self.sessions.get_mut(&key) else { continue };
            session.trim(oldest);
            match session.cursors.first() {
                Some(first) => _ = self.by_first.insert((first, key)),
                None if session.end.is_some() => self.drop_session(&key),
                None => _ = self.silent.insert((session.last_event, key)),
            }
        }
        while self.silent.len() > MAX_SILENT {
            let Some((_, key)) = self.silent.pop_first() else { break };
            self.drop_session(&key);
        }
        for node in self.nodes.values_mut() {
            node.gaps.trim(oldest);
            node.around.trim(oldest);
        }
        self.observed.trim(oldest);
        self.pods.trim(oldest);
        self.anywhere.trim(oldest);
        while self.for_attribution.pop_front_if(|cursor| *cursor < oldest).is_some() {}
        if self.nodes.len() > MAX_SILENT_NODES {
            self.nodes.retain(|_, n| !n.is_forgotten());
            self.node_numbers.retain(|_, names| {
                names.retain(|_, number| self.nodes.contains_key(number));
                !names.is_empty()
            });
        }
    }

    fn drop_session(&mut self, key: &Key) {
        if let Some(s) = self.sessions.remove(key) {
            if s.attribution.is_some() {
                self.attributed = self.attributed.saturating_sub(1);
            }
            self.by_start.remove(&(s.start(), key.clone()));
            self.silent.remove(&(s.last_event, key.clone()));
            if let Some(first) = s.cursors.first() {
                self.by_first.remove(&(first, key.clone()));
            }
        }
    }

    fn trim_runs(&mut self, oldest: Cursor) {
        while let Some(run) = self.runs.front_mut() {
            let gone = oldest.saturating_sub(run.first).min(run.len);
            if gone == 0 {
                break;
            }
            if let Some(node) = self.nodes.get_mut(&run.node) {
                node.events = node.events.saturating_sub(gone);
            }
            run.first += gone;
            run.len -= gone;
            if run.len == 0 {
                self.runs.pop_front();
            }
        }
    }

    fn count(&mut self, node: NodeNumber, cursor: Cursor) {
        match self.runs.back_mut() {
            Some(run) if run.node == node && run.first + run.len == cursor => run.len += 1,
            _ => self.runs.push_back(Run { node, first: cursor, len: 1 }),
        }
        if let Some(n) = self.nodes.get_mut(&node) {
            n.events += 1;
        }
    }

    fn node_number(&mut self, cluster: &str, name: &str) -> NodeNumber {
        if let Some(number) = self.node_numbers.get(cluster).and_then(|names| names.get(name)) {
            return *number;
        }
        let number = NodeNumber(self.next_node);
        self.next_node += 1;
        self.nodes.insert(number, Node::new(cluster, name));
        self.node_numbers.entry(cluster.to_owned()).or_default().insert(name.to_owned(), number);
        number
    }

    /// An agent's stream began (`true`) or ended. A node may have several at once while one of them dies.
    pub fn set_connected(&mut self, cluster: &str, name: &str, connected: bool, now: Moment) {
        let number = self.node_number(cluster, name);
        if let Some(node) = self.nodes.get_mut(&number) {
            node.connected =
                if connected { node.connected.saturating_add(1) } else { node.connected.saturating_sub(1) };
            node.last_seen = node.last_seen.max(Some(now));
        }
    }
}

#[cfg(test)]
mod tests;

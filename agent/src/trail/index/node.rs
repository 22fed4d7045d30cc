//! What the index knows of one node.

use std::collections::{BTreeMap, VecDeque};

use podtrail_proto::v1::{self, agent_state::Phase, event::Body, node_condition::Change};

use super::{
    around::{Around, Arounds},
    session::bounded,
};
use crate::{
    condition::{Health, health},
    trail::{
        Moment,
        log::{Cursor, Entry},
    },
};

/// Gaps kept one by one, for each node; the oldest beyond are put together.
const MAX_GAPS: usize = 10_000;
/// Conditions kept for each node.
const MAX_CONDITIONS: usize = 100;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) cluster: String,
    pub(super) name: String,
    pub(super) events: u64,
    pub(super) connected: u32,
    pub(super) last_seen: Option<Moment>,
    pub(super) gaps: Gaps,
    pub(super) around: Arounds,
    epoch: u64,
    last_seq: u64,
    last_event: Option<Moment>,
    agent: Option<v1::AgentState>,
    /// its agent's last event said that it stopped
    pub(super) stopped: bool,
    silent_since: Option<Moment>,
    conditions: BTreeMap<String, v1::NodeCondition>,
    lag: Option<std::time::Duration>,
}

/// Events are missing here, on one node.
#[derive(Clone, Debug)]
pub(super) struct Gap {
    pub(super) cursor: Cursor,
    source: v1::GapSource,
    count: u64,
    from: Moment,
    to: Moment,
    /// empty: any that was open
    sessions: Vec<String>,
}

/// Gaps in the order of the log.
#[derive(Debug, Default)]
pub(super) struct Gaps(VecDeque<Gap>);

impl Gaps {
    pub(super) fn push(&mut self, gap: Gap) {
        self.0.push_back(gap);
        if self.0.len() > MAX_GAPS
            && let (Some(a), Some(b)) = (self.0.pop_front(), self.0.pop_front())
        {
            self.0.push_front(a.join(&b));
        }
    }

    pub(super) fn trim(&mut self, oldest: Cursor) {
        while self.0.front().is_some_and(|g| g.cursor < oldest) {
            self.0.pop_front();
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Gap> {
        self.0.iter()
    }
}

/// Counts of gaps, where two may tell of the same loss apart.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// by the ring, or kept out of it; the kernel counts the same by session
    ring: u64,
    /// numbers that the agent's buffer dropped, as the agent tells
    buffer: u64,
    /// numbers that never came to the collector: those of the buffer among them
    sequence: u64,
    others: u64,
}

impl Tally {
    pub(super) fn of<'a>(gaps: impl Iterator<Item = &'a Gap>) -> Self {
        let mut tally = Self::default();
        for gap in gaps {
            let sum = match gap.source {
                v1::GapSource::KernelRing | v1::GapSource::SessionBudget => &mut tally.ring,
                v1::GapSource::AgentBuffer => &mut tally.buffer,
                v1::GapSource::CollectorSequence => &mut tally.sequence,
                _ => &mut tally.others,
            };
            *sum = sum.saturating_add(gap.count);
        }
        tally
    }

    /// All of it, where the kernel counted `by_session` of the ring's.
    pub(super) fn lost(self, by_session: u64) -> u64 {
        let Self { ring, buffer, sequence, others } = self;
        others.saturating_add(ring.max(by_session)).saturating_add(buffer.max(sequence))
    }
}

impl Gap {
    /// `session_id` is the event's own, `time` when it was written.
    pub(super) fn new(cursor: Cursor, gap: &v1::Gap, session_id: &str, time: Moment) -> Self {
        let mut sessions = gap.session_ids.clone();
        if !session_id.is_empty() {
            sessions.push(session_id.to_owned());
        }
        // One that names a great many is taken to touch them all.
        if sessions.len() > 1000 {
            sessions.clear();
        }
        Self {
            cursor,
            source: gap.source(),
            count: gap.count(),
            from: gap.from.as_ref().map_or(Moment::MIN, Moment::from_timestamp),
            to: gap.to.as_ref().map_or(time, Moment::from_timestamp),
            sessions,
        }
    }

    pub(super) fn touches(&self, id: &str, begin: Moment, end: Option<Moment>) -> bool {
        if self.sessions.is_empty() {
            self.from <= end.unwrap_or(Moment::MAX) && begin <= self.to
        } else {
            self.sessions.iter().any(|s| s == id)
        }
    }

    /// Both in one, wherever they were.
    fn join(self, other: &Self) -> Self {
        Self {
            cursor: self.cursor.max(other.cursor),
            source: if self.source == other.source { self.source } else { v1::GapSource::Unspecified },
            count: self.count.saturating_add(other.count),
            from: self.from.min(other.from),
            to: self.to.max(other.to),
            sessions: Vec::new(),
        }
    }
}

impl Node {
    pub(super) fn new(cluster: &str, name: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
            name: name.to_owned(),
            events: 0,
            connected: 0,
            last_seen: None,
            gaps: Gaps::default(),
            around: Arounds::default(),
            epoch: 0,
            last_seq: 0,
            last_event: None,
            agent: None,
            stopped: false,
            silent_since: None,
            conditions: BTreeMap::new(),
            lag: None,
        }
    }

    pub(super) fn apply(&mut self, entry: &Entry, time: Moment) {
        let Some(id) = entry.event.id.as_ref().filter(|id| id.seq > 0) else { return self.told(entry, time) };
        if id.epoch != self.epoch {
            (self.epoch, self.last_seq) = (id.epoch, 0);
        }
        self.last_seq = self.last_seq.max(id.seq);
        self.stopped = false;
        self.last_seen = self.last_seen.max(Some(entry.logged));
        self.last_event = self.last_event.max(Some(time));
        self.lag = Some(entry.logged.since(time));
        if let Some(Body::AgentState(state)) = &entry.event.body {
            self.stopped = state.phase() == Phase::Stopped;
            self.agent = bounded(state);
        }
    }

    /// The collector says how it is.
    fn condition(&mut self, cursor: Cursor, time: Moment, condition: &v1::NodeCondition) {
        let kind = &condition.r#type;
        if condition.change() == Change::Gone {
            self.conditions.remove(kind);
        } else if (self.conditions.len() < MAX_CONDITIONS || self.conditions.contains_key(kind))
            && let Some(condition) = bounded(condition)
        {
            // What changed is told once; this is how it is.
            let condition = v1::NodeCondition { change: None, previous_status: String::new(), ..condition };
            self.conditions.insert(kind.clone(), condition);
        }
        let good = health(kind, &condition.status) == Health::Good || condition.change() == Change::Gone;
        self.around.push(Around { cursor, time, condition: Some(kind.as_str().into()), good });
    }

    /// The collector says something of it: no sign of life.
    fn told(&mut self, entry: &Entry, time: Moment) {
        let state = match &entry.event.body {
            Some(Body::AgentState(state)) => state,
            Some(Body::NodeCondition(condition)) => return self.condition(entry.cursor, time, condition),
            Some(Body::NodeState(state)) => {
                let known = state.conditions.iter().take(MAX_CONDITIONS).filter_map(bounded);
                self.conditions = known.map(|condition| (condition.r#type.clone(), condition)).collect();
                return;
            }
            Some(Body::ClusterEvent(_)) => {
                return self.around.push(Around { cursor: entry.cursor, time, condition: None, good: true });
            }
            _ => return,
        };
        match state.phase() {
            Phase::Silent => {
                self.silent_since = Some(state.since.as_ref().map_or(time, Moment::from_timestamp));
            }
            Phase::Returned => self.silent_since = None,
            Phase::Unspecified | Phase::Started | Phase::Stopped | Phase::Upgraded | Phase::Integrity => {}
        }
    }

    /// Its agent was heard, ever.
    pub(super) fn has_agent(&self) -> bool {
        self.last_seen.is_some()
    }

    /// The log holds nothing of it, and nobody is there.
    pub(super) fn is_forgotten(&self) -> bool {
        self.events == 0 && self.connected == 0
    }

    pub(super) fn message(&self) -> v1::Node {
        v1::Node {
            cluster: self.cluster.clone(),
            name: self.name.clone(),
            epoch: self.epoch,
            last_seq: self.last_seq,
            last_seen: self.last_seen.map(Moment::timestamp),
            last_event: self.last_event.map(Moment::timestamp),
            connected: self.connected > 0,
            events: self.events,
            lost: Tally::of(self.gaps.iter()).lost(0),
            agent: self.agent.clone(),
            conditions: self.conditions.values().cloned().collect(),
            lag: self.lag.map(Into::into),
            silent_since: self.silent_since.map(Moment::timestamp),
        }
    }
}

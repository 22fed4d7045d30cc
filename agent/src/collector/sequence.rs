//! The numbers of each node, in their order: what is taken, what came before, what is asked for again.
//!
//! No clock and no I/O. Nothing after a hole is taken: whoever sent it is asked for the hole, and sends again from
//! there. A hole becomes a gap when the agent says that it is gone; or, for an agent that never answers, when it was
//! asked for [`ANSWER_WAIT`] and another of its streams passes over it again.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use podtrail_proto::v1;

use super::log::{NodeEpoch, Reached};
use crate::{
    telemetry::{Emit as _, collector::SequenceMissing},
    trail::Moment,
};

/// How long an agent may leave a question unanswered.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// Ranges asked for at once.
const MAX_ASKED: usize = 1000;
/// Holes remembered. One that is forgotten is asked for anew.
const MAX_HOLES: usize = 10_000;

/// What one stream reported: events of one node, checked, in ascending order of their numbers.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) node: NodeEpoch,
    /// which of the node's streams
    pub(super) stream: u64,
    pub(super) events: Vec<v1::Event>,
    /// what the agent says is gone, ascending by `first`
    pub(super) gone: Vec<v1::SeqRange>,
}

/// What there is to say to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// the number up to which all is in the log, or gone
    pub(super) acked: u64,
    /// to be asked for, once
    pub(super) missing: Vec<v1::SeqRange>,
    /// this stream was asked, and has not answered
    pub(super) asked: bool,
}

/// How far each node has come, and what is missing.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    reached: BTreeMap<NodeEpoch, Reached>,
    holes: BTreeMap<NodeEpoch, Hole>,
}

/// Numbers that did not come while later ones did.
#[derive(Clone, Copy, Debug)]
struct Hole {
    first: u64,
    since: Instant,
    /// who was asked last
    stream: u64,
    /// the last that this stream sent: what follows it was under way before it could answer
    seen: u64,
}

/// Reports that are taken together: what they change holds once it is kept.
#[derive(Debug)]
pub(super) struct Group<'a> {
    sequences: &'a mut Sequences,
    reached: BTreeMap<NodeEpoch, Reached>,
    /// to be appended to the log
    pub(super) batch: Vec<Arc<v1::Event>>,
    pub(super) duplicates: u64,
    /// not taken: they come again
    pub(super) held: u64,
}

impl Sequences {
    pub(super) fn new(reached: BTreeMap<NodeEpoch, Reached>) -> Self {
        Self { reached, holes: BTreeMap::new() }
    }

    pub(super) fn group(&mut self) -> Group<'_> {
        Group { sequences: self, reached: BTreeMap::new(), batch: Vec::new(), duplicates: 0, held: 0 }
    }

    /// Whether to pass over a hole that nobody says anything of.
    fn unanswered(&self, report: &Report, first: u64, now: Instant) -> bool {
        self.holes.get(&report.node).is_some_and(|hole| {
            let Hole { first: at, since, stream, seen: _ } = *hole;
            at == first && stream != report.stream && now.duration_since(since) >= ANSWER_WAIT
        })
    }

    /// Notes that events up to `last`, the first of them `next`, came after a hole; returns whether to ask for it.
    fn ask(&mut self, report: &Report, first: u64, next: u64, last: u64, now: Instant) -> bool {
        let Report { node, stream, events: _, gone } = report;
        let known = self.holes.get(node).filter(|hole| hole.first == first);
        let since = known.map_or(now, |hole| hole.since);
        let under_way = known.is_some_and(|h| h.stream == *stream && next > h.seen) && gone.is_empty();
        if known.is_none() && self.holes.len() >= MAX_HOLES {
            self.holes.pop_first();
        }
        self.holes.insert(node.clone(), Hole { first, since, stream: *stream, seen: last });
        !under_way
    }
}

impl Group<'_> {
    fn reached(&self, node: &NodeEpoch) -> Reached {
        let known = self.reached.get(node).or_else(|| self.sequences.reached.get(node));
        known.copied().unwrap_or_default()
    }

    pub(super) fn take(&mut self, mut report: Report, now: Instant) -> Answer {
        let mut reached = self.reached(&report.node);
        let before = reached;
        let mut missing = Vec::new();
        let mut events = std::mem::take(&mut report.events).into_iter();
        for event in events.by_ref() {
            let seq = number(&event);
            if seq <= reached.seq {
                self.duplicates += 1;
                continue;
            }
            let first = reached.seq + 1;
            let time = event.time.as_ref().map_or(reached.time, Moment::from_timestamp);
            if seq > first {
                let unknown = without(&report.gone, first, seq - 1);
                let why = if unknown.is_empty() {
                    "gone from the agent's spool"
                } else if self.sequences.unanswered(&report, first, now) {
                    "the agent was asked and did not answer"
                } else {
                    missing = unknown;
                    self.hold(&report, &event, events, &mut missing, first, now);
                    break;
                };
                self.batch.push(Arc::new(gap(&report.node, &reached, seq, time, why)));
            }
            reached = Reached { seq, time, cursor: 0 };
            self.batch.push(Arc::new(event));
        }
        if reached != before {
            self.reached.insert(report.node.clone(), reached);
        }
        let hole = self.sequences.holes.get(&report.node);
        let asked = hole.is_some_and(|h| h.stream == report.stream && h.first > reached.seq);
        Answer { acked: reached.seq, missing, asked }
    }

    /// Leaves `event` and what is after it, and asks for what is missing among them.
    fn hold(
        &mut self,
        report: &Report,
        event: &v1::Event,
        rest: impl Iterator<Item = v1::Event>,
        missing: &mut Vec<v1::SeqRange>,
        first: u64,
        now: Instant,
    ) {
        let next = number(event);
        let mut last = next;
        self.held += 1;
        for event in rest {
            let seq = number(&event);
            if seq > last + 1 && missing.len() < MAX_ASKED {
                missing.extend(without(&report.gone, last + 1, seq - 1));
            }
            last = seq;
            self.held += 1;
        }
        missing.truncate(MAX_ASKED);
        if !self.sequences.ask(report, first, next, last, now) {
            missing.clear();
        }
    }

    /// The log has the batch.
    pub(super) fn keep(self) {
        let Self { sequences, reached, batch: _, duplicates: _, held: _ } = self;
        for (node, reached) in reached {
            if sequences.holes.get(&node).is_some_and(|hole| hole.first <= reached.seq) {
                sequences.holes.remove(&node);
            }
            sequences.reached.insert(node, reached);
        }
    }
}

fn number(event: &v1::Event) -> u64 {
    event.id.as_ref().map_or(0, |id| id.seq)
}

/// What of `first..=last` is in none of `gone`, which ascends by `first`.
fn without(gone: &[v1::SeqRange], first: u64, last: u64) -> Vec<v1::SeqRange> {
    let mut left = Vec::new();
    let mut next = first;
    for range in gone {
        if range.first > last || next > last {
            break;
        }
        if range.first > next {
            left.push(v1::SeqRange { first: next, last: range.first - 1 });
        }
        next = next.max(range.last.saturating_add(1));
    }
    if next <= last {
        left.push(v1::SeqRange { first: next, last });
    }
    left
}

/// Says that the numbers between `reached` and `seq` never came. It takes the first of them as its own.
fn gap(node: &NodeEpoch, reached: &Reached, seq: u64, time: Moment, why: &'static str) -> v1::Event {
    let NodeEpoch { cluster, node, epoch } = node.clone();
    let (first, count) = (reached.seq + 1, seq - reached.seq - 1);
    SequenceMissing { cluster: &cluster, node: &node, epoch, first, count, why }.emit();
    let gap = v1::Gap {
        source: Some(v1::GapSource::CollectorSequence.into()),
        count: Some(count),
        exact: Some(true),
        // Before the first that ever came nothing is known.
        from: (reached.seq > 0).then(|| reached.time.timestamp()),
        to: Some(time.timestamp()),
        session_ids: Vec::new(),
        detail: why.to_owned(),
    };
    v1::Event {
        id: Some(v1::EventId { cluster, node, epoch, seq: first }),
        time: Some(time.timestamp()),
        body: Some(v1::event::Body::Gap(gap)),
        ..v1::Event::default()
    }
}

#[cfg(test)]
#[path = "sequence_tests.rs"]
mod tests;

//! What happened around sessions: on their nodes, and to their pods.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use podtrail_proto::v1;

use super::NodeNumber;
use crate::trail::{Moment, log::Cursor};

/// Kept of each node; the oldest beyond are forgotten.
const MAX_OF_NODE: usize = 10_000;
/// Events of pods, of all of them together.
const MAX_OF_PODS: usize = 1_000_000;
/// Of one session, from either: the newest.
const MAX_SHOWN: usize = 1000;

/// Something that the log says of a node.
#[derive(Clone, Debug)]
pub(super) struct Around {
    pub(super) cursor: Cursor,
    pub(super) time: Moment,
    /// which of the node's conditions changed; `None`: it is an Event
    pub(super) condition: Option<Arc<str>>,
    /// from then on that condition was good
    pub(super) good: bool,
}

/// Of one node, in the order of the log.
#[derive(Debug, Default)]
pub(super) struct Arounds(VecDeque<Around>);

impl Arounds {
    pub(super) fn push(&mut self, around: Around) {
        if self.0.len() >= MAX_OF_NODE {
            self.0.pop_front();
        }
        self.0.push_back(around);
    }

    pub(super) fn trim(&mut self, oldest: Cursor) {
        while self.0.pop_front_if(|around| around.cursor < oldest).is_some() {}
    }

    /// What was so in that time: what happened in it, and what made conditions bad before it that were bad still.
    pub(super) fn within(&self, begin: Moment, end: Option<Moment>) -> impl Iterator<Item = Cursor> {
        let end = end.unwrap_or(Moment::MAX);
        let mut standing: BTreeMap<&str, &Around> = BTreeMap::new();
        let mut found = VecDeque::new();
        for around in &self.0 {
            if around.time < begin {
                if let Some(kind) = &around.condition {
                    standing.insert(kind, around);
                }
            } else if around.time <= end {
                found.push_back(around.cursor);
            }
        }
        newest(found).chain(standing.into_values().filter(|around| !around.good).map(|around| around.cursor))
    }
}

fn newest(mut cursors: VecDeque<Cursor>) -> impl Iterator<Item = Cursor> {
    while cursors.len() > MAX_SHOWN {
        cursors.pop_front();
    }
    cursors.into_iter()
}

/// Namespace and name of a pod, of a cluster.
type PodName = (Arc<str>, Arc<str>, Arc<str>);

/// An Event about a pod.
#[derive(Debug)]
struct OfPod {
    cursor: Cursor,
    time: Moment,
    /// empty: it does not say
    uid: Box<str>,
}

/// Events of all pods.
#[derive(Debug, Default)]
pub(super) struct Pods {
    events: BTreeMap<PodName, VecDeque<OfPod>>,
    /// in the order of the log
    order: VecDeque<(Cursor, PodName)>,
}

impl Pods {
    pub(super) fn push(&mut self, cluster: &str, cursor: Cursor, time: Moment, event: &v1::ClusterEvent) {
        let Some(involved) = event.involved.as_ref().filter(|involved| involved.kind == "Pod") else {
            return;
        };
        let name: PodName =
            (cluster.into(), involved.namespace.as_str().into(), involved.name.as_str().into());
        let uid = involved.uid.as_str().into();
        self.events.entry(name.clone()).or_default().push_back(OfPod { cursor, time, uid });
        self.order.push_back((cursor, name));
        if self.order.len() > MAX_OF_PODS
            && let Some((oldest, _)) = self.order.get(1)
        {
            self.trim(*oldest);
        }
    }

    pub(super) fn trim(&mut self, oldest: Cursor) {
        while let Some((_, name)) = self.order.pop_front_if(|(cursor, _)| *cursor < oldest) {
            if let Some(events) = self.events.get_mut(&name) {
                events.pop_front();
                if events.is_empty() {
                    self.events.remove(&name);
                }
            }
        }
    }

    /// Of this pod, in that time.
    pub(super) fn within(
        &self,
        cluster: &str,
        pod: &v1::Pod,
        begin: Moment,
        end: Option<Moment>,
    ) -> impl Iterator<Item = Cursor> {
        let name: PodName = (cluster.into(), pod.namespace.as_str().into(), pod.name.as_str().into());
        let end = end.unwrap_or(Moment::MAX);
        let same = |uid: &str| uid.is_empty() || pod.uid.is_empty() || uid == pod.uid;
        let events = self.events.get(&name).into_iter().flatten();
        let found = events.filter(|event| event.time >= begin && event.time <= end && same(&event.uid));
        newest(found.map(|event| event.cursor).collect())
    }
}

/// What agents were told by the detectors of their nodes.
#[derive(Debug, Default)]
pub(super) struct Observed(VecDeque<Cursor>);

impl Observed {
    pub(super) fn push(&mut self, cursor: Cursor) {
        if self.0.len() >= MAX_OF_PODS {
            self.0.pop_front();
        }
        self.0.push_back(cursor);
    }

    pub(super) fn trim(&mut self, oldest: Cursor) {
        while self.0.pop_front_if(|cursor| *cursor < oldest).is_some() {}
    }

    pub(super) fn after(&self, after: Cursor, max: usize) -> Vec<Cursor> {
        let from = self.0.partition_point(|cursor| *cursor <= after);
        self.0.range(from..).take(max).copied().collect()
    }
}

/// All that is around one session, ascending.
pub(super) fn of_session(
    nodes: &BTreeMap<NodeNumber, super::Node>,
    pods: &Pods,
    number: NodeNumber,
    pod: Option<&v1::Pod>,
    (begin, end): (Moment, Option<Moment>),
) -> BTreeSet<Cursor> {
    let mut all = BTreeSet::new();
    let Some(node) = nodes.get(&number) else { return all };
    all.extend(node.around.within(begin, end));
    if let Some(pod) = pod {
        all.extend(pods.within(&node.cluster, pod, begin, end));
    }
    all
}

#[cfg(test)]
#[path = "around_tests.rs"]
mod tests;

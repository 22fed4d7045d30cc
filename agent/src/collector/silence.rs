//! A node that falls silent is an event, and so is its return.
//!
//! Whatever an agent says is a sign of life; how long it was silent is measured on the collector's own monotonic
//! clock. What the log says of a node outlives a restart: one that was silent before is not announced again, and one
//! that never comes back to this collector is, `after` its start. One that said that it stopped is not silent.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use podtrail_proto::v1::{self, agent_state::Phase};
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::{
    log::{DiskLog, NodeEpoch},
    writer::Writer,
};
use crate::{
    telemetry::{
        Emit as _,
        collector::{NodeReturned, NodeSilent},
    },
    trail::{Indexed, Moment},
};

/// Nodes watched. The log's index knows as many.
const MAX_NODES: usize = 100_000;

/// Cluster and name.
type Name = (String, String);

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Silence {
    after: Option<Duration>,
    nodes: Arc<Mutex<BTreeMap<Name, Life>>>,
    writer: Writer,
    indexed: Arc<Indexed<DiskLog>>,
}

#[derive(Clone, Copy, Debug)]
struct Life {
    last: Instant,
    wall: Moment,
    /// announced
    silent: bool,
}

impl Silence {
    /// `after`: `None` is never.
    pub(super) fn new(after: Option<Duration>, writer: Writer, indexed: Arc<Indexed<DiskLog>>) -> Self {
        let mut nodes = BTreeMap::new();
        let last = Instant::now();
        for node in indexed.index().agents() {
            let v1::Node { cluster, name, last_seen, silent_since, .. } = node;
            let since = silent_since.as_ref().or(last_seen.as_ref());
            let wall = since.map_or_else(Moment::now, Moment::from_timestamp);
            nodes.insert((cluster, name), Life { last, wall, silent: silent_since.is_some() });
        }
        Self { after, nodes: Arc::new(Mutex::new(nodes)), writer, indexed }
    }

    /// Something came from this node.
    pub(super) async fn sign(&self, node: &NodeEpoch) {
        let name = (node.cluster.clone(), node.node.clone());
        let (last, wall) = (Instant::now(), Moment::now());
        let returned = {
            let mut nodes = self.lock();
            if nodes.len() >= MAX_NODES && !nodes.contains_key(&name) {
                nodes.pop_first();
            }
            let life = nodes.entry(name.clone()).or_insert(Life { last, wall, silent: false });
            let before = *life;
            *life = Life { last, wall, silent: false };
            before.silent.then_some(before.wall)
        };
        if let Some(since) = returned {
            match self.writer.note(event(&name, Phase::Returned, since, wall)).await {
                Ok(()) => NodeReturned { cluster: &name.0, node: &name.1 }.emit(),
                // Its next sign is a return again.
                Err(_) => _ = self.lock().entry(name).and_modify(|life| life.silent = true),
            }
        }
    }

    /// Looks for nodes that fell silent, until `shutdown`.
    pub(super) async fn run(self, shutdown: CancellationToken) {
        let Some(after) = self.after else { return };
        let mut tick = time::interval((after / 4).clamp(Duration::from_millis(50), Duration::from_secs(5)));
        tick.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tick.tick() => {}
            }
            for (name, life) in self.due(after) {
                let announced = self.writer.note(event(&name, Phase::Silent, life.wall, Moment::now())).await;
                // Where the log cannot be written it is announced when it can.
                if announced.is_ok() {
                    NodeSilent { cluster: &name.0, node: &name.1, after }.emit();
                    self.lock().entry(name).and_modify(|life| life.silent = true);
                }
            }
        }
    }

    fn due(&self, after: Duration) -> Vec<(Name, Life)> {
        let quiet: Vec<(Name, Life)> = {
            let nodes = self.lock();
            let quiet = nodes.iter().filter(|(_, life)| !life.silent && life.last.elapsed() >= after);
            quiet.map(|(name, life)| (name.clone(), *life)).collect()
        };
        let index = self.indexed.index();
        quiet.into_iter().filter(|((cluster, name), _)| !index.has_stopped(cluster, name)).collect()
    }

    // Every change leaves it whole.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Life>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By the collector, about a node.
fn event((cluster, node): &Name, phase: Phase, since: Moment, now: Moment) -> v1::Event {
    let state = v1::AgentState {
        phase: Some(phase.into()),
        since: Some(since.timestamp()),
        ..v1::AgentState::default()
    };
    v1::Event {
        id: Some(v1::EventId { cluster: cluster.clone(), node: node.clone(), epoch: 0, seq: 0 }),
        time: Some(now.timestamp()),
        body: Some(v1::event::Body::AgentState(state)),
        ..v1::Event::default()
    }
}

//! Nodes, beside the sessions on them: their conditions, and the Events of the Kubernetes API, in the same log.
//!
//! | module | what it does |
//! |---|---|
//! | [`api`] | the API server, as it is asked |
//! | `watcher` | lists and watches, from where it was |
//! | `object` | what objects say, as far as it is kept |
//! | [`choice`] | which conditions are watched |
//! | `agents` | what agents were told by the detector of their node |
//! | `intake` | one after the other into the log, each once |
//! | `state` | all nodes: what follows from what is heard (pure) |
//! | `conditions` | one node's conditions (pure) |
//! | `problems` | one node's problems that pass: repetitions, and what never came (pure) |
//!
//! Whatever an API server sends is hostile: pods' owners choose what stands in Events.

mod agents;
pub mod api;
pub mod choice;
mod conditions;
mod intake;
mod object;
mod problems;
mod state;
mod watcher;

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

pub use self::{
    api::{Access, Patience},
    choice::Choice,
};
use self::{
    intake::Intake,
    watcher::{Watcher, What},
};
use super::{log::DiskLog, writer::Writer};
use crate::{config::kubernetes as config, telemetry::Health, trail::Indexed};

/// How long Events wait for the nodes that they are about.
const NODES_FIRST: Duration = Duration::from_secs(30);

/// What is to be known of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// the cluster that the API server is of
    pub cluster: String,
    pub choice: Choice,
    /// how often the whole state is said
    pub state_every: Duration,
    /// a condition that nobody confirmed for so long is stale
    pub stale_after: Duration,
}

/// What is read of all that an API server says, for its fuzz target alone.
#[cfg(fuzzing)]
pub fn fuzz_read(json: &[u8]) -> Vec<podtrail_proto::v1::ClusterEvent> {
    let mut events = Vec::new();
    let mut read = |json: &str| {
        for choice in [Choice::Others, Choice::Manager("node-problem-detector".to_owned())] {
            if let Ok(node) = object::Node::parse(json, &choice) {
                assert!(object::is_name(&node.name) && node.conditions.len() <= 100, "{node:?}");
            }
        }
        _ = (object::deleted(json), object::bookmark(json));
        events.extend(object::Event::parse(json).map(|found| found.event));
    };
    if let Ok(page) = serde_json::from_slice::<object::Page<'_>>(json) {
        page.items.iter().for_each(|item| read(item.get()));
    }
    if let Ok(line) = serde_json::from_slice::<object::Line<'_>>(json) {
        read(line.object.get());
    }
    _ = std::str::from_utf8(json).map(read);
    _ = api::refused(json, 500);
    events
}

/// Takes in until `stop`.
pub(super) fn start(
    config: config::Kubernetes,
    writer: Writer,
    indexed: &Arc<Indexed<DiskLog>>,
    health: &Health,
    stop: &CancellationToken,
) {
    let config::Kubernetes { access, events, patience, settings } = config;
    let choice = settings.choice.clone();
    let intake = Intake::start(writer, indexed.clone(), settings);
    tokio::spawn(agents::run(intake.clone(), indexed.clone(), stop.clone()));
    let Some(access) = access else { return };
    let watcher = |what, name| {
        // Nobody must wait for the API server: agents and readers are served without it.
        let health = health.component(name);
        health.ready_but("not watched yet");
        let (access, choice, intake) = (access.clone(), choice.clone(), intake.clone());
        Watcher { what, access, patience, choice, intake, health }
    };
    tokio::spawn(watcher(What::Nodes, "nodes").run(stop.clone()));
    let of_nodes = match events {
        config::Events::All => false,
        config::Events::OfNodes => true,
        config::Events::None => return,
    };
    let (watcher, stop) = (watcher(What::Events { of_nodes }, "events"), stop.clone());
    tokio::spawn(async move {
        // Where they were listed once, rows know them.
        if !matches!(intake.position(What::Nodes).await, Ok(Some(_))) {
            stop.run_until_cancelled(intake.listed(NODES_FIRST)).await;
        }
        drop(intake);
        watcher.run(stop).await;
    });
}

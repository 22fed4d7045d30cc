//! Records in, numbered events out. One task, one batch at a time.

use std::{sync::Arc, time::Duration};

use podtrail_proto::v1;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{About, AgentError, Source, metrics::Metrics};
use crate::{
    convert::{self, WallOffset, boot_now},
    event::{AgentPhase, AgentState, BootTime, Event},
    probe::RawRecord,
    session::{Machine, record::Record},
    spool::{Now, Spool},
    trail::{Indexed, Moment, log::Entry},
    uplink,
};

/// How often losses are asked for, clocks compared, and waits given up.
const TICK: Duration = Duration::from_secs(1);

/// At a clean stop: how long the ring may stay empty until it counts as read to its end, and how long that may take.
const DRAINED: Duration = Duration::from_millis(20);
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// What a cgroup id is looked up in.
pub trait Containers: Send + 'static {
    /// A record goes by: learn from it, and put in the container that the kernel side did not know.
    fn pass(&mut self, record: RawRecord) -> Option<Record>;

    /// What is known of a container.
    fn find(&self, cgroup_id: u64) -> Option<v1::Container>;
}

/// Everything between the source and the spool.
#[derive(Debug)]
pub struct Pipeline<S> {
    source: S,
    containers: Box<dyn ContainersDebug>,
    machine: Machine,
    about: About,
    offset: WallOffset,
    metrics: Metrics,
    /// emptied and filled again, so that a batch allocates nothing of its own
    raw: Vec<RawRecord>,
    events: Vec<Event>,
    out: Vec<v1::Event>,
    kept: Vec<Entry>,
}

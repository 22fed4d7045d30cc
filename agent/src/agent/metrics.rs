//! The agent's numbers for Prometheus. Handles are made once: the pipeline pays an atomic addition an event.

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use podtrail_proto::v1::{self, event::Body};

use super::containers::Counted;
use crate::{spool::Fill, trail::Moment, uplink};

#[derive(Debug)]
pub(super) struct Metrics {
    session_started: Counter,
    executed: Counter,
    exec_failed: Counter,
    exited: Counter,
    namespace_joined: Counter,
    session_ended: Counter,
    gap: Counter,
    agent_state: Counter,
    other: Counter,
    sessions: Gauge,
    containers: [Gauge; 3],
    spool_bytes: Gauge,
    spool_disk_bytes: Gauge,
    spool_oldest: Gauge,
    spool_trouble: Gauge,
    spool_sync_errors: Counter,
    spool_events: Gauge,
    spool_unacked: Gauge,
    spool_dropped: Counter,
    uplink_connected: Gauge,
    uplink_attempts: Counter,
}

/// What each is, for `/metrics`: units are in the names.
pub(super) fn describe() {
    describe_counter!("podtrail_agent_events_total", "Events of this agent, by kind");
    describe_counter!(
        "podtrail_agent_lost_total",
        "Events that are known to be missing, by where they were lost"
    );
    describe_gauge!("podtrail_agent_sessions_open", "Sessions that are open on this node");
    describe_gauge!(
        "podtrail_agent_containers",
        "Containers of this node, by whether the runtime said what is asked of them"
    );
    describe_gauge!("podtrail_agent_spool_bytes", "Memory that events in the spool take");
    describe_gauge!("podtrail_agent_spool_disk_bytes", "What events in the spool take on disk");
    describe_gauge!("podtrail_agent_spool_events", "Events in the spool");
    describe_gauge!(
        "podtrail_agent_spool_oldest_unacknowledged_seconds",
        "Age of the oldest event that the collector has not acknowledged; 0: there is none"
    );
    describe_gauge!("podtrail_agent_spool_trouble", "1 while events are in memory because the disk fails");
    describe_counter!("podtrail_agent_spool_sync_errors_total", "Syncs of the spool that failed");
    describe_gauge!("podtrail_agent_spool_unacknowledged", "Events that the collector has not acknowledged");
    describe_counter!(
        "podtrail_agent_spool_dropped_total",
        "Events dropped because the spool was full or they were too old"
    );
    describe_gauge!("podtrail_agent_uplink_connected", "1 while the collector answers");
    describe_counter!("podtrail_agent_uplink_attempts_total", "Streams to the collector that were begun");
}

impl Metrics {
    pub(super) fn new() -> Self {
        let events = |kind: &'static str| counter!("podtrail_agent_events_total", "kind" => kind);
        Self {
            session_started: events("session_started"),
            executed: events("executed"),
            exec_failed: events("exec_failed"),
            exited: events("exited"),
            namespace_joined: events("namespace_joined"),
            session_ended: events("session_ended"),
            gap: events("gap"),
            agent_state: events("agent_state"),
            other: events("other"),
            sessions: gauge!("podtrail_agent_sessions_open"),
            containers: ["known", "pending", "missing"]
                .map(|metadata| gauge!("podtrail_agent_containers", "metadata" => metadata)),
            spool_bytes: gauge!("podtrail_agent_spool_bytes"),
            spool_disk_bytes: gauge!("podtrail_agent_spool_disk_bytes"),
            spool_oldest: gauge!("podtrail_agent_spool_oldest_unacknowledged_seconds"),
            spool_trouble: gauge!("podtrail_agent_spool_trouble"),
            spool_sync_errors: counter!("podtrail_agent_spool_sync_errors_total"),
            spool_events: gauge!("podtrail_agent_spool_events"),
            spool_unacked: gauge!("podtrail_agent_spool_unacknowledged"),
            spool_dropped: counter!("podtrail_agent_spool_dropped_total"),
            uplink_connected: gauge!("podtrail_agent_uplink_connected"),
            uplink_attempts: counter!("podtrail_agent_uplink_attempts_total"),
        }
    }

    pub(super) fn event(&self, event: &v1::Event) {
        match &event.body {
            Some(Body::SessionStarted(_)) => self.session_started.increment(1),
            Some(Body::Executed(_)) => self.executed.increment(1),
            Some(Body::ExecFailed(_)) => self.exec_failed.increment(1),
            Some(Body::Exited(_)) => self.exited.increment(1),
            Some(Body::NamespaceJoined(_)) => self.namespace_joined.increment(1),
            Some(Body::SessionEnded(_)) => self.session_ended.increment(1),
            Some(Body::Gap(gap)) => {
                self.gap.increment(1);
                lost(gap);
            }
            Some(Body::AgentState(_)) => self.agent_state.increment(1),
            Some(
                Body::Attributed(_)
                | Body::Folded(_)
                | Body::NodeCondition(_)
                | Body::NodeState(_)
                | Body::NodeObserved(_)
                | Body::ClusterEvent(_)
                | Body::ApiRequest(_),
            )
            | None => self.other.increment(1),
        }
    }

    pub(super) fn spool(&self, fill: Fill, now: Moment) {
        let Fill {
            bytes,
            disk_bytes,
            events,
            last_seq,
            acked_seq,
            dropped,
            oldest_unacked,
            sync_errors,
            trouble,
        } = fill;
        self.spool_bytes.set(float(bytes as u64));
        self.spool_disk_bytes.set(float(disk_bytes));
        self.spool_oldest.set(oldest_unacked.map_or(0.0, |oldest| now.since(oldest).as_secs_f64()));
        self.spool_trouble.set(if trouble.is_some() { 1.0 } else { 0.0 });
        self.spool_sync_errors.absolute(sync_errors);
        self.spool_events.set(float(events as u64));
        self.spool_unacked.set(float(last_seq.saturating_sub(acked_seq)));
        self.spool_dropped.absolute(dropped);
    }

    pub(super) fn uplink(&self, state: uplink::State) {
        let uplink::State { connected, attempts } = state;
        self.uplink_connected.set(if connected { 1.0 } else { 0.0 });
        self.uplink_attempts.absolute(attempts);
    }

    pub(super) fn containers(&self, counted: Counted) {
        let Counted { known, pending, missing } = counted;
        for (gauge, count) in self.containers.iter().zip([known, pending, missing]) {
            gauge.set(float(count as u64));
        }
    }

    pub(super) fn sessions(&self, open: usize) {
        self.sessions.set(float(open as u64));
    }
}

// By the names that events have: JSON and metrics agree.
fn lost(gap: &v1::Gap) {
    let source = gap.source().as_str_name();
    counter!("podtrail_agent_lost_total", "source" => source).increment(gap.count());
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a double, and precise up to 2^53")]
fn float(number: u64) -> f64 {
    number as f64
}

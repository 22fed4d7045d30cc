//! What the collector has to tell of the nodes that it watches.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use tracing::{debug, info, warn};

use super::Emit;

/// Names and units, for `/metrics`; to be called once, at start.
pub fn describe() {
    use Unit::{Count, Seconds};
    describe_gauge!(
        "podtrail_collector_watch_connected",
        Count,
        "1: nodes, or events, of the Kubernetes API are watched"
    );
    describe_gauge!(
        "podtrail_collector_watch_timestamp_seconds",
        Seconds,
        "When something last came of this watch, a bookmark too"
    );
    describe_counter!(
        "podtrail_collector_watch_lines_total",
        Count,
        "What came of this watch, bookmarks too"
    );
    describe_counter!("podtrail_collector_watch_bookmarks_total", Count, "Bookmarks of this watch");
    describe_counter!(
        "podtrail_collector_watch_lists_total",
        Count,
        "Lists of everything, by why: the first, or after the API server had forgotten what changed"
    );
    describe_counter!("podtrail_collector_watch_errors_total", Count, "Watches that broke, by reason");
    describe_counter!(
        "podtrail_collector_watch_gaps_total",
        Count,
        "Gaps in what came of this watch, which are in the log"
    );
    describe_counter!(
        "podtrail_collector_node_events_total",
        Count,
        "Conditions, states and Events that were taken into the log, gaps too"
    );
    describe_counter!(
        "podtrail_collector_node_replays_total",
        Count,
        "Events of node-problem-detectors that said again what was in the log, and were passed over"
    );
    describe_counter!(
        "podtrail_collector_node_duplicates_total",
        Count,
        "Events that were read again, and are in the log"
    );
    describe_gauge!("podtrail_collector_nodes", Count, "Nodes that are known");
    describe_gauge!(
        "podtrail_collector_node_conditions",
        Count,
        "Conditions of nodes: bad, unknown, and stale ones"
    );
    for name in ["events", "replays", "duplicates"] {
        counter!(format!("podtrail_collector_node_{name}_total")).increment(0);
    }
}

/// Something came of a watch.
#[derive(Debug)]
pub struct WatchLines {
    pub what: &'static str,
    pub lines: usize,
    pub bookmarks: u64,
}

impl Emit for WatchLines {
    fn emit(self) {
        let Self { what, lines, bookmarks } = self;
        let now = crate::trail::Moment::now();
        #[expect(clippy::cast_precision_loss, reason = "a metric")]
        gauge!("podtrail_collector_watch_timestamp_seconds", "resource" => what).set(now.0 as f64 / 1e9);
        counter!("podtrail_collector_watch_lines_total", "resource" => what).increment(lines as u64);
        counter!("podtrail_collector_watch_bookmarks_total", "resource" => what).increment(bookmarks);
    }
}

/// A watch begins.
#[derive(Debug)]
pub struct WatchBegan<'a> {
    pub what: &'static str,
    pub version: &'a str,
}

impl Emit for WatchBegan<'_> {
    fn emit(self) {
        let Self { what, version } = self;
        debug!(what, version, "watch begins");
    }
}

/// A watch broke, or cannot begin: what comes meanwhile is asked for later.
#[derive(Debug)]
pub struct WatchBroken<'a> {
    pub what: &'static str,
    pub reason: &'static str,
    pub error: &'a str,
    pub wait: Duration,
    /// the same was said before
    pub told: bool,
}

impl Emit for WatchBroken<'_> {
    fn emit(self) {
        let Self { what, reason, error, wait, told } = self;
        counter!("podtrail_collector_watch_errors_total", "resource" => what, "reason" => reason)
            .increment(1);
        let ms = wait.as_millis();
        if told {
            debug!(what, error, retry_ms = ms, "watch of the Kubernetes API");
        } else {
            warn!(what, error, retry_ms = ms, "watch of the Kubernetes API: it is tried again");
        }
    }
}

/// Everything was listed.
#[derive(Debug)]
pub struct Listed {
    pub what: &'static str,
    pub why: &'static str,
    pub count: usize,
    pub took: Duration,
}

impl Emit for Listed {
    fn emit(self) {
        let Self { what, why, count, took } = self;
        counter!("podtrail_collector_watch_lists_total", "resource" => what, "why" => why).increment(1);
        info!(what, why, count, ms = took.as_millis(), "listed");
    }
}

/// Something is missing in what came: the log has a gap for it.
#[derive(Debug)]
pub struct NodesUnreadable<'a> {
    pub what: &'static str,
    pub why: &'a str,
    pub count: u64,
}

impl Emit for NodesUnreadable<'_> {
    fn emit(self) {
        let Self { what, why, count } = self;
        counter!("podtrail_collector_watch_gaps_total", "resource" => what).increment(1);
        warn!(what, why, count, "watch of the Kubernetes API: a gap is in the log");
    }
}

/// A batch was taken in: what follows from it is in the log.
#[derive(Debug)]
pub struct NodesTaken {
    pub events: u64,
    pub replays: u64,
    pub duplicates: u64,
}

impl Emit for NodesTaken {
    fn emit(self) {
        let Self { events, replays, duplicates } = self;
        counter!("podtrail_collector_node_events_total").increment(events);
        counter!("podtrail_collector_node_replays_total").increment(replays);
        counter!("podtrail_collector_node_duplicates_total").increment(duplicates);
    }
}

/// How nodes are now.
#[derive(Debug)]
pub struct NodesMeasured {
    pub count: usize,
    pub bad: u64,
    pub unknown: u64,
    pub stale: u64,
    /// whether nodes and events are watched
    pub up: [bool; 2],
}

impl Emit for NodesMeasured {
    fn emit(self) {
        let Self { count, bad, unknown, stale, up } = self;
        #[expect(clippy::cast_precision_loss, reason = "a metric")]
        {
            gauge!("podtrail_collector_nodes").set(count as f64);
            for (state, number) in [("bad", bad), ("unknown", unknown), ("stale", stale)] {
                gauge!("podtrail_collector_node_conditions", "state" => state).set(number as f64);
            }
        }
        for (what, up) in ["nodes", "events"].into_iter().zip(up) {
            gauge!("podtrail_collector_watch_connected", "resource" => what).set(u8::from(up));
        }
    }
}

//! What the collector has to tell.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use tracing::{debug, error, info, warn};

use super::{
    Emit,
    refused::{self, Refused},
    tls,
};
use crate::trail::{
    LogId,
    log::{Bounds, Cursor},
};

/// Names and units, for `/metrics`; to be called once, at start.
pub fn describe() {
    use Unit::{Bytes, Count, Seconds};
    describe_counter!("podtrail_collector_events_total", Count, "Events taken into the log");
    describe_counter!(
        "podtrail_collector_duplicates_total",
        Count,
        "Events that came again and were passed over"
    );
    describe_counter!(
        "podtrail_collector_held_total",
        Count,
        "Events that came before others that are missing, and were left to come again"
    );
    describe_counter!("podtrail_collector_missing_total", Count, "Event numbers that never came");
    describe_counter!("podtrail_collector_unreadable_total", Count, "Events in the log that cannot be read");
    describe_counter!("podtrail_collector_trimmed_total", Count, "Events dropped by retention");
    refused::describe();
    tls::describe();
    describe_counter!(
        "podtrail_collector_commits_total",
        Count,
        "Batches written to the log, one fsync each"
    );
    describe_histogram!("podtrail_collector_commit_seconds", Seconds, "Time to write a batch to the log");
    describe_gauge!(
        "podtrail_collector_ingest_bytes",
        Bytes,
        "Length of the requests of agents that are taken in now"
    );
    describe_gauge!("podtrail_collector_agents_connected", Count, "Streams of agents");
    describe_counter!("podtrail_collector_silences_total", Count, "Times that a node fell silent");
    describe_gauge!("podtrail_collector_log_writable", Count, "1: the log can be written, 0: it cannot");
    describe_gauge!("podtrail_collector_log_events", Count, "Events in the log");
    describe_gauge!("podtrail_collector_log_bytes", Bytes, "Encoded length of the events in the log");
    describe_gauge!("podtrail_collector_log_newest_cursor", Count, "Newest place in the log");
    describe_gauge!("podtrail_collector_sessions", Count, "Sessions known, open and all");
    // So that they are there, at 0, before anything goes wrong.
    for name in ["events", "duplicates", "held", "missing", "unreadable", "trimmed", "commits", "silences"] {
        counter!(format!("podtrail_collector_{name}_total")).increment(0);
    }
    gauge!("podtrail_collector_agents_connected").set(0);
    gauge!("podtrail_collector_ingest_bytes").set(0);
    gauge!("podtrail_collector_log_writable").set(1);
}

/// The log is open, and counted.
#[derive(Debug)]
pub struct LogOpened<'a> {
    pub path: &'a str,
    pub bounds: &'a Bounds,
    pub sessions: usize,
    pub took: Duration,
}

impl Emit for LogOpened<'_> {
    fn emit(self) {
        let Self { path, bounds, sessions, took } = self;
        let Bounds { oldest, newest, oldest_time: _, events, bytes } = bounds;
        info!(path, oldest, newest, events, bytes, sessions, seconds = took.as_secs_f64(), "log opened");
        LogMeasured { bounds, sessions, open: None }.emit();
    }
}

/// The data directory is a copy of another, or was restored.
#[derive(Debug)]
pub struct LogCopied {
    pub before: LogId,
    pub id: LogId,
}

impl Emit for LogCopied {
    fn emit(self) {
        let Self { before, id } = self;
        warn!(%before, %id, "the data directory is a copy: it is another log now, and refuses cursors given out before");
    }
}

/// What the log holds now.
#[derive(Debug)]
pub struct LogMeasured<'a> {
    pub bounds: &'a Bounds,
    pub sessions: usize,
    pub open: Option<usize>,
}

impl Emit for LogMeasured<'_> {
    #[expect(clippy::cast_precision_loss, reason = "metrics")]
    fn emit(self) {
        let Self { bounds, sessions, open } = self;
        gauge!("podtrail_collector_log_events").set(bounds.events as f64);
        gauge!("podtrail_collector_log_bytes").set(bounds.bytes as f64);
        gauge!("podtrail_collector_log_newest_cursor").set(bounds.newest as f64);
        gauge!("podtrail_collector_sessions", "state" => "known").set(sessions as f64);
        if let Some(open) = open {
            gauge!("podtrail_collector_sessions", "state" => "open").set(open as f64);
        }
    }
}

/// A batch is in the log.
#[derive(Debug)]
pub struct BatchCommitted {
    pub events: u64,
    pub duplicates: u64,
    pub held: u64,
    pub took: Duration,
}

impl Emit for BatchCommitted {
    fn emit(self) {
        let Self { events, duplicates, held, took } = self;
        counter!("podtrail_collector_events_total").increment(events);
        counter!("podtrail_collector_duplicates_total").increment(duplicates);
        counter!("podtrail_collector_held_total").increment(held);
        counter!("podtrail_collector_commits_total").increment(1);
        histogram!("podtrail_collector_commit_seconds").record(took);
        debug!(events, duplicates, held, took_us = took.as_micros(), "batch committed");
    }
}

/// Requests of agents take more room, or less.
#[derive(Debug)]
pub struct IngestRoom {
    pub bytes: f64,
}

impl Emit for IngestRoom {
    fn emit(self) {
        gauge!("podtrail_collector_ingest_bytes").increment(self.bytes);
    }
}

/// Numbers of a node are missing: events are lost.
#[derive(Debug)]
pub struct SequenceMissing<'a> {
    pub cluster: &'a str,
    pub node: &'a str,
    pub epoch: u64,
    pub first: u64,
    pub count: u64,
    pub why: &'static str,
}

impl Emit for SequenceMissing<'_> {
    fn emit(self) {
        let Self { cluster, node, epoch, first, count, why } = self;
        counter!("podtrail_collector_missing_total").increment(count);
        error!(cluster, node, epoch, first, count, why, "events of a node never came: recorded as a gap");
    }
}

/// The log holds events that it cannot read.
#[derive(Debug)]
pub struct EventsUnreadable {
    pub from: Cursor,
    pub to: Cursor,
    pub why: &'static str,
}

impl Emit for EventsUnreadable {
    fn emit(self) {
        let Self { from, to, why } = self;
        counter!("podtrail_collector_unreadable_total").increment(to - from + 1);
        error!(from, to, why, "events in the log cannot be read: shown as a gap; check the disk");
    }
}

/// The log ends before the place that was acknowledged.
#[derive(Debug)]
pub struct LogCutShort {
    pub from: Cursor,
    pub to: Cursor,
}

impl Emit for LogCutShort {
    fn emit(self) {
        let Self { from, to } = self;
        counter!("podtrail_collector_unreadable_total").increment(to - from + 1);
        error!(
            from,
            to, "the log has lost its end: shown as a gap, and agents are asked for it; check the disk"
        );
    }
}

/// The log cannot be opened with its journal: it is tried without.
#[derive(Debug)]
pub struct JournalSetAside<'a> {
    pub aside: &'a str,
    pub why: &'a str,
}

impl Emit for JournalSetAside<'_> {
    fn emit(self) {
        let Self { aside, why } = self;
        error!(aside, error = why, "the log is damaged: its journal was moved aside; check the disk");
    }
}

/// The log cannot be read at all: another is begun.
#[derive(Debug)]
pub struct LogBegunAnew<'a> {
    pub count: u64,
    pub aside: &'a str,
    pub why: &'a str,
}

impl Emit for LogBegunAnew<'_> {
    fn emit(self) {
        let Self { count, aside, why } = self;
        counter!("podtrail_collector_unreadable_total").increment(count);
        error!(
            events = count,
            aside,
            error = why,
            "the log is damaged and cannot be opened: moved aside, and another is begun; check the disk"
        );
    }
}

/// Positions of readers cannot be read.
#[derive(Debug)]
pub struct SubscriptionsDamaged {
    /// that can
    pub left: usize,
}

impl Emit for SubscriptionsDamaged {
    fn emit(self) {
        error!(left = self.left, "subscriptions are damaged: who resumes one is told that there is none");
    }
}

/// What the log says of how far nodes have come was lost, and counted again from its events.
#[derive(Debug)]
pub struct SequencesCounted {
    pub nodes: usize,
}

impl Emit for SequencesCounted {
    fn emit(self) {
        warn!(nodes = self.nodes, "how far nodes have come was counted again from their events");
    }
}

/// The log cannot be written: nothing is taken.
#[derive(Debug)]
pub struct LogFailed<'a> {
    pub error: &'a str,
}

impl Emit for LogFailed<'_> {
    fn emit(self) {
        gauge!("podtrail_collector_log_writable").set(0);
        error!(
            error = self.error,
            "the log cannot be written: agents are refused and keep what they have, readers are served"
        );
    }
}

/// The log can be written again.
#[derive(Debug)]
pub struct LogWritable {
    pub took: Duration,
}

impl Emit for LogWritable {
    fn emit(self) {
        gauge!("podtrail_collector_log_writable").set(1);
        info!(seconds = self.took.as_secs_f64(), "the log can be written again");
    }
}

/// A write to the log does not come to its end.
#[derive(Debug)]
pub struct WriteHangs {
    pub lasts: Duration,
    pub stuck: Duration,
}

impl Emit for WriteHangs {
    fn emit(self) {
        let Self { lasts, stuck } = self;
        error!(
            seconds = lasts.as_secs(),
            until = stuck.as_secs(),
            "a write to the log does not end: check the disk; the collector ends if it lasts"
        );
    }
}

/// It has ended after all.
#[derive(Debug)]
pub struct WriteEnded {
    pub took: Duration,
}

impl Emit for WriteEnded {
    fn emit(self) {
        warn!(seconds = self.took.as_secs(), "the write to the log has ended after all");
    }
}

/// Retention could not do its work.
#[derive(Debug)]
pub struct TrimFailed<'a> {
    pub error: &'a str,
}

impl Emit for TrimFailed<'_> {
    fn emit(self) {
        warn!(error = self.error, "the log cannot be trimmed: it grows beyond its retention");
    }
}

/// Retention dropped events.
#[derive(Debug)]
pub struct LogTrimmed {
    pub events: u64,
}

impl Emit for LogTrimmed {
    fn emit(self) {
        counter!("podtrail_collector_trimmed_total").increment(self.events);
        debug!(events = self.events, "trimmed");
    }
}

/// An agent's stream began, or ended.
#[derive(Debug)]
pub struct AgentStream<'a> {
    pub cluster: &'a str,
    pub node: &'a str,
    pub epoch: u64,
    pub connected: bool,
}

impl Emit for AgentStream<'_> {
    fn emit(self) {
        let Self { cluster, node, epoch, connected } = self;
        if connected {
            gauge!("podtrail_collector_agents_connected").increment(1);
            info!(cluster, node, epoch, "agent connected");
        } else {
            gauge!("podtrail_collector_agents_connected").decrement(1);
            info!(cluster, node, epoch, "agent disconnected");
        }
    }
}

/// Nothing came from a node for a while.
#[derive(Debug)]
pub struct NodeSilent<'a> {
    pub cluster: &'a str,
    pub node: &'a str,
    pub after: Duration,
}

impl Emit for NodeSilent<'_> {
    fn emit(self) {
        let Self { cluster, node, after } = self;
        counter!("podtrail_collector_silences_total").increment(1);
        error!(
            cluster,
            node,
            seconds = after.as_secs_f64(),
            "node is silent: nothing came from it for a while"
        );
    }
}

/// Something came again from a node that was silent.
#[derive(Debug)]
pub struct NodeReturned<'a> {
    pub cluster: &'a str,
    pub node: &'a str,
}

impl Emit for NodeReturned<'_> {
    fn emit(self) {
        let Self { cluster, node } = self;
        info!(cluster, node, "node is back");
    }
}

/// A report was refused, and nothing of that request taken.
#[derive(Debug)]
pub struct ReportRefused<'a> {
    pub peer: &'a str,
    pub reason: &'static str,
    pub message: &'a str,
}

impl Emit for ReportRefused<'_> {
    fn emit(self) {
        let Self { peer, reason, message } = self;
        Refused { peer, reason, message }.emit();
    }
}

/// The configuration has changed: its principals are used from now on.
#[derive(Debug)]
pub struct PrincipalsLoaded {
    pub principals: usize,
    /// something else has changed too
    pub restart: bool,
}

impl Emit for PrincipalsLoaded {
    fn emit(self) {
        let Self { principals, restart } = self;
        info!(principals, "principals reloaded");
        if restart {
            warn!(
                "the configuration has changed in more than its principals: restart the collector to use it"
            );
        }
    }
}

/// The configuration has changed, and cannot be used.
#[derive(Debug)]
pub struct ConfigRefused<'a> {
    pub error: &'a dyn std::error::Error,
}

impl Emit for ConfigRefused<'_> {
    fn emit(self) {
        for line in self.error.to_string().lines() {
            warn!(error = line, "the configuration cannot be reloaded: the principals from before stay");
        }
    }
}

/// Ports are open. Tests and scripts read this line.
#[derive(Debug)]
pub struct Listening {
    pub grpc: std::net::SocketAddr,
    pub metrics: Option<std::net::SocketAddr>,
    /// the audit webhook
    pub audit: Option<std::net::SocketAddr>,
}

impl Emit for Listening {
    fn emit(self) {
        let Self { grpc, metrics, audit } = self;
        let [metrics, audit] =
            [metrics, audit].map(|address| address.map_or_else(|| "none".to_owned(), |a| a.to_string()));
        info!(%grpc, metrics, audit, "listening");
    }
}

/// A signal came; what is under way is finished.
#[derive(Debug)]
pub struct Stopping {
    pub why: &'static str,
}

impl Emit for Stopping {
    fn emit(self) {
        info!(why = self.why, "stopping");
    }
}

//! What the collector has to tell of the API server's audit.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use tracing::{info, warn};

use super::Emit;

/// Names and units, for `/metrics`; to be called once, at start.
pub fn describe() {
    use Unit::{Bytes, Count, Seconds};
    describe_counter!("podtrail_collector_audit_events_total", Count, "Audit events that were heard");
    describe_counter!("podtrail_collector_audit_requests_total", Count, "Audit events kept in the log");
    describe_counter!(
        "podtrail_collector_audit_duplicates_total",
        Count,
        "Audit events that came again and were passed over"
    );
    describe_counter!(
        "podtrail_collector_audit_unreadable_total",
        Count,
        "Batches, lines and files of audit that could not be read"
    );
    describe_gauge!(
        "podtrail_collector_audit_heard_timestamp_seconds",
        Seconds,
        "When audit last came, by source"
    );
    describe_gauge!("podtrail_collector_audit_stale", Count, "1: nothing came from this source for long");
    describe_gauge!("podtrail_collector_audit_bytes", Bytes, "Audit that is being taken in now");
    for name in ["events", "requests", "duplicates", "unreadable"] {
        counter!(format!("podtrail_collector_audit_{name}_total")).increment(0);
    }
    gauge!("podtrail_collector_audit_bytes").set(0);
}

/// A batch was taken in: what was kept is in the log.
#[derive(Debug)]
pub struct AuditTaken {
    pub events: u64,
    pub requests: u64,
    pub duplicates: u64,
}

impl Emit for AuditTaken {
    fn emit(self) {
        let Self { events, requests, duplicates } = self;
        counter!("podtrail_collector_audit_events_total").increment(events);
        counter!("podtrail_collector_audit_requests_total").increment(requests);
        counter!("podtrail_collector_audit_duplicates_total").increment(duplicates);
    }
}

/// Audit takes more room, or less.
#[derive(Debug)]
pub struct AuditRoom {
    pub bytes: f64,
}

impl Emit for AuditRoom {
    fn emit(self) {
        gauge!("podtrail_collector_audit_bytes").increment(self.bytes);
    }
}

/// Some of it cannot be read: the log has a gap for it.
#[derive(Debug)]
pub struct AuditUnreadable<'a> {
    pub source: &'a str,
    pub detail: &'a str,
    pub count: u64,
}

impl Emit for AuditUnreadable<'_> {
    fn emit(self) {
        let Self { source, detail, count } = self;
        counter!("podtrail_collector_audit_unreadable_total").increment(count.max(1));
        warn!(source, detail, count, "audit that cannot be read: a gap is in the log");
    }
}

/// An API server is heard for the first time.
#[derive(Debug)]
pub struct SourceHeard<'a> {
    pub cluster: &'a str,
    pub source: &'a str,
}

impl Emit for SourceHeard<'_> {
    fn emit(self) {
        let Self { cluster, source } = self;
        info!(cluster, source, "audit is heard");
    }
}

/// Nothing came for long.
#[derive(Debug)]
pub struct SourceStale<'a> {
    pub cluster: &'a str,
    pub source: &'a str,
    pub silent: Duration,
}

impl Emit for SourceStale<'_> {
    fn emit(self) {
        let Self { cluster, source, silent } = self;
        stale(cluster, source, 1);
        warn!(
            cluster,
            source,
            seconds = silent.as_secs(),
            "audit is not heard any more: who enters meanwhile cannot be told"
        );
    }
}

/// Something came again.
#[derive(Debug)]
pub struct SourceBack<'a> {
    pub cluster: &'a str,
    pub source: &'a str,
    pub silent: Duration,
}

impl Emit for SourceBack<'_> {
    fn emit(self) {
        let Self { cluster, source, silent } = self;
        info!(
            cluster,
            source,
            seconds = silent.as_secs(),
            "audit is heard again: what is between may be missing"
        );
    }
}

/// It is no source any more.
#[derive(Debug)]
pub struct SourceForgotten<'a> {
    pub cluster: &'a str,
    pub source: &'a str,
}

impl Emit for SourceForgotten<'_> {
    fn emit(self) {
        let Self { cluster, source } = self;
        stale(cluster, source, 0);
        warn!(cluster, source, "audit was not heard for an hour: it is not waited for any more");
    }
}

/// When a source was last heard.
#[derive(Debug)]
pub struct SourceMeasured<'a> {
    pub cluster: &'a str,
    pub source: &'a str,
    pub at: f64,
}

impl Emit for SourceMeasured<'_> {
    fn emit(self) {
        let Self { cluster, source, at } = self;
        stale(cluster, source, 0);
        let labels = [("cluster", cluster.to_owned()), ("source", source.to_owned())];
        gauge!("podtrail_collector_audit_heard_timestamp_seconds", &labels).set(at);
    }
}

fn stale(cluster: &str, source: &str, stale: u8) {
    let labels = [("cluster", cluster.to_owned()), ("source", source.to_owned())];
    gauge!("podtrail_collector_audit_stale", &labels).set(stale);
}

/// A file of audit does what it should not.
#[derive(Debug)]
pub struct FileTrouble<'a> {
    pub path: &'a str,
    pub what: &'a str,
}

impl Emit for FileTrouble<'_> {
    fn emit(self) {
        let Self { path, what } = self;
        warn!(path, what, "audit file");
    }
}

/// A file of audit is read from here.
#[derive(Debug)]
pub struct FileOpened<'a> {
    pub path: &'a str,
    pub offset: u64,
}

impl Emit for FileOpened<'_> {
    fn emit(self) {
        let Self { path, offset } = self;
        info!(path, offset, "audit file is read");
    }
}

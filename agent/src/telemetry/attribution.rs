//! What attribution has to tell.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use podtrail_proto::v1::Verdict;
use tracing::{info, warn};

use super::Emit;

const VERDICTS: [Verdict; 5] =
    [Verdict::ExactId, Verdict::Matched, Verdict::Ambiguous, Verdict::NodeLocal, Verdict::None];

/// Names and units, for `/metrics`; to be called once, at start.
pub fn describe() {
    use Unit::{Count, Seconds};
    describe_counter!("podtrail_collector_verdicts_total", Count, "Verdicts on who is behind a session");
    describe_histogram!(
        "podtrail_collector_verdict_seconds",
        Seconds,
        "From a session's start in the log to a verdict on it"
    );
    describe_gauge!(
        "podtrail_collector_attribution_lag_events",
        Count,
        "Events of the log that attribution has not read"
    );
    describe_gauge!("podtrail_collector_attribution_sessions", Count, "Sessions that it looks at");
    describe_gauge!("podtrail_collector_attribution_requests", Count, "Requests that it knows");
    describe_counter!(
        "podtrail_collector_attribution_hurried_total",
        Count,
        "Sessions judged before their time, for want of room"
    );
    describe_counter!(
        "podtrail_collector_attribution_failures_total",
        Count,
        "Times that attribution had to begin again"
    );
    for verdict in VERDICTS {
        counter!("podtrail_collector_verdicts_total", "verdict" => verdict.as_str_name()).increment(0);
    }
    counter!("podtrail_collector_attribution_failures_total").increment(0);
    AttributionMeasured { sessions: 0, requests: 0, lag: 0, hurried: 0 }.emit();
}

/// It reads the log.
#[derive(Debug)]
pub struct AttributionBegan<'a> {
    pub after: &'a str,
    /// events to be read before anything is said
    pub replay: u64,
    /// requests and verdicts from before
    pub requests: usize,
}

impl Emit for AttributionBegan<'_> {
    fn emit(self) {
        let Self { after, replay, requests } = self;
        info!(after, replay, requests, "finding out whose sessions are");
    }
}

/// It has to begin again.
#[derive(Debug)]
pub struct AttributionFailed<'a> {
    pub error: &'a str,
}

impl Emit for AttributionFailed<'_> {
    fn emit(self) {
        let Self { error } = self;
        counter!("podtrail_collector_attribution_failures_total").increment(1);
        warn!(error, "whose sessions are cannot be found out now: what is missed comes later, retrying");
    }
}

/// A verdict.
#[derive(Debug)]
pub struct VerdictSaid {
    pub verdict: Verdict,
    pub after: Duration,
}

impl Emit for VerdictSaid {
    fn emit(self) {
        let Self { verdict, after } = self;
        counter!("podtrail_collector_verdicts_total", "verdict" => verdict.as_str_name()).increment(1);
        histogram!("podtrail_collector_verdict_seconds").record(after);
    }
}

/// What it holds, and how far behind it is.
#[derive(Debug)]
pub struct AttributionMeasured {
    pub sessions: usize,
    pub requests: usize,
    pub lag: u64,
    pub hurried: u64,
}

impl Emit for AttributionMeasured {
    #[expect(clippy::cast_precision_loss, reason = "metrics")]
    fn emit(self) {
        let Self { sessions, requests, lag, hurried } = self;
        gauge!("podtrail_collector_attribution_sessions").set(sessions as f64);
        gauge!("podtrail_collector_attribution_requests").set(requests as f64);
        gauge!("podtrail_collector_attribution_lag_events").set(lag as f64);
        counter!("podtrail_collector_attribution_hurried_total").increment(hurried);
    }
}

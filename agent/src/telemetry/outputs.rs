//! What plain outputs have to tell.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use tracing::{info, warn};

use super::Emit;

/// Names and units, for `/metrics`; to be called once, at start.
pub fn describe() {
    describe_counter!("podtrail_collector_output_events_total", Unit::Count, "Events written, by output");
    describe_counter!(
        "podtrail_collector_output_failures_total",
        Unit::Count,
        "Attempts that failed, by output"
    );
    describe_gauge!(
        "podtrail_collector_output_up",
        Unit::Count,
        "1 while the output can be written, by output"
    );
}

/// Events went out.
#[derive(Debug)]
pub struct OutputWritten<'a> {
    pub output: &'a str,
    pub events: usize,
}

impl Emit for OutputWritten<'_> {
    fn emit(self) {
        let Self { output, events } = self;
        counter!("podtrail_collector_output_events_total", "output" => output.to_owned())
            .increment(events as u64);
    }
}

/// It can be written, for the first time or again.
#[derive(Debug)]
pub struct OutputUp<'a> {
    pub output: &'a str,
    pub after: &'a str,
}

impl Emit for OutputUp<'_> {
    fn emit(self) {
        let Self { output, after } = self;
        gauge!("podtrail_collector_output_up", "output" => output.to_owned()).set(1.0);
        info!(output, after, "output is written");
    }
}

/// It cannot be written; what it missed comes once it can.
#[derive(Debug)]
pub struct OutputDown<'a> {
    pub output: &'a str,
    pub error: &'a str,
    /// told before, and not up since: only counted
    pub again: bool,
}

impl Emit for OutputDown<'_> {
    fn emit(self) {
        let Self { output, error, again } = self;
        gauge!("podtrail_collector_output_up", "output" => output.to_owned()).set(0.0);
        counter!("podtrail_collector_output_failures_total", "output" => output.to_owned()).increment(1);
        if !again {
            warn!(output, error, "output cannot be written: what it misses comes later, retrying");
        }
    }
}

//! What there is to tell of the node's problem detector, which is asked what it knows.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use tracing::{debug, warn};

use super::Emit;

/// Names and units, for `/metrics`.
pub fn describe() {
    describe_counter!(
        "podtrail_detector_requests_total",
        Unit::Count,
        "Times the node's problem detector was asked what it knows"
    );
    describe_gauge!("podtrail_detector_conditions", Unit::Count, "Conditions that it had the last time");
}

/// It said what it knows.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    pub conditions: usize,
    pub problems: usize,
}

impl Emit for Answered {
    fn emit(self) {
        let Self { conditions, problems } = self;
        counter!("podtrail_detector_requests_total", "outcome" => "answered").increment(1);
        gauge!("podtrail_detector_conditions").set(f64::from(u32::try_from(conditions).unwrap_or(u32::MAX)));
        debug!(conditions, problems, "the node's problem detector answers");
    }
}

/// It did not.
#[derive(Clone, Copy, Debug)]
pub struct Unanswered<'a> {
    pub error: &'a str,
    /// that was said before
    pub told: bool,
}

impl Emit for Unanswered<'_> {
    fn emit(self) {
        let Self { error, told } = self;
        counter!("podtrail_detector_requests_total", "outcome" => "failed").increment(1);
        if told {
            debug!(error, "the node's problem detector does not answer");
        } else {
            warn!(error, "the node's problem detector does not answer: it is asked again");
        }
    }
}

//! What there is to tell of the node's kubelet, which is asked for its pods.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use tracing::{debug, warn};

use super::Emit;
use crate::wayin::kubelet::{KubeletError, Target};

/// Names and units, for `/metrics`.
pub fn describe() {
    describe_counter!(
        "podtrail_kubelet_requests_total",
        Unit::Count,
        "Times the kubelet was asked for its pods"
    );
    describe_gauge!("podtrail_kubelet_pods", Unit::Count, "Pods that it told of the last time");
}

/// The kubelet told its pods.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub pods: usize,
    pub took: Duration,
}

impl Emit for Asked {
    fn emit(self) {
        let Self { pods, took } = self;
        counter!("podtrail_kubelet_requests_total", "outcome" => "answered").increment(1);
        gauge!("podtrail_kubelet_pods").set(f64::from(u32::try_from(pods).unwrap_or(u32::MAX)));
        debug!(pods, ?took, "the kubelet told its pods");
    }
}

/// It did not: sessions of which nobody can say whether they are probes are told, as of unknown method.
#[derive(Clone, Copy, Debug)]
pub struct Unanswered<'a> {
    pub target: &'a Target,
    pub error: &'a KubeletError,
    /// until it is asked again
    pub wait: Duration,
}

impl Emit for Unanswered<'_> {
    fn emit(self) {
        let Self { target, error, wait } = self;
        counter!("podtrail_kubelet_requests_total", "outcome" => "failed").increment(1);
        warn!(kubelet = %target, %error, again_in = ?wait, "the kubelet does not tell its pods");
    }
}

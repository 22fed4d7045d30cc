//! Logs to stderr, metrics for Prometheus, `/healthz` and `/readyz`: the same for agent and collector.
//!
//! What is worth telling is a struct that implements [`Emit`]: its log line and its metric are written in one place,
//! in the daemon's own file here. WARN: nothing is lost. ERROR: something is lost, or a person is needed.
//!
//! Nothing from outside (a command, a name, an error that quotes one) goes to the log raw: control characters are
//! escaped, whatever the format.

pub mod attribution;
pub mod audit;
pub mod collector;
pub mod detector;
pub mod health;
pub mod http;
pub mod kubelet;
pub mod logs;
pub mod metrics;
pub mod nodes;
pub mod outputs;
pub mod refused;
pub mod subscriptions;
pub mod tls;

use crate::escape;

pub use health::{Component, Health};
pub use logs::LogFormat;
pub use metrics::Metrics;

/// Something worth telling: a log line, a metric, or both.
pub trait Emit {
    fn emit(self);
}

/// Says on stderr why a program ends, a line for each thing that is wrong.
pub fn complain(program: &str, error: &dyn std::error::Error) {
    for line in error.to_string().lines() {
        eprintln!("{program}: {}", escape::guard(line));
    }
}

/// Help goes out as it is; of a mistake, the one line that says what it was. The exit code is the one for wrong usage.
#[must_use]
pub fn misused(program: &str, error: &clap::Error) -> std::process::ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return std::process::ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
    eprintln!("{program}: {}; see {program} --help", escape::guard(line));
    std::process::ExitCode::from(2)
}

/// Why telemetry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// {what} {filter:?} is not a log filter
    #[error("{what} {filter:?} is not a log filter ({why}): write for example info, or podtrail=debug,warn")]
    Filter { what: &'static str, filter: String, why: String },
    /// logging is set up already
    #[error("logging is set up already in this process")]
    Twice,
}

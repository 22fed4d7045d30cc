//! `cargo xtask bench`: what podtrail costs, beside what others cost, in the same run.

mod attribution;
mod exec;
mod hooks;
mod itest;
mod measure;
mod pipeline;
mod pods;
mod report;
mod tracer;

use anyhow::Result;

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Subject {
    /// The price of an exec, and of the agent under exec storms
    Exec(exec::Options),
    /// What each way to see system calls costs everybody, in virtual machines; writes to `docs/kernels.md`
    Hooks(hooks::Options),
    /// The way of an event from the exec to a subscriber, and what the collector takes
    Pipeline(pipeline::Options),
    /// How often it is right who is behind a session, and how soon; writes to `docs/attribution.md`
    Attribution(attribution::Options),
    /// What it costs to know containers by their pods: calls of the runtime, memory; writes to `docs/attribution.md`
    Pods(pods::Options),
}

/// Measures, and writes what was measured to `docs/benchmarks.md`.
pub(crate) fn run(subject: &Subject) -> Result<()> {
    match subject {
        Subject::Exec(options) => exec::run(options),
        Subject::Hooks(options) => hooks::run(options),
        Subject::Pipeline(options) => pipeline::run(options),
        Subject::Attribution(options) => attribution::run(options),
        Subject::Pods(options) => pods::run(options),
    }
}

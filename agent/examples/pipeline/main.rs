//! The loads of `cargo xtask bench pipeline`: simulated agents, subscribers, and what compressing costs. Each prints what
//! it measured as lines of JSON.

mod agents;
mod codecs;
mod events;
mod readers;
mod tables;
mod wire;

use anyhow::Result;
use clap::Parser;

#[derive(Debug, Parser)]
enum Load {
    /// Agents that report as fast as the collector acknowledges, each as a node of its own
    Agents(agents::Options),
    /// Subscribers of everything, each with a subscription of its own
    Readers(readers::Options),
    /// Time and length of reports, compressed as the uplink would
    Codecs(codecs::Options),
    /// Time and length of the log's tables, compressed and not
    Tables(tables::Options),
}

fn main() -> Result<()> {
    match Load::parse() {
        Load::Agents(options) => agents::run(options),
        Load::Readers(options) => readers::run(&options),
        Load::Codecs(options) => codecs::run(&options),
        Load::Tables(options) => tables::run(&options),
    }
}

/// For rates and shares.
#[expect(clippy::cast_precision_loss, reason = "counts of events and bytes are far below 2^53")]
fn float(n: u64) -> f64 {
    n as f64
}

/// Since 1970, to compare what several programs say.
#[expect(clippy::cast_precision_loss, reason = "to less than a microsecond")]
fn seconds(moment: podtrail::trail::Moment) -> f64 {
    moment.0 as f64 / 1e9
}

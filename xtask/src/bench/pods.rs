//! `cargo xtask bench pods`: what it costs to know containers by their pods. The work is done by the integration tests
//! `pod_costs`.

use anyhow::Result;

use super::{itest, report::write_to};
use crate::machine;

/// Options of `bench pods`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only print, leave docs/attribution.md
    #[arg(long)]
    dry_run: bool,
}

/// Measures and writes.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { dry_run } = options;
    let printed = itest::run("pod_costs::", "containers by the dozen, and by the thousand")?;
    let text = format!(
        "{}\n\n| calls of the runtime for | calls | for each |\n|---|---|---|\n{}\n\n\
         | memory of the agent with | resident | of it by what the runtime says |\n|---|---|---|\n{}",
        machine::told(&machine::commit()?)?,
        printed.rows("calls: "),
        printed.rows("memory: "),
    );
    println!("{text}");
    if *dry_run { Ok(()) } else { write_to("docs/attribution.md", "pods", &text) }
}

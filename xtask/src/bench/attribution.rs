//! `cargo xtask bench attribution`: how often it is right who is behind a session, and how soon. The work is done by
//! `agent/examples/attribution.rs`, which speaks to a real collector as agents and API servers do.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};

use super::report::write_to;
use crate::{
    ebpf, machine, root,
    sh::{cargo, cmd, step},
};

/// Options of `bench attribution`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only print, leave docs/attribution.md
    #[arg(long)]
    dry_run: bool,
}

/// Measures and writes.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { dry_run } = options;
    // What takes its time here is waiting.
    let programs = ebpf::build_all(false)?;
    cargo().args(["build", "--package", "podtrail", "--example", "attribution"]).run()?;
    step("execs with and without people behind them: three minutes");
    let example = root::target().join("debug/examples/attribution");
    let (shown, mut measure) = cmd(&example).arg(programs.join("podtrail-collector")).announced();
    let output =
        measure.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start `{shown}`"))?;
    ensure!(output.status.success(), "this failed: {shown}");
    let table = String::from_utf8(output.stdout).context("it printed no text")?;
    let text = format!("{}\n{}", machine::told(&machine::commit()?)?, table.trim());
    println!("{text}");
    if *dry_run { Ok(()) } else { write_to("docs/attribution.md", "attribution", &text) }
}

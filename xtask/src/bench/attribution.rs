//! `cargo xtask bench attribution`: how often it is right who is behind a session, and how soon. The work is done by
//! `agent/examples/attribution.rs`, which speaks to a real collector as agents and API servers do; with `--real`, by the
//! integration test `attribution`, whose execs are real.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};

use super::{itest, report::write_to};
use crate::{
    ebpf, machine, root,
    sh::{cargo, cmd, step},
};

/// Options of `bench attribution`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Execs in real containers, by a real containerd and a real agent; as root
    #[arg(long)]
    real: bool,
    /// Only print, leave docs/attribution.md
    #[arg(long)]
    dry_run: bool,
}

/// Measures and writes.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { real, dry_run } = options;
    let (part, table) = if *real { ("attribution --real", executed()?) } else { ("attribution", played()?) };
    let text = format!("{}\n{}", machine::told(&machine::commit()?)?, table.trim());
    println!("{text}");
    if *dry_run { Ok(()) } else { write_to("docs/attribution.md", part, &text) }
}

fn played() -> Result<String> {
    // What takes its time here is waiting.
    let programs = ebpf::build_all(false)?;
    cargo().args(["build", "--package", "podtrail", "--example", "attribution"]).run()?;
    step("execs with and without people behind them: three minutes");
    let example = root::target().join("debug/examples/attribution");
    let (shown, mut measure) = cmd(&example).arg(programs.join("podtrail-collector")).announced();
    let output =
        measure.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start `{shown}`"))?;
    ensure!(output.status.success(), "this failed: {shown}");
    String::from_utf8(output.stdout).context("it printed no text")
}

fn executed() -> Result<String> {
    let printed = itest::run("attribution::", "real execs, with and without people behind them: a minute")?;
    let rows = printed.rows("attribution: ");
    ensure!(!rows.is_empty(), "it printed no row");
    Ok(format!("{}\n\n{}\n{rows}", printed.rows("attribution of: "), printed.rows("attribution columns: ")))
}

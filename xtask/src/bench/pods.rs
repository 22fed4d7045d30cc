//! `cargo xtask bench pods`: what it costs to know containers by their pods. The work is done by the integration tests
//! `pod_costs`, with a real containerd and the agent as it is.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use super::report::write_to;
use crate::{
    ebpf, machine, root,
    sh::{cargo, cmd, step},
    test::{static_build, triple},
};

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
    ensure!(root::is_root(), "run this as root: it starts containers");
    ebpf::build(&ebpf::Options::default())?;
    static_build(cargo().args(["build", "--package", "podtrail-tests"])).run()?;
    step("containers by the dozen, and by the thousand");
    let program = root::target().join(triple()).join("debug/podtrail-itest");
    let (shown, mut tests) = cmd(&program).args(["pod_costs::", "--nocapture"]).announced();
    // A machine that cannot do it must say so, and not leave rows out.
    let output = tests.env("CI", "true").stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start `{shown}`"))?;
    let printed = String::from_utf8(output.stdout).context("it printed no text")?;
    ensure!(output.status.success(), "this failed: {shown}\n{printed}");
    let rows = |what: &str| -> Vec<&str> {
        // The first row stands behind the test's name.
        printed.lines().filter_map(|line| line.split_once(what)).map(|(_, row)| row.trim()).collect()
    };
    let text = format!(
        "{}\n\n| calls of the runtime for | calls | for each |\n|---|---|---|\n{}\n\n\
         | memory of the agent with | resident | of it by what the runtime says |\n|---|---|---|\n{}",
        machine::told(&machine::commit()?)?,
        rows("calls: ").join("\n"),
        rows("memory: ").join("\n"),
    );
    println!("{text}");
    if *dry_run { Ok(()) } else { write_to("docs/attribution.md", "pods", &text) }
}

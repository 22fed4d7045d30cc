//! Measures that the integration tests make, with a real containerd and the agent as it is.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::{
    ebpf, root,
    sh::{cargo, cmd, step},
    test::{static_build, triple},
};

/// What tests print.
pub(super) struct Printed(String);

/// Builds the tests and runs those of a name.
pub(super) fn run(filter: &str, what: &str) -> Result<Printed> {
    ensure!(root::is_root(), "run this as root: it starts containers");
    ebpf::build(&ebpf::Options::default())?;
    static_build(cargo().args(["build", "--package", "podtrail-tests"])).run()?;
    step(what);
    let program = root::target().join(triple()).join("debug/podtrail-itest");
    let (shown, mut tests) = cmd(&program).args([filter, "--nocapture"]).announced();
    // A machine that cannot do it must say so, and not leave rows out.
    let output = tests.env("CI", "true").stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start `{shown}`"))?;
    let printed = String::from_utf8(output.stdout).context("it printed no text")?;
    ensure!(output.status.success(), "this failed: {shown}\n{printed}");
    Ok(Printed(printed))
}

impl Printed {
    /// The rows of a table, without the name before each.
    pub(super) fn rows(&self, table: &str) -> String {
        // The first row stands behind the test's name.
        let rows = self.0.lines().filter_map(|line| line.split_once(table)).map(|(_, row)| row.trim());
        rows.collect::<Vec<_>>().join("\n")
    }
}

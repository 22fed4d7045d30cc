//! `cargo xtask lint`: formatting, lints, and the rules that no compiler checks.

pub(crate) mod deny;
mod source;
mod tidy;

use anyhow::Result;

use crate::{
    ebpf,
    sh::{cargo, step},
};

/// Runs every check.
pub(crate) fn run() -> Result<()> {
    step("the rules of the code");
    tidy::run()?;
    step("formatting");
    cargo().args(["fmt", "--all", "--check"]).run()?;
    step("lints");
    cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]).run()?;
    step("lints of the BPF programs");
    ebpf::check()?;
    step("dependencies");
    deny::run()
}

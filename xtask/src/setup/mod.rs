//! `cargo xtask setup`: installs what is missing, at the versions that this was tried with.
//!
//! It runs nothing where nothing is missing, and shows each command that changes the machine.

mod packages;
mod tools;

use anyhow::Result;

pub(crate) use packages::LLVM_MAJOR;
pub(crate) use tools::{bpf_linker, cargo_deny};

/// What the machine must be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum For {
    /// building everything
    Build,
    /// tests and demo: real containers, virtual machines
    Tests,
    /// benchmarks: the tools to compare with
    Bench,
    /// virtual machines with aarch64 processors
    Arm,
}

/// Installs what is missing.
pub(crate) fn run(purpose: For) -> Result<()> {
    packages::install(purpose)?;
    tools::install_kustomize()?;
    tools::install_bpf_linker()
}

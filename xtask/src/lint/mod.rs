//! `cargo xtask lint`: formatting, lints, and the rules that no compiler checks.

pub(crate) mod deny;
mod source;
mod tidy;

use anyhow::{Result, bail};

use crate::{
    ebpf,
    sh::{cargo, step},
};

/// A check, and what it found as its error.
type Check = fn() -> Result<()>;

/// Runs every check, also after one that failed; then says which did.
pub(crate) fn run() -> Result<()> {
    let checks: [(&str, Check); 5] = [
        ("the rules of the code", tidy::run),
        ("formatting", || cargo().args(["fmt", "--all", "--check"]).run()),
        ("lints", || cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]).run()),
        ("lints of the BPF programs", ebpf::check),
        ("dependencies", deny::run),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        step(name);
        if let Err(error) = check() {
            eprintln!("error: {error:#}");
            failed.push(name);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join(", ")) }
}

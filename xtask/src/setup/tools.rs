//! Tools that cargo builds: pinned, and kept in the target directory.

use std::{env, ffi::OsString, path::PathBuf};

use anyhow::{Result, bail};

use super::LLVM_MAJOR;
use crate::{
    root,
    sh::{cargo, cmd, step},
};

/// Version of the BPF linker.
const BPF_LINKER: &str = "0.13.0";
/// Version of cargo-deny.
const CARGO_DENY: &str = "0.20.2";

/// The BPF linker that is here already: the one that `BPF_LINKER` names, ours, or one on PATH of the right version.
fn find_bpf_linker() -> Result<Option<PathBuf>> {
    if let Some(named) = env::var_os("BPF_LINKER").map(PathBuf::from) {
        if !named.is_file() {
            bail!("BPF_LINKER={} is no file", named.display());
        }
        return Ok(Some(named));
    }
    let ours = root::tools().join("bin/bpf-linker");
    for candidate in [Some(ours), root::find("bpf-linker")].into_iter().flatten() {
        let version = cmd(&candidate).arg("--version").peek()?.unwrap_or_default();
        if version.split_whitespace().any(|word| word == BPF_LINKER) {
            return Ok(Some(candidate));
        }
    }
    Ok(None)
}

/// The BPF linker, or what to do to have it.
pub(crate) fn bpf_linker() -> Result<PathBuf> {
    let Some(linker) = find_bpf_linker()? else {
        bail!("bpf-linker {BPF_LINKER} is missing: run `cargo xtask setup`");
    };
    Ok(linker)
}

/// Builds the BPF linker unless it is here.
pub(super) fn install_bpf_linker() -> Result<()> {
    if find_bpf_linker()?.is_some() {
        return Ok(());
    }
    step("building the BPF linker (about half a minute)");
    let feature = format!("llvm-{LLVM_MAJOR}");
    let prefix = format!("/usr/lib/llvm-{LLVM_MAJOR}");
    install(
        "bpf-linker",
        BPF_LINKER,
        &["--no-default-features", "--features", &feature],
        &[("LLVM_PREFIX", &prefix)],
    )
}

/// cargo-deny, built on its first use.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    let program = root::tools().join("bin/cargo-deny");
    let version = cmd(&program).arg("--version").peek()?.unwrap_or_default();
    if !version.split_whitespace().any(|word| word == CARGO_DENY) {
        step("building cargo-deny (some minutes, the first time)");
        install("cargo-deny", CARGO_DENY, &["--no-default-features"], &[])?;
    }
    Ok(program)
}

fn install(name: &str, version: &str, flags: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    let mut install = cargo()
        .args(["install", name, "--version", version, "--locked", "--force", "--root"])
        .arg(root::tools())
        .args(flags)
        // Beside what is kept of the workspace's own builds, so that a cache of the target directory has it all.
        .env("CARGO_TARGET_DIR", root::target().join("tools-build"));
    for (name, value) in variables {
        install = install.env(name, OsString::from(value));
    }
    install.run()
}

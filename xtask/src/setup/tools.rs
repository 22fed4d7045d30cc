//! Tools that cargo builds: pinned, and kept in the target directory.

use std::{env, ffi::OsString, fs, path::PathBuf};

use anyhow::{Context, Result, bail};

use super::LLVM_MAJOR;
use crate::{
    root,
    sh::{cargo, cmd, step},
};

/// Version of the BPF linker.
const BPF_LINKER: &str = "0.13.0";
/// Where Debian keeps packages.
const POOL: &str = "http://deb.debian.org/debian/pool/main";
/// Debian 13's kustomize, which runs on Debian 12 too and is what `kubectl kustomize` is made of; its packages by
/// architecture, each with its SHA-256.
const KUSTOMIZE: &str = "5.6.0";
const KUSTOMIZE_PACKAGES: [(&str, &str, &str); 2] = [
    (
        "x86_64",
        "k/kustomize/kustomize_5.6.0+ds-1+b2_amd64.deb",
        "552bbe5563b522685b10f75a9a226bfbee9778fc313b205d595fdbb7e9c70e33",
    ),
    (
        "aarch64",
        "k/kustomize/kustomize_5.6.0+ds-1+b2_arm64.deb",
        "32d0e1959b5fc257101c8d6139da72af38ff7ce777089666f9d1c916810f1800",
    ),
];
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

/// Gets kustomize unless it is here: what manifests are made with, for their tests.
pub(super) fn install_kustomize() -> Result<()> {
    let program = root::tools().join("bin/kustomize");
    // Debian's does not say which it is.
    let told = root::tools().join("kustomize-version");
    if program.exists() && fs::read_to_string(&told).is_ok_and(|version| version == KUSTOMIZE) {
        return Ok(());
    }
    let package = KUSTOMIZE_PACKAGES.iter().find(|(arch, ..)| *arch == env::consts::ARCH);
    let Some((_, path, sha256)) = package else {
        eprintln!("note: no kustomize for this machine; tests of manifests want one in KUSTOMIZE");
        return Ok(());
    };
    step("fetching kustomize (6 MB)");
    let dir = root::tools().join("kustomize");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let file = dir.join("kustomize.deb");
    // It compares the checksum, and leaves nothing where that is another.
    cmd("/usr/lib/apt/apt-helper")
        .args(["download-file", &format!("{POOL}/{path}")])
        .arg(&file)
        .arg(format!("SHA256:{sha256}"))
        .run()?;
    cmd("dpkg-deb").arg("--extract").arg(&file).arg(&dir).run()?;
    fs::create_dir_all(root::tools().join("bin"))?;
    fs::copy(dir.join("usr/bin/kustomize"), &program)
        .with_context(|| format!("cannot write {}", program.display()))?;
    fs::write(&told, KUSTOMIZE).with_context(|| format!("cannot write {}", told.display()))?;
    fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))
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

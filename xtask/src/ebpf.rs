//! `cargo xtask build-ebpf`: the BPF object that the agent embeds.
//!
//! Two ways, each with a compiler and a linker of the same LLVM: Debian's `rustc-web`, which has a ready-made core for
//! BPF, and a nightly, which builds core itself. Neither touches the workspace's own builds.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{
    root,
    setup::{self, LLVM_MAJOR},
    sh::{Cmd, cargo, cmd, step},
};

const TARGET: &str = "bpfel-unknown-none";
const WEB_RUSTC: &str = "/usr/bin/rustc";

/// Options of `build-ebpf`.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// What to build with; by default the first that is here
    #[arg(long, value_enum)]
    pub(crate) toolchain: Option<Kind>,
}

/// A way to build BPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Debian's rustc-web with libstd-rust-web-dev-bpf
    RustcWeb,
    /// rustup's nightly with rust-src
    Nightly,
}

/// A way to build BPF that works here.
struct Toolchain {
    kind: Kind,
    /// first line of `rustc --version`
    version: String,
    linker: PathBuf,
}

/// Builds the BPF object for this machine; returns where it is.
pub(crate) fn build(options: &Options) -> Result<PathBuf> {
    build_for(options, std::env::consts::ARCH, "bpf-build", &root::target())
}

/// Builds the BPF object for a kind of processor, whose registers a kprobe reads, in a folder below the target directory,
/// for programs that are built in `target`.
pub(crate) fn build_for(options: &Options, arch: &str, folder: &str, target: &Path) -> Result<PathBuf> {
    let toolchain = find(options.toolchain)?;
    step(&format!(
        "BPF object with {} ({}), linked by {}",
        match toolchain.kind {
            Kind::RustcWeb => "Debian's rustc-web",
            Kind::Nightly => "rustup's nightly",
        },
        toolchain.version,
        toolchain.linker.display()
    ));
    let dir = root::target().join(folder);
    toolchain
        .cargo("build", arch, &dir, &[])
        .args(["--package", "podtrail-ebpf", "--bin", "podtrail", "--features", "program", "--release"])
        .run()?;
    let linked = dir.join(TARGET).join("release/podtrail");
    let object = target.join("bpf/podtrail.bpf.o");
    publish(&linked, &object)?;
    Ok(object)
}

/// Builds the BPF object and the three programs; returns the folder of the programs.
pub(crate) fn build_all(release: bool) -> Result<PathBuf> {
    build(&Options::default())?;
    let (flags, folder): (&[&str], _) = if release { (&["--release"], "release") } else { (&[], "debug") };
    cargo().args(["build", "--package", "podtrail", "--bins"]).args(flags).run()?;
    Ok(root::target().join(folder))
}

/// Checks the BPF programs with the BPF compiler's own lints, warnings being errors: neither compiler comes with a
/// clippy for this target.
pub(crate) fn check() -> Result<()> {
    find(None)?
        .cargo("check", std::env::consts::ARCH, &root::target().join("bpf-check"), &["-Dwarnings"])
        .args(["--package", "podtrail-ebpf", "--bin", "podtrail", "--features", "program"])
        .run()
}

impl Toolchain {
    /// `cargo SUBCOMMAND` for the BPF target, with its own target directory.
    fn cargo(&self, subcommand: &str, arch: &str, dir: &Path, more_flags: &[&str]) -> Cmd {
        let cargo = match self.kind {
            Kind::RustcWeb => cargo()
                .arg(subcommand)
                .env("RUSTC", WEB_RUSTC)
                // Unlocks the one crate that needs an unstable feature, and nothing else.
                .env("RUSTC_BOOTSTRAP", "aya_ebpf,podtrail"),
            Kind::Nightly => cmd("rustup")
                .args(["run", "nightly", "cargo", subcommand, "-Z", "build-std=core"])
                .env_remove("RUSTC")
                .env_remove("CARGO")
                .env_remove("RUSTUP_TOOLCHAIN"),
        };
        let architecture = format!("--cfg=bpf_target_arch=\"{arch}\"");
        let flags = [&["-Cdebuginfo=2", "-Clink-arg=--btf", &architecture], more_flags].concat();
        cargo
            .args(["--target", TARGET])
            .env("CARGO_TARGET_DIR", dir)
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
            // The workspace's release profile is for daemons.
            .env("CARGO_PROFILE_RELEASE_LTO", "fat")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
            .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
            .env_remove("RUSTFLAGS")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER")
    }
}

/// The first way that works here, or what each lacks.
fn find(wanted: Option<Kind>) -> Result<Toolchain> {
    let mut lacking = Vec::new();
    for kind in wanted.map_or_else(|| vec![Kind::RustcWeb, Kind::Nightly], |kind| vec![kind]) {
        let found = match kind {
            Kind::RustcWeb => rustc_web(),
            Kind::Nightly => nightly(),
        }?;
        match found {
            Ok(version) => return Ok(Toolchain { kind, version, linker: setup::bpf_linker()? }),
            Err(lacks) => lacking.push(lacks),
        }
    }
    bail!("cannot build BPF here: {}; `cargo xtask setup` installs the first", lacking.join("; "))
}

/// Debian's compiler: its version, or what is missing.
fn rustc_web() -> Result<Result<String, String>> {
    let Some(about) = cmd(WEB_RUSTC).arg("-vV").peek()? else {
        return Ok(Err("the package rustc-web is missing".to_owned()));
    };
    let sysroot = cmd(WEB_RUSTC).args(["--print", "sysroot"]).peek()?.unwrap_or_default();
    if !Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).is_dir() {
        return Ok(Err("the package libstd-rust-web-dev-bpf is missing".to_owned()));
    }
    Ok(same_llvm("rustc-web", &about))
}

/// A nightly: its version, or what is missing.
fn nightly() -> Result<Result<String, String>> {
    let rustc = || cmd("rustup").args(["run", "nightly", "rustc"]).env_remove("RUSTUP_TOOLCHAIN");
    let about = rustc().arg("-vV").peek()?.unwrap_or_default();
    if about.is_empty() {
        return Ok(Err("rustup has no nightly".to_owned()));
    }
    let sysroot = rustc().args(["--print", "sysroot"]).peek()?.unwrap_or_default();
    if !Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir() {
        return Ok(Err(
            "the nightly lacks rust-src (rustup component add rust-src --toolchain nightly)".to_owned()
        ));
    }
    Ok(same_llvm("the nightly", &about))
}

/// The compiler's version, where its LLVM is the linker's.
fn same_llvm(name: &str, about: &str) -> Result<String, String> {
    let version = about.lines().next().unwrap_or_default().to_owned();
    let llvm = about.lines().find_map(|line| line.strip_prefix("LLVM version: ")).unwrap_or_default();
    if llvm.split('.').next() == Some(&LLVM_MAJOR.to_string()) {
        return Ok(version);
    }
    Err(format!(
        "{name} has LLVM {llvm} and the linker is built with {LLVM_MAJOR}: they must match \
         (LLVM_MAJOR in xtask/src/setup/packages.rs)"
    ))
}

/// Strips what the kernel does not need (BTF stays) and puts the object where the agent's build looks, only if it
/// changed: then nothing is rebuilt.
fn publish(linked: &Path, object: &Path) -> Result<()> {
    let folder = object.parent().context("the object has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let new = object.with_extension("new");
    let strip = PathBuf::from(format!("/usr/lib/llvm-{LLVM_MAJOR}/bin/llvm-strip"));
    if strip.exists() {
        cmd(&strip).arg("-g").arg(linked).arg("-o").arg(&new).run()?;
    } else {
        fs::copy(linked, &new).with_context(|| format!("cannot copy {}", linked.display()))?;
    }
    let bytes = fs::read(&new).with_context(|| format!("cannot read {}", new.display()))?;
    if fs::read(object).is_ok_and(|old| old == bytes) {
        fs::remove_file(&new).with_context(|| format!("cannot remove {}", new.display()))?;
        eprintln!("{} is up to date ({} bytes)", object.display(), bytes.len());
    } else {
        fs::rename(&new, object).with_context(|| format!("cannot write {}", object.display()))?;
        eprintln!("{} written ({} bytes)", object.display(), bytes.len());
    }
    Ok(())
}

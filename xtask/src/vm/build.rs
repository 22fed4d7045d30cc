//! The test program for machines of each kind: with the compiler that is here, or, for another kind, with Debian's.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::{archive, folder, image, plan::Arch};
use crate::{
    ebpf, root,
    sh::{Cmd, cargo, cmd, step},
    test,
};

const AARCH64: &str = "aarch64-unknown-linux-gnu";
/// Debian's compiler, which builds the BPF object too.
const WEB_RUSTC: &str = "/usr/bin/rustc";

/// Builds the program; returns where it is, without what only debuggers read.
pub(super) fn program(arch: Arch) -> Result<PathBuf> {
    if Arch::own() == Some(arch) {
        ebpf::build(&ebpf::Options::default())?;
        step("integration tests: building");
        test::static_build(cargo().args(["build", "--package", "podtrail-tests"])).run()?;
        return image::stripped(arch, &root::target().join(test::triple()).join("debug/podtrail-itest"));
    }
    if arch != Arch::Aarch64 {
        bail!("programs for {} are not built on {}", arch.as_str(), std::env::consts::ARCH);
    }
    // Another compiler in the same target directory would build everything anew each time.
    let target = folder()?.join("build-aarch64");
    ebpf::build_for(&ebpf::Options::default(), arch.as_str(), "bpf-build-aarch64", &target)?;
    step("integration tests for aarch64: building");
    cross(&target)?.args(["build", "--package", "podtrail-tests", "--target", AARCH64]).run()?;
    image::stripped(arch, &target.join(AARCH64).join("debug/podtrail-itest"))
}

/// A cargo that builds for aarch64: with rustup's standard library for it, else with Debian's compiler and library.
fn cross(target: &Path) -> Result<Cmd> {
    const GCC: &str = "aarch64-linux-gnu-gcc";
    let mut flags = "-Ctarget-feature=+crt-static".to_owned();
    let mut cargo = cargo();
    let query = cmd("rustc").args(["--print", "target-libdir", "--target", AARCH64]);
    let has_std = query.peek()?.is_some_and(|dir| Path::new(dir.trim()).is_dir());
    if !has_std {
        let version = cmd("dpkg-query").args(["-W", "-f", "${Version}", "rustc-web"]).peek()?;
        let version = version.filter(|version| !version.is_empty()).context(
            "for aarch64: `rustup target add aarch64-unknown-linux-gnu`, or Debian's rustc-web (`cargo xtask setup`)",
        )?;
        let library = archive::rust_library(&version)?;
        flags = format!("{flags} -L{}", library.display());
        cargo = cargo.env("RUSTC", WEB_RUSTC);
    }
    fs::create_dir_all(target).with_context(|| format!("cannot make {}", target.display()))?;
    Ok(cargo
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", GCC)
        .env("CC_aarch64_unknown_linux_gnu", GCC)
        .env("AR_aarch64_unknown_linux_gnu", "aarch64-linux-gnu-ar")
        .env("RUSTFLAGS", flags))
}

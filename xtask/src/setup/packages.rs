//! Debian's packages.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, bail};

use super::For;
use crate::{
    root,
    sh::{cmd, step},
};

/// The LLVM of both the BPF compiler and the BPF linker: bitcode goes from one to the other.
pub(crate) const LLVM_MAJOR: u32 = 22;

/// A package, the beginning of its version where that matters, and what first needs it.
struct Package {
    name: &'static str,
    version: Option<&'static str>,
    purpose: For,
}

const PACKAGES: &[Package] = &[
    // A newer compiler with the same LLVM will most likely do; one with another LLVM wants another linker.
    Package { name: "rustc-web", version: Some("1.96."), purpose: For::Build },
    Package { name: "rust-web-src", version: Some("1.96."), purpose: For::Build },
    Package { name: "libstd-rust-web-dev-bpf", version: Some("1.96."), purpose: For::Build },
    Package { name: "llvm-22", version: Some("1:22."), purpose: For::Build },
    Package { name: "llvm-22-dev", version: Some("1:22."), purpose: For::Build },
    // What the linker and the programs are linked with.
    Package { name: "gcc", version: None, purpose: For::Build },
    Package { name: "g++", version: None, purpose: For::Build },
    Package { name: "libc6-dev", version: None, purpose: For::Build },
    Package { name: "zlib1g-dev", version: None, purpose: For::Build },
    Package { name: "libzstd-dev", version: None, purpose: For::Build },
    Package { name: "runc", version: None, purpose: For::Tests },
    Package { name: "crun", version: None, purpose: For::Tests },
    Package { name: "busybox-static", version: None, purpose: For::Tests },
    // With its CRI plugin, as a kubelet's.
    Package { name: "containerd", version: None, purpose: For::Tests },
    // The Python example is generated and run.
    Package { name: "protobuf-compiler", version: None, purpose: For::Tests },
    Package { name: "protobuf-compiler-grpc", version: None, purpose: For::Tests },
    Package { name: "libprotobuf-dev", version: None, purpose: For::Tests },
    Package { name: "python3-grpcio", version: None, purpose: For::Tests },
    Package { name: "python3-protobuf", version: None, purpose: For::Tests },
    Package { name: "openssl", version: None, purpose: For::Tests },
    // It checks the units.
    Package { name: "systemd", version: None, purpose: For::Tests },
    Package { name: "libbpf-tools", version: None, purpose: For::Bench },
    Package { name: "bpftrace", version: None, purpose: For::Bench },
    // `ss`, which knows how many bytes a connection has carried.
    Package { name: "iproute2", version: None, purpose: For::Bench },
    // Virtual machines with older kernels.
    Package { name: "qemu-system-x86", version: None, purpose: For::Tests },
    Package { name: "cpio", version: None, purpose: For::Tests },
    Package { name: "binutils", version: None, purpose: For::Tests },
    Package { name: "xz-utils", version: None, purpose: For::Tests },
    Package { name: "zstd", version: None, purpose: For::Tests },
    Package { name: "debian-archive-keyring", version: None, purpose: For::Tests },
    // The same with other processors.
    Package { name: "qemu-system-arm", version: None, purpose: For::Arm },
    Package { name: "gcc-aarch64-linux-gnu", version: None, purpose: For::Arm },
    Package { name: "libc6-dev-arm64-cross", version: None, purpose: For::Arm },
];

/// Installs the packages that are missing.
pub(super) fn install(purpose: For) -> Result<()> {
    // Benchmarks and other processors need what the tests need, and nothing of one another.
    let needed =
        |package: &&Package| package.purpose == purpose || package.purpose <= purpose.min(For::Tests);
    let wanted: Vec<&Package> = PACKAGES.iter().filter(needed).collect();
    let Some(installed) = installed(&wanted)? else {
        if Path::new("/usr/bin/rustc").exists() || root::find("rustup").is_some() {
            eprintln!("note: no dpkg here, so nothing is installed; {}", by_hand(&wanted));
            return Ok(());
        }
        bail!("this is no Debian: {}", by_hand(&wanted));
    };
    for package in &wanted {
        let version = installed.get(package.name);
        if let (Some(version), Some(pin)) = (version, package.version)
            && !version.starts_with(pin)
        {
            eprintln!("warning: {} is {version}; this was tried with {pin}*", package.name);
        }
    }
    let missing: Vec<&Package> =
        wanted.into_iter().filter(|package| !installed.contains_key(package.name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    if !root::is_root() {
        bail!("these packages are missing; as root: apt-get install {}", names.join(" "));
    }
    step(&format!("installing packages: {}", names.join(", ")));
    cmd("apt-get").args(["update", "-q"]).run()?;
    let exact: Vec<String> = missing.iter().map(|package| pinned(package)).collect::<Result<_>>()?;
    cmd("apt-get")
        .args(["install", "-q", "-y", "--no-install-recommends"])
        .args(exact)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .run()
}

/// Which of them are installed, with their versions; none where there is no dpkg.
fn installed(wanted: &[&Package]) -> Result<Option<BTreeMap<String, String>>> {
    let query = cmd("dpkg-query").args(["-W", "-f", "${db:Status-Abbrev}|${binary:Package}|${Version}\n"]);
    let Some(listed) = query.args(wanted.iter().map(|package| package.name)).peek()? else { return Ok(None) };
    let mut installed = BTreeMap::new();
    for line in listed.lines() {
        let mut fields = line.split('|');
        if let (Some(state), Some(name), Some(version)) = (fields.next(), fields.next(), fields.next())
            && state.trim() == "ii"
        {
            let name = name.split(':').next().unwrap_or(name);
            installed.insert(name.to_owned(), version.to_owned());
        }
    }
    Ok(Some(installed))
}

/// `name=version` for apt: the newest that fits the pin; where the archive has none of these, what it has.
fn pinned(package: &Package) -> Result<String> {
    let Some(pin) = package.version else { return Ok(package.name.to_owned()) };
    let listed = cmd("apt-cache").args(["madison", package.name]).peek()?.context("apt-cache is missing")?;
    let versions: Vec<&str> =
        listed.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim).collect();
    if let Some(version) = versions.iter().find(|version| version.starts_with(pin)) {
        return Ok(format!("{}={version}", package.name));
    }
    if versions.is_empty() {
        bail!(
            "the archive has no package {}: it comes from Debian 12's security archive (see /etc/apt/sources.list); \
             without it, a nightly with rust-src builds the BPF object too",
            package.name
        );
    }
    eprintln!(
        "warning: the archive has moved on: {} {pin}* is gone, taking {}; \
         if that does not build, see xtask/src/setup/packages.rs",
        package.name,
        versions.join(", ")
    );
    Ok(package.name.to_owned())
}

fn by_hand(wanted: &[&Package]) -> String {
    let runtime: Vec<&str> =
        wanted.iter().filter(|package| package.purpose > For::Build).map(|package| package.name).collect();
    format!(
        "install by hand a nightly with rust-src, bpf-linker, and {}",
        if runtime.is_empty() { "a C compiler".to_owned() } else { runtime.join(", ") }
    )
}

//! The programs as they are shipped: without shared libraries, and without what says where they were built.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{
    ebpf, root,
    setup::{self, LLVM_MAJOR},
    sh::{cargo, cmd},
    test::{build_all, triple},
};

/// What there is to ship.
pub(crate) const PROGRAMS: [&str; 3] = ["podtrail-agent", "podtrail-collector", "podtrail"];

/// How they are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// as the tests are
    Dev,
    /// as they are shipped
    Dist,
}

/// Builds them; the folder that they are in, stripped.
pub(crate) fn build(profile: Profile) -> Result<PathBuf> {
    if profile == Profile::Dist {
        setup::run(setup::For::Build)?;
        ebpf::build(&ebpf::Options::default())?;
    }
    let folder = match profile {
        Profile::Dev => {
            build_all()?;
            root::target().join(triple()).join("debug")
        }
        Profile::Dist => {
            let flags = format!(
                "-Ctarget-feature=+crt-static --remap-path-prefix={}=/podtrail --remap-path-prefix={}=/cargo",
                root::workspace().display(),
                cargo_home().display()
            );
            // Beside the tests' builds: other flags would have those begin anew.
            let target = root::target().join("dist");
            cargo()
                .args([
                    "build",
                    "--package",
                    "podtrail",
                    "--bins",
                    "--profile",
                    "dist",
                    "--target",
                    &triple(),
                ])
                .env("CARGO_TARGET_DIR", &target)
                .env("RUSTFLAGS", flags)
                .run()?;
            target.join(triple()).join("dist")
        }
    };
    stripped(&folder, &root::target().join("image").join("programs"))
}

/// Copies of the programs without what only debuggers read; the folder of the copies.
fn stripped(from: &Path, to: &Path) -> Result<PathBuf> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for program in PROGRAMS {
        let strip = PathBuf::from(format!("/usr/lib/llvm-{LLVM_MAJOR}/bin/llvm-strip"));
        let strip = if strip.exists() { strip } else { PathBuf::from("strip") };
        cmd(strip).arg("--strip-all").arg(from.join(program)).arg("-o").arg(to.join(program)).run()?;
    }
    Ok(to.to_owned())
}

fn cargo_home() -> PathBuf {
    env::var_os("CARGO_HOME").map_or_else(
        || env::var_os("HOME").map_or_else(PathBuf::new, PathBuf::from).join(".cargo"),
        PathBuf::from,
    )
}

//! `cargo xtask vm`: the integration tests on the kernels that nodes run, in virtual machines that need no hardware.
//!
//! Kernel, runtimes and libraries are Debian's, one release for each line of kernels, so that old runtimes are met too.
//! Everything is kept in `target/vm`; a second run needs no network.

mod archive;
mod image;
mod machine;
mod results;

use std::{fs, time::Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use self::{archive::Release, machine::Boot, results::Row};
use crate::{
    ebpf, root, setup,
    sh::{cargo, step},
};

/// Options of `vm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Which line of kernels; may be given again
    #[arg(long, value_enum, value_name = "LINE", default_value = "all")]
    kernel: Vec<Line>,
    /// How cgroups are mounted; may be given again
    #[arg(long, value_enum, value_name = "MODE")]
    cgroup: Vec<Cgroups>,
    /// Which way to see setns; may be given again
    #[arg(long, value_enum, value_name = "HOOK")]
    hook: Vec<Hook>,
    /// Write the table to docs/kernels.md
    #[arg(long)]
    write: bool,
    /// Only tests with this in their name
    #[arg(last = true)]
    tests: Option<String>,
}

/// A line of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Line {
    #[value(name = "5.10")]
    V5_10,
    #[value(name = "6.1")]
    V6_1,
    #[value(name = "6.12")]
    V6_12,
    #[value(name = "7")]
    V7,
    All,
}

/// How cgroups are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Cgroups {
    V2,
    Hybrid,
}

/// How setns is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Hook {
    Auto,
    Fexit,
    Kprobe,
    Tracepoint,
}

impl Cgroups {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
        }
    }
}

impl Hook {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fexit => "fexit",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        }
    }
}

impl Line {
    fn release(self) -> Option<&'static Release> {
        match self {
            Self::V5_10 => Some(&archive::BULLSEYE),
            Self::V6_1 => Some(&archive::BOOKWORM),
            Self::V6_12 => Some(&archive::TRIXIE),
            Self::V7 => Some(&archive::SID),
            Self::All => None,
        }
    }
}

/// Runs the tests in each, and prints one table.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(
        std::env::consts::ARCH == "x86_64",
        "virtual machines are made for x86-64 so far, and this is {}",
        std::env::consts::ARCH
    );
    setup::run(setup::For::Vm)?;
    ebpf::build(&ebpf::Options::default())?;
    step("integration tests: building");
    crate::test::static_build(cargo().args(["build", "--package", "podtrail-tests"])).run()?;
    let program = image::stripped(&root::target().join(crate::test::triple()).join("debug/podtrail-itest"))?;

    let mut lines: Vec<Line> = options.kernel.clone();
    if lines.contains(&Line::All) {
        lines = vec![Line::V5_10, Line::V6_1, Line::V6_12, Line::V7];
    }
    let modes = if options.cgroup.is_empty() { vec![Cgroups::V2] } else { options.cgroup.clone() };
    let hooks = if options.hook.is_empty() { vec![Hook::Auto] } else { options.hook.clone() };
    let mut rows = Vec::new();
    for line in lines {
        let Some(release) = line.release() else { continue };
        let userland = archive::fetch(release)?;
        let image = image::build(&userland, &program)?;
        for mode in &modes {
            for hook in &hooks {
                step(&format!(
                    "Linux {}, cgroups {}, setns by {}",
                    userland.kernel_version,
                    mode.as_str(),
                    hook.as_str()
                ));
                let began = Instant::now();
                let boot = Boot {
                    userland: &userland,
                    image: &image,
                    mode: *mode,
                    hook: *hook,
                    tests: options.tests.as_deref(),
                };
                let outcome = boot.run()?;
                rows.push(Row {
                    release: userland.name,
                    kernel: userland.kernel_version.clone(),
                    runtimes: userland.runtimes.clone(),
                    mode: *mode,
                    hook: *hook,
                    outcome,
                    took: began.elapsed(),
                });
            }
        }
    }
    let table = results::table(&rows);
    println!("\n{table}");
    if options.write {
        ensure!(options.tests.is_none(), "only whole runs are written: leave out the name of tests");
        results::write(&table)?;
    }
    let failed = rows.iter().filter(|row| !row.outcome.is_good()).count();
    if failed > 0 {
        bail!("{failed} of {} machines failed", rows.len());
    }
    Ok(())
}

/// Where all of it is kept.
fn folder() -> Result<std::path::PathBuf> {
    let dir = root::target().join("vm");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

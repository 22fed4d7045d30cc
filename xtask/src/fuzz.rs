//! `cargo xtask fuzz`: the targets of `tests/fuzz`, with libFuzzer and the stable compiler.
//!
//! libFuzzer finds its way by counters that LLVM's SanitizerCoverage puts into the code. cargo-fuzz asks for them with
//! a flag of the nightly compiler; LLVM's own options ask for the same thing, and are stable.

use std::{env, fs, path::PathBuf};

use anyhow::{Context, Result, bail};

use crate::{
    root, setup,
    sh::{cargo, cmd, step},
};

/// Targets, and the length of their inputs at most.
const TARGETS: &[(&str, u32)] = &[
    ("records", 20_000),
    ("btf", 4096),
    ("wire", 4096),
    ("report", 4096),
    ("filter", 600),
    ("names", 512),
    ("settings", 512),
    ("audit", 4096),
    ("kubelet", 16_384),
    ("nodes", 8192),
    ("log_files", 60),
    ("spool_files", 60),
];

/// What LLVM must put in: what libFuzzer counts, and what it compares with.
const FLAGS: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// Options of `fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only this one: records, btf, wire, report, filter, names, settings, audit, kubelet, nodes, log_files, spool_files
    target: Option<String>,
    /// How long each runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Only this input: a file that a run has stored
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<PathBuf>,
}

impl Options {
    /// As a part of the tests: every input that is kept, and a few seconds of new ones.
    pub(crate) fn short() -> Self {
        Self { target: None, seconds: 5, input: None }
    }
}

/// Builds the targets and runs them; fails with the first input that one of them cannot take.
pub(crate) fn run(options: &Options) -> Result<()> {
    let wanted: Vec<_> =
        TARGETS.iter().filter(|(name, _)| options.target.as_deref().is_none_or(|t| t == *name)).collect();
    if wanted.is_empty() {
        let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        bail!("there is no such target; there is {}", names.join(", "));
    }
    setup::run(setup::For::Build)?;
    step("fuzz targets: building");
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let mut build = cargo()
        .args([
            "build",
            "--release",
            "--locked",
            "--target",
            &triple,
            "--manifest-path",
            "tests/fuzz/Cargo.toml",
        ])
        .env("CARGO_TARGET_DIR", root::target().join("fuzz"))
        .env("RUSTFLAGS", FLAGS.join(" "));
    if let Some(target) = &options.target {
        build = build.args(["--bin", target]);
    }
    build.run()?;

    for (name, length) in wanted {
        let folder = root::target().join("fuzz").join(&triple).join("release");
        let fuzz = cmd(folder.join(name));
        if let Some(input) = &options.input {
            fuzz.arg(env::current_dir()?.join(input)).run()?;
            continue;
        }
        // What is found is kept between runs; what is committed is where each begins.
        let found = root::target().join("fuzz/corpus").join(name);
        let crashes = root::target().join("fuzz/crashes").join(name);
        for dir in [&found, &crashes] {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let committed =
            ["corpus", "regressions"].map(|kind| root::workspace().join("tests/fuzz").join(kind).join(name));
        step(&format!("fuzz {name}: {} s", options.seconds));
        let passed = fuzz
            .arg(&found)
            .args(committed.iter().filter(|dir| dir.is_dir()))
            .arg(format!("-max_total_time={}", options.seconds))
            .arg(format!("-max_len={length}"))
            .arg(format!("-artifact_prefix={}/", crashes.display()))
            .args([
                "-timeout=10",
                "-rss_limit_mb=2048",
                "-len_control=0",
                "-print_final_stats=1",
                "-verbosity=0",
            ])
            .status()?;
        if !passed {
            bail!(
                "the fuzz target {name} failed; its input is the newest file in {}: \
                 `cargo xtask fuzz {name} --input FILE` runs it again; once it is fixed, it belongs to \
                 tests/fuzz/regressions/{name}/",
                crashes.display()
            );
        }
    }
    Ok(())
}

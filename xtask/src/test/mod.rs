//! `cargo xtask test`: the tests, and one line at the end that counts them. The storms in which everything is broken come
//! later, alone they are `cargo xtask test faults`; then a part of the tests on older kernels, in virtual machines
//! (`cargo xtask vm --ci`), and the fuzz targets for a moment.

mod faults;

use std::{
    env,
    io::{BufRead, BufReader, Write},
    process::Stdio,
};

use anyhow::{Context, Result, bail};

use crate::{
    ebpf, fuzz, image, package, root, setup,
    sh::{Cmd, cargo, cmd, step},
    vm,
};

/// Options of `test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only tests with this in their name; "faults": only the storms in which everything is broken
    filter: Option<String>,
    /// Only the tests in one process, without kernel and containers
    #[arg(long)]
    unit: bool,
    #[command(flatten)]
    faults: faults::Faults,
    /// Handed to the test programs as they are
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// What test programs said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

/// Runs the tests.
pub(crate) fn run(options: &Options) -> Result<()> {
    // Without root nothing that needs a container can run, so nothing of that is asked for.
    setup::run(if root::is_root() && !options.unit { setup::For::Tests } else { setup::For::Build })?;
    ebpf::build(&ebpf::Options::default())?;

    let only_faults = options.filter.as_deref() == Some("faults");
    // Whoever wants tests of some name wants no storms; nor does whoever tells the test programs something.
    let all = options.filter.is_none() && options.arguments.is_empty();
    if !only_faults && options.faults.are_given() {
        bail!("--scenario, --seed, --soak and --write are for `cargo xtask test faults`");
    }
    let names: Vec<&str> = options.filter.iter().chain(&options.arguments).map(String::as_str).collect();
    let mut counts = Counts::default();
    let mut broken = Vec::new();

    if !only_faults {
        step("unit tests");
        let units = static_build(cargo().args(["test", "--workspace", "--no-fail-fast"]));
        if !count(units.arg("--").args(&names), &mut counts)? {
            broken.push("unit tests");
        }
    }

    if !options.unit {
        step("integration tests: building");
        build_all()?;
        image::for_tests()?;
        package::for_tests()?;
    }
    let program = root::target().join(triple()).join("debug/podtrail-itest");
    if !options.unit && !only_faults {
        step(if root::is_root() {
            "integration tests, as root"
        } else {
            "integration tests, without root: what needs the kernel or containers is skipped"
        });
        if !count(cmd(&program).args(&names), &mut counts)? {
            broken.push("integration tests");
        }
    }
    if !options.unit && (only_faults || all) {
        step("faults: storms in which everything is broken");
        if !faults::run(&options.faults, &program, &mut counts)? {
            broken.push("faults");
        }
    }
    if !options.unit && all && root::is_root() {
        step("virtual machines: the integration tests on older kernels");
        if let Err(error) = vm::before_every_change(&mut counts) {
            eprintln!("error: {error:#}");
            broken.push("virtual machines");
        }
    }
    if !options.unit && all {
        // It says itself which input it was.
        match fuzz::run(&fuzz::Options::short()) {
            Ok(()) => counts.passed += 1,
            Err(error) => {
                eprintln!("error: {error:#}");
                counts.failed += 1;
                broken.push("fuzz targets");
            }
        }
    }

    let Counts { passed, failed, skipped } = counts;
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed > 0 || !broken.is_empty() {
        bail!("failed: {}", broken.join(", "));
    }
    if skipped > 0 && env::var("CI").is_ok_and(|ci| ci == "true") {
        bail!(
            "{skipped} tests were skipped, and under CI=true all must run: run it as root, with everything installed"
        );
    }
    if passed == 0 {
        bail!("no test has that in its name");
    }
    Ok(())
}

/// The target that test programs are built for: named, so that flags for it do not reach build scripts.
pub(crate) fn triple() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

/// Without shared libraries, so that the integration tests run in a container or an initramfs that holds nothing; the
/// unit tests too, so that dependencies are built once.
pub(crate) fn static_build(build: Cmd) -> Cmd {
    build.args(["--target", &triple()]).env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
}

/// The integration tests, and the programs that go into images: in one build, so that dependencies are built once.
pub(crate) fn build_all() -> Result<()> {
    static_build(cargo().args(["build", "--package", "podtrail-tests", "--package", "podtrail"])).run()
}

/// Runs a test program, shows what it says, and adds up its counts; returns whether it succeeded.
fn count(tests: Cmd, counts: &mut Counts) -> Result<bool> {
    let (shown, mut tests) = tests.announced();
    let mut child =
        tests.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start `{shown}`"))?;
    let output = child.stdout.take().context("no output to read")?;
    for line in BufReader::new(output).split(b'\n') {
        let mut line = line.with_context(|| format!("cannot read the output of `{shown}`"))?;
        if let Some(more) = summary(&String::from_utf8_lossy(&line)) {
            counts.passed += more.passed;
            counts.failed += more.failed;
            counts.skipped += more.skipped;
        }
        line.push(b'\n');
        std::io::stdout().write_all(&line).context("cannot write")?;
    }
    Ok(child.wait().with_context(|| format!("cannot wait for `{shown}`"))?.success())
}

/// Reads `test result: ok. 5 passed; 0 failed; 1 ignored; …`.
pub(crate) fn summary(line: &str) -> Option<Counts> {
    let rest = line.trim_start().strip_prefix("test result: ")?;
    let number = |word: &str| -> Option<u64> {
        rest.split(['.', ';']).find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
    };
    Some(Counts { passed: number("passed")?, failed: number("failed")?, skipped: number("ignored")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_summary_of_a_test_program() {
        let line = "test result: FAILED. 5 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(summary(line), Some(Counts { passed: 5, failed: 2, skipped: 1 }));
    }

    #[test]
    fn takes_nothing_else_for_a_summary() {
        assert_eq!(summary("test session::tests::ends ... ok"), None);
        assert_eq!(summary("test result: unclear"), None);
    }
}

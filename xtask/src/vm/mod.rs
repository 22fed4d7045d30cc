//! `cargo xtask vm`: the integration tests on the kernels that nodes run, in virtual machines that need no hardware.
//!
//! Kernel, runtimes and libraries are Debian's, one release for each line of kernels, so that old runtimes are met too.
//! Everything is kept in `target/vm`; a second run needs no network.

mod archive;
mod build;
mod image;
mod machine;
mod plan;
mod report;
mod results;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};

pub(crate) use self::plan::Line;
use self::{
    archive::Userland,
    machine::Boot,
    plan::{Arch, Cgroups, Hook, Part, Run},
    report::Report,
    results::Row,
};
use crate::{machine as host, root, setup, sh::step, test::Counts};

/// Options of `vm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Which line of kernels; may be given again
    #[arg(long, value_enum, value_name = "LINE", default_value = "all")]
    kernel: Vec<Line>,
    /// Which processor; may be given again
    #[arg(long, value_enum, value_name = "ARCH", default_value = "x86_64")]
    arch: Vec<Arch>,
    /// How cgroups are mounted; may be given again. By default every way, with a hook that is forced v2 alone
    #[arg(long, value_enum, value_name = "MODE")]
    cgroup: Vec<Cgroups>,
    /// Which way to see system calls; may be given again. By default what the agent chooses with every mode, and each
    /// other one with v2; one that is given without a mode likewise
    #[arg(long, value_enum, value_name = "HOOK")]
    hook: Vec<Hook>,
    /// Which of the tests; by default those that the machine makes a difference to
    #[arg(long, value_enum, value_name = "PART")]
    part: Option<Part>,
    /// Only two machines, and in them the tests that must pass before every change
    #[arg(long, conflicts_with_all = ["kernel", "arch", "cgroup", "hook", "part", "jobs", "write", "tables", "tests"])]
    ci: bool,
    /// Machines at the same time; each takes a processor and 3 GiB
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
    /// Write the results to docs/kernels.json, and the tables of docs/kernels.md; of other machines the last ones are kept
    #[arg(long)]
    write: bool,
    /// Run nothing: write the tables of docs/kernels.md again, of docs/kernels.json
    #[arg(long, conflicts_with_all = ["kernel", "arch", "cgroup", "hook", "part", "jobs", "write", "tests"])]
    tables: bool,
    /// Only tests with this in their name
    #[arg(last = true)]
    tests: Option<String>,
}

/// Runs the tests in each, and prints one table.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { kernel, arch, cgroup, hook, part, ci, jobs, write, tables, tests } = options;
    ensure!(!write || tests.is_none(), "only whole runs are written: leave out the name of tests");
    if *tables {
        return Report::read()?.write_page();
    }
    if *ci {
        return before_every_change(&mut Counts::default());
    }
    if *write {
        // Better now than after an hour.
        Report::read()?.page()?;
    }
    let runs = plan::runs(kernel, arch, cgroup, hook, *part);
    // One by one: who interrupts a run of an hour has what there was.
    let keep = |rows: &[Row]| if *write { Report::read()?.write_with(rows) } else { Ok(()) };
    let rows = machines(&runs, tests.as_deref(), *jobs, keep)?;
    println!("\n{}", Report::of(&rows).text());
    bad(&rows)
}

/// `--ci`, both machines at once; adds up what was counted. What a machine leaves out is another choice of tests, and none
/// that was skipped.
pub(crate) fn before_every_change(counts: &mut Counts) -> Result<()> {
    let rows = machines(&plan::ci(own()?), None, 2, |_rows| Ok(()))?;
    println!("\n{}", Report::of(&rows).text());
    for row in &rows {
        counts.passed += row.outcome.counts.passed;
        counts.failed += row.outcome.counts.failed;
    }
    bad(&rows)
}

/// A way to see system calls, and with it microseconds of a `getpid` and of an exec.
pub(crate) type Cost = (String, f64, f64);

/// What the hooks cost, for each kernel.
pub(crate) fn hook_costs(lines: &[Line]) -> Result<Vec<(String, Vec<Cost>)>> {
    setup::run(setup::For::Tests)?;
    let arch = own()?;
    let program = build::program(arch)?;
    let runs = plan::runs(lines, &[arch], &[Cgroups::V2], &[Hook::Auto], None);
    runs.into_iter()
        .map(|run| {
            let userland = archive::fetch(run.line.release().context("a line of kernels")?, arch)?;
            let image = image::build(&userland, &program)?;
            step(&format!("Linux {}: what the hooks cost", userland.kernel_version));
            let boot =
                Boot { userland: &userland, image: &image, run, tests: None, costs: true, prefix: "    " };
            let outcome = boot.run()?;
            ensure!(outcome.ended_well(), "it failed: {}", outcome.trouble);
            Ok((userland.kernel_version, outcome.costs))
        })
        .collect()
}

fn own() -> Result<Arch> {
    Arch::own().context("there are no machines of this kind of processor")
}

fn bad(rows: &[Row]) -> Result<()> {
    let failed: Vec<String> = rows.iter().filter(|row| !row.is_good()).map(Row::name).collect();
    if !failed.is_empty() {
        bail!("{} of {} machines failed: {}", failed.len(), rows.len(), failed.join("; "));
    }
    Ok(())
}

/// Runs each, some at the same time. `keep` is given all that have ended, whenever one has.
fn machines(
    runs: &[Run],
    tests: Option<&str>,
    jobs: usize,
    keep: impl Fn(&[Row]) -> Result<()> + Sync,
) -> Result<Vec<Row>> {
    ensure!(!runs.is_empty(), "there is no such machine");
    // Now, since somebody may go on working here while it runs.
    let commit = host::commit()?;
    let arm = runs.iter().any(|run| run.arch == Arch::Aarch64);
    setup::run(if arm { setup::For::Arm } else { setup::For::Tests })?;
    let mut images: Vec<(Line, Arch, Userland, PathBuf)> = Vec::new();
    for arch in [Arch::X86_64, Arch::Aarch64] {
        if !runs.iter().any(|run| run.arch == arch) {
            continue;
        }
        let program = build::program(arch)?;
        for run in runs.iter().filter(|run| run.arch == arch) {
            if images.iter().any(|(line, of, ..)| (*line, *of) == (run.line, arch)) {
                continue;
            }
            let release = run.line.release().context("a line of kernels")?;
            let userland = archive::fetch(release, arch)?;
            let image = image::build(&userland, &program)?;
            images.push((run.line, arch, userland, image));
        }
    }
    // The longest first, so that none is left alone at the end.
    let mut order = runs.to_vec();
    order.sort_by_key(|run| run.part);
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let worker = || -> Result<()> {
            loop {
                let turn = next.fetch_add(1, Ordering::Relaxed);
                let Some(run) = order.get(turn) else { return Ok(()) };
                let found = images.iter().find(|(line, arch, ..)| (*line, *arch) == (run.line, run.arch));
                let (_, _, userland, image) = found.context("no image was made")?;
                let row = one(*run, &commit, userland, image, tests, jobs > 1)?;
                let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
                rows.push(row);
                keep(&rows)?;
            }
        };
        let workers: Vec<_> = (0..jobs.clamp(1, runs.len())).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().map_err(|_| anyhow::anyhow!("a thread of this program failed"))?
        })
    })?;
    let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    rows.sort_by_key(|row| runs.iter().position(|run| *run == row.run));
    Ok(rows)
}

fn one(
    run: Run,
    commit: &str,
    userland: &Userland,
    image: &Path,
    tests: Option<&str>,
    several: bool,
) -> Result<Row> {
    let began = Instant::now();
    let name = results::name(run, &userland.kernel_version);
    step(&name);
    let prefix = if several { format!("[{}] ", results::short(run)) } else { "    ".to_owned() };
    let boot = Boot { userland, image, run, tests, costs: false, prefix: &prefix };
    let outcome = boot.run()?;
    let took = began.elapsed();
    Ok(Row {
        run,
        commit: commit.to_owned(),
        release: userland.name,
        kernel: userland.kernel_version.clone(),
        runtimes: userland.runtimes.clone(),
        named: tests.is_some(),
        outcome,
        took,
    })
}

/// Where all of it is kept.
fn folder() -> Result<PathBuf> {
    let dir = root::target().join("vm");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

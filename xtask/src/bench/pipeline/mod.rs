//! `cargo xtask bench pipeline`: how fast, how late and how large events are on their way.
//!
//! | module | what it measures |
//! |---|---|
//! | `path` | the real way: exec in a container, agent, collector, subscriber |
//! | `collector` | the collector alone, with simulated agents and subscribers |
//! | `compress` | what compressing costs and saves |
//! | `load` | runs `agent/examples/pipeline`, which speaks gRPC |

mod collector;
mod compress;
mod load;
mod path;
mod report;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nix::sys::statvfs::statvfs;

use super::{
    exec::{Bench, STAGE, helpers},
    report::write,
};
use crate::{
    ebpf, root, setup,
    sh::{cargo, step},
    stage::Stage,
};

/// Options of `bench pipeline`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// A short form, to see that all of it works: its numbers are only printed
    #[arg(long)]
    quick: bool,
    /// How often everything is measured, but for the catching up [default: 3; quick: 1]
    #[arg(long)]
    rounds: Option<u32>,
    /// Events that the subscriber that catches up was away for [default: 10 million; quick: 300,000]
    #[arg(long)]
    events: Option<u64>,
    /// Seconds of each storm [default: 8; quick: 2]
    #[arg(long)]
    seconds: Option<u64>,
    /// A folder on the disk that the daemons are to keep their data on [default: target/bench]
    #[arg(long)]
    data: Option<PathBuf>,
    /// Only print, leave docs/benchmarks.md
    #[arg(long)]
    dry_run: bool,
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
struct Plan {
    quick: bool,
    rounds: u32,
    /// to catch up with
    events: u64,
    seconds: u64,
}

/// All that is measured.
#[derive(Debug)]
struct Results {
    path: Vec<path::Measured>,
    collector: Vec<collector::Measured>,
    catch_up: collector::CatchUp,
    codecs: Vec<compress::Codec>,
    tables: Vec<compress::Table>,
}

/// What the log takes on the disk for an event, generously, while it is being filled; and what else is needed.
const BYTES_AN_EVENT: u64 = 600;
const BYTES_ELSE: u64 = 2 << 30;

/// Measures and writes.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { quick, rounds, events, seconds, data, dry_run } = options;
    let plan = Plan {
        quick: *quick,
        rounds: rounds.unwrap_or(if *quick { 1 } else { 3 }),
        events: events.unwrap_or(if *quick { 300_000 } else { 10_000_000 }),
        seconds: seconds.unwrap_or(if *quick { 2 } else { 8 }),
    };
    ensure!(plan.rounds > 0 && plan.events > 0 && plan.seconds > 0, "nothing to measure");
    let data = data.clone().unwrap_or_else(|| root::target().join("bench"));
    check_room(&data, plan.events)?;
    setup::run(setup::For::Bench)?;
    let programs = ebpf::build_all(true)?;
    cargo().args(["build", "--release", "--package", "podtrail", "--example", "pipeline"]).run()?;
    let stage = Stage::open(STAGE)?.with_data(&data)?;
    let bench = Bench::open(stage, programs, &helpers()?)?;
    let path = path::measure(&bench, plan)?;
    let collector = collector::measure(&bench, plan)?;
    let catch_up = collector::catch_up(&bench, plan)?;
    let codecs = compress::codecs(&bench, plan)?;
    let tables = compress::tables(&bench, plan)?;
    drop(bench);
    let results = Results { path, collector, catch_up, codecs, tables };
    let text = report::section(plan, &results)?;
    println!("{text}");
    if *dry_run || *quick { Ok(()) } else { write("pipeline", &text) }
}

/// Fails where the disk has no room for what is about to be written.
fn check_room(data: &PathBuf, events: u64) -> Result<()> {
    std::fs::create_dir_all(data).with_context(|| format!("cannot make {}", data.display()))?;
    let disk = statvfs(data).with_context(|| format!("cannot look at the disk of {}", data.display()))?;
    let free = disk.blocks_available().saturating_mul(disk.fragment_size());
    let needed = events.saturating_mul(BYTES_AN_EVENT).saturating_add(BYTES_ELSE);
    step(&format!(
        "{} MiB are free for data in {}, at most {} are needed",
        free >> 20,
        data.display(),
        needed >> 20
    ));
    ensure!(free >= needed, "there is not enough room: use --events with fewer, or --data on another disk");
    Ok(())
}

//! Disks that are full for a while.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{
    Outcome, Run,
    engine::{Expect, Plan, World},
};

/// Enough for what the stores allocate in advance.
const DISK: u64 = 256 << 20;
const ROUNDS: u32 = 6;

pub(super) fn spool(run: &Run) -> Result<Outcome> {
    let plan = Plan { spool_disk: Some(DISK), restarted: true, ..Plan::default() };
    // With the collector at hand what cannot be kept on disk is on its way all the same; what had to be dropped is
    // counted. What an agent that is killed then had sent and not had acknowledged may be missing, or not: the numbers
    // say so.
    full(run, &plan, "spool", 5000, |world| world.agent.kill(), Expect::Numbered)
}

pub(super) fn log(run: &Run) -> Result<Outcome> {
    let plan = Plan { log_disk: Some(DISK), restarted: true, ..Plan::default() };
    full(run, &plan, "data", 2000, |world| world.collector.kill(), Expect::Whole)
}

/// Fills the disk of `dir` again and again, each time for `most` milliseconds at most; in every second round whoever uses it is killed while there is no room.
fn full(
    run: &Run,
    plan: &Plan,
    dir: &str,
    most: u64,
    kill: fn(&mut World) -> Result<()>,
    expect: Expect,
) -> Result<Outcome> {
    let mut world = World::begin(run, plan)?;
    for round in 0..ROUNDS {
        let filler = Filler::fill(&world.dir.join(dir))?;
        world.faults += 1;
        world.pass(200, most)?;
        if round % 2 == 1 {
            kill(&mut world)?;
            world.faults += 1;
            world.start_missing()?;
            world.pass(200, 1000)?;
        }
        drop(filler);
        world.check()?;
        world.progress(200)?;
    }
    // All that is said must hold for who comes later too.
    kill(&mut world)?;
    world.start_missing()?;
    world.finish(expect)
}

/// A file that takes up all the room there is, until dropped.
struct Filler(PathBuf);

impl Filler {
    fn fill(dir: &Path) -> Result<Self> {
        let filler = Self(dir.join("filler"));
        let mut file = File::create(&filler.0)?;
        let zeroes = vec![0; 1 << 20];
        let mut size = zeroes.len();
        while size > 0 {
            match file.write(zeroes.get(..size).unwrap_or_default()) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::StorageFull => size /= 2,
                Err(e) => return Err(e).context("cannot fill the disk"),
            }
        }
        Ok(filler)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.0) {
            eprintln!("cannot remove {}: {e}", self.0.display());
        }
    }
}

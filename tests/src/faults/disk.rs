//! Disks that are full for a while.

use anyhow::Result;

use super::{
    Outcome, Run,
    engine::{Expect, Plan, World},
};
use crate::harness::filler::Filler;

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

//! A wall clock that somebody sets: back an hour, and forth.

use std::{fs, time::Duration};

use anyhow::Result;

use super::{
    Outcome, Run,
    engine::{Expect, Plan, World},
};

const HOUR: Duration = Duration::from_secs(60 * 60);

pub(super) fn stepped(run: &Run) -> Result<Outcome> {
    let mut world = World::begin(run, &Plan { clock: true, ..Plan::default() })?;
    // Off by so many hours; what ends with another hour than it began is killed in between.
    for (hours, kill) in [(-1, false), (0, false), (-1, true), (-2, true), (1, false), (0, true), (-1, true)]
    {
        step(&world, hours)?;
        world.faults += 1;
        world.progress(100)?;
        world.pass(100, 1000)?;
        if kill {
            world.agent.kill()?;
            world.collector.kill()?;
            world.start_missing()?;
            world.faults += 2;
        }
        world.progress(100)?;
        world.check()?;
    }
    world.finish(Expect::Whole)
}

fn step(world: &World, hours: i64) -> Result<()> {
    let off = hours * i64::try_from(HOUR.as_nanos())?;
    // In one piece: whoever looks meanwhile sees the one or the other.
    let new = world.clock.with_extension("new");
    fs::write(&new, off.to_string())?;
    Ok(fs::rename(new, &world.clock)?)
}

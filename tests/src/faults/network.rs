//! A network between the collector and everybody else that is cut, slow, and delivers out of order, twice, or not.

use anyhow::{Context, Result};

use super::{
    Outcome, Run,
    engine::{Expect, Plan, World},
};

pub(super) fn network(run: &Run) -> Result<Outcome> {
    let mut world = World::begin(run, &Plan { network: true, ..Plan::default() })?;
    for _ in 0..world.kills() {
        let kind = world.random().u32(0..4);
        let (slow, more) = (world.random().u64(5..60), world.random().u64(0..60));
        let link = world.link.as_mut().context("no link")?;
        match kind {
            0 => link.cut()?,
            // Each packet takes another time, so that they overtake one another.
            1 => link.pass(1, 1 + more, 0, 0)?,
            2 => link.pass(slow, slow, 10, 0)?,
            _ => link.pass(0, slow, 5, 20)?,
        }
        world.faults += 1;
        world.pass(50, 800)?;
        if kind == 0 || world.random().bool() {
            world.link.as_mut().context("no link")?.pass(0, 0, 0, 0)?;
            world.pass(0, 300)?;
        }
        world.check()?;
    }
    world.link.as_mut().context("no link")?.pass(0, 0, 0, 0)?;
    Ok(world.finish(Expect::Whole)?.must("the network was bad", |outcome| {
        outcome.traffic.is_some_and(|link| link.dropped > 0 && link.doubled > 0 && link.overtaken > 0)
    }))
}

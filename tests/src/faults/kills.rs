//! Programs that are killed, with SIGKILL, at random moments, and started again.

use anyhow::Result;

use super::{
    Outcome, Run,
    engine::{Expect, Plan, World, daemon::Daemon},
};

/// One of the programs.
type Which = fn(&mut World) -> &mut Daemon;

const AGENT: Which = |world| &mut world.agent;
const COLLECTOR: Which = |world| &mut world.collector;
const SUBSCRIBER: Which = |world| &mut world.subscriber;

pub(super) fn agent(run: &Run) -> Result<Outcome> {
    kills(run, &[AGENT])
}

pub(super) fn collector(run: &Run) -> Result<Outcome> {
    kills(run, &[COLLECTOR])
}

pub(super) fn subscriber(run: &Run) -> Result<Outcome> {
    kills(run, &[SUBSCRIBER])
}

pub(super) fn agent_and_collector(run: &Run) -> Result<Outcome> {
    kills(run, &[AGENT, COLLECTOR])
}

/// As often as the run wants it, each in turn. Some die as they start, some in the middle of their work.
fn kills(run: &Run, victims: &[Which]) -> Result<Outcome> {
    let mut world = World::begin(run, &Plan::default())?;
    for number in 0..world.kills() {
        let together = victims.len() > 1 && world.random().bool();
        for (turn, victim) in (0..).zip(victims) {
            if together || number % u32::try_from(victims.len())? == turn {
                victim(&mut world).kill()?;
                world.faults += 1;
            }
        }
        // Dead for a while, or not at all.
        if world.random().bool() {
            world.pass(0, 400)?;
        }
        world.start_missing()?;
        if world.random().u32(0..3) == 0 {
            world.progress(50)?;
        }
        world.pass(0, 600)?;
        world.check()?;
    }
    world.finish(Expect::Whole)
}

//! A ring so small, and an agent that so often does not get to read it, that records are lost for certain.

use anyhow::Result;
use nix::sys::signal::Signal;

use super::{
    Outcome, Run,
    engine::{Expect, Pace, Plan, World},
};

const ROUNDS: u32 = 12;

pub(super) fn tiny(run: &Run) -> Result<Outcome> {
    let agent = ["--ring-size", "64KiB"].map(str::to_owned).to_vec();
    let mut world = World::begin(run, &Plan { agent, pace: Pace(0), large: false, ..Plan::default() })?;
    for _ in 0..ROUNDS {
        world.agent.signal(Signal::SIGSTOP)?;
        let stopped = world.pass(100, 1000);
        world.agent.signal(Signal::SIGCONT)?;
        stopped?;
        world.faults += 1;
        world.progress(100)?;
        world.pass(0, 1000)?;
    }
    let outcome = world.finish(Expect::Counted)?;
    Ok(outcome.must("the ring was too small", |outcome| outcome.verdict.lost > 0))
}

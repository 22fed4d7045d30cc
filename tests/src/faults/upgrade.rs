//! Other BPF programs in place of those that record, while the storm goes on.

use anyhow::Result;
use podtrail_proto::v1::agent_state::Phase;

use super::{
    Outcome, Run,
    engine::{Expect, Plan, World},
};

const ROUNDS: usize = 10;

/// Each agent is told otherwise than the one before, which makes other programs of the object, and in every second round
/// another ring; some are stopped, some killed.
pub(super) fn programs(run: &Run) -> Result<Outcome> {
    let mut world = World::begin(run, &Plan::default())?;
    for round in 0..ROUNDS {
        // Both are more than any command of the storm has.
        let limit = ["16KiB", "32KiB"][round % 2];
        let ring = ["4MiB", "2MiB"][round / 2 % 2];
        *world.agent_options.borrow_mut() =
            ["--argv-limit", limit, "--ring-size", ring].map(str::to_owned).to_vec();
        if world.random().bool() {
            world.agent.stop()?;
        } else {
            world.agent.kill()?;
        }
        world.pass(0, 300)?;
        world.agent.start()?;
        world.faults += 1;
        world.until("the agent says that it replaced the programs", |world| {
            Ok(world.account.said(Phase::Upgraded) > round)
        })?;
        world.progress(100)?;
        world.pass(0, 1000)?;
    }
    world.finish(Expect::Whole)
}

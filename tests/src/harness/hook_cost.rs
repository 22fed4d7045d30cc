//! What each way to see system calls costs those who make other ones: a process that only calls `getpid`, and one that
//! executes a little program, both in no session.

use std::{
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use nix::unistd::getpid;

use super::{Agent, host, verifier::WAYS};

const ROUNDS: usize = 5;
const BATCHES: usize = 5;
const CALLS: u32 = 20_000;
const EXECS: u32 = 30;

/// `helper hook-cost`: prints for each round and way the nanoseconds of a `getpid` and of an exec, of the best batch; `none`:
/// without an agent.
pub(crate) fn print() -> Result<()> {
    super::alone(|| {
        // Without any agent before it, the first is dearer than all that come later: that round is not told.
        for round in 0..=ROUNDS {
            for way in std::iter::once("none").chain(WAYS) {
                let agent = match way {
                    "none" => None,
                    way => Some(Agent::start(&format!("cost-{round}-{way}"), &["--setns", way])?),
                };
                let (call, exec) = (best(CALLS, calls)?, best(EXECS, execs)?);
                if round > 0 {
                    println!("cost: {way} {call} {exec}");
                }
                if let Some(agent) = agent {
                    agent.stop()?;
                }
            }
        }
        Ok(())
    })
}

/// Nanoseconds of one, in the batch that was held up least.
fn best(count: u32, batch: fn(u32) -> Result<()>) -> Result<u128> {
    let times = (0..BATCHES).map(|_| {
        let began = Instant::now();
        batch(count)?;
        Ok(began.elapsed().as_nanos() / u128::from(count))
    });
    times.collect::<Result<Vec<_>>>()?.into_iter().min().context("no batch")
}

fn calls(count: u32) -> Result<()> {
    for _ in 0..count {
        std::hint::black_box(getpid());
    }
    Ok(())
}

fn execs(count: u32) -> Result<()> {
    let busybox = host().busybox.as_ref().context("no busybox")?;
    for _ in 0..count {
        let status = Command::new(busybox).arg("true").stdin(Stdio::null()).status()?;
        ensure!(status.success(), "{status}");
    }
    Ok(())
}

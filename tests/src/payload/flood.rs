//! As much as a session can do.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::Path,
    process::{Command, ExitCode},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use anyhow::{Result, bail, ensure};

use super::sized_argv;
use crate::text;

/// `flood WORKERS DIR PROGRAM BYTES`: each worker runs the program as fast as it can, with about so many bytes of
/// arguments, until there is a `DIR/stop`. Makes `DIR/flooding` when they are at it, and prints how often it was run.
pub(super) fn run(args: &[OsString]) -> Result<ExitCode> {
    let [workers, dir, program, bytes] = args else { bail!("flood WORKERS DIR PROGRAM BYTES") };
    let (workers, bytes) = (text(workers)?.parse::<u64>()?, text(bytes)?.parse()?);
    let dir = Path::new(dir);
    let ran = AtomicU64::new(0);
    let worker = || -> Result<()> {
        let args = sized_argv(bytes).split_off(1);
        while !dir.join("stop").exists() {
            once(program, &args)?;
            if ran.fetch_add(1, Ordering::Relaxed) == 2 * workers {
                fs::write(dir.join("flooding"), "")?;
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let all: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        all.into_iter().try_for_each(|one| one.join().unwrap_or_else(|_| bail!("a worker failed")))
    })?;
    println!("{}", ran.into_inner());
    Ok(ExitCode::SUCCESS)
}

fn once(program: &OsStr, args: &[String]) -> Result<()> {
    let status = Command::new(program).args(args).status()?;
    ensure!(status.success(), "{status}");
    Ok(())
}

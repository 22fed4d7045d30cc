//! Files that end too early, or have other bytes than were written, as after a power cut on a disk that lies.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{
    Outcome, Run,
    engine::{Expect, Plan, World},
};

const ROUNDS: u32 = 5;

/// Damages a file.
type Damage = fn(&Path, &mut fastrand::Rng) -> Result<()>;

pub(super) fn spool_truncated(run: &Run) -> Result<Outcome> {
    spool(run, truncate)
}

pub(super) fn spool_altered(run: &Run) -> Result<Outcome> {
    spool(run, alter)
}

pub(super) fn log_truncated(run: &Run) -> Result<Outcome> {
    log(run, truncate)
}

pub(super) fn log_altered(run: &Run) -> Result<Outcome> {
    log(run, alter)
}

/// While there is no collector the spool fills; then the agent dies, and a file of the spool is damaged.
fn spool(run: &Run, damage: Damage) -> Result<Outcome> {
    let mut world = World::begin(run, &Plan { restarted: true, ..Plan::default() })?;
    for _ in 0..ROUNDS {
        world.collector.kill()?;
        world.pass(500, 2000)?;
        world.agent.kill()?;
        world.damage("spool", damage)?;
        world.start_missing()?;
        world.progress(200)?;
        world.pass(0, 1000)?;
    }
    world.finish(Expect::Numbered)
}

/// The collector dies, and a file of its log is damaged: of the store, for a directory that says of itself that it is
/// something else is none that the collector takes.
fn log(run: &Run, damage: Damage) -> Result<Outcome> {
    let mut world = World::begin(run, &Plan { restarted: true, by_ids: true, ..Plan::default() })?;
    for _ in 0..ROUNDS {
        world.pass(200, 2000)?;
        world.collector.kill()?;
        world.damage("data/store", damage)?;
        world.start_missing()?;
        world.progress(200)?;
    }
    world.finish(Expect::Said)
}

impl World {
    /// Damages a random file below `dir`.
    fn damage(&mut self, dir: &str, damage: Damage) -> Result<()> {
        let mut files = Vec::new();
        self::files(&self.dir.join(dir), &mut files)?;
        files.sort();
        let chosen = self.random().usize(..files.len().max(1));
        let file = files.get(chosen).context("there are no files to damage")?;
        self.faults += 1;
        damage(file, self.random()).with_context(|| format!("cannot damage {}", file.display()))
    }
}

/// All files below `dir` that are not empty.
fn files(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files(&entry.path(), found)?;
        } else if entry.metadata()?.len() > 0 {
            found.push(entry.path());
        }
    }
    Ok(())
}

fn truncate(path: &Path, random: &mut fastrand::Rng) -> Result<()> {
    let file = File::options().write(true).open(path)?;
    let at = random.u64(..file.metadata()?.len());
    eprintln!("    {} is cut at byte {at}", path.display());
    Ok(file.set_len(at)?)
}

/// Sixteen random bytes at a random place.
fn alter(path: &Path, random: &mut fastrand::Rng) -> Result<()> {
    let file = File::options().write(true).open(path)?;
    let at = random.u64(..file.metadata()?.len());
    let mut bytes = [0; 16];
    random.fill(&mut bytes);
    eprintln!("    {} is altered from byte {at}", path.display());
    Ok(file.write_all_at(&bytes, at)?)
}

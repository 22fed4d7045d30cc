//! The storm: sessions without end in real containers, and the truth about them.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};

use crate::harness::{Container, Runtime, Spec, container::ITEST};

/// One session that ran: its root, and so many commands one after the other, which counted themselves.
#[derive(Clone, Debug)]
pub(crate) struct Volley {
    pub(crate) name: String,
    pub(crate) commands: u32,
    /// its root's arguments
    pub(crate) root: Vec<String>,
    /// when, in nanoseconds of unix time
    pub(crate) began: i128,
    pub(crate) ended: i128,
}

/// Microseconds between two commands of a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace(pub(crate) u64);

/// Containers, and a thread for each that runs one session after the other in it.
#[derive(Debug)]
pub(crate) struct Storm {
    lanes: Vec<Lane>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Lane {
    name: String,
    container: Arc<Container>,
    /// commands of one session
    sizes: Range<u32>,
    runner: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    over: AtomicBool,
    /// commands with kilobytes of arguments among the others
    large: bool,
    commands: AtomicU64,
    ran: Mutex<Vec<Volley>>,
}

impl Storm {
    /// Makes the containers.
    pub(crate) fn prepare(name: &str, large: bool) -> Result<Self> {
        let mut lanes = Vec::new();
        for (kind, runtime, sizes) in [("short", Runtime::Runc, 1..60), ("long", Runtime::Crun, 300..1500)] {
            let name = format!("{name}-{kind}");
            let container = Arc::new(Spec::by(runtime).start(&name)?);
            lanes.push(Lane { name, container, sizes, runner: None });
        }
        Ok(Self { lanes, shared: Arc::new(Shared { large, ..Shared::default() }) })
    }

    /// Begins: short sessions under runc, long ones under crun.
    pub(crate) fn begin(&mut self, pace: Pace, random: &mut fastrand::Rng) {
        for lane in &mut self.lanes {
            let Lane { name, container, sizes, runner } = lane;
            let (name, container, sizes) = (name.clone(), Arc::clone(container), sizes.clone());
            let (shared, mut random) = (Arc::clone(&self.shared), random.fork());
            *runner = Some(thread::spawn(move || {
                let mut number = 0;
                while !shared.over.load(Ordering::Relaxed) {
                    shared.run(&container, &format!("{name}-{number}"), random.u32(sizes.clone()), pace)?;
                    number += 1;
                }
                Ok(())
            }));
        }
    }

    /// Commands of the sessions that are over.
    pub(crate) fn commands(&self) -> u64 {
        self.shared.commands.load(Ordering::Relaxed)
    }

    /// Fails if it does not go on.
    pub(crate) fn check(&mut self) -> Result<()> {
        for lane in &mut self.lanes {
            if lane.runner.as_ref().is_some_and(JoinHandle::is_finished) {
                lane.join()?;
            }
        }
        Ok(())
    }

    /// Lets the sessions that run come to their end, begins none any more, and says what ran.
    pub(crate) fn end(&mut self) -> Result<Vec<Volley>> {
        self.shared.over.store(true, Ordering::Relaxed);
        for lane in &mut self.lanes {
            lane.join()?;
        }
        Ok(self.shared.ran.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// One more session, of one command, now that the storm is over: whatever happened before comes before it.
    pub(crate) fn last(&self, name: &str) -> Result<Volley> {
        let lane = self.lanes.first().context("no container")?;
        self.shared.run(&lane.container, name, 1, Pace(0))
    }
}

impl Lane {
    fn join(&mut self) -> Result<()> {
        let Some(runner) = self.runner.take() else { return Ok(()) };
        runner.join().ok().context("a thread of the storm failed")?.context("the storm")
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        for lane in &mut self.lanes {
            if let Err(e) = lane.join() {
                eprintln!("{e:#}");
            }
        }
    }
}

fn now() -> Result<i128> {
    Ok(i128::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}

impl Shared {
    fn run(&self, container: &Container, name: &str, commands: u32, pace: Pace) -> Result<Volley> {
        let (count, pause) = (commands.to_string(), pace.0.to_string());
        let large = if self.large { "large" } else { "small" };
        let root = [ITEST, "payload", "volley", &count, name, &pause, large];
        let began = now()?;
        let ran = container.exec(&root).run()?.ok()?;
        ensure!(ran.text() == count, "{name} counted {} of {count} commands", ran.text());
        let (name, root, ended) = (name.to_owned(), root.map(str::to_owned).to_vec(), now()?);
        let volley = Volley { name, commands, root, began, ended };
        self.ran.lock().unwrap_or_else(PoisonError::into_inner).push(volley.clone());
        self.commands.fetch_add(u64::from(commands) + 1, Ordering::Relaxed);
        Ok(volley)
    }
}

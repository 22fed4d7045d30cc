//! A program under test that is killed and started again, over and over.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::harness::process;

/// Where a program runs, or may run.
pub(crate) struct Daemon {
    what: &'static str,
    command: Box<dyn FnMut() -> Command>,
    log: PathBuf,
    running: Option<Running>,
    /// when it was last found to have ended by itself
    ended: Option<Instant>,
}

/// What runs daemons does not start them again at once.
const RESTART: Duration = Duration::from_millis(300);

struct Running {
    child: Child,
    /// closed, it ends by itself
    _lifeline: Option<ChildStdin>,
}

impl Daemon {
    /// A place for a program, which does not run yet.
    pub(crate) fn new(what: &'static str, dir: &Path, command: impl FnMut() -> Command + 'static) -> Self {
        Self {
            what,
            command: Box::new(command),
            log: dir.join(format!("{what}.log")),
            running: None,
            ended: None,
        }
    }

    /// Starts it; it may not be ready yet.
    pub(crate) fn start(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "the {} runs already", self.what);
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = (self.command)();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn()?;
        let _lifeline = child.stdin.take();
        self.running = Some(Running { child, _lifeline });
        self.ended = None;
        Ok(())
    }

    /// SIGKILL, if it runs.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        running.child.kill()?;
        running.child.wait()?;
        Ok(())
    }

    /// SIGTERM, which it must obey, and without complaint.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let mut running = self.running.take().context("it runs")?;
        let status = process::reap(&mut running.child, &format!("the {} ends", self.what))?;
        ensure!(status.success(), "the {} ended with {status}: {}", self.what, self.logged());
        Ok(())
    }

    pub(crate) fn signal(&mut self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.pid()?.cast_signed()), signal)?)
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        Ok(self.running.as_ref().with_context(|| format!("the {} does not run", self.what))?.child.id())
    }

    pub(crate) fn runs(&self) -> bool {
        self.running.is_some()
    }

    /// Fails if it ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        if self.ended()? {
            bail!("the {} ended by itself: {}", self.what, self.logged());
        }
        Ok(())
    }

    /// Starts it again a little after it ended by itself, as what runs daemons does.
    pub(crate) fn keep(&mut self) -> Result<()> {
        if self.ended()? {
            self.ended = Some(Instant::now());
        }
        if self.ended.is_some_and(|ended| ended.elapsed() >= RESTART) {
            self.start()?;
        }
        Ok(())
    }

    fn ended(&mut self) -> Result<bool> {
        let Some(running) = &mut self.running else { return Ok(false) };
        let ended = running.child.try_wait()?.is_some();
        if ended {
            self.running = None;
        }
        Ok(ended)
    }

    /// The end of what it logged, over all its lives.
    pub(crate) fn logged(&self) -> String {
        let text = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n    ")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.running.is_some()
            && let Err(e) = self.kill()
        {
            eprintln!("cannot end the {}: {e:#}", self.what);
        }
    }
}

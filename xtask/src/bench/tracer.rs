//! The tools to compare with: each traces every exec of the machine, and writes to /dev/null.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::stage::Stage;

/// Gives a tool the tracefs that it wants, wherever this machine has it, in a mount namespace of its own.
const WITH_TRACEFS: &str = "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing; \
                            mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug; \
                            exec \"$@\"";

/// A tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tool {
    Execsnoop,
    Bpftrace,
}

/// A tool that is tracing.
#[derive(Debug)]
pub(super) struct Tracing(Child);

impl Tool {
    /// Starts it, and waits until it has attached all that it attaches.
    pub(super) fn start(self, stage: &Stage) -> Result<Tracing> {
        let arguments: &[&str] = match self {
            Self::Execsnoop => &["execsnoop"],
            Self::Bpftrace => &[
                "bpftrace",
                "-e",
                "tracepoint:sched:sched_process_exec { printf(\"%d %s %s\\n\", pid, comm, str(args->filename)); }",
            ],
        };
        let mut command = Command::new("unshare");
        command.args(["--mount", "--", "sh", "-c", WITH_TRACEFS, "sh"]).args(arguments);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut tracing = Tracing(child.with_context(|| format!("cannot start {self:?}"))?);
        let mut seen = (0, Instant::now());
        stage.until(&format!("{self:?} to attach"), Duration::from_secs(30), || {
            if let Some(status) = tracing.0.try_wait().context("cannot wait for a tracer")? {
                bail!("{self:?} ended: {status}");
            }
            let attached = tracing.attached();
            if attached != seen.0 {
                seen = (attached, Instant::now());
            }
            // Settled: the ring's events of every processor are there too.
            Ok((attached > 0 && seen.1.elapsed() > Duration::from_millis(400)).then_some(()))
        })?;
        Ok(tracing)
    }
}

impl Tracing {
    /// Perf events that it holds.
    fn attached(&self) -> usize {
        let fds = fs::read_dir(format!("/proc/{}/fd", self.0.id())).into_iter().flatten().flatten();
        fds.filter(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().contains("perf_event")))
            .count()
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id())
            && let Err(error) = kill(Pid::from_raw(pid), Signal::SIGTERM)
        {
            eprintln!("warning: cannot end a tracer: {error}");
        }
        if let Err(error) = self.0.wait() {
            eprintln!("warning: cannot wait for a tracer: {error}");
        }
    }
}

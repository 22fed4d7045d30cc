//! `agent/examples/pipeline`, started with its arguments, and the JSON that it prints.

use std::{
    io::{BufRead as _, BufReader, Lines},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    root,
    stage::{Collector, Stage},
};

/// How long one of them may take.
const LIMIT: Duration = Duration::from_secs(600);

/// A running load.
#[derive(Debug)]
pub(super) struct Load {
    child: Child,
    lines: mpsc::Receiver<Value>,
}

impl Load {
    /// Starts it; `arguments` begin with what kind of load it is.
    pub(super) fn start(arguments: &[&str]) -> Result<Self> {
        let program = root::target().join("release/examples/pipeline");
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(&program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let output = child.stdout.take().context("the load has no output")?;
        let (tx, lines) = mpsc::channel();
        thread::spawn(move || pass_on(BufReader::new(output).lines(), &tx));
        Ok(Self { child, lines })
    }

    /// The same, against a collector.
    pub(super) fn against(collector: &Collector, arguments: &[&str]) -> Result<Self> {
        let (kind, more) = arguments.split_first().context("what load?")?;
        Self::start(&[&[*kind, "--collector", collector.url()], more].concat())
    }

    /// What it says next.
    pub(super) fn line(&mut self, stage: &Stage) -> Result<Value> {
        let line = stage.until("what the load says", LIMIT, || match self.lines.try_recv() {
            Ok(line) => Ok(Some(Some(line))),
            Err(mpsc::TryRecvError::Empty) => Ok(None),
            Err(mpsc::TryRecvError::Disconnected) => Ok(Some(None)),
        })?;
        line.context("the load ended without saying what it measured: see above")
    }

    /// All that it says from here, to its end.
    pub(super) fn lines(mut self, stage: &Stage) -> Result<Vec<Value>> {
        let mut lines = Vec::new();
        let status = stage.until("the load's end", LIMIT, || {
            lines.extend(self.lines.try_iter());
            self.child.try_wait().context("cannot wait for the load")
        })?;
        // Whoever reads its output may not have passed all of it on yet.
        lines.extend(self.lines.iter());
        if !status.success() {
            bail!("the load failed ({status}): see above");
        }
        Ok(lines)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) && self.child.kill().is_ok() {
            drop(self.child.wait());
        }
    }
}

fn pass_on(lines: Lines<BufReader<ChildStdout>>, to: &mpsc::Sender<Value>) {
    for line in lines.map_while(Result::ok) {
        let Ok(value) = serde_json::from_str(&line) else { continue };
        if to.send(value).is_err() {
            return;
        }
    }
}

/// A number of a line.
pub(super) fn number(line: &Value, name: &str) -> Result<f64> {
    line.get(name).and_then(Value::as_f64).with_context(|| format!("the load said no {name}: {line}"))
}

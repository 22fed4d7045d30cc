//! The agent and the collector, started on a stage.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{Interrupted, Stage, shell};

/// How long a daemon may take to be ready.
const START: Duration = Duration::from_secs(20);

/// A running daemon, and where its log goes.
#[derive(Debug)]
struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    fn start(stage: &Stage, name: &str, mut command: Command) -> Result<Self> {
        let log = stage.dir().join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("cannot double a descriptor")?)
            .stderr(file);
        Ok(Self { child: shell::start(command)?, log })
    }

    /// Fails, with what it said, where it ended.
    fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait().context("cannot wait for a daemon")? {
            bail!("it ended ({status}):\n{}", self.said());
        }
        Ok(())
    }

    /// An error, with what the daemon said; an interruption needs no explanation.
    fn explained(&self, error: anyhow::Error) -> anyhow::Error {
        if error.is::<Interrupted>() { error } else { error.context(self.said()) }
    }

    fn said(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default();
        tail.join("\n")
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id()).context("that is no process id")?))
    }

    /// Asks it to end, and waits.
    fn stop(&mut self, stage: &Stage) -> Result<()> {
        kill(self.pid()?, Signal::SIGTERM).context("cannot end a daemon")?;
        let waited = stage.until("the daemon's end", Duration::from_secs(10), || {
            self.child.try_wait().context("cannot wait for a daemon")
        });
        waited.map(drop).map_err(|error| self.explained(error))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // Asked first: it says that it stops. What it leaves pinned goes with the stage's mounts.
        if let Ok(pid) = self.pid()
            && let Err(error) = kill(pid, Signal::SIGTERM)
        {
            eprintln!("warning: cannot end process {pid}: {error}");
        }
        for _ in 0..200 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        if self.child.kill().is_ok() {
            drop(self.child.wait());
        }
    }
}

/// A program that is asked to end when this one is gone, however that came about.
fn mortal(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

/// A running collector.
#[derive(Debug)]
pub(crate) struct Collector {
    daemon: Daemon,
    programs: PathBuf,
    url: String,
}

impl Collector {
    /// Starts one on a free port of the loopback, with an empty log.
    pub(crate) fn start(stage: &Stage, programs: &Path) -> Result<Self> {
        Self::start_with(stage, programs, &[])
    }

    /// The same, with more arguments.
    pub(crate) fn start_with(stage: &Stage, programs: &Path, more: &[&str]) -> Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = mortal(&programs.join("podtrail-collector"));
        command
            .args(["run", "--listen", &address, "--metrics-listen", "none"])
            .arg("--data")
            .arg(stage.data().join("collector"))
            .args(more);
        let mut daemon = Daemon::start(stage, "collector", command)?;
        stage
            .until("the collector to answer", START, || {
                daemon.check()?;
                Ok(std::net::TcpStream::connect(&address).is_ok().then_some(()))
            })
            .map_err(|error| daemon.explained(error))?;
        Ok(Self { daemon, programs: programs.to_path_buf(), url: format!("http://{address}") })
    }

    /// A question to it, by the command line.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("podtrail"));
        command.args(arguments).args(["--collector", &self.url]);
        command
    }

    /// The answer to a question, one value a line.
    pub(crate) fn answer(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let output = self.ask(arguments).args(["-o", "json"]).output().context("cannot start podtrail")?;
        if !output.status.success() {
            bail!("podtrail {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        let values = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
        let values: Vec<Value> = values.collect::<Result<_, _>>().context("podtrail printed no JSON")?;
        Ok(values
            .into_iter()
            .flat_map(|value| if let Value::Array(all) = value { all } else { vec![value] })
            .collect())
    }

    /// Where it answers.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.child.id()
    }

    /// Ends it.
    pub(crate) fn stop(mut self, stage: &Stage) -> Result<()> {
        self.daemon.stop(stage)
    }
}

/// A running agent.
#[derive(Debug)]
pub(crate) struct Agent {
    daemon: Daemon,
    unload: Command,
}

impl Agent {
    /// Starts one that reports to `collector`, and waits until the collector knows it.
    pub(crate) fn start(stage: &Stage, collector: &Collector) -> Result<Self> {
        let node = stage.name;
        let mut command = mortal(&collector.programs.join("podtrail-agent"));
        command
            .args(["run", "--node-name", node, "--collector", &collector.url])
            .args(["--metrics-listen", "none"])
            .arg("--socket")
            .arg(stage.dir().join("agent.sock"))
            .arg("--lock")
            .arg(stage.dir().join("agent.lock"))
            .arg("--spool")
            .arg(stage.data().join("spool"))
            .arg("--pin")
            .arg(stage.dir().join("pins"));
        let mut unload = Command::new(collector.programs.join("podtrail-agent"));
        unload
            .arg("unload")
            .arg("--lock")
            .arg(stage.dir().join("agent.lock"))
            .arg("--pin")
            .arg(stage.dir().join("pins"))
            .stdout(Stdio::null());
        let mut daemon = Daemon::start(stage, "agent", command)?;
        stage
            .until("the agent's hooks to be attached", START, || {
                daemon.check()?;
                let nodes = collector.answer(&["nodes"])?;
                Ok(nodes.iter().any(|value| has_hooks(value, node)).then_some(()))
            })
            .map_err(|error| daemon.explained(error))?;
        Ok(Self { daemon, unload })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.child.id()
    }

    /// Ends it, and what it left in the kernel: nothing records from here on.
    pub(crate) fn stop(mut self, stage: &Stage) -> Result<()> {
        self.daemon.stop(stage)?;
        let unloaded = self.unload.status().context("cannot start podtrail-agent unload")?;
        if !unloaded.success() {
            bail!("podtrail-agent unload failed ({unloaded})");
        }
        Ok(())
    }
}

/// Whether there is, anywhere in the value, a node of that name whose agent said which hooks it has.
fn has_hooks(value: &Value, node: &str) -> bool {
    let here = value.get("name").and_then(Value::as_str) == Some(node)
        && value.pointer("/agent/hooks").and_then(Value::as_array).is_some_and(|hooks| !hooks.is_empty());
    here || match value {
        Value::Array(values) => values.iter().any(|value| has_hooks(value, node)),
        Value::Object(fields) => fields.values().any(|value| has_hooks(value, node)),
        _ => false,
    }
}

/// A port that nobody listens on just now.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot find a free port")?;
    Ok(listener.local_addr().context("cannot find a free port")?.port())
}

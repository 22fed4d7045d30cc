//! `cargo xtask demo`: somebody gets into a container, twice by `runc exec` and once by `nsenter`, and the collector
//! tells what they did.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    ebpf, setup,
    sh::step,
    stage::{Agent, Collector, Container, Shell, Stage},
};

/// How long the collector may take to have all of a session.
const COMPLETE: Duration = Duration::from_secs(20);

/// Options of `demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Build with optimisations: slower to build, and no faster to watch
    #[arg(long)]
    release: bool,
}

/// Runs the demo.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::run(setup::For::Tests)?;
    let programs = ebpf::build_all(options.release)?;

    let stage = Stage::open("podtrail-demo")?;
    step("starting a collector and an agent");
    let collector = Collector::start(&stage, &programs)?;
    let agent = Agent::start(&stage, &collector)?;
    step("starting a container under runc, with a workload of its own");
    let container = Container::start(&stage, &["/bin/sh", "-c", "while :; do /bin/sleep 1; done"])?;
    eprintln!("    container {}", container.id());

    step("three ways in, all open at once");
    play(&stage, &container)?;

    step("waiting until the collector has all of it");
    let sessions = stage.until("three sessions that have ended, at the collector", COMPLETE, || {
        let sessions: Vec<Value> = collector
            .answer(&["sessions"])?
            .into_iter()
            .filter(|session| is_in(session, container.id()))
            .collect();
        let ended = sessions.iter().filter(|session| session.get("ended").is_some()).count();
        Ok((ended >= 3).then_some(sessions))
    })?;

    step("podtrail sessions");
    show(collector.ask(&["sessions"]))?;
    // Newest first, as listed; told in the order in which they were.
    for session in sessions.iter().rev() {
        let id = session.get("id").and_then(Value::as_str).context("a session without an id")?;
        step(&format!("podtrail session {id}"));
        show(collector.ask(&["session", id]))?;
    }
    step("podtrail nodes");
    show(collector.ask(&["nodes"]))?;

    step("ending the agent and the collector, removing the container");
    agent.stop(&stage)?;
    collector.stop(&stage)
}

/// What the people in the container do.
fn play(stage: &Stage, container: &Container) -> Result<()> {
    let mut person = Shell::on_terminal(container.exec(&["--tty"], &["/bin/sh"]))?;
    type_in(stage, &mut person, "terminal", "/bin/id")?;
    let mut script = Shell::on_pipes(container.exec(&[], &["/bin/sh"]))?;
    type_in(stage, &mut script, "pipe", "/bin/uname -a")?;
    let mut host = Command::new("nsenter");
    host.args(["--target", &container.pid().to_string(), "--mount", "--pid", "--uts", "--ipc", "--net"]);
    host.args(["--", "/bin/sh"]);
    let mut host = Shell::on_pipes(host)?;
    type_in(stage, &mut host, "nsenter", "/bin/ps")?;

    type_in(stage, &mut person, "terminal", "/bin/wget -q -O /tmp/x http://127.0.0.1:9/x")?;
    type_in(stage, &mut script, "pipe", "/bin/tar -czf /tmp/etc.tgz /etc")?;
    type_in(stage, &mut person, "terminal", "/bin/cp /bin/sleep /tmp/sleep")?;
    type_in(stage, &mut person, "terminal", "/tmp/sleep 600 & sleeper=$!")?;
    type_in(stage, &mut host, "nsenter", "/bin/cat /etc/shadow")?;
    type_in(stage, &mut person, "terminal", "/bin/kill -9 $sleeper; wait $sleeper")?;
    type_in(stage, &mut person, "terminal", "/bin/sh -c '/bin/ls /nowhere; /bin/printf \"a\\nb\"; exit 3'")?;
    type_in(stage, &mut script, "pipe", "/bin/rm /tmp/etc.tgz /tmp/nothing")?;

    for (shell, line) in [(host, "exit 0"), (script, "exit 1"), (person, "exit 0")] {
        shell.end(stage, line)?;
    }
    Ok(())
}

fn type_in(stage: &Stage, shell: &mut Shell, who: &str, line: &str) -> Result<()> {
    eprintln!("    {who:>8} $ {line}");
    shell.line(stage, line).map(drop)
}

fn is_in(session: &Value, container: &str) -> bool {
    session.pointer("/container/id").and_then(Value::as_str) == Some(container)
}

/// Runs a command with our own output, so that it has colours where that is a terminal.
fn show(mut command: Command) -> Result<()> {
    if !command.status().context("cannot start podtrail")?.success() {
        bail!("podtrail failed");
    }
    println!();
    Ok(())
}

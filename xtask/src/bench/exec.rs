//! `cargo xtask bench exec`.
//!
//! A storm is a loop of vfork and execve of a program that ends at once, in a container, on one processor. Every round
//! measures every case once, one after the other, so that what drifts on the machine drifts for all.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    measure::{self, Samples},
    report,
    tracer::Tool,
};
use crate::{
    ebpf, root, setup,
    sh::{cmd, step},
    stage::{Agent, Collector, Container, Shell, Stage},
};

/// One benchmark at a time.
pub(super) const STAGE: &str = "podtrail-bench";

/// Options of `bench exec`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How often every case is measured
    #[arg(long, default_value_t = 11)]
    pub(super) rounds: u32,
    /// Execs in a measurement
    #[arg(long, default_value_t = 5000)]
    pub(super) count: u64,
    /// Seconds of the storm at a steady 1,000 a second
    #[arg(long, default_value_t = 30)]
    pub(super) seconds: u64,
    /// Only print, leave docs/benchmarks.md
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// A case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    /// nothing traces, storm by `runc exec`
    None,
    /// nothing traces, storm by the container's own init
    NoneInit,
    /// the agent traces, storm by the container's own init: no session
    Outside,
    /// the agent traces, storm in a session
    Session,
    Execsnoop,
    Bpftrace,
}

impl Case {
    pub(super) const ALL: [Self; 6] =
        [Self::None, Self::NoneInit, Self::Outside, Self::Session, Self::Execsnoop, Self::Bpftrace];
}

/// How the agent did in a storm in a session.
#[derive(Clone, Debug, Default)]
pub(super) struct Storm {
    /// commands that the session had
    pub(super) expected: u64,
    /// of these, those at the collector
    pub(super) recorded: u64,
    /// what the trail itself says is missing
    pub(super) told_lost: u64,
    /// from the storm's begin to its end
    pub(super) took: Duration,
    /// of the agent and of the collector, until the collector had all
    pub(super) agent_time: Duration,
    pub(super) collector_time: Duration,
    /// of the agent, in MiB
    pub(super) resident_most: f64,
}

/// All that is measured.
#[derive(Debug, Default)]
pub(super) struct Results {
    /// microseconds an exec
    pub(super) cases: Vec<(Case, Samples)>,
    /// microseconds of the agent's processor time an exec, at full speed
    pub(super) agent_time: Samples,
    /// of the agent, in MiB, before any storm
    pub(super) resident_rest: Samples,
    pub(super) full: Storm,
    pub(super) all_processors: Storm,
    /// 10,000 a second over all processors
    pub(super) ten_thousand: Storm,
    pub(super) steady: Storm,
}

/// Measures and writes.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0 && options.count > 0 && options.seconds > 0, "nothing to measure");
    setup::run(setup::For::Bench)?;
    let programs = ebpf::build_all(true)?;
    let helpers = helpers()?;
    let bench = Bench::open(Stage::open(STAGE)?, programs, &helpers)?;
    let results = bench.measure(options)?;
    let text = report::section(options, &results)?;
    println!("{text}");
    if options.dry_run { Ok(()) } else { report::write("exec", &text) }
}

/// Compiles the storm and the program that it executes.
pub(super) fn helpers() -> Result<[PathBuf; 2]> {
    let dir = root::target().join("bench");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let sources = root::workspace().join("xtask/bench");
    let [storm, nop] = [dir.join("storm"), dir.join("nop")];
    cmd("gcc").args(["-O2", "-static", "-o"]).arg(&storm).arg(sources.join("storm.c")).run()?;
    cmd("gcc").args(["-O2", "-static", "-nostdlib", "-o"]).arg(&nop).arg(sources.join("nop.c")).run()?;
    Ok([storm, nop])
}

/// A container to storm in, and a shell that is its init.
pub(super) struct Bench {
    pub(super) programs: PathBuf,
    init: Shell,
    pub(super) container: Container,
    pub(super) processors: usize,
    pub(super) stage: Stage,
}

/// How much a storm does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// of each worker
    pub(super) count: u64,
    /// a second and worker; 0: as fast as can be
    pub(super) rate: u64,
    pub(super) workers: usize,
}

impl Bench {
    pub(super) fn open(stage: Stage, programs: PathBuf, [storm, nop]: &[PathBuf; 2]) -> Result<Self> {
        let files = [(storm.as_path(), "bin/storm"), (nop.as_path(), "bin/nop")];
        let (container, init) = Container::start_shell(&stage, &files)?;
        let processors = std::thread::available_parallelism().context("how many processors?")?.get();
        Ok(Self { programs, init, container, processors, stage })
    }

    fn measure(mut self, options: &Options) -> Result<Results> {
        let cases = Case::ALL.iter().map(|case| (*case, Samples::default())).collect();
        let mut results = Results { cases, ..Results::default() };
        let load = Load { count: options.count, rate: 0, workers: 1 };
        // Unmeasured: page cache, and the processor's clock.
        self.storm_by_init(load)?;
        for round in 1..=options.rounds {
            step(&format!("round {round} of {}", options.rounds));
            // There and back, so that what drifts within a round favours no case.
            let mut order: Vec<_> = results.cases.iter_mut().collect();
            if round % 2 == 0 {
                order.reverse();
            }
            for (case, samples) in order {
                let took = match *case {
                    Case::None => self.storm_by_exec(load)?,
                    Case::NoneInit => self.storm_by_init(load)?,
                    Case::Outside => self.with_agent(|bench, _, _| bench.storm_by_init(load))?,
                    Case::Session => {
                        let storm = self.storm_in_session(load, &mut results.resident_rest)?;
                        results.agent_time.add(micros(storm.agent_time) / count(storm.expected));
                        let took = storm.took;
                        results.full = worse(results.full, storm);
                        took
                    }
                    Case::Execsnoop | Case::Bpftrace => {
                        let tool = if *case == Case::Execsnoop { Tool::Execsnoop } else { Tool::Bpftrace };
                        let _tracing = tool.start(&self.stage)?;
                        self.storm_by_exec(load)?
                    }
                };
                let each = micros(took) / count(load.count);
                eprintln!("    {case:?}: {each:.1} µs an exec");
                samples.add(each);
            }
        }
        step("a storm on all processors at once");
        let all = Load { count: options.count * 4, rate: 0, workers: self.processors };
        results.all_processors = self.storm_in_session(all, &mut results.resident_rest)?;
        step(&format!("10,000 execs a second for {} s", options.seconds / 3));
        let workers = u64::try_from(self.processors).context("so many processors?")?;
        let rate = 10_000 / workers;
        let many = Load { count: rate * options.seconds / 3, rate, workers: self.processors };
        results.ten_thousand = self.storm_in_session(many, &mut results.resident_rest)?;
        step(&format!("1,000 execs a second for {} s", options.seconds));
        let steady = Load { count: options.seconds * 1000, rate: 1000, workers: 1 };
        results.steady = self.storm_in_session(steady, &mut results.resident_rest)?;
        Ok(results)
    }

    /// A storm by the container's init: whoever looks, it is no session.
    fn storm_by_init(&mut self, load: Load) -> Result<Duration> {
        let said = self.init.line(&self.stage, &self.line(load))?;
        took(&said)
    }

    /// A storm in a session.
    pub(super) fn storm_by_exec(&self, load: Load) -> Result<Duration> {
        let mut shell = Shell::on_pipes(self.container.exec(&[], &["/bin/sh"]))?;
        let said = shell.line(&self.stage, &self.line(load))?;
        shell.end(&self.stage, "exit")?;
        took(&said)
    }

    fn line(&self, load: Load) -> String {
        let Load { count, rate, workers } = load;
        // The last ones: the first processor has the machine's interrupts.
        format!("/bin/storm {count} {rate} {workers} {}", self.processors.saturating_sub(workers))
    }

    /// With collector and agent running.
    fn with_agent<T>(&mut self, job: impl FnOnce(&mut Self, &Collector, &Agent) -> Result<T>) -> Result<T> {
        let collector = Collector::start(&self.stage, &self.programs)?;
        let agent = Agent::start(&self.stage, &collector)?;
        let result = job(self, &collector, &agent)?;
        agent.stop(&self.stage)?;
        collector.stop(&self.stage)?;
        self.stage.forget("collector")?;
        // Else the next collector is sent the history that is in it.
        self.stage.forget("spool")?;
        Ok(result)
    }

    /// A storm in a session, and how the agent did until the collector had all of it.
    fn storm_in_session(&mut self, load: Load, rest: &mut Samples) -> Result<Storm> {
        self.with_agent(|bench, collector, agent| {
            rest.add(measure::resident(agent.pid())?.0);
            measure::forget_peak(agent.pid())?;
            let before = (measure::processor_time(agent.pid())?, measure::processor_time(collector.pid())?);
            let took = bench.storm_by_exec(load)?;
            let limit = Duration::from_secs(60);
            let begin = Instant::now();
            let session =
                bench.stage.until("the storm's session to have ended, at the collector", limit, || {
                    let sessions = collector.answer(&["sessions"])?;
                    // The node may have other containers, with sessions of their own.
                    let is_ours = |session: &Value| {
                        session.pointer("/container/id").and_then(Value::as_str) == Some(bench.container.id())
                            && session.get("ended").is_some()
                    };
                    Ok(sessions.into_iter().find(is_ours))
                })?;
            eprintln!("    complete at the collector {:.2} s after its end", begin.elapsed().as_secs_f64());
            // The shell and the storm are commands too.
            let workers = u64::try_from(load.workers).context("so many workers?")?;
            Ok(Storm {
                expected: load.count * workers + 2,
                recorded: number(&session, "/commands")?,
                told_lost: number(&session, "/lost")?,
                took,
                agent_time: measure::processor_time(agent.pid())?.saturating_sub(before.0),
                collector_time: measure::processor_time(collector.pid())?.saturating_sub(before.1),
                resident_most: measure::resident(agent.pid())?.1,
            })
        })
    }
}

/// Of two storms, the one where more is missing; all of the second, where that is the same.
fn worse(one: Storm, other: Storm) -> Storm {
    let missing = |storm: &Storm| storm.expected.saturating_sub(storm.recorded).max(storm.told_lost);
    let resident_most = one.resident_most.max(other.resident_most);
    Storm { resident_most, ..if missing(&one) > missing(&other) { one } else { other } }
}

/// Reads what the storm says.
fn took(said: &str) -> Result<Duration> {
    let line = said.lines().find_map(|line| {
        let (count, took) = line.trim().split_once(' ')?;
        count.parse::<u64>().ok()?;
        took.parse::<u64>().ok()
    });
    let Some(took) = line else { bail!("the storm failed; it said: {}", said.escape_debug()) };
    Ok(Duration::from_nanos(took))
}

/// A number in canonical protobuf JSON: one of 64 bits is text, and 0 may be left out.
fn number(value: &Value, pointer: &str) -> Result<u64> {
    match value.pointer(pointer) {
        None => Ok(0),
        Some(Value::String(text)) => text.parse().with_context(|| format!("{pointer} is no number: {text}")),
        Some(value) => value.as_u64().with_context(|| format!("{pointer} is no number: {value}")),
    }
}

pub(super) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// As a fraction's part; beyond 2^53 nobody counts here.
#[expect(clippy::cast_precision_loss, reason = "counts of execs are far below 2^53")]
pub(super) fn count(n: u64) -> f64 {
    n as f64
}

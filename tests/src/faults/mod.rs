//! Reliability, proved: a storm of real sessions, whose every command is known, while parts of podtrail are killed, cut
//! off, starved and damaged; then what the subscriber got is held against what ran.
//!
//! Faults come at random moments, the same ones for the same seed as far as the machine allows.

mod clock;
mod damage;
mod disk;
mod engine;
mod kills;
mod network;
mod report;
mod ring;
mod upgrade;

use std::{
    env,
    ffi::OsString,
    hash::{DefaultHasher, Hash, Hasher},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Parser;

use self::{
    engine::{Verdict, link::Traffic},
    report::Report,
};
use crate::harness::{self, Needs, host};

/// `podtrail-reader`: the subscriber.
pub(crate) fn reader() -> ExitCode {
    engine::reader::main(&env::args_os().skip(1).collect::<Vec<_>>())
}

/// Breaks podtrail in every way, and counts what is lost.
#[derive(Debug, Parser)]
#[command(name = "podtrail-itest faults")]
struct Options {
    /// Only these scenarios
    #[arg(long, value_name = "NAME")]
    scenario: Vec<String>,
    /// The random moments of a former run
    #[arg(long)]
    seed: Option<u64>,
    /// How often to kill, cut, …
    #[arg(long, default_value_t = 50)]
    kills: u32,
    /// Again and again, each time with other moments, for so many minutes
    #[arg(long, value_name = "MINUTES")]
    soak: Option<u64>,
    /// Write the table of results here
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Only say which scenarios there are
    #[arg(long)]
    list: bool,
}

/// One way to break it.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    name: &'static str,
    /// for the table
    about: &'static str,
    run: fn(&Run) -> Result<Outcome>,
}

const SCENARIOS: [Scenario; 14] = [
    Scenario { name: "agent-killed", about: "the agent killed", run: kills::agent },
    Scenario { name: "collector-killed", about: "the collector killed", run: kills::collector },
    Scenario { name: "both-killed", about: "agent and collector killed", run: kills::agent_and_collector },
    Scenario { name: "subscriber-killed", about: "the subscriber killed", run: kills::subscriber },
    Scenario {
        name: "network",
        about: "the network cut, slow, reordering, losing and doubling packets",
        run: network::network,
    },
    Scenario { name: "spool-full", about: "the disk under the spool full", run: disk::spool },
    Scenario { name: "log-full", about: "the disk under the log full", run: disk::log },
    Scenario { name: "clock", about: "the clock set back an hour, and forth", run: clock::stepped },
    Scenario {
        name: "spool-truncated",
        about: "the spool cut at a random byte",
        run: damage::spool_truncated,
    },
    Scenario { name: "spool-altered", about: "random bytes in the spool", run: damage::spool_altered },
    Scenario { name: "log-truncated", about: "the log cut at a random byte", run: damage::log_truncated },
    Scenario { name: "log-altered", about: "random bytes in the log", run: damage::log_altered },
    Scenario { name: "upgrade", about: "other BPF programs under load", run: upgrade::programs },
    Scenario { name: "tiny-ring", about: "a ring that is far too small", run: ring::tiny },
];

/// One run of a scenario.
#[derive(Clone, Debug)]
struct Run {
    /// of the scenario and the run, for names of files and sessions
    name: String,
    kills: u32,
    random: fastrand::Rng,
}

/// What became of it.
#[derive(Clone, Debug)]
struct Outcome {
    faults: u64,
    verdict: Verdict,
    took: Duration,
    traffic: Option<Traffic>,
    /// why it failed, if it did
    wrong: Option<String>,
}

impl Outcome {
    /// Besides, this must be.
    fn must(mut self, what: &str, holds: impl FnOnce(&Self) -> bool) -> Self {
        if self.wrong.is_none() && !holds(&self) {
            self.wrong = Some(format!("it must be, and is not: {what}; {:?}", self.verdict));
        }
        self
    }
}

/// `podtrail-itest faults …`
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let name = OsString::from("podtrail-itest faults");
    let options = match Options::try_parse_from(std::iter::once(&name).chain(args)) {
        Ok(options) => options,
        Err(e) => e.exit(),
    };
    match run(&options) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("podtrail-itest faults: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<ExitCode> {
    for wanted in &options.scenario {
        let known = SCENARIOS.iter().any(|scenario| scenario.name == wanted);
        anyhow::ensure!(known, "no scenario {wanted:?}; --list says which there are");
    }
    let wanted = |scenario: &&Scenario| {
        options.scenario.is_empty() || options.scenario.iter().any(|name| name == scenario.name)
    };
    let scenarios: Vec<Scenario> = SCENARIOS.iter().filter(wanted).copied().collect();
    if options.list {
        for Scenario { name, about, .. } in scenarios {
            println!("{name}: {about}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(reason) = host::missing(Needs::Runtime) {
        println!("faults cannot be tried: {reason}");
        println!("test result: ok. 0 passed; 0 failed; {} ignored;", scenarios.len());
        return Ok(ExitCode::SUCCESS);
    }
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    eprintln!("faults: seed {seed}");
    harness::alone(|| rounds(options, &scenarios, seed))
}

/// All scenarios, one after the other, and again as long as there is time.
fn rounds(options: &Options, scenarios: &[Scenario], seed: u64) -> Result<ExitCode> {
    let end = options.soak.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let mut report = Report::new(scenarios);
    let mut round = 0;
    'rounds: loop {
        for (index, scenario) in scenarios.iter().enumerate() {
            if round > 0 && end.is_none_or(|end| Instant::now() >= end) {
                break 'rounds;
            }
            eprintln!("faults: {}: {} (seed {}, round {round})", scenario.name, scenario.about, seed);
            let mut hasher = DefaultHasher::new();
            (seed, round, scenario.name).hash(&mut hasher);
            let run = Run {
                name: format!("{}-{round}", scenario.name),
                kills: options.kills,
                random: fastrand::Rng::with_seed(hasher.finish()),
            };
            report.add(index, (scenario.run)(&run));
        }
        round += 1;
    }
    let table = report.table();
    println!("\n{table}");
    if let Some(file) = &options.report {
        std::fs::write(file, &table).with_context(|| format!("cannot write {}", file.display()))?;
    }
    println!(
        "test result: {}. {} passed; {} failed; 0 ignored;",
        report.word(),
        report.passed,
        report.failed
    );
    Ok(if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

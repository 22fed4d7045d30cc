//! `podtrail-agent`: what runs on every node.

use std::{error::Error, io::Write as _, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};
use podtrail::{
    agent::{self, AgentError},
    config::agent::{AgentConfig, Flags, Unload},
    doctor, probe,
    telemetry::{complain, logs, misused},
};

/// Records every command of every session in this node's containers.
#[derive(Debug, Parser)]
#[command(version, about, arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Record, and send to the collector, the node's socket or standard output
    Run(Box<Flags>),
    /// Say whether the agent can run on this node, and what is missing
    Doctor {
        /// How to say it
        #[arg(short, value_enum, default_value_t = Output::Text)]
        output: Output,
        /// The configuration to try
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Where the kernel side is pinned, as in `run`
        #[arg(long, value_name = "DIR")]
        pin: Option<String>,
        /// BTF of the running kernel, as in `run`
        #[arg(long, value_name = "FILE")]
        btf: Option<String>,
        #[arg(long, hide = true)]
        setns: Option<String>,
    },
    /// Take the kernel side off this node: a stopped agent leaves it recording
    Unload(Box<Unload>),
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Output {
    Text,
    Json,
}

const FAILED: u8 = 1;
const USAGE: u8 = 2;

pub(crate) fn main() -> ExitCode {
    match Args::try_parse().map(|args| args.command) {
        _ if probe::plays_along() => probe::PLAYED.into(),
        Ok(Command::Run(flags)) => run(*flags),
        Ok(Command::Doctor { output, config, pin, btf, setns }) => {
            doctor(output, Flags { config, pin, btf, setns, ..Flags::default() })
        }
        Ok(Command::Unload(flags)) => with((*flags).into(), |config| {
            agent::unload(config).map(|removed| print(&removed)).map(|()| true)
        }),
        Err(error) => misused("podtrail-agent", &error),
    }
}

fn doctor(output: Output, flags: Flags) -> ExitCode {
    with(flags, |config| {
        let report = agent::examine(config)?;
        print(&if output == Output::Text { doctor::text(&report) } else { doctor::json(&report) });
        Ok(report.can_run)
    })
}

fn with(flags: Flags, work: impl FnOnce(&AgentConfig) -> Result<bool, AgentError>) -> ExitCode {
    let (code, error): (u8, Box<dyn Error>) = match AgentConfig::load(flags).map(|config| work(&config)) {
        Ok(Ok(well)) => return ExitCode::from(if well { 0 } else { FAILED }),
        Ok(Err(error)) => (FAILED, error.into()),
        Err(error) => (USAGE, error.into()),
    };
    complain("podtrail-agent", &*error);
    code.into()
}

fn run(flags: Flags) -> ExitCode {
    with(flags, |config| {
        if let Err(error) = logs::init(config.log_level.as_deref(), config.log_format) {
            complain("podtrail-agent", &error);
            std::process::exit(USAGE.into());
        }
        agent::start(config).map(|()| true)
    })
}

// A reader that went away has seen enough; the exit code says the rest.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

//! `podtrail-agent`: what runs on every node.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};
use podtrail::{
    agent,
    config::agent::{AgentConfig, Flags},
    doctor, escape,
    telemetry::{complain, logs},
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
    },
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
        Ok(Command::Run(flags)) => run(*flags),
        Ok(Command::Doctor { output, config }) => doctor(output, config),
        Err(error) => usage(&error),
    }
}

fn doctor(output: Output, config: Option<PathBuf>) -> ExitCode {
    let config = match AgentConfig::load(Flags { config, ..Flags::default() }) {
        Ok(config) => config,
        Err(error) => return end(USAGE, &error),
    };
    let report = match agent::examine(&config) {
        Ok(report) => report,
        Err(error) => return end(FAILED, &error),
    };
    let told = if output == Output::Text { doctor::text(&report) } else { doctor::json(&report) };
    // A reader that went away has seen enough; the exit code says the rest.
    let _ = std::io::stdout().write_all(told.as_bytes());
    if report.can_run { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
}

fn run(flags: Flags) -> ExitCode {
    let config = match AgentConfig::load(flags) {
        Ok(config) => config,
        Err(error) => return end(USAGE, &error),
    };
    if let Err(error) = logs::init(config.log_level.as_deref(), config.log_format) {
        return end(USAGE, &error);
    }
    match agent::start(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(FAILED, &error),
    }
}

fn end(code: u8, error: &dyn std::error::Error) -> ExitCode {
    complain("podtrail-agent", error);
    ExitCode::from(code)
}

/// Help goes out as it is; of a mistake, the one line that says what it was.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
    eprintln!("podtrail-agent: {}; see podtrail-agent --help", escape::guard(line));
    ExitCode::from(USAGE)
}

//! `podtrail-agent`: what runs on every node.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use podtrail::{
    agent,
    config::agent::{AgentConfig, Flags},
    telemetry::{escape, logs},
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
}

/// Exit codes: failed, and wrong usage.
const FAILED: u8 = 1;
const USAGE: u8 = 2;

pub(crate) fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    match args.command {
        Command::Run(flags) => run(*flags),
    }
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

/// Says what is wrong, a line for each thing that is.
fn end(code: u8, error: &dyn std::error::Error) -> ExitCode {
    for line in error.to_string().lines() {
        eprintln!("podtrail-agent: {}", escape::line(line));
    }
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
    eprintln!("podtrail-agent: {}; see podtrail-agent --help", escape::line(line));
    ExitCode::from(USAGE)
}

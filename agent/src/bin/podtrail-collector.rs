//! `podtrail-collector`: arguments → configuration → run → exit code.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use podtrail::{
    collector,
    config::collector::{CollectorConfig, Flags},
    telemetry::{complain, logs},
};

/// Takes in what podtrail's agents report, keeps it, and serves readers.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the collector until SIGTERM or SIGINT
    Run(Box<Flags>),
}

const FAILED: u8 = 1;
const USAGE: u8 = 2;

pub(crate) fn main() -> ExitCode {
    let Args { command: Command::Run(flags) } = Args::parse();
    let config = match CollectorConfig::load(*flags) {
        Ok(config) => config,
        Err(error) => return end(USAGE, &error),
    };
    if let Err(error) = logs::init(config.log_level.as_deref(), config.log_format) {
        return end(USAGE, &error);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end(FAILED, &error),
    };
    let result = runtime.block_on(collector::run(config));
    // Whatever still hangs in a blocking call must not hold up the end.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(FAILED, &error),
    }
}

fn end(code: u8, error: &dyn std::error::Error) -> ExitCode {
    complain("podtrail-collector", error);
    ExitCode::from(code)
}

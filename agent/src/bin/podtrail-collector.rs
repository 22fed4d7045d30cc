//! `podtrail-collector`: arguments → configuration → run → exit code.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use podtrail::{
    collector,
    config::collector::{CollectorConfig, CollectorFlags},
    telemetry::{LogFormat, escape, logs},
};

/// Takes in what podtrail's agents report, keeps it, and serves readers.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    /// What to log, as in RUST_LOG: error, warn, info, debug, or by module [default: info]
    #[arg(long, global = true, value_name = "FILTER")]
    log_level: Option<String>,
    /// How log lines look
    #[arg(long, global = true, value_enum, default_value_t)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the collector until SIGTERM or SIGINT
    Run {
        /// Configuration (TOML); flags go before it
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Address for agents and readers; loopback only [default: 127.0.0.1:7443]
        #[arg(long, value_name = "ADDRESS")]
        listen: Option<String>,
        /// Directory of the log [default: /var/lib/podtrail/collector]
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// Address for /metrics, /healthz and /readyz, or none [default: 127.0.0.1:9443]
        #[arg(long, value_name = "ADDRESS")]
        metrics_listen: Option<String>,
    },
}

pub(crate) fn main() -> ExitCode {
    let Arguments { log_level, log_format, command } = Arguments::parse();
    match start(log_level.as_deref(), log_format, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("podtrail-collector: {}", escape::line(&e.to_string()));
            ExitCode::FAILURE
        }
    }
}

fn start(log_level: Option<&str>, log_format: LogFormat, command: Command) -> anyhow::Result<()> {
    logs::init(log_level, log_format)?;
    let Command::Run { config, listen, data, metrics_listen } = command;
    let flags = CollectorFlags { listen, metrics_listen, data };
    let config = CollectorConfig::load(config.as_deref(), flags)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(collector::run(config));
    // Whatever still hangs in a blocking call must not hold up the end.
    runtime.shutdown_background();
    Ok(result?)
}

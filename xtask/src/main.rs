//! Everything a developer of podtrail runs: `cargo xtask --help`.
//!
//! It starts other programs and says which; it must never do in silence what a person would have to undo.

mod bench;
mod demo;
mod ebpf;
mod fuzz;
mod image;
mod lint;
mod machine;
mod package;
mod root;
mod setup;
mod sh;
mod stage;
mod test;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// What shells use for a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// Set-up, builds, tests, demo and benchmarks of podtrail.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what is missing: packages, and the BPF linker
    Setup {
        /// Also what only `bench` needs
        #[arg(long)]
        bench: bool,
    },
    /// Build the BPF object that the agent embeds
    BuildEbpf(ebpf::Options),
    /// Build the BPF object and the three programs
    Build {
        /// With optimisations, as it is shipped
        #[arg(long)]
        release: bool,
    },
    /// Watch it work: two sessions in a real container and one from the host, as the collector knows them
    Demo(demo::Options),
    /// Measure
    #[command(subcommand)]
    Bench(bench::Subject),
    /// Run every test; as root also those against the real kernel and real containers
    Test(test::Options),
    /// Run the integration tests on other kernels, in virtual machines
    Vm(vm::Options),
    /// Build the container images, without a daemon
    Image(image::Options),
    /// Build the Debian package, for nodes without Kubernetes
    Package(package::Options),
    /// Feed the fuzz targets with what nobody would think of
    Fuzz(fuzz::Options),
    /// Check formatting, lints, the rules of the code, and dependencies
    Lint,
    /// Only check dependencies: licences, sources, known vulnerabilities
    Deny,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if error.is::<stage::Interrupted>() {
                eprintln!("{}", stage::Interrupted);
                return ExitCode::from(INTERRUPTED);
            }
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Setup { bench } => setup::run(if bench { setup::For::Bench } else { setup::For::Tests }),
        Command::BuildEbpf(options) => ebpf::build(&options).map(drop),
        Command::Build { release } => {
            setup::run(setup::For::Build)?;
            ebpf::build_all(release).map(drop)
        }
        Command::Bench(subject) => bench::run(&subject),
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Vm(options) => vm::run(&options),
        Command::Package(options) => package::run(&options),
        Command::Image(options) => image::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Lint => lint::run(),
        Command::Deny => lint::deny::run(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_makes_sense() {
        super::Arguments::command().debug_assert();
    }
}

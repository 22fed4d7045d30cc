//! podtrail's own programs, run by this binary under their names: nothing else need be there.
//!
//! Their `main`s are compiled in as they are shipped, arguments and all.

use std::{
    env,
    ffi::OsString,
    io::Read,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitCode},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{host, surroundings};

#[path = "../../../agent/src/bin/podtrail-agent.rs"]
mod podtrail_agent;
#[path = "../../../agent/src/bin/podtrail-collector.rs"]
mod podtrail_collector;

/// Set for a daemon whose standard input is a pipe that the tests hold open.
const LIFELINE: &str = "PODTRAIL_ITEST_LIFELINE";

/// The program that argv[0] names, if it is podtrail's.
pub(crate) fn by_name(argv0: &Path) -> Option<fn() -> ExitCode> {
    let main = match argv0.file_name()?.to_str()? {
        "podtrail-agent" => podtrail_agent::main,
        "podtrail-collector" => podtrail_collector::main,
        "podtrail" => podtrail::cli::main,
        "podtrail-reader" => crate::faults::reader,
        _ => return None,
    };
    if let Err(e) = surroundings::enter() {
        eprintln!("podtrail-itest: {e:#}");
        return Some(|| ExitCode::FAILURE);
    }
    if env::var_os(LIFELINE).is_some() {
        thread::spawn(end_with_parent);
    }
    Some(main)
}

/// `podtrail-itest agent|collector|cli …`: the same, for people.
pub(crate) fn main(program: &str, args: &[OsString]) -> ExitCode {
    let name = match program {
        "cli" => "podtrail",
        "agent" => "podtrail-agent",
        _ => "podtrail-collector",
    };
    let error = Command::new("/proc/self/exe").arg0(name).args(args).exec();
    eprintln!("podtrail-itest: cannot become {name}: {error}");
    ExitCode::FAILURE
}

/// One of podtrail's programs.
pub(crate) fn command(name: &str) -> Command {
    let mut command = Command::new(&host().exe);
    // What the developer's environment says must not reach what is tested.
    command.arg0(name).env_clear().env("PATH", "/bin:/usr/bin");
    command
}

/// A daemon of podtrail's that does not outlive this process, if its standard input is a pipe from here.
pub(crate) fn daemon(name: &str) -> Command {
    let mut command = command(name);
    command.env(LIFELINE, "1");
    command
}

/// However the tests end, their end of the pipe is closed.
fn end_with_parent() {
    let mut nothing = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut nothing);
    let _ = kill(Pid::this(), Signal::SIGTERM);
}

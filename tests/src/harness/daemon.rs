//! podtrail's own programs, run by this binary: nothing else need be there.

use std::{ffi::OsString, io::Read, process::ExitCode, thread};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// `podtrail-itest agent|collector|cli …`: as `podtrail-agent`, `podtrail-collector` and `podtrail` would be called.
pub(crate) fn main(program: &str, args: &[OsString]) -> ExitCode {
    if program != "cli" {
        thread::spawn(end_with_parent);
    }
    let name = match program {
        "cli" => "podtrail".to_owned(),
        daemon => format!("podtrail-{daemon}"),
    };
    let args = std::iter::once(OsString::from(name)).chain(args.iter().cloned());
    let _ = args;
    eprintln!("podtrail-itest: {program} is not there yet");
    ExitCode::FAILURE
}

/// A daemon must not outlive the tests, however they end: its standard input is a pipe that they hold open.
fn end_with_parent() {
    let mut nothing = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut nothing);
    let _ = kill(Pid::this(), Signal::SIGTERM);
}

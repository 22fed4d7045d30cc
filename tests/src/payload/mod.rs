//! What runs inside containers, or goes into them: each program does one thing, and says with its exit code that it
//! did it.
//!
//! They use no shell and no other program unless told which, so that a test knows every exec.

mod init;

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Result, bail};

/// `podtrail-itest payload <name> …`
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    match run(args) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("podtrail-itest payload {args:?}: {e:#}");
            ExitCode::from(99)
        }
    }
}

fn run(args: &[OsString]) -> Result<ExitCode> {
    let Some((name, rest)) = args.split_first() else { bail!("which payload?") };
    match crate::text(name)? {
        "init" => init::run(rest),
        other => bail!("no such payload: {other}"),
    }
}

//! Children, one or very many.

use std::{
    ffi::OsString,
    process::{Command, ExitCode},
};

use anyhow::{Result, bail, ensure};

use super::run_program;
use crate::text;

/// `spawn PROGRAM ARG…`: by posix_spawn, which shares memory with the child until it executes.
pub(super) fn one(args: &[OsString]) -> Result<ExitCode> {
    run_program(args)
}

/// `storm N PROGRAM NAME`: runs the program N times, with NAME and the run's number as its arguments; prints how many
/// succeeded.
pub(super) fn storm(args: &[OsString]) -> Result<ExitCode> {
    let [count, program, name] = args else { bail!("storm N PROGRAM NAME") };
    let mut succeeded = 0_u32;
    for number in 0..text(count)?.parse::<u32>()? {
        let status = Command::new(program).arg(name).arg(number.to_string()).status()?;
        ensure!(status.success(), "{status}");
        succeeded += 1;
    }
    println!("{succeeded}");
    Ok(ExitCode::SUCCESS)
}

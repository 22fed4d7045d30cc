//! Children, one or very many.

use std::{
    ffi::OsString,
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

use anyhow::{Result, bail, ensure};

use super::run_program;
use crate::text;

/// `spawn PROGRAM ARG…`: by posix_spawn, which shares memory with the child until it executes.
pub(super) fn one(args: &[OsString]) -> Result<ExitCode> {
    run_program(args)
}

/// `spawn-search DIRECTORIES NAME`: a child looks for the program in each directory, and must not find it.
pub(super) fn search(args: &[OsString]) -> Result<ExitCode> {
    let [directories, name] = args else { bail!("spawn-search DIRECTORIES NAME") };
    let spawned = Command::new(name).env("PATH", directories).spawn();
    ensure!(spawned.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound), "it was found");
    Ok(ExitCode::SUCCESS)
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

/// What the command `number` of a volley called `name` is run with, its program first, and how it exits; `large`: some
/// have kilobytes of arguments.
pub(crate) fn volley_command(name: &str, number: u32, large: bool) -> (Vec<String>, i32) {
    let (program, code) = if number % 7 == 3 { ("/bin/false", 1) } else { ("/bin/true", 0) };
    let mut argv = vec![program.to_owned(), name.to_owned(), number.to_string()];
    if large && number % 16 == 5 {
        // More than one record of the ring carries.
        argv.push("x".repeat(2500 + 100 * (number as usize % 50)));
    }
    (argv, code)
}

/// `volley COUNT NAME PAUSE large|small`: runs as many commands one after the other, each with arguments that no other has, so
/// many microseconds apart; prints how many ran.
pub(super) fn volley(args: &[OsString]) -> Result<ExitCode> {
    let [count, name, pause, large] = args else { bail!("volley COUNT NAME PAUSE large|small") };
    let pause = Duration::from_micros(text(pause)?.parse()?);
    let mut ran = 0_u32;
    for number in 0..text(count)?.parse::<u32>()? {
        let (argv, code) = volley_command(text(name)?, number, text(large)? == "large");
        let Some((program, rest)) = argv.split_first() else { bail!("no program") };
        let status = Command::new(program).args(rest).status()?;
        ensure!(status.code() == Some(code), "{argv:?}: {status}");
        ran += 1;
        thread::sleep(pause);
    }
    println!("{ran}");
    Ok(ExitCode::SUCCESS)
}

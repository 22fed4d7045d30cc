//! What runs inside containers, or goes into them: each program does one thing, and says with its exit code that it
//! did it.
//!
//! They use no shell and no other program unless told which, so that a test knows every exec.

mod cgroup;
mod clone;
mod exec;
mod flood;
mod init;
mod join;
mod link;
mod slot;
mod spawn;
mod tun;

use std::{
    env,
    ffi::{CString, OsStr, OsString},
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    os::unix::ffi::OsStrExt,
    process::ExitCode,
};

use anyhow::{Context, Result, bail, ensure};

pub(crate) use self::{
    exec::{hex, sized_argv},
    link::ENDS as LINK_ENDS,
    spawn::volley_command,
};
use crate::text;

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
    match text(name)? {
        "init" => init::run(rest),
        "exit" => exit(rest),
        "gate" => gate(rest),
        "say-pid" => say_pid(rest),
        "move" => cgroup::enter(rest),
        "nest" => cgroup::nest(rest),
        "stage" => cgroup::stage(rest),
        "staged" => cgroup::staged(rest),
        "clone-into" => clone::into_cgroup(rest),
        "clone-into-with" => clone::into_cgroup_with(rest),
        "clone-parent" => clone::to_parent(rest),
        "exec-raw" => exec::raw(rest),
        "exec-sized" => exec::sized(rest),
        "exec-with" => exec::with(rest),
        "exec-fd" => exec::descriptor(rest),
        "exec-deleted" => exec::deleted(rest),
        "exec-memfd" => exec::memfd(rest),
        "exec-thread" => exec::thread(rest),
        "exec-chain" => exec::chain(rest),
        "exec-failing-often" => exec::failing_often(rest),
        "spawn-search" => spawn::search(rest),
        "exec-search" => exec::search(rest),
        "exec-failing" => exec::failing(rest),
        "execat-failing" => exec::failing_at(rest),
        "join" => join::run(rest),
        "spawn" => spawn::one(rest),
        "storm" => spawn::storm(rest),
        "volley" => spawn::volley(rest),
        "flood" => flood::run(rest),
        "link" => link::run(rest),
        "take-out" => slot::take_out(rest),
        other => bail!("no such payload: {other}"),
    }
}

/// `exit CODE`
fn exit(args: &[OsString]) -> Result<ExitCode> {
    let [code] = args else { bail!("exit CODE") };
    Ok(ExitCode::from(text(code)?.parse::<u8>()?))
}

/// `gate PIPE`: exits with the code that somebody writes there.
fn gate(args: &[OsString]) -> Result<ExitCode> {
    let [pipe] = args else { bail!("gate PIPE") };
    exit(&[wait_at(pipe)?.into()])
}

/// `say-pid PIPE CODE`: writes its pid, as it sees it itself, and exits.
fn say_pid(args: &[OsString]) -> Result<ExitCode> {
    let [pipe, code] = args else { bail!("say-pid PIPE CODE") };
    say(pipe, &std::process::id().to_string())?;
    exit(std::slice::from_ref(code))
}

/// The line that somebody writes to a pipe.
fn wait_at(pipe: &OsStr) -> Result<String> {
    let mut line = String::new();
    BufReader::new(File::open(pipe).with_context(|| format!("cannot open {}", pipe.display()))?)
        .read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

/// Writes a line to a pipe.
fn say(pipe: &OsStr, line: &str) -> Result<()> {
    let mut file = OpenOptions::new().write(true).open(pipe)?;
    Ok(file.write_all(format!("{line}\n").as_bytes())?)
}

/// Arguments as execve wants them.
fn c_strings(args: &[OsString]) -> Result<Vec<CString>> {
    args.iter().map(|arg| CString::new(arg.as_bytes()).context("a NUL in an argument")).collect()
}

/// The environment as execve wants it.
fn environment() -> Result<Vec<CString>> {
    let mut all = Vec::new();
    for (name, value) in env::vars_os() {
        all.push(CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())?);
    }
    Ok(all)
}

/// The environment that stands in a file, each variable with its NUL.
fn environment_of(file: &OsStr) -> Result<Vec<CString>> {
    let bytes = std::fs::read(file)?;
    let variables = bytes.split_inclusive(|byte| *byte == 0);
    variables.map(|variable| Ok(CString::from_vec_with_nul(variable.to_vec())?)).collect()
}

/// Becomes the program `args[0]`.
fn become_program(args: &[OsString]) -> Result<ExitCode> {
    let args = c_strings(args)?;
    let program = args.first().context("no program")?;
    nix::unistd::execve(program, &args, &environment()?)?;
    Ok(ExitCode::FAILURE)
}

/// Runs the program `args[0]` and takes on its exit code.
fn run_program(args: &[OsString]) -> Result<ExitCode> {
    let Some((program, rest)) = args.split_first() else { bail!("no program") };
    let status = std::process::Command::new(program).args(rest).status()?;
    ensure!(status.code().is_some(), "{}: {status}", program.display());
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(99))?))
}

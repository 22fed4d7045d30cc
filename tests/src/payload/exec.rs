//! Every way to become another program.

use std::{
    env,
    ffi::{CString, OsString},
    fs::{self, File},
    io::{self, Seek, Write},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    process::ExitCode,
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    fcntl::AtFlags,
    sys::memfd::{MFdFlags, memfd_create},
    unistd::{execve, execveat},
};

use super::{become_program, c_strings, environment, environment_of};
use crate::text;

/// `exec-raw PROGRAM [HEX…]`: with exactly these arguments, argv[0] among them, each given in hexadecimal.
pub(super) fn raw(args: &[OsString]) -> Result<ExitCode> {
    let Some((program, args)) = args.split_first() else { bail!("exec-raw PROGRAM [HEX…]") };
    let args = args.iter().map(|arg| Ok(CString::new(unhex(text(arg)?)?)?)).collect::<Result<Vec<_>>>()?;
    execve(&CString::new(program.as_bytes())?, &args, &environment()?)?;
    Ok(ExitCode::FAILURE)
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    // An argument that is empty cannot be told apart on every command line: it is written "-".
    let text = text.trim_matches('-');
    ensure!(text.len().is_multiple_of(2), "odd: {text}");
    (0..text.len())
        .step_by(2)
        .map(|at| Ok(u8::from_str_radix(text.get(at..at + 2).context("not hexadecimal")?, 16)?))
        .collect()
}

/// The arguments that make an argument area of exactly `bytes` bytes: `true`, then numbered ones of about 1,000.
pub(crate) fn sized_argv(bytes: usize) -> Vec<String> {
    let mut argv = vec!["true".to_owned()];
    let mut left = bytes.saturating_sub(5);
    while left > 0 {
        // What would be left over must be enough for an argument of its own.
        let size = if left > 1100 { 1000 } else { left };
        let number = format!("{:06}-", argv.len());
        let mut arg: String = number.chars().chain(std::iter::repeat('x')).take(size - 1).collect();
        arg.shrink_to_fit();
        argv.push(arg);
        left -= size;
    }
    argv
}

/// `exec-sized PROGRAM BYTES`: with an argument area of exactly so many bytes.
pub(super) fn sized(args: &[OsString]) -> Result<ExitCode> {
    let [program, bytes] = args else { bail!("exec-sized PROGRAM BYTES") };
    let argv: Vec<OsString> = sized_argv(text(bytes)?.parse()?).into_iter().map(OsString::from).collect();
    execve(&CString::new(program.as_bytes())?, &c_strings(&argv)?, &environment()?)?;
    Ok(ExitCode::FAILURE)
}

/// `exec-with FILE PROGRAM ARG…`: with the environment that stands in the file, each variable with its NUL.
pub(super) fn with(args: &[OsString]) -> Result<ExitCode> {
    let [file, program @ ..] = args else { bail!("exec-with FILE PROGRAM ARG…") };
    let argv = c_strings(program)?;
    execve(argv.first().context("no program")?, &argv, &environment_of(file)?)?;
    Ok(ExitCode::FAILURE)
}

/// `exec-fd PROGRAM ARG…`: through a descriptor that is open on it.
pub(super) fn descriptor(args: &[OsString]) -> Result<ExitCode> {
    let program = args.first().context("exec-fd PROGRAM ARG…")?;
    execute_open(&File::open(program)?, args)
}

/// `exec-deleted PROGRAM ARG…`: a copy that has no name any more.
pub(super) fn deleted(args: &[OsString]) -> Result<ExitCode> {
    let program = args.first().context("exec-deleted PROGRAM ARG…")?;
    let copy = "/tmp/busybox-gone";
    fs::copy(program, copy)?;
    fs::set_permissions(copy, fs::Permissions::from_mode(0o755))?;
    let file = File::open(copy)?;
    fs::remove_file(copy)?;
    execute_open(&file, args)
}

/// `exec-memfd PROGRAM ARG…`: a copy that lives in memory only.
pub(super) fn memfd(args: &[OsString]) -> Result<ExitCode> {
    let program = args.first().context("exec-memfd PROGRAM ARG…")?;
    let mut memory = File::from(memfd_create(c"busybox-in-memory", MFdFlags::empty())?);
    io::copy(&mut File::open(program)?, &mut memory)?;
    memory.flush()?;
    memory.rewind()?;
    // A file that is open for writing cannot be executed.
    let file = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memory)))?;
    drop(memory);
    execute_open(&file, args)
}

fn execute_open(file: &File, args: &[OsString]) -> Result<ExitCode> {
    execveat(file, c"", &c_strings(args)?, &environment()?, AtFlags::AT_EMPTY_PATH)?;
    Ok(ExitCode::FAILURE)
}

/// `exec-thread PROGRAM ARG…`: from a thread that is not the process's first.
pub(super) fn thread(args: &[OsString]) -> Result<ExitCode> {
    let args = args.to_vec();
    let failed = thread::spawn(move || become_program(&args)).join();
    failed.unwrap_or_else(|_| bail!("the thread failed"))
}

/// `exec-chain N`: becomes itself N times, and exits with 7.
pub(super) fn chain(args: &[OsString]) -> Result<ExitCode> {
    let [left] = args else { bail!("exec-chain N") };
    let left: u32 = text(left)?.parse()?;
    let Some(next) = left.checked_sub(1) else { return Ok(ExitCode::from(7)) };
    let own = env::args_os().next().context("no name")?;
    become_program(&[own, "payload".into(), "exec-chain".into(), next.to_string().into()])
}

/// `exec-failing PROGRAM NUMBER ARG…`: tries to become the program, which must fail with this number.
pub(super) fn failing(args: &[OsString]) -> Result<ExitCode> {
    let [program, number, args @ ..] = args else { bail!("exec-failing PROGRAM NUMBER ARG…") };
    let failed = execve(&CString::new(program.as_bytes())?, &c_strings(args)?, &environment()?);
    expect_failure(failed.err(), number)
}

/// `execat-failing DIRECTORY NAME NUMBER ARG…`: likewise by `execveat`, with an empty name the directory itself.
pub(super) fn failing_at(args: &[OsString]) -> Result<ExitCode> {
    let [directory, name, number, args @ ..] = args else {
        bail!("execat-failing DIRECTORY NAME NUMBER ARG…")
    };
    let name = CString::new(name.as_bytes().strip_prefix(b"-").unwrap_or(name.as_bytes()))?;
    let directory = File::open(directory)?;
    let failed = execveat(&directory, &name, &c_strings(args)?, &environment()?, AtFlags::AT_EMPTY_PATH);
    expect_failure(failed.err(), number)
}

fn expect_failure(error: Option<nix::errno::Errno>, number: &std::ffi::OsStr) -> Result<ExitCode> {
    let wanted: i32 = text(number)?.parse()?;
    ensure!(error == Some(nix::errno::Errno::from_raw(wanted)), "{error:?}, and not {wanted}");
    Ok(ExitCode::SUCCESS)
}

/// `exec-search DIRECTORIES NAME ARG…`: looks for the program in each directory, as shells do, and becomes it.
pub(super) fn search(args: &[OsString]) -> Result<ExitCode> {
    let [directories, argv @ ..] = args else { bail!("exec-search DIRECTORIES NAME ARG…") };
    let (name, argv) = (text(argv.first().context("no name")?)?, c_strings(argv)?);
    for directory in text(directories)?.split(':') {
        match execve(&CString::new(format!("{directory}/{name}"))?, &argv, &environment()?) {
            Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR | nix::errno::Errno::EACCES) => {}
            Err(other) => bail!("{directory}/{name}: {other}"),
            Ok(_) => {}
        }
    }
    Ok(ExitCode::from(127))
}

/// `exec-failing-often PROGRAM TIMES`: tries in vain to become the program, so many times.
pub(super) fn failing_often(args: &[OsString]) -> Result<ExitCode> {
    let [program, times] = args else { bail!("exec-failing-often PROGRAM TIMES") };
    let (path, environment) = (CString::new(program.as_bytes())?, environment()?);
    for number in 0..text(times)?.parse::<u32>()? {
        let argv = [path.clone(), CString::new(number.to_string())?];
        ensure!(execve(&path, &argv, &environment) == Err(nix::errno::Errno::EACCES), "it ran");
    }
    Ok(ExitCode::SUCCESS)
}

//! Tests of podtrail against real kernels, runtimes and faults, in one plain binary.
//!
//! It is its own helper: `payload` runs inside containers, `agent`, `collector` and `cli` are podtrail's own
//! programs, so that a machine with nothing but this binary, busybox, runc and crun can run everything. It leaves
//! nothing behind: no process, mount, cgroup or pinned BPF object.
//!
//! `faults` is the other half: podtrail broken in every way under a storm of sessions, see [`faults`].
//!
//! | variable | what it sets |
//! |---|---|
//! | `PODTRAIL_ITEST_RUNC`, `…_CRUN`, `…_BUSYBOX`, `…_CONTAINERD` | the programs; default: found in the usual places |
//! | `PODTRAIL_ITEST_TMP` | where temporary files go; default: `/tmp` |
//! | `PODTRAIL_ITEST_SLOW` | multiplies every time limit, divides the size of storms; default: 1 |
//! | `PODTRAIL_ITEST_AGENT` | options for every agent besides, such as `--setns tracepoint` |
//! | `PODTRAIL_ITEST_WAYS` | the ways to see system calls that this kernel has, with commas; default: not known |
//! | `PODTRAIL_ITEST_KEEP` | set: the agents' and collectors' logs are kept |
//! | `PODTRAIL_ITEST_ONLY` | parts of tests' names, with commas: the others are skipped |
//! | `CI` | `true`: a test that cannot run fails |

#![expect(clippy::panic, reason = "a test binary: to panic is to fail the test")]

mod cases;
mod faults;
mod harness;
mod payload;

use std::{
    env,
    ffi::{OsStr, OsString},
    path::Path,
    process::ExitCode,
};

fn main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().collect();
    if let Some(program) = args.first().and_then(|name| harness::daemon::by_name(Path::new(name))) {
        return program();
    }
    let rest = args.get(2..).unwrap_or_default();
    match args.get(1).and_then(|arg| arg.to_str()) {
        Some("payload") => payload::main(rest),
        Some("faults") => faults::main(rest),
        Some("helper") => harness::helper::main(rest),
        Some(daemon @ ("agent" | "collector" | "cli")) => harness::daemon::main(daemon, rest),
        _ => harness::run(cases::all()),
    }
}

/// What an argument says, for programs that are told only text.
fn text(arg: &OsStr) -> anyhow::Result<&str> {
    arg.to_str().ok_or_else(|| anyhow::anyhow!("argument is not UTF-8: {}", arg.display()))
}

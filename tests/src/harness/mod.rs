//! What the tests stand on: the machine, containers, agents, and views of what agents reported.

pub(crate) mod agent;
pub(crate) mod api_server;
pub(crate) mod attaches;
pub(crate) mod certificates;
pub(crate) mod cgroup;
pub(crate) mod collector;
pub(crate) mod container;
pub(crate) mod containerd;
pub(crate) mod daemon;
pub(crate) mod deployed;
pub(crate) mod exec;
pub(crate) mod filler;
pub(crate) mod helper;
mod hook_cost;
pub(crate) mod host;
pub(crate) mod kubelet;
mod left_out;
pub(crate) mod leftovers;
pub(crate) mod node;
pub(crate) mod process;
pub(crate) mod runtime;
pub(crate) mod session;
pub(crate) mod surroundings;
pub(crate) mod verifier;
pub(crate) mod wait;

use std::{env, process::ExitCode};

use anyhow::Context as _;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

pub(crate) use self::{
    agent::Agent,
    container::{Container, Runtime, Spec},
    host::host,
    node::Cx,
    session::{Session, want},
    wait::{factor, until, within},
};

/// What a case needs to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// no agent, and no privilege
    Nothing,
    /// root and the runtimes
    Runtime,
    /// besides, the one agent that all such cases share
    SharedAgent,
    /// besides, to be the only one that runs an agent
    OwnAgent,
    /// besides, containerd
    Containerd,
}

impl Needs {
    /// The node to itself.
    pub(crate) fn alone(self) -> bool {
        matches!(self, Self::OwnAgent | Self::Containerd)
    }
}

/// One test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) needs: Needs,
    pub(crate) run: fn(&Cx) -> anyhow::Result<()>,
}

/// Lists the cases of a module: `cases! { "module", Needs: function, function; Needs: function }`.
#[macro_export]
macro_rules! cases {
    ($module:literal, $($needs:ident: $($case:ident),+ $(,)?);+ $(;)?) => {
        pub(crate) fn cases() -> Vec<$crate::harness::Case> {
            vec![$($($crate::harness::Case {
                name: concat!($module, "::", stringify!($case)),
                needs: $crate::harness::Needs::$needs,
                run: $case,
            }),+),+]
        }
    };
}

/// Runs what the command line asks for, as `cargo test` would.
pub(crate) fn run(mut cases: Vec<Case>) -> ExitCode {
    let arguments = Arguments::from_args();
    if let Err(e) = left_out::check(&cases.iter().map(|case| case.name).collect::<Vec<_>>()) {
        eprintln!("{e}");
        return ExitCode::FAILURE;
    }
    // Those that want the node to themselves come last: they would only make the others wait.
    cases.sort_by_key(|case| case.needs.alone());
    let trials = cases.into_iter().map(trial).collect();
    let conclusion = if arguments.list {
        Ok(libtest_mimic::run(&arguments, trials))
    } else {
        alone(|| Ok(libtest_mimic::run(&arguments, trials)))
    };
    match conclusion {
        Ok(conclusion) if !conclusion.has_failed() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does what makes containers, mounts and processes, between removing what former runs left and what this one leaves.
pub(crate) fn alone<T>(job: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let mut sweeper = None;
    if nix::unistd::geteuid().is_root() {
        if let Err(e) = leftovers::remove() {
            eprintln!("cannot remove what a former run left: {e:#}");
        }
        match leftovers::Sweeper::start() {
            Ok(started) => sweeper = Some(started),
            Err(e) => eprintln!("an interrupt will leave things behind: {e:#}"),
        }
    }
    let done = job();
    let ended = node::end().and_then(|()| sweeper.map_or(Ok(()), leftovers::Sweeper::end));
    ended.context("cannot clean up")?;
    done
}

fn trial(case: Case) -> Trial {
    Trial::ignorable_test(case.name, move || {
        if let Some(reason) = left_out::reason(case.name) {
            return Ok(Completion::ignored_with(reason));
        }
        if let Some(reason) = host::missing(case.needs) {
            // A small machine, such as a virtual one for old kernels, says that it has none.
            let told = case.needs == Needs::Containerd
                && env::var_os("PODTRAIL_ITEST_CONTAINERD").is_some_and(|program| program == "none");
            return if !told && env::var_os("CI").is_some_and(|ci| ci == "true") {
                Err(Failed::from(format!("cannot run: {reason}")))
            } else {
                Ok(Completion::ignored_with(reason))
            };
        }
        let failed = |why: String| {
            // All of them are told at the end again; a machine that dies before has said it.
            eprintln!("\nfailed: {}: {why}", case.name);
            Failed::from(why)
        };
        let cx = Cx::begin(&case).map_err(|e| failed(format!("cannot begin: {e:#}")))?;
        (case.run)(&cx).map_err(|e| failed(format!("{e:#}{}", cx.story())))?;
        Ok(Completion::Completed)
    })
}

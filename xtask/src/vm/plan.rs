//! Which machines there are, and what each runs.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::archive::{self, Release};

/// A line of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Line {
    #[value(name = "5.10")]
    #[serde(rename = "5.10")]
    V5_10,
    #[value(name = "6.1")]
    #[serde(rename = "6.1")]
    V6_1,
    #[value(name = "6.12")]
    #[serde(rename = "6.12")]
    V6_12,
    #[value(name = "7")]
    #[serde(rename = "7")]
    V7,
    // No result is of it.
    #[serde(skip)]
    All,
}

impl Line {
    pub(super) fn release(self) -> Option<&'static Release> {
        match self {
            Self::V5_10 => Some(&archive::BULLSEYE),
            Self::V6_1 => Some(&archive::BOOKWORM),
            Self::V6_12 => Some(&archive::TRIXIE),
            Self::V7 => Some(&archive::SID),
            Self::All => None,
        }
    }
}

/// What the machine's processor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Arch {
    #[value(name = "x86_64")]
    X86_64,
    Aarch64,
}

impl Arch {
    /// As Rust has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// As Debian has it.
    pub(super) fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// Of the machine that this runs on.
    pub(super) fn own() -> Option<Self> {
        Self::value_variants().iter().find(|arch| arch.as_str() == std::env::consts::ARCH).copied()
    }
}

/// How cgroups are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cgroups {
    V2,
    Hybrid,
    V1,
}

impl Cgroups {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
            Self::V1 => "v1",
        }
    }
}

/// How system calls are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Hook {
    Auto,
    Fexit,
    Kprobe,
    Tracepoint,
}

impl Hook {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fexit => "fexit",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        }
    }
}

/// A part of the tests, the longest first. What a machine leaves out is said in its table, with the reason here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Part {
    /// Every test
    All,
    /// Those that depend on the kernel
    Kernel,
    /// Those that depend on how cgroups are mounted
    Cgroups,
    /// The part that is run before every change
    Ci,
    /// Those that depend on the hooks for system calls
    Hooks,
}

impl Part {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Kernel => "kernel",
            Self::Cgroups => "cgroups",
            Self::Hooks => "hooks",
            Self::Ci => "ci",
        }
    }

    /// Beginnings of the names of its tests; none: all.
    pub(super) fn only(self) -> &'static [&'static str] {
        match self {
            Self::All => &[],
            Self::Kernel => &[
                "verifier::",
                "fixtures::",
                "entries::",
                "ephemeral::",
                "joins::",
                "failed",
                "hooks::",
                "kernels::",
                "tasks::",
                "argv::",
                "files::",
                "cgroups::",
                "agents::",
                "pins::",
                "skips::",
                "roots::",
            ],
            Self::Cgroups => &[
                "fixtures::",
                "entries::",
                "ephemeral::a_debug",
                "joins::",
                "cgroups::",
                "agents::a_late",
                "agents::a_session_keeps",
                "pins::the_next",
                "roots::ids_that",
            ],
            Self::Hooks => &["joins::", "failed", "agents::a_late_agent_finds_a_join"],
            Self::Ci => &[
                "verifier::",
                "fixtures::every",
                "entries::exec_by",
                "entries::each_runtimes",
                "entries::a_terminal_by_runc",
                "entries::detached_as",
                "entries::a_process_that_moves_itself_in",
                "entries::names_of_kubernetes",
                "joins::nsenter",
                "joins::one_setns",
                "joins::a_thread_joins_and_executes",
                "hooks::",
                "cgroups::a_session_that_moves_out",
                "cgroups::init_in_a_cgroup_below",
                "failed::searches",
                "failed::by_a_descriptor",
                "kernels::types_of_another",
                "skips::",
                "tasks::exec_from_another_thread",
                "argv::over_the_limit",
                "agents::a_late_agent_finds_sessions",
                "agents::stops_cleanly",
                "pins::the_next_agent_reads_on",
            ],
        }
    }

    /// Why the others are left out.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::All => "nothing is left out but what a machine lacks",
            Self::Kernel => {
                "what is read from the kernel, and what it allows. The others are storms and floods, whose size says more \
                 of the emulator than of the kernel, and what runs in user space alone: spool, collector, TLS, probes, \
                 text. They are run without a virtual machine; here by `--part all`, which takes an hour and more"
            }
            Self::Cgroups => {
                "what begins and ends containers and sessions, by every runtime, with agents that come late, go and come \
                 back. The others are about what a command is and what becomes of its event: nothing of that asks where \
                 a cgroup is mounted, and the machine with the same kernel and v2 runs them"
            }
            Self::Hooks => {
                "what is told by these hooks: joins and failed execs. Nothing else is seen through them, and the machine \
                 with the same kernel and `auto` runs the rest"
            }
            Self::Ci => {
                "on the path of every event: loading, the trial before it records, each runtime's way in, joins, failed \
                 execs, ids of cgroups, an agent that comes late or takes over. The rest takes too long for every change, \
                 and for a second processor: registers, names of functions and the verifier's work are what differs there, and \
                 this part and \"hooks\" have them"
            }
        }
    }
}

/// A machine and what it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) line: Line,
    pub(super) arch: Arch,
    pub(super) mode: Cgroups,
    pub(super) hook: Hook,
    pub(super) part: Part,
}

impl Run {
    /// The ways to see system calls that this kernel has.
    pub(super) fn ways(self) -> &'static [Hook] {
        match (self.arch, self.line) {
            // Nothing is attached to functions before 6.4 (HAVE_DYNAMIC_FTRACE_WITH_DIRECT_CALLS, arch/arm64/Kconfig).
            (Arch::Aarch64, Line::V5_10 | Line::V6_1) => &[Hook::Kprobe, Hook::Tracepoint],
            _ => &[Hook::Fexit, Hook::Kprobe, Hook::Tracepoint],
        }
    }
}

/// The machines for these wishes; an empty one is for what there is of it.
pub(super) fn runs(
    lines: &[Line],
    archs: &[Arch],
    modes: &[Cgroups],
    hooks: &[Hook],
    part: Option<Part>,
) -> Vec<Run> {
    let wanted = |line: &Line| lines.contains(&Line::All) || lines.contains(line);
    let modes_here = if modes.is_empty() { Cgroups::value_variants() } else { modes };
    let hooks_here = if hooks.is_empty() { Hook::value_variants() } else { hooks };
    // By default every mode with the hook that is chosen there, and each hook forced where cgroups are v2.
    let is_run = |mode: Cgroups, hook: Hook| match (modes, hooks) {
        _ if hook == Hook::Auto => true,
        ([], _) => mode == Cgroups::V2,
        _ => !hooks.is_empty(),
    };
    let mut runs = Vec::new();
    for line in [Line::V5_10, Line::V6_1, Line::V6_12, Line::V7].into_iter().filter(wanted) {
        for &arch in archs {
            for &mode in modes_here {
                for &hook in hooks_here.iter().filter(|hook| is_run(mode, **hook)) {
                    let usual = match (arch, mode, hook) {
                        (Arch::Aarch64, _, Hook::Auto) => Part::Ci,
                        (_, Cgroups::V2, Hook::Auto) => Part::Kernel,
                        (_, _, Hook::Auto) => Part::Cgroups,
                        _ => Part::Hooks,
                    };
                    let run = Run { line, arch, mode, hook, part: part.unwrap_or(usual) };
                    if hook == Hook::Auto || run.ways().contains(&hook) {
                        runs.push(run);
                    }
                }
            }
        }
    }
    runs
}

/// What is run before every change: the oldest kernel with cgroups as old nodes have them, and a common one.
pub(super) fn ci(arch: Arch) -> [Run; 2] {
    let of = |line, mode| Run { line, arch, mode, hook: Hook::Auto, part: Part::Ci };
    [of(Line::V6_1, Cgroups::V2), of(Line::V5_10, Cgroups::Hybrid)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lines: &[Line], modes: &[Cgroups], hooks: &[Hook]) -> Vec<(Cgroups, Hook, Part)> {
        ways(&runs(lines, &[Arch::X86_64], modes, hooks, None))
    }

    fn ways(runs: &[Run]) -> Vec<(Cgroups, Hook, Part)> {
        runs.iter().map(|run| (run.mode, run.hook, run.part)).collect()
    }

    #[test]
    fn a_kernel_alone_is_run_in_every_way() {
        let all = told(&[Line::V6_1], &[], &[]);
        assert_eq!(
            all,
            [
                (Cgroups::V2, Hook::Auto, Part::Kernel),
                (Cgroups::V2, Hook::Fexit, Part::Hooks),
                (Cgroups::V2, Hook::Kprobe, Part::Hooks),
                (Cgroups::V2, Hook::Tracepoint, Part::Hooks),
                (Cgroups::Hybrid, Hook::Auto, Part::Cgroups),
                (Cgroups::V1, Hook::Auto, Part::Cgroups),
            ]
        );
        assert_eq!(told(&[Line::All], &[], &[]).len(), 4 * all.len());
    }

    #[test]
    fn no_machine_is_asked_for_a_way_that_its_kernel_has_not() {
        let fexit = |arch| {
            let all = runs(&[Line::All], &[arch], &[], &[Hook::Fexit], None);
            all.into_iter().map(|run| run.line).collect::<Vec<_>>()
        };
        assert_eq!(fexit(Arch::X86_64), [Line::V5_10, Line::V6_1, Line::V6_12, Line::V7]);
        assert_eq!(fexit(Arch::Aarch64), [Line::V6_12, Line::V7]);
        let both = runs(&[Line::All], &[Arch::X86_64, Arch::Aarch64], &[], &[], None);
        assert_eq!(both.len(), 4 * 6 + 4 * 6 - 2);
    }

    #[test]
    fn a_second_processor_runs_the_short_parts_in_every_mode() {
        let arm = runs(&[Line::V6_1], &[Arch::Aarch64], &[], &[], None);
        assert_eq!(
            ways(&arm),
            [
                (Cgroups::V2, Hook::Auto, Part::Ci),
                (Cgroups::V2, Hook::Kprobe, Part::Hooks),
                (Cgroups::V2, Hook::Tracepoint, Part::Hooks),
                (Cgroups::Hybrid, Hook::Auto, Part::Ci),
                (Cgroups::V1, Hook::Auto, Part::Ci),
            ]
        );
    }

    #[test]
    fn what_is_named_is_all_that_is_run() {
        assert_eq!(told(&[Line::V6_1], &[Cgroups::V1], &[]), [(Cgroups::V1, Hook::Auto, Part::Cgroups)]);
        assert_eq!(told(&[Line::V6_1], &[], &[Hook::Kprobe]), [(Cgroups::V2, Hook::Kprobe, Part::Hooks)]);
        assert_eq!(
            told(&[Line::V6_1], &[Cgroups::V1], &[Hook::Kprobe]),
            [(Cgroups::V1, Hook::Kprobe, Part::Hooks)]
        );
        assert_eq!(told(&[Line::V6_1], &[Cgroups::V2], &[]), [(Cgroups::V2, Hook::Auto, Part::Kernel)]);
        assert_eq!(
            told(&[Line::V6_1], &[], &[Hook::Auto]),
            [
                (Cgroups::V2, Hook::Auto, Part::Kernel),
                (Cgroups::Hybrid, Hook::Auto, Part::Cgroups),
                (Cgroups::V1, Hook::Auto, Part::Cgroups),
            ]
        );
    }
}

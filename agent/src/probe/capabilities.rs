//! The capabilities of this process, by `/proc/self/status`.

use procfs::process::Process;

/// A capability that the agent wants, and what for.
pub(crate) struct Wanted {
    bit: u32,
    pub(crate) name: &'static str,
    pub(crate) purpose: &'static str,
    /// without it nothing works
    pub(crate) needed: bool,
}

const SYS_ADMIN: u32 = 21;

/// See include/uapi/linux/capability.h. CAP_SYS_ADMIN stands in for CAP_BPF and CAP_PERFMON.
const WANTED: &[Wanted] = &[
    Wanted { bit: 39, name: "CAP_BPF", purpose: "load BPF programs", needed: true },
    Wanted { bit: 38, name: "CAP_PERFMON", purpose: "attach them and read kernel memory", needed: true },
    Wanted {
        bit: 19,
        name: "CAP_SYS_PTRACE",
        purpose: "read namespaces of other processes in /proc",
        needed: true,
    },
    Wanted {
        bit: 2,
        name: "CAP_DAC_READ_SEARCH",
        purpose: "read /proc and tracefs whoever owns them",
        needed: false,
    },
    Wanted {
        bit: 24,
        name: "CAP_SYS_RESOURCE",
        purpose: "raise the memory limit of BPF maps on kernels before 5.11",
        needed: false,
    },
];

/// Names of those held, and those that are not.
pub(crate) struct Held {
    pub(crate) held: Vec<&'static str>,
    pub(crate) missing: Vec<&'static Wanted>,
}

/// `None`: `/proc/self/status` cannot be read.
pub(crate) fn held() -> Option<Held> {
    let effective = Process::myself().and_then(|p| p.status()).ok()?.capeff;
    let has = |bit: u32| effective & (1 << bit) != 0;
    let stands_in = |w: &Wanted| has(SYS_ADMIN) && (w.bit == 38 || w.bit == 39);
    let (held, missing): (Vec<_>, Vec<_>) = WANTED.iter().partition(|w| has(w.bit) || stands_in(w));
    Some(Held { held: held.iter().map(|w| w.name).collect(), missing })
}

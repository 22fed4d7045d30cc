//! The capabilities of this process, by `/proc/self/status`.

use procfs::process::Process;

/// A capability that the agent wants, and what for.
pub(crate) struct Wanted {
    bit: u32,
    pub(crate) name: &'static str,
    pub(crate) purpose: &'static str,
    /// without it nothing works
    pub(crate) needed: bool,
    /// from this kernel on there is no need of it
    until: Option<(u32, u32)>,
}

const SYS_ADMIN: u32 = 21;

/// See include/uapi/linux/capability.h. CAP_SYS_ADMIN stands in for CAP_BPF and CAP_PERFMON.
const WANTED: &[Wanted] = &[
    Wanted { bit: 39, name: "CAP_BPF", purpose: "load BPF programs", needed: true, until: None },
    Wanted {
        bit: 38,
        name: "CAP_PERFMON",
        purpose: "attach them and read kernel memory",
        needed: true,
        until: None,
    },
    Wanted {
        bit: 19,
        name: "CAP_SYS_PTRACE",
        purpose: "read namespaces of other processes in /proc",
        needed: true,
        until: None,
    },
    Wanted {
        bit: 2,
        name: "CAP_DAC_READ_SEARCH",
        purpose: "read /proc and tracefs whoever owns them",
        needed: false,
        until: None,
    },
    Wanted {
        bit: 23,
        name: "CAP_SYS_NICE",
        purpose: "read the ring also while a storm of processes has all processors",
        needed: false,
        until: None,
    },
    Wanted {
        bit: 24,
        name: "CAP_SYS_RESOURCE",
        purpose: "raise the memory limit of BPF maps on kernels before 5.11",
        needed: false,
        until: Some((5, 11)),
    },
];

/// Names of those held, and those that are not.
pub(crate) struct Held {
    pub(crate) held: Vec<&'static str>,
    pub(crate) missing: Vec<&'static Wanted>,
}

/// What the agent asks for on a kernel.
fn wanted(kernel: Option<(u32, u32)>) -> impl Iterator<Item = &'static Wanted> {
    // One that says no version might be an old one.
    WANTED
        .iter()
        .filter(move |wanted| wanted.until.is_none_or(|until| kernel.is_none_or(|kernel| kernel < until)))
}

/// Their names, as manifests write them: sorted, without CAP_.
#[must_use]
pub fn names(kernel: (u32, u32)) -> Vec<&'static str> {
    let mut names: Vec<_> =
        wanted(Some(kernel)).map(|wanted| wanted.name.trim_start_matches("CAP_")).collect();
    names.sort_unstable();
    names
}

/// `None`: `/proc/self/status` cannot be read.
pub(crate) fn held(kernel: Option<(u32, u32)>) -> Option<Held> {
    let effective = Process::myself().and_then(|p| p.status()).ok()?.capeff;
    let has = |bit: u32| effective & (1 << bit) != 0;
    let stands_in = |w: &Wanted| has(SYS_ADMIN) && (w.bit == 38 || w.bit == 39);
    let (held, missing): (Vec<_>, Vec<_>) = wanted(kernel).partition(|w| has(w.bit) || stands_in(w));
    Some(Held { held: held.iter().map(|w| w.name).collect(), missing })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_asked_for_what_it_wants() {
        let newer = ["BPF", "DAC_READ_SEARCH", "PERFMON", "SYS_NICE", "SYS_PTRACE"];
        assert_eq!(names((5, 11)), newer);
        assert_eq!(names((7, 0)), newer);
        assert_eq!(names((5, 10)), [&newer[..4], &["SYS_PTRACE", "SYS_RESOURCE"]].concat());
    }
}

//! What this machine allows: for `podtrail-agent doctor`. Where it may, it loads and attaches everything for a moment,
//! because only the kernel knows what it accepts.

use super::{
    OBJECT, Options, Probe, ProbeError, capabilities,
    load::{self, VMLINUX},
};
use crate::event::Hook;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// release and machine, as `uname` has them
    pub kernel: String,
    pub arch: String,
    /// where the kernel's types come from; empty: nowhere
    pub btf: String,
    /// capabilities of this process that the agent uses
    pub capabilities: Vec<String>,
    /// programs loaded and attached in the trial: name, kind, and why that kind
    pub hooks: Vec<Hook>,
    pub problems: Vec<Problem>,
}

/// Something is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub what: String,
    /// what to do about it
    pub fix: String,
    /// the agent cannot run
    pub fatal: bool,
}

impl Survey {
    /// Whether the agent can run here.
    #[must_use]
    pub fn can_run(&self) -> bool {
        !self.problems.iter().any(|p| p.fatal)
    }
}

/// Looks at everything that the kernel side needs, and lets it be tried out. Must be called within a tokio runtime.
#[must_use]
pub fn survey(options: &Options, try_out: impl FnOnce(&mut Probe) -> Result<(), ProbeError>) -> Survey {
    let mut survey = Survey::default();
    let mut problem =
        |what: String, fix: &str, fatal| survey.problems.push(Problem { what, fix: fix.to_owned(), fatal });

    match nix::sys::utsname::uname() {
        Ok(uname) => {
            survey.kernel = uname.release().to_string_lossy().into_owned();
            survey.arch = uname.machine().to_string_lossy().into_owned();
            if version(&survey.kernel).is_some_and(|v| v < (5, 10)) {
                problem(
                    format!("Linux {} is older than 5.10", survey.kernel),
                    "upgrade the node's kernel: the ring buffer and BTF tracepoints are not in it",
                    true,
                );
            }
        }
        Err(e) => problem(format!("uname failed: {e}"), "report this", false),
    }

    match load::types(options) {
        Ok(types) => {
            survey.btf = options.btf.as_ref().map_or_else(|| VMLINUX.to_owned(), |p| p.display().to_string());
            if !types.found.missing.is_empty() {
                problem(
                    format!("this kernel has no {}", types.found.missing.join(", ")),
                    "upgrade podtrail; if it is the newest, report this line",
                    true,
                );
            }
            for (lacks, fields) in &types.found.lacks {
                problem(
                    format!("events will lack {lacks}: this kernel's types have no {}", fields.join(", ")),
                    "nothing to do, unless you build your own kernels",
                    false,
                );
            }
        }
        Err(e) => problem(
            e.to_string(),
            "use a kernel with CONFIG_DEBUG_INFO_BTF=y, or give its types with --btf",
            true,
        ),
    }

    if OBJECT.is_empty() {
        problem(ProbeError::NoObject.to_string(), "cargo xtask build", true);
    }

    let mut may_load = true;
    match capabilities::held(version(&survey.kernel)) {
        Some(held) => {
            survey.capabilities = held.held.iter().map(|&n| n.to_owned()).collect();
            for missing in held.missing {
                may_load &= !missing.needed;
                problem(
                    format!("{} is missing: it is needed to {}", missing.name, missing.purpose),
                    "run as root, or add the capability to the container's securityContext",
                    missing.needed,
                );
            }
        }
        None => problem("/proc/self/status cannot be read".to_owned(), "mount /proc", true),
    }

    // The trial comes last: all that can be said without it has been said.
    if may_load && !survey.problems.iter().any(|p| p.fatal) {
        // What is pinned stays as it is.
        let loaded = Probe::load(&Options { pin: None, ..options.clone() }, None);
        match loaded.and_then(|(mut probe, _new, _nothing)| try_out(&mut probe).map(|()| probe.hooks())) {
            Ok(hooks) => survey.hooks = hooks,
            Err(e) => {
                survey.problems.push(Problem { what: e.to_string(), fix: fix(&e).to_owned(), fatal: true });
            }
        }
    }
    survey
}

/// What to do about a trial that failed.
fn fix(error: &ProbeError) -> &'static str {
    match error {
        ProbeError::Setns(_) => {
            "mount -t tracefs tracefs /sys/kernel/tracing, or run as root (CAP_SYS_ADMIN), so that the agent can"
        }
        ProbeError::SelfTest(_) => {
            "give no --btf, or that of this kernel; else report this line with the kernel's version"
        }
        ProbeError::NotPermitted => "run as root, and see whether a security module or lockdown forbids BPF",
        _ => "see the message; if it is a verifier's, report it with the kernel's version",
    }
}

/// Major and minor of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        assert_eq!(version("5.10.0-32-cloud-amd64"), Some((5, 10)));
        assert_eq!(version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(version("7.0"), Some((7, 0)));
        assert_eq!(version("linux"), None);
    }
}

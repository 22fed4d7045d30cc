//! What came out of a machine, and whether that is good.

use std::time::Duration;

use super::{
    machine::Outcome,
    plan::{Part, Run},
};

/// Instructions that a verifier goes through at most (include/linux/bpf.h, `BPF_COMPLEXITY_LIMIT_INSNS`).
pub(super) const VERIFIER_LIMIT: u64 = 1_000_000;
/// A program over this fails: the next kernel's verifier may go through it twice as often.
pub(super) const VERIFIER_AT_MOST: u64 = VERIFIER_LIMIT / 2;

/// A machine and its result.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) run: Run,
    /// what its programs were built from
    pub(super) commit: String,
    pub(super) release: &'static str,
    pub(super) kernel: String,
    pub(super) runtimes: String,
    /// only tests of some name
    pub(super) named: bool,
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
}

/// As people are told.
pub(super) fn name(run: Run, kernel: &str) -> String {
    let Run { line: _, arch, mode, hook, part } = run;
    format!(
        "Linux {kernel}, {}, cgroups {}, system calls by {}: tests {}",
        arch.as_str(),
        mode.as_str(),
        hook.as_str(),
        part.as_str()
    )
}

/// The same for the beginning of a line.
pub(super) fn short(run: Run) -> String {
    let Run { line, arch, mode, hook, part: _ } = run;
    format!("{line:?} {} {} {}", arch.as_str(), mode.as_str(), hook.as_str())
}

impl Row {
    pub(super) fn name(&self) -> String {
        format!("{}: {}", name(self.run, &self.kernel), self.trouble())
    }

    pub(super) fn is_good(&self) -> bool {
        self.outcome.is_good() && self.trouble().is_empty()
    }

    /// Why it is not good.
    pub(super) fn trouble(&self) -> String {
        let Outcome { failed, trouble, verified, .. } = &self.outcome;
        if !failed.is_empty() || !trouble.is_empty() {
            let all = failed.iter().chain(Some(trouble).filter(|trouble| !trouble.is_empty()));
            return all.map(|one| one.replace('|', " ")).collect::<Vec<_>>().join(", ");
        }
        if let Some((program, count)) = verified.iter().find(|(_, count)| **count > VERIFIER_AT_MOST) {
            return format!("{program} takes {count} of {VERIFIER_LIMIT} instructions of the verifier");
        }
        let verifies = matches!(self.run.part, Part::All | Part::Kernel | Part::Ci) && !self.named;
        let asked = |way: &str| verified.keys().any(|program| program.ends_with(&format!("({way})")));
        match self.run.ways().iter().find(|way| !asked(way.as_str())) {
            Some(way) if verifies => format!("the verifier was not asked for {}", way.as_str()),
            _ => String::new(),
        }
    }
}

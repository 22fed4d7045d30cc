//! What came out, over all machines: what passed, what the verifier has left, what was left out and why.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    machine::Outcome,
    plan::{Cgroups, Hook, Part, Run},
};
use crate::{machine, root};

const BEGIN: &str = "<!-- `cargo xtask vm --write` writes from here -->";
const END: &str = "<!-- `cargo xtask vm --write` writes up to here -->";

/// Instructions that a verifier goes through at most (include/linux/bpf.h, `BPF_COMPLEXITY_LIMIT_INSNS`).
const VERIFIER_LIMIT: u64 = 1_000_000;
/// A program over this fails: the next kernel's verifier may go through it twice as often.
const VERIFIER_AT_MOST: u64 = VERIFIER_LIMIT / 2;

/// What the test program says of a test of another part.
const OTHER_PART: &str = "not in this part of the tests";

/// A machine and its result.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) run: Run,
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
    fn trouble(&self) -> String {
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

pub(super) fn text(rows: &[Row]) -> String {
    let parts = [machines(rows), headroom(rows), seen(rows), left_out(rows)];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
}

// To a string it cannot fail.
fn machines(rows: &[Row]) -> String {
    let mut out = String::from(
        "| kernel | processor | Debian | runtimes | cgroups | system calls by | tests | passed | failed | left out | \
         boots again | time |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let Row { run, release, kernel, runtimes, named: _, outcome, took } = row;
        let trouble = row.trouble();
        let why = if trouble.is_empty() { trouble } else { format!(": {trouble}") };
        _ = writeln!(
            out,
            "| {kernel} | {} | {release} | {runtimes} | {} | {} | {} | {} | {}{why} | {} | {} | {} s |",
            run.arch.as_str(),
            run.mode.as_str(),
            run.hook.as_str(),
            run.part.as_str(),
            outcome.counts.passed,
            outcome.counts.failed,
            outcome.counts.skipped,
            outcome.again,
            took.as_secs()
        );
    }
    out
}

/// Of each kernel what its verifier went through.
fn headroom(rows: &[Row]) -> String {
    let mut kernels: Vec<(String, BTreeMap<&str, u64>)> = Vec::new();
    for row in rows.iter().filter(|row| !row.outcome.verified.is_empty()) {
        let kernel = format!("{} {}", row.kernel, row.run.arch.as_str());
        let place = kernels.iter().position(|(known, _)| *known == kernel).unwrap_or_else(|| {
            kernels.push((kernel, BTreeMap::new()));
            kernels.len() - 1
        });
        let Some((_, counts)) = kernels.get_mut(place) else { continue };
        for (program, count) in &row.outcome.verified {
            let most = counts.entry(program).or_default();
            *most = (*most).max(*count);
        }
    }
    if kernels.is_empty() {
        return String::new();
    }
    let programs: BTreeSet<&str> = kernels.iter().flat_map(|(_, counts)| counts.keys().copied()).collect();
    let mut out = format!(
        "Instructions that the verifier goes through, of {VERIFIER_LIMIT}; over {VERIFIER_AT_MOST} is a failure:\n\n\
         | program |"
    );
    for (kernel, _) in &kernels {
        _ = write!(out, " {kernel} |");
    }
    _ = writeln!(out, "\n|---|{}", "---:|".repeat(kernels.len()));
    for program in programs {
        _ = write!(out, "| `{program}` |");
        for (_, counts) in &kernels {
            match counts.get(program) {
                Some(count) => _ = write!(out, " {count} |"),
                None => out.push_str(" |"),
            }
        }
        out.push('\n');
    }
    out
}

/// What tests have seen of the runtimes.
fn seen(rows: &[Row]) -> String {
    let mut out = String::new();
    let mut known = BTreeSet::new();
    for row in rows {
        for seen in &row.outcome.seen {
            let line = format!("- cgroups {}, {seen}\n", row.run.mode.as_str());
            if known.insert(line.clone()) {
                out.push_str(&line);
            }
        }
    }
    if out.is_empty() {
        out
    } else {
        format!("How what is executed comes into its container's cgroup:\n\n{out}")
    }
}

fn left_out(rows: &[Row]) -> String {
    let mut out = String::new();
    let parts: BTreeSet<Part> = rows.iter().map(|row| row.run.part).collect();
    for part in parts {
        _ = writeln!(out, "- tests \"{}\": {}.", part.as_str(), part.reason());
    }
    for row in rows.iter().filter(|row| row.run.hook == Hook::Auto && row.run.mode == Cgroups::V2) {
        let all = [Hook::Fexit, Hook::Kprobe, Hook::Tracepoint];
        for way in all.iter().filter(|way| !row.run.ways().contains(way)) {
            let arch = row.run.arch.as_str();
            _ = writeln!(out, "- {} with {}, {arch}: this kernel cannot do that.", way.as_str(), row.kernel);
        }
    }
    let mut lacking: BTreeMap<&str, (BTreeSet<&str>, BTreeSet<String>)> = BTreeMap::new();
    for row in rows {
        for (name, reason) in row.outcome.left_out.iter().filter(|(_, reason)| reason != OTHER_PART) {
            let (names, kernels) = lacking.entry(reason).or_default();
            names.insert(name);
            let line = row.kernel.split('-').next().unwrap_or_default();
            kernels.insert(format!("{line} {} {}", row.run.arch.as_str(), row.run.mode.as_str()));
        }
    }
    for (reason, (names, kernels)) in lacking {
        let list = |words: Vec<String>| words.join(", ");
        _ = writeln!(
            out,
            "- {reason} ({}): {}.",
            list(kernels.into_iter().collect()),
            list(names.into_iter().map(|name| format!("`{name}`")).collect())
        );
    }
    format!("What is left out:\n\n{out}")
}

pub(super) fn write(text: &str) -> Result<()> {
    let commit = machine::commit()?;
    let file = root::workspace().join("docs/kernels.md");
    let page = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let (Some((before, _)), Some((_, after))) = (page.split_once(BEGIN), page.split_once(END)) else {
        bail!("{} has no place for results (`{BEGIN}` and `{END}`)", file.display());
    };
    let page = format!("{before}{BEGIN}\n\n{}\n\n{}\n\n{END}{after}", machine::told(&commit)?, text.trim());
    fs::write(&file, page).with_context(|| format!("cannot write {}", file.display()))
}

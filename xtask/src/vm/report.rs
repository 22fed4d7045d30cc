//! The last result of each machine, and the tables that say it.
//!
//! Results are kept as data in `docs/kernels.json`, and the tables of `docs/kernels.md` are made of that alone. So one kernel
//! can be measured again without the others, and nothing has to be read back from a page.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::PathBuf,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    plan::{Arch, Cgroups, Hook, Line, Part, Run},
    results::{Row, VERIFIER_AT_MOST, VERIFIER_LIMIT},
};
use crate::{machine, root};

const BEGIN: &str = "<!-- `cargo xtask vm --write` writes from here -->";
const END: &str = "<!-- `cargo xtask vm --write` writes up to here -->";

/// What the test program says of a test of another part.
const OTHER_PART: &str = "not in this part of the tests";

/// What is kept.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Report {
    /// when, of what and where the last of it was measured; empty: it is not of the file
    measured: String,
    /// in the order of the plan
    machines: Vec<Machine>,
    verifier: Vec<Headroom>,
}

/// One machine's last result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Machine {
    #[serde(flatten)]
    run: Run,
    commit: String,
    kernel: String,
    release: String,
    runtimes: String,
    passed: u64,
    failed: u64,
    /// why it is not good; empty: it is
    trouble: String,
    skipped: u64,
    /// boots that died before the first program
    again: u32,
    seconds: u64,
    /// what tests have seen of the runtimes
    seen: Vec<String>,
    /// tests that this machine lacks something for, by what that is
    lacking: BTreeMap<String, BTreeSet<String>>,
}

/// What the verifier of a kernel went through.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Headroom {
    line: Line,
    arch: Arch,
    commit: String,
    kernel: String,
    programs: BTreeMap<String, u64>,
}

impl Machine {
    fn of(row: &Row) -> Self {
        let Row { run, commit, release, kernel, runtimes, named: _, outcome, took } = row;
        let mut lacking: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (name, reason) in outcome.left_out.iter().filter(|(_, reason)| reason != OTHER_PART) {
            lacking.entry(reason.clone()).or_default().insert(name.clone());
        }
        Self {
            run: *run,
            commit: commit.clone(),
            kernel: kernel.clone(),
            release: (*release).to_owned(),
            runtimes: runtimes.clone(),
            passed: outcome.counts.passed,
            failed: outcome.counts.failed,
            trouble: row.trouble(),
            skipped: outcome.counts.skipped,
            again: outcome.again,
            seconds: took.as_secs(),
            seen: outcome.seen.clone(),
            lacking,
        }
    }

    /// What makes it this machine: its line, whose kernels follow each other, and not which tests it ran.
    fn key(&self) -> (Line, Arch, Cgroups, Hook) {
        let Run { line, arch, mode, hook, part: _ } = self.run;
        (line, arch, mode, hook)
    }
}

/// What is new takes the place of what has the same key. Sorted by that, since keys sort as the plan does.
fn replace<T, K: Ord>(kept: &mut Vec<T>, new: Vec<T>, key: impl Fn(&T) -> K) {
    kept.retain(|old| !new.iter().any(|new| key(new) == key(old)));
    kept.extend(new);
    kept.sort_by_key(key);
}

impl Report {
    /// Of one run alone.
    pub(super) fn of(rows: &[Row]) -> Self {
        let mut report = Self::default();
        report.take(rows);
        report
    }

    /// What is in the file.
    pub(super) fn read() -> Result<Self> {
        let file = data();
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not as it was written", file.display()))
    }

    /// Takes over a run; whatever it did not have is kept.
    fn take(&mut self, rows: &[Row]) {
        let mut verifier: BTreeMap<(Line, Arch), Headroom> = BTreeMap::new();
        for row in rows.iter().filter(|row| !row.outcome.verified.is_empty()) {
            let Run { line, arch, .. } = row.run;
            // Where several machines have the same kernel, it is the most of them.
            let headroom = verifier.entry((line, arch)).or_insert_with(|| Headroom {
                line,
                arch,
                commit: row.commit.clone(),
                kernel: row.kernel.clone(),
                programs: BTreeMap::new(),
            });
            for (program, count) in &row.outcome.verified {
                let most = headroom.programs.entry(program.clone()).or_default();
                *most = (*most).max(*count);
            }
        }
        replace(&mut self.machines, rows.iter().map(Machine::of).collect(), Machine::key);
        replace(&mut self.verifier, verifier.into_values().collect(), |one| (one.line, one.arch));
    }

    /// Takes over a run that has just ended, and writes all of it.
    pub(super) fn write_with(mut self, rows: &[Row]) -> Result<()> {
        self.take(rows);
        let commit = rows.first().map(|row| row.commit.as_str()).unwrap_or_default();
        self.measured = machine::told(commit)?;
        let mut text = serde_json::to_string_pretty(&self).context("cannot write results as JSON")?;
        text.push('\n');
        // Renamed, since whoever interrupts the run may do so now.
        let (file, new) = (data(), data().with_extension("json.new"));
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &file))
            .with_context(|| format!("cannot write {}", file.display()))?;
        self.write_page()
    }

    pub(super) fn write_page(&self) -> Result<()> {
        let text = self.page()?;
        let file = page();
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// The page as it should be.
    pub(super) fn page(&self) -> Result<String> {
        let file = page();
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let (Some((before, _)), Some((_, after))) = (text.split_once(BEGIN), text.split_once(END)) else {
            bail!("{} has no place for results (`{BEGIN}` and `{END}`)", file.display());
        };
        Ok(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", self.text().trim()))
    }

    pub(super) fn text(&self) -> String {
        let measured = if self.measured.is_empty() { String::new() } else { format!("{}\n", self.measured) };
        let parts = [measured, self.machines(), self.headroom(), self.seen(), self.left_out()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
    }

    // To a string it cannot fail.
    fn machines(&self) -> String {
        let mut out = String::from(
            "| kernel | processor | Debian | runtimes | cgroups | system calls by | tests | passed | failed | left out | \
             boots again | time | commit |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for machine in &self.machines {
            let Machine { run, commit, kernel, release, runtimes, passed, failed, trouble, .. } = machine;
            let why = if trouble.is_empty() { String::new() } else { format!(": {trouble}") };
            _ = writeln!(
                out,
                "| {kernel} | {} | {release} | {runtimes} | {} | {} | {} | {passed} | {failed}{why} | {} | {} | {} s | \
                 {commit} |",
                run.arch.as_str(),
                run.mode.as_str(),
                run.hook.as_str(),
                run.part.as_str(),
                machine.skipped,
                machine.again,
                machine.seconds
            );
        }
        out
    }

    /// Of each kernel what its verifier went through.
    fn headroom(&self) -> String {
        if self.verifier.is_empty() {
            return String::new();
        }
        let programs: BTreeSet<&str> =
            self.verifier.iter().flat_map(|one| one.programs.keys().map(String::as_str)).collect();
        let mut out = format!(
            "Instructions that the verifier goes through, of {VERIFIER_LIMIT}; over {VERIFIER_AT_MOST} is a failure:\n\n\
             | program |"
        );
        for Headroom { arch, commit, kernel, .. } in &self.verifier {
            _ = write!(out, " {kernel} {}, {commit} |", arch.as_str());
        }
        _ = writeln!(out, "\n|---|{}", "---:|".repeat(self.verifier.len()));
        for program in programs {
            _ = write!(out, "| `{program}` |");
            for one in &self.verifier {
                match one.programs.get(program) {
                    Some(count) => _ = write!(out, " {count} |"),
                    None => out.push_str(" |"),
                }
            }
            out.push('\n');
        }
        out
    }

    /// What tests have seen of the runtimes.
    fn seen(&self) -> String {
        let mut out = String::new();
        let mut known = BTreeSet::new();
        for machine in &self.machines {
            for seen in &machine.seen {
                let line = format!("- cgroups {}, {seen}\n", machine.run.mode.as_str());
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

    fn left_out(&self) -> String {
        let mut out = String::new();
        let parts: BTreeSet<Part> = self.machines.iter().map(|machine| machine.run.part).collect();
        for part in parts {
            _ = writeln!(out, "- tests \"{}\": {}.", part.as_str(), part.reason());
        }
        let usual = |run: Run| run.hook == Hook::Auto && run.mode == Cgroups::V2;
        for machine in self.machines.iter().filter(|machine| usual(machine.run)) {
            let all = [Hook::Fexit, Hook::Kprobe, Hook::Tracepoint];
            for way in all.iter().filter(|way| !machine.run.ways().contains(way)) {
                let arch = machine.run.arch.as_str();
                _ = writeln!(
                    out,
                    "- {} with {}, {arch}: this kernel cannot do that.",
                    way.as_str(),
                    machine.kernel
                );
            }
        }
        let mut lacking: BTreeMap<&str, (BTreeSet<&str>, BTreeSet<String>)> = BTreeMap::new();
        for machine in &self.machines {
            for (reason, tests) in &machine.lacking {
                let (names, kernels) = lacking.entry(reason).or_default();
                names.extend(tests.iter().map(String::as_str));
                let version = machine.kernel.split('-').next().unwrap_or_default();
                let (arch, mode) = (machine.run.arch.as_str(), machine.run.mode.as_str());
                kernels.insert(format!("{version} {arch} {mode}"));
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
}

fn data() -> PathBuf {
    root::workspace().join("docs/kernels.json")
}

fn page() -> PathBuf {
    root::workspace().join("docs/kernels.md")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::machine::Outcome, *};
    use crate::test::Counts;

    /// What a machine of this kernel says at this commit.
    fn row(run: Run, kernel: &str, commit: &str, verified: &[(&str, u64)]) -> Row {
        let outcome = Outcome {
            counts: Counts { passed: 3, failed: 0, skipped: 2 },
            left_out: vec![
                (format!("cases::{}", run.mode.as_str()), format!("no {commit} here")),
                ("cases::another".to_owned(), OTHER_PART.to_owned()),
            ],
            verified: verified.iter().map(|(program, count)| ((*program).to_owned(), *count)).collect(),
            seen: vec![format!("a runtime of {commit}")],
            ..Outcome::default()
        };
        Row {
            run,
            commit: commit.to_owned(),
            release: "trixie",
            kernel: kernel.to_owned(),
            runtimes: "runc".to_owned(),
            named: false,
            outcome,
            took: Duration::from_secs(7),
        }
    }

    fn run(line: Line, arch: Arch, mode: Cgroups, hook: Hook) -> Run {
        Run { line, arch, mode, hook, part: Part::Hooks }
    }

    /// Of each line in the first table the kernel, the cgroups, the hook and the commit.
    fn told(report: &Report) -> Vec<String> {
        let cells =
            |line: &str| line.split(" | ").map(|cell| cell.trim_matches(['|', ' ']).to_owned()).collect();
        let lines = report.machines();
        let lines = lines.lines().skip(2).map(cells);
        lines.map(|cells: Vec<String>| [0, 1, 4, 5, 12].map(|at| cells[at].as_str()).join(" ")).collect()
    }

    #[test]
    fn a_run_takes_the_place_of_its_own_rows_and_keeps_the_others() {
        let old = |mode, hook| row(run(Line::V5_10, Arch::X86_64, mode, hook), "5.10.0-46", "old", &[]);
        let other = |arch| row(run(Line::V6_1, arch, Cgroups::V2, Hook::Auto), "6.1.0-56", "old", &[]);
        let mut report = Report::of(&[
            old(Cgroups::V2, Hook::Auto),
            old(Cgroups::V2, Hook::Kprobe),
            old(Cgroups::V1, Hook::Auto),
            other(Arch::X86_64),
            other(Arch::Aarch64),
        ]);
        // Another kernel of the line, and other tests: it is the same machine.
        let again = Run { part: Part::All, ..run(Line::V5_10, Arch::X86_64, Cgroups::V2, Hook::Auto) };
        report.take(&[row(again, "5.10.0-47", "new", &[])]);
        assert_eq!(
            told(&report),
            [
                "5.10.0-47 x86_64 v2 auto new",
                "5.10.0-46 x86_64 v2 kprobe old",
                "5.10.0-46 x86_64 v1 auto old",
                "6.1.0-56 x86_64 v2 auto old",
                "6.1.0-56 aarch64 v2 auto old",
            ]
        );
    }

    #[test]
    fn rows_are_in_the_order_of_the_plan_whenever_they_were_measured() {
        let all = super::super::plan::runs(&[Line::All], &[Arch::X86_64, Arch::Aarch64], &[], &[], None);
        let mut report = Report::default();
        for run in all.iter().rev() {
            report.take(&[row(*run, "a kernel", "some", &[])]);
        }
        assert_eq!(report.machines.iter().map(|machine| machine.run).collect::<Vec<_>>(), all);
    }

    #[test]
    fn a_kernels_verifier_measured_again_is_a_new_column() {
        let on = |line, mode| run(line, Arch::X86_64, mode, Hook::Auto);
        let mut report = Report::of(&[
            row(on(Line::V5_10, Cgroups::V2), "5.10.0-46", "old", &[("both", 10), ("gone", 1)]),
            row(on(Line::V5_10, Cgroups::Hybrid), "5.10.0-46", "old", &[("both", 12)]),
            row(on(Line::V5_10, Cgroups::V1), "5.10.0-46", "old", &[("both", 11)]),
            row(on(Line::V6_1, Cgroups::V2), "6.1.0-56", "old", &[("both", 20)]),
        ]);
        let table = |report: &Report| {
            let lines: Vec<String> = report.headroom().lines().skip(2).map(str::to_owned).collect();
            lines
        };
        assert_eq!(
            table(&report),
            [
                "| program | 5.10.0-46 x86_64, old | 6.1.0-56 x86_64, old |",
                "|---|---:|---:|",
                "| `both` | 12 | 20 |",
                "| `gone` | 1 | |",
            ]
        );
        report.take(&[
            row(on(Line::V5_10, Cgroups::V2), "5.10.0-47", "new", &[("both", 11), ("one more", 2)]),
            // It did not ask the verifier.
            row(on(Line::V6_1, Cgroups::Hybrid), "6.1.0-56", "new", &[]),
        ]);
        assert_eq!(
            table(&report),
            [
                "| program | 5.10.0-47 x86_64, new | 6.1.0-56 x86_64, old |",
                "|---|---:|---:|",
                "| `both` | 11 | 20 |",
                "| `one more` | 2 | |",
            ]
        );
    }

    #[test]
    fn what_was_seen_and_left_out_goes_with_its_row() {
        let on = |line, arch| run(line, arch, Cgroups::V2, Hook::Auto);
        let mut report = Report::of(&[
            row(on(Line::V6_1, Arch::X86_64), "6.1.0-56", "old", &[]),
            row(on(Line::V6_1, Arch::Aarch64), "6.1.0-56", "gone", &[]),
        ]);
        report.take(&[row(on(Line::V6_1, Arch::Aarch64), "6.1.0-57", "new", &[])]);
        let seen = report.seen();
        assert!(
            seen.ends_with("\n\n- cgroups v2, a runtime of old\n- cgroups v2, a runtime of new\n"),
            "{seen}"
        );
        let left_out = report.left_out();
        let ends = "- fexit with 6.1.0-57, aarch64: this kernel cannot do that.\n\
                    - no new here (6.1.0 aarch64 v2): `cases::v2`.\n\
                    - no old here (6.1.0 x86_64 v2): `cases::v2`.\n";
        assert!(left_out.ends_with(ends), "{left_out}");
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let all = super::super::plan::runs(&[Line::All], &[Arch::X86_64, Arch::Aarch64], &[], &[], None);
        let rows: Vec<Row> =
            all.iter().map(|run| row(*run, "a kernel", "some", &[("a program", 5)])).collect();
        let report = Report::of(&rows);
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
        // As on the command line.
        assert!(
            text.contains(r#"{"line":"5.10","arch":"x86_64","mode":"v2","hook":"auto","part":"kernel","#),
            "{text}"
        );
    }

    #[test]
    fn the_page_says_what_the_file_has() {
        let wanted = Report::read().unwrap().page().unwrap();
        let is = fs::read_to_string(page()).unwrap();
        assert!(
            wanted == is,
            "docs/kernels.md is not of docs/kernels.json: `cargo xtask vm --tables` writes it"
        );
    }
}

//! One table over all machines.

use std::{fmt::Write as _, fs, time::Duration};

use anyhow::{Context, Result, bail};

use super::{Cgroups, Hook, machine::Outcome};
use crate::{machine, root};

const BEGIN: &str = "<!-- `cargo xtask vm --write` writes from here -->";
const END: &str = "<!-- `cargo xtask vm --write` writes up to here -->";

/// A machine and its result.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) release: &'static str,
    pub(super) kernel: String,
    pub(super) runtimes: String,
    pub(super) mode: Cgroups,
    pub(super) hook: Hook,
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
}

pub(super) fn table(rows: &[Row]) -> String {
    let mut out = String::from(
        "| kernel | Debian | runtimes | cgroups | setns by | passed | failed | skipped | boots again | time |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for Row { release, kernel, runtimes, mode, hook, outcome, took } in rows {
        let Outcome { counts, failed, trouble, again, .. } = outcome;
        let why = match (failed.is_empty(), trouble.is_empty()) {
            (true, true) => String::new(),
            (false, _) => format!(": {}", failed.join(", ")),
            (true, false) => format!(": {}", trouble.replace('|', " ")),
        };
        // To a string it cannot fail.
        _ = writeln!(
            out,
            "| {kernel} | {release} | {runtimes} | {} | {} | {} | {}{why} | {} | {again} | {} s |",
            mode.as_str(),
            hook.as_str(),
            counts.passed,
            counts.failed,
            counts.skipped,
            took.as_secs()
        );
    }
    out
}

pub(super) fn write(table: &str) -> Result<()> {
    let commit = machine::commit()?;
    let file = root::workspace().join("docs/kernels.md");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let (Some((before, _)), Some((_, after))) = (text.split_once(BEGIN), text.split_once(END)) else {
        bail!("{} has no place for results (`{BEGIN}` and `{END}`)", file.display());
    };
    let text = format!("{before}{BEGIN}\n\n{}\n\n{}\n\n{END}{after}", machine::told(&commit)?, table.trim());
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
}

//! `cargo xtask test faults`: podtrail broken in every way under a storm of sessions, and what was lost.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

use super::{Counts, count};
use crate::{machine, root, sh::cmd};

const BEGIN: &str = "<!-- `cargo xtask test faults --write` writes from here -->";
const END: &str = "<!-- `cargo xtask test faults --write` writes up to here -->";

/// Options of `test faults`.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of `test faults`")]
pub(crate) struct Faults {
    /// Only this scenario; may be given again
    #[arg(long, value_name = "NAME")]
    scenario: Vec<String>,
    /// The random moments of a former run
    #[arg(long)]
    seed: Option<u64>,
    /// Again and again, each time with other moments, for so many minutes
    #[arg(long, value_name = "MINUTES")]
    soak: Option<u64>,
    /// Write the results to docs/reliability.md
    #[arg(long, conflicts_with = "scenario")]
    write: bool,
}

impl Faults {
    /// Whether anything was asked for.
    pub(super) fn are_given(&self) -> bool {
        let Self { scenario, seed, soak, write } = self;
        !scenario.is_empty() || seed.is_some() || soak.is_some() || *write
    }

    /// As the test program takes them.
    fn arguments(&self) -> Vec<String> {
        let Self { scenario, seed, soak, write: _ } = self;
        let scenarios = scenario.iter().flat_map(|name| ["--scenario".to_owned(), name.clone()]);
        let number =
            |flag: &str, value: &Option<u64>| value.map(|value| [flag.to_owned(), value.to_string()]);
        scenarios
            .chain(number("--seed", seed).into_iter().flatten())
            .chain(number("--soak", soak).into_iter().flatten())
            .collect()
    }
}

/// Runs the scenarios; returns whether all went well. The tree is changed only where that was asked for.
pub(super) fn run(options: &Faults, program: &Path, counts: &mut Counts) -> Result<bool> {
    let mut faults = cmd(program).arg("faults").args(options.arguments());
    let table = root::target().join("faults.md");
    // The commit that is told is the one that was run, not what became of it meanwhile.
    let commit = machine::commit()?;
    if options.write {
        faults = faults.arg("--report").arg(&table);
    }
    let good = count(faults, counts)?;
    if options.write {
        write(&commit, &options.arguments(), &table)?;
    }
    Ok(good)
}

fn write(commit: &str, arguments: &[String], table: &Path) -> Result<()> {
    let table = fs::read_to_string(table).with_context(|| format!("cannot read {}", table.display()))?;
    let file = root::workspace().join("docs/reliability.md");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let (Some((before, _)), Some((_, after))) = (text.split_once(BEGIN), text.split_once(END)) else {
        bail!("{} has no place for results (`{BEGIN}` and `{END}`)", file.display());
    };
    let command: Vec<&str> =
        ["cargo xtask test faults --write"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
    let section =
        format!("Written by `{}`. {}\n\n{}", command.join(" "), machine::told(commit)?, table.trim());
    let text = format!("{before}{BEGIN}\n\n{section}\n\n{END}{after}");
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!("written to {}", file.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_handed_on() {
        let none = Faults { scenario: Vec::new(), seed: None, soak: None, write: false };
        assert!(!none.are_given() && none.arguments().is_empty());
        let all = Faults {
            scenario: vec!["clock".to_owned(), "network".to_owned()],
            seed: Some(7),
            soak: Some(90),
            write: false,
        };
        assert!(all.are_given());
        assert_eq!(
            all.arguments(),
            ["--scenario", "clock", "--scenario", "network", "--seed", "7", "--soak", "90"]
        );
    }
}

//! `cargo xtask bench hooks`: what each way to see system calls costs everybody on the node, in virtual machines, which
//! have all three of them.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::{measure::Samples, report};
use crate::{
    machine,
    vm::{self, Line},
};

/// Options of `bench hooks`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Which line of kernels; may be given again
    #[arg(long, value_enum, value_name = "LINE", default_values = ["6.1", "6.12"])]
    kernel: Vec<Line>,
}

/// What is compared with.
const NONE: &str = "none";

/// Measures, and writes to `docs/kernels.md`.
pub(super) fn run(options: &Options) -> Result<()> {
    let mut text = format!("{}\n\n", machine::told(&machine::commit()?)?);
    writeln!(
        text,
        "In virtual machines by software, whose clock counts instructions, one a nanosecond: what else the machine does changes nothing, and \
         caches and the price of single instructions are not in it. `times` is how many times as long it takes with a hook as with no agent in the \
         same round, median (least to most). Nobody here is in a session.\n\n\
         | kernel | setns is seen by | `getpid`, µs | times | an exec, µs | times |\n|---|---|---:|---:|---:|---:|"
    )?;
    for (kernel, costs) in vm::hook_costs(&options.kernel)? {
        let mut ways: Vec<(String, Samples, Samples)> = Vec::new();
        for (way, call, exec) in costs {
            let at = ways.iter().position(|(known, ..)| *known == way).unwrap_or_else(|| {
                ways.push((way, Samples::default(), Samples::default()));
                ways.len() - 1
            });
            let (_, calls, execs) = ways.get_mut(at).context("no such way")?;
            calls.add(call);
            execs.add(exec);
        }
        let base = ways.iter().find(|(way, ..)| way == NONE).context("nothing to compare with")?.clone();
        for (way, calls, execs) in &ways {
            let times = |with: &Samples, without: &Samples| {
                let ratios = with.times(without);
                let (least, most) = ratios.range();
                format!("{:.2} ({least:.2} to {most:.2})", ratios.median())
            };
            let (call_times, exec_times) = if way == NONE {
                (String::new(), String::new())
            } else {
                (times(calls, &base.1), times(execs, &base.2))
            };
            let shown = if way == NONE { "no agent" } else { way };
            writeln!(
                text,
                "| {kernel} | {shown} | {:.2} | {call_times} | {:.0} | {exec_times} |",
                calls.median(),
                execs.median()
            )?;
        }
    }
    println!("{text}");
    report::write_to("docs/kernels.md", "hooks", &text)
}

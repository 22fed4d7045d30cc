//! A virtual machine that runs the tests once, and what it printed.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    Cost,
    archive::Userland,
    plan::{Arch, Cgroups, Run},
};
use crate::{sh::cmd, test::Counts};

/// All tests of one machine.
const AT_MOST: Duration = Duration::from_secs(100 * 60);
/// Without a word.
const SILENT: Duration = Duration::from_secs(8 * 60);
/// Kernels that die before the first program are the emulator's fault: about one boot in a hundred.
const BOOTS: u32 = 4;

const REACHED: &str = "podtrail-vm: init reached";
const ENDED: &str = "podtrail-vm: ended with ";

/// One run.
#[derive(Debug)]
pub(super) struct Boot<'a> {
    pub(super) userland: &'a Userland,
    pub(super) image: &'a Path,
    pub(super) run: Run,
    pub(super) tests: Option<&'a str>,
    /// instead of tests: what the hooks cost
    pub(super) costs: bool,
    /// before every line that it prints
    pub(super) prefix: &'a str,
}

/// How it went.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) counts: Counts,
    /// names of tests that failed
    pub(super) failed: Vec<String>,
    /// tests that were left out, and why
    pub(super) left_out: Vec<(String, String)>,
    /// instructions that the verifier went through, by program
    pub(super) verified: BTreeMap<String, u64>,
    /// what tests have seen of the machine
    pub(super) seen: Vec<String>,
    pub(super) costs: Vec<Cost>,
    /// why there is no result; empty: there is one
    pub(super) trouble: String,
    /// boots that died before the first program
    pub(super) again: u32,
    pub(super) code: Option<i32>,
    pub(super) reached: bool,
}

impl Outcome {
    /// Whether whatever was run there has said that it succeeded.
    pub(super) fn ended_well(&self) -> bool {
        self.trouble.is_empty() && self.code == Some(0)
    }

    pub(super) fn is_good(&self) -> bool {
        self.ended_well() && self.counts.failed == 0 && self.counts.passed > 0
    }
}

impl Boot<'_> {
    /// Boots, and boots again what did not come up.
    pub(super) fn run(&self) -> Result<Outcome> {
        let mut again = 0;
        loop {
            let mut outcome = self.once()?;
            if outcome.reached || again + 1 >= BOOTS {
                outcome.again = again;
                return Ok(outcome);
            }
            again += 1;
            eprintln!("it did not come up: once more ({})", outcome.trouble);
        }
    }

    fn once(&self) -> Result<Outcome> {
        let Self { userland, image, run, tests, costs, prefix } = self;
        let Run { line: _, arch, mode, hook, part } = *run;
        let (program, machine, console): (_, &[&str], _) = match arch {
            Arch::X86_64 => ("qemu-system-x86_64", &["-cpu", "qemu64,-cx16"], "ttyS0"),
            Arch::Aarch64 => ("qemu-system-aarch64", &["-machine", "virt", "-cpu", "cortex-a72"], "ttyAMA0"),
        };
        let append = format!(
            "console={console} loglevel=3 panic=-1 oops=panic no_timer_check podtrail.cgroup={} podtrail.setns={} \
             podtrail.ways={} podtrail.slow=10 podtrail.only={} podtrail.tests={} podtrail.job={}{}",
            mode.as_str(),
            hook.as_str(),
            run.ways().iter().map(|way| way.as_str()).collect::<Vec<_>>().join(","),
            part.only().join(","),
            tests.unwrap_or_default(),
            if *costs { "costs" } else { "tests" },
            if mode == Cgroups::V2 { "" } else { " systemd.unified_cgroup_hierarchy=0" },
        );
        // Its clock counts instructions then, one a nanosecond: what else this machine does changes nothing.
        let counted: &[&str] = if *costs { &["-icount", "shift=0,sleep=off"] } else { &[] };
        let machine = cmd(program)
            .args(machine)
            .args(counted)
            .args(["-accel", "tcg", "-smp", "1", "-m", "3072", "-nographic", "-no-reboot"])
            .args(["-nic", "none", "-monitor", "none", "-serial", "stdio"])
            .arg("-kernel")
            .arg(&userland.kernel)
            .arg("-initrd")
            .arg(image)
            .args(["-append", &append]);
        let (shown, mut machine) = machine.announced();
        let mut machine = Machine(
            machine
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .with_context(|| format!("cannot start `{shown}`"))?,
        );
        let output = machine.0.stdout.take().context("no output to read")?;
        let (lines, printed) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                if lines.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                    return;
                }
            }
        });
        let mut outcome = Outcome::default();
        let began = Instant::now();
        loop {
            let left = AT_MOST.saturating_sub(began.elapsed()).min(SILENT);
            match printed.recv_timeout(left) {
                Ok(line) => outcome.take(prefix, &line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    outcome.trouble = format!("nothing came for {} s", left.as_secs());
                    break;
                }
            }
        }
        if outcome.trouble.is_empty() && outcome.code.is_none() {
            outcome.trouble = "it died before the tests ended".to_owned();
        }
        Ok(outcome)
    }
}

impl Outcome {
    fn take(&mut self, prefix: &str, line: &str) {
        {
            let mut out = std::io::stdout().lock();
            // Nobody reads it: the result counts.
            _ = writeln!(out, "{prefix}{line}");
        }
        let test = || line.strip_prefix("test ")?.split_once(' ');
        if line.contains(REACHED) {
            self.reached = true;
        } else if let Some(code) = line.strip_prefix(ENDED) {
            self.code = code.trim().parse().ok();
        } else if line.contains("Kernel panic - not syncing") || line.contains("Oops:") {
            self.trouble = line.trim().to_owned();
        } else if let Some(counts) = crate::test::summary(line) {
            self.counts = counts;
        } else if let Some((count, program)) =
            line.strip_prefix("verified ").and_then(|rest| rest.split_once(' '))
            && let Ok(count) = count.parse()
        {
            self.verified.insert(program.trim().to_owned(), count);
        } else if let Some(cost) = line.strip_prefix("cost: ") {
            self.costs.extend(cost_of(cost));
        } else if let Some(seen) = line.strip_prefix("seen: ") {
            self.seen.push(seen.trim().to_owned());
        } else if let Some((name, _)) = line.strip_prefix("failed: ").and_then(|rest| rest.split_once(": ")) {
            self.failed.push(name.to_owned());
        } else if let Some((name, rest)) = test()
            && let Some((_, reason)) = rest.split_once("ignored (")
        {
            self.left_out.push((name.to_owned(), reason.trim_end_matches(')').to_owned()));
        }
    }
}

/// Reads "way nanoseconds nanoseconds".
fn cost_of(line: &str) -> Option<Cost> {
    let mut words = line.split_whitespace();
    let way = words.next()?.to_owned();
    let mut micros = || words.next()?.parse::<f64>().ok().map(|nanos| nanos / 1000.0);
    Some((way, micros()?, micros()?))
}

/// Gone when it is dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

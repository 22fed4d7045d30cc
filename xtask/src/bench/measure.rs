//! Numbers from `/proc`, and what to make of many of them.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use nix::libc;

/// Many measurements of one thing.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    pub(super) fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// The one in the middle; of an even number, the mean of the two there.
    pub(super) fn median(&self) -> f64 {
        let sorted = self.sorted();
        let n = sorted.len();
        let at = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
        if n % 2 == 1 { at(n / 2) } else { f64::midpoint(at((n / 2).saturating_sub(1)), at(n / 2)) }
    }

    /// The least and the greatest.
    pub(super) fn range(&self) -> (f64, f64) {
        let sorted = self.sorted();
        (sorted.first().copied().unwrap_or(f64::NAN), sorted.last().copied().unwrap_or(f64::NAN))
    }

    /// How much more than `base`, round by round: both were measured once in each.
    pub(super) fn over(&self, base: &Self) -> Self {
        Self(self.0.iter().zip(&base.0).map(|(with, without)| with - without).collect())
    }

    /// The same, in percent of `base`.
    pub(super) fn share_over(&self, base: &Self) -> Self {
        Self(self.0.iter().zip(&base.0).map(|(with, without)| 100.0 * (with - without) / without).collect())
    }

    /// How many times `base`, round by round.
    pub(super) fn times(&self, base: &Self) -> Self {
        Self(self.0.iter().zip(&base.0).map(|(with, without)| with / without).collect())
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Time that a process's threads have spent on a processor, to the nanosecond.
pub(super) fn processor_time(pid: u32) -> Result<Duration> {
    let tasks = format!("/proc/{pid}/task");
    let mut sum = 0;
    for task in fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))? {
        let file = task.context("cannot list threads")?.path().join("schedstat");
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            // A thread that ended since it was listed.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
        };
        sum += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).context("no schedstat")?;
    }
    Ok(Duration::from_nanos(sum))
}

/// Lets `VmHWM` count from now: loading took more than running does.
pub(super) fn forget_peak(pid: u32) -> Result<()> {
    let file = format!("/proc/{pid}/clear_refs");
    fs::write(&file, "5").with_context(|| format!("cannot write {file}"))
}

/// Memory of a process that is resident, in MiB: now, and at most so far.
pub(super) fn resident(pid: u32) -> Result<(f64, f64)> {
    let file = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    let field = |name: &str| -> Result<f64> {
        let line =
            text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        let number = line.trim().trim_end_matches(" kB").parse::<f64>();
        Ok(number.with_context(|| format!("{name} is no number"))? / 1024.0)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let mut samples = Samples::default();
        for value in [5.0, 1.0, 3.0] {
            samples.add(value);
        }
        assert!((samples.median() - 3.0).abs() < f64::EPSILON);
        samples.add(4.0);
        assert!((samples.median() - 3.5).abs() < f64::EPSILON);
        assert_eq!(samples.range(), (1.0, 5.0));

        let mut base = Samples::default();
        for value in [4.0, 2.0, 2.0, 1.0] {
            base.add(value);
        }
        let more = samples.over(&base);
        assert_eq!(more.range(), (-1.0, 3.0), "1, -1, 1 and 3: round by round, not sorted");
        assert!((more.median() - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_process_has_used_time_and_memory() {
        let own = std::process::id();
        assert!(processor_time(own).unwrap() > Duration::ZERO);
        let (now, most) = resident(own).unwrap();
        assert!(now > 0.0 && most >= now);
    }
}

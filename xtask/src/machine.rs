//! When, of what and where something was measured, for documents.

use std::fs;

use anyhow::{Context, Result};

use crate::sh::cmd;

/// The commit that is checked out; it says so when something was changed. Documents do not count: nothing that is measured
/// is made of them, and the measurement before this one has just written to some.
pub(crate) fn commit() -> Result<String> {
    let git = |args: &[&str]| anyhow::Ok(cmd("git").args(args).peek()?.unwrap_or_default().trim().to_owned());
    let commit = git(&["describe", "--always", "--exclude=*"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs"])?;
    Ok(if changed.is_empty() { commit } else { format!("{commit}-dirty") })
}

/// A sentence: date, commit, processors, memory, kernel, load.
pub(crate) fn told(commit: &str) -> Result<String> {
    let info = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let model = field("model name");
    let virtual_machine = field("flags").split(' ').any(|flag| flag == "hypervisor");
    let processors = std::thread::available_parallelism().context("how many processors?")?;
    let memory = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let memory =
        memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() >> 20;
    let kernel =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
    let date = cmd("date").args(["--utc", "+%Y-%m-%d"]).peek()?.unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
    Ok(format!(
        "Measured on {}, at commit {commit}: {}{processors} processors ({model}), {memory} GiB, Linux {}, \
         load average at the end {}.",
        date.trim(),
        if virtual_machine { "a virtual machine with " } else { "" },
        kernel.trim(),
        load.split(' ').next().unwrap_or_default(),
    ))
}

//! What the node gives the agent besides the kernel: limits, mounts, and whether another agent is there.

use std::fs;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use procfs::process::Process;
use serde::Serialize;

use super::Problem;
use crate::{agent::lock, config::agent::AgentConfig};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// bytes that may be locked (5.10 counts BPF's memory against it); `None`: no limit
    pub locked_memory_limit: Option<u64>,
    pub open_files_limit: Option<u64>,
    /// where they are mounted; `None`: nowhere
    pub tracefs: Option<String>,
    pub bpffs: Option<String>,
    /// pid of an agent that runs on this node; 0: there is one, but its pid is not known
    pub other_agent: Option<u32>,
}

impl Node {
    pub(super) fn examine(config: &AgentConfig, problems: &mut Vec<Problem>) -> Self {
        let mounts =
            Process::myself().and_then(|me| me.mountinfo()).map(|mounts| mounts.0).unwrap_or_default();
        let mounted = |kind: &str| {
            let found = mounts.iter().find(|mount| mount.fs_type == kind);
            found.map(|mount| mount.mount_point.display().to_string())
        };
        let node = Self {
            locked_memory_limit: limit(Resource::RLIMIT_MEMLOCK),
            open_files_limit: limit(Resource::RLIMIT_NOFILE),
            tracefs: mounted("tracefs"),
            bpffs: mounted("bpf"),
            other_agent: lock::holder(&config.lock),
        };
        if let Some(pid) = node.other_agent {
            problems.push(Problem {
                what: format!("podtrail-agent runs on this node already (pid {pid})"),
                fix: "nothing to do; a second one would be refused".to_owned(),
                fatal: false,
            });
        }
        let old = fs::read_to_string("/proc/sys/kernel/osrelease")
            .is_ok_and(|release| release.starts_with("5.10."));
        if old && node.locked_memory_limit.is_some_and(|bytes| bytes < 64 << 20) {
            problems.push(Problem {
                what: "the limit of locked memory is below 64 MiB, and this kernel counts BPF's memory against it"
                    .to_owned(),
                fix: "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit".to_owned(),
                fatal: false,
            });
        }
        node
    }
}

fn limit(resource: Resource) -> Option<u64> {
    getrlimit(resource).ok().map(|(soft, _hard)| soft).filter(|soft| *soft != RLIM_INFINITY)
}

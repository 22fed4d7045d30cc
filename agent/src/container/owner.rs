//! The container that a mount or pid namespace belongs to, for records of which the kernel side does not know it.
//!
//! Looks through `/proc`: for the rare case, so bounded, and what was not found is not looked for again for a while,
//! by the events' own time.

use std::collections::HashMap;

use super::directory::Directory;
use super::host::Host;
use super::process::{self, NsKind};
use super::{Hierarchy, HostNamespaces, Scan};
use crate::event::BootTime;

/// Answers that are remembered, at most.
const CACHE_MAX: usize = 256;

/// Processes that one look reads, at most.
const PROCESSES_MAX: usize = 65_536;

/// How long an answer holds: a namespace's number is given to another soon after it is gone.
const FOUND_NS: u64 = 1_000_000_000;
const NOT_FOUND_NS: u64 = 5 * 1_000_000_000;

#[derive(Clone, Copy, Debug)]
struct Answer {
    time: BootTime,
    container: Option<u64>,
}

/// Finds the owners of namespaces.
#[derive(Debug)]
pub struct Owners {
    host: Host,
    hierarchy: Hierarchy,
    namespaces: HostNamespaces,
    answers: HashMap<(NsKind, u32), Answer>,
    looks: u64,
}

impl Owners {
    #[must_use]
    pub fn new(host: Host, hierarchy: Hierarchy, namespaces: HostNamespaces) -> Self {
        Self { host, hierarchy, namespaces, answers: HashMap::new(), looks: 0 }
    }

    /// For a look at all processes of this node.
    #[must_use]
    pub fn scan(&self, time: BootTime) -> Scan<'_> {
        let Self { host, hierarchy, namespaces, answers: _, looks: _ } = self;
        Scan { host, hierarchy, namespaces, time, self_pid: std::process::id() }
    }

    /// Cgroup id of the container that the mount namespace `mnt`, or else the pid namespace `pid`, belongs to. 0 and
    /// the node's own belong to none.
    pub fn find(&mut self, time: BootTime, mnt: u32, pid: u32, directory: &Directory) -> Option<u64> {
        let asked = [(NsKind::Mnt, mnt, self.namespaces.mnt), (NsKind::Pid, pid, self.namespaces.pid)];
        asked
            .into_iter()
            .filter(|(_, ns, own)| *ns != 0 && ns != own)
            .find_map(|(kind, ns, _)| self.owner(time, kind, ns, directory))
    }

    /// The directory knows more now: what was not found may be.
    pub fn ask_again(&mut self) {
        self.answers.retain(|_, answer| answer.container.is_some());
    }

    /// How often `/proc` was looked through.
    #[must_use]
    pub fn looks(&self) -> u64 {
        self.looks
    }

    fn owner(&mut self, time: BootTime, kind: NsKind, ns: u32, directory: &Directory) -> Option<u64> {
        let holds = |answer: &Answer| {
            let age = if answer.container.is_some() { FOUND_NS } else { NOT_FOUND_NS };
            time.since(answer.time) < age
        };
        if let Some(answer) = self.answers.get(&(kind, ns)).filter(|answer| holds(answer)) {
            return answer.container;
        }
        let container = self.look(kind, ns, directory);
        if self.answers.len() >= CACHE_MAX {
            self.answers.retain(|_, answer| holds(answer));
        }
        if self.answers.len() >= CACHE_MAX
            && let Some(oldest) =
                self.answers.iter().min_by_key(|(_, answer)| answer.time).map(|(asked, _)| *asked)
        {
            self.answers.remove(&oldest);
        }
        self.answers.insert((kind, ns), Answer { time, container });
        container
    }

    /// Any process in it whose cgroup is a container's: one that joined it has the host's.
    fn look(&mut self, kind: NsKind, ns: u32, directory: &Directory) -> Option<u64> {
        self.looks += 1;
        let pids = process::pids(&self.host).ok()?;
        pids.into_iter().take(PROCESSES_MAX).find_map(|pid| {
            let folder = self.host.process(pid);
            if process::namespace(&folder, kind).ok()? != ns {
                return None;
            }
            let cgroup = process::read_bounded(&folder.join("cgroup"), 64 << 10).ok()?;
            let id = self.hierarchy.id_of(&self.hierarchy.path_in(&cgroup)?)?;
            directory.find(id).map(|info| info.cgroup_id)
        })
    }
}

#[cfg(test)]
mod tests;

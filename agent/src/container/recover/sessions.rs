//! Which processes are of sessions: those that no member of their container forked, and all that these forked.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::super::host::HostNamespaces;
use super::super::process::Process;
use super::cgroups::Cgroups;
use crate::session::record::EntryKind;

/// Rounds in which orphans find their sessions, at most.
const ROUNDS_MAX: usize = 8;

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    /// of no container
    Host,
    /// a container's own
    Workload(u64),
    /// a container's own, its cgroup outside every container
    MovedOut(u64),
    /// of the session with this root
    Session(u32),
}

/// A session to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) root: u32,
    pub(super) container: u64,
    pub(super) kind: EntryKind,
    /// the root first, then by age
    pub(super) members: Vec<u32>,
}

/// All processes' labels, and the sessions.
#[derive(Debug, Default)]
pub(super) struct Labels {
    pub(super) of: BTreeMap<u32, Label>,
    pub(super) sessions: Vec<Plan>,
}

/// Labels every process.
/// `beside`: containers that are sessions themselves.
pub(super) fn label(
    processes: &BTreeMap<u32, Process>,
    cgroups: &Cgroups,
    beside: &BTreeSet<u64>,
    host: &HostNamespaces,
) -> Labels {
    let owners: HashMap<u32, u64> = cgroups.namespaces().into_iter().collect();
    let ns_inits: HashMap<u32, u32> = processes
        .values()
        .filter(|process| process.is_ns_init())
        .filter_map(|process| Some((process.pid, process.pid_ns?)))
        .collect();
    let mut labeller = Labeller {
        processes,
        cgroups,
        beside,
        host,
        owners,
        ns_inits,
        adopted: HashMap::new(),
        roots: BTreeMap::new(),
        labels: HashMap::new(),
    };
    for _ in 0..ROUNDS_MAX {
        labeller.run();
        if !labeller.adopt() {
            break;
        }
    }
    labeller.finish()
}

struct Labeller<'a> {
    processes: &'a BTreeMap<u32, Process>,
    cgroups: &'a Cgroups,
    beside: &'a BTreeSet<u64>,
    host: &'a HostNamespaces,
    /// of mount and pid namespaces
    owners: HashMap<u32, u64>,
    /// first processes of pid namespaces, and these
    ns_inits: HashMap<u32, u32>,
    /// orphans, and the sessions' roots that they were found to be of
    adopted: HashMap<u32, u32>,
    roots: BTreeMap<u32, (u64, EntryKind)>,
    labels: HashMap<u32, Label>,
}

impl Labeller<'_> {
    fn run(&mut self) {
        self.labels.clear();
        self.roots.clear();
        for process in self.processes.values() {
            self.label_with_ancestors(process);
        }
    }

    /// Ancestors first, without recursion: a chain of processes is as long as its owner likes.
    fn label_with_ancestors(&mut self, process: &Process) {
        let mut chain = vec![process];
        let mut seen = HashSet::from([process.pid]);
        while let Some(parent) = chain.last().and_then(|last| self.processes.get(&last.parent)) {
            // Parents that were read at different times can seem to be each other's.
            if self.labels.contains_key(&parent.pid) || !seen.insert(parent.pid) {
                break;
            }
            chain.push(parent);
        }
        while let Some(process) = chain.pop() {
            if self.labels.contains_key(&process.pid) {
                continue;
            }
            let parent = self.processes.get(&process.parent);
            let label = self.decide(process, parent);
            self.labels.insert(process.pid, label);
        }
    }

    fn decide(&mut self, process: &Process, parent: Option<&Process>) -> Label {
        let of_parent = parent.and_then(|parent| self.labels.get(&parent.pid)).copied();
        let place = self.cgroups.container_of(process);
        if let Some(root) = self.adopted.get(&process.pid) {
            return Label::Session(*root);
        }
        // A container's init is that, whoever forked it: sessions start containers too.
        if let Some(container) = place
            && self.cgroups.container(container).is_some_and(|found| found.init == Some(process.pid))
        {
            if self.beside.contains(&container) {
                return self.root(process, container, EntryKind::Ephemeral);
            }
            return Label::Workload(container);
        }
        if let Some(Label::Session(root)) = of_parent {
            return Label::Session(root);
        }
        match place {
            Some(container) => self.inside(process, parent, of_parent, container),
            None => self.outside(process, parent, of_parent),
        }
    }

    fn inside(
        &mut self,
        process: &Process,
        parent: Option<&Process>,
        of_parent: Option<Label>,
        container: u64,
    ) -> Label {
        let Some(found) = self.cgroups.container(container).copied() else { return Label::Host };
        let chrooted =
            found.mnt_ns != 0 && !found.host_root && self.host.root.is_some_and(|root| root.is(process.root));
        if chrooted || (found.mnt_ns != 0 && process.mnt_ns == Some(self.host.mnt)) {
            return self.root(process, container, EntryKind::HostNamespace);
        }
        let orphan = parent.is_some_and(|parent| self.is_orphan(process, parent));
        match of_parent {
            Some(Label::Workload(other) | Label::MovedOut(other)) if other == container || orphan => {
                Label::Workload(container)
            }
            _ if self.is_of_inits_session(process, found.init) => Label::Workload(container),
            _ => self.root(process, container, EntryKind::Runtime),
        }
    }

    fn outside(&mut self, process: &Process, parent: Option<&Process>, of_parent: Option<Label>) -> Label {
        if let Some(Label::MovedOut(container)) = of_parent {
            return Label::MovedOut(container);
        }
        let owner = |ns: Option<u32>, host: u32| {
            ns.filter(|ns| *ns != host).and_then(|ns| self.owners.get(&ns)).copied()
        };
        let container = owner(process.mnt_ns, self.host.mnt).or_else(|| owner(process.pid_ns, self.host.pid));
        let Some(container) = container else { return Label::Host };
        match of_parent {
            Some(Label::Workload(_)) if !parent.is_some_and(|parent| self.is_orphan(process, parent)) => {
                Label::MovedOut(container)
            }
            _ => self.root(process, container, EntryKind::Join),
        }
    }

    /// Whether the parent may have got the process from the kernel, as the first of its pid namespace.
    fn is_orphan(&self, process: &Process, parent: &Process) -> bool {
        process.pid_ns.is_some() && self.ns_inits.get(&parent.pid).copied() == process.pid_ns
    }

    /// In the node's pid namespace orphans go to the container's shim, outside. Runtimes give every entry a POSIX
    /// session of its own.
    fn is_of_inits_session(&self, process: &Process, init: Option<u32>) -> bool {
        process.pid_ns == Some(self.host.pid)
            && init.and_then(|init| self.processes.get(&init)).is_some_and(|init| init.sid == process.sid)
    }

    fn root(&mut self, process: &Process, container: u64, kind: EntryKind) -> Label {
        self.roots.insert(process.pid, (container, kind));
        Label::Session(process.pid)
    }

    /// Finds sessions for orphans by their POSIX sessions. Whether there was any new.
    fn adopt(&mut self) -> bool {
        let mut workload_sids = HashSet::new();
        let mut sids: HashMap<u32, u32> = HashMap::new();
        for (_, container) in self.cgroups.containers().filter(|(id, _)| !self.beside.contains(id)) {
            if let Some(init) = container.init.and_then(|pid| self.processes.get(&pid)) {
                workload_sids.insert(init.sid);
            }
        }
        for (pid, process) in self.processes {
            match self.labels.get(pid) {
                Some(Label::Session(root)) if process.sid != 0 => {
                    sids.entry(process.sid).or_insert(*root);
                }
                // The leader of a POSIX session that is workload itself: what is in it is workload too.
                Some(Label::Workload(_)) if process.sid == *pid => {
                    workload_sids.insert(process.sid);
                }
                _ => {}
            }
        }
        let before = self.adopted.len();
        for (pid, process) in self.processes {
            let is_init = self.cgroups.containers().any(|(_, container)| container.init == Some(*pid));
            let orphan =
                self.processes.get(&process.parent).is_some_and(|parent| self.is_orphan(process, parent));
            let candidate = match self.labels.get(pid) {
                Some(Label::Workload(_)) => orphan && !is_init,
                // A join whose entry is gone may be of another that still lives.
                Some(Label::Session(root)) => root == pid && orphan && !is_init,
                _ => false,
            };
            if candidate
                && !workload_sids.contains(&process.sid)
                && let Some(root) = sids.get(&process.sid)
                && root != pid
                && !self.adopted.contains_key(root)
            {
                self.adopted.insert(*pid, *root);
            }
        }
        self.adopted.len() > before
    }

    fn finish(self) -> Labels {
        let Self {
            processes,
            roots,
            labels,
            cgroups: _,
            beside: _,
            host: _,
            owners: _,
            ns_inits: _,
            adopted: _,
        } = self;
        let mut plans: BTreeMap<u32, Plan> = roots
            .into_iter()
            .map(|(root, (container, kind))| (root, Plan { root, container, kind, members: Vec::new() }))
            .collect();
        for (pid, label) in &labels {
            if let Label::Session(root) = label
                && let Some(plan) = plans.get_mut(root)
            {
                plan.members.push(*pid);
            }
        }
        for plan in plans.values_mut() {
            let age = |pid: &u32| processes.get(pid).map(|process| process.start_ticks);
            plan.members.sort_by_key(|pid| (*pid != plan.root, age(pid), *pid));
        }
        Labels {
            of: labels.into_iter().collect(),
            sessions: plans.into_values().filter(|plan| !plan.members.is_empty()).collect(),
        }
    }
}

//! What each cgroup is, by its name, its place and its processes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use podtrail_ebpf::layout::{self, TaskKey, cgroup_state};
use podtrail_ebpf::rules;

use super::super::cgroupfs::{Found, Walk};
use super::super::host::HostNamespaces;
use super::super::name;
use super::super::process::Process;

/// Where systemd and Docker's own image for Docker in Docker put themselves.
const INIT_NAMES: [&[u8]; 2] = [b"init.scope", b"init"];

/// A container with processes, or only with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Container {
    pub(super) init: Option<u32>,
    /// the init's; 0: the host's, or not known
    pub(super) mnt_ns: u32,
    pub(super) pid_ns: u32,
    /// the init is the first process of its pid namespace
    owns_pid_ns: bool,
    /// the init's root directory is the node's
    pub(super) host_root: bool,
}

/// All cgroups, resolved.
#[derive(Debug, Default)]
pub(super) struct Cgroups {
    containers: BTreeMap<u64, Container>,
    /// every cgroup of a container, its own among them → the container
    container_of: HashMap<u64, u64>,
    states: HashMap<u64, u8>,
    /// pods → the container in each that runs for longest, which is its sandbox; 0: none
    pods: BTreeMap<u64, u64>,
    /// containers' cgroups → the ones above
    parents: HashMap<u64, u64>,
}

/// Decides about every cgroup, parents before children.
pub(super) fn classify(walk: &Walk, processes: &BTreeMap<u32, Process>, host: &HostNamespaces) -> Cgroups {
    let mut inside: HashMap<u64, Vec<&Process>> = HashMap::new();
    for process in processes.values() {
        if let Some(cgroup) = process.cgroup {
            inside.entry(cgroup).or_default().push(process);
        }
    }
    let subtrees = Subtrees::of(walk);
    let mut cgroups = Cgroups::default();
    for Found { id, parent, path, container: _ } in &walk.cgroups {
        let state = if *parent == 0 {
            cgroup_state::HOST
        } else if let Some(container) = cgroups.container_of.get(parent).copied() {
            cgroups.container_of.insert(*id, container);
            cgroup_state::MEMBER
        } else {
            let own = inside.get(id).map(Vec::as_slice).unwrap_or_default();
            let kind = name::kind(path);
            if kind == rules::Name::Pod {
                cgroups.pods.insert(*id, 0);
            }
            let state = match kind {
                rules::Name::Container => {
                    let members: Vec<&Process> = subtrees.processes(*id, &inside);
                    if members.is_empty() { cgroup_state::NAMED } else { cgroup_state::RUNNING }
                }
                rules::Name::Service => cgroup_state::HOST,
                rules::Name::Pod | rules::Name::Other if own.is_empty() => {
                    // An init that hands out cgroups moves itself one level down first, into one of these.
                    let moved = INIT_NAMES
                        .iter()
                        .filter_map(|name| subtrees.child_named(*id, name, walk))
                        .filter_map(|child| oldest(inside.get(&child)?))
                        .any(|process| process.is_ns_init() && is_foreign(process, host));
                    if moved { cgroup_state::RUNNING } else { cgroup_state::NEW }
                }
                rules::Name::Pod | rules::Name::Other => {
                    if oldest(own).is_some_and(|process| is_foreign(process, host)) {
                        cgroup_state::RUNNING
                    } else {
                        cgroup_state::HOST
                    }
                }
            };
            if matches!(state, cgroup_state::NAMED | cgroup_state::RUNNING) {
                let container = describe(&subtrees.processes(*id, &inside), host);
                // The kernel gives cgroups' ids in their order.
                if container.init.is_some()
                    && let Some(first) = cgroups.pods.get_mut(parent)
                    && (*first == 0 || *first > *id)
                {
                    *first = *id;
                }
                cgroups.parents.insert(*id, *parent);
                cgroups.containers.insert(*id, container);
                cgroups.container_of.insert(*id, *id);
            }
            state
        };
        cgroups.states.insert(*id, state);
    }
    cgroups
}

fn is_foreign(process: &Process, host: &HostNamespaces) -> bool {
    process.pid_ns.is_some_and(|ns| ns != host.pid)
}

fn oldest<'a>(processes: &[&'a Process]) -> Option<&'a Process> {
    processes.iter().copied().min_by_key(|process| (process.start_ticks, process.pid))
}

/// The init is the first process of a pid namespace, the outermost such; where the container shares its pid namespace
/// with the node or with another container, the oldest.
fn describe(members: &[&Process], host: &HostNamespaces) -> Container {
    let first = members
        .iter()
        .copied()
        .filter(|process| process.is_ns_init() && is_foreign(process, host))
        .min_by_key(|process| (process.ns_pids.len(), process.start_ticks, process.pid));
    let init = first.or_else(|| oldest(members));
    let own = |ns: Option<u32>, host: u32| ns.filter(|ns| *ns != host).unwrap_or(0);
    Container {
        init: init.map(|process| process.pid),
        mnt_ns: own(init.and_then(|process| process.mnt_ns), host.mnt),
        pid_ns: own(init.and_then(|process| process.pid_ns), host.pid),
        owns_pid_ns: first.is_some(),
        host_root: init.is_some_and(|init| host.root.is_some_and(|root| root.is(init.root))),
    }
}

impl Cgroups {
    /// The container that a process is in.
    pub(super) fn container_of(&self, process: &Process) -> Option<u64> {
        self.container_of.get(&process.cgroup?).copied()
    }

    pub(super) fn container(&self, id: u64) -> Option<&Container> {
        self.containers.get(&id)
    }

    pub(super) fn containers(&self) -> impl Iterator<Item = (u64, Container)> {
        self.containers.iter().map(|(id, container)| (*id, *container))
    }

    /// Namespaces and the container that each belongs to: a pid namespace that several share belongs to the one
    /// whose init is its first process.
    pub(super) fn namespaces(&self) -> Vec<(u32, u64)> {
        let mut owners = BTreeMap::new();
        for (id, container) in self.containers.iter().filter(|(_, container)| container.owns_pid_ns) {
            owners.entry(container.pid_ns).or_insert(*id);
        }
        for (id, container) in &self.containers {
            owners.entry(container.mnt_ns).or_insert(*id);
            owners.entry(container.pid_ns).or_insert(*id);
        }
        owners.remove(&0);
        owners.into_iter().collect()
    }

    /// Containers that were put into the pid namespace of another which is not its pod's sandbox.
    pub(super) fn beside(&self) -> BTreeSet<u64> {
        let owners: HashMap<u32, u64> = self.namespaces().into_iter().collect();
        let sandbox = |id| self.parents.get(id).and_then(|parent| self.pods.get(parent)) == Some(id);
        self.containers
            .iter()
            .filter(|(id, container)| {
                owners.get(&container.pid_ns).is_some_and(|owner| owner != *id && !sandbox(owner))
            })
            .map(|(id, _)| *id)
            .collect()
    }

    /// The map's values.
    pub(super) fn states(
        &self,
        walk: &Walk,
        mut key: impl FnMut(u32) -> Option<TaskKey>,
    ) -> Vec<(u64, layout::Cgroup)> {
        let mut states = Vec::with_capacity(walk.cgroups.len());
        for Found { id, parent, .. } in &walk.cgroups {
            let state = self.states.get(id).copied().unwrap_or(cgroup_state::HOST);
            let mut value = layout::Cgroup::new(*parent, 0, state);
            if state == cgroup_state::MEMBER {
                value.container = self.container_of.get(id).copied().unwrap_or(0);
            }
            if let Some(first) = self.pods.get(id) {
                (value.pod, value.first) = (1, *first);
            }
            if let Some(container) = self.containers.get(id) {
                value.init = container.init.and_then(&mut key).unwrap_or(TaskKey::NONE);
                value.mnt_ns = container.mnt_ns;
                value.pid_ns = container.pid_ns;
                value.host_root = u8::from(container.host_root);
            }
            states.push((*id, value));
        }
        states
    }

    /// The walk's cgroups, each with its container.
    pub(super) fn found(&self, walk: &Walk) -> Vec<Found> {
        walk.cgroups
            .iter()
            .map(|found| Found { container: self.container_of.get(&found.id).copied(), ..found.clone() })
            .collect()
    }
}

/// Children of every cgroup.
struct Subtrees {
    children: HashMap<u64, Vec<(u64, usize)>>,
}

impl Subtrees {
    fn of(walk: &Walk) -> Self {
        let mut children: HashMap<u64, Vec<(u64, usize)>> = HashMap::new();
        for (at, found) in walk.cgroups.iter().enumerate() {
            children.entry(found.parent).or_default().push((found.id, at));
        }
        Self { children }
    }

    fn children(&self, id: u64) -> &[(u64, usize)] {
        self.children.get(&id).map(Vec::as_slice).unwrap_or_default()
    }

    /// All processes in a cgroup and below it.
    fn processes<'a>(&self, id: u64, inside: &HashMap<u64, Vec<&'a Process>>) -> Vec<&'a Process> {
        let mut found = Vec::new();
        let mut todo = vec![id];
        while let Some(id) = todo.pop() {
            found.extend(inside.get(&id).into_iter().flatten().copied());
            todo.extend(self.children(id).iter().map(|(child, _)| *child));
        }
        found
    }

    fn child_named(&self, id: u64, name: &[u8], walk: &Walk) -> Option<u64> {
        self.children(id)
            .iter()
            .find(|(_, at)| {
                walk.cgroups
                    .get(*at)
                    .is_some_and(|found| found.path.rsplit(|c| *c == b'/').next() == Some(name))
            })
            .map(|(child, _)| *child)
    }
}

//! Cgroup id → container, fed by what the kernel side reports.
//!
//! A container that is gone stays known for a while, because its sessions' last events come late. Time is the
//! events' own: no clock here. Everything is bounded, and what is made inside a container (cgroups below it) can
//! never push another container out. Never says an empty string for "not known".

use std::collections::{HashMap, HashSet, VecDeque};

use podtrail_ebpf::rules;
use serde::{Deserialize, Serialize};

use super::cgroupfs::Found;
use super::name::{self, Runtime};
use crate::event::BootTime;
use crate::pods::Lookup;
use crate::session::record::{ContainerEnded, ContainerStarted};
use crate::state::{Changes, State, StateError, Table};

/// Deeper than this nobody looks for the container that a cgroup is below of.
const DEPTH_MAX: usize = 128;

/// What is known of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerInfo {
    /// the runtime's id; one made by hand has the last component of its path
    pub id: Option<String>,
    pub runtime: Option<Runtime>,
    pub cgroup_id: u64,
    /// in the host's tree, bytes as the kernel has them
    pub cgroup_path: Option<Vec<u8>>,
    pub pod_uid: Option<String>,
    /// what its runtime says of it
    pub metadata: Lookup,
}

/// What a directory keeps at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// how long a container that is gone stays known, nanoseconds
    pub grace_ns: u64,
    /// cgroups that are gone and still known
    pub gone: usize,
    /// cgroups outside containers, and containers
    pub cgroups: usize,
    /// cgroups below containers
    pub members: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { grace_ns: 300 * 1_000_000_000, gone: 4096, cgroups: 16_384, members: 16_384 }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Cgroup {
    parent: u64,
    /// `None`: below a container, or never told
    path: Option<Vec<u8>>,
    container: Option<ContainerInfo>,
    gone: Option<BootTime>,
}

/// Cgroup id → container.
#[derive(Debug, Default)]
pub struct Directory {
    limits: Limits,
    now: BootTime,
    cgroups: HashMap<u64, Cgroup>,
    /// cgroups below containers → the container's cgroup id
    members: HashMap<u64, u64>,
    /// in the order in which they went
    gone: VecDeque<(BootTime, u64)>,
    dropped: u64,
    /// may differ from what was saved
    changed: HashSet<u64>,
    changed_members: HashSet<u64>,
}

impl Directory {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// What changed since the last time; all there is, if `all`.
    pub fn save(&mut self, all: bool, out: &mut Changes) {
        if all {
            self.changed.extend(self.cgroups.keys());
            self.changed_members.extend(self.members.keys());
        }
        for id in self.changed.drain() {
            out.put(Table::CGROUPS, &id, self.cgroups.get(&id));
        }
        for id in self.changed_members.drain() {
            out.put(Table::MEMBERS, &id, self.members.get(&id));
        }
    }

    /// Instead of [`Self::save`], where nobody keeps what it saves.
    pub fn forget_changes(&mut self) {
        self.changed.clear();
        self.changed_members.clear();
    }

    /// The directory whose changes made this state; no more than there may be.
    pub fn restore(limits: Limits, state: &State) -> Result<Self, StateError> {
        let mut this = Self::new(limits);
        this.cgroups = Table::CGROUPS.rows(state)?.into_iter().take(limits.cgroups).collect();
        this.members = Table::MEMBERS.rows(state)?.into_iter().take(limits.members).collect();
        let gone = this.cgroups.iter().filter_map(|(id, cgroup)| Some((cgroup.gone?, *id)));
        let mut gone: Vec<(BootTime, u64)> = gone.collect();
        gone.sort_unstable();
        this.now = gone.last().map_or(BootTime(0), |(time, _)| *time);
        this.gone = gone.into();
        Ok(this)
    }

    /// A cgroup came. `container`: the container that it is or is below of, by the kernel side's word.
    pub fn created(&mut self, time: BootTime, id: u64, parent: u64, path: &[u8], container: Option<u64>) {
        self.advance(time);
        let container = container.filter(|container| *container != 0);
        let above = self.container_above(parent);
        match container.or(above) {
            Some(container) if container != id => self.add_member(id, container),
            _ => {
                let named = container == Some(id) || name::kind(path) == rules::Name::Container;
                self.add(id, parent, path, named);
            }
        }
    }

    /// A cgroup went.
    pub fn removed(&mut self, time: BootTime, id: u64) {
        self.advance(time);
        if self.members.remove(&id).is_some() {
            self.changed_members.insert(id);
        }
        if let Some(cgroup) = self.cgroups.get_mut(&id)
            && cgroup.gone.is_none()
        {
            cgroup.gone = Some(self.now);
            self.changed.insert(id);
            self.gone.push_back((self.now, id));
            self.expire();
        }
    }

    /// A container's init runs: from now on its cgroup is a container, whatever its name.
    pub fn started(&mut self, record: &ContainerStarted) {
        self.advance(record.time);
        self.make_container(record.cgroup_id);
    }

    /// A container's init is gone. Its cgroup is not, and sessions may still be in it.
    pub fn ended(&mut self, record: &ContainerEnded) {
        self.advance(record.time);
    }

    /// What was there before the agent, as [`super::recover()`] or a walk found it.
    pub fn seed(&mut self, time: BootTime, found: &[Found]) {
        for Found { id, parent, path, container } in found {
            // What the kernel side reported meanwhile is newer.
            if self.cgroups.get(id).is_some_and(|cgroup| cgroup.path.is_none()) {
                self.name(*id, *parent, path);
            } else if !self.cgroups.contains_key(id) && !self.members.contains_key(id) {
                self.created(time, *id, *parent, path, *container);
            }
            if *container == Some(*id) {
                self.make_container(*id);
            }
        }
    }

    /// The kernel side says that this cgroup is a container. False: there is nothing to say what it is called.
    pub fn confirm(&mut self, cgroup_id: u64) -> bool {
        if self.find(cgroup_id).is_none() && self.cgroups.contains_key(&cgroup_id) {
            self.make_container(cgroup_id);
        }
        self.find(cgroup_id).is_some_and(|container| container.cgroup_path.is_some())
    }

    /// The container that a cgroup is, or is below of. `None`: it is the host's, or nobody knows it.
    #[must_use]
    pub fn find(&self, cgroup_id: u64) -> Option<&ContainerInfo> {
        let container = self.container_above(cgroup_id)?;
        self.cgroups.get(&container)?.container.as_ref()
    }

    /// For those who learn more of a container later.
    pub fn find_mut(&mut self, cgroup_id: u64) -> Option<&mut ContainerInfo> {
        let container = self.container_above(cgroup_id)?;
        self.changed.insert(container);
        self.cgroups.get_mut(&container)?.container.as_mut()
    }

    /// Whether the container is known only because it went not long ago.
    #[must_use]
    pub fn is_gone(&self, cgroup_id: u64) -> bool {
        self.cgroups.get(&cgroup_id).is_some_and(|cgroup| cgroup.gone.is_some())
    }

    /// Containers, those that are gone but still known among them.
    pub fn containers(&self) -> impl Iterator<Item = &ContainerInfo> {
        self.cgroups.values().filter_map(|cgroup| cgroup.container.as_ref())
    }

    /// Cgroups that could not be kept, because too many are known.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn add(&mut self, id: u64, parent: u64, path: &[u8], is_container: bool) {
        if self.cgroups.len() >= self.limits.cgroups && !self.cgroups.contains_key(&id) {
            // Those that are gone make room first.
            let Some((_, oldest)) = self.gone.pop_front() else {
                self.dropped += 1;
                return;
            };
            self.forget(oldest);
        }
        let path = (!path.is_empty()).then(|| path.to_vec());
        let container = is_container.then(|| describe(id, path.as_deref()));
        self.changed.insert(id);
        self.cgroups.insert(id, Cgroup { parent, path, container, gone: None });
    }

    /// A cgroup that was known by its number only has a place and a name.
    fn name(&mut self, id: u64, parent: u64, path: &[u8]) {
        let Some(cgroup) = self.cgroups.get_mut(&id).filter(|_| !path.is_empty()) else { return };
        let before = cgroup.container.take();
        let is_container = before.is_some() || name::kind(path) == rules::Name::Container;
        let metadata = before.map(|info| info.metadata).unwrap_or_default();
        cgroup.container = is_container.then(|| ContainerInfo { metadata, ..describe(id, Some(path)) });
        cgroup.parent = parent;
        cgroup.path = Some(path.to_vec());
        self.changed.insert(id);
    }

    fn add_member(&mut self, id: u64, container: u64) {
        if !self.cgroups.contains_key(&container) {
            self.add(container, 0, &[], true);
        }
        if self.members.len() < self.limits.members || self.members.contains_key(&id) {
            self.changed_members.insert(id);
            self.members.insert(id, container);
        } else {
            self.dropped += 1;
        }
    }

    fn make_container(&mut self, id: u64) {
        match self.cgroups.get_mut(&id) {
            Some(cgroup) => {
                if cgroup.container.is_none() {
                    cgroup.container = Some(describe(id, cgroup.path.as_deref()));
                    self.changed.insert(id);
                }
            }
            None if self.members.contains_key(&id) => {}
            None => self.add(id, 0, &[], true),
        }
    }

    /// The outermost container among a cgroup and all above it.
    fn container_above(&self, id: u64) -> Option<u64> {
        let mut at = *self.members.get(&id).unwrap_or(&id);
        let mut found = None;
        for _ in 0..DEPTH_MAX {
            let Some(cgroup) = self.cgroups.get(&at) else { break };
            if cgroup.container.is_some() {
                found = Some(at);
            }
            at = cgroup.parent;
        }
        found
    }

    fn advance(&mut self, time: BootTime) {
        self.now = self.now.max(time);
        self.expire();
    }

    fn expire(&mut self) {
        while let Some((at, id)) = self.gone.front().copied() {
            if self.gone.len() <= self.limits.gone && self.now.since(at) <= self.limits.grace_ns {
                break;
            }
            self.gone.pop_front();
            self.forget(id);
        }
    }

    fn forget(&mut self, id: u64) {
        if self.cgroups.get(&id).is_none_or(|cgroup| cgroup.gone.is_none()) {
            return;
        }
        self.changed.insert(id);
        if self.cgroups.remove(&id).is_some_and(|cgroup| cgroup.container.is_some()) {
            let gone = self.members.extract_if(|_, container| *container == id);
            self.changed_members.extend(gone.map(|(member, _)| member));
        }
    }
}

fn describe(cgroup_id: u64, path: Option<&[u8]>) -> ContainerInfo {
    let name = path.and_then(name::of_container);
    let (id, runtime, pod_uid) = match name {
        Some(name::ContainerName { id, runtime, pod_uid, len: _ }) => (Some(id), runtime, pod_uid),
        None => (None, None, None),
    };
    ContainerInfo {
        id,
        runtime,
        cgroup_id,
        cgroup_path: path.map(<[u8]>::to_vec),
        pod_uid,
        metadata: Lookup::default(),
    }
}

#[cfg(test)]
mod tests;

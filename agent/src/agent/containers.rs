//! What is known of containers, kept up with the records that go by.
//!
//! A cgroup that nobody told of (its record did not fit into the ring) is looked for in the hierarchy itself, so that
//! its sessions have a container with an id; seldom enough that a tree of very many cgroups cannot hold up the agent.
//!
//! What the node's runtime says of a container is kept with it, for as long as the directory knows it; whoever comes
//! here never waits for it.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::{
    container::{ContainerInfo, Directory, Hierarchy, Owners, Runtime, Scan},
    convert::boot_now,
    pods::{Ask, Lookup, Missing, sessions::Known},
    probe::{CgroupCreated, RawRecord},
    session::record::{Lost, Record, class},
    state::Changes,
};

/// From one walk through the hierarchy to the next, at least.
const PAUSE: Duration = Duration::from_secs(1);
/// And that many times as long as a walk takes.
const SHARE: u32 = 20;
/// Cgroups that a walk did not find, remembered: they are gone, and their ids are not given again.
const MAX_ABSENT: usize = 1024;

/// Containers by their ids, remembered at most.
const MAX_IDS: usize = 32 * 1024;

/// The directory of cgroups, and who owns a namespace.
#[derive(Debug, Default)]
pub struct Containers {
    directory: Directory,
    /// `None`: nobody to ask
    owners: Option<Owners>,
    /// `None`: nothing to walk through
    hierarchy: Option<Hierarchy>,
    /// something is missing from the directory
    due: bool,
    /// no walk before this
    next: Option<Instant>,
    walks: u64,
    absent: VecDeque<u64>,
    /// there is a runtime to ask
    runtime: bool,
    /// to be asked of the runtime
    asks: Vec<Ask>,
    /// ids → cgroups, as they were when last looked for
    ids: HashMap<String, u64>,
}

/// How many containers there are, by what is known of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) known: usize,
    pub(super) pending: usize,
    pub(super) missing: usize,
}

impl Containers {
    #[must_use]
    pub fn new(directory: Directory, owners: Option<Owners>, hierarchy: Option<Hierarchy>) -> Self {
        Self { directory, owners, hierarchy, ..Self::default() }
    }

    /// For a look at all processes of this node; `None`: there is nobody to ask.
    pub(super) fn scan(&self) -> Option<Scan<'_>> {
        Some(self.owners.as_ref()?.scan(boot_now()))
    }

    /// With a runtime to ask: all containers are asked for from now on. `there`: it is.
    #[must_use]
    pub fn asks(mut self, there: bool) -> Self {
        // What an agent before asked for is nobody's question now.
        let pending = self.directory.containers().filter(|info| info.metadata == Lookup::Pending);
        for id in pending.map(|info| info.cgroup_id).collect::<Vec<_>>() {
            if let Some(info) = self.directory.find_mut(id) {
                info.metadata = Lookup::default();
            }
        }
        if there {
            self.runtime_is_there();
        }
        self
    }

    /// A runtime answers, maybe another one than before.
    pub(super) fn runtime_is_there(&mut self) {
        self.runtime = true;
        // Those that are asked for already will be answered.
        let unknown = self.directory.containers().filter(|info| matches!(info.metadata, Lookup::Missing(_)));
        let unknown: Vec<u64> = unknown.map(|info| info.cgroup_id).collect();
        for id in unknown {
            self.ask(id);
        }
    }

    /// What is to be asked of the runtime since the last call.
    pub(super) fn asked(&mut self) -> Vec<Ask> {
        std::mem::take(&mut self.asks)
    }

    /// What could not be asked, or was forgotten, is to be asked again.
    pub(super) fn ask_again(&mut self) {
        let pending = self.directory.containers().filter(|info| info.metadata == Lookup::Pending);
        self.asks.extend(pending.filter_map(ask));
    }

    /// The runtime answered. The container's cgroup, and what is known of it now; `None`: no cgroup is this container's.
    pub(super) fn answered(&mut self, id: &str, lookup: Lookup) -> Option<(u64, Lookup)> {
        let cgroup = self.by_id(id)?.cgroup_id;
        let gone = self.directory.is_gone(cgroup);
        let info = self.directory.find_mut(cgroup)?;
        if info.metadata.known().is_none() {
            info.metadata = match lookup {
                Lookup::Missing(Missing::NotFound) if gone => Lookup::Missing(Missing::Unavailable(
                    "it was gone before the runtime was asked".to_owned(),
                )),
                lookup => lookup,
            };
        }
        Some((cgroup, info.metadata.clone()))
    }

    pub(super) fn count(&self) -> Counted {
        let mut counted = Counted::default();
        for info in self.directory.containers() {
            match info.metadata {
                Lookup::Known(_) => counted.known += 1,
                Lookup::Pending => counted.pending += 1,
                Lookup::Missing(_) => counted.missing += 1,
            }
        }
        counted
    }

    /// All that are known.
    pub(super) fn all(&self) -> impl Iterator<Item = &ContainerInfo> {
        self.directory.containers()
    }

    /// A container that nobody asked for yet is asked for.
    fn meet(&mut self, cgroup_id: u64) {
        let unasked =
            |info: &ContainerInfo| info.metadata == Lookup::default() && info.cgroup_id == cgroup_id;
        if self.runtime && self.directory.find(cgroup_id).is_some_and(unasked) {
            self.ask(cgroup_id);
        }
    }

    fn ask(&mut self, cgroup_id: u64) {
        let Some(info) = self.directory.find_mut(cgroup_id) else { return };
        let ask = ask(info);
        info.metadata = if ask.is_some() { Lookup::Pending } else { Lookup::Missing(Missing::NotFound) };
        self.asks.extend(ask);
    }

    /// What changed since the last time; all there is, if `all`.
    pub(super) fn save(&mut self, all: bool, out: &mut Changes) {
        self.directory.save(all, out);
    }

    pub(super) fn forget_changes(&mut self) {
        self.directory.forget_changes();
    }

    /// Learns from a record, and puts the container in where the kernel side did not know it. Records about cgroups
    /// alone end here.
    pub fn pass(&mut self, record: RawRecord) -> Option<Record> {
        let mut record = match record {
            RawRecord::Session(record) => record,
            RawRecord::CgroupCreated(created) => {
                let CgroupCreated { time, id, parent, container, path } = created;
                self.directory.created(time, id, parent, &path, container);
                self.meet(id);
                return None;
            }
            RawRecord::SelfTest(_) => return None,
            RawRecord::CgroupRemoved { time, id } => {
                self.directory.removed(time, id);
                return None;
            }
        };
        let container = match &mut record {
            Record::ContainerStarted(started) => {
                self.directory.started(started);
                self.meet(started.cgroup_id);
                Some(started.cgroup_id)
            }
            Record::ContainerEnded(ended) => {
                self.directory.ended(ended);
                None
            }
            Record::Exec(exec) => {
                if exec.container.is_none() {
                    let (mnt, pid) = (exec.namespaces.mnt, exec.namespaces.pid);
                    exec.container =
                        self.owners.as_mut().and_then(|o| o.find(exec.time, mnt, pid, &self.directory));
                }
                exec.container
            }
            Record::Join(join) => {
                if join.container.is_none() {
                    let (mnt, pid) = (join.mnt_ns, join.pid_ns);
                    join.container =
                        self.owners.as_mut().and_then(|o| o.find(join.time, mnt, pid, &self.directory));
                }
                join.container
            }
            Record::ExecFailed(failed) => failed.container,
            Record::Enter(enter) => Some(enter.container),
            Record::Recovered(recovered) => Some(recovered.container),
            Record::ArgvChunk(_)
            | Record::Exit(_)
            | Record::Lost(_)
            | Record::Refused { .. }
            | Record::Agent { .. } => None,
        };
        if let Some(id) = container {
            self.want(id, Instant::now());
        }
        Some(record)
    }

    /// Records were lost.
    pub fn lost(&mut self, lost: &Lost) {
        self.due |= lost.is_of(class::CGROUP_CREATED);
    }

    /// Walks, if it is time to. To be called about once a second.
    pub fn tick(&mut self, now: Instant) {
        if self.due {
            self.walk(now);
        }
    }

    /// What is known of a container.
    #[must_use]
    pub fn find(&self, cgroup_id: u64) -> Option<&ContainerInfo> {
        self.directory.find(cgroup_id)
    }

    /// A record names this container: it must be known.
    fn want(&mut self, id: u64, now: Instant) {
        if self.directory.confirm(id) || self.absent.contains(&id) {
            return;
        }
        self.due = true;
        if self.walk(now) && !self.directory.confirm(id) {
            self.absent.push_front(id);
            self.absent.truncate(MAX_ABSENT);
        }
    }

    /// Goes through all cgroups there are. False: not now. The directory learns their names, and that is all: a cgroup
    /// that only looks like a container has no sessions unless the kernel side says so.
    fn walk(&mut self, now: Instant) -> bool {
        let Some(hierarchy) = &self.hierarchy else { return false };
        if self.next.is_some_and(|next| now < next) {
            return false;
        }
        let begun = Instant::now();
        let walk = hierarchy.walk();
        self.walks += 1;
        self.next = Some(now + PAUSE.max(begun.elapsed() * SHARE));
        match walk {
            Ok(walk) => {
                self.directory.seed(boot_now(), &walk.cgroups);
                let unasked = self.directory.containers().filter(|info| info.metadata == Lookup::default());
                for id in unasked.map(|info| info.cgroup_id).collect::<Vec<_>>() {
                    self.meet(id);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "some containers have no id: the records that name them were lost");
                return false;
            }
        }
        self.due = false;
        if let Some(owners) = &mut self.owners {
            owners.ask_again();
        }
        true
    }
}

impl Known for Containers {
    fn by_id(&mut self, id: &str) -> Option<&ContainerInfo> {
        let directory = &self.directory;
        let is = |cgroup: u64| directory.find(cgroup).is_some_and(|info| info.id.as_deref() == Some(id));
        let cgroup = match self.ids.get(id) {
            Some(cgroup) if is(*cgroup) => *cgroup,
            _ => {
                let all = directory.containers().filter_map(|info| Some((info.id.clone()?, info.cgroup_id)));
                self.ids = all.take(MAX_IDS).collect();
                *self.ids.get(id)?
            }
        };
        self.directory.find(cgroup)
    }
}

/// How to ask for it; `None`: no runtime with a CRI has it.
fn ask(info: &ContainerInfo) -> Option<Ask> {
    let id = info.id.as_ref()?;
    let by_cri = match info.runtime {
        None | Some(Runtime::Containerd | Runtime::CriO) => true,
        // Docker's are a kubelet's where cri-dockerd is.
        Some(Runtime::Docker) => info.pod_uid.is_some(),
        Some(Runtime::Podman | Runtime::Runc | Runtime::Crun) => false,
    };
    let usual = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    (by_cri && usual).then(|| Ask { id: id.clone(), in_pod: info.pod_uid.is_some(), now: false })
}

#[cfg(test)]
mod tests;
